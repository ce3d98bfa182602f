//! Arguments that several commands take.

use std::path::PathBuf;
use std::sync::Arc;

use clap::Args;
use clap_complete::engine::ArgValueCompleter;

use super::completion;
use crate::spec::DeviceChoice;
use crate::stage::Registry;
use crate::stages::builtin;

/// Options of every command.
#[derive(Args, Clone)]
pub(super) struct Global {
    /// The cache folder [default: `./cache`, or the nearest `cache` in the pipeline's folder or above it; if none is a
    /// cache, a new `./cache`]
    #[arg(long, global = true, value_name = "DIR", env = "VADPIPE_CACHE", hide_env_values = true)]
    pub(super) cache: Option<PathBuf>,
    /// Print JSON: `run` prints one event per line, every other command one object. The project's `docs/schema`
    /// describes it
    #[arg(long, global = true)]
    pub(super) json: bool,
    /// Print only results, warnings and errors
    #[arg(short, long, global = true)]
    pub(super) quiet: bool,
    /// Print more details
    #[arg(short, long, global = true)]
    pub(super) verbose: bool,
    /// Exit with code 4 instead of waiting for a cache or a result that another process holds. Once a stage has
    /// started, `run` and `verify` wait for the cache, so that no result is lost
    #[arg(long, global = true)]
    pub(super) no_wait: bool,
    #[arg(skip)]
    pub(super) kinds: Kinds,
}

/// The stage kinds that pipelines may use. Not an argument: the program passes them in.
#[derive(Clone)]
pub(super) struct Kinds(pub(super) Arc<Registry>);

impl Default for Kinds {
    fn default() -> Self {
        Self(Arc::new(builtin()))
    }
}

/// The pipeline and the part of it that a command works on.
#[derive(Args, Clone)]
pub(super) struct PipelineArgs {
    /// The pipeline file
    #[arg(value_name = "FILE", add = ArgValueCompleter::new(completion::files))]
    pub(super) file: PathBuf,
    /// Stages, points (`vad@lr=0.01`) or globs (`vad@*`) [default: everything]
    #[arg(value_name = "TARGET", add = ArgValueCompleter::new(completion::targets))]
    pub(super) targets: Vec<String>,
    /// Set a value before the file is read: `-S params.epochs=8`, `-S model=@wide`, `-S 'stages.ad.channels=[64,32]'`
    #[arg(short = 'S', long = "set", value_name = "PATH=VALUE")]
    pub(super) set: Vec<String>,
    /// The device to compute on: auto, cpu, cuda or cuda:N
    #[arg(long, value_name = "DEVICE")]
    pub(super) device: Option<DeviceChoice>,
}
