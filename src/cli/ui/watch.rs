//! Prints what happens in a run: bars on a terminal, lines elsewhere, NDJSON with `--json`.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::thread;
use std::time::{Duration, Instant};

use anstyle::Style;

use super::failures::Failures;
use super::progress::{Board, last_line};
use super::words::{bytes, count, decimals};
use super::{DIM, GREEN, RED, Ui, YELLOW, figure, output_failed, paint, screen, seconds, shorten};
use crate::error::Result;
use crate::event::{Event, Listener};
use crate::plan::some_of;
use crate::status::RunStatus;

/// A listener that prints the events of a run.
pub(in crate::cli) struct Watch {
    ui: Ui,
    quiet: bool,
    /// What the terminal shows while stages run.
    board: Option<Arc<Mutex<Board>>>,
    failures: Mutex<Failures>,
    /// The option with which other commands find the cache.
    cache_option: Mutex<String>,
    /// The newest saved state of each training: epoch and step.
    saved: Mutex<BTreeMap<String, (u64, u64)>>,
    /// Cached points that are not printed yet.
    cached: Mutex<Vec<String>>,
    /// JSON lines that are not written yet.
    buffer: Mutex<String>,
    /// Standard output can no longer be written.
    is_closed: AtomicBool,
    /// The error that closed it; `None` if its reader has gone.
    failed: Mutex<Option<std::io::Error>>,
}

/// The buffer is written when it is longer than this.
const LONGEST_BUFFER: usize = 64 << 10;
/// How often the terminal is updated.
const TICK: Duration = Duration::from_millis(100);
/// The column in which the texts of all lines begin.
const TEXT: usize = 9;
/// More cached points in a row are one line.
const MOST_CACHED: usize = 4;
/// Begins another line of a text.
const BREAK: &str = "\n         ";

impl Watch {
    /// A listener for `run`.
    pub(in crate::cli) fn of_run(ui: &Ui) -> Self {
        let board = (!ui.json && !ui.quiet && screen::available().is_some()).then(Arc::default);
        Self::new(*ui, board.filter(start_ticking), ui.quiet)
    }

    /// A listener that prints only warnings and failures, and nothing to standard output.
    pub(in crate::cli) fn of_errors(ui: &Ui) -> Self {
        Self::new(Ui { json: false, ..*ui }, None, true)
    }

    fn new(ui: Ui, board: Option<Arc<Mutex<Board>>>, quiet: bool) -> Self {
        let (failures, cache_option) = (Mutex::default(), Mutex::default());
        let (saved, cached, buffer) = (Mutex::default(), Mutex::default(), Mutex::default());
        let (is_closed, failed) = (AtomicBool::new(false), Mutex::default());
        Self { ui, quiet, board, failures, cache_option, saved, cached, buffer, is_closed, failed }
    }

    /// Shows the output of programs, from the logs in this cache. `option` is the option with which other commands find
    /// the cache.
    pub(in crate::cli) fn set_cache(&self, dir: &Path, option: String) {
        if let Some(board) = &self.board {
            lock(board).read_logs(dir.join("logs"));
        }
        *lock(&self.cache_option) = option;
    }

    /// Removes what the terminal shows, because the process exits.
    pub(in crate::cli) fn clear(&self) {
        if self.board.is_some() {
            screen::above(|| ());
        }
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
        self.ui.err_indented(line, Some(TEXT));
        if let Some(board) = &self.board {
            draw(board);
        }
    }

    fn line(&self, style: Style, word: &str, text: &str) {
        if !self.quiet {
            self.say(&labelled(style, word, text));
        }
    }

    /// Without a terminal, a training prints about twenty lines.
    fn epoch(&self, stage: &str, epoch: u64, epochs: u64, figures: &BTreeMap<String, f64>) {
        if self.board.is_none() && (epoch == epochs || epoch == 1 || epoch.is_multiple_of((epochs / 20).max(1))) {
            self.line(DIM, "", &format!("{stage} epoch {epoch}/{epochs} {}", words(figures)));
        }
    }

    fn text(&self, event: &Event) {
        if let Some(board) = &self.board {
            lock(board).event(event, Instant::now());
        }
        lock(&self.failures).event(event);
        if let Event::StageCached { stage, .. } = event {
            if !self.quiet {
                lock(&self.cached).push(stage.clone());
            }
            return;
        }
        self.print_cached();
        match event {
            Event::RunStarted { run, pipeline, stages, device, numerics, threads, .. } => {
                let text =
                    format!("{pipeline}: {stages} stages on {device} ({numerics}), {threads} threads, run {run}");
                self.line(GREEN, "run", &text);
            }
            Event::Pulled { results, states, bytes: size } => {
                let text = format!(
                    "{} and {} from the store ({})",
                    count(*results, "result"),
                    count(*states, "state"),
                    bytes(*size)
                );
                self.line(GREEN, "pulled", &text);
            }
            Event::ReportWritten { path, .. } => self.line(GREEN, "report", path),
            Event::WorkerStarted { .. } | Event::WorkerEnded { .. } | Event::Workers { .. } => self.worker(event),
            Event::Warning { message } => self.say(&labelled(YELLOW, "warning", message)),
            Event::RunFinished { status, executed, cached, failed, skipped, pruned, seconds: s, .. } => {
                let epochs = saved_epochs(event);
                let (style, word) = match status {
                    RunStatus::Ok => (GREEN, "ok"),
                    RunStatus::Failed => (RED, "failed"),
                    RunStatus::Interrupted | RunStatus::Running => (YELLOW, "stopped"),
                };
                let ran = [(executed, "ran"), (cached, "cached"), (pruned, "pruned")];
                let counts = [(failed, "failed"), (skipped, "skipped")];
                let counts = ran.iter().chain(&counts).filter(|(list, _)| !list.is_empty());
                let counts: Vec<_> = counts.map(|(list, word)| format!("{} {word}", list.len())).collect();
                self.line(style, word, &format!("{} in {}{epochs}", counts.join(", "), seconds(*s)));
                let failures = lock(&self.failures).list(&lock(&self.cache_option));
                failures.iter().filter(|_| !self.quiet).for_each(|line| self.ui.err(line));
                self.clear();
            }
            _ => {
                self.training(event);
                self.stage(event);
            }
        }
    }

    /// Prints the points that were cached one after the other. Most runs have many, and few have to be known.
    fn print_cached(&self) {
        let cached = std::mem::take(&mut *lock(&self.cached));
        if self.ui.verbose || cached.len() <= MOST_CACHED {
            cached.iter().for_each(|stage| self.line(DIM, "cached", stage));
        } else {
            self.line(DIM, "cached", &format!("{}: {}", count(cached.len(), "point"), some_of(&cached)));
        }
    }

    /// Prints the progress of a stage.
    fn training(&self, event: &Event) {
        match event {
            Event::Resumed { stage, epoch, step, epochs, .. } => {
                lock(&self.saved).insert(stage.clone(), (*epoch, *step));
                self.line(GREEN, "resume", &format!("{stage} at {} of {epochs}", position(*epoch, *step)));
            }
            Event::Epoch { stage, epoch, epochs, figures, .. } => self.epoch(stage, *epoch, *epochs, figures),
            Event::StateSaved { stage, epoch, step, seconds: s, .. } => {
                lock(&self.saved).insert(stage.clone(), (*epoch, *step));
                if self.ui.verbose {
                    self.line(DIM, "saved", &format!("{stage} at {} in {}", position(*epoch, *step), seconds(*s)));
                }
            }
            Event::RungReached { stage, epoch, seconds: s } => {
                self.line(GREEN, "trained", &format!("{stage} to epoch {epoch} in {}", seconds(*s)));
            }
            _ => {}
        }
    }

    /// Prints the start or the end of a stage.
    fn stage(&self, event: &Event) {
        match event {
            Event::StageWaiting { stage, holder } => {
                self.line(YELLOW, "waiting", &format!("{stage}: runs in {holder}"))
            }
            Event::StageLeft { stage, lack } => self.line(YELLOW, "left", &format!("{stage}: needs {lack}")),
            Event::StageStarted { stage, reason, worker, .. } if self.board.is_none() => {
                let why = reason.as_ref().map(|r| paint(DIM, &format!("  ({})", r.text))).unwrap_or_default();
                let place = worker.as_ref().map(|worker| format!(" on {worker}")).unwrap_or_default();
                self.line(DIM, "start", &format!("{stage}{place}{why}"));
            }
            Event::StagePruned { stage, reason } => self.line(YELLOW, "pruned", &format!("{stage}: {}", reason.text)),
            Event::StageFinished { stage, seconds: s, metrics, .. } => {
                let words: Vec<_> = metrics.iter().map(|(n, v)| format!("{} {}", shorten(n), figure(*v))).collect();
                let words = paint(DIM, &words.join(" "));
                self.line(GREEN, "done", &format!("{stage} in {}  {words}", seconds(*s)));
            }
            Event::StageInterrupted { stage, has_checkpoint } => {
                let next = match lock(&self.saved).get(stage) {
                    Some((epoch, step)) => format!("continues at {}", position(*epoch, *step)),
                    None if *has_checkpoint => "continues from its checkpoint, if it saved one".to_owned(),
                    None => "starts over".to_owned(),
                };
                self.line(YELLOW, "stopped", &format!("{stage}: the next run {next}"));
            }
            Event::CheckpointFound { stage, run } => {
                self.line(GREEN, "resume", &format!("{stage} from its checkpoint of run {run}"));
            }
            Event::StageFailed { stage, error, hint, log } => {
                let mut lines = vec![labelled(RED, "FAILED", &format!("{stage}: {error}")).replace('\n', BREAK)];
                lines.extend(hint.iter().map(|hint| format!("{} {hint}", paint(GREEN, "hint:"))));
                lines.push(format!("log: {log}"));
                self.say(&lines.join(BREAK));
            }
            Event::StageSkipped { stage, because } => {
                self.line(YELLOW, "skipped", &format!("{stage}: needs {because}"));
            }
            Event::InputsMissing { stage, missing } => {
                self.line(YELLOW, "partial", &format!("{stage}: without {}", some_of(missing)));
            }
            _ => {}
        }
    }

    /// Prints what is new about the workers of the run.
    fn worker(&self, event: &Event) {
        match event {
            Event::WorkerStarted { worker, host, .. } => {
                self.line(DIM, "worker", &format!("{worker} started on {host}"))
            }
            Event::WorkerEnded { worker, why, is_lost, exit_code, queued_seconds, .. } => {
                let waited = queued_seconds.map(|s| format!(" (it waited {} in the queue)", seconds(s)));
                let is_fine = !is_lost && *exit_code == Some(0);
                let waited = waited.filter(|_| is_fine).unwrap_or_default();
                match is_lost {
                    true => self.line(YELLOW, "lost", &format!("{worker}: {why}")),
                    false => {
                        self.line(if is_fine { DIM } else { YELLOW }, "worker", &format!("{worker} {why}{waited}"))
                    }
                }
            }
            // Its end says the same.
            Event::Workers { pending: 0, running: 0, .. } => {}
            Event::Workers { pending, running, reason, .. } => {
                let reason = reason.as_ref().filter(|_| *pending > 0).map(|reason| format!(" ({reason})"));
                let text = format!("{running} running, {pending} pending{}", reason.unwrap_or_default());
                self.line(DIM, "workers", &text);
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

/// Draws what is in progress, again and again while there is a board. False if the system refuses a thread.
fn start_ticking(board: &Arc<Mutex<Board>>) -> bool {
    let board = Arc::downgrade(board);
    thread::Builder::new().name("vadpipe-terminal".to_owned()).spawn(move || tick(&board)).is_ok()
}

fn tick(board: &Weak<Mutex<Board>>) {
    loop {
        thread::sleep(TICK);
        let Some(board) = board.upgrade() else { return };
        // Files are read without the lock, for which events wait.
        let programs = lock(&board).without_progress();
        for (stage, line) in programs.into_iter().filter_map(|(stage, log)| Some((stage, last_line(&log)?))) {
            lock(&board).show_line(&stage, line);
        }
        draw(&board);
    }
}

/// Draws the board while nothing changes it: after the end of a run, nothing may be drawn.
fn draw(board: &Mutex<Board>) {
    let board = lock(board);
    if let Some(size) = screen::available() {
        screen::draw(&board.lines(size, Instant::now()));
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
    figures.iter().map(|(name, value)| format!("{name} {}", decimals(*value))).collect::<Vec<_>>().join(" ")
}

/// How many epochs did not have to be trained, as the end of a line.
fn saved_epochs(event: &Event) -> String {
    match event {
        Event::RunFinished { epochs_trained, epochs_cached, .. } if *epochs_cached > 0 => {
            format!("; {epochs_cached} of {} epochs were cached", epochs_trained + epochs_cached)
        }
        _ => String::new(),
    }
}

impl Listener for Watch {
    fn event(&self, event: &Event) {
        if !self.ui.json {
            return self.text(event);
        }
        if matches!(event, Event::Transferring { .. }) {
            return;
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
        self.print_cached();
        self.write_out(&mut lock(&self.buffer));
    }
}
