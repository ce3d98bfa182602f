//! Runs a program and ends all its descendants.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::time::{Duration, Instant};

use super::process_tree::{Exit, ProcessTree};
use crate::error::{Error, is_exhausted};
use crate::stage::{Context, StageError};
use crate::system::MemoryKills;

/// How often to look for an interruption and at the time-out.
const TICK: Duration = Duration::from_millis(50);
/// SIGHUP, SIGINT and SIGTERM.
const STOPPING: [i32; 3] = [1, 2, 15];
const SIGKILL: i32 = 9;
/// How long after a program this process may get a signal that was sent to both.
const SIGNALLED_TOGETHER: Duration = Duration::from_millis(500);
/// How much of the log a failure quotes.
const QUOTED_LINES: usize = 12;
const QUOTED_BYTES: u64 = 4096;

/// A program with its arguments and its environment.
pub(super) struct Invocation {
    /// What messages call the program.
    pub(super) name: String,
    /// The program and its arguments.
    pub(super) argv: Vec<OsString>,
    /// The complete environment.
    pub(super) environment: BTreeMap<String, OsString>,
    /// The folder that it starts in.
    pub(super) folder: PathBuf,
    /// The time after which it is ended, if any.
    pub(super) timeout: Option<Duration>,
    /// The file for its standard output. Without one, that goes to the log of the stage.
    pub(super) printed: Option<PathBuf>,
}

/// Follows a program while it runs.
pub(in crate::stages) trait Watch {
    /// The program is about to start, perhaps again.
    ///
    /// # Errors
    /// If it can't start.
    fn starts(&mut self) -> Result<(), StageError> {
        Ok(())
    }
    /// Whether the program can start again with the same folders after it has failed.
    fn can_start_again(&self) -> bool {
        true
    }
    /// Some time has passed, or the program has ended.
    ///
    /// # Errors
    /// If the program must not go on. It is ended then.
    fn looks(&mut self) -> Result<(), StageError> {
        Ok(())
    }
}

/// Nobody follows the program.
impl Watch for () {}

/// How the program ended.
enum End {
    Exited(Exit),
    TimedOut(Duration),
    Cancelled,
}

/// Runs a program and appends its output to the log of the stage.
///
/// # Errors
/// If it can't be started, does not exit with 0, or takes too long. The message quotes the end of its output.
pub(super) fn run(invocation: &Invocation, watch: &mut dyn Watch, context: &Context<'_>) -> Result<(), StageError> {
    let (name, path) = (&*invocation.name, context.log_path);
    let what = format!("can't open the log {}", path.display());
    let killed_before = MemoryKills::so_far();
    let log = OpenOptions::new().create(true).append(true).open(path).map_err(StageError::io(what.clone()))?;
    let written_before = log.metadata().map_err(StageError::io(what.clone()))?.len();
    let printed = match &invocation.printed {
        Some(file) => File::create(file).map_err(StageError::io(format!("can't create {}", file.display())))?,
        None => log.try_clone().map_err(StageError::io(what))?,
    };
    let mut tree = ProcessTree::start(&invocation.argv, |command| {
        command.env_clear().envs(&invocation.environment).current_dir(&invocation.folder).stdout(printed).stderr(log)
    })
    .map_err(|error| cannot_start(name, error))?;
    let waited = wait(&mut tree, invocation.timeout, watch, context);
    if !matches!(waited, Ok(Ok(End::Exited(_)))) {
        tree.end();
    }
    if is_interrupted(&waited, context) {
        return Err(StageError::Interrupted);
    }
    let end = waited.map_err(|error| match error.raw_os_error() {
        Some(_) => cannot_start(name, error),
        None => StageError::failed(format!("`{name}` was stopped, because {error}")),
    })??;
    let (failure, is_out_of_memory) = match end {
        End::Cancelled => return Err(StageError::Interrupted),
        End::TimedOut(limit) => (format!("`{name}` took longer than {} s and was ended", limit.as_secs()), false),
        End::Exited(Exit { status, left, .. }) => {
            if left {
                context.progress.log(&format!("`{name}` left processes running; they were ended"));
            }
            if status.success() {
                return Ok(());
            }
            failure(name, status, killed_before)
        }
    };
    let message = match tail(path, written_before) {
        Some(lines) => format!("{failure}; the end of its output:\n{lines}"),
        None => format!("{failure}, without any output"),
    };
    Err(if is_out_of_memory { StageError::OutOfMemory(message) } else { StageError::Failed(message) })
}

/// What a program died of, and whether that was a lack of memory. The kernel may have killed a child of the program,
/// which then failed in its own way. Among the processes of a whole machine, only a SIGKILL says whose memory it was.
fn failure(name: &str, status: ExitStatus, killed_before: MemoryKills) -> (String, bool) {
    let is_killed = status.signal() == Some(SIGKILL) || status.code() == Some(128 + SIGKILL);
    let is_out_of_memory = (is_killed || killed_before.are_own()) && killed_before.have_grown();
    let failure = match (status.code(), status.signal()) {
        (Some(code), _) if is_out_of_memory && is_killed => format!("`{name}` ran out of memory: exit code {code}"),
        (Some(code), _) if is_out_of_memory => {
            format!("`{name}` exited with code {code}; the kernel killed a process because memory ran out")
        }
        (None, _) if is_out_of_memory => format!("`{name}` ran out of memory: the kernel killed it"),
        (Some(code), _) => format!("`{name}` exited with code {code}"),
        (None, Some(SIGKILL)) => format!("`{name}` was ended by signal 9 (SIGKILL), as when memory runs out"),
        (None, Some(signal)) => format!("`{name}` was ended by signal {signal}"),
        (None, None) => format!("`{name}` failed"),
    };
    (failure, is_out_of_memory)
}

/// Whether the program ended because everything is being stopped. A batch system signals all processes of a job, so
/// the program may end before this process knows.
fn is_interrupted(waited: &io::Result<Result<End, StageError>>, context: &Context<'_>) -> bool {
    let is_signal = |number: i32| STOPPING.contains(&number);
    let may_be = match waited {
        // One that caught the signal may exit with 0, and its outputs are those of half the work.
        Ok(Ok(End::Exited(Exit { status, .. }))) if status.success() => false,
        Ok(Ok(End::Exited(Exit { status, .. }))) => {
            // 128 and the number of the signal: as a shell says it.
            status.signal().is_some_and(is_signal) || status.code().is_some_and(|code| is_signal(code - 128))
        }
        Err(error) => error.raw_os_error().is_none(),
        _ => return false,
    };
    let start = Instant::now();
    while may_be && !context.cancel.is_cancelled() && start.elapsed() < SIGNALLED_TOGETHER {
        std::thread::sleep(TICK);
    }
    context.cancel.is_cancelled()
}

fn cannot_start(name: &str, error: io::Error) -> StageError {
    if is_exhausted(&error) {
        return Error::exhausted(format!("can't start `{name}`"), error).into();
    }
    let hint = match error.kind() {
        io::ErrorKind::NotFound => "is it installed and in PATH? the name of a script next to the pipeline needs a `/`",
        io::ErrorKind::PermissionDenied => "is it executable? (chmod +x)",
        _ => "check `argv`",
    };
    StageError::bad_input(format!("can't start `{name}`: {error}"), hint)
}

/// Waits for the end of the program. The inner error is that of `watch`.
fn wait(
    tree: &mut ProcessTree,
    timeout: Option<Duration>,
    watch: &mut dyn Watch,
    context: &Context<'_>,
) -> io::Result<Result<End, StageError>> {
    let start = Instant::now();
    loop {
        let exit = tree.wait(TICK)?;
        if let Err(error) = watch.looks() {
            return Ok(Err(error));
        }
        if let Some(exit) = exit {
            exit.usage.into_iter().for_each(|usage| context.progress.used(usage));
            return Ok(Ok(End::Exited(exit)));
        }
        if context.cancel.is_cancelled() {
            return Ok(Ok(End::Cancelled));
        }
        match timeout {
            Some(limit) if start.elapsed() >= limit => return Ok(Ok(End::TimedOut(limit))),
            _ => {}
        }
    }
}

/// The last lines written to the log since `from`.
fn tail(path: &Path, from: u64) -> Option<String> {
    let mut file = File::open(path).ok()?;
    let length = file.metadata().ok()?.len();
    file.seek(SeekFrom::Start(from.max(length.saturating_sub(QUOTED_BYTES)))).ok()?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes).ok()?;
    let text = String::from_utf8_lossy(&bytes);
    let lines: Vec<&str> = text.lines().filter(|l| !l.trim().is_empty()).collect();
    let last = &lines[lines.len().saturating_sub(QUOTED_LINES)..];
    (!last.is_empty()).then(|| last.iter().map(|l| format!("  {l}")).collect::<Vec<_>>().join("\n"))
}
