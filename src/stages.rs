//! The stage kinds that ship, one file each. A new kind is one file and one line in [`builtin`].

pub mod load_data;
pub mod tsne;

use crate::stage::Registry;

/// All kinds that vadpipe ships.
pub fn builtin() -> Registry {
    let mut registry = Registry::default();
    registry.register(load_data::LoadData);
    registry.register(tsne::Tsne);
    registry
}
