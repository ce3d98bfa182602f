//! A running program and its descendants.
//!
//! `vadpipe` runs each program under a [`supervisor`](super::supervisor), which ends all descendants, also if vadpipe
//! is killed. In a process that uses the library in another way, there is no supervisor: the program leads a process
//! group, and processes that leave the group are not ended.
//!
//! The crate `process-wrap` offers process groups and sessions, for which one call of the standard library is enough
//! here. It has no child subreaper and does not find processes that left the group, so it could not replace this.

use std::io::{self, Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::OnceLock;
use std::thread::sleep;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process_group, test_kill_process_group};

use super::supervisor::{GRACE, Report, SUPERVISE};
use crate::system::Usage;

/// How often to look at a process group.
const POLL: Duration = Duration::from_millis(5);

/// The file of a program that runs [`supervise`](super::supervisor::supervise) for the argument `supervise`.
static SUPERVISOR: OnceLock<PathBuf> = OnceLock::new();

/// Runs all programs under supervisors from now on: see [`SUPERVISOR`].
pub(crate) fn supervise_with(program: PathBuf) {
    // The second call of a process would give the same file.
    let _ = SUPERVISOR.set(program);
}

/// A program that was started.
pub(super) enum ProcessTree {
    Supervised {
        supervisor: Child,
        socket: UnixStream,
        /// The part of the report that has been read.
        report: Vec<u8>,
    },
    Group(Child),
}

/// How a program ended.
pub(super) struct Exit {
    pub(super) status: ExitStatus,
    /// Whether it left processes running, which were ended.
    pub(super) left: bool,
    /// What it and its descendants used, if it had a supervisor.
    pub(super) usage: Option<Usage>,
}

impl ProcessTree {
    /// Starts a program. `set` sets its environment, its folder and its output.
    pub(super) fn start(
        argv: &[std::ffi::OsString],
        set: impl FnOnce(&mut Command) -> &mut Command,
    ) -> io::Result<Self> {
        let Some(program) = SUPERVISOR.get() else {
            let mut command = Command::new(argv.first().ok_or(io::ErrorKind::InvalidInput)?);
            return Ok(Self::Group(set(command.args(&argv[1..]).stdin(Stdio::null()).process_group(0)).spawn()?));
        };
        let (socket, other) = UnixStream::pair()?;
        let mut command = Command::new(program);
        // Ctrl-C reaches only vadpipe.
        command.arg(SUPERVISE).args(argv).stdin(OwnedFd::from(other)).process_group(0);
        Ok(Self::Supervised { supervisor: set(&mut command).spawn()?, socket, report: Vec::new() })
    }

    /// Waits at most this long for the program to end. The processes that it left running have then been ended.
    ///
    /// # Errors
    /// With the error of the system, if the program could not be started. Without one, if its supervisor was killed.
    pub(super) fn wait(&mut self, longest: Duration) -> io::Result<Option<Exit>> {
        match self {
            Self::Supervised { supervisor, socket, report } => {
                let Some(report) = read_report(socket, report, longest)? else { return Ok(None) };
                // It exits after its report.
                let _ = supervisor.wait();
                match report {
                    Report::NotStarted(error) => Err(io::Error::from_raw_os_error(error)),
                    Report::Ended { status, left, usage } => {
                        Ok(Some(Exit { status: ExitStatus::from_raw(status), left, usage: Some(usage) }))
                    }
                }
            }
            Self::Group(leader) => {
                let start = Instant::now();
                loop {
                    if let Some(status) = leader.try_wait()? {
                        return Ok(Some(Exit { status, left: end_group(leader), usage: None }));
                    }
                    if start.elapsed() >= longest {
                        return Ok(None);
                    }
                    sleep(POLL.min(longest));
                }
            }
        }
    }

    /// Ends the program and its descendants.
    pub(super) fn end(mut self) {
        match &mut self {
            Self::Supervised { socket, .. } => {
                let _ = socket.write_all(b"s");
                // SIGTERM and SIGKILL for the program, then for its descendants.
                let _ = self.wait(4 * GRACE);
            }
            Self::Group(leader) => drop(end_group(leader)),
        }
    }
}

impl Drop for ProcessTree {
    fn drop(&mut self) {
        if let Self::Supervised { supervisor, socket, .. } = self {
            // A supervisor that runs kills everything and exits. If a process can't be killed, don't wait for it.
            let _ = socket.shutdown(std::net::Shutdown::Both);
            let start = Instant::now();
            while matches!(supervisor.try_wait(), Ok(None)) && start.elapsed() < GRACE {
                sleep(POLL);
            }
        }
    }
}

/// Reads the report of a supervisor for at most this long.
fn read_report(socket: &mut UnixStream, read: &mut Vec<u8>, longest: Duration) -> io::Result<Option<Report>> {
    let start = Instant::now();
    loop {
        let left = longest.saturating_sub(start.elapsed()).max(Duration::from_millis(1));
        socket.set_read_timeout(Some(left))?;
        let mut bytes = [0; 256];
        match socket.read(&mut bytes) {
            Ok(0) => return Err(io::Error::other("its supervisor was killed")),
            Ok(length) => read.extend_from_slice(&bytes[..length]),
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
                return Ok(None);
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
        if let Some(line) = read.strip_suffix(b"\n") {
            return Ok(Some(serde_json::from_slice(line)?));
        }
    }
}

/// Ends what is left of a process group, first with SIGTERM, then with SIGKILL. Returns whether anything was.
fn end_group(leader: &mut Child) -> bool {
    let group = Pid::from_child(leader);
    let mut were_left = false;
    for signal in [Signal::TERM, Signal::KILL] {
        let start = Instant::now();
        let mut is_signalled = false;
        while start.elapsed() <= GRACE {
            if !matches!(leader.try_wait(), Ok(None)) && test_kill_process_group(group).is_err() {
                return were_left;
            }
            were_left = true;
            if !is_signalled {
                // The kernel does not reuse the number of a group that has members.
                let _ = kill_process_group(group, signal);
                is_signalled = true;
            }
            sleep(POLL);
        }
    }
    were_left
}
