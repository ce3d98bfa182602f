//! The stage kinds that ship, one file each. A new kind is one file and one line in [`builtin`].

pub mod command;
pub mod report;

use crate::stage::Registry;

/// All kinds that vadpipe ships.
pub fn builtin() -> Registry {
    let mut kinds = Registry::default();
    kinds.register(command::Kind);
    kinds.register(report::Kind);
    kinds
}
