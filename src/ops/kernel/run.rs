//! Which blocks of the operands are multiplied.

/// A run of blocks, in both operands.
#[derive(Clone, Copy, Debug)]
pub struct Run {
    /// The number of blocks, at least 1.
    pub blocks: usize,
    /// The distance between two blocks of scalars.
    pub scalars: usize,
    /// The distance between two blocks of vectors.
    pub vectors: usize,
    /// Whether the sum starts at 0 instead of the previous content of the results.
    pub fresh: bool,
}
