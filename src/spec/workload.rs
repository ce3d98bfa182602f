//! The work of a training, as far as its time depends on it. The time of a run is estimated from trainings with the
//! same workload.
//!
//! A workload is the kind of a training, its parameters outside of epochs, its batch size, and the workloads of the
//! trainings that it reads: fitting latents is as slow as the model. Learning rates and seeds are not part of it. None
//! of this is part of a key.

use super::pipeline::{Point, PointInput, Spec};
use crate::id::PointId;
use crate::key::{Digest, Hash};
use crate::store::TrainingRate;
use crate::value::{Value, Values};

/// The work of one epoch.
pub struct Workload {
    /// Epochs with the same digest take the same time per sample.
    pub digest: Digest,
    /// Samples in an epoch; 1 if unknown. Then only trainings on the same data have the same digest.
    pub samples: f64,
}

impl Spec {
    /// The work of one epoch of a training with this batch size.
    pub fn workload(&self, point: PointId, batch: Option<&Value>) -> Workload {
        let training = self.point(point);
        let data = training.inputs.get("data").and_then(|input| input.points().first());
        let samples = data.and_then(|data| samples(training, self.point(*data)));
        let mut hash = Hash::new("workload");
        let batch = batch.map(|batch| ("batch".to_owned(), batch.clone()));
        hash.digest(&self.shape(point)).values(&batch.into_iter().collect::<Values>());
        if let (None, Some(data)) = (samples, data) {
            hash.digest(&self.shape(*data));
        }
        Workload { digest: hash.finish(), samples: samples.unwrap_or(1.0) }
    }

    /// The time per sample of a training that finished in `seconds`. `None` if the stage is not a training, or trains
    /// with several batch sizes.
    pub fn training_rate(&self, point: PointId, seconds: f64, resumed_at: Option<u64>) -> Option<TrainingRate> {
        let epochs = self.point(point).parsed.stage.epochs()?;
        let batch = epochs.segments.first()?.params.get("batch");
        let trained = epochs.total().checked_sub(resumed_at.unwrap_or(0)).filter(|trained| *trained > 0)?;
        if epochs.segments.iter().any(|segment| segment.params.get("batch") != batch) {
            return None;
        }
        let Workload { digest, samples } = self.workload(point, batch);
        Some(TrainingRate { workload: digest, seconds_per_sample: seconds / (trained as f64 * samples) })
    }

    /// A digest of the kind, the parameters and the trainings that a point reads.
    fn shape(&self, point: PointId) -> Digest {
        let Point { parsed, inputs, .. } = self.point(point);
        let mut hash = Hash::new("shape");
        hash.text(parsed.kind.name()).values(&parsed.params);
        for (role, input) in inputs {
            match input {
                PointInput::One(input) if self.point(*input).parsed.stage.epochs().is_some() => {
                    hash.text(role).digest(&self.shape(*input));
                }
                _ => {}
            }
        }
        hash.finish()
    }
}

/// The number of samples in an epoch: the size of the split, according to the stage that loads the data.
fn samples(training: &Point, data: &Point) -> Option<f64> {
    let split = match training.parsed.params.get("split") {
        Some(Value::Text(split)) => split.as_str(),
        _ => "train",
    };
    match data.parsed.params.get(split) {
        Some(Value::Int(count)) if *count > 0 => Some(*count as f64),
        _ => None,
    }
}
