//! Runs each job in its own process, so that a crash or a lack of memory fails only one stage.
//!
//! The process is `vadpipe work ORDER`, where ORDER is a [`WorkOrder`] as JSON. It writes one [`Message`] per line to
//! its standard output, and its standard error is appended to the log of the stage. Its standard input ends when the
//! run is interrupted or the driver dies. The process then stops, and a training saves its state. The process has its
//! own process group, so Ctrl-C reaches only the driver.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, BufRead as _, BufReader, Write as _};
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::{ChildStdin, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{Builder, Scope};
use std::time::Duration;

use rustix::process::Signal;
use serde::{Deserialize, Serialize};

use super::{Executor, ExecutorEvent};
use crate::diagnostic::{Source, SourceKind};
use crate::error::{Category, EXHAUSTED_HINT, Error, Result, is_exhausted};
use crate::event::Event;
use crate::exec::context::RunContext;
use crate::exec::job::{Ended, Job};
use crate::exec::worker::{Worker, panic_message};
use crate::id::PointId;
use crate::store::ResultRecord;
use crate::system::MemoryKills;

/// A job with everything that another process needs to run it.
#[derive(Serialize, Deserialize)]
pub struct WorkOrder {
    /// The folder of the cache.
    pub cache: PathBuf,
    /// The name of the pipeline's file, for messages.
    pub file: String,
    /// The text of the pipeline as it was when the run started.
    pub text: String,
    /// The texts of the files that it includes, by path.
    pub included: BTreeMap<PathBuf, String>,
    /// The folder of the pipeline's file.
    pub base: PathBuf,
    /// The values of `-S`.
    pub overrides: Vec<String>,
    /// The name of the device.
    pub device: String,
    /// Threads of the process.
    pub threads: usize,
    /// Folders that may contain data files.
    pub data_dirs: Vec<PathBuf>,
    run: String,
    job: Job,
}

/// A line that a worker process writes.
#[derive(Serialize, Deserialize)]
pub enum Message {
    /// Something happened in its stage.
    Event(Event),
    /// Its stage made a result with this many bytes.
    Made(usize),
    /// Its job ended.
    Ended(Box<JobEnd>),
}

/// How the job of a [`WorkOrder`] ended.
#[derive(Serialize, Deserialize)]
pub struct JobEnd(Ended<Box<ResultRecord>>);

impl JobEnd {
    /// The end of a job that could not run.
    pub fn with(error: Error) -> Self {
        Self(Ended::with(error))
    }
}

impl WorkOrder {
    fn new(worker: &Worker<'_>, job: Job) -> Self {
        let context = &worker.context;
        let sources = &context.spec.sources.0;
        let pipeline = sources.iter().find(|source| source.kind == SourceKind::Pipeline);
        let overrides = sources.iter().filter(|source| source.kind == SourceKind::Override);
        let included = |source: &Source| match &source.kind {
            SourceKind::Included(path) => Some((path.clone(), source.text.clone())),
            SourceKind::Pipeline | SourceKind::Override => None,
        };
        Self {
            cache: context.store.dir().to_owned(),
            file: pipeline.map(|source| source.name.clone()).unwrap_or_default(),
            text: pipeline.map(|source| source.text.clone()).unwrap_or_default(),
            included: sources.iter().filter_map(included).collect(),
            base: context.spec.base.clone(),
            overrides: overrides.map(|source| source.text.clone()).collect(),
            device: context.compute.name.clone(),
            threads: context.threads,
            data_dirs: context.data_dirs.to_vec(),
            run: worker.run.to_owned(),
            job,
        }
    }

    /// Runs the job and sends its messages. The listener of `context` is not used.
    pub fn work(self, context: &RunContext<'_>, send: &(dyn Fn(Message) + Sync)) {
        let listener = Events(send);
        let worker = Worker::new(RunContext { listener: &listener, ..*context }, &self.run);
        let ended = match worker.execute(self.job) {
            Ok(output) => {
                send(Message::Made(output.bytes()));
                let stored = worker.commit(&[output]).pop();
                let stored = stored.unwrap_or_else(|| Err(Error::storage("internal error: nothing was stored")));
                stored.map_or_else(Ended::with, |record| Ended::Made(Box::new(record)))
            }
            Err(ended) => ended,
        };
        for message in context.store.warnings() {
            send(Message::Event(Event::Warning { message }));
        }
        send(Message::Ended(Box::new(JobEnd(ended))));
    }
}

struct Events<'a>(&'a (dyn Fn(Message) + Sync));

impl crate::event::Listener for Events<'_> {
    fn event(&self, event: &Event) {
        (self.0)(Message::Event(event.clone()));
    }
}

/// The processes of a run.
pub(crate) struct ProcessExecutor<'scope, 'env> {
    scope: &'scope Scope<'scope, 'env>,
    launcher: Launcher<'scope>,
    events: Receiver<ExecutorEvent>,
    sender: Sender<ExecutorEvent>,
}

/// Starts processes and reads their messages.
#[derive(Clone)]
struct Launcher<'a> {
    worker: Worker<'a>,
    program: &'a Path,
    /// The standard inputs of the processes: dropping one asks its process to stop.
    inputs: Arc<Mutex<BTreeMap<PointId, ChildStdin>>>,
}

impl<'scope, 'env> ProcessExecutor<'scope, 'env> {
    /// Runs jobs with `program`, which has the stage kinds of the pipeline.
    pub(crate) fn new(scope: &'scope Scope<'scope, 'env>, worker: Worker<'scope>, program: &'scope Path) -> Self {
        let (sender, events) = channel();
        let launcher = Launcher { worker, program, inputs: Arc::default() };
        Self { scope, launcher, events, sender }
    }
}

impl Executor for ProcessExecutor<'_, '_> {
    fn start(&mut self, job: Job) {
        let (launcher, events, point) = (self.launcher.clone(), self.sender.clone(), job.point);
        let follow = move || {
            let run = || launcher.run(job, &events).unwrap_or_else(|error| error);
            let ended = catch_unwind(AssertUnwindSafe(run)).unwrap_or_else(|panic| {
                let text = panic_message(&*panic).unwrap_or("following the process of a stage panicked");
                Ended::Failed(Error::new(Category::StageFailed, format!("internal error: {text}")))
            });
            let _ = events.send(ExecutorEvent::Ended(point, ended));
        };
        if let Err(error) = Builder::new().spawn_scoped(self.scope, follow) {
            let error = Error::exhausted("can't start a thread", error);
            let _ = self.sender.send(ExecutorEvent::Ended(point, Ended::Failed(error)));
        }
    }

    fn poll(&mut self, timeout: Duration) -> Option<ExecutorEvent> {
        self.events.recv_timeout(timeout).ok()
    }

    fn cancel(&mut self) {
        // Also stops a job whose process is being started and has no entry in `inputs` yet.
        self.launcher.worker.context.cancel.cancel();
        self.launcher.inputs.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}

type JobResult = Ended<Box<ResultRecord>>;

impl Launcher<'_> {
    /// Runs a job to its end. Both `Ok` and `Err` describe how it ended.
    fn run(&self, job: Job, events: &Sender<ExecutorEvent>) -> Result<JobResult, JobResult> {
        let point = job.point;
        let failed = |what: &str| {
            let what = what.to_owned();
            move |error: io::Error| Ended::Failed(Error::storage(what).caused_by(error))
        };
        let order = self.write_order(job).map_err(failed("can't write the order of a job"))?;
        let log = self.worker.open_log(point).map_err(failed("can't write the log of a stage"))?;
        let killed_before = MemoryKills::so_far();
        let mut child = Command::new(self.program)
            .arg("work")
            .arg(order.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(log)
            .process_group(0)
            .spawn()
            .map_err(|error| {
                let is_exhausted = is_exhausted(&error);
                let error = Error::storage(format!("can't start {}", self.program.display())).caused_by(error);
                // The system may allow another process later.
                if is_exhausted { Ended::WorkerLost(error.hint(EXHAUSTED_HINT)) } else { Ended::Failed(error) }
            })?;
        if let Some(input) = child.stdin.take() {
            self.inputs.lock().unwrap_or_else(PoisonError::into_inner).insert(point, input);
        }
        // An interruption between the start of the job and this line found no input to close.
        if self.worker.context.cancel.is_cancelled() {
            self.inputs.lock().unwrap_or_else(PoisonError::into_inner).remove(&point);
        }
        let end = child.stdout.take().and_then(|output| self.read_messages(point, output, events));
        self.inputs.lock().unwrap_or_else(PoisonError::into_inner).remove(&point);
        let status = child.wait().map_err(failed("can't wait for the process of a stage"))?;
        let is_out_of_memory = killed_before.have_grown();
        end.ok_or_else(|| {
            if self.worker.context.cancel.is_cancelled() {
                return Ended::Interrupted;
            }
            let error = crash(status, is_out_of_memory);
            self.worker.log_failure(point, &error);
            Ended::Failed(error)
        })
    }

    /// Passes messages on up to the end of the job. `None` if the process ends without reporting it.
    fn read_messages(&self, point: PointId, output: ChildStdout, events: &Sender<ExecutorEvent>) -> Option<JobResult> {
        let lines = BufReader::new(output).split(b'\n');
        // A background process of the stage may keep the pipe open after the last message.
        for line in lines.map_while(io::Result::ok).filter(|line| !line.is_empty()) {
            match serde_json::from_slice(&line) {
                Ok(Message::Event(event)) => {
                    self.worker.context.listener.event(&event);
                    if matches!(event, Event::StateSaved { .. }) {
                        let _ = events.send(ExecutorEvent::StateSaved(point));
                    }
                    if matches!(event, Event::Warning { .. }) {
                        let _ = events.send(ExecutorEvent::StoreWarned);
                    }
                }
                Ok(Message::Made(bytes)) => drop(events.send(ExecutorEvent::Made(point, bytes))),
                Ok(Message::Ended(job_end)) => return Some(job_end.0),
                // A library may print to standard output.
                Err(_) => self.worker.append_to_log(point, &String::from_utf8_lossy(&line)),
            }
        }
        None
    }

    fn write_order(&self, job: Job) -> io::Result<tempfile::NamedTempFile> {
        let scratch = self.worker.context.store.dir().join("scratch");
        fs::create_dir_all(&scratch)?;
        let mut file = tempfile::Builder::new().prefix("order-").suffix(".json").tempfile_in(scratch)?;
        // `to_writer` would make a system call for each token.
        file.write_all(&serde_json::to_vec(&WorkOrder::new(&self.worker, job))?)?;
        Ok(file)
    }
}

/// The error of a process that ended without reporting the end of its job.
fn crash(status: ExitStatus, is_out_of_memory: bool) -> Error {
    let error = |message: String| Error::new(Category::StageFailed, message);
    let Some(number) = status.signal() else {
        let code = status.code().unwrap_or_default();
        return error(format!("its process exited with code {code} before the stage ended"));
    };
    match Signal::from_named_raw(number) {
        Some(Signal::KILL) if is_out_of_memory => {
            error("it ran out of memory: the kernel killed its process".to_owned())
                .hint("run fewer stages at a time (`--jobs`), or use a smaller batch")
        }
        Some(Signal::KILL) => error("its process was killed (SIGKILL)".to_owned()),
        Some(Signal::SEGV) => error("its process crashed: invalid memory access (SIGSEGV)".to_owned()),
        Some(Signal::BUS) => error("its process crashed: bus error (SIGBUS)".to_owned()),
        Some(Signal::ILL) => error("its process crashed: invalid instruction (SIGILL)".to_owned()),
        Some(Signal::ABORT) => error("its process aborted (SIGABRT)".to_owned()),
        _ => error(format!("its process was ended by signal {number}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn crash_is_named_by_its_signal() {
        let message = |raw, out_of_memory| crash(ExitStatus::from_raw(raw), out_of_memory).message;
        assert_eq!(message(11, false), "its process crashed: invalid memory access (SIGSEGV)");
        assert_eq!(message(9, false), "its process was killed (SIGKILL)");
        assert_eq!(message(9, true), "it ran out of memory: the kernel killed its process");
        assert_eq!(message(3 << 8, false), "its process exited with code 3 before the stage ended");
    }
}
