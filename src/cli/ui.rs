//! The only place that prints: results go to standard output, progress and errors to standard error.

mod bar;
mod failures;
mod progress;
mod screen;
mod short;
mod style;
mod table;
mod terminal;
mod watch;
mod words;

use std::io::{ErrorKind, IsTerminal as _, Write as _};

use serde::Serialize;

use self::bar::Bar;

pub(super) use self::short::shorten;
use self::short::shorten_lines;
use self::style::printable;
pub(super) use self::style::{BOLD, DIM, GREEN, RED, YELLOW, paint};
pub(super) use self::table::{columns, table};
pub(super) use self::watch::Watch;
pub(super) use self::words::{about, bytes, count, figure, pad, seconds, when};
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
        self.print(&printable(text));
    }

    fn print(&self, text: &str) {
        let ended = if text.ends_with('\n') { "" } else { "\n" };
        let written = screen::above(|| {
            let mut out = anstream::stdout().lock();
            write!(out, "{text}{ended}").and_then(|()| out.flush())
        });
        self.check_written(written);
    }

    /// The width of the terminal that shows results, if there is one.
    pub(super) fn width(&self) -> Option<usize> {
        terminal::size(std::io::stdout()).map(|(columns, _)| columns)
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

    /// [`Ui::out`] with long lines shortened, and wrapped to the width of the terminal.
    pub(super) fn text(&self, text: &str) {
        self.print(&terminal::wrap(&printable(&shorten_lines(text)), self.width(), None));
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
        self.err_indented(text, None);
    }

    /// Prints text to standard error. The second line of a long one is indented by `indent`.
    fn err_indented(&self, text: &str, indent: Option<usize>) {
        let width = terminal::size(std::io::stderr()).map(|(columns, _)| columns);
        let text = printable(&shorten_lines(text)).into_owned();
        let text = terminal::wrap(&text, width, indent);
        // If standard error is closed, there is no place to report it.
        screen::above(|| drop(writeln!(anstream::stderr().lock(), "{text}")));
    }

    /// A progress bar; hidden if standard error is not a terminal.
    pub(super) fn bar(&self, what: &'static str) -> Bar {
        Bar::new(what, self.json || self.quiet)
    }
}

fn output_failed(error: std::io::Error) -> Error {
    Error::storage("can't write to standard output").caused_by(error)
}
