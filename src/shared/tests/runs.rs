//! Runs: a pipeline with its files.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::time::Duration;

use super::super::record::{self, ANYBODY, Named as _};
use super::*;

pub(super) fn files() -> BTreeMap<String, Vec<u8>> {
    let files = [("p.toml", "[pipeline]"), ("src/net.py", "print()"), ("copy.py", "print()")];
    files.map(|(name, text)| (name.to_owned(), text.as_bytes().to_vec())).into()
}

pub(super) fn run(id: &str, files: &BTreeMap<String, Vec<u8>>) -> SharedRun {
    SharedRun {
        id: id.to_owned(),
        pipeline: "p.toml".to_owned(),
        targets: vec!["net".to_owned()],
        set: vec!["params.a=1".to_owned()],
        folder: "/project".to_owned(),
        files: files.iter().map(|(name, bytes)| (name.clone(), SharedFile::of(bytes, name == "src/net.py"))).collect(),
    }
}

pub(super) fn put_run(
    machine: &Machine,
    run: &SharedRun,
    files: &BTreeMap<String, Vec<u8>>,
) -> Result<(), SharedError> {
    machine.shared.put_run(run, &|name| Ok(files[name].clone()), &Transfer::default())
}

#[test]
fn another_machine_gets_the_run_with_its_files() {
    let (store, files) = (faultless(), files());
    let (first, second) = (Machine::new(&store), Machine::new(&store));
    let run = run("r1", &files);
    put_run(&first, &run, &files).unwrap();
    assert_eq!(objects(&store).iter().filter(|name| name.starts_with("blob/")).count(), 2, "equal files are one blob");
    let found = second.shared.run("r1").unwrap();
    assert_eq!(found, run);
    let folder = tempfile::tempdir().unwrap();
    second.shared.write_run(&found, folder.path()).unwrap();
    for (name, bytes) in &files {
        assert_eq!(&fs::read(folder.path().join(name)).unwrap(), bytes);
        let mode = fs::metadata(folder.path().join(name)).unwrap().permissions().mode();
        assert_eq!(mode & 0o100 != 0, name == "src/net.py", "{name}");
    }
}

#[test]
fn file_that_was_edited_while_it_was_pushed_is_an_error() {
    let (store, mut files) = (faultless(), files());
    let run = run("r1", &files);
    files.insert("copy.py".to_owned(), b"edited".to_vec());
    let error = put_run(&Machine::new(&store), &run, &files).unwrap_err().to_string();
    assert!(error.contains("copy.py was edited"), "{error}");
    assert!(!objects(&store).contains(&"run/r1".to_owned()));
}

#[test]
fn path_that_leads_out_of_the_folder_is_refused() {
    let files = files();
    for path in ["../out", "/etc/passwd", "a/../../b", ""] {
        let mut run = run("r1", &files);
        run.files.insert(path.to_owned(), SharedFile::of(b"", false));
        let bytes = record::encode(&run, &run.object(), None);
        assert!(record::decode::<SharedRun>(&bytes, &run.object(), ANYBODY).is_err(), "{path:?}");
    }
    let sound = run("r1", &files);
    let bytes = record::encode(&sound, &sound.object(), None);
    assert!(record::decode::<SharedRun>(&bytes, &sound.object(), ANYBODY).is_ok());
    assert!(record::decode::<SharedRun>(&bytes, "run/r2", ANYBODY).is_err(), "another run's record");
}

#[test]
fn unsigned_run_is_refused_where_keys_are_demanded() {
    let (store, files) = (faultless(), files());
    put_run(&Machine::new(&store), &run("r1", &files), &files).unwrap();
    let key = SecretKey::generate().unwrap();
    let trust = Trust { trusted: BTreeMap::from([("alice".to_owned(), key.public())]), key: None };
    let careful = Machine::with_trust(&store, trust);
    let error = careful.shared.run("r1").unwrap_err().to_string();
    assert!(error.contains("not signed"), "{error}");
    let alice = Machine::with_trust(&store, Trust { key: Some(key), trusted: BTreeMap::new() });
    put_run(&alice, &run("r2", &files), &files).unwrap();
    assert!(careful.shared.run("r2").is_ok());
}

#[test]
fn collection_keeps_the_files_of_recent_runs() {
    let (store, files) = (faultless(), files());
    let machine = Machine::new(&store);
    for id in ["r1", "r2"] {
        let mut files = files.clone();
        files.insert("own".to_owned(), id.as_bytes().to_vec());
        put_run(&machine, &run(id, &files), &files).unwrap();
        machine.shared.put_root("p", (id, None), &[], &[]).unwrap();
    }
    let policy = SharedGcPolicy { keep_runs: 1, grace: Duration::ZERO, dry_run: false, force: false };
    let report = machine.shared.gc(&policy).unwrap();
    assert_eq!((report.records_removed, report.blobs_removed), (1, 1), "{report:?}");
    assert!(machine.shared.run("r1").is_err());
    let left = machine.shared.run("r2").unwrap();
    machine.shared.write_run(&left, tempfile::tempdir().unwrap().path()).unwrap();
}
