//! vadpipe: a declarative experiment-pipeline runner that never trains the same epoch twice.
//!
//! Data flows one way:
//!
//! ```text
//! TOML text → spec (typed, spans kept) → points (matrix expanded) → graph (sealed DAG) → plan (keys, hit or miss with a
//! reason) → exec (events) → stage functions → artifacts → store;   report and terminal only listen and read
//! ```
//!
//! The modules are in layers, lowest first; each uses only what stands above it here. A test reads the `use crate::`
//! lines and holds us to it. The library touches no terminal, no environment variable and no home directory: that is
//! `cli`'s business, which nobody imports.

pub mod artifact;
pub mod cli;
pub mod diagnostic;
pub mod error;
pub mod event;
pub mod exec;
pub mod graph;
pub mod key;
pub mod model;
pub mod ops;
pub mod plan;
pub mod report;
pub mod rng;
pub mod spec;
pub mod stage;
pub mod stages;
pub mod store;
pub mod value;
