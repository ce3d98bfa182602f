//! The command line: one file per command, with its arguments and one function. No other module uses this one.
//!
//! Only `ui` prints. A command prints its results through the `Ui` that it gets. It returns `Ok` or an error, whose
//! category gives the exit code.

mod accept;
mod args;
mod cache_dir;
mod cache_wait;
mod cancel;
mod completion;
mod config;
mod diff;
mod doctor;
mod estimate;
mod explain;
mod export;
mod failed;
mod gc;
mod gpus;
mod graph;
mod kinds;
mod limits;
mod log;
mod metrics;
mod page;
mod plan;
mod project;
mod pull;
mod push;
mod results;
mod run;
mod session;
mod shared;
mod show;
mod slurm;
mod status;
mod store;
mod ui;
mod verdicts;
mod verify;
mod work;
mod worker;

use std::ffi::OsString;
use std::process::ExitCode;
use std::sync::Arc;

use clap::{CommandFactory as _, Parser, Subcommand};

use self::args::{Global, Kinds, PipelineArgs};
use self::session::own_program;
use self::ui::Ui;
use crate::error::Result;
use crate::stage::Registry;
use crate::stages::{SUPERVISE, builtin, supervise, supervise_with};
use crate::system::set_up_heap_for_planning;

/// Runs experiment pipelines. A TOML file describes a DAG of stages. Only stages that changed run again, and no epoch
/// is trained twice.
#[derive(Parser)]
#[command(name = "vadpipe", version, max_term_width = 110, after_help = EXAMPLES, infer_subcommands = false)]
struct Cli {
    #[command(subcommand)]
    command: Command,
    #[command(flatten)]
    global: Global,
}

const EXAMPLES: &str = "Examples:
  vadpipe run quickstart.toml               run everything and write the report
  vadpipe run full.toml ad fit-ad           run two stages and their inputs
  vadpipe run full.toml -S params.epochs=8  run with another value
  vadpipe plan full.toml                    show what would run, and why
  vadpipe ui --open                         watch runs in the browser
  vadpipe export full.toml ad --to out      copy results out of the cache

Exit codes:
  0    success
  1    a stage failed
  2    the pipeline, the data or the command line is wrong
  3    verify: a result differs
  4    another process holds the cache
  5    the cache, the disk or another system resource failed
  10   plan --check: a stage would run
  130  interrupted";

const COMPLETIONS: &str = "Examples:
  vadpipe completions bash > ~/.local/share/bash-completion/completions/vadpipe
  vadpipe completions zsh > ~/.zfunc/_vadpipe
  vadpipe completions fish > ~/.config/fish/completions/vadpipe.fish
  source <(vadpipe completions bash)     for the current shell only

zsh needs `fpath+=~/.zfunc` before `compinit` in ~/.zshrc.";

#[derive(Subcommand)]
enum Command {
    /// Run a pipeline. Stages with a cached result do not run again
    Run(run::RunArgs),
    /// Show what would run, and why
    Plan(plan::PlanArgs),
    /// Show what is cached of a pipeline, what runs now, and how its last run ended
    Status(status::StatusArgs),
    /// Show what a stage's key is made of, and what changed since its newest result
    Explain(explain::ExplainArgs),
    /// Compare two runs, two points or stages, or two pipelines
    Diff(diff::DiffArgs),
    /// Print the graph of a pipeline
    Graph(graph::GraphArgs),
    /// Print the metrics of cached results
    Metrics(metrics::MetricsArgs),
    /// Print the content of cached results
    Show(show::ShowArgs),
    /// Show runs, results and curves in the browser, live
    #[command(name = "ui")]
    Page(page::PageArgs),
    /// Copy results out of the cache as safetensors, JSON and PNG files
    Export(export::ExportArgs),
    /// Run stages again without the cache and compare the bytes
    Verify(verify::VerifyArgs),
    /// Say that edits of files change nothing, so that results count as those of the edited files
    Accept(accept::AcceptArgs),
    /// List runs and stages, or print the details of one run
    Log(log::LogArgs),
    /// Remove what recent runs do not need, and free the disk space
    Gc(gc::GcArgs),
    /// Check every digest in the cache and repair what can be repaired
    Doctor(doctor::DoctorArgs),
    /// Copy results and states from the shared store to the cache
    Pull(pull::PullArgs),
    /// Copy results and states from the cache to the shared store
    Push(push::PushArgs),
    /// Look after the shared store: make a key, list, check and clean it
    Store(store::StoreCommandArgs),
    /// Show the configuration
    Config(config::ConfigArgs),
    /// List the stage kinds with their inputs and parameters
    Kinds(kinds::KindsArgs),
    /// Run what no other worker runs, and push it to the shared store
    Worker(worker::WorkerArgs),
    /// End the workers of a run on a cluster
    Cancel(cancel::CancelArgs),
    /// Run the job of another vadpipe (`run --isolate`)
    #[command(hide = true)]
    Work(work::WorkArgs),
    /// Print a completion script for a shell. It also completes the stages and points of a pipeline
    #[command(after_help = COMPLETIONS)]
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
}

/// Runs the command that the command line asks for and returns the exit code.
pub fn main() -> ExitCode {
    main_with(builtin(), std::env::args_os())
}

/// [`main`] with other stage kinds and arguments; the first argument is the program's name. A crate with its own kinds
/// gets its own `vadpipe` with `main_with(registry, std::env::args_os())`.
///
/// Call it once per process, which then ends. Until then a cache may stay locked, and memory is not freed.
pub fn main_with(registry: Registry, args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let args: Vec<OsString> = args.into_iter().collect();
    match &args[..] {
        [_, command, argv @ ..] if command == SUPERVISE => return supervise(argv),
        _ => {}
    }
    completion::answer(&registry, Cli::command);
    // With other arguments, the process may be a test or another program, which can't supervise.
    if std::env::args_os().eq(args.iter().cloned())
        && let Ok(program) = own_program()
    {
        supervise_with(program);
    }
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
    if matches!(cli.command, Command::Run(_) | Command::Plan(_) | Command::Status(_)) {
        set_up_heap_for_planning();
    }
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
        Command::Page(args) => page::page(&args, global, ui),
        Command::Export(args) => export::export(&args, global, ui),
        Command::Verify(args) => verify::verify(&args, global, ui),
        Command::Accept(args) => accept::accept(&args, global, ui),
        Command::Log(args) => log::log(&args, global, ui),
        Command::Gc(args) => gc::gc(&args, global, ui),
        Command::Doctor(args) => doctor::doctor(&args, global, ui),
        Command::Pull(args) => pull::pull(&args, global, ui),
        Command::Push(args) => push::push(&args, global, ui),
        Command::Store(args) => store::store(&args, ui),
        Command::Config(args) => config::config(&args, ui),
        Command::Kinds(args) => kinds::kinds(&args, global, ui),
        Command::Worker(args) => worker::worker(&args, global, ui),
        Command::Cancel(args) => cancel::cancel(&args, global, ui),
        Command::Work(args) => work::work(&args, global, ui),
        Command::Completions { shell } => {
            ui.exact(&completion::script(&shell.to_string())?);
            Ok(())
        }
    }
}
