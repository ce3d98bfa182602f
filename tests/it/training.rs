//! Trainings by programs: no epoch is trained twice, and the result is that of one go.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use vadpipe::key::Key;
use vadpipe::store::Store;

use crate::support::{Project, json, signal, wait_for};

pub(crate) const PIPELINE: &str = r#"
[pipeline]
name = "p"
seed = 3

[stages.net]
kind = "train-command"
argv = ["python3", "train.py"]
segment_epochs = 10
epochs = 40

[stages.net.start]
width = 4

[stages.net.epoch]
lr = 0.05
"#;

/// A project that trains with `train.py`. `None` without Python.
fn project() -> Option<Project> {
    Project::with_script(PIPELINE, include_str!("training/train.py"))
}

fn metrics(project: &Project) -> serde_json::Value {
    json(&project.vadpipe(["metrics", "p.toml", "--json"]))
}

#[test]
fn longer_training_continues_and_equals_one_go() {
    let Some(project) = project() else { return };
    project.edit("epochs = 40", "epochs = 25");
    assert_eq!(project.run(&[]).trained(), (1..=25).collect::<Vec<_>>());
    assert_eq!(project.run(&[]).executed(), [""; 0]);
    project.edit("epochs = 25", "epochs = 40");
    let plan = project.plan(&[])["net"].clone();
    assert_eq!((&plan["state"], &plan["epochs"]["cached"]), (&"miss".into(), &20.into()), "{plan}");
    let longer = project.run(&[]);
    assert_eq!(longer.trained(), (21..=40).collect::<Vec<_>>(), "25 is no multiple of segment_epochs");
    let in_one_go = self::project().expect("Python is installed");
    in_one_go.run(&[]);
    assert_eq!(project.digests(), in_one_go.digests());
    // A shorter training ends with a state that the longer one has.
    project.edit("epochs = 40", "epochs = 20");
    assert_eq!(project.run(&[]).trained(), [0u64; 0]);
}

#[test]
fn training_that_is_killed_ends_with_the_same_bytes() {
    let Some(project) = project() else { return };
    let slow = "import time\nHOOK = lambda epoch: time.sleep(0.01)\n";
    project.write("train.py", &format!("{slow}{}", include_str!("training/train.py")));
    let mut killed = 0;
    for delay in [150, 250, 350, 450, 550] {
        let mut run = project.start(&["run", "p.toml"]);
        std::thread::sleep(Duration::from_millis(delay));
        killed += usize::from(run.try_wait().expect("its status").is_none());
        let _ = run.kill();
        let _ = run.wait_with_output();
    }
    assert!(killed > 1, "it was fast");
    let resumed = project.run(&[]);
    let in_one_go = self::project().expect("Python is installed");
    in_one_go.write("train.py", &project.read("train.py"));
    in_one_go.run(&[]);
    assert_eq!(project.digests(), in_one_go.digests());
    assert!(resumed.trained().len() <= 40);
}

#[test]
fn interrupted_training_keeps_the_states_of_its_segments() {
    let Some(project) = project() else { return };
    let hook = "import pathlib, time\ndef HOOK(epoch):\n    if epoch == 25:\n        \
                pathlib.Path(__file__).with_name('at-25').touch()\n        time.sleep(60)\n";
    project.write("train.py", &format!("{hook}{}", include_str!("training/train.py")));
    let run = project.command(["run", "p.toml"]).stderr(Stdio::piped()).spawn().expect("it starts");
    wait_for(&mirrored(&project, "at-25"));
    signal(&run, Signal::INT);
    let output = run.wait_with_output().expect("it ends");
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(130), "{error}");
    assert!(error.contains("net: the next run continues at epoch 20"), "{error}");
    assert_eq!(project.plan(&[])["net"]["epochs"]["cached"], 20);
}

/// A file that a program writes beside itself in its mirror, as deep as the folders above the project are mirrored.
fn mirrored(project: &Project, name: &str) -> PathBuf {
    fn find(folder: &Path, name: &str) -> Option<PathBuf> {
        let entries: Vec<_> = std::fs::read_dir(folder).into_iter().flatten().flatten().collect();
        let below = entries.iter().filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
        let found = entries.iter().find(|entry| entry.file_name() == name).map(|entry| entry.path());
        found.or_else(|| below.map(std::fs::DirEntry::path).find_map(|folder| find(&folder, name)))
    }
    let begun = Instant::now();
    loop {
        if let Some(path) = find(&project.path("cache/scratch"), name) {
            return path;
        }
        assert!(begun.elapsed() < Duration::from_secs(60), "the program never wrote {name}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn branches_share_their_trunk() {
    let Some(project) = project() else { return };
    project.edit("epochs = 40", "segments = [{ epochs = 20 }, { epochs = 10, lr = \"${matrix.late}\" }]");
    project.edit("[stages.net]", "[matrix]\nlate = [0.05, 0.01, 0.002]\n[stages.net]");
    let run = project.run(&["-j", "3"]);
    assert_eq!(run.trained().len(), 20 + 3 * 10, "{:?}", run.trained());
    // A branch that is added later finds the trunk, too.
    project.edit("0.002]", "0.002, 0.0004]");
    assert_eq!(project.run(&[]).trained(), (21..=30).collect::<Vec<_>>());
}

#[test]
fn outputs_are_written_from_the_last_state() {
    let Some(project) = project() else { return };
    project.run(&[]);
    let before = metrics(&project);
    project.edit("epochs = 40", "epochs = 40\noutputs = { weights = \"weights.txt\" }");
    let plan = project.plan(&[])["net"].clone();
    assert_eq!(plan["epochs"]["cached"], 40, "{plan}");
    let run = project.run(&[]);
    assert_eq!((run.executed(), run.trained()), (vec!["net".to_owned()], vec![]));
    assert_eq!(metrics(&project)["net"]["loss"], before["net"]["loss"]);
    assert!(metrics(&project)["net"]["norm"].is_number());
    assert_eq!(project.vadpipe(["export", "p.toml", "--to", "out"]).code, 0);
    assert_eq!(project.read("out/net/weights.txt").lines().count(), 4);
    assert!(project.path("out/net/state/model.safetensors").exists());
    assert!(project.path("out/net/state/generators/python.json").exists());
    let in_one_go = self::project().expect("Python is installed");
    in_one_go.write("p.toml", &project.read("p.toml"));
    in_one_go.run(&[]);
    assert_eq!(project.digests(), in_one_go.digests());
}

#[test]
fn edited_module_invalidates_the_chain_from_the_state_that_read_it() {
    let Some(project) = project() else { return };
    let hook = "def HOOK(epoch):\n    if epoch >= 20:\n        import late\n";
    project.write("train.py", &format!("{hook}{}", include_str!("training/train.py")));
    project.write("late.py", "x = 1\n");
    project.run(&[]);
    let digests = project.digests();
    project.write("late.py", "x = 2\n");
    let plan = project.plan(&[])["net"].clone();
    assert_eq!(plan["reason"]["text"], "file late.py changed");
    assert_eq!(plan["epochs"]["cached"], 20, "{plan}");
    assert_eq!(project.run(&[]).trained(), (21..=40).collect::<Vec<_>>());
    // An edit that is undone is no edit.
    project.write("late.py", "x = 1\n");
    assert_eq!(project.run(&[]).executed(), [""; 0]);
    assert_eq!(project.digests(), digests);
}

#[test]
fn logged_metrics_are_curves_and_the_best_epoch_is_named() {
    let Some(project) = project() else { return };
    project.edit("epochs = 40", "epochs = 40\nselect = { metric = \"loss\" }");
    project.run(&[]);
    let found = metrics(&project)["net"].clone();
    let number = |name: &str| found[name].as_f64().unwrap_or_else(|| panic!("{name}: {found}"));
    assert!(number("loss_best") <= number("loss"));
    assert!((1.0..=40.0).contains(&number("best_epoch")));
    assert!(found.get("_seconds").is_none(), "{found}");
    project.edit("metric = \"loss\"", "metric = \"val_loss\"");
    let error = project.vadpipe(["run", "p.toml"]);
    assert_eq!(error.code, 2, "{}", error.stderr);
    assert!(error.stderr.contains("`select` names the metric `val_loss`, which the program did not log"));
    assert!(error.stderr.contains("it logged: loss, accuracy"), "{}", error.stderr);
}

#[test]
fn state_of_the_best_epoch_is_kept_until_another_is_better() {
    let Some(project) = project() else { return };
    // The best epochs after each segment are 10, 20, 20 and 20.
    let score = include_str!("training/train.py").replace("\"_seconds\": 0.5", "\"score\": -abs(epoch - 19)");
    project.write("train.py", &score);
    project.edit("epochs = 40", "epochs = 40\nselect = { metric = \"score\", mode = \"max\" }");
    project.run(&[]);
    assert_eq!(metrics(&project)["net"]["best_epoch"], 20.0);
    let key = json(&project.vadpipe(["show", "p.toml", "net", "--json"]))["net"]["key"].clone();
    let key: Key = serde_json::from_value(key).expect("a key");
    let store = Store::open(&project.path("cache"), Default::default()).expect("a cache");
    let chain = store.result(&key).expect("an index").expect("a result").components.chain();
    let states = store.chain_states(chain.keys()).expect("an index");
    // State 40 is the last. It is also the last multiple, from which a longer training continues.
    assert_eq!(states.iter().map(|state| (state.epoch, state.pinned)).collect::<Vec<_>>(), [(20, true), (40, true)]);
}

/// Runs a sweep of four rates, and checks that points are pruned by the loss after 10 and 20 epochs.
pub(crate) fn run_pruned_sweep(project: &Project) {
    project.edit("lr = 0.05", "lr = \"${matrix.lr}\"");
    let prune = "[matrix]\nlr = [0.5, 0.1, 0.05, 0.0001]\n\
                 [matrix.prune]\nmetric = \"net.loss\"\nmode = \"min\"\nrungs = [10, 20]\nreduction = 2\n[stages.net]";
    project.edit("[stages.net]", prune);
    let run = project.run(&["-j", "1"]);
    assert!(run.of_kind("stage-pruned").count() >= 2, "{}", run.output.stdout);
    assert!(run.trained().len() < 4 * 40);
}

#[test]
fn sweep_is_pruned_by_a_logged_metric() {
    let Some(project) = project() else { return };
    run_pruned_sweep(&project);
    project.edit("mode = \"min\"\n", "");
    let error = project.vadpipe(["plan", "p.toml"]);
    assert!(error.stderr.contains("is a larger or a smaller `loss` better?"), "{}", error.stderr);
    project.edit("rungs = [10, 20]", "mode = \"min\"\nrungs = [10, 25]");
    let error = project.vadpipe(["plan", "p.toml"]);
    assert_eq!(error.code, 2);
    assert!(error.stderr.contains("has no state after 25 epochs, so it can't be pruned there"), "{}", error.stderr);
}

#[test]
fn stage_reads_the_state_of_a_training() {
    let Some(project) = project() else { return };
    let reader = "[stages.reader]\nkind = \"command\"\ninputs = { net = \"net\" }\n\
                  argv = [\"sh\", \"-c\", \"find {inputs.net} -type f | grep -c state/; cat {inputs.net}/metrics.json\"]\n";
    project.write("p.toml", &(project.read("p.toml") + reader));
    project.edit("epochs = 40", "epochs = 10");
    let run = project.run(&[]);
    assert_eq!(run.executed(), ["net", "reader"]);
    let log = project.vadpipe(["log", "last", "--stage", "reader"]);
    assert!(log.stdout.contains("4\n{"), "two files, each in two places: {}", log.stdout);
}

/// The error of a run whose program is this Python code.
fn failure(project: &Project, program: &str) -> String {
    project.write("train.py", program);
    let run = project.vadpipe(["run", "p.toml"]);
    assert_eq!(run.code, 1, "{}", run.stderr);
    assert!(!project.path("cache/states").exists());
    run.stderr
}

#[test]
fn faults_of_a_program_are_named() {
    let Some(project) = project() else { return };
    let head = "import json, os, pathlib, sys\nout = pathlib.Path(os.environ['VADPIPE_STATE_OUT'])\n\
                log = open(os.environ['VADPIPE_LOG'], 'a')\n\
                def epochs(*numbers):\n    for n in numbers:\n        print(json.dumps({'epoch': n, 'loss': 1.0}), file=log)\n    \
                log.flush()\n";
    let all = "epochs(*range(1, 11))\n";
    for (program, message) in [
        (all.to_owned(), "the program exited with 0, but left no state after epoch 10"),
        ("(out / 'x').touch()\nepochs(1, 2)\n".to_owned(), "did not log epochs 3 to 10"),
        ("(out / 'x').touch()\nepochs(*range(1, 10))\n".to_owned(), "did not log epoch 10"),
        ("epochs(1, 1)\n".to_owned(), "epoch 1 was logged before: each epoch is logged once, in order; expected 2"),
        ("epochs(2)\n".to_owned(), "epoch 2 is out of order: each epoch is logged once, in order; expected 1"),
        ("epochs(0)\n".to_owned(), "epoch 0 does not exist: epochs count from 1; expected 1"),
        (format!("{all}epochs(11)\n"), "epoch 11 is after the last one of this process, 10"),
        ("print('loss 1', file=log, flush=True)\n".to_owned(), "line 1 of the program's log is not valid: "),
        ("print('[1]', file=log, flush=True)\n".to_owned(), "it is not a JSON object"),
        ("print('x' * 2000000, file=log, flush=True)\n".to_owned(), "it has more than 1048576 bytes"),
        (format!("{all}(out / 'x').symlink_to('/etc/passwd')\n"), "`x` is a symbolic link, not a regular file"),
        (format!("{all}os.mkfifo(out / 'x')\n"), "`x` is a FIFO, not a regular file"),
        (
            format!("{all}(out / 'm.safetensors').touch()\n"),
            "`m.safetensors` is not a safetensors file: it has 0 bytes, but the length of its header alone takes 8",
        ),
        (
            format!("{all}(out / 'm.safetensors').write_bytes(b'PK\\x03\\x04 a zip file')\n"),
            "`m.safetensors` is not a safetensors file: its first 8 bytes give a header of",
        ),
        ("sys.exit(3)\n".to_owned(), "`python3` exited with code 3"),
        ("(out / 'x').touch()\nos.kill(os.getpid(), 9)\n".to_owned(), "`python3` was ended by signal 9"),
    ] {
        let error = failure(&project, &format!("{head}{program}"));
        assert!(error.contains(message), "{program}: {error}");
    }
    // The good state before the fault is kept.
    let breaks = "HOOK = lambda epoch: 1 / (epoch < 25)\n";
    let error = failure(&project, &format!("{breaks}{}", include_str!("training/train.py")));
    assert!(error.contains("ZeroDivisionError"), "{error}");
    assert_eq!(project.plan(&[])["net"]["epochs"]["cached"], 20);
}

#[test]
fn program_that_changes_its_inputs_harms_nobody() {
    let Some(project) = project() else { return };
    let data = "[stages.data]\nkind = \"command\"\nargv = [\"sh\", \"-c\", \"echo good > d.txt\"]\n\
                outputs = { d = \"d.txt\" }\n[stages.net]";
    project.edit("[stages.net]", data);
    project
        .edit("argv = [\"python3\", \"train.py\"]", "argv = [\"python3\", \"train.py\"]\ninputs = { data = \"data\" }");
    let hook = "import pathlib, os\nfile = pathlib.Path(os.environ['VADPIPE_INPUTS']) / 'data' / 'd.txt'\n\
                assert file.read_text() == 'good\\n'\nos.chmod(file, 0o644)\nfile.write_text('evil')\n";
    project.write("train.py", &format!("{hook}{}", include_str!("training/train.py")));
    assert_eq!(project.run(&[]).executed(), ["data", "net"], "each process finds the good input");
    let log = project.vadpipe(["log", "last", "--stage", "net"]);
    assert!(log.stdout.contains("the program changed its inputs; they are written again"), "{}", log.stdout);
}

#[test]
fn nan_is_a_metric_and_ranks_last() {
    let Some(project) = project() else { return };
    let nan = include_str!("training/train.py").replace("\"_seconds\": 0.5", "\"bad\": float('nan')");
    project.write("train.py", &nan);
    project.edit("epochs = 40", "epochs = 10\nselect = { metric = \"bad\" }");
    let error = project.vadpipe(["run", "p.toml"]);
    assert!(error.stderr.contains("`select` names the metric `bad`"), "NaN is never the best: {}", error.stderr);
    project.edit("\nselect = { metric = \"bad\" }", "");
    project.run(&[]);
    assert_eq!(metrics(&project)["nonfinite"]["net"]["bad"], "nan");
}

#[test]
fn mistakes_in_the_pipeline_are_found_by_plan() {
    let Some(project) = project() else { return };
    let error = |from: &str, to: &str| {
        project.write("p.toml", &PIPELINE.replace(from, to));
        let plan = project.vadpipe(["plan", "p.toml"]);
        assert_eq!(plan.code, 2, "{}", plan.stderr);
        plan.stderr
    };
    for (from, to, message) in [
        ("segment_epochs = 10\n", "", "`segment_epochs` is missing"),
        ("epochs = 40\n", "", "`epochs` is missing"),
        ("epochs = 40", "epochs = 40\nkeep = [15]", "there is no state after 15 epochs to keep"),
        ("epochs = 40", "epochs = 40\nkeep_every = 4", "there is no state after 4 epochs to keep"),
        (
            "epochs = 40",
            "segments = [{ epochs = 20, momentum = 0.9 }, { epochs = 20 }]",
            "this segment has no value for `momentum`",
        ),
        ("epochs = 40", "segments = [{ lr = 0.9 }]", "a segment has no `epochs`"),
        ("epochs = 40", "epochs = 40\noutputs = { state = \"state\" }", "the output `state` has a reserved name"),
        ("epochs = 40", "epochs = 40\nselect = \"loss\"", "`select` must be a table, not a string"),
        (
            "epochs = 40",
            "epochs = 40\nselect = { metric = \"loss\", mode = \"most\" }",
            "`mode` must be \"min\" or \"max\"",
        ),
        ("[stages.net.start]", "[stages.net.begin]", "unknown field `begin`"),
        ("lr = 0.05", "lr = nan", "nan"),
        ("\"train.py\"", "\"missing.py\"", "`argv` names the script `missing.py`, which does not exist"),
    ] {
        let error = error(from, to);
        assert!(error.contains(message), "{to}: {error}");
    }
}

/// What `verify` prints about the program after these edits, and its exit code.
fn verdict(project: &Project, edits: &[(&str, &str)]) -> (i32, String) {
    let mut program = include_str!("training/train.py").to_owned();
    for (from, to) in edits {
        assert!(program.contains(from), "{from}");
        program = program.replace(from, to);
    }
    project.write("train.py", &program);
    project.run(&[]);
    let output = project.vadpipe(["verify", "p.toml", "net"]);
    (output.code, output.stdout + &output.stderr)
}

#[test]
fn verify_finds_programs_that_are_not_reproducible_and_states_that_are_incomplete() {
    const RATE: &str = "    lr = value_of(epoch, \"lr\")\n";
    let Some(project) = project() else { return };
    let (code, text) = verdict(&project, &[]);
    assert_eq!((code, text.contains("incomplete")), (0, false), "{text}");
    let generator = [("    generator.setstate((version, tuple(internal), gauss))\n", "")];
    let scheduler = [(RATE, "    lr = value_of(epoch, \"lr\") * 0.9 ** (epoch - START)\n")];
    let loader = [(RATE, "    lr = value_of(epoch, \"lr\") * (1 + (epoch - START) % 7)\n")];
    let clock = [(RATE, "    import time\n    lr = value_of(epoch, \"lr\") * (1 + time.time_ns() % 1000)\n")];
    let noise = [("weights[i] = weight -", "weights[i] = int.from_bytes(os.urandom(4), 'little') * 1e-12 + weight -")];
    let incomplete = "the state of `net` is incomplete: if one process trains the first 20 epochs instead of two, tensor \
                      state/model.safetensors: momentum differs in 4 of 4 elements";
    let not_reproducible = "the program is not reproducible from epoch 1 on: tensor state/model.safetensors: momentum \
                            differs in 4 of 4 elements";
    for (fault, edit, expected, message) in [
        ("generator not restored", generator, 0, incomplete),
        ("scheduler not in the state", scheduler, 0, incomplete),
        ("position of the loader not in the state", loader, 0, incomplete),
        ("clock", clock, 3, not_reproducible),
        ("noise from the system", noise, 3, not_reproducible),
    ] {
        let (code, text) = verdict(&project, &edit);
        // A terminal's width wraps the text.
        let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
        assert_eq!(code, expected, "{fault}: {text}");
        assert!(text.contains(message), "{fault}: {text}");
    }
    project.edit("epochs = 40", "epochs = 10");
    let (_, text) = verdict(&project, &[]);
    assert!(text.contains("fewer than two full segments, so its state was not checked"), "{text}");
}

#[test]
fn verify_samples_stretches_of_a_program() {
    let Some(project) = project() else { return };
    project.edit("epochs = 40", "epochs = 40\nkeep_every = 10");
    project.run(&[]);
    let output = project.vadpipe(["verify", "p.toml", "net", "--sample", "2", "--seed", "1"]);
    assert_eq!(output.code, 0, "{}", output.stderr);
    assert_eq!(output.stdout.matches("same").count(), 2, "{}", output.stdout);
}

#[test]
fn accepted_edit_keeps_the_result_and_the_states() {
    let Some(project) = project() else { return };
    project.write("helper.py", "x = 1\n");
    let import = "HOOK = lambda epoch: __import__('helper')\n";
    project.write("train.py", &format!("{import}{}", include_str!("training/train.py")));
    project.run(&[]);
    let digests = project.digests();
    project.write("train.py", &format!("# a comment\n{}", project.read("train.py")));
    project.write("helper.py", "x = 1  # a comment\n");
    assert_eq!(project.plan(&[])["net"]["epochs"]["cached"], 0);
    let accepted = json(&project.vadpipe(["accept", "p.toml", "net", "--json"]));
    assert_eq!(accepted["accepted"][0]["files"], serde_json::json!(["train.py", "helper.py"]), "{accepted}");
    assert_eq!(project.run(&[]).executed(), [""; 0]);
    assert_eq!(project.digests(), digests);
    let explained = project.vadpipe(["explain", "p.toml", "net"]).stdout;
    assert!(explained.contains("; edits of train.py, helper.py accepted on "), "{explained}");
    project.edit("epochs = 40", "epochs = 50");
    assert_eq!(project.run(&[]).trained(), (41..=50).collect::<Vec<_>>(), "the states were accepted, too");
    // Anything else is refused.
    project.edit("lr = 0.05", "lr = 0.04");
    let refused = project.vadpipe(["accept", "p.toml", "net"]);
    assert_eq!(refused.code, 2, "{}", refused.stderr);
    assert!(
        refused.stderr.contains("`net` has another change than edits of files: lr 0.05 → 0.04"),
        "{}",
        refused.stderr
    );
}

#[test]
fn process_does_not_find_what_the_one_before_has_left() {
    let Some(project) = project() else { return };
    let hook = "import os, pathlib\nfor folder in ['.', os.environ['TMPDIR']]:\n    \
                left = pathlib.Path(folder) / 'left'\n    assert not left.exists()\n    left.touch()\n";
    project.write("train.py", &format!("{hook}{}", include_str!("training/train.py")));
    assert_eq!(project.run(&[]).trained().len(), 40);
}

#[test]
fn data_that_change_for_a_while_leave_no_state() {
    let Some(project) = project() else { return };
    project.edit("epochs = 40", "epochs = 40\npaths = { data = \"data.csv\" }");
    project.write("data.csv", "good");
    // The program edits its data in the second segment, and restores them in the next run.
    let hook = "import pathlib\ndef HOOK(epoch):\n    if epoch == 12:\n        \
                (pathlib.Path(DATA)).write_text('evil')\n";
    let data = format!("DATA = {:?}\n", project.path("data.csv").display().to_string());
    project.write("train.py", &format!("{data}{hook}{}", include_str!("training/train.py")));
    let run = project.vadpipe(["run", "p.toml"]);
    assert!(run.stderr.contains("file data.csv changed while the stage ran"), "{}", run.stderr);
    project.write("data.csv", "good");
    assert_eq!(project.plan(&[])["net"]["epochs"]["cached"], 10);
}

#[test]
fn folders_without_permissions_are_removed() {
    let Some(project) = project() else { return };
    let hook = "import atexit, os\natexit.register(lambda: 'VADPIPE_STATE_OUT' in os.environ and \
                os.chmod(os.environ['VADPIPE_STATE_OUT'] + '/generators', 0o555))\n";
    project.write("train.py", &format!("{hook}{}", include_str!("training/train.py")));
    assert_eq!(project.run(&[]).trained().len(), 40);
    assert_eq!(std::fs::read_dir(project.path("cache/scratch")).expect("a folder").count(), 0);
}

#[test]
fn segments_of_one_point_replace_the_epochs_of_all() {
    let Some(project) = project() else { return };
    project.edit("[stages.net]", "[matrix]\nlr = [0.05, 0.01]\n[stages.net]");
    project.edit("lr = 0.05\n", "lr = \"${matrix.lr}\"\n");
    project.edit("segment_epochs = 10", "segment_epochs = 10\nkeep_every = 10");
    assert_eq!(project.run(&[]).trained().len(), 80);
    let branch = "\n[stages.net.at.\"lr=0.05\"]\nsegments = [{ epochs = 20 }, { epochs = 20, lr = 0.005 }]\n";
    project.write("p.toml", &(project.read("p.toml") + branch));
    assert_eq!(project.run(&[]).trained(), (21..=40).collect::<Vec<_>>());
}

#[test]
fn file_that_an_earlier_process_wrote_is_no_input() {
    let Some(project) = project() else { return };
    let hook = "import pathlib\ncache = pathlib.Path(__file__).resolve().parent / 'tokens'\n\
                text = cache.read_text() if cache.exists() else 'none'\n\
                cache.exists() or cache.write_text('made by the first process')\n";
    project.write("train.py", &format!("{hook}{}", include_str!("training/train.py")));
    let run = project.vadpipe(["run", "p.toml"]);
    assert_eq!((run.code, run.stderr.contains("won't be reused")), (0, false), "{}", run.stderr);
    assert_eq!(project.run(&[]).executed(), [""; 0]);
}

#[test]
fn points_that_part_within_a_segment_do_not_wait_for_each_other() {
    let Some(project) = project() else { return };
    project.edit("epochs = 40", "segments = [{ epochs = 5, lr = 0.1 }, { epochs = 15, lr = \"${matrix.late}\" }]");
    project.edit("[stages.net]", "[matrix]\nlate = [0.05, 0.01]\n[stages.net]");
    let run = project.run(&["-j", "2"]);
    let kinds: Vec<_> = run.events.iter().filter_map(|event| event["event"].as_str()).collect();
    let at =
        |kind: &str, nth: usize| kinds.iter().enumerate().filter(|(_, k)| **k == kind).nth(nth).expect("an event").0;
    assert!(at("stage-started", 1) < at("stage-finished", 0), "both run at the same time: {kinds:?}");
    assert_eq!(run.trained().len(), 40);
}
