//! What a run shows while it runs: a line for each running stage, and one for the whole run.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anstream::adapter::strip_str;
use unicode_width::UnicodeWidthStr as _;

use super::style::{DIM, GREEN, RED, paint, printable};
use super::terminal::cut;
use super::words::{decimals, pad};
use crate::escape::escape;
use crate::event::Event;
use crate::id::PointName;

const SPINNER: [char; 10] = ['⠋', '⠙', '⠹', '⠸', '⠼', '⠴', '⠦', '⠧', '⠇', '⠏'];
/// How long each sign of the spinner is shown.
const SPIN: Duration = Duration::from_millis(100);
/// The columns of a bar.
const NARROWEST_BAR: usize = 10;
const WIDEST_BAR: usize = 30;
/// The columns of a time: "59m30s".
const TIME: usize = 6;
/// How much of the end of a log is searched for its last line.
const TAIL: u64 = 4096;

/// The running stages of a run.
#[derive(Default)]
pub(super) struct Board {
    /// The folder with the logs of all runs, if last lines are shown.
    logs: Option<PathBuf>,
    /// A transfer from the shared store, in kilobytes.
    transfer: Option<Steps>,
    run: Option<Run>,
}

struct Run {
    id: String,
    started: Instant,
    /// The number of points.
    total: usize,
    ended: BTreeSet<String>,
    failed: usize,
    /// In the order in which they started.
    running: Vec<Running>,
}

/// A running stage.
struct Running {
    name: String,
    /// Its name and the worker that runs it, if the run has several.
    shown: String,
    started: Instant,
    steps: Option<Steps>,
    /// The newest value of each figure.
    figures: BTreeMap<String, f64>,
    /// Samples per second.
    rate: Option<f64>,
    /// The last line of its output.
    last_line: String,
}

/// How far something is.
#[derive(Clone, Copy)]
pub(super) struct Steps {
    done: u64,
    total: u64,
    /// The part of the next step that is done.
    part: f64,
    /// When the first report came, and how far it was.
    first: (Instant, f64),
}

impl Steps {
    pub(super) fn begin(done: u64, total: u64, now: Instant) -> Self {
        Self { done, total, part: 0.0, first: (now, done as f64) }
    }

    pub(super) fn advance(&mut self, done: u64, total: u64, part: f64) {
        (self.done, self.total, self.part) = (done, total, part);
    }

    fn position(&self) -> f64 {
        self.done as f64 + self.part
    }

    fn share(&self) -> f64 {
        if self.total == 0 { 0.0 } else { (self.position() / self.total as f64).clamp(0.0, 1.0) }
    }

    /// The remaining time, at the mean speed so far.
    fn remaining(&self, now: Instant) -> Option<Duration> {
        let (began, from) = self.first;
        let made = self.position() - from;
        let seconds = (self.total as f64 - self.position()).max(0.0) * (now - began).as_secs_f64() / made;
        Duration::try_from_secs_f64(seconds).ok().filter(|_| made > 0.0)
    }
}

impl Board {
    /// Shows the last lines of the logs in this folder.
    pub(super) fn read_logs(&mut self, folder: PathBuf) {
        self.logs = Some(folder);
    }

    pub(super) fn event(&mut self, event: &Event, now: Instant) {
        if let Event::RunStarted { run, stages, .. } = event {
            let (id, ended, running) = (run.clone(), BTreeSet::new(), Vec::new());
            self.run = Some(Run { id, started: now, total: *stages, ended, failed: 0, running });
        }
        if let Event::Transferring { done, total } = event {
            let (done, total) = (done / 1000, total / 1000);
            self.transfer.get_or_insert_with(|| Steps::begin(done, total, now)).advance(done, total, 0.0);
        }
        let Some(run) = &mut self.run else { return };
        self.transfer = None;
        match event {
            Event::StageStarted { stage, worker, .. } => run.start(stage, worker.as_deref(), now),
            Event::Progress { stage, done, total, figures, rate, .. } => {
                run.advance(stage, (*done, *total), figures, *rate, now);
            }
            Event::Epoch { stage, epoch, epochs, figures, .. } => {
                run.advance(stage, (*epoch, *epochs), figures, None, now)
            }
            Event::RungReached { stage, .. } | Event::StageInterrupted { stage, .. } => run.stop(stage),
            Event::StageFailed { stage, .. } => {
                run.failed += 1;
                run.end(stage);
            }
            Event::StageCached { stage, .. }
            | Event::StageFinished { stage, .. }
            | Event::StagePruned { stage, .. }
            | Event::StageSkipped { stage, .. } => run.end(stage),
            Event::RunFinished { .. } => self.run = None,
            _ => {}
        }
    }

    /// The stages that report no progress, such as programs, with the paths of their logs.
    pub(super) fn without_progress(&self) -> Vec<(String, PathBuf)> {
        let (Some(logs), Some(run)) = (&self.logs, &self.run) else { return Vec::new() };
        let running = run.running.iter().filter(|stage| stage.steps.is_none());
        running.map(|s| (s.name.clone(), logs.join(&run.id).join(format!("{}.log", s.name)))).collect()
    }

    /// Shows a line of the output of a running stage.
    pub(super) fn show_line(&mut self, stage: &str, line: String) {
        if let Some(running) = self.run.iter_mut().flat_map(|run| &mut run.running).find(|s| s.name == stage) {
            running.last_line = line;
        }
    }

    /// The lines to show, all narrower than `columns` and fewer than `rows`. Empty if nothing runs.
    pub(super) fn lines(&self, (columns, rows): (usize, usize), now: Instant) -> Vec<String> {
        let pulling = |steps: &Steps| vec![simple_line("pulling (kB)", steps, columns - 1, now)];
        let Some(run) = &self.run else { return self.transfer.as_ref().map(pulling).unwrap_or_default() };
        let shown = run.running.len().min(rows.saturating_sub(3).max(1));
        let most = (columns * 2 / 5).max(12);
        let names: Vec<String> = run.running[..shown].iter().map(|stage| short_name(&stage.shown, most)).collect();
        let width = names.iter().map(|name| name.width()).max().unwrap_or(0);
        let counts = run.running[..shown].iter().filter_map(|stage| Some(count(stage.steps.as_ref()?).len()));
        let columns = Columns { all: columns - 1, name: width, count: counts.max().unwrap_or(0) };
        let mut lines: Vec<String> =
            names.iter().zip(&run.running).map(|(name, stage)| stage.line(name, columns, now)).collect();
        if shown < run.running.len() {
            lines.push(format!("  … and {} more", run.running.len() - shown));
        }
        lines.push(run.line(columns.all, now));
        lines.into_iter().map(|line| fitted(line, columns.all)).collect()
    }
}

/// A line that is too long for a very narrow terminal is cut and loses its styles.
fn fitted(line: String, width: usize) -> String {
    let plain = strip_str(&printable(&line)).to_string();
    if plain.width() > width { cut(&plain, width).into_owned() } else { line }
}

/// The widths of the parts of a line.
#[derive(Clone, Copy)]
struct Columns {
    all: usize,
    name: usize,
    count: usize,
}

impl Run {
    fn start(&mut self, stage: &str, worker: Option<&str>, now: Instant) {
        // A lost result is made again.
        self.ended.remove(stage);
        let (steps, figures, rate, last_line) = (None, BTreeMap::new(), None, String::new());
        let (name, place) = (stage.to_owned(), worker.map(|worker| format!(" ({worker})")).unwrap_or_default());
        let shown = format!("{name}{place}");
        self.running.push(Running { name, shown, started: now, steps, figures, rate, last_line });
    }

    fn stop(&mut self, stage: &str) {
        self.running.retain(|running| running.name != stage);
    }

    fn end(&mut self, stage: &str) {
        self.stop(stage);
        self.ended.insert(stage.to_owned());
    }

    fn advance(
        &mut self,
        stage: &str,
        (done, total): (u64, u64),
        figures: &BTreeMap<String, f64>,
        rate: Option<f64>,
        now: Instant,
    ) {
        let Some(running) = self.running.iter_mut().find(|running| running.name == stage) else { return };
        let step = figures.get("step").zip(figures.get("steps"));
        let part = step.map_or(0.0, |(step, steps)| if *steps > 0.0 { step / steps } else { 0.0 });
        running.steps.get_or_insert_with(|| Steps::begin(done, total, now)).advance(done, total, part);
        // The other figures stay, so that the line does not change between a step and the end of an epoch.
        let others = figures.iter().filter(|(name, _)| !matches!(name.as_str(), "step" | "steps"));
        running.figures.extend(others.map(|(name, value)| (name.clone(), *value)));
        running.rate = rate.or(running.rate);
    }

    /// "7/24 stages" with a bar.
    fn line(&self, columns: usize, now: Instant) -> String {
        let (done, total) = (self.ended.len().min(self.total), self.total);
        let share = if total == 0 { 0.0 } else { done as f64 / total as f64 };
        let failed = if self.failed > 0 { paint(RED, &format!("  {} failed", self.failed)) } else { String::new() };
        let bar = bar(share, (columns / 4).clamp(NARROWEST_BAR, WIDEST_BAR));
        format!("  {bar}  {done}/{total} stages{failed}  {}", clock(now - self.started))
    }
}

impl Running {
    fn line(&self, name: &str, columns: Columns, now: Instant) -> String {
        let elapsed = now - self.started;
        let spinner = SPINNER[(elapsed.as_millis() / SPIN.as_millis()) as usize % SPINNER.len()];
        let begin = format!("{spinner} {}", pad(name, columns.name));
        // Two spaces between all parts.
        let rest = columns.all.saturating_sub(2 + columns.name + 2);
        let Some(steps) = &self.steps else {
            let line = paint(DIM, &cut(&self.last_line, rest.saturating_sub(TIME + 2)));
            return format!("{begin}  {:>TIME$}  {line}", clock(elapsed));
        };
        let time_width = if rest < NARROWEST_BAR + columns.count + TIME + 2 * 2 { 0 } else { TIME };
        let free = rest.saturating_sub(columns.count + time_width + 2 * 2);
        // Its width does not depend on the figures, which change.
        let bar_width = (free / 2).clamp(NARROWEST_BAR, WIDEST_BAR);
        let figures = self.figures(free.saturating_sub(bar_width + 2));
        let time = steps.remaining(now).filter(|_| time_width > 0).map(clock).unwrap_or_default();
        let count = format!("{:>1$}", count(steps), columns.count);
        let line = format!("{begin}  {}  {count}  {time:>time_width$}  {figures}", bar(steps.share(), bar_width));
        line.trim_end().to_owned()
    }

    /// The figures that fit, the loss first.
    fn figures(&self, width: usize) -> String {
        let figure = |(name, value): (&String, &f64)| format!("{} {}", escape(name), decimals(*value));
        let (first, others): (Vec<_>, Vec<_>) = self.figures.iter().partition(|(name, _)| *name == "loss");
        let rate = self.rate.map(|rate| format!("{rate:.0}/s"));
        let mut text = String::new();
        for word in first.into_iter().chain(others).map(figure).chain(rate) {
            let space = if text.is_empty() { "" } else { " " };
            if text.width() + space.len() + word.width() > width {
                break;
            }
            text.push_str(&format!("{space}{word}"));
        }
        text
    }
}

/// "12/40".
fn count(steps: &Steps) -> String {
    format!("{}/{}", steps.done, steps.total)
}

/// A line with a bar for a command that does not run a pipeline.
pub(super) fn simple_line(what: &str, steps: &Steps, columns: usize, now: Instant) -> String {
    let rest = columns.saturating_sub(what.width() + count(steps).len() + TIME + 4);
    let bar = bar(steps.share(), rest.clamp(NARROWEST_BAR, WIDEST_BAR));
    format!("{what} {bar} {} {}", count(steps), steps.remaining(now).map(clock).unwrap_or_default())
}

fn bar(share: f64, width: usize) -> String {
    let full = (share * width as f64) as usize;
    let (full, rest) = (full.min(width), width - full.min(width));
    let tip = if rest > 0 && full > 0 { "╸" } else { "" };
    let done = "━".repeat(if tip.is_empty() { full } else { full - 1 });
    format!("{}{}", paint(GREEN, &format!("{done}{tip}")), paint(DIM, &"─".repeat(rest)))
}

/// A time of at most six characters: "45s", "2m13s", "3h26m", "12d".
fn clock(time: Duration) -> String {
    match time.as_secs() {
        s if s < 60 => format!("{s}s"),
        s if s < 3600 => format!("{}m{:02}s", s / 60, s % 60),
        s if s < 100 * 3600 => format!("{}h{:02}m", s / 3600, s / 60 % 60),
        s => format!("{}d", s / 86_400),
    }
}

/// The name of a point in at most `width` columns: with its values only, or without its middle.
pub(super) fn short_name(name: &str, width: usize) -> String {
    let name = escape(name);
    if name.width() <= width {
        return name.into_owned();
    }
    let PointName { stage, coordinates } = PointName::parse(&name);
    let value = |part: &str| part.split_once('=').map_or(part, |(_, value)| value).to_owned();
    let values: Vec<String> = coordinates.into_iter().flat_map(|c| c.split(',')).map(value).collect();
    let values = if values.is_empty() { String::new() } else { format!("@{}", values.join(",")) };
    if stage.width() + values.width() <= width {
        return format!("{stage}{values}");
    }
    // The values tell the points of a stage apart.
    match width.checked_sub(values.width()).filter(|rest| *rest > 4) {
        Some(rest) => format!("{}{values}", cut(stage, rest)),
        None => cut(&format!("{stage}{values}"), width).into_owned(),
    }
}

/// The last line of a log that is not empty, without styles. A progress bar that a program draws over and over counts
/// as its newest state.
pub(super) fn last_line(path: &Path) -> Option<String> {
    let mut file = File::open(path).ok()?;
    let length = file.metadata().ok()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(TAIL))).ok()?;
    let mut bytes = Vec::new();
    file.take(TAIL).read_to_end(&mut bytes).ok()?;
    let text = strip_str(&String::from_utf8_lossy(&bytes)).to_string();
    let line = text.split(['\n', '\r']).map(str::trim).rfind(|line| !line.is_empty())?;
    Some(escape(&line.replace('\t', " ")).into_owned())
}

#[cfg(test)]
mod tests;
