//! Integration tests: they run the program with a pipeline and a cache.

#![expect(clippy::expect_used, reason = "a failed expectation ends a test with its message")]

mod answers;
mod axes;
mod bad_input;
mod benches;
mod browser;
mod cache_dir;
mod candle;
mod chains;
mod checkpoints;
mod comparing;
mod descendants;
mod documented;
mod files_read;
mod earlier;
mod following;
mod freshness;
mod golden;
mod gpus;
mod hostile;
mod included;
mod interruption;
mod isolation;
mod json_output;
mod labels;
mod layers;
mod library;
mod limits;
mod losses;
mod missing;
mod processes;
mod programs;
mod python;
mod repair;
mod reports;
mod resources;
mod selecting;
mod shells;
mod shipped;
mod support;
#[cfg(feature = "s3")]
mod s3;
mod shared;
mod shown;
mod slurm;
mod sweeps;
mod terminal;
mod training;
mod ui;
mod verdicts;
mod verifying;
mod waiting;
mod warm;
mod watching;
mod workers;
