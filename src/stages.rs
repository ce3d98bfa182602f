//! The stage kinds that ship, one file each. A new kind is one file and one line in [`builtin`].

mod decode;
mod fit_latents;
mod interpolate;
mod reading;
mod train_ad;
mod train_vad;
mod training;

#[cfg(test)]
mod testing;

use crate::stage::Registry;

/// All kinds that vadpipe ships.
pub fn builtin() -> Registry {
    let mut registry = Registry::default();
    registry.register(train_ad::TrainAd);
    registry.register(train_vad::TrainVad);
    registry.register(fit_latents::FitLatents);
    registry.register(decode::Decode);
    registry.register(interpolate::Interpolate);
    registry
}
