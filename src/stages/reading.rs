//! What stages read from the artifacts of others: images and labels of `load-data`, the decoder and latents of a
//! training. An input that does not fit is an error, and the message says what was found.

use std::collections::BTreeMap;

use crate::artifact::{Tensor, TensorEntry};
use crate::model::posterior::Distribution;
use crate::model::{Decoder, Frozen};
use crate::stage::{Capability, Context, Input, StageError};

/// A part of the data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::stages) enum Split {
    /// The images that models are trained on.
    Train,
    /// The other images.
    Test,
}

impl Split {
    /// Its name in pipelines and artifacts.
    pub(in crate::stages) fn name(self) -> &'static str {
        match self {
            Self::Train => "train",
            Self::Test => "test",
        }
    }
}

/// Images of 28 × 28 grey levels.
pub(in crate::stages) struct Images {
    /// n × 784.
    pub(in crate::stages) pixels: Vec<u8>,
    /// n, at least 1.
    pub(in crate::stages) count: usize,
}

/// The images of a split.
///
/// # Errors
/// If there are none, or if they are not 28 × 28.
pub(in crate::stages) fn images(data: &dyn Input, split: Split) -> Result<Images, StageError> {
    let (name, split) = (format!("{}.images", split.name()), split.name());
    let tensor = tensor(data, &name)?;
    let &[count, 28, 28] = tensor.shape() else {
        let message = format!("`{name}` of `{}` has the shape {:?}, not n × 28 × 28", data.label(), tensor.shape());
        return Err(StageError::bad_input(message, "use images of that size"));
    };
    if count == 0 {
        let message = format!("`{}` has no {split} images", data.label());
        return Err(StageError::bad_input(message, format!("give it `{split} = 1` or more")));
    }
    Ok(Images { pixels: tensor.to_vec()?, count })
}

/// The labels of the train split, and the names of their classes.
///
/// # Errors
/// If the data has none.
pub(in crate::stages) fn train_labels(data: &dyn Input) -> Result<(Vec<u8>, Vec<String>), StageError> {
    let labels = tensor(data, "train.labels")?.to_vec()?;
    let names = data.manifest().facts.get("classes").and_then(|names| names.as_array());
    let names = names.into_iter().flatten().filter_map(|name| name.as_str().map(str::to_owned)).collect();
    Ok((labels, names))
}

/// The model of a training.
pub(in crate::stages) struct Model<'a> {
    input: &'a dyn Input,
    /// The decoder with its running statistics.
    pub(in crate::stages) decoder: Frozen,
    /// The family of its posterior; none for an AD.
    pub(in crate::stages) distribution: Option<Distribution>,
}

/// Reads a model: the tensors `decoder.*` and the fact `distribution`.
///
/// # Errors
/// If the input is not a model.
pub(in crate::stages) fn model(input: &dyn Input) -> Result<Model<'_>, StageError> {
    let weights = decoder_weights(input)?;
    if weights.is_empty() {
        let message = format!("`{}` (a `{}`) has no tensor `decoder.*`", input.label(), input.manifest().kind);
        let hint = format!("use a stage that provides `{}` for the role `model`", Capability::DECODER);
        return Err(StageError::bad_input(message, hint));
    }
    Ok(Model { input, decoder: Frozen::from_weights(&weights)?, distribution: distribution(input)? })
}

fn decoder_weights(input: &dyn Input) -> Result<BTreeMap<String, Tensor>, StageError> {
    let names = input.manifest().tensors.keys().filter_map(|name| Some((name, name.strip_prefix("decoder.")?)));
    names.map(|(name, short)| Ok((short.to_owned(), input.tensor(name)?))).collect()
}

fn distribution(input: &dyn Input) -> Result<Option<Distribution>, StageError> {
    let Some(fact) = input.manifest().facts.get("distribution") else { return Ok(None) };
    let distribution = fact.as_str().and_then(Distribution::from_name);
    let known = Distribution::ALL.map(Distribution::name).join(", ");
    distribution.map(Some).ok_or_else(|| {
        let message = format!("`{}` has the distribution {fact}, which this version does not know", input.label());
        StageError::bad_input(message, format!("known distributions: {known}"))
    })
}

impl<'a> Model<'a> {
    /// The artifact it was read from.
    pub(in crate::stages) fn input(&self) -> &'a dyn Input {
        self.input
    }

    /// The decoder unfolded, for batch statistics.
    ///
    /// # Errors
    /// If its tensors can't be read.
    pub(in crate::stages) fn unfolded(&self) -> Result<Decoder, StageError> {
        Ok(Decoder::from_weights(&decoder_weights(self.input)?)?)
    }

    /// The length of a latent vector.
    pub(in crate::stages) fn latent_dim(&self) -> usize {
        self.decoder.shape().latent_dim
    }

    /// Checks that it was trained on this many images, as a sign that it was trained on `data`.
    ///
    /// # Errors
    /// If it was trained on another number.
    pub(in crate::stages) fn check_samples(&self, data: &dyn Input, count: usize) -> Result<(), StageError> {
        let trained = entry(self.input, "latents")?.shape.first().copied().unwrap_or(0);
        if trained == count {
            return Ok(());
        }
        let (model, data) = (self.input.label(), data.label());
        let message = format!("`{model}` was trained on {trained} images, but `{data}` has {count}");
        Err(StageError::bad_input(message, "use the data that the model was trained on"))
    }
}

/// Latent vectors, n × D, of a training or a fit.
///
/// # Errors
/// If it has none of this length.
pub(in crate::stages) fn latents(input: &dyn Input, latent_dim: usize) -> Result<Vec<f32>, StageError> {
    let tensor = tensor(input, "latents")?;
    let &[_, dim] = tensor.shape() else {
        let message = format!("`latents` of `{}` has the shape {:?}, not n × D", input.label(), tensor.shape());
        return Err(StageError::bad_input(message, "use latents with one row for each image"));
    };
    if dim != latent_dim {
        let message = format!("the latents of `{}` have {dim} numbers, the decoder takes {latent_dim}", input.label());
        return Err(StageError::bad_input(message, "use latents that were fitted with the same model"));
    }
    Ok(tensor.to_vec()?)
}

/// A tensor that must exist.
fn tensor(input: &dyn Input, name: &str) -> Result<Tensor, StageError> {
    entry(input, name)?;
    Ok(input.tensor(name)?)
}

fn entry<'a>(input: &'a dyn Input, name: &str) -> Result<&'a TensorEntry, StageError> {
    let manifest = input.manifest();
    manifest.tensors.get(name).ok_or_else(|| {
        let has = manifest.tensors.keys().map(String::as_str).collect::<Vec<_>>().join(", ");
        let message = format!("`{}` (a `{}`) has no tensor `{name}`", input.label(), manifest.kind);
        StageError::bad_input(message, format!("it has {}", if has.is_empty() { "none" } else { &has }))
    })
}

/// Checks that a training or a fit can run on the device: the CPU, and with the feature `cuda` an NVIDIA GPU.
///
/// # Errors
/// [`StageError::BadInput`] if this program was built without the feature and the device is a GPU.
pub(in crate::stages) fn check_device(context: &Context<'_>) -> Result<(), StageError> {
    if context.device.is_cpu() || cfg!(feature = "cuda") {
        return Ok(());
    }
    Err(StageError::bad_input("this build of vadpipe can't train on a GPU", "run it with `--device cpu`"))
}

/// Checks that the decoder can compute with the precision: f32, and on a GPU also tf32.
///
/// # Errors
/// [`StageError::BadInput`] for any other precision.
pub(in crate::stages) fn check_precision(context: &Context<'_>) -> Result<(), StageError> {
    if context.device.supports(context.precision) {
        return Ok(());
    }
    let device = if context.device.is_cpu() { "the CPU" } else { "a GPU" };
    let message = format!("{device} does not support the precision {}", context.precision);
    Err(StageError::bad_input(message, "set `precision = \"f32\"` in `[pipeline]`"))
}
