//! Reports the progress of a training: at most ten times a second, and at the end of each epoch. This is the only part
//! of a training that reads a clock, and no result depends on it.

use std::time::{Duration, Instant};

use super::history::{Figures, History};
use crate::stage::{Position, Progress, Update};

/// The shortest time between two reports within an epoch.
const PAUSE: Duration = Duration::from_millis(100);

pub(super) struct Meter<'a> {
    progress: &'a dyn Progress,
    epochs: u64,
    epoch_began: Instant,
    last: Option<Instant>,
    /// Samples of the current epoch that this process has computed.
    samples: usize,
}

impl<'a> Meter<'a> {
    pub(super) fn new(progress: &'a dyn Progress, epochs: u64) -> Self {
        Self { progress, epochs, epoch_began: Instant::now(), last: None, samples: 0 }
    }

    pub(super) fn begin_epoch(&mut self) {
        self.epoch_began = Instant::now();
        self.samples = 0;
    }

    /// Reports the means of the epoch so far. `samples` were computed since the last call.
    pub(super) fn step(&mut self, at: Position, steps: usize, samples: usize, sums: &Figures) {
        self.samples += samples;
        if self.last.is_some_and(|last| last.elapsed() < PAUSE) {
            return;
        }
        self.last = Some(Instant::now());
        let (step, steps) = (at.step as f64, steps as f64);
        let figures = vec![("loss", sums.loss / step), ("step", step), ("steps", steps)];
        self.send(at.epoch, figures, false);
    }

    /// Reports the figures of a finished epoch. `samples` were computed since the last call.
    pub(super) fn end_epoch(&mut self, at: Position, samples: usize, history: &History, parts: bool) {
        self.samples += samples;
        let mut curves = vec![("loss", &history.loss), ("rmse", &history.rmse)];
        if parts {
            curves.extend([("reconstruction", &history.reconstruction), ("kl", &history.kl)]);
        }
        let figures = curves.into_iter().filter_map(|(name, curve)| Some((name, *curve.last()?))).collect();
        self.send(at.epoch, figures, true);
    }

    fn send(&self, done: u64, figures: Vec<(&'static str, f64)>, epoch_end: bool) {
        let seconds = self.epoch_began.elapsed().as_secs_f64();
        let rate = (seconds > 0.0).then(|| self.samples as f64 / seconds);
        let figures = figures.into_iter().map(|(name, figure)| (name.into(), figure)).collect();
        let update = Update { done, total: self.epochs, unit: "epochs", figures, rate, epoch_end };
        self.progress.update(update);
    }
}
