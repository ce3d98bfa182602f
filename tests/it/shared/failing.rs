//! A store that fails: the run goes on without it, and its digests are those of a run without a store.

use super::*;

/// The second stage damages the store while the run goes on.
fn pipeline(damage: &str) -> String {
    let stage = |name: &str, script: &str, inputs: &str| {
        format!(
            "[stages.{name}]\nkind = \"command\"\nargv = [\"sh\", \"-c\", '''{script}; seq 1000 > out; echo {name} >> out''']\n\
             outputs = {{ out = \"out\" }}\n{inputs}\n"
        )
    };
    format!(
        "[pipeline]\nname = \"p\"\n{}{}{}{}",
        stage("first", "true", ""),
        stage("second", damage, "inputs = { a = \"first\" }"),
        stage("third", "true", "inputs = { a = \"second\" }"),
        stage("fourth", "true", "inputs = { a = \"third\" }"),
    )
}

/// Runs the pipeline with a store and without one. The store fails, which must be one warning with this text.
fn goes_on(store: &Path, damage: &str, options: &[&str], expected: &str) {
    let machine = Machine::new(store, &pipeline(damage));
    let run = machine.run(options);
    assert_eq!(run.executed(), ["first", "second", "third", "fourth"]);
    let mut warnings = Machine::warnings(&run);
    warnings.retain(|warning| !warning.ends_with("this is a new one"));
    assert!(warnings.len() == 1 && warnings[0].contains(expected), "{damage}: {warnings:?}");
    assert!(warnings[0].contains("; continuing without the store"), "{warnings:?}");
    let local = Project::new(&pipeline(damage));
    local.run(&["--no-store"]);
    assert_eq!(machine.project.digests(), local.digests(), "{damage}");
    // Nothing of the store is needed again.
    assert_eq!(machine.project.run(&["--no-store"]).executed(), [""; 0]);
}

#[test]
fn run_goes_on_without_a_store_that_disappears() {
    let store = store();
    let folder = store.path().join("team");
    let gone = store.path().join("gone");
    // It may have been moved by the other run already.
    let damage = format!("mv {} {} 2>/dev/null || true", folder.display(), gone.display());
    goes_on(&folder, &damage, &["--store-write"], "can't find vadpipe.json in the store ");
    assert!(!folder.exists(), "nothing is written where the store was");
    assert_eq!(objects(&gone, "result/").len(), 1);
    // A machine that only reads it.
    fs::rename(&gone, &folder).expect("moved");
    fs::remove_dir_all(folder.join("result")).expect("removed");
    goes_on(&folder, &damage, &[], "can't find vadpipe.json in the store ");
}

#[test]
fn run_goes_on_without_a_store_that_refuses_writes() {
    let store = store();
    let folder = store.path().join("team");
    fs::create_dir(&folder).expect("a folder");
    fs::write(folder.join("vadpipe.json"), r#"{"format":1,"is":"a store of vadpipe, format 1"}"#).expect("a file");
    // Not even root can write below a file.
    fs::write(folder.join("blob"), "").expect("a file");
    goes_on(&folder, "true", &["--store-write"], &format!("in the store {}: ", folder.display()));
    assert_eq!(objects(&folder, "result/"), Vec::<PathBuf>::new(), "no record without its blobs");
    let machine = Machine::new(&folder, &pipeline("true"));
    machine.project.run(&["--no-store"]);
    let output = machine.vadpipe(&["push", "p.toml"]);
    assert_eq!(output.code, 5, "{}", output.stderr);
    assert!(output.stderr.contains(&format!("in the store {}: ", folder.display())), "{}", output.stderr);
    // It can be written again.
    fs::remove_file(folder.join("blob")).expect("removed");
    assert_eq!(json(&machine.vadpipe(&["push", "p.toml", "--json"]))["results"], 4);
}

#[test]
fn objects_deleted_behind_our_back_are_pushed_again() {
    let store = store();
    let first = Machine::new(store.path(), MINI);
    first.run(&["--store-write"]);
    let needed = || {
        let is_of_a_run = |path: &PathBuf| path.strip_prefix(store.path()).is_ok_and(|name| name.starts_with("root"));
        objects(store.path(), "").into_iter().filter(|path| !is_of_a_run(path)).collect::<Vec<_>>()
    };
    let all = needed();
    for object in all.iter().step_by(2) {
        fs::remove_file(object).expect("removed");
    }
    let second = Machine::new(store.path(), MINI);
    let run = second.run(&[]);
    assert!(!run.executed().is_empty() && second.project.digests() == first.project.digests());
    first.vadpipe(&["push", "p.toml"]);
    assert_eq!(needed(), all);
    assert_eq!(Machine::new(store.path(), MINI).run(&[]).executed(), [""; 0]);
}

#[test]
fn run_goes_on_without_a_folder_that_never_answers() {
    let store = store();
    // Reading from it waits forever, as reading from a file server that is gone.
    let made = std::process::Command::new("mkfifo").arg(store.path().join("vadpipe.json")).status();
    assert!(made.expect("mkfifo").success());
    goes_on(store.path(), "true", &["--store-write"], "vadpipe.json in the store ");
}
