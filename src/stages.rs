//! The stage kinds that ship, one file each. A new kind is one file and one line in [`builtin`].

pub mod command;
mod decode;
mod fit_latents;
mod gpus;
mod interpolate;
pub mod load_data;
mod reading;
pub mod report;
mod train_ad;
mod train_vad;
mod training;
pub mod tsne;

#[cfg(test)]
mod testing;
#[cfg(test)]
pub(crate) use training::allocations::peak;

use crate::stage::Registry;

/// All kinds that vadpipe ships.
pub fn builtin() -> Registry {
    let mut registry = Registry::default();
    registry
        .register(command::Kind)
        .register(decode::Decode)
        .register(fit_latents::FitLatents)
        .register(interpolate::Interpolate)
        .register(load_data::LoadData)
        .register(report::Kind)
        .register(train_ad::TrainAd)
        .register(train_vad::TrainVad)
        .register(tsne::Tsne);
    registry
}
