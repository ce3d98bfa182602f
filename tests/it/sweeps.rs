//! Sweeps: which points there are, that they stand or fall alone, and which are stopped early.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead as _, BufReader};

use serde_json::{Value, json};

use crate::support::{Desk, Ran, Said, fashion_mnist, text};

/// Six learning rates, good and bad ones mixed; half of the points go on at each rung.
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

fn pruned(ran: &Ran) -> BTreeSet<String> {
    ran.last()["pruned"].as_array().expect("a list").iter().map(text).collect()
}

/// The epochs that a run trained, by point.
fn epochs(ran: &Ran) -> BTreeMap<String, Vec<u64>> {
    let mut epochs: BTreeMap<String, Vec<u64>> = BTreeMap::new();
    for event in ran.of_kind("epoch").filter(|e| text(&e["stage"]).starts_with("ad")) {
        epochs.entry(text(&event["stage"])).or_default().push(event["epoch"].as_u64().expect("a number"));
    }
    epochs
}

/// What became of every point, and the bytes of those that have a result.
fn outcome(desk: &Desk, ran: &Ran) -> (BTreeSet<String>, BTreeMap<String, String>) {
    (pruned(ran), desk.digests())
}

#[test]
fn the_worst_points_are_stopped_at_their_rungs_and_left_out() {
    let desk = Desk::new(SWEEP);
    let ran = desk.run(&[]);
    let out = pruned(&ran);
    let trainings: Vec<&String> = out.iter().filter(|p| p.starts_with("ad")).collect();
    assert!(!trainings.is_empty() && trainings.len() < 5, "{out:?}");
    assert!(!out.contains("ad@lr=0.001"), "the first always goes on");
    for point in &trainings {
        assert!(out.contains(&point.replace("ad", "fit")), "what hangs on it goes with it: {out:?}");
        let trained = epochs(&ran)[*point].clone();
        assert!([1, 3].contains(&trained.len()), "{point} ends at a rung: {trained:?}");
    }
    assert!(epochs(&ran).values().all(|e| e.windows(2).all(|w| w[1] == w[0] + 1)), "no epoch twice");
    assert!(ran.executed().contains(&"report".to_owned()));
    assert_eq!(ran.of_kind("stage-pruned").count(), out.len());
    // The report shows those that are left, and of the others that they were pruned.
    let shown = &desk.vadpipe(["show", "p.toml", "report", "--json"]).out;
    let shown: Value = serde_json::from_str(shown).expect("JSON");
    let members = shown["report"]["components"]["inputs"]["shown"]["Many"].as_object().expect("labels");
    assert_eq!(members.len(), 12 - out.len());
    assert!(members.keys().all(|label| !out.contains(label)));
    let page = desk.read("reports/sweep.report.html");
    assert!(page.contains(&format!("{} pruned", out.len())), "the report counts them");
    // Nothing is left to do, and everybody says so.
    let again = desk.run(&[]);
    assert_eq!((again.executed(), pruned(&again)), (vec![], out.clone()));
    assert_eq!(desk.vadpipe(["plan", "p.toml", "--check"]).code, 0);
    let plan = desk.plan(&[]);
    let said: BTreeSet<String> = plan.values().filter(|s| s["state"] == "pruned").map(|s| text(&s["name"])).collect();
    assert_eq!(said, out);
    assert!(out.iter().all(|p| plan[p]["estimate_seconds"].is_null()), "what won't run takes no time: {plan:?}");
    let text_of_plan = desk.vadpipe(["plan", "p.toml"]).out;
    assert_eq!(text_of_plan.lines().filter(|l| l.starts_with("pruned ")).count(), out.len(), "{text_of_plan}");
    let listed = desk.vadpipe(["log"]).out;
    assert!(listed.lines().next().expect("a header").contains("pruned"), "{listed}");
    for command in ["metrics", "show"] {
        let note = desk.vadpipe([command, "p.toml"]).err;
        assert!(
            note.contains(&format!("{} of ", out.len())) && note.contains("stages are pruned"),
            "{command}: {note}"
        );
        assert!(!note.contains("not in the cache"), "{command}: {note}");
    }
    let status: Value = serde_json::from_str(&desk.vadpipe(["status", "p.toml", "--json"]).out).expect("JSON");
    assert_eq!(status["pruned"].as_array().expect("a list").len(), out.len());
    assert!(desk.vadpipe(["log", "last"]).out.contains("pruned"));
}

/// Kills a run once it has told of so many epochs; whether it was killed before its end.
fn kill_after(desk: &Desk, more: &[&str], epochs: usize) -> bool {
    let mut child = desk.start(&[&["run", "p.toml", "--json"], more].concat());
    let mut lines = BufReader::new(child.stdout.take().expect("its output")).lines().map_while(Result::ok);
    let told = lines.by_ref().filter(|line| line.starts_with("{\"event\":\"epoch\"")).take(epochs).count();
    child.kill().expect("killed");
    let killed = child.wait().expect("it ends").code().is_none();
    killed && told == epochs
}

#[test]
fn explain_shows_the_figures_that_a_decision_was_made_from() {
    let desk = Desk::new(SWEEP);
    let before = desk.plan(&["ad"]);
    assert_eq!(before["ad@lr=0.001"]["state"], "miss");
    let ran = desk.run(&["ad"]);
    let point = pruned(&ran).into_iter().next().expect("a pruned point");
    let said = desk.vadpipe(["explain", "p.toml", &point]);
    assert!(said.out.contains("ends here") && said.out.contains("ad@lr=0.001\n"), "{}", said.out);
    let said = desk.vadpipe(["explain", "p.toml", &point, "--json"]);
    let explained: Value = serde_json::from_str(&said.out).expect("JSON");
    let rungs = explained["stages"][0]["rungs"].as_array().expect("rungs").clone();
    let last = rungs.last().expect("a rung");
    assert_eq!(last["verdict"]["goes_on"], false);
    let compared = last["compared"].as_array().expect("figures");
    assert_eq!(compared.len() as u64, last["verdict"]["of"].as_u64().expect("a number"));
    // The figures are those that the trainings reported.
    let epoch = &last["verdict"]["epoch"];
    for one in compared {
        let told = ran.of_kind("epoch").find(|e| e["stage"] == one["name"] && e["epoch"] == *epoch);
        assert_eq!(told.expect("that epoch was trained")["figures"]["loss"], one["value"]);
    }
    let own = &compared.last().expect("its own")["value"];
    assert_eq!(own, &last["verdict"]["value"]);
}

#[test]
fn decisions_and_bytes_are_the_same_however_it_is_run() {
    let one = Desk::new(SWEEP);
    let wanted = outcome(&one, &one.run(&["-j", "1"]));
    let two = Desk::new(SWEEP);
    assert_eq!(outcome(&two, &two.run(&["-j", "2", "--threads", "2"])), wanted);
    // Points one by one, in any order: each brings the ones that it is compared with.
    let single = Desk::new(SWEEP);
    for point in ["ad@lr=0.01", "fit@lr=0.001", "ad@lr=0.03", "ad"] {
        single.run(&[point]);
    }
    assert_eq!(outcome(&single, &single.run(&[])), wanted);
    let killed = Desk::new(&SWEEP.replace("checkpoint_seconds = 1000", "checkpoint_seconds = 0"));
    let cut_short = [1, 3, 2, 1, 4, 2].into_iter().filter(|epochs| kill_after(&killed, &[], *epochs)).count();
    assert!(cut_short >= 1, "{cut_short} runs were killed before their end");
    assert_eq!(outcome(&killed, &killed.run(&[])), wanted);
}

#[test]
fn pruning_is_in_no_key_and_a_pruned_point_goes_on_from_its_rung() {
    let (desk, whole) = (Desk::new(SWEEP), Desk::new(SWEEP));
    let first = desk.run(&[]);
    // Also when a collection came between.
    assert_eq!(desk.vadpipe(["gc"]).code, 0);
    let all = ["-S", "matrix.prune.rungs=[]"];
    let rest = desk.run(&all);
    assert_eq!(pruned(&rest), BTreeSet::new());
    let mut trained = epochs(&first);
    for (point, epochs) in epochs(&rest) {
        trained.entry(point).or_default().extend(epochs);
    }
    assert_eq!(trained.len(), 6);
    assert!(trained.values().all(|epochs| *epochs == [1, 2, 3, 4, 5]), "each epoch once: {trained:?}");
    whole.run(&all);
    let digests = |desk: &Desk| desk.vadpipe(["show", "p.toml", "--json", "-S", "matrix.prune.rungs=[]"]).out;
    let of = |said: &str| -> BTreeMap<String, Value> {
        let all: BTreeMap<String, Value> = serde_json::from_str(said).expect("JSON");
        all.into_iter().map(|(name, record)| (name, json!([record["key"], record["digest"]]))).collect()
    };
    assert_eq!(of(&digests(&desk)), of(&digests(&whole)));
    // And back: what was decided is decided again, from results that go further than the rungs.
    assert_eq!(pruned(&desk.run(&[])), pruned(&first));
}

#[test]
fn more_rungs_and_more_epochs_continue_and_give_what_one_go_gives() {
    let (grown, at_once) = (Desk::new(&SWEEP.replace("[1, 3]", "[1]")), Desk::new(SWEEP));
    let mut trained: BTreeMap<String, Vec<u64>> = BTreeMap::new();
    let mut add = |ran: &Ran| epochs(ran).into_iter().for_each(|(p, e)| trained.entry(p).or_default().extend(e));
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
fn a_point_that_failed_is_not_waited_for() {
    // So large a rate diverges in its first steps.
    let desk = Desk::new(&SWEEP.replace("1e-5, 1e-2", "1e37, 1e-2"));
    let ran = desk.try_run(&["-k", "ad", "fit"]);
    assert_eq!((ran.said.code, ran.failed()), (1, vec!["ad@lr=1e37".to_owned()]), "{}", ran.said.err);
    assert_eq!(ran.skipped(), ["fit@lr=1e37"], "all others were trained or pruned");
    assert_eq!(ran.executed().len() + pruned(&ran).len(), 1 + 5 + 5);
    // What is finished can be read, although nobody knows without training what became of the one that failed.
    let said = desk.vadpipe(["metrics", "p.toml", "ad", "fit", "--json"]);
    let metrics: BTreeMap<String, Value> = serde_json::from_str(&said.out).expect("JSON");
    let made: BTreeSet<String> = ran.executed().into_iter().filter(|p| p != "data").collect();
    assert_eq!(metrics.into_keys().collect::<BTreeSet<_>>(), made);
    let finished = made.last().expect("a point");
    assert!(finished.starts_with("fit@"), "{made:?}");
    assert!(desk.outputs(&[finished]).contains_key(finished));
    // Trying once more runs what failed and no epoch of the others, and decides the same.
    let again = desk.try_run(&["-k", "ad", "fit"]);
    assert_eq!((again.failed(), again.executed(), pruned(&again)), (ran.failed(), vec![], pruned(&ran)));
    assert_eq!(epochs(&again), BTreeMap::new());
}

#[test]
fn a_failed_point_does_not_stop_the_others() {
    let sweep = SWEEP.replace("[matrix.prune]", "[params.unused]").replace("1e-5, 1e-2", "1e37, 1e-2");
    let desk = Desk::new(&sweep);
    let ran = desk.try_run(&["-k"]);
    assert_eq!((ran.said.code, ran.failed()), (1, vec!["ad@lr=1e37".to_owned()]));
    assert_eq!(ran.skipped(), ["fit@lr=1e37", "report"]);
    assert_eq!(ran.executed().len(), 1 + 5 + 5);
}

#[test]
fn points_are_named_by_some_of_their_coordinates() {
    let sweep = SWEEP.replace("[matrix.prune]", "[params.unused]").replace("lr = [", "dim = [2, 3]\nlr = [");
    let desk = Desk::new(&sweep.replace("latent_dim = 6", "latent_dim = \"${matrix.dim}\""));
    let ran = desk.run(&["ad@lr=0.001,*"]);
    assert_eq!(ran.executed(), ["data", "ad@dim=2,lr=0.001", "ad@dim=3,lr=0.001"]);
}

#[test]
fn more_samples_run_only_the_new_points() {
    let axis = "lr = { log_uniform = [1e-4, 1e-2], samples = 2, seed = 5 }";
    let desk = Desk::new(&SWEEP.replace("lr = [1e-3, 1e-5, 1e-2, 3e-3, 1e-4, 3e-2]", axis));
    let few = desk.run(&["ad", "-S", "matrix.prune.rungs=[]"]);
    let many = desk.run(&["ad", "-S", "matrix.prune.rungs=[]", "-S", "matrix.lr.samples=3"]);
    assert_eq!((few.executed().len(), many.executed().len(), many.cached().len()), (3, 1, 3));
    assert_eq!(many.cached(), few.executed());
}

#[test]
fn several_processes_on_one_sweep_train_no_epoch_twice_and_decide_the_same() {
    let alone = Desk::new(SWEEP);
    let wanted = outcome(&alone, &alone.run(&[]));
    let desk = Desk::new(SWEEP);
    let children: Vec<_> = (0..4).map(|_| desk.start(&["run", "p.toml", "--json"])).collect();
    let mut trained: BTreeMap<String, Vec<u64>> = BTreeMap::new();
    for child in children {
        let said = Said::of(child.wait_with_output().expect("it ends"));
        assert_eq!(said.code, 0, "{}{}", said.out, said.err);
        let events = said.out.lines().map(|l| serde_json::from_str(l).expect("each line is JSON")).collect();
        let ran = Ran { said, events };
        assert_eq!(pruned(&ran), wanted.0);
        for (point, epochs) in epochs(&ran) {
            trained.entry(point).or_default().extend(epochs);
        }
    }
    for (point, mut epochs) in trained {
        epochs.sort_unstable();
        assert!(epochs.windows(2).all(|w| w[1] == w[0] + 1), "{point}: {epochs:?}");
    }
    assert_eq!(outcome(&desk, &desk.run(&[])), wanted);
}

/// Twelve points on the real images.
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
fn a_sweep_over_real_images_that_is_killed_and_extended_gives_the_bytes_of_one_go() {
    let Some(folder) = fashion_mnist() else {
        eprintln!("Fashion-MNIST is not here: the sweep over it was not run");
        return;
    };
    let folder = folder.display().to_string();
    let data: &[&str] = &["--data-dir", &folder];
    let (killed, at_once) = (Desk::new(REAL), Desk::new(&REAL.replace("epochs = 2", "epochs = 4")));
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
