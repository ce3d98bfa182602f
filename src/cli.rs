//! The command line: one file per command, each its arguments and one function. Nobody imports this module.
//!
//! Only `ui` prints. A command gets a `Ui`, returns what it has to say through it, and ends in `Ok` or in an error
//! whose category is the exit code.

mod completion;
mod diff;
mod doctor;
mod estimate;
mod explain;
mod export;
mod filter;
mod gc;
mod graph;
mod kinds;
mod limits;
mod log;
mod metrics;
mod patience;
mod plan;
mod project;
mod run;
mod show;
mod status;
mod ui;
mod verify;
mod work;

#[cfg(any(fuzzing, test))]
pub(crate) use filter::fuzz::check as check_filter;

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use clap::{Args, Parser, Subcommand};
use clap_complete::engine::ArgValueCompleter;

use crate::error::Result;
use crate::stage::Registry;
use crate::stages::builtin;
use crate::stages::command::adopt_orphans;
use ui::Ui;

/// Runs experiment pipelines: a TOML file describes a DAG of stages; only what changed runs again, and no epoch is ever
/// trained twice.
#[derive(Parser)]
#[command(name = "vadpipe", version, max_term_width = 110, after_help = EXAMPLES, infer_subcommands = false)]
struct Cli {
    #[command(subcommand)]
    command: Command,
    #[command(flatten)]
    global: Global,
}

const EXAMPLES: &str = "Examples:
  vadpipe run pipelines/quickstart.toml               run everything, write the report
  vadpipe run pipelines/full.toml ad fit-ad           run two stages and what they need
  vadpipe run pipelines/full.toml -S params.epochs=8  with another value
  vadpipe plan pipelines/full.toml                    say what would run, and why
  vadpipe export pipelines/full.toml ad --to out      take results out of the cache

Exit codes: 0 fine, 1 a stage failed, 2 pipeline, data or command line wrong, 3 verify differs, 4 cache held,
5 cache, disk or another resource of the system failed, 10 plan --check: something would run, 130 interrupted.";

const COMPLETIONS: &str = "Examples:
  vadpipe completions bash > ~/.local/share/bash-completion/completions/vadpipe
  vadpipe completions zsh  > ~/.zfunc/_vadpipe          with ~/.zfunc in fpath before compinit
  vadpipe completions fish > ~/.config/fish/completions/vadpipe.fish
  source <(vadpipe completions bash)                    for this shell alone";

#[derive(Args, Clone)]
struct Global {
    /// The folder of the cache
    #[arg(long, global = true, value_name = "DIR", env = "VADPIPE_CACHE", default_value = "cache")]
    cache: PathBuf,
    /// Machine-readable output: `run` prints one event a line, every other command one object
    #[arg(long, global = true)]
    json: bool,
    /// Say less: only results, warnings and errors
    #[arg(short, long, global = true)]
    quiet: bool,
    /// Say more
    #[arg(short, long, global = true)]
    verbose: bool,
    /// Don't wait for a cache or a key that another process holds: exit with code 4. Once a stage has started, `run` and
    /// `verify` wait for the cache, so that no result is lost
    #[arg(long, global = true)]
    no_wait: bool,
    #[arg(skip)]
    kinds: Kinds,
}

/// The stage kinds that pipelines may use: no argument, but what the program was started with.
#[derive(Clone)]
struct Kinds(Arc<Registry>);

impl Default for Kinds {
    fn default() -> Self {
        Self(Arc::new(builtin()))
    }
}

#[derive(Subcommand)]
enum Command {
    /// Run a pipeline: what is cached is not run again
    Run(run::RunArgs),
    /// Say what would run, and why
    Plan(plan::PlanArgs),
    /// Say how a pipeline stands: what is cached, what its last run did
    Status(status::StatusArgs),
    /// Say what a stage's key is made of, and what changed against its newest result
    Explain(explain::ExplainArgs),
    /// Compare two runs, two points or stages, or two pipelines
    Diff(diff::DiffArgs),
    /// Print the graph of a pipeline
    Graph(graph::GraphArgs),
    /// Print the metrics of cached results
    Metrics(metrics::MetricsArgs),
    /// Print what a cached result holds
    Show(show::ShowArgs),
    /// Take cached results out of the cache, as safetensors, JSON and PNG files
    Export(export::ExportArgs),
    /// Run stages again without the cache, and compare the bytes
    Verify(verify::VerifyArgs),
    /// List runs, or print what happened in one
    Log(log::LogArgs),
    /// Remove what recent runs don't need, and give the disk space back
    Gc(gc::GcArgs),
    /// Check every digest in the cache, and repair what can be repaired
    Doctor(doctor::DoctorArgs),
    /// List the stage kinds with their inputs and parameters
    Kinds(kinds::KindsArgs),
    /// Run the job of another vadpipe (`run --isolate`)
    #[command(hide = true)]
    Work(work::WorkArgs),
    /// Print a completion script for a shell: it completes stages and points of the given file, too
    #[command(after_help = COMPLETIONS)]
    Completions {
        /// Which shell
        shell: clap_complete::Shell,
    },
}

/// The pipeline that a command is about.
#[derive(Args, Clone)]
struct PipelineArgs {
    /// The pipeline's file
    #[arg(value_name = "FILE", add = ArgValueCompleter::new(completion::files))]
    file: PathBuf,
    /// Stages, points (`vad@lr=0.01`) or globs (`vad@*`); everything if none is given
    #[arg(value_name = "TARGET", add = ArgValueCompleter::new(completion::targets))]
    targets: Vec<String>,
    /// Set a value before the file is read: `-S params.epochs=8`, `-S 'stages.ad.channels=[64,32,16,16]'`
    #[arg(short = 'S', long = "set", value_name = "PATH=VALUE")]
    set: Vec<String>,
    /// Where to compute: auto, cpu, cuda or cuda:N
    #[arg(long, value_name = "DEVICE")]
    device: Option<crate::spec::DeviceChoice>,
}

/// Parses the command line, does what it says and returns the exit code.
pub fn main() -> ExitCode {
    main_of(builtin(), std::env::args_os(), true)
}

/// [`main`] with other stage kinds and arguments (the first is the program's name): a crate with kinds of its own is a
/// `vadpipe` of its own with `main_with(registry, std::env::args_os())`.
pub fn main_with(registry: Registry, args: impl IntoIterator<Item = std::ffi::OsString>) -> ExitCode {
    // Kinds of others may start processes that are none of our business.
    main_of(registry, args, false)
}

fn main_of(
    registry: Registry,
    args: impl IntoIterator<Item = std::ffi::OsString>,
    owns_all_children: bool,
) -> ExitCode {
    completion::answer(&registry);
    adopt_orphans(owns_all_children);
    let mut cli = Cli::parse_from(args);
    cli.global.kinds = Kinds(Arc::new(registry));
    let ui = Ui::new(cli.global.json, cli.global.quiet, cli.global.verbose);
    match limits::check().and_then(|()| dispatch(cli, &ui)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            ui.error(&error);
            ExitCode::from(error.category.exit_code())
        }
    }
}

fn dispatch(cli: Cli, ui: &Ui) -> Result<()> {
    let global = &cli.global;
    match cli.command {
        Command::Run(args) => run::run(&args, global, ui),
        Command::Plan(args) => plan::plan(&args, global, ui),
        Command::Status(args) => status::status(&args, global, ui),
        Command::Explain(args) => explain::explain(&args, global, ui),
        Command::Diff(args) => diff::diff(&args, global, ui),
        Command::Graph(args) => graph::graph(&args, global, ui),
        Command::Metrics(args) => metrics::metrics(&args, global, ui),
        Command::Show(args) => show::show(&args, global, ui),
        Command::Export(args) => export::export(&args, global, ui),
        Command::Verify(args) => verify::verify(&args, global, ui),
        Command::Log(args) => log::log(&args, global, ui),
        Command::Gc(args) => gc::gc(&args, global, ui),
        Command::Doctor(args) => doctor::doctor(&args, global, ui),
        Command::Kinds(args) => kinds::kinds(&args, global, ui),
        Command::Work(args) => work::work(&args, global, ui),
        Command::Completions { shell } => {
            ui.exact(&completion::script(&shell.to_string())?);
            Ok(())
        }
    }
}
