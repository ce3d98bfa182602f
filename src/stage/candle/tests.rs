//! A small regression on a chain in memory.

use std::collections::BTreeMap;
use std::sync::Mutex;

use candle_core::{Device as CandleDevice, Tensor as CandleTensor};
use candle_nn::{Linear, Module as _, ParamsAdamW, linear};

use super::*;
use crate::error::Error;
use crate::key::Segment;
use crate::report::testing::Bench;
use crate::stage::{Cancel, Due, Inputs};

/// Keeps the last state, and stops the training at a position.
#[derive(Default)]
struct MemoryChain {
    last: Mutex<Option<Saved>>,
    stop_at: Option<Position>,
    cancel: Cancel,
}

impl Chain for MemoryChain {
    fn resume(&self) -> Result<Option<Saved>, Error> {
        Ok(self.last.lock().unwrap().clone())
    }
    fn due(&self, position: Position) -> Due {
        if self.stop_at == Some(position) {
            self.cancel.cancel();
        }
        if position.epoch > 0 && position.step == 0 { Due::Wanted } else { Due::No }
    }
    fn save(&self, position: Position, tensors: &BTreeMap<String, Tensor>) -> Result<(), Error> {
        *self.last.lock().unwrap() = Some(Saved { position, tensors: tensors.clone() });
        Ok(())
    }
}

struct Rates {
    lr: f64,
    batch: usize,
}

/// Epochs with a learning rate and 4 samples a batch.
fn schedule(segments: &[(u64, f64)]) -> (Epochs, Vec<Rates>) {
    let lengths = segments.iter().map(|(epochs, _)| Segment { epochs: *epochs, params: BTreeMap::new() });
    let epochs = Epochs { segments: lengths.collect(), ..Epochs::default() };
    (epochs, segments.iter().map(|(_, lr)| Rates { lr: *lr, batch: 4 }).collect())
}

const SAMPLES: usize = 10;

fn samples(device: &CandleDevice) -> candle_core::Result<(CandleTensor, CandleTensor)> {
    let x = CandleTensor::arange(0f32, 30.0, device)?.reshape((SAMPLES, 3))?.affine(0.1, -1.5)?.sin()?;
    let y = x.sum_keepdim(1)?;
    Ok((x, y))
}

/// Trains a linear model of this input on the chain. An `lr` that is infinite makes the variables infinite.
fn train(schedule: &(Epochs, Vec<Rates>), chain: &MemoryChain, name: &str) -> Result<Artifact, StageError> {
    train_with(schedule, chain, name, &["loss", "final"])
}

fn train_with(
    schedule: &(Epochs, Vec<Rates>),
    chain: &MemoryChain,
    name: &str,
    curves: &[&'static str],
) -> Result<Artifact, StageError> {
    let bench = Bench::new();
    let context = Context { chain: Some(chain), cancel: &chain.cancel, ..bench.context(Inputs::default()) };
    let device = device(&context)?;
    let (x, y) = samples(&device)?;
    let variables = VarMap::new();
    let model: Linear = linear(3, 1, builder(&variables, context.streams, DType::F32, &device).pp(name))?;
    let mut optimizer = AdamW::new(&variables, ParamsAdamW::default())?;
    Training {
        context: &context,
        schedule,
        curves,
        samples: SAMPLES,
        batch: |rates| rates.batch,
        model: variables,
        optimizer: optimizer.state(),
        step: |step: Step<'_, Rates>| {
            let rows = CandleTensor::new(step.rows, &device)?;
            let mut noise = vec![0f32; step.rows.len() * 3];
            context.streams.stream("noise", step.at.epoch, step.at.step).normals(&mut noise);
            let noise = CandleTensor::from_vec(noise, (step.rows.len(), 3), &device)?;
            let input = (x.index_select(&rows, 0)? + (noise * 0.01)?)?;
            let loss = candle_nn::loss::mse(&model.forward(&input)?, &y.index_select(&rows, 0)?)?;
            optimizer.set_learning_rate(step.rates.lr);
            optimizer.backward_step(&loss)?;
            Ok(vec![("loss", f64::from(loss.to_scalar::<f32>()?))])
        },
        evaluate: || {
            let loss = candle_nn::loss::mse(&model.forward(&x)?, &y)?;
            Ok(vec![("final", f64::from(loss.to_scalar::<f32>()?))])
        },
    }
    .run()
}

#[test]
fn training_stopped_after_any_step_ends_with_the_bytes_of_one_go() {
    let schedule = schedule(&[(2, 0.1), (2, 0.01)]);
    let whole = MemoryChain::default();
    let at_once = train(&schedule, &whole, "fc").unwrap();
    assert_eq!(at_once.tensors.keys().collect::<Vec<_>>(), ["fc.bias", "fc.weight", "history.final", "history.loss"]);
    let loss = at_once.tensors["history.loss"].to_vec::<f64>().unwrap();
    assert_eq!((loss.len(), at_once.metrics["loss"]), (4, loss[3]));
    assert!(loss[3] < 0.5 * loss[0], "{loss:?}");
    for epoch in 0..4 {
        for step in 0..3 {
            let position = Position { epoch, step };
            let stopped = MemoryChain { stop_at: Some(position), ..MemoryChain::default() };
            assert!(matches!(train(&schedule, &stopped, "fc"), Err(StageError::Interrupted)), "{position:?}");
            assert_eq!(stopped.last.lock().unwrap().as_ref().unwrap().position, position);
            let resumed = MemoryChain { last: stopped.last, ..MemoryChain::default() };
            assert_eq!(train(&schedule, &resumed, "fc").unwrap(), at_once, "{position:?}");
            let states = [&resumed, &whole].map(|chain| chain.last.lock().unwrap().clone().unwrap().tensors);
            assert_eq!(states[0], states[1], "{position:?}");
        }
    }
}

#[test]
fn longer_training_continues_from_the_last_state() {
    let at_once = train(&schedule(&[(6, 0.1)]), &MemoryChain::default(), "fc").unwrap();
    let chain = MemoryChain::default();
    train(&schedule(&[(3, 0.1)]), &chain, "fc").unwrap();
    assert_eq!(train(&schedule(&[(6, 0.1)]), &chain, "fc").unwrap(), at_once);
}

#[test]
fn training_without_epochs_has_its_first_variables_and_empty_curves() {
    let artifact = train(&schedule(&[(0, 0.1)]), &MemoryChain::default(), "fc").unwrap();
    assert!(artifact.tensors["history.loss"].is_empty() && artifact.metrics.is_empty());
    assert!(artifact.tensors["fc.weight"].to_vec::<f32>().unwrap().iter().all(|weight| *weight != 0.0));
}

#[test]
fn failure_names_the_cause_and_the_kept_state() {
    let failure = |segments: &[(u64, f64)], chain: &MemoryChain, name: &str| {
        train(&schedule(segments), chain, name).unwrap_err().to_string()
    };
    let chain = MemoryChain::default();
    let diverged = failure(&[(2, 0.1), (1, f64::INFINITY)], &chain, "fc");
    insta::assert_snapshot!(diverged, @"after epoch 2, step 1: the training diverged: `loss` is NaN; the state after epoch 2 is kept");
    assert_eq!(chain.last.lock().unwrap().as_ref().unwrap().position, Position { epoch: 2, step: 0 });
    let renamed = failure(&[(3, 0.1)], &chain, "renamed");
    insta::assert_snapshot!(renamed, @"the state after epoch 2 does not fit the model: it lacks `model.renamed.bias`; raise the kind's version when its code changes");
    let unknown = train_with(&schedule(&[(1, 0.1)]), &MemoryChain::default(), "fc", &["loss"]).unwrap_err();
    insta::assert_snapshot!(unknown, @"after epoch 0, step 2: the figure `final` is none of the curves: loss; no state had been saved yet");
    let missing = train_with(&schedule(&[(1, 0.1)]), &MemoryChain::default(), "fc", &["final", "loss", "kl"]);
    insta::assert_snapshot!(missing.unwrap_err(), @"after epoch 0, step 2: an epoch has no figure `kl`, which is one of the curves; no state had been saved yet");
}

#[cfg(not(feature = "candle-cuda"))]
#[test]
fn gpu_is_refused_if_candle_was_built_without_its_kernels() {
    let (bench, gpu) = (Bench::new(), Device::Cuda { ordinal: 1, graph: false });
    let context = Context { device: &gpu, ..bench.context(Inputs::default()) };
    let Err(StageError::BadInput { message, hint }) = device(&context) else { panic!("it is not refused") };
    insta::assert_snapshot!(message, @"candle can't use the GPU 1: the candle crate has not been built with cuda support");
    assert_eq!(hint.as_deref(), Some("build with the feature `candle-cuda`, or run with `--device cpu`"));
}
