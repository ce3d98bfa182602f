//! Numerical work on plain slices.

pub mod tsne;
