//! The one training loop: `train-ad` and `train-vad` move a decoder and latents along their chain with it, `fit-latents`
//! the latents alone.
//!
//! An epoch is a seeded shuffle cut into batches (the last, short one is kept); a step draws z, runs the network, and
//! lets Adam move what learns. Every draw is a stream of its own by (purpose, epoch, step), and the state holds everything
//! that the next step reads, so a chain that was interrupted anywhere ends with the same bits as one that was not.
//!
//! State: `decoder.*` (where it learns) · `latents.*` with moments and step · `history.*` of finished epochs ·
//! `history.running`, the sums over the steps done in the running one. A state in mid-epoch is known by the epoch that it
//! will become, parameters and all, so whatever the chain hands back may be gone on with.

#[cfg(feature = "cuda")]
mod cuda;
pub(in crate::stages) mod evaluation;
pub(in crate::stages) mod fixed;
pub(in crate::stages) mod history;
pub(in crate::stages) mod joint;
pub(in crate::stages) mod latents;
mod meter;

use std::collections::BTreeMap;

use rayon::prelude::*;

use self::fixed::Fixed;
use self::history::{Figures, History, PIXELS};
use self::latents::Latents;
use self::meter::Meter;
use super::reading::Images;
use crate::artifact::{ElementType, Tensor, TensorError};
use crate::model::Decoder;
use crate::rng::Streams;
use crate::stage::{Chain, Context, Epochs, Position, Saved, StageError};

/// The parameters of an epoch.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(in crate::stages) struct Rates {
    /// Samples of a batch.
    pub(in crate::stages) batch: usize,
    /// The decoder's learning rate; none where it does not learn.
    pub(in crate::stages) lr: Option<f32>,
    /// The latents' or posteriors' learning rate.
    pub(in crate::stages) latent_lr: f32,
    /// The weight of the KL; 0 where there is none.
    pub(in crate::stages) kl_weight: f64,
    /// How far from a posterior's mean z is drawn: 1 is the posterior itself, 0 always the mean.
    pub(in crate::stages) noise: f64,
}

/// The parameters of every epoch, as neighbouring stretches.
#[derive(Clone, Debug, PartialEq)]
pub(in crate::stages) struct Schedule(Vec<(u64, Rates)>);

impl Schedule {
    /// Joins what [`crate::stage::Params::segments`] returned.
    pub(in crate::stages) fn new(epochs: &Epochs, rates: Vec<Rates>) -> Self {
        Self(epochs.segments.iter().map(|s| s.epochs).zip(rates).collect())
    }

    fn total(&self) -> u64 {
        self.0.iter().map(|(epochs, _)| epochs).sum()
    }

    /// The parameters of this epoch, counted from 0; none after the last.
    fn of(&self, epoch: u64) -> Option<Rates> {
        let mut end = 0;
        self.0
            .iter()
            .find(|(epochs, _)| {
                end += epochs;
                epoch < end
            })
            .map(|(_, rates)| *rates)
    }
}

/// The network of a training.
pub(in crate::stages) enum Net {
    /// Learns with the latents, on batch statistics. A blank one is initialised where the training begins at its start.
    Learning(Box<Decoder>),
    /// Stays as it is.
    Fixed(Fixed),
}

/// A training on its way.
pub(in crate::stages) struct Training<'a> {
    /// Keeps the random draws of a training and of a fit apart, which share the seed.
    pub(in crate::stages) purpose: &'static str,
    /// The decoder.
    pub(in crate::stages) net: Net,
    /// What is learned about each sample.
    pub(in crate::stages) latents: Latents,
    /// The samples.
    pub(in crate::stages) images: &'a Images,
    /// The parameters of each epoch.
    pub(in crate::stages) schedule: &'a Schedule,
    /// The curves so far.
    pub(in crate::stages) history: History,
    /// The purpose of the stream of a step's noise.
    noise: String,
    /// The images of the batch at hand, B × 784.
    pixels: Vec<u8>,
}

/// How a walk along the chain stands.
struct Walk<'a> {
    context: &'a Context<'a>,
    at: Position,
    /// The newest state that the store has.
    saved: Option<Position>,
    meter: Meter<'a>,
}

impl<'a> Training<'a> {
    /// Before its first epoch.
    pub(in crate::stages) fn new(
        purpose: &'static str,
        net: Net,
        latents: Latents,
        images: &'a Images,
        schedule: &'a Schedule,
    ) -> Self {
        let (history, noise) = (History::default(), format!("{purpose} noise"));
        Self { purpose, net, latents, images, schedule, history, noise, pixels: vec![] }
    }

    /// Goes from the furthest stored state to the end of the schedule.
    ///
    /// # Errors
    /// [`StageError::Interrupted`] if asked to stop, after saving the state; [`StageError::Failed`] if the training
    /// diverges; and if the cache fails.
    pub(in crate::stages) fn run(&mut self, context: &Context<'_>) -> Result<(), StageError> {
        let start = Position { epoch: 0, step: 0 };
        let meter = Meter::new(context.progress, self.schedule.total());
        let mut walk = Walk { context, at: start, saved: None, meter };
        if let Some(saved) = context.chain.map(Chain::resume).transpose()?.flatten() {
            self.resume(&mut walk, &saved)?;
        } else if let Net::Learning(decoder) = &mut self.net {
            decoder.initialise(&context.streams);
        }
        self.settle(&mut walk)?;
        #[cfg(feature = "cuda")]
        if let Some(mut gpu) = self.on_gpu(context)? {
            while let Some(rates) = self.schedule.of(walk.at.epoch) {
                self.epoch_on_gpu(&mut gpu, &mut walk, rates)?;
            }
            self.fetch(&gpu)?;
        }
        while let Some(rates) = self.schedule.of(walk.at.epoch) {
            self.epoch(&mut walk, rates)?;
        }
        if walk.saved != Some(walk.at) {
            self.good_state(&walk)?;
        }
        self.latents.catch_up();
        Ok(())
    }

    /// The rest of the epoch at hand.
    fn epoch(&mut self, walk: &mut Walk<'_>, rates: Rates) -> Result<(), StageError> {
        let epoch = walk.at.epoch;
        let mut order: Vec<usize> = (0..self.images.count).collect();
        walk.context.streams.stream(&format!("{} shuffle", self.purpose), epoch, 0).shuffle(&mut order);
        let steps = order.len().div_ceil(rates.batch);
        self.latents.begin_epoch(steps, rates.batch);
        walk.meter.begin_epoch();
        for (step, rows) in order.chunks(rates.batch).enumerate().skip(walk.at.step as usize) {
            let figures = self.step(&walk.context.streams, walk.at, rows, rates);
            if !figures.loss.is_finite() || !figures.squared_error.is_finite() {
                let how = format!("the loss is not a finite number at step {} of {steps}", step + 1);
                return Err(diverged(walk, epoch + 1, &how, Some(rates)));
            }
            self.history.add(figures);
            if step + 1 < steps {
                walk.at.step += 1;
                walk.meter.step(walk.at, steps, rows.len(), &self.history.running);
            } else {
                walk.at = Position { epoch: epoch + 1, step: 0 };
                self.history.close(steps, self.images.count);
                walk.meter.end_epoch(walk.at, rows.len(), &self.history, self.has_kl());
            }
            self.settle(walk)?;
        }
        Ok(())
    }

    /// One step: draw, forward, backward, update. Nothing in it allocates once there are buffers for both sizes of batch.
    fn step(&mut self, streams: &Streams, at: Position, rows: &[usize], rates: Rates) -> Figures {
        let mut noise = streams.stream(&self.noise, at.epoch, at.step);
        self.images.gather(rows, &mut self.pixels);
        self.latents.draw(rows, &mut noise, rates.noise);
        let kl = if self.has_kl() { self.latents.kl(rows) } else { 0.0 };
        let (z, pixels) = (self.latents.drawn(), &self.pixels);
        let done = match &mut self.net {
            Net::Learning(decoder) => decoder.train_step(z, pixels, rates.lr.unwrap_or(0.0)),
            Net::Fixed(fixed) => fixed.loss_and_gradient(z, pixels),
        };
        let (reconstruction, squared_error) = (done.loss, done.squared_error);
        self.latents.update(rows, done.latent_gradient, rates.kl_weight, rates.latent_lr);
        Figures { loss: reconstruction + rates.kl_weight * kl, reconstruction, kl, squared_error }
    }

    /// Whether the loss has two parts: a fit drops the KL.
    fn has_kl(&self) -> bool {
        matches!(self.net, Net::Learning(_)) && self.latents.distribution().is_some()
    }

    /// After a step: saves where the chain wants it or where we are asked to stop, and stops then.
    fn settle(&mut self, walk: &mut Walk<'_>) -> Result<(), StageError> {
        let due = walk.context.chain.is_some_and(|chain| chain.due(walk.at));
        let mut stop = walk.context.cancel.is_cancelled();
        if let Some(chain) = walk.context.chain
            && (due || stop)
            && walk.saved != Some(walk.at)
        {
            chain.save(walk.at, &self.good_state(walk)?)?;
            walk.saved = Some(walk.at);
            // The runner may want no more than this state.
            stop = walk.context.cancel.is_cancelled();
        }
        if stop { Err(StageError::Interrupted) } else { Ok(()) }
    }

    fn resume(&mut self, walk: &mut Walk<'_>, saved: &Saved) -> Result<(), StageError> {
        let Position { epoch, step } = saved.position;
        self.history = History::from_state(&saved.tensors, epoch)?;
        self.latents.restore(&saved.tensors)?;
        if let Net::Learning(decoder) = &mut self.net {
            decoder.restore(&saved.tensors)?;
        }
        walk.at = saved.position;
        walk.saved = Some(saved.position);
        walk.context.progress.log(&format!("continuing after epoch {epoch}, step {step}"));
        Ok(())
    }

    /// The state, if it is worth keeping: the loss may still be finite when what the last step left is not.
    fn good_state(&mut self, walk: &Walk<'_>) -> Result<BTreeMap<String, Tensor>, StageError> {
        self.latents.catch_up();
        let state = self.state()?;
        let Some(name) = first_not_finite(&state) else { return Ok(state) };
        let Position { epoch, step } = walk.at;
        let epoch = if step > 0 { epoch + 1 } else { epoch };
        let rates = epoch.checked_sub(1).and_then(|epoch| self.schedule.of(epoch));
        Err(diverged(walk, epoch, &format!("`{name}` holds numbers that are not finite"), rates))
    }

    fn state(&self) -> Result<BTreeMap<String, Tensor>, TensorError> {
        let mut state = self.latents.state()?;
        state.extend(self.history.state());
        if let Net::Learning(decoder) = &self.net {
            state.extend(decoder.state()?);
        }
        Ok(state)
    }
}

/// What a training that diverged says: in which epoch (counted from 1), how it showed, what is kept, what to try.
fn diverged(walk: &Walk<'_>, epoch: u64, how: &str, rates: Option<Rates>) -> StageError {
    let tried = match rates {
        Some(Rates { lr: Some(lr), latent_lr, .. }) => {
            format!("try a smaller `lr` (now {lr:?}) or `latent_lr` (now {latent_lr:?})")
        }
        Some(Rates { latent_lr, .. }) => format!("try a smaller `latent_lr` (now {latent_lr:?})"),
        None => "try a smaller `init_std`".to_owned(),
    };
    StageError::failed(format!("the training diverged in epoch {epoch}: {how}; {}; {tried}", kept(walk)))
}

fn kept(walk: &Walk<'_>) -> String {
    match walk.saved {
        None => "no state had been saved yet".to_owned(),
        Some(Position { epoch, step: 0 }) => format!("the good state after epoch {epoch} is kept"),
        Some(Position { epoch, step }) => format!("the good state after epoch {epoch} and {step} steps is kept"),
    }
}

/// The first tensor that holds an infinity or a NaN.
fn first_not_finite(state: &BTreeMap<String, Tensor>) -> Option<&str> {
    let finite = |tensor: &Tensor| {
        tensor.bytes().par_chunks(1 << 20).all(|bytes| match tensor.element() {
            ElementType::F32 => bytes.as_chunks().0.iter().all(|b| f32::from_le_bytes(*b).is_finite()),
            ElementType::F64 => bytes.as_chunks().0.iter().all(|b| f64::from_le_bytes(*b).is_finite()),
            ElementType::U8 | ElementType::U32 | ElementType::I64 => true,
        })
    };
    state.iter().find(|(_, tensor)| !finite(tensor)).map(|(name, _)| name.as_str())
}

impl Images {
    /// The images of these rows, B × 784.
    fn gather(&self, rows: &[usize], to: &mut Vec<u8>) {
        to.clear();
        for row in rows {
            to.extend_from_slice(&self.pixels[row * PIXELS..(row + 1) * PIXELS]);
        }
    }
}

#[cfg(test)]
pub(crate) mod allocations;
#[cfg(test)]
mod tests;
