//! Sweeps: their points, failures of single points, and early stopping.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead as _, BufReader};

use serde_json::{Value, json};

use crate::support::{CommandOutput, Project, Run, fashion_mnist, text};

/// Six learning rates, good and bad ones mixed. Half of the points are promoted at each rung.
const SWEEP: &str = r#"
[pipeline]
name = "sweep"
seed = 7
checkpoint_seconds = 1000

[params]
epochs = 5

[matrix]
lr = [1e-3, 1e-5, 1e-2, 3e-3, 1e-4, 3e-2]

[matrix.prune]
metric = "ad.loss"
rungs = [1, 3]
reduction = 2

[stages.data]
kind = "load-data"
source = "synthetic"
train = 40
test = 20

[stages.ad]
kind = "train-ad"
inputs = { data = "data" }
epochs = "${params.epochs}"
lr = "${matrix.lr}"
latent_dim = 6
channels = [16, 12, 8, 8]

[stages.fit]
kind = "fit-latents"
inputs = { data = "data", model = "ad" }
split = "test"
epochs = 1

[stages.report]
kind = "report"
inputs = { shown = ["ad@*", "fit@*"] }
"#;

fn pruned(run: &Run) -> BTreeSet<String> {
    run.last()["pruned"].as_array().expect("a list").iter().map(text).collect()
}

/// The epochs that a run trained, by point.
fn epochs(run: &Run) -> BTreeMap<String, Vec<u64>> {
    let mut epochs: BTreeMap<String, Vec<u64>> = BTreeMap::new();
    for event in run.of_kind("epoch").filter(|e| text(&e["stage"]).starts_with("ad")) {
        epochs.entry(text(&event["stage"])).or_default().push(event["epoch"].as_u64().expect("a number"));
    }
    epochs
}

/// The pruned points, and the digests of the others.
fn outcome(project: &Project, run: &Run) -> (BTreeSet<String>, BTreeMap<String, String>) {
    (pruned(run), project.digests())
}

#[test]
fn worst_points_stop_at_their_rungs_and_are_left_out_of_lists() {
    let project = Project::new(SWEEP);
    let run = project.run(&[]);
    let out = pruned(&run);
    let trainings: Vec<&String> = out.iter().filter(|p| p.starts_with("ad")).collect();
    assert!(!trainings.is_empty() && trainings.len() < 5, "{out:?}");
    assert!(!out.contains("ad@lr=0.001"), "the first point is always promoted");
    for point in &trainings {
        assert!(out.contains(&point.replace("ad", "fit")), "its dependents are pruned, too: {out:?}");
        let trained = epochs(&run)[*point].clone();
        assert!([1, 3].contains(&trained.len()), "{point} ends at a rung: {trained:?}");
    }
    assert!(epochs(&run).values().all(|e| e.windows(2).all(|w| w[1] == w[0] + 1)), "no epoch twice");
    assert!(run.executed().contains(&"report".to_owned()));
    assert_eq!(run.of_kind("stage-pruned").count(), out.len());
    // The report shows the remaining points and counts the pruned ones.
    let shown = &project.vadpipe(["show", "p.toml", "report", "--json"]).stdout;
    let shown: Value = serde_json::from_str(shown).expect("JSON");
    let members = shown["report"]["components"]["inputs"]["shown"]["Many"].as_object().expect("labels");
    assert_eq!(members.len(), 12 - out.len());
    assert!(members.keys().all(|label| !out.contains(label)));
    let page = project.read("reports/sweep.report.html");
    assert!(page.contains(&format!("{} pruned", out.len())), "the report counts them");
    // A second run, `plan` and the other commands agree.
    let again = project.run(&[]);
    assert_eq!((again.executed(), pruned(&again)), (vec![], out.clone()));
    assert_eq!(project.vadpipe(["plan", "p.toml", "--check"]).code, 0);
    let plan = project.plan(&[]);
    let planned: BTreeSet<String> =
        plan.values().filter(|s| s["state"] == "pruned").map(|s| text(&s["name"])).collect();
    assert_eq!(planned, out);
    assert!(out.iter().all(|p| plan[p]["estimate_seconds"].is_null()), "pruned points have no estimate: {plan:?}");
    let text_of_plan = project.vadpipe(["plan", "p.toml"]).stdout;
    assert_eq!(text_of_plan.lines().filter(|l| l.starts_with("pruned ")).count(), out.len(), "{text_of_plan}");
    let listed = project.vadpipe(["log"]).stdout;
    assert!(listed.lines().next().expect("a header").contains("pruned"), "{listed}");
    for command in ["metrics", "show"] {
        let note = project.vadpipe([command, "p.toml"]).stderr;
        assert!(
            note.contains(&format!("{} of ", out.len())) && note.contains("stages are pruned"),
            "{command}: {note}"
        );
        assert!(!note.contains("not in the cache"), "{command}: {note}");
    }
    let status: Value = serde_json::from_str(&project.vadpipe(["status", "p.toml", "--json"]).stdout).expect("JSON");
    assert_eq!(status["pruned"].as_array().expect("a list").len(), out.len());
    assert!(project.vadpipe(["log", "last"]).stdout.contains("pruned"));
}

#[test]
fn metrics_and_report_show_the_value_that_stopped_a_point() {
    let project = Project::new(SWEEP);
    let run = project.run(&[]);
    let out = pruned(&run);
    let output = project.vadpipe(["metrics", "p.toml", "--json"]);
    let metrics: BTreeMap<String, Value> = serde_json::from_str(&output.stdout).expect("JSON");
    assert_eq!(metrics.len(), run.executed().len() + 1, "each result, and `pruned`: {metrics:?}");
    let reasons: BTreeMap<String, Value> = serde_json::from_value(metrics["pruned"].clone()).expect("an object");
    assert_eq!(reasons.keys().cloned().collect::<BTreeSet<_>>(), out);
    let page = project.read("reports/sweep.report.html");
    let csv = project.vadpipe(["metrics", "p.toml", "--csv"]).stdout;
    let text_of = |point: &str| {
        let lr = point.split_once('=').expect("a coordinate").1;
        let output = project.vadpipe(["metrics", "p.toml", "ad", "--where", &format!("lr={lr}")]).stdout;
        output.lines().nth(1).expect("a line below the header").to_owned()
    };
    for (point, reason) in &reasons {
        if point.starts_with("fit") {
            let ad = point.replace("fit", "ad");
            assert_eq!(*reason, json!({ "code": "left-out", "stages": [ad] }));
            assert!(page.contains(&format!("all points of an input are pruned: {ad}")));
            continue;
        }
        // The value is the one that the training reported.
        let epoch = run.of_kind("epoch").filter(|e| e["stage"] == *point).last().expect("an epoch");
        assert_eq!((&reason["epoch"], &reason["value"]), (&epoch["epoch"], &epoch["figures"]["loss"]));
        let (rung, rank) = (&reason["epoch"], format!("ranks {} of {}", reason["place"], reason["of"]));
        let value = reason["value"].as_f64().expect("a number");
        assert!(csv.contains(&format!(",after epoch {rung}: loss {value} {rank}\n")), "{csv}");
        let line = text_of(point);
        assert!(line.ends_with(&format!("  after epoch {rung}: loss {value:.4} {rank}")), "{line}");
        assert!(page.contains(&format!("pruned after epoch {rung}: its loss {value:.6} {rank}; ")), "{point}");
    }
    let of_run = project.vadpipe(["metrics", "p.toml", "--run", "last", "--json"]);
    assert_eq!(of_run.stdout, output.stdout, "an earlier run knows its pruned points, too");
    let unchanged = project.vadpipe(["diff", "p.toml", "--run", "last", "--json"]);
    let unchanged: Value = serde_json::from_str(&unchanged.stdout).expect("JSON");
    assert_eq!(unchanged["same"].as_array().expect("points").len(), run.executed().len() + out.len(), "{unchanged}");
    // The report itself is a result. Its bytes depend only on its inputs.
    assert_eq!(project.vadpipe(["export", "p.toml", "report", "--to", "out"]).code, 0);
    assert!(!project.read("out/report/report.html").contains("ranks "));
    // A condition on a metric leaves pruned points out, and sorting puts them last.
    let good = project.vadpipe(["metrics", "p.toml", "ad", "--where", "loss>0", "--json"]).stdout;
    assert!(!good.contains("pruned"), "{good}");
    let sorted = project.vadpipe(["metrics", "p.toml", "ad", "--sort", "-loss"]).stdout;
    let ends: Vec<bool> = sorted.lines().skip(1).map(|line| line.contains("after epoch")).collect();
    assert!(ends.is_sorted() && ends.contains(&true) && ends.contains(&false), "{sorted}");
}

/// Kills a run after it reported this many epochs. Returns whether it was killed before its end.
fn kill_after(project: &Project, more: &[&str], epochs: usize) -> bool {
    let mut child = project.start(&[&["run", "p.toml", "--json"], more].concat());
    let mut lines = BufReader::new(child.stdout.take().expect("its output")).lines().map_while(Result::ok);
    let reported = lines.by_ref().filter(|line| line.starts_with("{\"event\":\"epoch\"")).take(epochs).count();
    child.kill().expect("killed");
    let killed = child.wait().expect("it ends").code().is_none();
    killed && reported == epochs
}

#[test]
fn explain_shows_the_figures_that_a_decision_compared() {
    let project = Project::new(SWEEP);
    let before = project.plan(&["ad"]);
    assert_eq!(before["ad@lr=0.001"]["state"], "miss");
    let run = project.run(&["ad"]);
    let point = pruned(&run).into_iter().next().expect("a pruned point");
    let output = project.vadpipe(["explain", "p.toml", &point]);
    assert!(output.stdout.contains("ends here") && output.stdout.contains("ad@lr=0.001\n"), "{}", output.stdout);
    let output = project.vadpipe(["explain", "p.toml", &point, "--json"]);
    let explained: Value = serde_json::from_str(&output.stdout).expect("JSON");
    let rungs = explained["stages"][0]["rungs"].as_array().expect("rungs").clone();
    let last = rungs.last().expect("a rung");
    assert_eq!(last["verdict"]["goes_on"], false);
    let compared = last["compared"].as_array().expect("figures");
    assert_eq!(compared.len() as u64, last["verdict"]["of"].as_u64().expect("a number"));
    // The figures are those that the trainings reported.
    let epoch = &last["verdict"]["epoch"];
    for one in compared {
        let reported = run.of_kind("epoch").find(|e| e["stage"] == one["name"] && e["epoch"] == *epoch);
        assert_eq!(reported.expect("that epoch was trained")["figures"]["loss"], one["value"]);
    }
    let own = &compared.last().expect("its own")["value"];
    assert_eq!(own, &last["verdict"]["value"]);
}

#[test]
fn decisions_and_bytes_do_not_depend_on_how_the_sweep_is_run() {
    let one = Project::new(SWEEP);
    let wanted = outcome(&one, &one.run(&["-j", "1"]));
    let two = Project::new(SWEEP);
    assert_eq!(outcome(&two, &two.run(&["-j", "2", "--threads", "2"])), wanted);
    // Points one by one, in any order. Each run includes the points that its point is compared with.
    let single = Project::new(SWEEP);
    for point in ["ad@lr=0.01", "fit@lr=0.001", "ad@lr=0.03", "ad"] {
        single.run(&[point]);
    }
    assert_eq!(outcome(&single, &single.run(&[])), wanted);
    let killed = Project::new(&SWEEP.replace("checkpoint_seconds = 1000", "checkpoint_seconds = 0"));
    let cut_short = [1, 3, 2, 1, 4, 2].into_iter().filter(|epochs| kill_after(&killed, &[], *epochs)).count();
    assert!(cut_short >= 1, "{cut_short} runs were killed before their end");
    assert_eq!(outcome(&killed, &killed.run(&[])), wanted);
}

#[test]
fn pruning_is_not_part_of_keys_and_pruned_points_continue_from_their_rungs() {
    let (project, whole) = (Project::new(SWEEP), Project::new(SWEEP));
    let first = project.run(&[]);
    // `gc` keeps the states of pruned points.
    assert_eq!(project.vadpipe(["gc"]).code, 0);
    let all = ["-S", "matrix.prune.rungs=[]"];
    let rest = project.run(&all);
    assert_eq!(pruned(&rest), BTreeSet::new());
    let mut trained = epochs(&first);
    for (point, epochs) in epochs(&rest) {
        trained.entry(point).or_default().extend(epochs);
    }
    assert_eq!(trained.len(), 6);
    assert!(trained.values().all(|epochs| *epochs == [1, 2, 3, 4, 5]), "each epoch once: {trained:?}");
    whole.run(&all);
    let digests =
        |project: &Project| project.vadpipe(["show", "p.toml", "--json", "-S", "matrix.prune.rungs=[]"]).stdout;
    let of = |output: &str| -> BTreeMap<String, Value> {
        let all: BTreeMap<String, Value> = serde_json::from_str(output).expect("JSON");
        all.into_iter().map(|(name, record)| (name, json!([record["key"], record["digest"]]))).collect()
    };
    assert_eq!(of(&digests(&project)), of(&digests(&whole)));
    // With pruning again, the decisions are the same, although the results now go beyond the rungs.
    assert_eq!(pruned(&project.run(&[])), pruned(&first));
}

#[test]
fn added_rungs_and_epochs_continue_and_equal_an_uninterrupted_sweep() {
    let (grown, at_once) = (Project::new(&SWEEP.replace("[1, 3]", "[1]")), Project::new(SWEEP));
    let mut trained: BTreeMap<String, Vec<u64>> = BTreeMap::new();
    let mut add = |run: &Run| epochs(run).into_iter().for_each(|(p, e)| trained.entry(p).or_default().extend(e));
    add(&grown.run(&[]));
    grown.edit("rungs = [1]", "rungs = [1, 3]");
    add(&grown.run(&[]));
    at_once.run(&[]);
    grown.edit("epochs = 5", "epochs = 7");
    at_once.edit("epochs = 5", "epochs = 7");
    let last = grown.run(&[]);
    add(&last);
    assert_eq!(outcome(&grown, &last), outcome(&at_once, &at_once.run(&[])));
    assert!(trained.values().all(|e| e.windows(2).all(|w| w[1] == w[0] + 1)), "no epoch twice: {trained:?}");
}

#[test]
fn comparison_does_not_wait_for_a_failed_point() {
    // A rate of 1e37 diverges in the first steps.
    let project = Project::new(&SWEEP.replace("1e-5, 1e-2", "1e37, 1e-2"));
    let run = project.try_run(&["-k", "ad", "fit"]);
    assert_eq!((run.output.code, run.failed()), (1, vec!["ad@lr=1e37".to_owned()]), "{}", run.output.stderr);
    assert_eq!(run.skipped(), ["fit@lr=1e37"], "all others were trained or pruned");
    assert_eq!(run.executed().len() + pruned(&run).len(), 1 + 5 + 5);
    // Finished results can be read, although the decisions depend on the failed point.
    let output = project.vadpipe(["metrics", "p.toml", "ad", "fit", "--json"]);
    let mut metrics: BTreeMap<String, Value> = serde_json::from_str(&output.stdout).expect("JSON");
    metrics.remove("pruned");
    let made: BTreeSet<String> = run.executed().into_iter().filter(|p| p != "data").collect();
    assert_eq!(metrics.into_keys().collect::<BTreeSet<_>>(), made);
    let finished = made.last().expect("a point");
    assert!(finished.starts_with("fit@"), "{made:?}");
    assert!(project.outputs(&[finished]).contains_key(finished));
    // A second run executes only the failed point and makes the same decisions.
    let again = project.try_run(&["-k", "ad", "fit"]);
    assert_eq!((again.failed(), again.executed(), pruned(&again)), (run.failed(), vec![], pruned(&run)));
    assert_eq!(epochs(&again), BTreeMap::new());
}

#[test]
fn failed_point_does_not_stop_the_others() {
    let sweep = SWEEP.replace("[matrix.prune]", "[params.unused]").replace("1e-5, 1e-2", "1e37, 1e-2");
    let project = Project::new(&sweep);
    let run = project.try_run(&["-k"]);
    assert_eq!((run.output.code, run.failed()), (1, vec!["ad@lr=1e37".to_owned()]));
    assert_eq!(run.skipped(), ["fit@lr=1e37", "report"]);
    assert_eq!(run.executed().len(), 1 + 5 + 5);
}

#[test]
fn target_can_name_points_by_some_coordinates() {
    let sweep = SWEEP.replace("[matrix.prune]", "[params.unused]").replace("lr = [", "dim = [2, 3]\nlr = [");
    let project = Project::new(&sweep.replace("latent_dim = 6", "latent_dim = \"${matrix.dim}\""));
    let run = project.run(&["ad@lr=0.001,*"]);
    assert_eq!(run.executed(), ["data", "ad@dim=2,lr=0.001", "ad@dim=3,lr=0.001"]);
}

#[test]
fn samples_that_repeat_values_give_a_warning_with_its_place() {
    let axis = "lr = { choice = [1e-3, 1e-2], samples = 12 }";
    let project = Project::new(&SWEEP.replace("lr = [1e-3, 1e-5, 1e-2, 3e-3, 1e-4, 3e-2]", axis));
    for command in [&["plan", "p.toml"][..], &["run", "p.toml", "data", "-q"]] {
        let output = project.vadpipe(command);
        assert_eq!(output.code, 0, "{}", output.stderr);
        let warning = "warning: axis `lr` has only 2 different values, but `samples` asks for 12\n  --> p.toml:11:41\n";
        assert!(output.stderr.starts_with(warning), "{}", output.stderr);
    }
    // Other commands don't repeat it.
    for quiet in [&["plan", "p.toml", "-S", "matrix.lr=[1e-3]"][..], &["metrics", "p.toml", "data"]] {
        let output = project.vadpipe(quiet);
        assert!(output.code == 0 && !output.stderr.contains("warning"), "{}", output.stderr);
    }
}

#[test]
fn added_samples_run_only_the_new_points() {
    let axis = "lr = { log_uniform = [1e-4, 1e-2], samples = 2, seed = 5 }";
    let project = Project::new(&SWEEP.replace("lr = [1e-3, 1e-5, 1e-2, 3e-3, 1e-4, 3e-2]", axis));
    let few = project.run(&["ad", "-S", "matrix.prune.rungs=[]"]);
    let many = project.run(&["ad", "-S", "matrix.prune.rungs=[]", "-S", "matrix.lr.samples=3"]);
    assert_eq!((few.executed().len(), many.executed().len(), many.cached().len()), (3, 1, 3));
    assert_eq!(many.cached(), few.executed());
}

#[test]
fn concurrent_runs_of_a_sweep_train_each_epoch_once_and_decide_the_same() {
    let alone = Project::new(SWEEP);
    let wanted = outcome(&alone, &alone.run(&[]));
    let project = Project::new(SWEEP);
    let children: Vec<_> = (0..4).map(|_| project.start(&["run", "p.toml", "--json"])).collect();
    let mut trained: BTreeMap<String, Vec<u64>> = BTreeMap::new();
    for child in children {
        let output = CommandOutput::of(child.wait_with_output().expect("it ends"));
        assert_eq!(output.code, 0, "{}{}", output.stdout, output.stderr);
        let events = output.stdout.lines().map(|l| serde_json::from_str(l).expect("each line is JSON")).collect();
        let run = Run { output, events };
        assert_eq!(pruned(&run), wanted.0);
        for (point, epochs) in epochs(&run) {
            trained.entry(point).or_default().extend(epochs);
        }
    }
    for (point, mut epochs) in trained {
        epochs.sort_unstable();
        assert!(epochs.windows(2).all(|w| w[1] == w[0] + 1), "{point}: {epochs:?}");
    }
    assert_eq!(outcome(&project, &project.run(&[])), wanted);
}

/// Twelve points on Fashion-MNIST.
const REAL: &str = r#"
[pipeline]
name = "real"
checkpoint_seconds = 0

[params]
epochs = 2

[matrix]
lr = [1e-3, 3e-3, 1e-2]
latent_dim = [8, 16]
batch = [16, 40]

[stages.data]
kind = "load-data"
source = "fashion-mnist"
train = 200
test = 40

[stages.ad]
kind = "train-ad"
inputs = { data = "data" }
epochs = "${params.epochs}"
lr = "${matrix.lr}"
latent_dim = "${matrix.latent_dim}"
batch = "${matrix.batch}"
channels = [32, 24, 16, 8]
"#;

#[test]
fn killed_and_extended_sweep_over_real_images_equals_an_uninterrupted_one() {
    let Some(folder) = fashion_mnist() else {
        eprintln!("Fashion-MNIST is not installed: the sweep over it was not run");
        return;
    };
    let folder = folder.display().to_string();
    let data: &[&str] = &["--data-dir", &folder];
    let (killed, at_once) = (Project::new(REAL), Project::new(&REAL.replace("epochs = 2", "epochs = 4")));
    let mut cut_short = 0;
    for (epochs, after) in [(2, 3), (2, 9), (4, 5), (4, 12)] {
        killed.write("p.toml", &REAL.replace("epochs = 2", &format!("epochs = {epochs}")));
        cut_short += usize::from(kill_after(&killed, data, after));
        if epochs == 2 && after == 9 {
            killed.run(data);
        }
    }
    assert!(cut_short >= 1, "{cut_short} runs were killed before their end");
    killed.run(data);
    let whole = at_once.run(data);
    assert_eq!(whole.of_kind("epoch").count(), 12 * 4);
    assert_eq!(killed.digests(), at_once.digests());
}
