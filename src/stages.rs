//! The stage kinds that ship, one file each. A new kind is one file and one line in [`builtin`].

use crate::stage::Registry;

/// All kinds that vadpipe ships.
pub fn builtin() -> Registry {
    Registry::default()
}
