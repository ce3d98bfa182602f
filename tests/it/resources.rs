//! `resources`: what stages need of the machine that runs them.

use serde_json::Value;

use crate::support::{Project, Run, json, text};

/// A stage that notes that it runs, one that needs more than most machines have, and one that reads both.
const PIPELINE: &str = r#"
[pipeline]
name = "p"

[stages.small]
kind = "command"
argv = ["sh", "-c", "echo small > out"]
outputs = { out = "out" }

[stages.big]
kind = "command"
argv = ["sh", "-c", "echo big > out"]
outputs = { out = "out" }
resources = { memory = "900 GB", time = "2h" }

[stages.both]
kind = "command"
inputs = { small = "small", big = "big" }
argv = ["sh", "-c", "cat \"$0/out\" \"$1/out\" > out", "{inputs.small}", "{inputs.big}"]
outputs = { out = "out" }
"#;

fn worker(project: &Project, more: &[&str]) -> Run {
    let fixed = ["worker", "p.toml", "--store", "store", "--json", "--heartbeat", "0.2"];
    Run::of(project.vadpipe(fixed.iter().chain(more)))
}

fn keys(project: &Project) -> Vec<String> {
    let plan = project.vadpipe(["plan", "p.toml", "--json"]);
    let plan: Value = serde_json::from_str(&plan.stdout).expect("JSON");
    let stages = plan["stages"].as_array().expect("stages").iter();
    stages.filter_map(|stage| stage["key"].as_str().map(str::to_owned)).collect()
}

#[test]
fn resources_are_not_in_the_key() {
    let project = Project::new(PIPELINE);
    let before = keys(&project);
    project.edit("memory = \"900 GB\", time = \"2h\"", "cpus = 3, memory = \"1 GB\"");
    assert_eq!(keys(&project), before);
}

#[test]
fn stage_that_needs_more_than_the_machine_has_is_refused_before_anything_runs() {
    let project = Project::new(PIPELINE);
    for arguments in [&["run"][..], &["run", "-n"], &["run", "--on", "local:2"]] {
        let refused = project.vadpipe(arguments.iter().chain(&["p.toml"]));
        assert_eq!(refused.code, 2, "{}", refused.stderr);
        let message = "stage `big` needs 900 GB of memory, but";
        assert!(refused.stderr.contains(message) && refused.stderr.contains("p.toml:10:"), "{}", refused.stderr);
    }
    assert!(!project.vadpipe(["log"]).stdout.contains("run"));
    // Its result can be made elsewhere, and then nothing is refused.
    let run = project.run(&["--memory", "1 TB"]);
    assert_eq!(run.executed().len(), 3);
    assert_eq!(project.run(&[]).cached().len(), 3);
}

#[test]
fn workers_of_a_run_share_the_cores_and_the_memory() {
    let project = Project::new(PIPELINE);
    project.edit("memory = \"900 GB\"", "cpus = 2");
    let refused = project.vadpipe(["run", "p.toml", "--on", "local:2", "--threads", "1"]);
    assert_eq!(refused.code, 2, "{}", refused.stderr);
    let message = "stage `big` needs 2 CPUs, but a worker of `--on local:2` has 1 CPU";
    assert!(refused.stderr.contains(message), "{}", refused.stderr);
    // A run by itself gives it the cores that there are.
    assert_eq!(project.run(&["--threads", "1"]).executed().len(), 3);
}

#[test]
fn worker_leaves_a_stage_that_it_cannot_run_to_another_one() {
    let project = Project::new(PIPELINE);
    let small = worker(&project, &["--idle", "0.1"]);
    assert_eq!((small.output.code, small.executed()), (0, vec!["small".to_owned()]), "{}", small.output.stderr);
    let left: Vec<String> = small.of_kind("stage-left").map(|event| text(&event["lack"])).collect();
    assert_eq!(left, ["900 GB of memory"]);
    // It has the memory, but not the time.
    let short = worker(&project, &["--memory", "1 TB", "--until", "1h", "--idle", "0.1"]);
    assert_eq!((short.output.code, short.executed().len()), (0, 0), "{}", short.output.stderr);
    let left: Vec<String> = short.of_kind("stage-left").map(|event| text(&event["lack"])).collect();
    assert_eq!(left, ["2h of time"]);
    let large = worker(&project, &["--memory", "1 TB"]);
    assert_eq!(large.executed(), ["big", "both"]);
}

#[test]
fn worker_continues_with_the_result_of_a_stage_that_it_cannot_run() {
    let project = Project::new(PIPELINE);
    let arguments = ["worker", "p.toml", "--store", "store", "--json", "--heartbeat", "0.2", "--idle", "60"];
    let small = project.start(&arguments);
    crate::support::wait_for(&project.path("store/result"));
    let large = worker(&project, &["big", "--memory", "1 TB"]);
    assert_eq!(large.executed(), ["big"]);
    let small = Run::of(crate::support::CommandOutput::of(small.wait_with_output().expect("it ends")));
    assert_eq!(small.output.code, 0, "{}", small.output.stderr);
    assert_eq!(small.last()["status"], "ok");
    assert!(small.executed().contains(&"both".to_owned()), "{:?}", small.executed());
}

#[test]
fn memory_limits_the_stages_that_run_at_the_same_time() {
    let project = Project::new(
        r#"
[pipeline]
name = "p"

[matrix]
i = [1, 2, 3, 4]

[stages.one]
kind = "command"
argv = ["sh", "-c", "mkdir \"$0/signals/alone\" && sleep 0.05 && rmdir \"$0/signals/alone\" && echo ${matrix.i} > out", "{base}"]
outputs = { out = "out" }
resources = { memory = "5 GB" }
"#,
    );
    project.write("signals/.keep", "");
    let run = project.run(&["-j", "4", "--memory", "9 GB"]);
    assert_eq!(run.executed().len(), 4);
}

#[test]
fn errors_in_resources_have_their_places() {
    let project = Project::new(PIPELINE);
    let errors = |resources: &str| {
        project.write("p.toml", &PIPELINE.replace("{ memory = \"900 GB\", time = \"2h\" }", resources));
        let output = project.vadpipe(["run", "p.toml"]);
        assert_eq!(output.code, 2, "{}", output.stderr);
        output.stderr
    };
    insta::assert_snapshot!(errors("4"), @r#"
    error: `resources` must be a table, not an integer
      --> p.toml:14:13
       |
    14 | resources = 4
       |             ^
       |
       = help: resources = { cpus = 4, memory = "8 GB", gpus = 1, time = "2h" }

    1 error in the pipeline
    "#);
    insta::assert_snapshot!(errors("{ cpu = 4 }"), @r#"
    error: there is no resource `cpu`
      --> p.toml:14:15
       |
    14 | resources = { cpu = 4 }
       |               ^^^
       |
       = help: did you mean `cpus`?

    1 error in the pipeline
    "#);
    insta::assert_snapshot!(errors("{ cpus = 0, memory = 8, time = \"long\" }"), @r#"
    error: `cpus` must be an integer from 1, not 0
      --> p.toml:14:22
       |
    14 | resources = { cpus = 0, memory = 8, time = "long" }
       |                      ^
       |
       = help: resources = { cpus = 4, memory = "8 GB", gpus = 1, time = "2h" }

    error: `memory` must be a string, not 8
      --> p.toml:14:34
       |
    14 | resources = { cpus = 0, memory = 8, time = "long" }
       |                                  ^
       |
       = help: resources = { cpus = 4, memory = "8 GB", gpus = 1, time = "2h" }

    error: a time must be written as `90s`, `50m` or `1h30m`, not "long"
      --> p.toml:14:44
       |
    14 | resources = { cpus = 0, memory = 8, time = "long" }
       |                                            ^^^^^^
       |
       = help: resources = { cpus = 4, memory = "8 GB", gpus = 1, time = "2h" }

    3 errors in the pipeline
    "#);
    insta::assert_snapshot!(errors("{ memory = \"8\" }"), @r#"
    error: memory must be a number with a unit, such as `8 GB` or `512 MiB`, not "8"
      --> p.toml:14:24
       |
    14 | resources = { memory = "8" }
       |                        ^^^
       |
       = help: resources = { cpus = 4, memory = "8 GB", gpus = 1, time = "2h" }

    1 error in the pipeline
    "#);
    insta::assert_snapshot!(errors("{ gpus = 1 }\ngpus = 1"), @r#"
    error: `gpus` is given twice: beside `resources` and in it
      --> p.toml:15:1
       |
    15 | gpus = 1
       | ^^^^
       |
       = help: remove one of them

    1 error in the pipeline
    "#);
}

#[test]
fn configuration_has_resources_for_stages_that_do_not_say_what_they_need() {
    let project = Project::new(PIPELINE);
    project.edit("resources = { memory = \"900 GB\", time = \"2h\" }", "");
    project.write("config.toml", "[resources]\nmemory = \"900 GB\"\n");
    let config = project.path("config.toml");
    let run = |arguments: &[&str]| {
        let mut command = project.command(arguments);
        command.env("VADPIPE_CONFIG", &config);
        crate::support::CommandOutput::of(command.output().expect("it runs"))
    };
    let refused = run(&["run", "p.toml"]);
    assert_eq!(refused.code, 2);
    assert!(refused.stderr.contains("stage `small` needs 900 GB of memory"), "{}", refused.stderr);
    assert!(run(&["config"]).stdout.contains("resources.memory   900 GB"));
    project.write("config.toml", "[engine.slurm]\npartition = \"gpu\"\nworkers = 4\n");
    assert!(run(&["config"]).stdout.contains("engine.slurm.partition   \"gpu\"\nengine.slurm.workers   4"));
    project.write("config.toml", "[engine.slurm]\npartitoin = \"gpu\"\n");
    let wrong = run(&["config"]);
    assert_eq!(wrong.code, 2);
    assert!(wrong.stderr.contains("config.toml: [engine.slurm]: unknown field `partitoin`"), "{}", wrong.stderr);
    project.write("config.toml", "[resources]\nmemory = 900\n");
    let wrong = run(&["run", "p.toml"]);
    assert_eq!(wrong.code, 2);
    assert!(wrong.stderr.contains("line 2, column 10"), "{}", wrong.stderr);
}

#[test]
fn cpu_time_and_memory_of_stages_are_kept_and_stand_in_the_report() {
    let project = Project::new(
        r#"
[pipeline]
name = "p"

[stages.hog]
kind = "command"
argv = ["sh", "-c", "x=$(head -c 60000000 /dev/zero | tr '\\0' a); echo $${#x} > out"]
outputs = { out = "out" }

[stages.report]
kind = "report"
inputs = { hog = "hog" }
"#,
    );
    project.run(&[]);
    let usage = |stage: &str| {
        let shown = json(&project.vadpipe(["show", "p.toml", stage, "--json"]));
        shown[stage]["provenance"]["usage"].clone()
    };
    let hog = usage("hog");
    let (seconds, memory) = (hog["cpu_seconds"].as_f64().expect("a time"), hog["peak_memory"].as_u64().expect("bytes"));
    assert!(seconds > 0.01, "{hog}");
    assert!((60_000_000..2_000_000_000).contains(&memory), "{hog}");
    let report = usage("report");
    assert!(report["cpu_seconds"].as_f64().is_some_and(|seconds| seconds > 0.0), "it ran alone: {report}");
    assert!(report["peak_memory"].is_null(), "it has no process of its own");
    let page = project.read("reports/p.report.html");
    for column in ["CPU time", "memory"] {
        assert!(page.contains(&format!(">{column}<")), "{column}");
    }
}
