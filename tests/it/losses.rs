//! Results that are lost during a run are made again by the same run.

use std::fs;
use std::path::{Path, PathBuf};

use crate::support::Project;

/// Two stages have the same output, and only one of them is read.
const PIPELINE: &str = r#"
[pipeline]
name = "p"

[stages.read]
kind = "command"
argv = ["sh", "-c", "seq 100000 120000 > $0", "{outputs.out}"]
outputs = { out = "out" }

[stages.unread]
kind = "command"
argv = ["sh", "-c", ": another stage; seq 100000 120000 > $0", "{outputs.out}"]
outputs = { out = "out" }

[stages.reader]
kind = "command"
inputs = { text = "read" }
argv = ["sh", "-c", "tail -n 1 $0/out > $1", "{inputs.text}", "{outputs.last}"]
outputs = { last = "last" }
"#;

fn files_below(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).expect("a folder").map(|e| e.expect("an entry").path());
    entries.flat_map(|path| if path.is_dir() { files_below(&path) } else { vec![path] }).collect()
}

/// Flips a bit in every place where the cache contains these bytes.
fn flip(project: &Project, known: &[u8]) {
    let mut flipped = 0;
    for file in files_below(&project.path("cache")) {
        let mut content = fs::read(&file).expect("a file");
        let found: Vec<usize> =
            content.windows(known.len()).enumerate().filter(|w| w.1 == known).map(|w| w.0).collect();
        for at in &found {
            content[*at] ^= 1;
        }
        if !found.is_empty() {
            fs::write(&file, content).expect("written");
            flipped += found.len();
        }
    }
    assert!(flipped > 0, "the bytes are stored");
}

#[test]
fn lost_results_that_no_stage_reads_are_made_again_by_the_same_run() {
    let project = Project::new(PIPELINE);
    project.run(&[]);
    let before = project.digests();
    flip(&project, b"\n110000\n");
    // `reader` finds the output of `read` damaged. `unread` has the same output.
    let run = project.run(&["-R", "reader"]);
    let mut executed = run.executed();
    executed.sort();
    assert_eq!(executed, ["read", "reader", "unread"]);
    assert_eq!(project.vadpipe(["plan", "p.toml", "--check"]).code, 0, "everything is cached");
    assert_eq!(project.digests(), before);
}
