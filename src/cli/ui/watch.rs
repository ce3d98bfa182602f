//! Prints what happens in a run: bars on a terminal, lines elsewhere, NDJSON with `--json`.

use std::collections::BTreeMap;
use std::io::IsTerminal as _;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anstyle::Style;
use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::{DIM, GREEN, RED, Ui, YELLOW, figure, output_failed, paint, seconds, shorten};
use crate::error::Result;
use crate::escape::escape;
use crate::event::{Event, Listener};
use crate::status::RunStatus;

/// A listener that prints the events of a run.
pub(in crate::cli) struct Watch {
    ui: Ui,
    quiet: bool,
    bars: Option<MultiProgress>,
    running: Mutex<BTreeMap<String, ProgressBar>>,
    /// The newest saved state of each training: epoch and step.
    saved: Mutex<BTreeMap<String, (u64, u64)>>,
    /// JSON lines that are not written yet.
    buffer: Mutex<String>,
    /// Standard output can no longer be written.
    is_closed: AtomicBool,
    /// The error that closed it; `None` if its reader has gone.
    failed: Mutex<Option<std::io::Error>>,
}

/// The buffer is written when it is longer than this.
const LONGEST_BUFFER: usize = 64 << 10;

impl Watch {
    /// A listener for `run`.
    pub(in crate::cli) fn of_run(ui: &Ui) -> Self {
        Self::new(*ui, !ui.json && !ui.quiet && std::io::stderr().is_terminal(), ui.quiet)
    }

    /// A listener that prints only warnings and failures, and nothing to standard output.
    pub(in crate::cli) fn of_errors(ui: &Ui) -> Self {
        Self::new(Ui { json: false, ..*ui }, false, true)
    }

    fn new(ui: Ui, bars: bool, quiet: bool) -> Self {
        // Ten updates per second look smooth and cost nothing.
        let bars = bars.then(|| MultiProgress::with_draw_target(ProgressDrawTarget::stderr_with_hz(10)));
        let (running, saved, buffer) = (Mutex::default(), Mutex::default(), Mutex::default());
        let (is_closed, failed) = (AtomicBool::new(false), Mutex::default());
        Self { ui, quiet, bars, running, saved, buffer, is_closed, failed }
    }

    /// Fails if events could not be written to standard output. A closed pipe is not an error.
    pub(in crate::cli) fn check_output(&self) -> Result<()> {
        match lock(&self.failed).take() {
            Some(error) => Err(output_failed(error)),
            None => Ok(()),
        }
    }

    /// Prints a line about the whole run, even with `--quiet`.
    pub(in crate::cli) fn say(&self, line: &str) {
        match &self.bars {
            // Printed above the bars, which are drawn again below.
            Some(bars) => bars.suspend(|| self.ui.err(line)),
            None => self.ui.err(line),
        }
    }

    fn line(&self, style: Style, word: &str, text: &str) {
        if !self.quiet {
            self.say(&labelled(style, word, text));
        }
    }

    fn start(&self, stage: &str, why: &str) {
        let Some(bars) = &self.bars else { return self.line(DIM, "start", &format!("{stage}{why}")) };
        let bar = bars.add(ProgressBar::no_length());
        let template = "{spinner} {prefix:<28!} {wide_bar:.cyan/dim} {pos}/{len} {msg} {eta:>5}";
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style.progress_chars("━╸ "));
        }
        bar.set_prefix(escape(stage).into_owned());
        bar.enable_steady_tick(Duration::from_millis(200));
        lock(&self.running).insert(stage.to_owned(), bar);
    }

    fn end(&self, stage: &str) {
        if let Some(bar) = lock(&self.running).remove(stage) {
            bar.finish_and_clear();
        }
    }

    fn advance(&self, stage: &str, done: u64, total: u64, figures: &BTreeMap<String, f64>, rate: Option<f64>) {
        let running = lock(&self.running);
        let Some(bar) = running.get(stage) else { return };
        bar.set_length(total);
        bar.set_position(done);
        let rate = rate.map(|r| format!(" {r:.0}/s")).unwrap_or_default();
        bar.set_message(escape(&format!("{}{rate}", words(figures))).into_owned());
    }

    /// Without bars, a training prints about twenty lines.
    fn epoch(&self, stage: &str, epoch: u64, epochs: u64, figures: &BTreeMap<String, f64>) {
        self.advance(stage, epoch, epochs, figures, None);
        if self.bars.is_none() && (epoch == epochs || epoch == 1 || epoch.is_multiple_of((epochs / 20).max(1))) {
            self.line(DIM, "", &format!("{stage} epoch {epoch}/{epochs} {}", words(figures)));
        }
    }

    fn text(&self, event: &Event) {
        match event {
            // There may be thousands: don't even format them.
            Event::StageCached { .. } if self.quiet => {}
            Event::RunStarted { run, pipeline, stages, device, numerics, threads, .. } => {
                let text =
                    format!("{pipeline}: {stages} stages on {device} ({numerics}), {threads} threads, run {run}");
                self.line(GREEN, "run", &text);
            }
            Event::ReportWritten { path, .. } => self.line(GREEN, "report", path),
            Event::Warning { message } => self.say(&labelled(YELLOW, "warning", message)),
            Event::RunFinished { status, executed, cached, failed, skipped, pruned, seconds: s, .. } => {
                let (style, word) = match status {
                    RunStatus::Ok => (GREEN, "ok"),
                    RunStatus::Failed => (RED, "failed"),
                    RunStatus::Interrupted | RunStatus::Running => (YELLOW, "stopped"),
                };
                let ran = [(executed, "ran"), (cached, "cached"), (pruned, "pruned")];
                let counts = [(failed, "failed"), (skipped, "skipped")];
                let counts = ran.iter().chain(&counts).filter(|(list, _)| !list.is_empty());
                let counts: Vec<_> = counts.map(|(list, word)| format!("{} {word}", list.len())).collect();
                self.line(style, word, &format!("{} in {}", counts.join(", "), seconds(*s)));
            }
            _ => {
                self.training(event);
                self.stage(event);
            }
        }
    }

    /// Prints the progress of a stage.
    fn training(&self, event: &Event) {
        match event {
            Event::Resumed { stage, epoch, step, epochs, .. } => {
                lock(&self.saved).insert(stage.clone(), (*epoch, *step));
                self.line(GREEN, "resume", &format!("{stage} at {} of {epochs}", position(*epoch, *step)));
            }
            Event::Progress { stage, done, total, figures, rate, .. } => {
                self.advance(stage, *done, *total, figures, *rate);
            }
            Event::Epoch { stage, epoch, epochs, figures, .. } => self.epoch(stage, *epoch, *epochs, figures),
            Event::StateSaved { stage, epoch, step, seconds: s, .. } => {
                lock(&self.saved).insert(stage.clone(), (*epoch, *step));
                if self.ui.verbose {
                    self.line(DIM, "saved", &format!("{stage} at {} in {}", position(*epoch, *step), seconds(*s)));
                }
            }
            Event::RungReached { stage, epoch, seconds: s } => {
                self.end(stage);
                self.line(GREEN, "trained", &format!("{stage} to epoch {epoch} in {}", seconds(*s)));
            }
            _ => {}
        }
    }

    /// Prints the start or the end of a stage.
    fn stage(&self, event: &Event) {
        match event {
            Event::StageCached { stage, .. } => self.line(DIM, "cached", stage),
            Event::StageWaiting { stage, holder } => {
                self.line(YELLOW, "waiting", &format!("{stage}: runs in {holder}"))
            }
            Event::StageStarted { stage, reason, .. } => {
                let why = reason.as_ref().map(|r| paint(DIM, &format!("  ({})", r.text))).unwrap_or_default();
                self.start(stage, &why);
            }
            Event::StagePruned { stage, reason } => self.line(YELLOW, "pruned", &format!("{stage}: {}", reason.text)),
            Event::StageFinished { stage, seconds: s, metrics, .. } => {
                self.end(stage);
                let words: Vec<_> = metrics.iter().map(|(n, v)| format!("{} {}", shorten(n), figure(*v))).collect();
                let words = paint(DIM, &words.join(" "));
                self.line(GREEN, "done", &format!("{stage} in {}  {words}", seconds(*s)));
            }
            Event::StageInterrupted { stage, has_checkpoint } => {
                self.end(stage);
                let next = match lock(&self.saved).get(stage) {
                    Some((epoch, step)) => format!("continues at {}", position(*epoch, *step)),
                    None if *has_checkpoint => "continues from its checkpoint".to_owned(),
                    None => "starts over".to_owned(),
                };
                self.line(YELLOW, "stopped", &format!("{stage}: the next run {next}"));
            }
            Event::CheckpointFound { stage, run } => {
                self.line(GREEN, "resume", &format!("{stage} from its checkpoint of run {run}"));
            }
            Event::StageFailed { stage, error, hint, log } => {
                self.end(stage);
                self.say(&labelled(RED, "FAILED", &format!("{stage}: {error}")));
                if let Some(hint) = hint {
                    self.say(&format!("           {} {hint}", paint(GREEN, "hint:")));
                }
                self.say(&format!("           log: {log}"));
            }
            Event::StageSkipped { stage, because } => {
                self.line(YELLOW, "skipped", &format!("{stage}: needs {because}"));
            }
            _ => {}
        }
    }

    /// Writes the buffered events.
    fn write_out(&self, buffer: &mut String) {
        if !(buffer.is_empty() || self.is_closed.load(Ordering::Relaxed))
            && let Err(error) = self.ui.try_out(buffer)
        {
            // The run continues, and its file holds all events.
            self.is_closed.store(true, Ordering::Relaxed);
            if error.kind() != std::io::ErrorKind::BrokenPipe {
                *lock(&self.failed) = Some(error);
            }
        }
        buffer.clear();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A line with a word in front; the words of all lines end in the same column.
fn labelled(style: Style, word: &str, text: &str) -> String {
    format!("{} {text}", paint(style, &format!("{word:>8}")))
}

/// "epoch 3", "epoch 3, step 20".
fn position(epoch: u64, step: u64) -> String {
    if step > 0 { format!("epoch {epoch}, step {step}") } else { format!("epoch {epoch}") }
}

fn words(figures: &BTreeMap<String, f64>) -> String {
    figures.iter().map(|(name, value)| format!("{name} {value:.4}")).collect::<Vec<_>>().join(" ")
}

impl Listener for Watch {
    fn event(&self, event: &Event) {
        if !self.ui.json {
            return self.text(event);
        }
        let Ok(line) = serde_json::to_string(event) else { return };
        let mut buffer = lock(&self.buffer);
        buffer.push_str(&line);
        buffer.push('\n');
        if !event.is_one_of_many() || buffer.len() > LONGEST_BUFFER {
            self.write_out(&mut buffer);
        }
    }

    fn pause(&self) {
        self.write_out(&mut lock(&self.buffer));
    }
}
