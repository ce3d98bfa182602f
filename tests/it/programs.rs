//! Pipelines of a user's own programs.

use crate::support::{Project, wait_for};

/// A stage that runs `work.sh`. The script writes `first`, waits for `signals/go`, and writes `last`.
fn project(more: &str) -> Project {
    let project = Project::new(&format!(
        "[pipeline]\nname = \"p\"\n[stages.work]\nkind = \"command\"\nargv = [\"sh\", \"work.sh\", \"{{outputs.out}}\"]\n\
         outputs = {{ out = \"out.txt\" }}\n{more}"
    ));
    std::fs::create_dir(project.path("signals")).expect("a folder");
    project.write("work.sh", &script("one"));
    project
}

fn script(word: &str) -> String {
    format!(
        "here=$(dirname \"$0\")\ntouch \"$here/signals/started\"\nwhile ! test -e \"$here/signals/go\"; do sleep 0.01; done\n\
         echo {word} > \"$1\"\n"
    )
}

#[test]
fn edit_while_a_program_runs_changes_only_the_next_run() {
    let project = project("");
    let run = project.start(&["run", "p.toml", "--json"]);
    wait_for(&project.path("signals/started"));
    project.write("work.sh", &script("two"));
    project.write("signals/go", "");
    let output = run.wait_with_output().expect("it ends");
    assert!(output.status.success(), "{output:?}");
    let exported = |folder: &str| {
        project.vadpipe(["export", "p.toml", "work", "--to", folder]);
        project.read(&format!("{folder}/work/out.txt"))
    };
    assert_eq!(project.plan(&[])["work"]["reason"]["text"], "file work.sh changed");
    assert_eq!(project.run(&[]).executed(), ["work"], "the edited script runs");
    assert_eq!(exported("after"), "two\n");
    project.write("work.sh", &script("one"));
    assert_eq!(project.run(&[]).executed(), [""; 0], "the first result was kept");
    assert_eq!(exported("before"), "one\n");
}

#[test]
fn program_finds_its_modules_and_its_data_next_to_itself() {
    let project = Project::new(
        "[pipeline]\nname = \"p\"\n[stages.work]\nkind = \"command\"\n\
         argv = [\"sh\", \"scripts/work.sh\", \"{outputs.out}\", \"{base}/data\"]\noutputs = { out = \"out.txt\" }\n",
    );
    project.write(
        "scripts/work.sh",
        ". \"$(dirname \"$0\")/../lib/words.sh\"\necho $word $(find $2 -name '*.txt' | wc -l) > $1\n",
    );
    project.write("lib/words.sh", "word=hello\n");
    project.write("data/a/1.txt", "");
    project.write("data/2.txt", "");
    project.run(&[]);
    project.vadpipe(["export", "p.toml", "--to", "out"]);
    assert_eq!(project.read("out/work/out.txt"), "hello 2\n");
}

#[test]
fn metrics_that_are_not_finite_are_recorded_and_shown() {
    let stage = |name: &str, metrics: &str| {
        format!(
            "[stages.{name}]\nkind = \"command\"\nshell = true\nargv = ['echo \"$1\" > {{metrics}}', '{metrics}']\n"
        )
    };
    let pipeline = ["[pipeline]\nname = \"p\"\n".to_owned(), stage("a", r#"{"loss": NaN, "best": 0.5}"#)];
    let project =
        Project::new(&(pipeline.concat() + &stage("b", r#"{"loss": -Infinity}"#) + &stage("c", r#"{"loss": 2}"#)));
    let run = project.run(&["-j", "1"]);
    let metrics: Vec<_> = run.of_kind("stage-finished").map(|event| event["metrics"].to_string()).collect();
    assert_eq!(metrics, [r#"{"best":0.5,"loss":"nan"}"#, r#"{"loss":"-inf"}"#, r#"{"loss":2.0}"#]);
    assert_eq!(project.run(&[]).executed(), [""; 0]);
    let output = project.vadpipe(["metrics", "p.toml", "--json"]).stdout;
    assert_eq!(
        output.trim_end(),
        r#"{"a":{"best":0.5,"loss":null},"b":{"loss":null},"c":{"loss":2.0},"nonfinite":{"a":{"loss":"nan"},"b":{"loss":"-inf"}}}"#
    );
    insta::assert_snapshot!(project.vadpipe(["metrics", "p.toml", "--csv", "--sort", "-loss"]).stdout, @r"
    stage,best,loss
    c,,2
    b,,-inf
    a,0.5,NaN
    ");
    let listed = |condition: &str| {
        let table = project.vadpipe(["metrics", "p.toml", "--csv", "--where", condition]).stdout;
        table.lines().skip(1).filter_map(|line| line.split(',').next().map(str::to_owned)).collect::<Vec<_>>()
    };
    assert_eq!(listed("loss<3"), ["b", "c"]);
    assert_eq!(listed("loss>-3"), ["c"]);
    assert_eq!(project.vadpipe(["verify", "p.toml"]).code, 0, "NaN is equal to itself");
}

#[test]
fn numbers_the_seed_and_the_device_are_words_of_argv() {
    let project = Project::new(
        "[pipeline]\nname = \"p\"\nseed = 7\n[matrix]\nlr = [0.001, 1e-5]\n[stages.work]\nkind = \"command\"\n\
         argv = [\"sh\", \"-c\", \"echo $0 $1 $2 $3 > out.txt\", \"${matrix.lr}\", 3, \"s{seed}\", \"{device}\"]\n\
         outputs = { out = \"out.txt\" }\n",
    );
    project.run(&[]);
    project.vadpipe(["export", "p.toml", "--to", "out"]);
    assert_eq!(project.read("out/work@lr=0.001/out.txt"), "0.001 3 s7 cpu\n");
    assert_eq!(project.read("out/work@lr=1e-5/out.txt"), "1e-5 3 s7 cpu\n");
    let explained = project.vadpipe(["explain", "p.toml", "work@lr=0.001"]).stdout;
    assert!(explained.contains("  seed        7\n"), "{explained}");
    assert_eq!(project.run(&["-S", "pipeline.seed=8"]).executed().len(), 2, "a seed in argv is in the key");
}

#[test]
fn variables_of_pass_env_reach_the_program_but_not_the_key() {
    let project = Project::new(
        "[pipeline]\nname = \"p\"\n[stages.work]\nkind = \"command\"\npass_env = [\"CARD\"]\n\
         argv = [\"sh\", \"-c\", \"echo $CARD > out.txt\"]\noutputs = { out = \"out.txt\" }\n",
    );
    let executed = |card: &str| {
        let output = project.command(["run", "p.toml", "--json"]).env("CARD", card).output().expect("it runs");
        assert!(output.status.success(), "{output:?}");
        String::from_utf8_lossy(&output.stdout).contains("\"executed\":[\"work\"]")
    };
    assert!(executed("1"));
    assert!(!executed("0"), "another card runs nothing again");
    project.vadpipe(["export", "p.toml", "--to", "out"]);
    assert_eq!(project.read("out/work/out.txt"), "1\n");
}

#[test]
fn missing_script_and_misspelled_placeholder_are_found_by_plan() {
    let plan = |argv: &str| {
        let project =
            Project::new(&format!("[pipeline]\nname = \"p\"\n[stages.work]\nkind = \"command\"\nargv = {argv}\n"));
        let output = project.vadpipe(["plan", "p.toml"]);
        (output.code, output.stderr.replace(&project.path("").display().to_string(), "PROJECT/"))
    };
    let (code, error) = plan(r#"["python3.12", "trian.py", "--verbose"]"#);
    assert_eq!(code, 2);
    insta::assert_snapshot!(error, @r"
    error: stage `work`: `argv` names the script `trian.py`, which does not exist
     --> p.toml:3:9
      |
    3 | [stages.work]
      |         ^^^^
      |
      = help: looked for PROJECT/trian.py

    1 error in the pipeline
    ");
    let (code, error) = plan(r#"["echo", "--metrics={metric}"]"#);
    assert_eq!(code, 2);
    insta::assert_snapshot!(error, @r#"
    error: `argv` contains `{metric}`, which is not a placeholder
     --> p.toml:5:8
      |
    5 | argv = ["echo", "--metrics={metric}"]
      |        ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
      |
      = help: did you mean `{metrics}`?

    1 error in the pipeline
    "#);
    for argv in [
        r#"["python3", "-c", "print(f'{metric}')"]"#,
        r#"["sh", "-c", "echo $${seeds} $${seed}"]"#,
        r#"["awk", "{print}"]"#,
        r#"["sh", "{base}/made/later.sh"]"#,
    ] {
        assert_eq!(plan(argv).0, 0, "{argv}");
    }
}

#[test]
fn metrics_over_seeds_are_means_with_standard_deviations() {
    let project = Project::new(
        r#"
[pipeline]
name = "p"

[matrix]
lr = [0.1, 1]
seed = [1, 2, 4]

[stages.net]
kind = "command"
argv = ["sh", "-c", 'echo "{\"loss\": $0$1}" > {metrics}', "${matrix.seed}", "${matrix.lr}"]
"#,
    );
    project.run(&[]);
    let table = |more: &[&str]| project.vadpipe(["metrics", "p.toml"].iter().chain(more)).stdout;
    insta::assert_snapshot!(table(&["--over", "seed", "--sort", "-lr"]), @r"
    stage  lr   n  loss
    net    1    3  24.3333 ± 15.2753
    net    0.1  3  23.4333 ± 15.2753
    ");
    insta::assert_snapshot!(table(&["--group-by", "seed", "--where", "lr=1", "--csv"]), @r"
    stage,seed,n,loss,loss.std
    net,1,1,11,
    net,2,1,21,
    net,4,1,41,
    ");
    insta::assert_snapshot!(table(&["--over", "seed", "--where", "lr=1", "--md"]), @r"
    | stage | lr | n | loss |
    | --- | ---: | ---: | ---: |
    | net | 1 | 3 | 24.3333 ± 15.2753 |
    ");
    insta::assert_snapshot!(table(&["--over", "seed,lr", "--json"]), @r#"{"groups":[{"axes":{},"metrics":{"loss":{"mean":23.883333333333336,"n":6,"std":13.671491018417365}},"points":6,"stage":"net"}]}"#);
    let wrong = project.vadpipe(["metrics", "p.toml", "--over", "sed"]);
    assert_eq!((wrong.code, wrong.stdout.as_str()), (2, ""));
    assert!(wrong.stderr.contains("did you mean `seed`?"), "{}", wrong.stderr);
}
