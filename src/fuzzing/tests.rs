use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;

use super::{TARGETS, check};
use crate::stages::peak;

fn fuzz_folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/campaign/fuzz")
}

/// Passes every file of a target's corpus to its check.
fn run_corpus(target: &str) {
    let folder = fuzz_folder().join("corpus").join(target);
    let mut files: Vec<PathBuf> = fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert!(!files.is_empty(), "{} is empty", folder.display());
    files.sort();
    for file in files {
        eprintln!("{}", file.display());
        check(target, &fs::read(&file).unwrap(), peak);
    }
}

macro_rules! corpus {
    ($($target:ident)*) => {
        $(#[test]
        fn $target() {
            run_corpus(stringify!($target));
        })*

        /// The targets, the corpora, the fuzz package's programs and the tests above are the same list.
        #[test]
        fn every_target_has_a_corpus_a_program_and_a_test() {
            let targets: BTreeSet<String> = TARGETS.iter().map(|(name, _)| (*name).to_owned()).collect();
            assert_eq!(targets, BTreeSet::from([$(stringify!($target).to_owned()),*]));
            let names = |folder: &str| -> BTreeSet<String> {
                let entries = fs::read_dir(fuzz_folder().join(folder)).unwrap();
                let stem = |entry: fs::DirEntry| entry.path().file_stem().unwrap().to_str().unwrap().to_owned();
                entries.map(|entry| stem(entry.unwrap())).collect()
            };
            assert_eq!(names("corpus"), targets);
            assert_eq!(names("fuzz_targets"), targets);
            let manifest: toml::Table = fs::read_to_string(fuzz_folder().join("Cargo.toml")).unwrap().parse().unwrap();
            let programs = manifest["bin"].as_array().unwrap().iter().map(|bin| bin["name"].as_str().unwrap().to_owned());
            assert_eq!(programs.collect::<BTreeSet<_>>(), targets);
        }
    };
}

corpus! { filter format idx journal overrides packs pipeline records tensors }
