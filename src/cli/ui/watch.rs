//! What a run looks like while it happens.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::{DIM, GREEN, RED, Ui, YELLOW, figure, output_failed, paint, seconds, shorten};
use crate::error::Result;
use crate::escape::escape;
use crate::event::{Event, Listener};
use crate::status::RunStatus;

/// Listens to a run and prints.
pub(in crate::cli) struct Watch {
    ui: Ui,
    quiet: bool,
    bars: Option<MultiProgress>,
    running: Mutex<BTreeMap<String, ProgressBar>>,
    /// Where the newest saved state of each training is.
    saved: Mutex<BTreeMap<String, (u64, u64)>>,
    /// Events as JSON that are to be written together.
    held_back: Mutex<String>,
    /// Standard output can't be written any more.
    unheard: AtomicBool,
    /// Why, if that is an error: nobody has to read to the end.
    failed: Mutex<Option<std::io::Error>>,
}

/// So much is held back at most.
const MOST_HELD_BACK: usize = 64 << 10;

impl Watch {
    pub(super) fn new(ui: Ui, bars: bool, quiet: bool) -> Self {
        // Ten a second is enough for eyes, and costs nothing.
        let bars = bars.then(|| MultiProgress::with_draw_target(ProgressDrawTarget::stderr_with_hz(10)));
        let (running, saved, held_back) = (Mutex::default(), Mutex::default(), Mutex::default());
        let (unheard, failed) = (AtomicBool::new(false), Mutex::default());
        Self { ui, quiet, bars, running, saved, held_back, unheard, failed }
    }

    /// Fails if events could not be written to standard output. A closed pipe is not an error.
    pub(in crate::cli) fn check_output(&self) -> Result<()> {
        match self.failed.lock().unwrap_or_else(PoisonError::into_inner).take() {
            Some(error) => Err(output_failed(error)),
            None => Ok(()),
        }
    }

    /// A line about the whole run, from outside the events.
    pub(in crate::cli) fn say(&self, line: &str) {
        match &self.bars {
            // Printed above the bars, which are drawn again below.
            Some(bars) => bars.suspend(|| self.ui.err(line)),
            None => self.ui.err(line),
        }
    }

    fn line(&self, line: &str) {
        if !self.quiet {
            self.say(line);
        }
    }

    fn start(&self, stage: &str, why: &str) {
        let Some(bars) = &self.bars else { return self.line(&format!("{} {stage}{why}", paint(DIM, "   start"))) };
        let bar = bars.add(ProgressBar::no_length());
        let template = "{spinner} {prefix:<28!} {wide_bar:.cyan/dim} {pos}/{len} {msg} {eta:>5}";
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style.progress_chars("━╸ "));
        }
        bar.set_prefix(escape(stage).into_owned());
        bar.enable_steady_tick(Duration::from_millis(200));
        self.bars_running().insert(stage.to_owned(), bar);
    }

    fn end(&self, stage: &str) {
        if let Some(bar) = self.bars_running().remove(stage) {
            bar.finish_and_clear();
        }
    }

    fn bars_running(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, ProgressBar>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn advance(&self, stage: &str, done: u64, total: u64, figures: &BTreeMap<String, f64>, rate: Option<f64>) {
        let running = self.bars_running();
        let Some(bar) = running.get(stage) else { return };
        bar.set_length(total);
        bar.set_position(done);
        let mut words: Vec<String> = figures.iter().map(|(n, v)| format!("{n} {v:.4}")).collect();
        words.extend(rate.map(|r| format!("{r:.0}/s")));
        bar.set_message(escape(&words.join(" ")).into_owned());
    }

    /// Without bars, a training says about twenty times how far it is.
    fn epoch(&self, stage: &str, epoch: u64, epochs: u64, figures: &BTreeMap<String, f64>) {
        self.advance(stage, epoch, epochs, figures, None);
        if self.bars.is_none() && (epoch == epochs || epoch == 1 || epoch.is_multiple_of((epochs / 20).max(1))) {
            let words: Vec<_> = figures.iter().map(|(n, v)| format!("{n} {v:.4}")).collect();
            self.line(&format!("{} {stage} epoch {epoch}/{epochs} {}", paint(DIM, "        "), words.join(" ")));
        }
    }

    fn text(&self, event: &Event) {
        match event {
            // By the thousand: not even made into text.
            Event::StageCached { .. } if self.quiet => {}
            Event::RunStarted { run, pipeline, stages, device, numerics, threads, .. } => self.line(&format!(
                "{} {pipeline}: {stages} stages on {device} ({numerics}), {threads} threads, run {run}",
                paint(GREEN, "     run")
            )),
            Event::StageCached { stage, .. } => self.line(&format!("{} {stage}", paint(DIM, "  cached"))),
            Event::StageWaiting { stage, holder } => {
                self.line(&format!("{} {stage}: computed by {holder}", paint(YELLOW, " waiting")));
            }
            Event::StageStarted { stage, reason, .. } => {
                let why = reason.as_ref().map(|r| paint(DIM, &format!("  ({})", r.text))).unwrap_or_default();
                self.start(stage, &why);
            }
            Event::Resumed { stage, epoch, step, epochs, .. } => {
                let step = if *step > 0 { format!(" and {step} steps") } else { String::new() };
                self.line(&format!("{} {stage} at epoch {epoch}{step} of {epochs}", paint(GREEN, "  resume")));
            }
            Event::Progress { stage, done, total, figures, rate, .. } => {
                self.advance(stage, *done, *total, figures, *rate);
            }
            Event::Epoch { stage, epoch, epochs, figures, .. } => self.epoch(stage, *epoch, *epochs, figures),
            Event::StateSaved { stage, epoch, step, seconds: s, .. } => {
                self.saved.lock().unwrap_or_else(PoisonError::into_inner).insert(stage.clone(), (*epoch, *step));
                if self.ui.verbose {
                    self.line(&format!("   saved {stage} at epoch {epoch}, step {step}, in {}", seconds(*s)));
                }
            }
            Event::RungReached { stage, epoch, seconds: s } => {
                self.end(stage);
                self.line(&format!("{} {stage} to epoch {epoch} in {}", paint(GREEN, " trained"), seconds(*s)));
            }
            Event::StagePruned { stage, reason } => {
                self.line(&format!("{} {stage}: {}", paint(YELLOW, "  pruned"), reason.text));
            }
            Event::StageFinished { stage, seconds: s, metrics, .. } => {
                self.end(stage);
                let words: Vec<_> = metrics.iter().map(|(n, v)| format!("{} {}", shorten(n), figure(*v))).collect();
                let words = paint(DIM, &words.join(" "));
                self.line(&format!("{} {stage} in {}  {words}", paint(GREEN, "    done"), seconds(*s)));
            }
            Event::StageInterrupted { stage } => {
                self.end(stage);
                let saved = self.saved.lock().unwrap_or_else(PoisonError::into_inner).get(stage).copied();
                let saved = match saved {
                    Some((epoch, 0)) => format!(": its state after epoch {epoch} is saved"),
                    Some((epoch, step)) => format!(": its state after epoch {epoch} and {step} steps is saved"),
                    None => String::new(),
                };
                self.line(&format!("{} {stage}{saved}", paint(YELLOW, " stopped")));
            }
            Event::StageFailed { stage, error, hint, log } => {
                self.end(stage);
                self.say(&format!("{} {stage}: {error}", paint(RED, "  FAILED")));
                if let Some(hint) = hint {
                    self.say(&format!("           {} {hint}", paint(GREEN, "hint:")));
                }
                self.say(&format!("           log: {log}"));
            }
            Event::StageSkipped { stage, because } => {
                self.line(&format!("{} {stage}: needs {because}", paint(YELLOW, " skipped")));
            }
            Event::ReportWritten { path, .. } => self.line(&format!("{} {path}", paint(GREEN, "  report"))),
            Event::Warning { message } => self.say(&format!("{} {message}", paint(YELLOW, " warning"))),
            Event::RunFinished { status, executed, cached, failed, skipped, pruned, seconds: s, .. } => {
                let word = match status {
                    RunStatus::Ok => paint(GREEN, "      ok"),
                    RunStatus::Failed => paint(RED, "  failed"),
                    RunStatus::Interrupted | RunStatus::Running => paint(YELLOW, " stopped"),
                };
                let ran = [(executed, "ran"), (cached, "cached"), (pruned, "pruned")];
                let counts = [(failed, "failed"), (skipped, "not run")];
                let counts = ran.iter().chain(&counts).filter(|(list, _)| !list.is_empty());
                let counts: Vec<_> = counts.map(|(list, word)| format!("{} {word}", list.len())).collect();
                self.line(&format!("{word} {} in {}", counts.join(", "), seconds(*s)));
            }
        }
    }
}

impl Watch {
    fn write_out(&self, held_back: &mut String) {
        if !(held_back.is_empty() || self.unheard.load(Ordering::Relaxed))
            && let Err(error) = self.ui.try_out(held_back)
        {
            // The run goes on, and its events are kept in its file.
            self.unheard.store(true, Ordering::Relaxed);
            if error.kind() != std::io::ErrorKind::BrokenPipe {
                *self.failed.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
            }
        }
        held_back.clear();
    }
}

impl Listener for Watch {
    fn event(&self, event: &Event) {
        if !self.ui.json {
            return self.text(event);
        }
        let Ok(line) = serde_json::to_string(event) else { return };
        let mut held_back = self.held_back.lock().unwrap_or_else(PoisonError::into_inner);
        held_back.push_str(&line);
        held_back.push('\n');
        if !event.is_one_of_many() || held_back.len() > MOST_HELD_BACK {
            self.write_out(&mut held_back);
        }
    }

    fn pause(&self) {
        self.write_out(&mut self.held_back.lock().unwrap_or_else(PoisonError::into_inner));
    }
}
