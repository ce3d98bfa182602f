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
//! lines and holds us to it. The library touches no terminal and no home directory, and no environment variable but
//! those that a `command` stage declares: that is `cli`'s business, which nobody imports.

pub mod error;
pub mod id;
pub mod status;
pub mod escape;
pub mod file;
pub mod system;
pub mod diagnostic;
pub mod value;
pub mod key;
pub mod artifact;
pub mod rng;
pub mod store;
pub mod stage;
pub mod ops;
pub mod model;
pub mod report;
pub mod stages;
pub mod spec;
pub mod graph;
pub mod plan;
pub mod event;
pub mod exec;
pub mod cli;
#[cfg(any(fuzzing, test))]
#[doc(hidden)]
pub mod fuzzing;
