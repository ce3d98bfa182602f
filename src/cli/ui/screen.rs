//! The last lines of the terminal, which show what is in progress and are drawn again and again.
//!
//! The cursor rests at the beginning of the last line, not at its end as with most crates for progress bars. There, the
//! `^C` that a terminal prints for Ctrl-C would begin a new line, and the first bar would be left behind.

use std::io::Write as _;
use std::sync::{Mutex, MutexGuard, PoisonError};

use anstream::ColorChoice;
use anstream::adapter::strip_str;
use textwrap::core::display_width;

use super::style::printable;
use super::terminal::size;

/// The widths of the lines that are on the screen.
static DRAWN: Mutex<Vec<usize>> = Mutex::new(Vec::new());

/// The columns and rows of the terminal, if standard error is one that can move the cursor.
pub(super) fn available() -> Option<(usize, usize)> {
    let is_dumb = std::env::var_os("TERM").is_none_or(|term| term == "dumb");
    size(std::io::stderr()).filter(|_| !is_dumb)
}

/// Draws lines in place of those that were drawn before. Each must be narrower than the terminal.
pub(super) fn draw(lines: &[String]) {
    let mut drawn = lock();
    if drawn.is_empty() && lines.is_empty() {
        return;
    }
    let mut out = to_first(&drawn);
    let styled = anstream::AutoStream::choice(&std::io::stderr()) != ColorChoice::Never;
    for (number, line) in lines.iter().enumerate() {
        let line = printable(line);
        let end = if number + 1 < lines.len() { "\n" } else { "" };
        let line = if styled { line.into_owned() } else { strip_str(&line).to_string() };
        // Erases the rest of the old line.
        out.push_str(&format!("{line}\u{1b}[K{end}"));
    }
    write(&format!("{out}\u{1b}[J\r"));
    *drawn = lines.iter().map(|line| display_width(&printable(line))).collect();
}

/// Removes the lines and prints something in their place. They are drawn again later.
pub(super) fn above<T>(print: impl FnOnce() -> T) -> T {
    let mut drawn = lock();
    if !drawn.is_empty() {
        write(&format!("{}\u{1b}[J", to_first(&drawn)));
        drawn.clear();
    }
    print()
}

/// Moves the cursor to the beginning of the first of these lines.
fn to_first(drawn: &[usize]) -> String {
    // A terminal that became narrower has wrapped the lines.
    let columns = size(std::io::stderr()).map_or(usize::MAX, |(columns, _)| columns);
    let rows = |width: &usize| width.div_ceil(columns).max(1);
    let above: usize = drawn.iter().rev().skip(1).map(rows).sum();
    if above > 0 { format!("\r\u{1b}[{above}A") } else { "\r".to_owned() }
}

fn write(out: &str) {
    // If standard error is closed, there is no place to report it.
    let _ = std::io::stderr().lock().write_all(out.as_bytes());
}

fn lock() -> MutexGuard<'static, Vec<usize>> {
    DRAWN.lock().unwrap_or_else(PoisonError::into_inner)
}
