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
pub(in crate::stages) mod schedule;

use std::collections::BTreeMap;

use rayon::prelude::*;

use self::cpu::CpuEngine;
use self::engine::Engine;
use self::history::{Figures, History};
use self::latents::Latents;
use self::meter::Meter;
use self::net::Net;
use self::schedule::{Epoch, Rates, Schedule};
use super::reading::Images;
use crate::artifact::{ElementType, Tensor};
use crate::model::StepLoss;
use crate::stage::{Chain, Context, Position, Saved, StageError};

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
        let mut training = TrainingLoop {
            context,
            schedule,
            purpose,
            samples: images.count,
            has_kl,
            engine,
            history: History::default(),
            at: Position { epoch: 0, step: 0 },
            saved: None,
            losses: vec![],
            meter: Meter::new(context.progress, schedule.epochs.total()),
        };
        if let Some(saved) = saved {
            training.resume(&saved)?;
        }
        training.run()?;
        Ok(training.history)
    }
}

/// A training under way.
struct TrainingLoop<'a> {
    context: &'a Context<'a>,
    schedule: &'a Schedule,
    purpose: &'static str,
    samples: usize,
    has_kl: bool,
    engine: Box<dyn Engine + 'a>,
    history: History,
    /// The position up to which the history knows the losses.
    at: Position,
    /// The newest position whose state is saved.
    saved: Option<Position>,
    /// A buffer for [`Engine::losses`].
    losses: Vec<StepLoss>,
    meter: Meter<'a>,
}

impl TrainingLoop<'_> {
    fn resume(&mut self, saved: &Saved) -> Result<(), StageError> {
        let Position { epoch, step } = saved.position;
        self.history = History::from_state(&saved.tensors, epoch)?;
        self.engine.restore(&saved.tensors)?;
        (self.at, self.saved) = (saved.position, Some(saved.position));
        self.context.progress.log(&format!("continuing after epoch {epoch}, step {step}"));
        Ok(())
    }

    fn run(&mut self) -> Result<(), StageError> {
        self.save_or_stop(self.is_state_due(self.at))?;
        while let Some(rates) = self.schedule.of(self.at.epoch) {
            self.run_epoch(rates)?;
        }
        if self.saved != Some(self.at) {
            // Also brings the network and the latents on the host up to date; saving did so otherwise.
            self.good_state()?;
        }
        Ok(())
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
            let is_due = self.is_state_due(after);
            let samples = self.read_losses(&epoch, is_last || is_due || self.context.cancel.is_cancelled())?;
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
            self.save_or_stop(is_due)?;
        }
        Ok(())
    }

    /// Adds losses to the history: those of all started steps if `wait`, otherwise those that the engine knows by now.
    /// Returns the number of samples in these steps.
    fn read_losses(&mut self, epoch: &Epoch<'_>, wait: bool) -> Result<usize, StageError> {
        self.engine.losses(wait, &mut self.losses)?;
        let (mut step, mut samples) = (self.at.step as usize, 0);
        for loss in self.losses.drain(..) {
            let batch = epoch.rows(step).len();
            let figures = Figures::of(loss, batch, epoch.rates.kl_weight);
            step += 1;
            if !figures.loss.is_finite() || !figures.squared_error.is_finite() {
                let how = format!("the loss is not a finite number at step {step} of {}", epoch.steps());
                return Err(diverged(self.saved, epoch.number + 1, &how, Some(epoch.rates)));
            }
            self.history.add(figures);
            samples += batch;
        }
        Ok(samples)
    }

    /// Whether the chain wants the state at this position.
    fn is_state_due(&self, position: Position) -> bool {
        self.context.chain.is_some_and(|chain| chain.due(position))
    }

    /// Saves the state if it is due or the training is cancelled.
    ///
    /// # Errors
    /// [`StageError::Interrupted`] if the training is cancelled.
    fn save_or_stop(&mut self, is_due: bool) -> Result<(), StageError> {
        let mut stop = self.context.cancel.is_cancelled();
        if let Some(chain) = self.context.chain
            && (is_due || stop)
            && self.saved != Some(self.at)
        {
            chain.save(self.at, &self.good_state()?)?;
            self.saved = Some(self.at);
            // The runner may stop the training at this state.
            stop = self.context.cancel.is_cancelled();
        }
        if stop { Err(StageError::Interrupted) } else { Ok(()) }
    }

    /// The current state. Fails if the state is not finite, which the loss does not always show: it is that before the
    /// last update.
    fn good_state(&mut self) -> Result<BTreeMap<String, Tensor>, StageError> {
        let mut state = self.engine.state()?;
        state.extend(self.history.state());
        let Some(name) = first_not_finite(&state) else { return Ok(state) };
        let Position { epoch, step } = self.at;
        let epoch = if step > 0 { epoch + 1 } else { epoch };
        let rates = epoch.checked_sub(1).and_then(|epoch| self.schedule.of(epoch));
        Err(diverged(self.saved, epoch, &format!("`{name}` holds numbers that are not finite"), rates))
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

/// The name of the first tensor that holds an infinity or a NaN.
fn first_not_finite(state: &BTreeMap<String, Tensor>) -> Option<&str> {
    let finite = |tensor: &Tensor| {
        tensor.bytes().par_chunks(1 << 20).all(|bytes| match tensor.element() {
            ElementType::F32 => bytes.as_chunks().0.iter().all(|b| f32::from_le_bytes(*b).is_finite()),
            ElementType::F64 => bytes.as_chunks().0.iter().all(|b| f64::from_le_bytes(*b).is_finite()),
            _ => true,
        })
    };
    state.iter().find(|(_, tensor)| !finite(tensor)).map(|(name, _)| name.as_str())
}

#[cfg(test)]
pub(crate) mod allocations;
#[cfg(test)]
mod tests;
