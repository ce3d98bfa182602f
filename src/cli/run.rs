//! `vadpipe run`.

mod cluster;
mod commit;
mod fleet;
mod gathering;
mod jobs;
mod left;
mod local;
mod merging;
mod output;
mod watching;

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::path::PathBuf;

use clap::Args;
use clap_complete::engine::ArgValueCompleter;

use self::cluster::Cluster;
pub(super) use self::cluster::{ClusterRun, job_name};
use self::commit::CommitQuery;
use self::local::Workers;
use super::args::{Global, PipelineArgs};
use super::cache_dir::{cache_option, is_cache};
use super::cache_wait::{CacheWait, StartListener};
use super::config::Config;
use super::project::{Project, data_dirs};
use super::session::{Session, own_program};
use super::shared::StoreWriteArgs;
use super::ui::{Ui, Watch};
use super::{completion, plan};
use crate::error::{Category, Error, Result};
use crate::exec::{self, Capacity, RunContext, check_resources};
use crate::id::PointId;
use crate::plan::with_earlier_points;
use crate::shared::SharedStore;
use crate::spec::{PointInput, parse_memory};
use crate::status::RunStatus;
use crate::store::RunLabel;
use crate::system::memory;

const EXAMPLES: &str = "Examples:
  vadpipe run full.toml                       run everything
  vadpipe run full.toml 'vad@*' -k            all points, even if some fail
  vadpipe run full.toml -R tsne               run one stage again
  vadpipe run full.toml -S params.epochs=200  extend a training
  vadpipe run full.toml --json | jq .event    print one event per line
  vadpipe run own-script.toml --watch         run what each edit affects
  vadpipe run full.toml --store s3://team/x   take what the team has made
  vadpipe run full.toml --on local:4          run in four workers
  vadpipe run full.toml --on slurm            run on a cluster

Ctrl-C saves the state of running trainings and stops; the same command continues them. Other stages start over, except \
programs that use {checkpoint}. A second Ctrl-C exits at once; trainings then continue from their last saved state. With --watch, the exit code is 0 if you press Ctrl-C between two \
runs and 130 if you press it during a run.";

/// Arguments of `run`.
#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct RunArgs {
    #[command(flatten)]
    pipeline: PipelineArgs,
    #[command(flatten)]
    store: StoreWriteArgs,
    /// Only show what would run
    #[arg(short = 'n', long)]
    dry_run: bool,
    /// Run again whenever the pipeline file, or a file that is part of a key, changes
    #[arg(short, long)]
    watch: bool,
    /// After a failure, run the stages that can do without the failed one
    #[arg(short, long)]
    keep_going: bool,
    /// Run the targets again, even if they are cached
    #[arg(short, long)]
    force: bool,
    /// Run this stage again, even if it is cached (may be given several times)
    #[arg(short = 'R', long = "rerun", value_name = "STAGE", add = ArgValueCompleter::new(completion::targets))]
    rerun: Vec<String>,
    /// The most stages that run at the same time; a large training runs alone, and stages with `gpus` don't count
    /// [default: number of cores]
    #[arg(short, long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    jobs: Option<u16>,
    /// Threads of a training [default: number of cores]; results do not depend on it
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    threads: Option<u16>,
    /// Memory for the stages that run at the same time, such as `16 GB` [default: that of the machine]
    #[arg(long, value_name = "SIZE", value_parser = parse_memory)]
    memory: Option<u64>,
    /// Where stages run: `local:N` starts N workers on this machine, `slurm` submits workers to the cluster. They share
    /// a store, which `--store` may name; that of a cluster must be reachable from its nodes
    #[arg(long, value_name = "ENGINE", value_parser = engine, conflicts_with_all = ["watch", "force", "rerun", "isolate"])]
    on: Option<Engine>,
    /// A setting of the engine, in place of that of the configuration: slurm.partition=gpu (may be given several times)
    #[arg(short = 'E', long = "engine", value_name = "NAME=VALUE", requires = "on")]
    engine: Vec<String>,
    /// Leave when the first workers are submitted; the same command without it shows the run and gathers its results
    #[arg(long, requires = "on")]
    detach: bool,
    /// Run each stage in a process of its own: one that crashes or runs out of memory fails alone
    #[arg(long)]
    isolate: bool,
    /// A name for the run, by which other commands find it, such as `vadpipe diff before after`
    #[arg(long, value_name = "NAME", value_parser = run_name)]
    name: Option<String>,
    /// A note about the run, which `log` shows
    #[arg(long, value_name = "TEXT")]
    note: Option<String>,
    /// The folder for reports
    #[arg(long, value_name = "DIR", default_value = "reports")]
    reports: PathBuf,
    /// A folder with data sets; it is searched before VADPIPE_DATA_DIR and the user's cache folder
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
}

/// Where the stages of a run are run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Engine {
    /// In this many workers on this machine.
    Local(u16),
    /// On the nodes of a cluster.
    Slurm,
}

fn engine(text: &str) -> Result<Engine, String> {
    if text == "slurm" {
        return Ok(Engine::Slurm);
    }
    let count = text.strip_prefix("local:").and_then(|count| count.parse().ok());
    count
        .filter(|count| (1..=256).contains(count))
        .map(Engine::Local)
        .ok_or("give `slurm`, or `local:N`, such as `local:4`".to_owned())
}

/// Runs a pipeline, with `--watch` again and again.
pub(super) fn run(args: &RunArgs, global: &Global, ui: &Ui) -> Result<()> {
    if args.on != Some(Engine::Slurm) && (args.detach || !args.engine.is_empty()) {
        return Err(Error::bad_input("--detach and -E need `--on slurm`"));
    }
    let session = Session::start(args.threads, Watch::of_run(ui))?;
    let run = Run { args, global, ui, session: &session };
    if args.watch {
        let once = |project: &Project, cache_wait: &CacheWait, is_first| run.once(project, cache_wait, is_first);
        return watching::watch(&args.pipeline, global, ui, &session, &once);
    }
    let cache_wait = CacheWait::new(&session.cancel, global.no_wait);
    let project = Project::open_to_run(&args.pipeline, global, ui, &cache_wait)?;
    let ended = run.once(&project, &cache_wait, true).map_err(|e| cache_wait.explain(e));
    project.leave();
    ended
}

/// What all runs of this process have in common.
struct Run<'a> {
    args: &'a RunArgs,
    global: &'a Global,
    ui: &'a Ui,
    session: &'a Session,
}

impl Run<'_> {
    /// Runs the pipeline once. `force` says whether to respect `--force` and `--rerun`.
    fn once(&self, project: &Project, cache_wait: &CacheWait, force: bool) -> Result<()> {
        let Self { args, session, .. } = self;
        let forced = if force { forced(project, args)? } else { BTreeSet::new() };
        if args.dry_run {
            return self.plan(project, &forced);
        }
        let dir = project.store.dir();
        if !is_cache(dir) {
            self.ui.note(&format!("new cache: {}", std::path::absolute(dir).as_deref().unwrap_or(dir).display()));
        }
        session.watch.set_cache(dir, cache_option(dir));
        let program = if args.isolate { Some(own_program()?) } else { None };
        let commit = CommitQuery::start(&project.spec.base);
        let command_line: Vec<String> = std::env::args().skip(1).collect();
        let options = exec::Options {
            wanted: &project.wanted,
            forced: &forced,
            jobs: args.jobs.map_or(session.threads, usize::from),
            keep_going: args.keep_going,
            wait: !self.global.no_wait,
            worker: None,
            part_of: None,
            isolate: program.as_deref(),
            reports: &args.reports,
            file: &args.pipeline.file.display().to_string(),
            args: &command_line,
            label: &|| RunLabel { name: args.name.clone(), note: args.note.clone(), commit: commit.answer() },
        };
        let listener = StartListener { cache_wait, listener: &*session.watch };
        let data_dirs = data_dirs(args.data_dir.as_ref());
        let left = || if args.on.is_none() { local::left_store(dir) } else { Ok(None) };
        let shared = args.store.open()?.map_or_else(left, |shared| Ok(Some(shared)))?;
        let context = project.context(&data_dirs, session.threads, &session.cancel, &listener);
        let memory = args.memory.unwrap_or(context.memory);
        let context = RunContext { shared: shared.as_ref(), memory, ..context };
        let outcome = match args.on {
            None => exec::run(&context, &options)?,
            Some(Engine::Local(count)) => local::run(&self.workers(count, memory), project, &context, &options)?,
            Some(Engine::Slurm) => match cluster::run(&self.cluster(&context)?, project, &context, &options)? {
                Some(outcome) => outcome,
                None => return Ok(()),
            },
        };
        self.end(project, outcome, !forced.is_empty())
    }

    /// How the command ends.
    fn end(&self, project: &Project, outcome: exec::Outcome, is_forced: bool) -> Result<()> {
        match outcome.status {
            RunStatus::Ok => self.session.watch.check_output(),
            RunStatus::Interrupted => {
                let hint = match is_forced {
                    false => "run the same command again to continue",
                    true => "the forced results were not replaced; run the same command again to rebuild them",
                };
                Err(Error::new(Category::Interrupted, "interrupted").hint(hint))
            }
            RunStatus::Failed | RunStatus::Running => {
                let category = outcome.error.map_or(Category::StageFailed, |e| e.category);
                let mut hint = "run the same command again after a fix; finished stages are cached".to_owned();
                let mut inputs = project.wanted.iter().flat_map(|p| project.spec.point(*p).inputs.values());
                if !self.args.keep_going && inputs.any(PointInput::skips_missing) {
                    hint.push_str("; with `-k`, lists with `missing = \"skip\"` leave out the failed ones");
                }
                Err(Error::new(category, "the run failed").hint(hint))
            }
        }
    }
}

impl Run<'_> {
    /// Prints what would run.
    fn plan(&self, project: &Project, forced: &BTreeSet<PointId>) -> Result<()> {
        let plan = match self.args.store.open()?.filter(|_| forced.is_empty()) {
            Some(shared) => plan::with_store(project, &shared, self.ui)?,
            None => project.plan(forced, self.ui)?,
        };
        let memory = self.args.memory.unwrap_or_else(memory);
        match self.args.on {
            Some(Engine::Local(count)) => local::check(&self.workers(count, memory), project, &plan)?,
            // What its nodes have is known to the cluster.
            Some(Engine::Slurm) => {}
            None => check_resources(&project.spec, &plan, &project.compute, Capacity::of_run(memory))?,
        }
        plan::print(project, &plan, self.ui)
    }

    /// The cluster of `--on slurm`.
    fn cluster(&self, context: &RunContext<'_>) -> Result<Cluster<'_>> {
        let args = self.args;
        let site = Config::load()?.site(&args.engine)?;
        let text =
            |option: &str, value: Option<String>| value.into_iter().flat_map(|v| [option.to_owned(), v]).collect();
        let data_dir = args.data_dir.as_ref().map(|dir| std::path::absolute(dir).unwrap_or_else(|_| dir.clone()));
        let options: [Vec<String>; 4] = [
            text("--jobs", args.jobs.map(|jobs| jobs.to_string())),
            text("--threads", args.threads.map(|threads| threads.to_string())),
            text("--device", args.pipeline.device.map(|device| device.to_string())),
            text("--data-dir", data_dir.map(|dir| dir.display().to_string())),
        ];
        let keep_going = args.keep_going.then(|| "--keep-going".to_owned());
        let address = context.shared.map(SharedStore::address);
        // A job may start in another folder.
        let folder = address.and_then(|address| std::path::absolute(address.folder()?).ok());
        let folder = folder.map(|folder| folder.display().to_string());
        let store = folder.or(address.map(ToString::to_string)).unwrap_or_default();
        // Another node sees no process of this one.
        let program = std::env::current_exe();
        let program = program.map_err(|e| Error::storage("can't find this program's file").caused_by(e))?;
        Ok(Cluster {
            site,
            detach: args.detach,
            pipeline: &args.pipeline,
            global: self.global,
            arguments: options.into_iter().flatten().chain(keep_going).collect(),
            store,
            program: program.display().to_string(),
            ui: self.ui,
        })
    }

    /// The workers of `--on local:N`. They share the cores and the `memory`.
    fn workers(&self, count: u16, memory: u64) -> Workers<'_> {
        let args = self.args;
        let threads = args.threads.map_or((self.session.threads / usize::from(count)).max(1), usize::from);
        let memory = memory / u64::from(count);
        let jobs = args.jobs.unwrap_or(1);
        let limits =
            [("--jobs", jobs.to_string()), ("--threads", threads.to_string()), ("--memory", format!("{memory} B"))];
        let mut arguments: Vec<OsString> =
            limits.into_iter().flat_map(|(name, value)| [name.into(), value.into()]).collect();
        arguments.extend(args.keep_going.then(|| "--keep-going".into()));
        let device = args.pipeline.device.map(|device| device.to_string().into());
        let options = [("--device", device), ("--data-dir", args.data_dir.clone().map(OsString::from))];
        let sets = args.pipeline.set.iter().map(|set| ("--set", Some(OsString::from(set))));
        for (option, value) in options.into_iter().chain(sets) {
            arguments.extend(value.into_iter().flat_map(|value| [option.into(), value]));
        }
        arguments.extend(["--".into(), args.pipeline.file.clone().into()]);
        arguments.extend(args.pipeline.targets.iter().map(OsString::from));
        Workers { count, threads, memory, arguments, store: args.store.store.store.as_deref(), ui: self.ui }
    }
}

/// A name that can't be mistaken for a run's id, which begins with a digit, or for `last` and `last~1`.
fn run_name(text: &str) -> Result<String, String> {
    let is_valid = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    match text.starts_with(|c: char| c.is_ascii_alphabetic()) && text.bytes().all(is_valid) && text != "last" {
        true => Ok(text.to_owned()),
        false => Err("begin with a letter; use letters, digits, `.`, `_` and `-`; `last` is taken".to_owned()),
    }
}

/// The points that the command line forces to run again.
fn forced(project: &Project, args: &RunArgs) -> Result<BTreeSet<PointId>> {
    let mut forced = if args.rerun.is_empty() { BTreeSet::new() } else { project.graph.targets(&args.rerun)? };
    // A pruned sweep also runs the points that a wanted point is compared with.
    let run = with_earlier_points(&project.spec, &project.graph, &project.wanted);
    if let Some(outside) = forced.iter().find(|p| !run.contains(p)) {
        let message = format!("can't run `{}` again: no target needs it", project.name(*outside));
        return Err(Error::bad_input(message).hint("make it a target, too"));
    }
    if args.force {
        forced.extend(&project.targets);
    }
    Ok(forced)
}
