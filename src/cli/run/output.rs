//! What a worker printed, for messages about it.

use std::fs;
use std::path::Path;

/// How many lines are shown.
const LINES: usize = 10;

/// The end of a file with the output of a worker, to be appended to a message. Empty if it printed nothing.
pub(super) fn end_of_output(path: &Path) -> String {
    let bytes = fs::read(path).unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes);
    let lines: Vec<&str> = text.lines().collect();
    let lines = &lines[lines.len().saturating_sub(LINES)..];
    if lines.is_empty() { String::new() } else { format!("; the end of its output:\n{}", lines.join("\n")) }
}
