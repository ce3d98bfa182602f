//! `vadpipe worker`: one of several runs of a pipeline over one shared store.

use std::cell::Cell;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::Args;
use clap_complete::engine::ArgValueCompleter;
use jiff::civil;
use jiff::{SignedDuration, Timestamp, Zoned};

use super::args::{Global, PipelineArgs};
use super::cache_dir::cache_option;
use super::cache_wait::{CacheWait, StartListener};
use super::completion;
use super::project::{Project, data_dirs};
use super::session::{Session, stop_at_end_of_input};
use super::shared::StoreArgs;
use super::slurm::Allocation;
use super::ui::{Ui, Watch};
use crate::error::{Category, Error, Result};
use crate::event::{Listener, WorkerCause};
use crate::exec::{self, Feed, PartOf, Relocation, RunContext, RunWorker, WorkerEnd};
use crate::shared::{ClaimOwner, HEARTBEAT, SharedStore};
use crate::spec::{DeviceChoice, parse_memory};
use crate::stage::Cancel;
use crate::status::RunStatus;
use crate::store::{RunLabel, host_name};

const EXAMPLES: &str = "Examples:
  vadpipe worker full.toml --store s3://team/x      run what nobody has run
  vadpipe worker full.toml --store /x --until 50m   save and leave in time
  vadpipe worker full.toml --store /x --idle 5m     wait longer for others
  vadpipe worker --run ID --store s3://team/x       run what `push --run` pushed

Start as many workers as you like, on as many machines as you like, at any time. Each takes points that no other worker \
runs, and pushes results and states to the store. `vadpipe run full.toml --store …` then pulls the results to your cache \
and writes the reports.

A worker leaves stages whose `resources` are more than its cores, its memory or its GPUs to other workers, and those \
that would take longer than the time until it leaves.

In a job of Slurm, the cores, the memory and the end of the job are the defaults of --threads, --memory and --until.

A worker ends when nothing is left for it. With --until, and at Ctrl-C or SIGTERM, it saves the states of its trainings, \
pushes them and ends with exit code 0; another worker continues them. If a worker dies, the others take its points over \
after half a minute.

Without --cache, the cache of a worker is a temporary folder, also if VADPIPE_CACHE is set: a worker never uses the cache \
of the project.";

/// Arguments of `worker`.
#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct WorkerArgs {
    /// The pipeline file
    #[arg(value_name = "FILE", required_unless_present = "run", add = ArgValueCompleter::new(completion::files))]
    file: Option<PathBuf>,
    /// Stages, points (`vad@lr=0.01`) or globs (`vad@*`) [default: everything]
    #[arg(value_name = "TARGET", add = ArgValueCompleter::new(completion::targets))]
    targets: Vec<String>,
    /// The run to take part in, with its files: `vadpipe push FILE --run` makes one and prints its id
    #[arg(long, value_name = "ID", conflicts_with_all = ["file", "set"])]
    run: Option<String>,
    /// Set a value before the file is read, as for `vadpipe run`
    #[arg(short = 'S', long = "set", value_name = "PATH=VALUE")]
    set: Vec<String>,
    /// The device to compute on: auto, cpu, cuda or cuda:N
    #[arg(long, value_name = "DEVICE")]
    device: Option<DeviceChoice>,
    #[command(flatten)]
    store: StoreArgs,
    /// Leave after this long with nothing to do but wait for other workers: seconds, or a time such as `10m`
    #[arg(long, value_name = "TIME", default_value = "60", value_parser = duration)]
    idle: Duration,
    /// Save, push and leave after a time, such as `50m`, or at a time, such as `18:30` or `2026-11-26T18:30`
    #[arg(long, value_name = "TIME", value_parser = until)]
    until: Option<Duration>,
    /// After a failure, run the stages that can do without the failed one
    #[arg(short, long)]
    keep_going: bool,
    /// The most stages that run at the same time in this worker [default: number of cores]
    #[arg(short, long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    jobs: Option<u16>,
    /// Cores for its stages, and threads of a training [default: number of cores]; results do not depend on it
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    threads: Option<u16>,
    /// Memory for the stages that run at the same time, such as `16 GB` [default: that of the machine]
    #[arg(long, value_name = "SIZE", value_parser = parse_memory)]
    memory: Option<u64>,
    /// A folder with data sets; it is searched before VADPIPE_DATA_DIR and the user's cache folder
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// The name of this worker in results and messages, after that of the machine [default: worker-PID]
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// The time between two signs of life, in seconds
    #[arg(long, value_name = "SECONDS", hide = true, value_parser = duration)]
    heartbeat: Option<Duration>,
    /// The id of the run that this worker is a part of
    #[arg(long, value_name = "RUN", hide = true)]
    part_of: Option<String>,
    /// What the job has, for the driver that submitted it
    #[arg(long, value_name = "CLASS", hide = true)]
    class: Option<String>,
    /// Leave when a program runs out of memory, because a job with more memory will run it
    #[arg(long, hide = true)]
    leave_without_memory: bool,
    /// Leave when standard input ends
    #[arg(long, hide = true)]
    attached: bool,
}

/// Runs the points that no other worker runs.
pub(super) fn worker(args: &WorkerArgs, global: &Global, ui: &Ui) -> Result<()> {
    let shared = Arc::new(args.store.required(Some(true))?);
    let job = args.allocation();
    let session = Session::start(args.threads.or(job.cpus), Watch::of_run(ui))?;
    if args.attached {
        stop_at_end_of_input(&session.cancel)?;
    }
    let until = args.until.or(job.time).map(|until| Instant::now() + until);
    if let Some(until) = until {
        cancel_at(until, &session.cancel)?;
    }
    let owner = args.owner(&job);
    let scratch = tempfile::Builder::new().prefix("vadpipe-worker-").tempdir();
    let scratch = scratch.map_err(|e| Error::storage("can't create a folder for the cache").caused_by(e))?;
    let global = Global { cache: Some(cache(global, scratch.path())), ..global.clone() };
    let memory = args.memory.or(job.memory);
    let (scratch, owner) = (scratch.path(), &owner);
    let work = Work {
        args,
        global: &global,
        ui,
        session: &session,
        shared: &shared,
        owner,
        until,
        memory,
        lacks_memory: Cell::new(false),
        scratch,
    };
    let Some(run) = &args.run else { return work.run(&*session.watch) };
    let logs = global.cache.clone().unwrap_or_default().join("logs").join(run);
    let (run, owner, class) = (run.clone(), owner.clone(), args.class.clone());
    let feed = Feed { shared: Arc::clone(&shared), run, owner, class, logs };
    feed.during(&*session.watch, |listener| work.run(listener), |ended| work.describe(ended))
}

/// The work of a worker.
struct Work<'a> {
    args: &'a WorkerArgs,
    global: &'a Global,
    ui: &'a Ui,
    session: &'a Session,
    shared: &'a SharedStore,
    owner: &'a ClaimOwner,
    /// When it leaves.
    until: Option<Instant>,
    /// Bytes, unless it has the memory of the machine.
    memory: Option<u64>,
    /// Whether a program ran out of memory.
    lacks_memory: Cell<bool>,
    /// A folder that is removed at the end.
    scratch: &'a Path,
}

impl Work<'_> {
    fn run(&self, listener: &dyn Listener) -> Result<()> {
        let Self { args, global, session, shared, scratch, .. } = *self;
        let cache_wait = CacheWait::new(&session.cancel, global.no_wait);
        let (pipeline, relocation) = args.pipeline(shared, scratch)?;
        let project = Project::open_to_run(&pipeline, global, self.ui, &cache_wait)?;
        session.watch.set_cache(project.store.dir(), cache_option(project.store.dir()));
        let part_of = args.part_of.as_deref().or(args.run.as_deref());
        let (nothing, command_line) = (BTreeSet::new(), std::env::args().skip(1).collect::<Vec<_>>());
        let started_at = Timestamp::now().as_millisecond();
        let options = exec::Options {
            wanted: &project.wanted,
            forced: &nothing,
            jobs: args.jobs.map_or(session.threads, usize::from),
            keep_going: args.keep_going,
            wait: true,
            worker: Some(RunWorker {
                owner: self.owner,
                idle: args.idle,
                until: self.until,
                leaves_without_memory: args.leave_without_memory,
            }),
            part_of: part_of.map(|id| PartOf { id, started_at, events: &[] }),
            isolate: None,
            reports: scratch,
            file: &pipeline.file.display().to_string(),
            args: &command_line,
            label: &RunLabel::default,
        };
        let listener = StartListener { cache_wait: &cache_wait, listener };
        let data_dirs = data_dirs(args.data_dir.as_ref());
        let context = project.context(&data_dirs, session.threads, &session.cancel, &listener);
        let memory = self.memory.unwrap_or(context.memory);
        let context = RunContext { shared: Some(shared), relocation: relocation.as_ref(), memory, ..context };
        let outcome = exec::run(&context, &options);
        project.store.close();
        self.end(outcome)
    }

    /// How the worker ended, for the events of the run.
    fn describe(&self, ended: &Result<()>) -> WorkerEnd {
        let (why, cause) = match ended {
            Err(error) if self.lacks_memory.get() => (format!("ended: {error}"), WorkerCause::OutOfMemory),
            // It went on without the stage that failed, until nothing was left.
            Err(error) if self.args.keep_going && error.category == Category::StageFailed => {
                (format!("ended: {error}"), WorkerCause::Done)
            }
            Err(error) => (format!("ended: {}", error.with_causes()), WorkerCause::Failed),
            Ok(()) if self.until.is_some_and(|until| until <= Instant::now()) => {
                ("left in time".to_owned(), WorkerCause::TimeLimit)
            }
            Ok(()) if self.session.cancel.is_cancelled() => {
                ("saved its states and left".to_owned(), WorkerCause::Stopped)
            }
            Ok(()) => ("ended: nothing was left for it".to_owned(), WorkerCause::Done),
        };
        let exit_code = ended.as_ref().err().map_or(0, |error| error.category.exit_code());
        WorkerEnd { why, cause, exit_code }
    }

    /// How the worker ends.
    fn end(&self, outcome: Result<exec::Outcome>) -> Result<()> {
        let outcome = match outcome {
            Err(error) if error.category == Category::Interrupted && self.session.cancel.is_cancelled() => {
                return Ok(());
            }
            outcome => outcome?,
        };
        if self.shared.is_given_up() {
            let message = format!("this worker has lost the store {}", self.shared.address());
            return Err(Error::storage(message).hint("start it again; what was pushed is not lost"));
        }
        if let Some(point) = outcome.lacked_memory {
            let message = format!("`{point}` ran out of memory");
            self.lacks_memory.set(true);
            let hint = "start workers with more memory: they continue with what is stored";
            return Err(Error::new(Category::StageFailed, message).hint(hint));
        }
        match outcome.status {
            RunStatus::Ok => self.session.watch.check_output(),
            RunStatus::Interrupted => Ok(()),
            RunStatus::Failed | RunStatus::Running => {
                // Exit code 2 says that no worker can run the pipeline.
                let category = outcome.error.map_or(Category::StageFailed, |error| error.category);
                let category = if category == Category::BadInput { Category::StageFailed } else { category };
                Err(Error::new(category, "a stage failed").hint("start the worker again after a fix"))
            }
        }
    }
}

/// The cache of the worker. On a network file system it would be slow, so VADPIPE_CACHE does not count.
fn cache(global: &Global, scratch: &Path) -> PathBuf {
    let variable = std::env::var_os("VADPIPE_CACHE").map(PathBuf::from);
    let given = global.cache.clone().filter(|cache| Some(cache) != variable.as_ref());
    given.unwrap_or_else(|| scratch.join("cache"))
}

impl WorkerArgs {
    /// What a job of Slurm gives to this worker. The driver of attached workers knows what each has.
    fn allocation(&self) -> Allocation {
        if self.attached { Allocation::default() } else { Allocation::of_this_process(self.until.is_none()) }
    }

    /// This worker in claims.
    fn owner(&self, job: &Allocation) -> ClaimOwner {
        let name = self.name.clone().unwrap_or_else(|| format!("worker-{}", std::process::id()));
        let mut owner =
            ClaimOwner::this_process(format!("{}/{name}", host_name()), self.heartbeat.unwrap_or(HEARTBEAT));
        owner.memory = job.memory.unwrap_or(owner.memory);
        owner
    }

    /// The pipeline, and the run that it belongs to. The files of a run are written to a folder in `scratch`.
    fn pipeline(&self, shared: &SharedStore, scratch: &Path) -> Result<(PipelineArgs, Option<Relocation>)> {
        let (device, targets) = (self.device, self.targets.clone());
        let Some(id) = &self.run else {
            let file = self.file.clone().unwrap_or_default();
            return Ok((PipelineArgs { file, targets, set: self.set.clone(), device }, None));
        };
        let run = shared.run(id)?;
        let relocation = Relocation::lay_out(&run, shared, scratch)?;
        let file = relocation.pipeline.clone();
        Ok((PipelineArgs { file, targets: run.targets, set: run.set, device }, Some(relocation)))
    }
}

/// Cancels at a time.
fn cancel_at(time: Instant, cancel: &Cancel) -> Result<()> {
    let cancel = cancel.clone();
    let wait = move || {
        std::thread::sleep(time.saturating_duration_since(Instant::now()));
        cancel.cancel();
    };
    let waiting = std::thread::Builder::new().name("vadpipe-until".to_owned()).spawn(wait);
    waiting.map(drop).map_err(|e| Error::exhausted("can't start a thread", e))
}

/// Seconds, or a duration such as `1h30m`.
fn duration(text: &str) -> Result<Duration, String> {
    if let Ok(seconds) = text.parse::<f64>() {
        return Duration::try_from_secs_f64(seconds).map_err(|e| e.to_string());
    }
    let duration: SignedDuration = text.parse().map_err(|_| "give seconds, or a duration such as `10m` or `1h30m`")?;
    Duration::try_from(duration).map_err(|_| "a duration is not negative".to_owned())
}

/// The time until a time of the day, a date with a time, or the end of a duration.
fn until(text: &str) -> Result<Duration, String> {
    until_at(text, &Zoned::now())
}

fn until_at(text: &str, now: &Zoned) -> Result<Duration, String> {
    let unknown = "give a duration such as `50m`, a time such as `18:30`, or a date such as `2026-11-26T18:30`";
    let is_duration = text.parse::<f64>().is_ok() || text.parse::<SignedDuration>().is_ok();
    if is_duration {
        return duration(text);
    }
    let at = if let Ok(at) = text.parse::<Timestamp>() {
        at
    } else if let Ok(at) = text.parse::<civil::DateTime>() {
        now.time_zone().to_timestamp(at).map_err(|e| e.to_string())?
    } else {
        let time: civil::Time = text.parse().map_err(|_| unknown)?;
        let day = if time > now.time() { now.date() } else { now.date().tomorrow().map_err(|e| e.to_string())? };
        now.time_zone().to_timestamp(day.to_datetime(time)).map_err(|e| e.to_string())?
    };
    Duration::try_from(at.duration_since(now.timestamp())).map_err(|_| format!("{text} is over"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn until_is_a_duration_a_time_or_a_date() {
        let now: Zoned = "2026-11-26T17:00:00[UTC]".parse().unwrap();
        let seconds = |text: &str| until_at(text, &now).map(|time| time.as_secs());
        assert_eq!(seconds("90"), Ok(90));
        assert_eq!(seconds("50m"), Ok(3000));
        assert_eq!(seconds("1h30m"), Ok(5400));
        assert_eq!(seconds("18:30"), Ok(5400));
        assert_eq!(seconds("16:30"), Ok(23 * 3600 + 1800), "tomorrow");
        assert_eq!(seconds("2026-11-27T17:00"), Ok(24 * 3600));
        assert_eq!(seconds("2026-11-26T18:00:00+01:00"), Ok(0));
        assert_eq!(seconds("2026-11-26T16:59"), Err("2026-11-26T16:59 is over".to_owned()));
        assert!(seconds("-5m").is_err() && seconds("-5").is_err() && seconds("noon").unwrap_err().contains("18:30"));
    }
}
