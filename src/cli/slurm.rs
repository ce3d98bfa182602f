//! Slurm: jobs whose tasks are workers. Nothing else in the crate knows Slurm.
//!
//! - `allocation`: what a job gives to the worker that runs in it.
//! - `site`: the settings of a cluster, `[engine.slurm]` in the configuration.
//! - `client`: the programs of Slurm: `sbatch`, `squeue`, `sacct`, `scontrol`, `scancel`.
//! - `answers`: what they print.
//! - `class`: points with the same resources, which the workers of one array run.
//! - `group`: the workers of a class, and what the next ones get.
//! - `book`: the workers of a run, how they ended, and how many more it needs.

mod allocation;
mod answers;
mod book;
mod class;
mod client;
mod group;
mod site;

pub(super) use allocation::Allocation;
pub(super) use answers::TaskId;
pub(super) use book::{Book, Ending, Reaction};
pub(super) use class::Class;
pub(super) use client::{Client, Refused, Submission};
pub(super) use site::Site;
