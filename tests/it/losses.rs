//! Results that are lost while a run goes on are made again in the same run.

use std::fs;
use std::path::{Path, PathBuf};

use crate::support::Desk;

/// Two stages with the same output, of which only one is read.
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

/// Flips a bit wherever the cache holds these bytes.
fn flip(desk: &Desk, known: &[u8]) {
    let mut flipped = 0;
    for file in files_below(&desk.path("cache")) {
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
fn lost_results_that_a_run_does_not_read_are_made_again_in_the_same_run() {
    let desk = Desk::new(PIPELINE);
    desk.run(&[]);
    let before = desk.digests();
    flip(&desk, b"\n110000\n");
    // `reader` finds the output of `read` damaged, and with it that of `unread`.
    let ran = desk.run(&["-R", "reader"]);
    let mut executed = ran.executed();
    executed.sort();
    assert_eq!(executed, ["read", "reader", "unread"]);
    assert_eq!(desk.vadpipe(["plan", "p.toml", "--check"]).code, 0, "everything is there");
    assert_eq!(desk.digests(), before);
}
