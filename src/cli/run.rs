//! `vadpipe run`.

mod watching;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use clap::Args;
use clap_complete::engine::ArgValueCompleter;

use super::completion;
use super::patience::{Attentive, Patience};
use super::project::{Project, data_dirs};
use super::ui::{Ui, Watch};
use super::{Global, PipelineArgs};
use crate::error::{Category, EXHAUSTED_HINT, Error, Result};
use crate::exec;
use crate::id::PointId;
use crate::plan::with_earlier_points;
use crate::stage::Cancel;
use crate::stages::command::kill_children;
use crate::status::RunStatus;

const EXAMPLES: &str = "Examples:
  vadpipe run pipelines/full.toml                      everything
  vadpipe run pipelines/full.toml 'vad@*' -k           all points of a stage, whatever fails
  vadpipe run pipelines/full.toml -R tsne              make one stage again
  vadpipe run pipelines/full.toml -S params.epochs=200 extend a training: it continues where it ended
  vadpipe run pipelines/full.toml --json | jq .event   one event a line
  vadpipe run pipelines/own-script.toml --watch        again after every edit, and only what it touches

Ctrl-C saves the state of running trainings and stops; the same command goes on from there. A second Ctrl-C leaves at
once, with the last saved state. `--watch` lets a run end before it looks for edits; Ctrl-C while it waits ends it with
exit code 0, Ctrl-C in the middle of a run with 130.";

/// Arguments of `run`.
#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct RunArgs {
    #[command(flatten)]
    pipeline: PipelineArgs,
    /// Only say what would run
    #[arg(short = 'n', long)]
    dry_run: bool,
    /// Run again whenever the pipeline's file, or a file that enters a key, is saved
    #[arg(short, long)]
    watch: bool,
    /// Go on with what doesn't depend on a failed stage
    #[arg(short, long)]
    keep_going: bool,
    /// Make the targets again, whatever is cached
    #[arg(short, long)]
    force: bool,
    /// Make this stage again, whatever is cached (may be given several times)
    #[arg(short = 'R', long = "rerun", value_name = "STAGE", add = ArgValueCompleter::new(completion::targets))]
    rerun: Vec<String>,
    /// Stages at the same time; a training takes all cores by itself [default: number of cores]
    #[arg(short, long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    jobs: Option<u16>,
    /// Threads of a training [default: number of cores]; never changes a result
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    threads: Option<u16>,
    /// Run each stage in a process of its own: one that crashes or runs out of memory fails alone
    #[arg(long)]
    isolate: bool,
    /// The folder that reports are written to
    #[arg(long, value_name = "DIR", default_value = "reports")]
    reports: PathBuf,
    /// A folder to look for data sets in, before that in VADPIPE_DATA_DIR and the user's cache folder
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
}

/// Runs a pipeline.
pub(super) fn run(args: &RunArgs, global: &Global, ui: &Ui) -> Result<()> {
    if args.watch {
        return watching::watch(args, global, ui);
    }
    let session = Session::start(args, ui)?;
    let patience = Patience::new(&session.cancel, global.no_wait);
    let project = Project::open_to_run(&args.pipeline, global, ui, &patience)?;
    let ended = once(&project, args, true, &session, &patience, global, ui).map_err(|e| patience.explain(e));
    project.leave();
    ended
}

/// What all runs of a process have in common.
struct Session {
    threads: usize,
    cancel: Cancel,
    watch: Arc<Watch>,
    /// Nothing runs that would have to be stopped.
    idle: Arc<AtomicBool>,
}

impl Session {
    fn start(args: &RunArgs, ui: &Ui) -> Result<Self> {
        let (threads, cancel) = (start_threads(args.threads)?, Cancel::default());
        let (watch, idle) = (Arc::new(ui.watch()), Arc::new(AtomicBool::new(false)));
        let (says, quietly) = (Arc::clone(&watch), Arc::clone(&idle));
        stop_on_signals(&cancel, move || {
            if !quietly.load(Ordering::SeqCst) {
                says.say(STOPPING);
            }
        })?;
        Ok(Self { threads, cancel, watch, idle })
    }

    fn idle(&self, idle: bool) {
        self.idle.store(idle, Ordering::SeqCst);
    }
}

/// Runs a pipeline once. `force` says whether what the command line forces is made again.
fn once(
    project: &Project,
    args: &RunArgs,
    force: bool,
    session: &Session,
    patience: &Patience,
    global: &Global,
    ui: &Ui,
) -> Result<()> {
    let forced = if force { forced(project, args)? } else { BTreeSet::new() };
    if args.dry_run {
        return super::plan::print(project, &project.plan(&forced, ui)?, ui);
    }
    let program = if args.isolate { Some(own_program()?) } else { None };
    let given: Vec<String> = std::env::args().skip(1).collect();
    let options = exec::Options {
        wanted: &project.wanted,
        forced: &forced,
        jobs: args.jobs.map_or(session.threads, usize::from),
        keep_going: args.keep_going,
        wait: !global.no_wait,
        isolate: program.as_deref(),
        reports: &args.reports,
        file: &args.pipeline.file.display().to_string(),
        args: &given,
    };
    let listener = Attentive { patience, listener: &*session.watch };
    let data_dirs = data_dirs(args.data_dir.as_ref());
    let outcome = exec::run(&project.context(&data_dirs, session.threads, &session.cancel, &listener), &options)?;
    match outcome.status {
        RunStatus::Ok => session.watch.check_output(),
        RunStatus::Interrupted => {
            let hint = if forced.is_empty() {
                "the same command goes on from where it stopped"
            } else {
                "what was to be made again is as it was before; the same command begins again with it"
            };
            Err(Error::new(Category::Interrupted, "interrupted").hint(hint))
        }
        RunStatus::Failed | RunStatus::Running => {
            let category = outcome.error.map_or(Category::StageFailed, |e| e.category);
            Err(Error::new(category, "not everything could be made")
                .hint("what was finished is cached; `vadpipe log` shows the run"))
        }
    }
}

/// This program, which also runs single jobs.
fn own_program() -> Result<PathBuf> {
    std::env::current_exe().map_err(|e| Error::storage("can't find this program's file").caused_by(e))
}

/// The points that the command line wants made again.
fn forced(project: &Project, args: &RunArgs) -> Result<BTreeSet<PointId>> {
    let mut forced = if args.rerun.is_empty() { BTreeSet::new() } else { project.graph.targets(&args.rerun)? };
    // A run makes as much of the points that decide about a wanted one as it takes.
    let run = with_earlier_points(&project.spec, &project.graph, &project.wanted);
    if let Some(outside) = forced.iter().find(|p| !run.contains(p)) {
        let message = format!("`{}` is to run again, but no target needs it", project.name(*outside));
        return Err(Error::bad_input(message).hint("name it as a target, too"));
    }
    if args.force {
        forced.extend(&project.targets);
    }
    Ok(forced)
}

/// Sets the number of threads for everything that computes, once. Returns it.
pub(super) fn start_threads(given: Option<u16>) -> Result<usize> {
    let threads = given.map_or_else(|| std::thread::available_parallelism().map_or(1, usize::from), usize::from);
    rayon::ThreadPoolBuilder::new()
        .num_threads(threads)
        .build_global()
        .map_err(|e| Error::storage("can't start threads").caused_by(e).hint(EXHAUSTED_HINT))?;
    Ok(threads)
}

/// What is said at the first signal.
pub(super) const STOPPING: &str = "stopping: running trainings save their state (once more to leave at once)";

/// The first signal asks everything to stop and save, and is told to `say`; the second leaves at once.
pub(super) fn stop_on_signals(cancel: &Cancel, say: impl Fn() + Send + 'static) -> Result<()> {
    use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
    let mut signals = signal_hook::iterator::Signals::new([SIGINT, SIGTERM, SIGHUP])
        .map_err(|e| Error::storage("can't listen to signals").caused_by(e).hint(EXHAUSTED_HINT))?;
    let cancel = cancel.clone();
    let asked = AtomicBool::new(false);
    let listen = move || {
        for _ in signals.forever() {
            if asked.swap(true, Ordering::SeqCst) {
                kill_children();
                std::process::exit(i32::from(Category::Interrupted.exit_code()));
            }
            cancel.cancel();
            say();
        }
    };
    let listener = std::thread::Builder::new().name("vadpipe-signals".to_owned()).spawn(listen);
    listener.map(drop).map_err(|e| Error::storage("can't start a thread").caused_by(e).hint(EXHAUSTED_HINT))
}
