//! A program with a stage kind of its own, as another crate would have it: vadpipe with the kind `train-classifier`,
//! which trains a small candle network.
//!
//! ```sh
//! cargo run --release --example classifier -- run examples/classifier.toml
//! cargo run --release --example classifier -- run examples/classifier.toml -S params.epochs=200   # trains 100 more
//! ```

use std::process::ExitCode;
use std::sync::Arc;

use candle_core::{DType, Device, Tensor};
use candle_nn::{Module as _, ParamsAdamW, VarMap, linear, loss, seq};
use vadpipe::artifact::Artifact;
use vadpipe::stage::candle::{self, AdamW, Step, Training};
use vadpipe::stage::{
    About, Bound, Capability, Context, Curves, Epochs, Input, Params, Reads, Role, Roles, Stage, StageError, StageKind,
};

fn main() -> ExitCode {
    let mut registry = vadpipe::stages::builtin();
    registry.register(TrainClassifier);
    vadpipe::cli::main_with(registry, std::env::args_os())
}

struct TrainClassifier;

impl StageKind for TrainClassifier {
    fn about(&self) -> About {
        const NEEDS: &[Capability] = &[Capability::IMAGES, Capability::LABELS];
        About {
            roles: Roles::Fixed(&[Role { name: "data", optional: false, needs: NEEDS }]),
            provides: &[Capability::HISTORY],
            heading: "Classifiers",
            ..About::new("train-classifier", 1, "train a network with one hidden layer to classify images")
        }
    }

    fn parse(&self, params: &mut Params<'_>) -> Arc<dyn Stage> {
        let width = params.describe("the width of the hidden layer").int("width", 64, 1..=8192) as usize;
        let schedule = params.segments(100, |params| Rates {
            lr: params.describe("the learning rate").float("lr", 1e-3, Bound::NotNegative),
            batch: params.describe("the number of images in a step").int("batch", 32, 1..=65_536) as usize,
        });
        Arc::new(Classifier { width, schedule })
    }
}

/// The parameters of an epoch. `segments` may change them during a training.
struct Rates {
    lr: f64,
    batch: usize,
}

struct Classifier {
    width: usize,
    schedule: (Epochs, Vec<Rates>),
}

const CURVES: &[&str] = &["loss", "test_accuracy"];

impl Stage for Classifier {
    fn reads(&self) -> Reads {
        Reads { seed: true, ..Reads::default() }
    }

    fn epochs(&self) -> Option<Epochs> {
        Some(self.schedule.0.clone())
    }

    fn curves(&self) -> Curves {
        Curves::Named(CURVES)
    }

    fn uses_device(&self) -> bool {
        true
    }

    fn run(&self, context: &Context<'_>) -> Result<Artifact, StageError> {
        let device = candle::device(context)?;
        let data = context.inputs.one("data")?;
        let (images, labels) = split(data, "train", &device)?;
        let (test_images, test_labels) = split(data, "test", &device)?;
        let classes = data.manifest().facts.get("classes").and_then(|names| names.as_array()).map_or(10, Vec::len);

        let variables = VarMap::new();
        let build = candle::builder(&variables, context.streams, DType::F32, &device);
        let model = seq()
            .add(linear(images.dim(1)?, self.width, build.pp("hidden"))?)
            .add(|x: &Tensor| x.relu())
            .add(linear(self.width, classes, build.pp("classes"))?);
        let mut optimizer = AdamW::new(&variables, ParamsAdamW::default())?;

        Training {
            context,
            schedule: &self.schedule,
            curves: CURVES,
            samples: images.dim(0)?,
            batch: |rates| rates.batch,
            model: variables,
            optimizer: optimizer.state(),
            step: |step: Step<'_, Rates>| {
                let rows = Tensor::new(step.rows, &device)?;
                let found = model.forward(&images.index_select(&rows, 0)?)?;
                let loss = loss::cross_entropy(&found, &labels.index_select(&rows, 0)?)?;
                optimizer.set_learning_rate(step.rates.lr);
                optimizer.backward_step(&loss)?;
                Ok(vec![("loss", f64::from(loss.to_scalar::<f32>()?))])
            },
            evaluate: || {
                let right = model.forward(&test_images)?.argmax(1)?.eq(&test_labels)?;
                let accuracy = right.to_dtype(DType::F32)?.mean_all()?.to_scalar::<f32>()?;
                Ok(vec![("test_accuracy", f64::from(accuracy))])
            },
        }
        .run()
    }
}

/// The images of a split, n × pixels from 0 to 1, and their labels.
fn split(data: &dyn Input, name: &str, device: &Device) -> Result<(Tensor, Tensor), StageError> {
    let images = data.tensor(&format!("{name}.images"))?.to_candle(device)?;
    let labels = data.tensor(&format!("{name}.labels"))?.to_candle(device)?;
    let images = (images.flatten_from(1)?.to_dtype(DType::F32)? / 255.0)?;
    Ok((images, labels.to_dtype(DType::U32)?))
}
