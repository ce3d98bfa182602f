//! To be written.

#[cfg(test)]
pub(crate) mod testing;
