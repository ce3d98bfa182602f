//! Reconstructions by the states that are kept of a training: what the decoder of an epoch makes of the latents of that
//! epoch.

use crate::artifact::Tensor;
use crate::model::posterior::Distribution;
use crate::model::{Decoder, DecoderShape, Frozen};
use crate::store::{BlobReader, ResultRecord, StateRecord};
use crate::value::Value;

/// Bytes of the largest state that is decoded.
const LARGEST: u64 = 512 << 20;
/// Images that are decoded, as many as results have.
const SHOWN: usize = 20;
const PIXELS: usize = 28 * 28;

/// Whether a state has what [`reconstructions`] needs.
pub(super) fn is_decodable(record: &ResultRecord, state: &StateRecord) -> bool {
    let has = |prefix: &str| state.tensors.keys().any(|name| name.starts_with(prefix));
    shape(record).is_some() && state.bytes() <= LARGEST && has("decoder.") && latents(record, state).is_some()
}

/// The sizes of the decoder that a training trains.
fn shape(record: &ResultRecord) -> Option<DecoderShape> {
    let size = |value: &Value| match value {
        Value::Int(n) => usize::try_from(*n).ok(),
        _ => None,
    };
    let latent_dim = size(record.components.params.get("latent_dim")?)?;
    let Value::List(channels) = record.components.params.get("channels")? else { return None };
    let channels: Vec<usize> = channels.iter().map(size).collect::<Option<_>>()?;
    Some(DecoderShape { latent_dim, channels: channels.try_into().ok()? })
}

/// The name of the tensor with the latents, or with the parameter of the posteriors that gives their means.
fn latents(record: &ResultRecord, state: &StateRecord) -> Option<String> {
    let parameter = match distribution(record) {
        Some(distribution) => distribution.parameters().first()?.name,
        None => "z",
    };
    Some(format!("latents.{parameter}.value")).filter(|name| state.tensors.contains_key(name))
}

fn distribution(record: &ResultRecord) -> Option<Distribution> {
    Distribution::from_name(record.manifest.facts.get("distribution")?.as_str()?)
}

/// The first images as a state of the training decodes them.
///
/// # Errors
/// Why they can't be decoded.
pub(super) fn reconstructions(
    blobs: &BlobReader,
    record: &ResultRecord,
    state: &StateRecord,
) -> Result<Tensor, String> {
    let cannot = || "this state can't be decoded".to_owned();
    let shape = shape(record).filter(|_| is_decodable(record, state)).ok_or_else(cannot)?;
    let read = |name: &String| {
        let entry = state.tensors.get(name).ok_or_else(cannot)?;
        blobs.tensor(entry).map_err(|error| error.to_string())
    };
    let name = latents(record, state).ok_or_else(cannot)?;
    let values = read(&name)?.to_vec::<f32>().map_err(|error| error.to_string())?;
    let mut z: Vec<f32> = values.into_iter().take(SHOWN * shape.latent_dim).collect();
    if let Some(distribution) = distribution(record) {
        z.iter_mut().for_each(|value| *value = distribution.mean([f64::from(*value), 0.0]) as f32);
    }
    let names = state.tensors.keys().filter(|name| name.starts_with("decoder."));
    let tensors = names.map(|name| Ok((name.clone(), read(name)?))).collect::<Result<_, String>>()?;
    let decoder = Decoder::from_state(shape, &tensors).map_err(|error| error.to_string())?;
    drop(tensors);
    let weights = decoder.weights().map_err(|error| error.to_string())?;
    drop(decoder);
    let mut decoder = Frozen::from_weights(&weights).map_err(|error| error.to_string())?;
    let grey = |value: &f32| (value + 0.5).clamp(0.0, 255.0) as u8;
    let pixels: Vec<u8> = decoder.decode(&z).iter().map(grey).collect();
    Tensor::new([pixels.len() / PIXELS, 28, 28], &pixels).map_err(|error| error.to_string())
}
