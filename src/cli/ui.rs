//! The only place that prints: results to standard output, everything about progress and errors to standard error.

mod short;
mod watch;

use std::borrow::Cow;
use std::io::{IsTerminal as _, Write as _};
use std::sync::Arc;

use anstyle::{AnsiColor, Style};

use indicatif::{ProgressBar, ProgressStyle};

use crate::error::{Error, Result};
use crate::escape::{escape, is_hidden};

pub(super) use short::shorten;
use short::shorten_lines;
pub(super) use watch::Watch;

/// How this process talks.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ui {
    /// One JSON object a line instead of text.
    pub(super) json: bool,
    quiet: bool,
    /// More detail.
    pub(super) verbose: bool,
}

/// Attention, but no error.
pub(super) const YELLOW: Style = AnsiColor::Yellow.on_default();
/// Fine.
pub(super) const GREEN: Style = AnsiColor::Green.on_default();
/// Wrong.
pub(super) const RED: Style = AnsiColor::Red.on_default().bold();
/// Beside the point.
pub(super) const DIM: Style = Style::new().dimmed();

/// Replaces the escape character in our own styles until the text is printed. A real escape character always comes from
/// outside and is escaped. Unicode reserves this code point for use inside programs.
const STYLE_MARK: char = '\u{fdd0}';

/// A word in a style; nothing is styled where the output is no terminal.
pub(super) fn paint(style: Style, text: &str) -> String {
    let [on, off] = [style.render().to_string(), style.render_reset().to_string()];
    let marked = |sequence: String| sequence.replace('\u{1b}', STYLE_MARK.encode_utf8(&mut [0; 4]));
    format!("{}{}{}", marked(on), escape(text), marked(off))
}

/// The text as it is printed: hidden characters escaped, our own styles as the terminal knows them.
fn printable(text: &str) -> Cow<'_, str> {
    if !text.chars().any(is_hidden) {
        return Cow::Borrowed(text);
    }
    let mut pieces = text.split(STYLE_MARK);
    let mut out = escape(pieces.next().unwrap_or_default()).into_owned();
    for piece in pieces {
        // A mark from outside can only start a style, no other sequence.
        let body =
            piece.strip_prefix('[').map(|rest| rest.trim_start_matches(|c: char| c.is_ascii_digit() || c == ';'));
        let is_style = body.is_some_and(|rest| rest.starts_with('m'));
        if is_style {
            out.push('\u{1b}')
        } else {
            out.extend(STYLE_MARK.escape_default())
        }
        out.push_str(&escape(piece));
    }
    Cow::Owned(out)
}

impl Ui {
    pub(super) fn new(json: bool, quiet: bool, verbose: bool) -> Self {
        Self { json, quiet, verbose }
    }

    /// Prints a result for people, ending in a new line. Hidden characters are escaped.
    pub(super) fn out(&self, text: &str) {
        let text = printable(text);
        let ended = if text.ends_with('\n') { "" } else { "\n" };
        let mut out = anstream::stdout().lock();
        let written = write!(out, "{text}{ended}").and_then(|()| out.flush());
        drop(out);
        self.check_written(written);
    }

    /// Prints a result for programs, ending in a new line: exact, except that a terminal gets no hidden characters.
    pub(super) fn document(&self, text: &str) {
        if std::io::stdout().is_terminal() { self.out(text) } else { self.exact(text) }
    }

    /// Prints a result for programs, ending in a new line, byte for byte.
    pub(super) fn exact(&self, text: &str) {
        self.check_written(self.try_out(text));
    }

    /// If nobody reads our output any more, the process ends without an error.
    fn check_written(&self, written: std::io::Result<()>) {
        match written {
            Ok(()) => {}
            Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => std::process::exit(0),
            Err(error) => {
                let error = output_failed(error);
                self.error(&error);
                std::process::exit(i32::from(error.category.exit_code()));
            }
        }
    }

    /// Prints a result for people: long lines are shortened.
    pub(super) fn text(&self, text: &str) {
        self.out(&shorten_lines(text));
    }

    /// [`Ui::exact`] for a run, which goes on when nobody reads any more.
    pub(super) fn try_out(&self, text: &str) -> std::io::Result<()> {
        let mut out = std::io::stdout().lock();
        let ended = if text.ends_with('\n') { "" } else { "\n" };
        write!(out, "{text}{ended}").and_then(|()| out.flush())
    }

    /// Prints one JSON value on a line of its own.
    ///
    /// # Errors
    /// If it can't be written as JSON: a bug.
    pub(super) fn object(&self, value: &impl serde::Serialize) -> Result<()> {
        let text = serde_json::to_string(value).map_err(|e| Error::storage("can't write JSON").caused_by(e))?;
        self.exact(&text);
        Ok(())
    }

    /// Says something on standard error, unless asked to be quiet.
    pub(super) fn note(&self, text: &str) {
        if !self.quiet {
            self.err(text);
        }
    }

    /// Says what the user should know, however quiet.
    pub(super) fn warn(&self, text: &str) {
        self.err(&format!("{} {text}", paint(YELLOW, "warning:")));
    }

    /// Prints an error with its causes and what to do about it.
    pub(super) fn error(&self, error: &Error) {
        let mut text = String::new();
        // Rendered diagnostics say "error" themselves, once each.
        if !error.message.starts_with("error") {
            text.push_str(&format!("{} ", paint(RED, "error:")));
        }
        text.push_str(&error.message);
        let mut cause = std::error::Error::source(error);
        while let Some(below) = cause {
            text.push_str(&format!("\n  caused by: {below}"));
            cause = below.source();
        }
        if let Some(hint) = &error.hint {
            text.push_str(&format!("\n  {} {hint}", paint(GREEN, "hint:")));
        }
        self.err(&text);
    }

    fn err(&self, text: &str) {
        // If standard error is closed, there is nowhere to report that.
        let _ = writeln!(anstream::stderr().lock(), "{}", printable(&shorten_lines(text)));
    }

    /// A bar for something that counts; invisible where there is no terminal.
    pub(super) fn bar(&self, what: &'static str) -> ProgressBar {
        let hidden = self.json || self.quiet || !std::io::stderr().is_terminal();
        let bar = if hidden { ProgressBar::hidden() } else { ProgressBar::no_length() };
        if let Ok(style) = ProgressStyle::with_template("{prefix} {wide_bar} {pos}/{len} {eta:>5}") {
            bar.set_style(style);
        }
        bar.with_prefix(what)
    }

    /// A listener that prints progress and what goes wrong, and leaves standard output alone.
    pub(super) fn watch_errors(&self) -> Arc<Watch> {
        Arc::new(Watch::new(Self { json: false, ..*self }, false, true))
    }

    /// A listener for a run that prints what happens: bars on a terminal, lines elsewhere, NDJSON if asked for.
    pub(super) fn watch(&self) -> Watch {
        let bars = !self.json && !self.quiet && std::io::stderr().is_terminal();
        Watch::new(*self, bars, self.quiet)
    }
}

fn output_failed(error: std::io::Error) -> Error {
    Error::storage("can't write to standard output").caused_by(error)
}

/// Aligned columns with a header. Long cells are shortened. Hidden characters are escaped here already, so that the columns
/// line up.
pub(super) fn table(header: &[&str], rows: &[Vec<String>]) -> String {
    let cell = |text: &str| escape(&shorten(text)).into_owned();
    let header: Vec<String> = header.iter().map(|text| cell(text)).collect();
    let rows: Vec<Vec<String>> = rows.iter().map(|row| row.iter().map(|text| cell(text)).collect()).collect();
    let width = |i: usize| {
        let cells = rows.iter().filter_map(|r| r.get(i)).map(|c| c.chars().count());
        cells.chain([header[i].chars().count()]).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..header.len()).map(width).collect();
    let line = |cells: &[String]| {
        let padded = cells.iter().zip(&widths).map(|(c, w)| format!("{c:<w$}"));
        padded.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    let mut lines = vec![line(&header)];
    lines.extend(rows.iter().map(|r| line(r)));
    lines.join("\n")
}

/// Bytes as people say them.
pub(super) fn bytes(n: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KB", "MB", "GB", "TB"];
    let power = (0..UNITS.len() - 1).rev().find(|p| n >= 1000u64.pow(*p as u32)).unwrap_or(0);
    let value = n as f64 / 1000f64.powi(power as i32);
    if power == 0 { format!("{n} B") } else { format!("{value:.1} {}", UNITS[power]) }
}

/// Seconds as people say them.
pub(super) fn seconds(s: f64) -> String {
    match s {
        s if s < 0.01 => format!("{:.1} ms", s * 1000.0),
        s if s < 60.0 => format!("{s:.1} s"),
        s if s < 3600.0 => format!("{} min {:02} s", s as u64 / 60, s as u64 % 60),
        s => format!("{} h {:02} min", s as u64 / 3600, s as u64 % 3600 / 60),
    }
}

/// A time in Unix milliseconds as people say it.
pub(super) fn when(milliseconds: i64) -> String {
    let time = jiff::Timestamp::from_millisecond(milliseconds);
    time.map(|t| t.strftime("%F %T UTC").to_string()).unwrap_or_default()
}

/// A figure with the digits that matter.
pub(super) fn figure(v: f64) -> String {
    if v == v.trunc() && v.abs() < 1e9 { format!("{v}") } else { format!("{v:.4}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_our_own_styles_reach_the_terminal() {
        let painted = format!("{} {}", paint(GREEN, "fine \u{1b}[2J"), "\u{1b}]0;title\u{7}\u{202e}");
        assert_eq!(printable(&painted), "\u{1b}[32mfine \\u{1b}[2J\u{1b}[0m \\u{1b}]0;title\\u{7}\\u{202e}");
    }

    #[test]
    fn a_style_mark_from_outside_starts_no_other_sequence() {
        for (text, wanted) in
            [("\u{fdd0}[2J", "\\u{fdd0}[2J"), ("\u{fdd0}]0;x", "\\u{fdd0}]0;x"), ("\u{fdd0}", "\\u{fdd0}")]
        {
            assert_eq!(printable(text), wanted);
        }
        assert_eq!(paint(DIM, "\u{fdd0}[31m").matches(STYLE_MARK).count(), 2, "text in a style is escaped");
    }

    #[test]
    fn columns_line_up_with_escaped_cells() {
        let rows = [vec!["a\u{202e}".to_owned(), "1".to_owned()], vec!["b".to_owned(), "2".to_owned()]];
        assert_eq!(table(&["name", "n"], &rows), "name       n\na\\u{202e}  1\nb          2");
    }
}
