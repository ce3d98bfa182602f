//! How far a training is, told at most ten times a second and at the end of every epoch. The only place of the training
//! that looks at a clock; nothing it reads there reaches a result.

use std::time::{Duration, Instant};

use super::history::{Figures, History};
use crate::stage::{Position, Progress, Update};

const PAUSE: Duration = Duration::from_millis(100);

pub(super) struct Meter<'a> {
    progress: &'a dyn Progress,
    epochs: u64,
    epoch_began: Instant,
    last: Option<Instant>,
    /// Samples of this epoch that were computed here, and not before an interruption.
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

    /// After a step within an epoch: the means of the epoch so far.
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

    /// After the last step of an epoch: its figures.
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
        let update = Update { done, total: self.epochs, unit: "epochs", figures, rate, epoch_end };
        self.progress.update(update);
    }
}
