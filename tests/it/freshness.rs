//! Which changes make stages run again.

use serde_json::json;

use crate::support::{MINI, Project, text};

const ALL: [&str; 7] = [
    "data",
    "ad",
    "vad@distribution=gaussian",
    "vad@distribution=uniform",
    "fit@distribution=gaussian",
    "fit@distribution=uniform",
    "report",
];

#[test]
fn second_run_finds_everything_cached() {
    let project = Project::new(MINI);
    let mut first = project.run(&[]).executed();
    first.sort();
    let mut all = ALL.map(str::to_owned).to_vec();
    all.sort();
    assert_eq!(first, all);
    let second = project.run(&[]);
    assert_eq!(second.executed(), [""; 0]);
    assert_eq!(second.cached().len(), ALL.len());
    assert_eq!(second.of_kind("stage-cached").count(), ALL.len(), "each is reported once");
    assert!(project.read("reports/mini.report.html").contains("<html"));
}

#[test]
fn edited_point_and_its_dependents_run_again_and_nothing_else() {
    let project = Project::new(MINI);
    project.run(&[]);
    project.edit("kl_weight = 0.5", "kl_weight = 0.25");
    let plan = project.plan(&[]);
    let vad = &plan["vad@distribution=gaussian"];
    assert_eq!(vad["state"], "miss");
    assert_eq!(vad["reason"]["code"], "parameter");
    assert_eq!(vad["reason"]["text"], "kl_weight 0.5 → 0.25");
    assert_eq!(plan["fit@distribution=gaussian"]["state"], "maybe");
    assert_eq!(plan["fit@distribution=uniform"]["state"], "hit");
    let again = project.run(&[]);
    assert_eq!(again.executed(), ["vad@distribution=gaussian", "fit@distribution=gaussian", "report"]);
    assert_eq!(again.cached().len(), 4);
}

#[test]
fn old_results_are_found_when_parameters_return_to_old_values() {
    let project = Project::new(MINI);
    project.run(&[]);
    let before = project.digests();
    project.run(&["-S", "stages.vad.at.\"distribution=gaussian\".kl_weight=0.25"]);
    let back = project.run(&[]);
    assert_eq!(back.executed(), [""; 0]);
    assert_eq!(project.digests(), before);
}

#[test]
fn reformatting_reruns_nothing() {
    let project = Project::new(MINI);
    project.run(&[]);
    // A different order of stages and fields, comments, white space, other spellings of the same numbers.
    let (head, stages) = MINI.split_once("[stages.data]").expect("a stage");
    let (data, rest) = stages.split_once("[stages.ad]").expect("a stage");
    let rest =
        rest.replace("kl_weight = 0.5", "kl_weight = 5e-1 # half").replace("latent_dim = 6", "latent_dim    =   0b110");
    let text = format!("# a comment\n{head}\n\n[stages.ad]{rest}\n[stages.data] # the data\n{data}");
    project.write("p.toml", &text.replace("train = 40\ntest = 20", "test = 2_0\ntrain = 4_0"));
    assert_eq!(project.run(&[]).executed(), [""; 0]);
}

/// `sorted` runs a script. `counted` reads its output.
const SCRIPTS: &str = r#"
[pipeline]
name = "scripts"

[stages.sorted]
kind = "command"
argv = ["sh", "sort.sh", "{outputs.lines}"]
outputs = { lines = "lines.txt" }

[stages.counted]
kind = "command"
inputs = { lines = "sorted" }
argv = ["sh", "-c", "wc -l < \"$1/lines.txt\" > \"$2\"", "count", "{inputs.lines}", "{outputs.count}"]
outputs = { count = "count.txt" }
"#;

#[test]
fn dependents_of_an_unchanged_result_do_not_run() {
    let project = Project::new(SCRIPTS);
    project.write("sort.sh", "printf 'b\\na\\n' | sort > \"$1\"\n");
    assert_eq!(project.run(&[]).executed(), ["sorted", "counted"]);
    project.write("sort.sh", "# comment\nprintf 'a\\nb\\n' > \"$1\"\n");
    let plan = project.plan(&[]);
    assert_eq!(plan["sorted"]["reason"]["code"], "file");
    assert_eq!(plan["counted"]["state"], "maybe");
    let again = project.run(&[]);
    assert_eq!((again.executed(), again.cached()), (vec!["sorted".into()], vec!["counted".into()]));
    project.write("sort.sh", "printf 'a\\nb\\nc\\n' > \"$1\"\n");
    assert_eq!(project.run(&[]).executed(), ["sorted", "counted"]);
}

#[test]
fn only_targets_and_their_inputs_run() {
    let project = Project::new(MINI);
    assert_eq!(
        project.run(&["fit@distribution=uniform"]).executed(),
        ["data", "vad@distribution=uniform", "fit@distribution=uniform"]
    );
    assert_eq!(project.run(&["fit@*"]).executed(), ["vad@distribution=gaussian", "fit@distribution=gaussian"]);
}

#[test]
fn force_and_rerun_execute_cached_points() {
    let project = Project::new(MINI);
    project.run(&["ad"]);
    let before = project.plan(&["ad"])["ad"]["key"].clone();
    let forced = project.run(&["ad", "-f"]);
    assert_eq!((forced.executed(), forced.cached()), (vec!["ad".into()], vec!["data".into()]));
    assert_eq!(forced.of_kind("resumed").count(), 0, "a forced training starts at the beginning");
    let rerun = project.run(&["ad", "-R", "data"]);
    assert_eq!((rerun.executed(), rerun.cached()), (vec!["data".into()], vec!["ad".into()]));
    assert_eq!(project.plan(&["ad"])["ad"]["key"], before);
}

#[test]
fn dry_run_lists_what_a_run_executes() {
    let project = Project::new(MINI);
    project.run(&["ad"]);
    project.edit(
        "latent_dim = 6\nchannels = [16, 12, 8, 8]\n\n[stages.vad]",
        "latent_dim = 5\nchannels = [16, 12, 8, 8]\n\n[stages.vad]",
    );
    let dry = project.vadpipe(["run", "p.toml", "-n", "--json"]);
    let plan = project.vadpipe(["plan", "p.toml", "--json"]);
    assert_eq!(dry.stdout, plan.stdout);
    let planned: Vec<_> = project.plan(&[]).into_iter().filter(|(_, s)| s["state"] != "hit").map(|(n, _)| n).collect();
    let mut executed = project.run(&[]).executed();
    executed.sort();
    assert_eq!(executed, planned);
}

#[test]
fn plan_check_exits_with_10_if_anything_would_run() {
    let project = Project::new(MINI);
    assert_eq!(project.vadpipe(["plan", "p.toml", "data", "--check"]).code, 10);
    project.run(&["data"]);
    assert_eq!(project.vadpipe(["plan", "p.toml", "data", "--check"]).code, 0);
}

#[test]
fn pipelines_share_results_with_the_same_key() {
    let project = Project::new(MINI);
    project.run(&["ad"]);
    project.write(
        "other.toml",
        &MINI
            .replace("name = \"mini\"", "name = \"other\"")
            .replace("stages.ad", "stages.renamed")
            .replace("\"ad\"", "\"renamed\""),
    );
    let output = project.vadpipe(["plan", "other.toml", "renamed", "--json"]);
    let plan: serde_json::Value = serde_json::from_str(&output.stdout).expect("JSON");
    assert!(plan["stages"].as_array().expect("stages").iter().all(|s| s["state"] == "hit"), "{plan}");
}

#[test]
fn stage_without_a_sweep_reuses_the_result_of_a_sweep_point() {
    let project = Project::new(MINI);
    project.run(&["vad@distribution=uniform"]);
    let swept = project.outputs(&["vad@distribution=uniform"]);
    let plain = MINI
        .replace("matrix = { distribution = [\"gaussian\", \"uniform\"] }\n", "")
        .replace("\"${matrix.distribution}\"", "\"uniform\"")
        .replace("[stages.vad.at.\"distribution=gaussian\"]\nkl_weight = 0.5\n", "")
        .replace("\"vad@*\", \"fit@*\"", "\"vad\", \"fit\"");
    project.write("p.toml", &plain.replace("name = \"mini\"", "name = \"plain\""));
    assert_eq!(project.run(&["vad"]).executed(), [""; 0]);
    assert_eq!(project.outputs(&["vad"]).into_values().collect::<Vec<_>>(), swept.into_values().collect::<Vec<_>>());
    let longer = project.run(&["vad", "-S", "params.epochs=5"]);
    assert_eq!(longer.of_kind("epoch").count(), 2, "the epochs of the other pipeline are reused");
}

#[test]
fn small_trainings_run_side_by_side_and_large_ones_alone() {
    let sweep =
        MINI.replace("epochs = 3", "epochs = 200").replace("checkpoint_seconds = 0", "checkpoint_seconds = 1000");
    // The positions of the events: the start of the second training and the last epoch of the first one.
    let order = |pipeline: &str| {
        let run = Project::new(pipeline).run(&["vad", "--threads", "2", "-j", "2"]);
        let vads = |event: &str, stage: &str| {
            let wanted = |e: &serde_json::Value| {
                e["event"] == event && e["stage"].as_str().is_some_and(|name| name.starts_with(stage))
            };
            run.events.iter().enumerate().filter(|(_, e)| wanted(e)).map(|(at, _)| at).collect::<Vec<_>>()
        };
        let started = vads("stage-started", "vad");
        let first = text(&run.events[started[0]]["stage"]);
        (started[1], *vads("epoch", &first).last().expect("an epoch"))
    };
    let (second, end) = order(&sweep);
    assert!(second < end, "both run at once: {second} {end}");
    // From 2²⁸ multiply-adds per step on, two threads are faster than one.
    let large = sweep.replace("[16, 12, 8, 8]", "[512, 512, 64, 8]").replace("epochs = 200", "epochs = 1");
    let large = large.replace("train = 40", "train = 64").replace("latent_dim", "batch = 64\nlatent_dim");
    let (second, end) = order(&large);
    assert!(second > end, "one after the other: {second} {end}");
}

#[test]
fn keys_depend_on_content_only() {
    // The same pipeline in another folder, at another time and with another cache has the same keys.
    let (a, b) = (Project::new(MINI), Project::new(MINI));
    a.run(&["ad", "vad"]);
    b.run(&["ad", "vad", "-j", "1", "--threads", "1"]);
    let keys = |project: &Project| {
        project.plan(&["ad", "vad"]).into_iter().map(|(n, s)| (n, text(&s["key"]))).collect::<Vec<_>>()
    };
    assert_eq!(keys(&a), keys(&b));
}

#[test]
fn one_and_two_threads_give_the_same_bytes() {
    let (one, two) = (Project::new(MINI), Project::new(MINI));
    one.run(&["--threads", "1", "-j", "1"]);
    two.run(&["--threads", "2"]);
    assert_eq!(one.digests(), two.digests());
}

#[test]
fn metrics_are_numbers() {
    let project = Project::new(MINI);
    project.edit("epochs = 3", "epochs = 12");
    project.run(&["ad"]);
    let output = project.vadpipe(["metrics", "p.toml", "ad", "data", "--json"]);
    let metrics: serde_json::Value = serde_json::from_str(&output.stdout).expect("JSON");
    assert_eq!(metrics["data"], json!({ "classes": 10.0, "test": 20.0, "train": 40.0 }));
    let (first, last) = (metrics["ad"]["loss_first"].as_f64(), metrics["ad"]["loss"].as_f64());
    assert!(last < first, "{metrics}");
}

#[test]
fn two_stages_with_the_same_key_run_once() {
    let project = Project::new(
        "[pipeline]\nname = \"p\"\n[stages.a]\nkind = \"load-data\"\nsource = \"synthetic\"\n\
         [stages.b]\nkind = \"load-data\"\nsource = \"synthetic\"\n",
    );
    let run = project.run(&["-j", "2", "--no-wait"]);
    assert_eq!((run.executed(), run.cached()), (vec!["a".into()], vec!["b".into()]));
}
