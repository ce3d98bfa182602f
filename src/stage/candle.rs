//! Trainings of candle's models on the chain of states: they resume, extend and branch with the same bytes as in one
//! go. `examples/classifier.rs` is a complete program.
//!
//! ```no_run
//! # use vadpipe::stage::{Context, Epochs, StageError, candle};
//! # use vadpipe::artifact::Artifact;
//! # use candle_core::{DType, Tensor};
//! # use candle_nn::{Module, VarMap, linear, loss};
//! # struct Rates { lr: f64, batch: usize }
//! # fn run(schedule: &(Epochs, Vec<Rates>), context: &Context<'_>) -> Result<Artifact, StageError> {
//! let device = candle::device(context)?;
//! let data = context.inputs.one("data")?;
//! let images = data.tensor("train.images")?.to_candle(&device)?.to_dtype(DType::F32)?.flatten_from(1)?;
//! let labels = data.tensor("train.labels")?.to_candle(&device)?.to_dtype(DType::U32)?;
//!
//! let variables = VarMap::new();
//! let model = linear(784, 10, candle::builder(&variables, context.streams, DType::F32, &device))?;
//! let mut optimizer = candle::AdamW::new(&variables, Default::default())?;
//! candle::Training {
//!     context,
//!     schedule,                       // what `Params::segments` returned
//!     curves: &["loss"],              // as in `Stage::curves`
//!     samples: images.dim(0)?,
//!     batch: |rates| rates.batch,
//!     model: variables,
//!     optimizer: optimizer.state(),
//!     step: |step: candle::Step<'_, Rates>| {
//!         let rows = Tensor::new(step.rows, &device)?;
//!         let found = model.forward(&images.index_select(&rows, 0)?)?;
//!         let loss = loss::cross_entropy(&found, &labels.index_select(&rows, 0)?)?;
//!         optimizer.set_learning_rate(step.rates.lr);
//!         optimizer.backward_step(&loss)?;
//!         Ok(vec![("loss", f64::from(loss.to_scalar::<f32>()?))])
//!     },
//!     evaluate: || Ok(vec![]),
//! }
//! .run()
//! # }
//! ```
//!
//! The bytes are the same if everything that a step reads is in its [`Step`], in the inputs of the stage, or in the
//! variables of [`Training::model`] and [`Training::optimizer`]:
//!
//! - A closure keeps no other values from step to step. A moving average of the weights, for example, belongs into a
//!   variable.
//! - Random numbers come from `context.streams`, by [`Step::at`]. candle's own, as in `Tensor::rand`, `Dropout` and
//!   `VarBuilder::from_varmap`, differ in every process.
//! - If the code changes the results, the kind's version must be raised.
//!
//! On a GPU, the bytes are the same only if candle's kernels are deterministic.

mod adamw;
mod history;
mod init;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::PoisonError;
use std::time::{Duration, Instant};

use candle_core::{DType, Var};
use candle_nn::VarMap;

pub use self::adamw::AdamW;
pub use self::history::Figures;
use self::history::History;
pub use self::init::builder;
use super::{Chain, Context, Device, Due, Epochs, Position, Saved, StageError, Update};
use crate::artifact::{Artifact, Tensor};

/// One step of a training.
#[derive(Clone, Copy, Debug)]
pub struct Step<'a, R> {
    /// The finished epochs, and the finished steps of the current one.
    pub at: Position,
    /// The samples of the batch. An epoch takes all samples in a random order, and its last batch may be smaller.
    pub rows: &'a [u32],
    /// The parameters of the epoch.
    pub rates: &'a R,
}

/// A training of a candle model before its first epoch.
pub struct Training<'a, R, S, E> {
    /// What the stage may use.
    pub context: &'a Context<'a>,
    /// The epochs, and the parameters of each segment, as [`super::Params::segments`] returns them.
    pub schedule: &'a (Epochs, Vec<R>),
    /// The names of the figures, as in [`super::Stage::curves`].
    pub curves: &'a [&'static str],
    /// The number of samples.
    pub samples: usize,
    /// The samples of a step.
    pub batch: fn(&R) -> usize,
    /// The variables of the model. They are the tensors of the result.
    pub model: VarMap,
    /// All other variables that a step reads: [`AdamW::state`], or an empty map for [`candle_nn::SGD`]. They are part
    /// of the states, but not of the result.
    pub optimizer: VarMap,
    /// Trains on a batch. The means of its figures over an epoch's samples become curves.
    pub step: S,
    /// Computes more figures at the end of each epoch, for example on other data.
    pub evaluate: E,
}

/// candle's device for the device of the pipeline.
///
/// # Errors
/// [`StageError::BadInput`] if it is a GPU that candle can't use.
pub fn device(context: &Context<'_>) -> Result<candle_core::Device, StageError> {
    match *context.device {
        Device::Cpu => Ok(candle_core::Device::Cpu),
        Device::Cuda { ordinal, .. } => candle_core::Device::new_cuda(ordinal).map_err(|error| {
            let message = format!("candle can't use the GPU {ordinal}: {error}");
            StageError::bad_input(message, "build with the feature `candle-cuda`, or run with `--device cpu`")
        }),
    }
}

impl<R, S, E> Training<'_, R, S, E>
where
    S: FnMut(Step<'_, R>) -> Result<Figures, StageError>,
    E: FnMut() -> Result<Figures, StageError>,
{
    /// Trains from the furthest saved state, or from the start, to the last epoch. The artifact has the variables of
    /// the model under their names, the curves as `history.NAME`, and the figures of the last epoch as metrics. A stage
    /// may add to it.
    ///
    /// # Errors
    /// [`StageError::Interrupted`] if the stage is cancelled, once its state is saved; [`StageError::Failed`] if a
    /// figure or the state is not finite, or a saved state does not fit the variables; and any error of a closure, of
    /// the cache or of the device.
    pub fn run(self) -> Result<Artifact, StageError> {
        let samples = u32::try_from(self.samples).map_err(|_| StageError::failed("there are too many samples"))?;
        if samples == 0 {
            return Err(StageError::bad_input("there are no samples to train on", "give the training more data"));
        }
        let history = History::new(self.curves);
        let at = Position { epoch: 0, step: 0 };
        let mut training = Loop { training: self, samples, history, at, saved: None, reported: None };
        if let Some(saved) = training.training.context.chain.map(Chain::resume).transpose()?.flatten() {
            training.resume(saved)?;
        }
        training.run()?;
        training.artifact()
    }
}

/// The shortest time between two reports within an epoch.
const PAUSE: Duration = Duration::from_millis(100);

/// A training under way.
struct Loop<'a, R, S, E> {
    training: Training<'a, R, S, E>,
    samples: u32,
    history: History,
    at: Position,
    /// The newest position whose state is saved.
    saved: Option<Position>,
    /// When progress was reported last.
    reported: Option<Instant>,
}

impl<R, S, E> Loop<'_, R, S, E>
where
    S: FnMut(Step<'_, R>) -> Result<Figures, StageError>,
    E: FnMut() -> Result<Figures, StageError>,
{
    fn resume(&mut self, saved: Saved) -> Result<(), StageError> {
        let Saved { position, tensors } = saved;
        let Position { epoch, step } = position;
        self.restore(tensors, epoch).map_err(|error| {
            let advice = "raise the kind's version when its code changes";
            StageError::failed(format!("the state after epoch {epoch} does not fit the model: {error}; {advice}"))
        })?;
        (self.at, self.saved) = (position, Some(position));
        self.training.context.progress.log(&format!("continuing after epoch {epoch}, step {step}"));
        Ok(())
    }

    fn restore(&mut self, mut tensors: BTreeMap<String, Tensor>, epochs: u64) -> Result<(), StageError> {
        self.history.restore(&mut tensors, epochs)?;
        for (name, variable) in self.variables() {
            let missing = || StageError::failed(format!("it lacks `{name}`"));
            let value = tensors.remove(&name).ok_or_else(missing)?.to_candle(variable.device())?;
            variable.set(&value).map_err(|error| StageError::failed(format!("`{name}`: {error}")))?;
        }
        match tensors.keys().next() {
            Some(name) => Err(StageError::failed(format!("it has `{name}`, which the model lacks"))),
            None => Ok(()),
        }
    }

    fn run(&mut self) -> Result<(), StageError> {
        self.save_or_stop(self.is_state_due())?;
        let (epochs, rates) = self.training.schedule;
        while let Some(rates) = epochs.segment_of(self.at.epoch).and_then(|segment| rates.get(segment)) {
            self.run_epoch(rates)?;
        }
        Ok(())
    }

    /// Runs the rest of the current epoch.
    fn run_epoch(&mut self, rates: &R) -> Result<(), StageError> {
        let Training { context, samples, batch, .. } = self.training;
        let mut order: Vec<u32> = (0..self.samples).collect();
        context.streams.stream("shuffle", self.at.epoch, 0).shuffle(&mut order);
        let batch = batch(rates).max(1);
        let (steps, from) = (samples.div_ceil(batch), self.at.step as usize);
        let began = Instant::now();
        for (step, rows) in order.chunks(batch).enumerate().skip(from) {
            let figures = (self.training.step)(Step { at: self.at, rows, rates })?;
            self.history.add(&figures, rows.len()).map_err(|error| self.failed_after(error.to_string()))?;
            let done = step * batch + rows.len();
            let rate = (done - from * batch) as f64 / began.elapsed().as_secs_f64().max(1e-9);
            if step + 1 == steps {
                let evaluation = (self.training.evaluate)()?;
                self.history.close(samples, &evaluation).map_err(|error| self.failed_after(error.to_string()))?;
                self.at = Position { epoch: self.at.epoch + 1, step: 0 };
                self.report(self.history.last(), rate, true);
            } else {
                self.at.step += 1;
                if self.reported.is_none_or(|last| last.elapsed() >= PAUSE) {
                    let mut figures = self.history.means(done);
                    figures.extend([("step", self.at.step as f64), ("steps", steps as f64)]);
                    self.report(figures, rate, false);
                }
            }
            self.save_or_stop(self.is_state_due())?;
        }
        Ok(())
    }

    fn report(&mut self, figures: Figures, rate: f64, epoch_end: bool) {
        let total = self.training.schedule.0.total();
        let figures = figures.into_iter().map(|(name, figure)| (name.into(), figure)).collect();
        let update = Update { done: self.at.epoch, total, unit: "epochs", figures, rate: Some(rate), epoch_end };
        self.training.context.progress.update(update);
        self.reported = Some(Instant::now());
    }

    /// Whether the chain wants the state at this position.
    fn is_state_due(&self) -> bool {
        self.training.context.chain.is_some_and(|chain| chain.due(self.at) != Due::No)
    }

    /// Saves the state if it is due or the training is cancelled.
    fn save_or_stop(&mut self, is_due: bool) -> Result<(), StageError> {
        let Context { cancel, chain, .. } = self.training.context;
        if let Some(chain) = chain
            && (is_due || cancel.is_cancelled())
            && self.saved != Some(self.at)
        {
            chain.save(self.at, &self.state()?)?;
            self.saved = Some(self.at);
        }
        // The runner may stop the training at the state that was just saved.
        cancel.check()
    }

    /// All variables by their names in a state.
    fn variables(&self) -> BTreeMap<String, Var> {
        let model = named(&self.training.model).into_iter().map(|(name, var)| (format!("model.{name}"), var));
        let optimizer = named(&self.training.optimizer).into_iter();
        model.chain(optimizer.map(|(name, var)| (format!("optimizer.{name}"), var))).collect()
    }

    /// The current state. Fails if it is not finite, which the loss does not always show: it is that before the last
    /// update.
    fn state(&self) -> Result<BTreeMap<String, Tensor>, StageError> {
        let mut state = self.history.state();
        for (name, variable) in self.variables() {
            // The sum of finite numbers in f64 is finite, unless they are f64s near the largest.
            if !variable.to_dtype(DType::F64)?.sum_all()?.to_scalar::<f64>()?.is_finite() {
                let message = format!("the training diverged: `{name}` holds numbers that are not finite");
                return Err(self.failed_after(message));
            }
            state.insert(name, Tensor::from_candle(&variable)?);
        }
        Ok(state)
    }

    fn artifact(&self) -> Result<Artifact, StageError> {
        let mut artifact = Artifact { tensors: self.history.tensors(), ..Artifact::default() };
        for (name, variable) in named(&self.training.model) {
            artifact.tensors.insert(name, Tensor::from_candle(&variable)?);
        }
        artifact.metrics = self.history.last().into_iter().map(|(name, figure)| (name.to_owned(), figure)).collect();
        Ok(artifact)
    }

    /// An error of the step after the current position, or of the state there.
    fn failed_after(&self, message: String) -> StageError {
        let place = |at: Position| match at.step {
            0 => format!("after epoch {}", at.epoch),
            step => format!("after epoch {}, step {step}", at.epoch),
        };
        let kept = self
            .saved
            .map_or("no state had been saved yet".to_owned(), |at| format!("the state {} is kept", place(at)));
        StageError::failed(format!("{}: {message}; {kept}", place(self.at)))
    }
}

/// The variables of a map, ordered by name.
fn named(variables: &VarMap) -> BTreeMap<String, Var> {
    let variables = variables.data().lock().unwrap_or_else(PoisonError::into_inner);
    variables.iter().map(|(name, variable)| (name.clone(), variable.clone())).collect()
}
