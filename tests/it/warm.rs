//! Trainings whose program is warm: one process trains to the end and saves a state after each segment.

use std::path::Path;
use std::time::{Duration, Instant};

use crate::support::{Project, json};
use crate::training::run_pruned_sweep;

const PIPELINE: &str = r#"
[pipeline]
name = "p"
seed = 3

[stages.net]
kind = "train-command"
argv = ["python3", "train.py"]
segment_epochs = 10
warm = true
epochs = 40

[stages.net.epoch]
lr = 0.05
"#;

const PROGRAM: &str = include_str!("warm/train.py");

/// A project that trains with the warm program. `None` without Python.
fn project() -> Option<Project> {
    Project::with_script(PIPELINE, PROGRAM)
}

/// The processes that the last run started: what each trains, as "from 0 to 40".
fn processes(project: &Project) -> Vec<String> {
    let log = project.vadpipe(["log", "last", "--stage", "net"]).stdout;
    log.lines().filter_map(|line| line.trim().strip_prefix("process ").map(str::to_owned)).collect()
}

fn cached(project: &Project) -> u64 {
    project.plan(&[])["net"]["epochs"]["cached"].as_u64().expect("a number")
}

/// Makes the program wait for a minute before it trains the epoch after this one, and touch a file before it waits.
fn wait_after(project: &Project, epoch: u64) {
    let file = project.path("waits").display().to_string();
    let hook = format!(
        "import os, time\ndef HOOK(epoch):\n    if epoch == {epoch} and not os.path.exists({file:?}):\n        \
         os.close(os.open({file:?}, os.O_CREAT))\n        time.sleep(60)\n"
    );
    project.write("train.py", &format!("{hook}{PROGRAM}"));
}

/// Waits until this many states were saved in a run that prints events.
fn wait_for_states(log: &Path, count: usize) {
    let begun = Instant::now();
    while std::fs::read_to_string(log).unwrap_or_default().matches("state-saved").count() < count {
        assert!(begun.elapsed() < Duration::from_secs(30), "no state {count}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn one_process_trains_all_segments_and_a_longer_training_continues() {
    let Some(project) = project() else { return };
    project.edit("epochs = 40", "epochs = 25\noutputs = { weights = \"weights.txt\" }");
    let run = project.run(&[]);
    assert_eq!(run.trained(), (1..=25).collect::<Vec<_>>());
    assert_eq!(processes(&project), ["from 0 to 25", "from 25 to 25"]);
    let saved: Vec<_> = run.of_kind("state-saved").map(|event| event["epoch"].as_u64()).collect();
    assert_eq!(saved, [Some(10), Some(20), Some(25)]);
    project.edit("epochs = 25", "epochs = 40");
    assert_eq!(cached(&project), 20);
    assert_eq!(project.run(&[]).trained(), (21..=40).collect::<Vec<_>>());
    assert_eq!(processes(&project), ["from 20 to 40", "from 40 to 40"]);
    let in_one_go = self::project().expect("Python is installed");
    in_one_go.write("p.toml", &project.read("p.toml"));
    in_one_go.run(&[]);
    assert_eq!(project.digests(), in_one_go.digests());
    assert_eq!(std::fs::read_dir(project.path("cache/scratch")).expect("a folder").count(), 0);
    // Cold processes of the same program have other keys, but the same bytes in their states.
    let state = |project: &Project| {
        assert_eq!(project.vadpipe(["export", "p.toml", "--to", "out"]).code, 0);
        std::fs::read(project.path("out/net/state/model.safetensors")).expect("a file")
    };
    let warm = state(&project);
    project.edit("warm = true", "warm = false");
    assert_eq!(project.run(&[]).trained().len(), 40);
    std::fs::remove_dir_all(project.path("out")).expect("a folder");
    assert_eq!(state(&project), warm);
}

#[test]
fn killed_run_loses_at_most_one_segment() {
    let Some(project) = project() else { return };
    wait_after(&project, 25);
    let log = std::fs::File::create(project.path("events")).expect("a file");
    let mut run = project.command(["run", "p.toml", "--json"]).stdout(log).spawn().expect("it starts");
    wait_for_states(&project.path("events"), 2);
    run.kill().expect("it is killed");
    run.wait().expect("it ends");
    assert_eq!(cached(&project), 20);
    assert_eq!(project.run(&[]).trained(), (21..=40).collect::<Vec<_>>());
    let in_one_go = self::project().expect("Python is installed");
    in_one_go.write("train.py", &project.read("train.py"));
    in_one_go.run(&[]);
    assert_eq!(project.digests(), in_one_go.digests());
}

#[test]
fn branches_share_the_trunk_of_a_warm_training() {
    let Some(project) = project() else { return };
    project.edit("epochs = 40", "segments = [{ epochs = 20 }, { epochs = 20, lr = \"${matrix.late}\" }]");
    project.edit("[stages.net]", "[matrix]\nlate = [0.05, 0.01]\n[stages.net]");
    assert_eq!(project.run(&["-j", "2"]).trained().len(), 20 + 2 * 20);
    project.edit("0.01]", "0.01, 0.002]");
    assert_eq!(project.run(&[]).trained(), (21..=40).collect::<Vec<_>>());
}

#[test]
fn kept_states_stay_and_others_are_removed() {
    let Some(project) = project() else { return };
    project.edit("epochs = 40", "epochs = 40\nkeep = [10, 30]");
    project.run(&[]);
    let status = json(&project.vadpipe(["status", "p.toml", "--json"]));
    assert_eq!(status["stages"][0]["states"]["epochs"], serde_json::json!([10, 30, 40]));
}

#[test]
fn process_ends_at_the_rung_at_which_points_are_compared() {
    let Some(project) = project() else { return };
    run_pruned_sweep(&project);
    for lr in ["0.5", "0.1", "0.05", "0.0001"] {
        let log = project.vadpipe(["log", "last", "--stage", &format!("net@lr={lr}")]).stdout;
        assert!(log.contains("process from 0 to 10\n") && !log.contains("from 10 to 40\n"), "{log}");
    }
}

#[test]
fn program_that_fails_starts_again_from_its_last_state() {
    let Some(project) = project() else { return };
    project.edit("warm = true", "warm = true\nretries = 1");
    let fails = format!(
        "import os\ndef HOOK(epoch):\n    file = {:?} + str(epoch)\n    if epoch in (15, 25) and not os.path.exists(file):\n        \
         os.close(os.open(file, os.O_CREAT))\n        raise SystemExit(3)\n",
        project.path("failed").display().to_string()
    );
    project.write("train.py", &format!("{fails}{PROGRAM}"));
    project.run(&[]);
    assert_eq!(processes(&project), ["from 0 to 40", "from 10 to 40", "from 20 to 40"]);
}

#[test]
fn faults_of_a_warm_program_are_named() {
    let Some(project) = project() else { return };
    let head = "import json, os, pathlib, sys\nout = pathlib.Path(os.environ['VADPIPE_STATE_OUT'])\n\
                def log(**line):\n    with open(os.environ['VADPIPE_LOG'], 'a') as file:\n        \
                print(json.dumps(line), file=file)\n\
                def epochs(first, last):\n    for n in range(first, last + 1):\n        log(epoch=n, loss=1.0)\n\
                def state(n):\n    (out / str(n)).mkdir()\n    (out / str(n) / 'x').write_text(str(n))\n";
    let all = "epochs(1, 40)\nfor n in (10, 20, 30, 40):\n    state(n)\n    log(saved=n)\n";
    for (program, message) in [
        (
            "epochs(1, 15)\nstate(15)\nlog(saved=15)\n".to_owned(),
            "line 16 of the program's log is not valid: there is no state after epoch 15: VADPIPE_SEGMENT is 10, so \
             states follow multiples of it; expected 10",
        ),
        (
            "epochs(1, 20)\nstate(20)\nlog(saved=20)\n".to_owned(),
            "the state after epoch 20 is out of order: each is reported once, in order; expected 10",
        ),
        (
            "epochs(1, 20)\nstate(10)\nlog(saved=10)\nlog(saved=10)\n".to_owned(),
            "the state after epoch 10 was reported before: each is reported once, in order; expected 20",
        ),
        (
            "epochs(1, 8)\nstate(10)\nlog(saved=10)\n".to_owned(),
            "the state after epoch 10 was reported, but of its epochs those up to 8 were logged",
        ),
        (format!("{all}log(saved=50)\n"), "the state after epoch 50 is after the last one of this process, 40"),
        (format!("{all}log(saved=0)\n"), "there is no state after epoch 0"),
        (format!("{all}log(saved='40')\n"), "`saved` is not an epoch, which is a whole number"),
        ("log(epoch=1, saved=1)\n".to_owned(), "it has both `epoch` and `saved`, which are lines of their own"),
        (
            "epochs(1, 10)\nlog(saved=10)\n".to_owned(),
            "the program reported the state after epoch 10, but wrote none; with `warm = true`, write the state after \
             epoch 10 to the folder VADPIPE_STATE_OUT/10, and then append {\"saved\": 10} to VADPIPE_LOG",
        ),
        (
            "epochs(1, 10)\n(out / '10').mkdir()\nlog(saved=10)\n".to_owned(),
            "the program reported the state after epoch 10, but its folder is empty",
        ),
        (
            "epochs(1, 10)\n(out / '10').symlink_to('/etc')\nlog(saved=10)\n".to_owned(),
            "VADPIPE_STATE_OUT/10 is not a folder",
        ),
        (
            "epochs(1, 10)\nstate(10)\n(out / '10' / 'y').symlink_to('x')\nlog(saved=10)\n".to_owned(),
            "the state after epoch 10 can't be stored: `y` is a symbolic link, not a regular file",
        ),
        (
            "epochs(1, 40)\nstate(10)\nlog(saved=10)\n".to_owned(),
            "the program exited with 0, but did not report the state after epoch 20; with `warm = true`, write",
        ),
        (
            "epochs(1, 15)\nstate(10)\nlog(saved=10)\n".to_owned(),
            "the program exited with 0, but did not log epochs 16 to 40",
        ),
        (
            "epochs(1, 40)\n(out / 'model').write_text('x')\n".to_owned(),
            "did not report the state after epoch 10; it wrote `model` to VADPIPE_STATE_OUT itself; with `warm = true`, \
             write the state after epoch 10 to the folder VADPIPE_STATE_OUT/10",
        ),
    ] {
        project.write("train.py", &format!("{head}{program}"));
        let run = project.vadpipe(["run", "p.toml"]);
        assert_eq!(run.code, 1, "{program}: {}", run.stderr);
        assert!(run.stderr.contains(message), "{program}: {}", run.stderr);
    }
    // What was stored before the fault is kept, and counts.
    project.write(
        "train.py",
        &format!("{head}epochs(1, 29)\nstate(10)\nlog(saved=10)\nstate(20)\nlog(saved=20)\nsys.exit(3)\n"),
    );
    assert!(project.vadpipe(["run", "p.toml"]).stderr.contains("`python3` exited with code 3"));
    assert_eq!(cached(&project), 20);
}

#[test]
fn warm_program_has_no_checkpoint() {
    let Some(project) = project() else { return };
    project.edit("\"train.py\"]", "\"train.py\", \"{checkpoint}\"]");
    let plan = project.vadpipe(["plan", "p.toml"]);
    assert_eq!(plan.code, 2);
    let message = "`argv` contains `{checkpoint}`, which a program with `warm = true` does not have";
    assert!(plan.stderr.contains(message), "{}", plan.stderr);
}

#[test]
fn warm_enters_the_key_only_if_it_is_true() {
    let Some(project) = project() else { return };
    let key = |to: &str| {
        project.write("p.toml", &PIPELINE.replace("warm = true\n", to));
        project.plan(&[])["net"]["key"].clone()
    };
    let cold = key("");
    assert_eq!(key("warm = false\n"), cold);
    assert_ne!(key("warm = true\n"), cold);
}

#[test]
fn plan_says_which_epochs_are_trained_again() {
    let Some(project) = project() else { return };
    project.edit("epochs = 40", "epochs = 25");
    project.run(&[]);
    project.edit("epochs = 25", "epochs = 40");
    let plan = project.plan(&[])["net"].clone();
    assert_eq!(plan["trained_again"], serde_json::json!({ "from": 20, "to": 25 }));
    let plan = project.vadpipe(["plan", "p.toml"]).stdout;
    let again = "20 of 40 epochs cached; epochs 21 to 25 are trained again, because states continue at multiples of \
                 segment_epochs = 10";
    assert!(plan.contains(again), "{plan}");
    project.run(&[]);
    project.edit("epochs = 40", "epochs = 50");
    let plan = project.vadpipe(["plan", "p.toml"]).stdout;
    assert!(plan.contains("40 of 50 epochs cached") && !plan.contains("trained"), "{plan}");
    // A branch that parts within a segment.
    project.edit("epochs = 50", "segments = [{ epochs = 41 }, { epochs = 9, lr = 0.01 }]");
    let plan = project.vadpipe(["plan", "p.toml"]).stdout;
    let alone = "40 of 50 epochs cached; epoch 41 is trained for this point alone, because states continue at multiples of \
                 segment_epochs = 10";
    assert!(plan.contains(alone), "{plan}");
}
