//! What `verify` finds is recorded, and shown where the stage is.

use serde_json::{Value, json};

use crate::support::{MINI, Project, json};

const PIPELINE: &str = r#"
[pipeline]
name = "p"
seed = 3

[stages.net]
kind = "train-command"
argv = ["python3", "train.py"]
segment_epochs = 10
epochs = 40
keep_every = 10

[stages.net.epoch]
lr = 0.05

[stages.report]
kind = "report"
inputs = { shown = ["net"] }
"#;

const PROGRAM: &str = include_str!("warm/train.py");

/// A project that trains with this program. `None` without Python.
fn project(program: &str) -> Option<Project> {
    Project::with_script(PIPELINE, program)
}

/// The program with an edit.
fn with(from: &str, to: &str) -> String {
    assert!(PROGRAM.contains(from), "{from}");
    PROGRAM.replace(from, to)
}

/// Does not restore the random generator.
fn incomplete() -> String {
    with("    generator.setstate((version, tuple(internal), gauss))\n", "")
}

/// A random generator of the system.
fn noisy() -> String {
    with("(weight - 0.5) +", "(weight - 0.5) + int.from_bytes(os.urandom(2), 'little') * 1e-9 +")
}

/// The verdict about `net` in the JSON of these commands.
fn recorded(project: &Project) -> Value {
    let plan = project.plan(&[])["net"]["verdict"].clone();
    let of = |command: &str| json(&project.vadpipe([command, "p.toml", "net", "--json"]))["stages"].clone();
    let net = |stages: Value| {
        let stages = stages.as_array().expect("stages").clone();
        stages.into_iter().find(|stage| stage["name"] == "net").expect("net")["verdict"].clone()
    };
    assert_eq!(net(of("explain")), plan);
    assert_eq!(net(of("status")), plan);
    plan
}

/// Text without the breaks of lines and runs of spaces.
fn flat(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[test]
fn verdict_of_an_exact_training_is_shown_and_belongs_to_its_chain() {
    let Some(project) = project(PROGRAM) else { return };
    project.run(&[]);
    let before = (project.digests(), project.plan(&[])["net"]["key"].clone());
    assert_eq!(recorded(&project), Value::Null);
    assert_eq!(project.vadpipe(["verify", "p.toml", "net"]).code, 0);
    assert_eq!((project.digests(), project.plan(&[])["net"]["key"].clone()), before);
    let verdict = recorded(&project);
    assert_eq!((&verdict["finding"], &verdict["epochs"]), (&json!("exact"), &json!(40)));
    assert_eq!(verdict["pairs"], json!([{ "from": 0, "to": 20 }]));
    let plan = project.vadpipe(["plan", "p.toml"]).stdout;
    assert!(plan.lines().any(|line| line.contains("net") && line.ends_with("  verify: exact")), "{plan}");
    let explained = flat(&project.vadpipe(["explain", "p.toml", "net"]).stdout);
    let checked = "verify exact checked all 40 epochs trained again, and 1 to 20 in one process and in two, ";
    assert!(explained.contains(checked), "{explained}");
    assert!(project.vadpipe(["status", "p.toml"]).stdout.contains("verify: 1 stage checked: 1 exact\n"));
    project.run(&[]);
    let page = project.read("reports/p.report.html");
    assert!(
        page.contains(
            "<span title=\"all 40 epochs trained again, and 1 to 20 in one process and in two\">exact</span>"
        )
    );
    // A longer training has the same first states.
    project.edit("epochs = 40", "epochs = 60");
    let plan = project.vadpipe(["plan", "p.toml"]).stdout;
    assert!(plan.contains("  verify: exact up to epoch 40"), "{plan}");
    // Another chain has none, and neither has a program whose files changed.
    project.edit("lr = 0.05", "lr = 0.04");
    assert_eq!(recorded(&project), Value::Null);
    project.edit("lr = 0.04", "lr = 0.05");
    assert_ne!(recorded(&project), Value::Null);
}

#[test]
fn verdict_counts_only_with_the_files_that_the_program_had_read() {
    let Some(project) = project(&format!("import helper\n{PROGRAM}")) else { return };
    project.write("helper.py", "x = 1\n");
    project.run(&[]);
    assert_eq!(project.vadpipe(["verify", "p.toml", "net"]).code, 0);
    assert_ne!(recorded(&project), Value::Null);
    project.write("helper.py", "x = 2\n");
    assert_eq!(recorded(&project), Value::Null);
    project.write("helper.py", "x = 1\n");
    assert_ne!(recorded(&project), Value::Null);
}

#[test]
fn program_that_is_not_reproducible_is_shown_with_tensor_epoch_and_size() {
    let Some(project) = project(&noisy()) else { return };
    project.run(&[]);
    assert_eq!(project.vadpipe(["verify", "p.toml", "net"]).code, 3);
    let verdict = recorded(&project);
    assert_eq!((&verdict["finding"], &verdict["epoch"]), (&json!("not-reproducible"), &json!(1)));
    assert_eq!(verdict["difference"]["name"], "state/model.safetensors: momentum");
    assert_eq!(verdict["difference"]["differing"], 4);
    assert!(verdict["difference"]["max_abs"].as_f64().expect("a number") > 0.0);
    let found = "not reproducible from epoch 1 on: tensor state/model.safetensors: momentum differs in 4 of 4 elements";
    for command in ["explain", "status"] {
        let text = flat(&project.vadpipe([command, "p.toml", "net"]).stdout);
        assert!(text.contains(found), "{command}: {text}");
    }
    assert!(project.vadpipe(["plan", "p.toml"]).stdout.contains("  verify: not reproducible"));
    project.run(&[]);
    assert!(project.read("reports/p.report.html").contains("not reproducible from epoch 1 on"));
}

#[test]
fn incomplete_state_is_harmless_unless_the_training_is_warm() {
    let Some(project) = project(&incomplete()) else { return };
    project.run(&[]);
    assert_eq!(project.vadpipe(["verify", "p.toml", "net"]).code, 0);
    assert_eq!(recorded(&project)["finding"], "state-incomplete");
    let explained = flat(&project.vadpipe(["explain", "p.toml", "net"]).stdout);
    let meaning = "meaning the result depends on `segment_epochs`, but not on interruptions";
    assert!(explained.contains(meaning), "{explained}");
    project.edit("epochs = 40", "warm = true\nepochs = 40");
    project.run(&[]);
    let verify = project.vadpipe(["verify", "p.toml", "net"]);
    let text = flat(&verify.stderr);
    assert_eq!(verify.code, 3, "{text}");
    assert!(verify.stdout.starts_with("same "), "one process gives the same bytes twice: {}", verify.stdout);
    let incomplete = "the state of `net` is incomplete: if two processes train the first 20 epochs instead of one, tensor \
                      state/model.safetensors: momentum differs in 4 of 4 elements";
    assert!(text.contains(incomplete), "{text}");
    assert!(text.contains("So its result depends on where the training was interrupted or extended"), "{text}");
    assert_eq!(recorded(&project)["warm"], true);
    let explained = flat(&project.vadpipe(["explain", "p.toml", "net"]).stdout);
    assert!(explained.contains("the result depends on where the training was interrupted or extended"), "{explained}");
}

#[test]
fn warm_training_that_was_extended_and_differs_has_an_incomplete_state() {
    let Some(project) = project(&incomplete()) else { return };
    project.edit("epochs = 40", "warm = true\nepochs = 20");
    project.run(&[]);
    project.edit("epochs = 20", "epochs = 40");
    project.run(&[]);
    let verify = project.vadpipe(["verify", "p.toml", "net"]);
    assert_eq!(verify.code, 3, "{}{}", verify.stdout, verify.stderr);
    let verdict = recorded(&project);
    assert_eq!((&verdict["finding"], &verdict["epoch"]), (&json!("state-incomplete"), &json!(21)));
    // The same is found in stretches.
    let sampled = project.vadpipe(["verify", "p.toml", "net", "--sample", "all"]);
    assert_eq!(sampled.code, 3, "{}{}", sampled.stdout, sampled.stderr);
    assert_eq!(recorded(&project)["finding"], "state-incomplete");
    // A program that is not reproducible is not mistaken for that.
    project.write("train.py", &noisy());
    project.run(&[]);
    assert_eq!(project.vadpipe(["verify", "p.toml", "net"]).code, 3);
    assert_eq!(recorded(&project)["finding"], "not-reproducible");
}

#[test]
fn complete_warm_training_is_exact() {
    let Some(project) = project(PROGRAM) else { return };
    project.edit("epochs = 40", "warm = true\nepochs = 20");
    project.run(&[]);
    project.edit("epochs = 20", "epochs = 40");
    project.run(&[]);
    for sample in [&["--sample", "all"][..], &[]] {
        let verify = project.vadpipe(["verify", "p.toml", "net"].iter().chain(sample));
        assert_eq!(verify.code, 0, "{}{}", verify.stdout, verify.stderr);
        assert_eq!(recorded(&project)["finding"], "exact");
    }
}

#[test]
fn sample_compares_one_process_with_two_at_each_stretch() {
    // The scheduler takes its first step after epoch 25, and is not in the state.
    let rate = "    lr = next(part[\"values\"][\"lr\"] for part in values[\"epoch\"] if part[\"from\"] <= epoch < part[\"to\"])\n";
    let late = with(rate, &format!("{rate}    lr *= 0.5 if epoch > 25 and START < 20 else 1\n"));
    let Some(project) = project(&late) else { return };
    project.run(&[]);
    assert_eq!(project.vadpipe(["verify", "p.toml", "net"]).code, 0);
    assert_eq!(recorded(&project)["finding"], "exact", "the first two segments are");
    let sampled = project.vadpipe(["verify", "p.toml", "net", "--sample", "all", "--json"]);
    let stretches = json(&sampled)["stages"][0]["sampled"]["stretches"].clone();
    let pairs: Vec<_> = stretches.as_array().expect("stretches").iter().map(|s| s["pair"].clone()).collect();
    let pair = |from: u64, to: u64| json!({ "from": from, "to": to });
    assert_eq!(pairs, [Value::Null, pair(0, 20), pair(10, 30), pair(20, 40)]);
    let incomplete = stretches[2]["incomplete"]["name"].clone();
    assert_eq!(incomplete, "state/model.safetensors: momentum", "{stretches}");
    let verdict = recorded(&project);
    assert_eq!(verdict["finding"], "state-incomplete", "it is not hidden by the check of the whole");
    assert_eq!(verdict["pairs"], json!([pair(0, 20), pair(10, 30), pair(20, 40)]));
    let status = flat(&project.vadpipe(["status", "p.toml"]).stdout);
    assert!(status.contains("net: state incomplete: tensor state/model.safetensors: momentum"), "{status}");
    // With two segments between stored states, the first of them is the start.
    project.edit("keep_every = 10", "keep_every = 20");
    project.edit("lr = 0.05", "lr = 0.04");
    project.run(&[]);
    let sampled = project.vadpipe(["verify", "p.toml", "net", "--sample", "all", "--json"]);
    let stretches = json(&sampled)["stages"][0]["sampled"]["stretches"].clone();
    let pairs: Vec<_> = stretches.as_array().expect("stretches").iter().map(|s| s["pair"].clone()).collect();
    assert_eq!(pairs, [pair(0, 20), pair(20, 40)]);
}

#[test]
fn verdicts_of_other_stages_are_recorded_and_go_with_their_results() {
    let project = Project::new(MINI);
    project.run(&["ad"]);
    assert_eq!(project.vadpipe(["verify", "p.toml", "data", "ad"]).code, 0);
    let plan = project.plan(&[]);
    assert_eq!(plan["data"]["verdict"]["finding"], "exact");
    assert_eq!(plan["data"]["verdict"]["epochs"], Value::Null);
    assert_eq!(plan["ad"]["verdict"]["epochs"], 3);
    assert_eq!(plan["report"]["verdict"], Value::Null);
    let files = || std::fs::read_dir(project.path("cache/verdicts")).expect("a folder").count();
    assert_eq!(files(), 2);
    assert_eq!(project.vadpipe(["gc"]).code, 0);
    assert_eq!(files(), 2, "the results are kept");
    project.edit("seed = 7", "seed = 8");
    project.run(&["ad"]);
    assert_eq!(project.vadpipe(["gc", "--keep-runs", "1"]).code, 0);
    assert_eq!(project.plan(&[])["ad"]["verdict"], Value::Null);
    assert!(files() < 2, "the verdict goes with its result");
}
