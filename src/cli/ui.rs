//! The only place that prints: results go to standard output, progress and errors to standard error.

mod short;
mod style;
mod watch;
mod words;

use std::io::{ErrorKind, IsTerminal as _, Write as _};

use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;

pub(super) use self::short::shorten;
use self::short::shorten_lines;
use self::style::printable;
pub(super) use self::style::{BOLD, DIM, GREEN, RED, YELLOW, paint};
pub(super) use self::watch::Watch;
pub(super) use self::words::{about, bytes, columns, count, figure, pad, seconds, table, when};
use crate::error::{Error, Result};

/// How this process prints.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ui {
    /// JSON instead of text.
    pub(super) json: bool,
    quiet: bool,
    /// More details.
    pub(super) verbose: bool,
}

impl Ui {
    pub(super) fn new(json: bool, quiet: bool, verbose: bool) -> Self {
        Self { json, quiet, verbose }
    }

    /// Prints a result for people and ends the line. Hidden characters are escaped.
    pub(super) fn out(&self, text: &str) {
        let text = printable(text);
        let ended = if text.ends_with('\n') { "" } else { "\n" };
        let mut out = anstream::stdout().lock();
        let written = write!(out, "{text}{ended}").and_then(|()| out.flush());
        drop(out);
        self.check_written(written);
    }

    /// Prints a result for programs and ends the line. Hidden characters are escaped only on a terminal.
    pub(super) fn document(&self, text: &str) {
        if std::io::stdout().is_terminal() { self.out(text) } else { self.exact(text) }
    }

    /// Prints a result for programs byte for byte and ends the line.
    pub(super) fn exact(&self, text: &str) {
        self.check_written(self.try_out(text));
    }

    /// Exits without an error if the reader of our output has gone, and with one if writing failed.
    fn check_written(&self, written: std::io::Result<()>) {
        match written {
            Ok(()) => {}
            Err(error) if error.kind() == ErrorKind::BrokenPipe => std::process::exit(0),
            Err(error) => {
                let error = output_failed(error);
                self.error(&error);
                std::process::exit(i32::from(error.category.exit_code()));
            }
        }
    }

    /// [`Ui::out`] with long lines shortened.
    pub(super) fn text(&self, text: &str) {
        self.out(&shorten_lines(text));
    }

    /// [`Ui::exact`] for a run, which continues when its output has no reader.
    pub(super) fn try_out(&self, text: &str) -> std::io::Result<()> {
        let mut out = std::io::stdout().lock();
        let ended = if text.ends_with('\n') { "" } else { "\n" };
        write!(out, "{text}{ended}").and_then(|()| out.flush())
    }

    /// Prints one JSON value on its own line.
    ///
    /// # Errors
    /// If it can't be serialised, which is a bug.
    pub(super) fn object(&self, value: &impl Serialize) -> Result<()> {
        let text = serde_json::to_string(value).map_err(|e| Error::storage("can't write JSON").caused_by(e))?;
        self.exact(&text);
        Ok(())
    }

    /// Prints a line to standard error, unless `--quiet` was given.
    pub(super) fn note(&self, text: &str) {
        if !self.quiet {
            self.err(text);
        }
    }

    /// Prints a warning, even with `--quiet`.
    pub(super) fn warn(&self, text: &str) {
        self.err(&format!("{} {text}", paint(YELLOW, "warning:")));
    }

    /// Prints an error with its causes and its hint.
    pub(super) fn error(&self, error: &Error) {
        let mut text = String::new();
        // Each rendered diagnostic begins with "error".
        if !error.message.starts_with("error") {
            text.push_str(&format!("{} ", paint(RED, "error:")));
        }
        text.push_str(&error.message);
        error.causes().for_each(|cause| text.push_str(&format!("\n  caused by: {cause}")));
        if let Some(hint) = &error.hint {
            text.push_str(&format!("\n  {} {hint}", paint(GREEN, "hint:")));
        }
        self.err(&text);
    }

    fn err(&self, text: &str) {
        // If standard error is closed, there is no place to report it.
        let _ = writeln!(anstream::stderr().lock(), "{}", printable(&shorten_lines(text)));
    }

    /// A progress bar; hidden if standard error is not a terminal.
    pub(super) fn bar(&self, what: &'static str) -> ProgressBar {
        let hidden = self.json || self.quiet || !std::io::stderr().is_terminal();
        let bar = if hidden { ProgressBar::hidden() } else { ProgressBar::no_length() };
        if let Ok(style) = ProgressStyle::with_template("{prefix} {wide_bar} {pos}/{len} {eta:>5}") {
            bar.set_style(style);
        }
        bar.with_prefix(what)
    }
}

fn output_failed(error: std::io::Error) -> Error {
    Error::storage("can't write to standard output").caused_by(error)
}
