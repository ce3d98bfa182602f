//! The only place that prints: results to standard output, everything about progress and errors to standard error.

mod watch;

use std::io::{IsTerminal as _, Write as _};
use std::sync::Arc;

use anstyle::{AnsiColor, Style};

use indicatif::{ProgressBar, ProgressStyle};

use crate::error::{Error, Result};

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

/// A word in a style; nothing is styled where the output is no terminal.
pub(super) fn paint(style: Style, text: &str) -> String {
    format!("{style}{text}{style:#}")
}

impl Ui {
    pub(super) fn new(json: bool, quiet: bool, verbose: bool) -> Self {
        Self { json, quiet, verbose }
    }

    /// Prints a result, ending in a new line. Whoever reads us may stop reading: then we stop, too.
    pub(super) fn out(&self, text: &str) {
        match self.try_out(text) {
            Ok(()) => {}
            Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => std::process::exit(0),
            Err(error) => {
                let error = Error::storage("can't write to standard output").caused_by(error);
                self.error(&error);
                std::process::exit(i32::from(error.category.exit_code()));
            }
        }
    }

    /// [`Ui::out`] for a run, which goes on when nobody reads any more.
    fn try_out(&self, text: &str) -> std::io::Result<()> {
        let mut out = anstream::stdout().lock();
        let ended = if text.ends_with('\n') { "" } else { "\n" };
        write!(out, "{text}{ended}").and_then(|()| out.flush())
    }

    /// Prints one JSON value on a line of its own.
    ///
    /// # Errors
    /// If it can't be written as JSON: a bug.
    pub(super) fn object(&self, value: &impl serde::Serialize) -> Result<()> {
        let text = serde_json::to_string(value).map_err(|e| Error::storage("can't write JSON").caused_by(e))?;
        self.out(&text);
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
        // Nobody left to tell.
        let _ = writeln!(anstream::stderr().lock(), "{text}");
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

/// Aligned columns with a header.
pub(super) fn table(header: &[&str], rows: &[Vec<String>]) -> String {
    let width = |i: usize| {
        let cells = rows.iter().filter_map(|r| r.get(i)).map(|c| c.chars().count());
        cells.chain([header[i].chars().count()]).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..header.len()).map(width).collect();
    let line = |cells: Vec<&str>| {
        let padded = cells.iter().zip(&widths).map(|(c, w)| format!("{c:<w$}"));
        padded.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    let mut lines = vec![line(header.to_vec())];
    lines.extend(rows.iter().map(|r| line(r.iter().map(String::as_str).collect())));
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
