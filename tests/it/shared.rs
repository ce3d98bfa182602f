//! One store for a team: what one machine makes, the others do not run.

mod failing;

use std::fs;
use std::path::{Path, PathBuf};

use crate::support::{CommandOutput, MINI, Project, Run, json};
use crate::training;

/// A sweep of which some points are pruned.
const PRUNED: &str = r#"
[pipeline]
name = "p"
seed = 3

[matrix]
lr = [0.001, 0.1, 0.01]

[matrix.prune]
metric = "ad.loss"
rungs = [1]
reduction = 3

[stages.data]
kind = "load-data"
source = "synthetic"
train = 40
test = 20

[stages.ad]
kind = "train-ad"
inputs = { data = "data" }
lr = "${matrix.lr}"
epochs = 6
latent_dim = 6
channels = [16, 12, 8, 8]
"#;

/// A machine of the team, with its own cache, and the address of the store.
struct Machine {
    project: Project,
    store: PathBuf,
}

impl Machine {
    fn new(store: &Path, pipeline: &str) -> Self {
        Self { project: Project::new(pipeline), store: store.to_owned() }
    }

    fn with_script(store: &Path) -> Option<Self> {
        let project = Project::with_script(training::PIPELINE, include_str!("training/train.py"))?;
        Some(Self { project, store: store.to_owned() })
    }

    fn vadpipe(&self, args: &[&str]) -> CommandOutput {
        let store = self.store.display().to_string();
        self.project.vadpipe(args.iter().copied().chain(["--store", &store]))
    }

    fn try_run(&self, more: &[&str]) -> Run {
        Run::of(self.vadpipe(&[&["run", "p.toml", "--json"], more].concat()))
    }

    fn run(&self, more: &[&str]) -> Run {
        let run = self.try_run(more);
        assert_eq!(run.output.code, 0, "{}\n{}", run.output.stdout, run.output.stderr);
        run
    }

    fn warnings(run: &Run) -> Vec<String> {
        run.of_kind("warning").map(|event| event["message"].as_str().expect("text").to_owned()).collect()
    }
}

fn store() -> tempfile::TempDir {
    tempfile::tempdir().expect("a folder")
}

/// The files of a store whose path contains this.
fn objects(store: &Path, part: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut open = vec![store.to_owned()];
    while let Some(folder) = open.pop() {
        for entry in fs::read_dir(folder).expect("a folder") {
            let path = entry.expect("an entry").path();
            match path.is_dir() {
                true => open.push(path),
                false if path.strip_prefix(store).expect("below").display().to_string().contains(part) => {
                    found.push(path)
                }
                false => {}
            }
        }
    }
    found.sort();
    found
}

fn flip(path: &Path) {
    let mut bytes = fs::read(path).expect("a file");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(path, bytes).expect("a file");
}

#[test]
fn second_machine_runs_nothing_and_its_no_op_asks_for_nothing() {
    let store = store();
    let first = Machine::new(store.path(), MINI);
    let made = first.run(&["--store-write"]);
    assert!(!made.executed().is_empty());
    let second = Machine::new(store.path(), MINI);
    let run = second.run(&[]);
    assert_eq!(run.executed(), [""; 0]);
    let pulled = run.of_kind("pulled").next().expect("an event");
    assert_eq!(pulled["results"].as_u64(), Some(made.executed().len() as u64));
    assert_eq!(second.project.digests(), first.project.digests());
    assert_eq!(Machine::warnings(&run), [""; 0]);
    // What is in the cache needs no store.
    fs::remove_dir_all(store.path()).expect("removed");
    let run = second.run(&[]);
    assert_eq!((run.executed(), Machine::warnings(&run)), (vec![], vec![]));
}

#[test]
fn plan_counts_what_the_store_has_and_copies_nothing() {
    let store = store();
    let first = Machine::new(store.path(), MINI);
    let stages = first.run(&["--store-write"]).executed().len();
    let second = Machine::new(store.path(), MINI);
    let plan = second.vadpipe(&["plan", "p.toml", "--check"]);
    assert_eq!(plan.code, 0, "{}", plan.stderr);
    assert!(plan.stderr.contains(&format!("{stages} stages: {stages} in the store")), "{}", plan.stderr);
    assert!(!second.project.path("cache").exists());
    second.project.edit("epochs = 3", "epochs = 5");
    let plan = json(&second.vadpipe(&["plan", "p.toml", "--json"]));
    let stages = plan["stages"].as_array().expect("stages");
    let ad = stages.iter().find(|stage| stage["name"] == "ad").expect("a stage");
    assert_eq!((&ad["state"], &ad["epochs"]["cached"], &ad["in_store"]), (&"miss".into(), &3.into(), &false.into()));
    assert_eq!(stages.iter().find(|stage| stage["name"] == "data").expect("a stage")["in_store"], true);
    fs::remove_dir_all(store.path()).expect("removed");
    fs::write(store.path(), "").expect("a file");
    assert_eq!(second.vadpipe(&["plan", "p.toml"]).code, 2);
    fs::remove_file(store.path()).expect("removed");
    fs::create_dir(store.path()).expect("a folder");
}

#[test]
fn training_is_extended_on_another_machine() {
    let store = store();
    let Some(first) = Machine::with_script(store.path()) else { return };
    first.run(&["--store-write"]);
    let second = Machine::with_script(store.path()).expect("Python is installed");
    second.project.edit("epochs = 40", "epochs = 60");
    let run = second.run(&["--store-write"]);
    assert_eq!(run.trained(), (41..=60).collect::<Vec<_>>());
    assert_eq!(run.of_kind("pulled").next().expect("an event")["states"], 1);
    // The first machine takes the longer training, and it is that of one go.
    first.project.edit("epochs = 40", "epochs = 60");
    assert_eq!(first.run(&[]).trained(), [0u64; 0]);
    let in_one_go = Machine::with_script(store.path()).expect("Python is installed");
    in_one_go.project.edit("epochs = 40", "epochs = 60");
    in_one_go.project.run(&["--no-store"]);
    assert_eq!(first.project.digests(), in_one_go.project.digests());
}

#[test]
fn result_of_a_program_counts_only_with_the_files_that_it_read() {
    let store = store();
    let import = "HOOK = lambda epoch: __import__('helper')\n";
    let machine = |helper: &str| {
        let machine = Machine::with_script(store.path())?;
        machine.project.write("helper.py", helper);
        machine.project.write("train.py", &format!("{import}{}", include_str!("training/train.py")));
        Some(machine)
    };
    let Some(first) = machine("x = 1\n") else { return };
    first.run(&["--store-write"]);
    let other = machine("x = 2\n").expect("Python is installed");
    assert_eq!(other.run(&["--store-write"]).trained().len(), 40, "neither the result nor a state counts");
    for helper in ["x = 1\n", "x = 2\n"] {
        assert_eq!(machine(helper).expect("Python is installed").run(&[]).trained(), [0u64; 0], "{helper}");
    }
}

#[test]
fn damaged_objects_are_reported_and_made_again_with_the_same_digests() {
    let store = store();
    let first = Machine::new(store.path(), MINI);
    let stages = first.run(&["--store-write"]).executed().len();
    let expected = first.project.digests();
    let copy = tempfile::tempdir().expect("a folder");
    for part in ["blob/", "result/"] {
        for how in ["flipped", "cut", "removed", "empty"] {
            let damaged = copy.path().join(format!("{}{how}", part.trim_end_matches('/')));
            assert!(
                std::process::Command::new("cp")
                    .arg("-r")
                    .arg(store.path())
                    .arg(&damaged)
                    .status()
                    .expect("cp")
                    .success()
            );
            let all = objects(&damaged, part);
            let some: Vec<_> = all.iter().step_by(3).collect();
            for path in &some {
                match how {
                    "flipped" => flip(path),
                    "cut" => fs::File::options()
                        .write(true)
                        .open(path)
                        .and_then(|f| f.set_len(f.metadata()?.len() / 2))
                        .expect("cut"),
                    "removed" => fs::remove_file(path).expect("removed"),
                    _ => fs::write(path, "").expect("empty"),
                }
            }
            let second = Machine::new(&damaged, MINI);
            let run = second.run(&[]);
            assert_eq!(second.project.digests(), expected, "{part} {how}");
            assert!(!run.executed().is_empty() && run.executed().len() < stages, "{part} {how}: {:?}", run.executed());
            // A record that does not exist is an ordinary miss.
            let is_reported = !(part == "result/" && how == "removed");
            assert_eq!(Machine::warnings(&run).is_empty(), !is_reported, "{part} {how}: {:?}", Machine::warnings(&run));
        }
    }
}

#[test]
fn result_that_the_store_has_already_replaces_the_own_one() {
    let store = store();
    let pipeline = "[pipeline]\nname = \"p\"\n[stages.a]\nkind = \"command\"\nargv = [\"sh\", \"-c\", \"date +%s%N > time\"]\n\
                    outputs = { a = \"time\" }\n[stages.b]\nkind = \"command\"\ninputs = { a = \"a\" }\n\
                    argv = [\"cp\", \"{inputs.a}/time\", \"b\"]\noutputs = { b = \"b\" }\n";
    let first = Machine::new(store.path(), pipeline);
    first.run(&["--store-write"]);
    let second = Machine::new(store.path(), pipeline);
    second.project.run(&["--no-store"]);
    assert_ne!(second.project.digests(), first.project.digests());
    // It made its own result before it knew the store.
    let run = second.run(&["--store-write", "-f"]);
    let warnings = Machine::warnings(&run);
    assert!(warnings.iter().any(|w| w.contains("the store has another result of `a`")), "{warnings:?}");
    assert_eq!(second.project.digests(), first.project.digests());
    assert_eq!(objects(store.path(), "word/").len(), 1, "the own result stays beside it");
}

#[test]
fn push_and_pull_copy_a_pipeline_once() {
    let store = store();
    let first = Machine::new(store.path(), MINI);
    first.project.run(&[]);
    let pushed = json(&first.vadpipe(&["push", "p.toml", "--json"]));
    assert_eq!(pushed["results"].as_u64(), Some(first.project.digests().len() as u64), "{pushed}");
    assert!(pushed["bytes"].as_u64() > Some(1000) && pushed["states"].as_u64() > Some(1), "{pushed}");
    let again = json(&first.vadpipe(&["push", "p.toml", "--json"]));
    assert_eq!((&again["results"], &again["states"], &again["bytes"]), (&0.into(), &0.into(), &0.into()));
    let second = Machine::new(store.path(), MINI);
    let pulled = json(&second.vadpipe(&["pull", "p.toml", "ad", "--json"]));
    assert_eq!((&pulled["results"], &pulled["missing"]), (&2.into(), &serde_json::json!([])), "{pulled}");
    let pulled = second.vadpipe(&["pull", "p.toml"]);
    assert!(pulled.stdout.contains("; nothing is missing"), "{}", pulled.stdout);
    assert_eq!(second.project.run(&["--no-store"]).executed(), [""; 0]);
}

#[test]
fn only_records_of_trusted_keys_are_taken() {
    let store = store();
    let signed = |name: &str| {
        let machine = Machine::new(store.path(), MINI);
        let made = json(&machine.project.vadpipe(["store", "keygen", "--json"]));
        assert_eq!(made["used"], true, "{name}: {made}");
        (machine, made["public"].as_str().expect("a key").to_owned())
    };
    let (alice, alices_key) = signed("alice");
    let stages = alice.run(&["--store-write"]).executed().len();
    let trusting = |machine: &Machine, key: &str| {
        let config = format!("[store.trusted]\nalice = \"{key}\"\n");
        machine.project.write(".config/vadpipe/config.toml", &config);
    };
    let bob = Machine::new(store.path(), MINI);
    trusting(&bob, &alices_key);
    assert_eq!(bob.run(&[]).executed(), [""; 0]);
    // Somebody else's key, and a store without signatures.
    let (eve, eves_key) = signed("eve");
    trusting(&eve, &eves_key);
    let run = eve.run(&[]);
    assert_eq!(run.executed().len(), stages);
    let warnings = Machine::warnings(&run);
    assert!(warnings.iter().any(|w| w.contains("which is not a trusted key")), "{warnings:?}");
    // A record that is signed over other bytes.
    for record in objects(store.path(), "result/") {
        let text = fs::read_to_string(&record).expect("a record");
        fs::write(&record, text.replace("\"seconds\":", "\"seconds\": ")).expect("a record");
    }
    let carol = Machine::new(store.path(), MINI);
    let run = carol.run(&[]);
    assert_eq!(run.executed().len(), stages);
    assert!(
        Machine::warnings(&run)[0].contains("its signature is not that of its content"),
        "{:?}",
        Machine::warnings(&run)
    );
    let unsigned = self::store();
    Machine::new(unsigned.path(), MINI).run(&["--store-write"]);
    let dave = Machine::new(unsigned.path(), MINI);
    trusting(&dave, &alices_key);
    let run = dave.run(&[]);
    assert!(Machine::warnings(&run)[0].contains("it is not signed"), "{:?}", Machine::warnings(&run));
    assert_eq!(run.executed().len(), stages);
}

#[test]
fn wrong_stores_are_refused_before_anything_runs() {
    let store = store();
    let machine = Machine::new(store.path(), MINI);
    let refused = |address: &str, more: &[&str], message: &str| {
        let args = ["run", "p.toml", "--store", address];
        let output = machine.project.vadpipe(args.iter().chain(more));
        assert_eq!(output.code, 2, "{address}: {}", output.stderr);
        assert!(output.stderr.contains(message), "{address}: {}", output.stderr);
        assert!(!machine.project.path("cache/runs").exists(), "{address}: nothing ran");
    };
    refused("nowhere", &[], "there is no store nowhere: no such folder");
    refused("ftp://host/x", &[], "no kind of store is called `ftp`");
    refused("s3://", &[], "it names no bucket");
    refused("s3:/bucket/x", &[], "after the kind of store comes `://`");
    fs::write(store.path().join("thesis.tex"), "").expect("a file");
    let other = store.path().display().to_string();
    refused(&other, &["--store-write"], "is not a store of vadpipe: it holds");
    fs::write(store.path().join("vadpipe.json"), r#"{"format":2,"is":"a store of vadpipe, format 2"}"#)
        .expect("a file");
    refused(&other, &[], "has format 2; this vadpipe reads formats up to 1");
    fs::write(store.path().join("vadpipe.json"), "{}").expect("a file");
    refused(&other, &[], "is not a store of vadpipe");
    fs::remove_dir_all(store.path()).expect("removed");
    machine.project.write("file", "");
    refused("file", &["--store-write"], "there is no store file: it is a file");
    machine.project.write(".config/vadpipe/config.toml", "[store]\nurll = \"x\"\n");
    refused("nowhere", &[], "config.toml is wrong at line 2, column 1");
    machine.project.write(".config/vadpipe/config.toml", "[store]\nkey = \"none.key\"\n");
    refused("nowhere", &[], "can't read the key");
    machine.project.write(".config/vadpipe/config.toml", "[store.trusted]\nalice = \"rsa:0\"\n");
    refused("nowhere", &[], "the trusted key of alice: `rsa:0` is not a public key");
    let key = format!("ed25519:{}", "0".repeat(64));
    machine.project.write(".config/vadpipe/config.toml", &format!("[store.trusted]\nalice = \"{key}\"\n"));
    refused("new", &["--store-write"], "has no key to sign its own");
    let output = machine.project.vadpipe(["run", "p.toml", "--store-write"]);
    assert!(output.code == 2 && output.stderr.contains("no shared store is named"), "{}", output.stderr);
}

#[test]
fn pulled_training_can_be_extended_without_the_store() {
    let store = store();
    let Some(first) = Machine::with_script(store.path()) else { return };
    first.run(&["--store-write"]);
    let second = Machine::with_script(store.path()).expect("Python is installed");
    let pulled = json(&second.vadpipe(&["pull", "p.toml", "--json"]));
    assert_eq!((&pulled["results"], &pulled["states"]), (&1.into(), &1.into()), "{pulled}");
    second.project.edit("epochs = 40", "epochs = 50");
    assert_eq!(second.project.run(&["--no-store"]).trained(), (41..=50).collect::<Vec<_>>());
}

#[test]
fn folder_in_the_configuration_may_be_below_the_home_folder_or_beside_the_file() {
    for (url, place) in [("~/team", "team"), ("team", ".config/vadpipe/team")] {
        let project = Project::new(MINI);
        project.write(".config/vadpipe/config.toml", &format!("[store]\nurl = \"{url}\"\nwrite = true\n"));
        project.run(&[]);
        assert!(!objects(&project.path(place), "result/").is_empty(), "{url}");
    }
}

#[test]
fn store_is_only_read_without_permission() {
    let store = store();
    fs::create_dir(store.path().join("s")).expect("a folder");
    let machine = Machine::new(&store.path().join("s"), MINI);
    machine.run(&[]);
    assert_eq!(objects(store.path(), ""), Vec::<PathBuf>::new());
    let url = machine.store.display().to_string();
    machine.project.write(".config/vadpipe/config.toml", &format!("[store]\nurl = \"{url}\"\nwrite = true\n"));
    machine.project.edit("epochs = 3", "epochs = 4");
    machine.project.run(&[]);
    assert!(!objects(store.path(), "result/").is_empty(), "the configuration names the store and allows to write");
    let shown = json(&machine.project.vadpipe(["config", "--json"]));
    assert_eq!((&shown["store"]["url"], &shown["store"]["write"]), (&url.into(), &true.into()), "{shown}");
}

/// A pipeline whose only stage makes other bytes each time.
const CLOCK: &str = r#"
[pipeline]
name = "p"
[stages.a]
kind = "command"
argv = ["sh", "-c", "date +%s%N > time"]
outputs = { a = "time" }
"#;

#[test]
fn machines_that_verify_a_result_add_their_word() {
    let store = store();
    let machine = |pipeline: &str| {
        let machine = Machine::new(store.path(), pipeline);
        machine.project.vadpipe(["store", "keygen"]);
        machine
    };
    machine(MINI).run(&["--store-write"]);
    let second = machine(MINI);
    let verified = json(&second.vadpipe(&["verify", "p.toml", "ad", "--store-write", "--json"]));
    let voices = verified["voices"][0]["voices"].as_array().expect("voices").clone();
    assert_eq!(voices.len(), 2, "{verified}");
    assert_eq!((&voices[1]["name"], &voices[1]["differs"]), (&"you".into(), &serde_json::Value::Null));
    assert_eq!(voices[0]["digest"], voices[1]["digest"]);
    let third = machine(MINI).vadpipe(&["verify", "p.toml", "ad"]);
    assert!(third.stdout.contains("ad: made by ") && third.stdout.contains(" agrees"), "{}", third.stdout);
    // A program that is not reproducible.
    machine(CLOCK).run(&["--store-write"]);
    let verified = machine(CLOCK).vadpipe(&["verify", "p.toml", "a", "--store-write"]);
    assert_eq!(verified.code, 3, "{}", verified.stderr);
    assert!(
        verified.stdout.contains("you (") && verified.stdout.contains(" differs in file `time`"),
        "{}",
        verified.stdout
    );
    let status = json(&second.vadpipe(&["store", "status", "--json"]));
    assert_eq!(status["disputed"].as_array().expect("a list").len(), 1, "{status}");
    assert_eq!((&status["disputed"][0]["point"], &status["words"]), (&"a".into(), &2.into()), "{status}");
    let status = second.vadpipe(&["store", "status"]);
    assert!(
        status.stdout.contains("a: made by ") && status.stdout.contains("differs in file `time`"),
        "{}",
        status.stdout
    );
}

#[test]
fn doctor_removes_what_is_damaged_and_the_next_push_writes_it_again() {
    let store = store();
    let machine = Machine::new(store.path(), MINI);
    machine.run(&["--store-write"]);
    let doctor = |more: &[&str]| machine.vadpipe(&[&["store", "doctor", "--json"], more].concat());
    let report = json(&doctor(&["--blobs"]));
    assert_eq!((&report["healthy"], &report["atomic"]), (&true.into(), &true.into()), "{report}");
    let (results, blobs) = (objects(store.path(), "result/"), objects(store.path(), "blob/"));
    flip(&results[0]);
    fs::write(&results[1], "").expect("empty");
    fs::remove_file(&blobs[0]).expect("removed");
    flip(&blobs[1]);
    fs::write(&blobs[2], "x").expect("another length");
    let found = doctor(&["-n", "--blobs"]);
    assert_eq!(found.code, 5, "{}", found.stderr);
    assert_eq!(objects(store.path(), "result/").len(), results.len(), "-n removes nothing");
    let report = json(&doctor(&["--blobs"]));
    let problems: Vec<&str> =
        report["problems"].as_array().expect("a list").iter().filter_map(|p| p.as_str()).collect();
    for part in ["it is altered", "it is not a record", "its bytes are not those of its name", "is missing or damaged"]
    {
        assert!(problems.iter().any(|problem| problem.contains(part)), "{part}: {problems:?}");
    }
    assert_eq!(json(&doctor(&["--blobs"]))["healthy"], true);
    machine.vadpipe(&["push", "p.toml"]);
    assert_eq!(objects(store.path(), "result/"), results);
    assert_eq!(objects(store.path(), "blob/"), blobs);
    let second = Machine::new(store.path(), MINI);
    assert_eq!(second.run(&[]).executed(), [""; 0]);
}

#[test]
fn gc_keeps_what_the_newest_runs_need_and_what_is_young() {
    let store = store();
    let machine = Machine::new(store.path(), MINI);
    machine.run(&["--store-write"]);
    let first = (objects(store.path(), "result/"), objects(store.path(), "blob/"));
    machine.project.edit("epochs = 3", "epochs = 5");
    machine.run(&["--store-write"]);
    let all = (objects(store.path(), "result/"), objects(store.path(), "blob/"));
    assert!(all.0.len() > first.0.len() && all.1.len() > first.1.len());
    let gc = |args: &[&str]| machine.vadpipe(&[&["store", "gc", "--json"], args].concat());
    assert_eq!(json(&gc(&["--keep-runs", "1"]))["records_removed"], 0, "everything is young");
    let refused = gc(&["--grace", "0s"]);
    assert!(refused.code == 2 && refused.stderr.contains("may lose what they push"), "{}", refused.stderr);
    let kept = json(&gc(&["--keep-runs", "2", "--grace", "0s", "--force"]));
    assert_eq!((&kept["records_removed"], &kept["blobs_removed"]), (&0.into(), &0.into()), "{kept}");
    let counted = json(&gc(&["--keep-runs", "1", "--grace", "0s", "--force", "-n"]));
    assert!(counted["records_removed"].as_u64() > Some(0) && counted["bytes_removed"].as_u64() > Some(0), "{counted}");
    assert_eq!(objects(store.path(), "result/"), all.0, "-n removes nothing");
    assert_eq!(
        json(&gc(&["--keep-runs", "1", "--grace", "0s", "--force"]))["records_removed"],
        counted["records_removed"]
    );
    assert!(objects(store.path(), "result/").len() < all.0.len());
    let second = Machine::new(store.path(), MINI);
    second.project.edit("epochs = 3", "epochs = 5");
    assert_eq!(second.run(&[]).executed(), [""; 0], "the newest run is complete");
    assert_eq!(json(&second.vadpipe(&["store", "doctor", "-n", "--json"]))["healthy"], true);
}

#[test]
fn machine_signs_only_what_it_made() {
    let (first, second) = (store(), store());
    let eve = Machine::new(first.path(), MINI);
    let stages = eve.run(&["--store-write"]).executed().len();
    // Bob trusts everybody, and copies what he has got to another store.
    let mut bob = Machine::new(first.path(), MINI);
    let key = json(&bob.project.vadpipe(["store", "keygen", "--json"]))["public"].as_str().expect("a key").to_owned();
    assert_eq!(bob.run(&[]).executed(), [""; 0]);
    bob.store = second.path().to_owned();
    let pushed = json(&bob.vadpipe(&["push", "p.toml", "--json"]));
    assert_eq!(pushed["results"].as_u64(), Some(stages as u64));
    let carol = Machine::new(second.path(), MINI);
    carol.project.write(".config/vadpipe/config.toml", &format!("[store.trusted]\nbob = \"{key}\"\n"));
    assert_eq!(carol.run(&[]).executed().len(), stages, "they carry no signature of his");
}

#[test]
fn team_that_begins_to_sign_replaces_unsigned_records() {
    let store = store();
    let alice = Machine::new(store.path(), MINI);
    alice.run(&["--store-write"]);
    let key = json(&alice.project.vadpipe(["store", "keygen", "--json"]))["public"].as_str().expect("a key").to_owned();
    let config = format!("[store.trusted]\nalice = \"{key}\"\n");
    alice.project.write(".config/vadpipe/config.toml", &config);
    assert!(json(&alice.vadpipe(&["push", "p.toml", "--json"]))["results"].as_u64() > Some(0));
    let bob = Machine::new(store.path(), MINI);
    bob.project.write(".config/vadpipe/config.toml", &config);
    assert_eq!(bob.run(&[]).executed(), [""; 0]);
}

#[test]
fn push_writes_lost_blobs_again() {
    let store = store();
    let first = Machine::new(store.path(), MINI);
    first.run(&["--store-write"]);
    let blobs = objects(store.path(), "blob/");
    blobs.iter().step_by(2).for_each(|blob| fs::remove_file(blob).expect("removed"));
    first.vadpipe(&["push", "p.toml"]);
    assert_eq!(objects(store.path(), "blob/"), blobs);
    assert_eq!(Machine::new(store.path(), MINI).run(&[]).executed(), [""; 0]);
}

#[test]
fn pruned_sweep_that_is_complete_asks_for_nothing() {
    let store = store();
    let machine = Machine::new(store.path(), PRUNED);
    let first = machine.run(&["--store-write"]);
    assert!(!first.last()["pruned"].as_array().expect("a list").is_empty());
    let second = Machine::new(store.path(), PRUNED);
    assert_eq!(second.run(&[]).executed(), [""; 0], "the states of pruned trainings are in the store");
    fs::remove_dir_all(store.path()).expect("removed");
    let run = machine.run(&[]);
    assert_eq!((run.executed(), Machine::warnings(&run)), (vec![], vec![]));
}
