//! vadpipe: a declarative experiment-pipeline runner that never trains the same epoch twice.
//!
//! Data flows one way:
//!
//! ```text
//! TOML text → spec (typed, spans kept) → points (matrix expanded) → graph (sealed DAG) → plan (keys, hit or miss with
//! a reason) → exec (events) → stage functions → artifacts → store;   report and terminal only receive and read
//! ```
//!
//! The modules form layers, lowest first. Each module uses only modules that are listed above it; a test checks this by
//! reading the `use` declarations. The library does not touch the terminal or the home directory, and reads only the
//! environment variables that a `command` stage declares; only uv gets all of them. All other access is in `cli`, which
//! no module imports.

pub mod error;
pub mod id;
pub mod status;
pub mod escape;
pub mod file;
pub mod system;
pub mod diagnostic;
pub mod value;
pub mod filter;
pub mod key;
pub mod artifact;
pub mod rng;
pub mod store;
pub mod shared;
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
pub mod page;
pub mod cli;
#[cfg(any(fuzzing, test))]
#[doc(hidden)]
pub mod fuzzing;
