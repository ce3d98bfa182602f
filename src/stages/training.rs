//! The training loop of `train-ad`, `train-vad` and `fit-latents`. The first two train a decoder and latents, the third
//! only latents. An [`engine::Engine`] computes the steps, on the processor or on a GPU.
//!
//! An epoch is a seeded shuffle of all samples, cut into batches; the last batch may be smaller. A step draws z, runs
//! the network forward and backward, and updates what learns with Adam. Each random draw has a stream of its own by
//! purpose, epoch and step, and a state holds everything that the next step reads. So a training that is interrupted
//! after any step ends with the same bytes as one that is not.
//!
//! A state holds
//! - `decoder.*`, if the decoder learns;
//! - `latents.*`: values, both moments and the number of steps;
//! - `history.*`: the curves of the finished epochs;
//! - `history.running`: sums over the finished steps of the current epoch.
//!
//! A state in mid-epoch is stored under the key of the state at the end of that epoch, which depends on the epoch's
//! parameters. So any state that the chain returns can be continued.

mod cpu;
#[cfg(feature = "cuda")]
mod cuda;
mod engine;
pub(in crate::stages) mod evaluation;
pub(in crate::stages) mod history;
pub(in crate::stages) mod joint;
pub(in crate::stages) mod latents;
mod meter;
pub(in crate::stages) mod net;
mod saving;
pub(in crate::stages) mod schedule;

use std::collections::BTreeMap;

use self::cpu::CpuEngine;
use self::engine::Engine;
use self::history::{Figures, History};
use self::latents::Latents;
use self::meter::Meter;
use self::net::Net;
use self::saving::{Saver, Unsaved};
use self::schedule::{Epoch, Rates, Schedule};
use super::reading::Images;
use crate::artifact::Tensor;
use crate::model::StepLoss;
use crate::stage::{Chain, Context, Due, Position, Saved, StageError};

/// A training before its first epoch.
pub(in crate::stages) struct Training<'a> {
    /// Separates the random draws of a training from those of a fit with the same seed.
    pub(in crate::stages) purpose: &'static str,
    /// The network. A learning decoder is blank; it is initialised unless a saved state replaces it.
    pub(in crate::stages) net: Net<'a>,
    /// What is learned about each sample.
    pub(in crate::stages) latents: &'a mut Latents,
    /// The samples.
    pub(in crate::stages) images: &'a Images,
    /// The epochs.
    pub(in crate::stages) schedule: &'a Schedule,
}

impl Training<'_> {
    /// Trains from the furthest saved state, or from the start, to the end of the schedule. Network and latents are
    /// trained in place; returns the curves.
    ///
    /// # Errors
    /// [`StageError::Interrupted`] if it is cancelled, once its state is saved; [`StageError::Failed`] if the loss or
    /// the state stops being finite; and any error of the cache or of the device.
    pub(in crate::stages) fn run(self, context: &Context<'_>) -> Result<History, StageError> {
        let Self { purpose, mut net, latents, images, schedule } = self;
        let saved = context.chain.map(Chain::resume).transpose()?.flatten();
        if let (None, Net::Learning(decoder)) = (&saved, &mut net) {
            decoder.initialise(&context.streams);
        }
        let cpu = CpuEngine::new(purpose, net, latents, images, context.streams);
        let has_kl = cpu.has_kl();
        #[cfg(feature = "cuda")]
        let engine = cuda::engine(context, cpu);
        // Without the feature, `reading::check_device` has refused every other device.
        #[cfg(not(feature = "cuda"))]
        let engine = Box::new(cpu);
        std::thread::scope(|scope| {
            let mut training = TrainingLoop {
                context,
                schedule,
                purpose,
                samples: images.count,
                has_kl,
                engine,
                history: History::default(),
                at: Position { epoch: 0, step: 0 },
                saver: Saver::new(scope, context.chain, saved.as_ref().map(|saved| saved.position)),
                losses: vec![],
                meter: Meter::new(context.progress, schedule.epochs.total()),
            };
            if let Some(saved) = saved {
                training.resume(&saved)?;
            }
            training.run()?;
            Ok(training.history)
        })
    }
}

/// A training under way.
struct TrainingLoop<'scope, 'a> {
    context: &'a Context<'a>,
    schedule: &'a Schedule,
    purpose: &'static str,
    samples: usize,
    has_kl: bool,
    engine: Box<dyn Engine + 'a>,
    history: History,
    /// The position up to which the history knows the losses.
    at: Position,
    saver: Saver<'scope, 'a>,
    /// A buffer for [`Engine::losses`].
    losses: Vec<StepLoss>,
    meter: Meter<'a>,
}

impl TrainingLoop<'_, '_> {
    fn resume(&mut self, saved: &Saved) -> Result<(), StageError> {
        let Position { epoch, step } = saved.position;
        self.history = History::from_state(&saved.tensors, epoch)?;
        self.engine.restore(&saved.tensors)?;
        self.at = saved.position;
        self.context.progress.log(&format!("continuing after epoch {epoch}, step {step}"));
        Ok(())
    }

    fn run(&mut self) -> Result<(), StageError> {
        self.save_or_stop(self.due(self.at))?;
        while let Some(rates) = self.schedule.of(self.at.epoch) {
            self.run_epoch(rates)?;
        }
        if self.saver.newest() != Some(self.at) {
            // Also brings the network and the latents on the host up to date; saving did so otherwise.
            let state = self.state()?;
            saving::check(&state).map_err(|why| self.unsaved(self.at, why))?;
        }
        self.wait()
    }

    /// Runs the rest of the current epoch.
    fn run_epoch(&mut self, rates: Rates) -> Result<(), StageError> {
        let Position { epoch: number, step: from } = self.at;
        let mut order: Vec<usize> = (0..self.samples).collect();
        self.context.streams.stream(&format!("{} shuffle", self.purpose), number, 0).shuffle(&mut order);
        let epoch = Epoch { number, order: &order, rates, next: self.schedule.of(number + 1) };
        let (from, steps) = (from as usize, epoch.steps());
        self.engine.begin_epoch(&epoch, from)?;
        self.meter.begin_epoch();
        for step in from..steps {
            self.engine.step(&epoch, step)?;
            let (after, is_last) = (epoch.after(step), step + 1 == steps);
            let due = self.due(after);
            let stops = due != Due::No || self.context.cancel.is_cancelled();
            let samples = self.read_losses(&epoch, is_last || stops)?;
            if samples == 0 {
                // The device is still computing, and nothing needs its results yet.
                continue;
            }
            self.at = after;
            if is_last {
                self.history.close(steps, self.samples);
                self.meter.end_epoch(after, samples, &self.history, self.has_kl);
            } else {
                self.meter.step(after, steps, samples, &self.history.running);
            }
            self.save_or_stop(due)?;
        }
        Ok(())
    }

    /// Adds losses to the history: those of all started steps if `wait`, otherwise those that the engine knows by now.
    /// Returns the number of samples in these steps.
    fn read_losses(&mut self, epoch: &Epoch<'_>, wait: bool) -> Result<usize, StageError> {
        self.engine.losses(wait, &mut self.losses)?;
        let (mut step, mut samples, mut is_finite) = (self.at.step as usize, 0, true);
        for loss in self.losses.drain(..) {
            let batch = epoch.rows(step).len();
            let figures = Figures::of(loss, batch, epoch.rates.kl_weight);
            step += 1;
            is_finite = figures.loss.is_finite() && figures.squared_error.is_finite();
            if !is_finite {
                break;
            }
            self.history.add(figures);
            samples += batch;
        }
        if is_finite {
            return Ok(samples);
        }
        // A state that is being saved is good, or its error comes first.
        self.wait()?;
        let how = format!("the loss is not a finite number at step {step} of {}", epoch.steps());
        Err(diverged(self.saver.saved(), epoch.number + 1, &how, Some(epoch.rates)))
    }

    /// Whether the chain wants the state at this position. A checkpoint waits until the one before is saved.
    fn due(&self, position: Position) -> Due {
        match self.context.chain.map_or(Due::No, |chain| chain.due(position)) {
            Due::Checkpoint if self.saver.is_busy() => Due::No,
            due => due,
        }
    }

    /// Saves the state if it is due or the training is cancelled.
    ///
    /// # Errors
    /// [`StageError::Interrupted`] if the training is cancelled.
    fn save_or_stop(&mut self, due: Due) -> Result<(), StageError> {
        let stops = self.context.cancel.is_cancelled();
        if self.context.chain.is_some() && (due != Due::No || stops) && self.saver.newest() != Some(self.at) {
            self.wait()?;
            let state = self.state()?;
            self.saver.start(self.at, state).map_err(|why| self.unsaved(self.at, why))?;
        }
        let waits = stops || due == Due::Stop;
        if waits || !self.saver.is_busy() {
            self.wait()?;
        }
        // The runner may stop the training at the state that was just saved.
        if waits && self.context.cancel.is_cancelled() { Err(StageError::Interrupted) } else { Ok(()) }
    }

    /// Waits until the state that is being saved is stored.
    fn wait(&mut self) -> Result<(), StageError> {
        self.saver.wait().map_err(|(at, why)| self.unsaved(at, why))
    }

    /// The current state.
    fn state(&mut self) -> Result<BTreeMap<String, Tensor>, StageError> {
        let mut state = self.engine.state(self.saver.take_spare())?;
        state.extend(self.history.state());
        Ok(state)
    }

    /// The error of a state that was not saved.
    fn unsaved(&self, Position { epoch, step }: Position, why: Unsaved) -> StageError {
        let name = match why {
            Unsaved::NotFinite(name) => name,
            Unsaved::Failed(error) => return error.into(),
        };
        let epoch = if step > 0 { epoch + 1 } else { epoch };
        let rates = epoch.checked_sub(1).and_then(|epoch| self.schedule.of(epoch));
        diverged(self.saver.saved(), epoch, &format!("`{name}` holds numbers that are not finite"), rates)
    }
}

/// The error of a training that diverged in `epoch` (counted from 1). `how` names what is not finite. The message also
/// names the saved state, and what to try.
fn diverged(saved: Option<Position>, epoch: u64, how: &str, rates: Option<Rates>) -> StageError {
    let kept = match saved {
        None => "no state had been saved yet".to_owned(),
        Some(Position { epoch, step: 0 }) => format!("the good state after epoch {epoch} is kept"),
        Some(Position { epoch, step }) => format!("the good state after epoch {epoch} and {step} steps is kept"),
    };
    let advice = match rates {
        Some(Rates { lr: Some(lr), latent_lr, .. }) => {
            format!("try a smaller `lr` (now {lr:?}) or `latent_lr` (now {latent_lr:?})")
        }
        Some(Rates { latent_lr, .. }) => format!("try a smaller `latent_lr` (now {latent_lr:?})"),
        None => "try a smaller `init_std`".to_owned(),
    };
    StageError::failed(format!("the training diverged in epoch {epoch}: {how}; {kept}; {advice}"))
}

#[cfg(test)]
pub(crate) mod allocations;
#[cfg(test)]
mod tests;
