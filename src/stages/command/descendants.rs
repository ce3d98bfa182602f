//! Ends the processes that a command leaves running, including those that left its process group.
//!
//! A process that calls `setsid` or `setpgid` no longer gets the signals of the command's group. It is recognised as a
//! descendant in one of two ways:
//!
//! - By its environment: `VADPIPE_SCRATCH` is the scratch folder of the stage, which no other stage shares.
//! - By its parent: if this process is a child subreaper, the kernel makes it the parent of every descendant whose own
//!   parent has ended. So a process with a cleared environment is found, too. If several commands run, it is ended
//!   together with the last of them, because its environment does not say which command it belongs to.
//!
//! The program `vadpipe` is a child subreaper ([`adopt_orphans`]). The library does not change that setting in other
//! programs, because it affects all of their children. A process of another user, after `sudo` for example, can't be
//! ended.
//!
//! The crate `process-wrap` offers process groups and sessions, for which one call of the standard library is enough
//! here. It has no child subreaper and does not find processes that left the group, so it could not replace this file.

use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::process::{Child, Command, ExitStatus};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread::sleep;
use std::time::{Duration, Instant};

use rustix::process::{
    Pid, Signal, WaitId, WaitIdOptions, WaitOptions, getpid, kill_process, kill_process_group, set_child_subreaper,
    test_kill_process_group, waitid, waitpgid, waitpid,
};

/// How long processes may take to end after a signal.
const GRACE: Duration = Duration::from_secs(2);
/// How often to look for them in the meantime.
const POLL: Duration = Duration::from_millis(5);
/// The variable that marks the processes of a command.
const MARKER: &str = "VADPIPE_SCRATCH";

/// The running commands. Locked while a command starts, so that its process is never seen before it is listed here, and
/// while processes are found and ended.
static LEADERS: Mutex<Vec<Pid>> = Mutex::new(Vec::new());
/// Orphans of commands become children of this process.
static IS_SUBREAPER: AtomicBool = AtomicBool::new(false);
/// All children of this process are commands or their descendants.
static OWNS_ALL_CHILDREN: AtomicBool = AtomicBool::new(false);

/// Makes this process the parent of descendants whose own parents have ended. `owns_all` says that only `command`
/// stages start processes here, so that every other child is a descendant of a command.
pub(crate) fn adopt_orphans(owns_all: bool) {
    // If this fails, descendants are still found by their environment.
    let is_set = set_child_subreaper(Some(getpid())).is_ok();
    IS_SUBREAPER.store(is_set, Ordering::Relaxed);
    OWNS_ALL_CHILDREN.store(is_set && owns_all, Ordering::Relaxed);
}

/// Kills all children of this process, their groups, and the orphans that they leave. For exiting at once.
pub(crate) fn kill_children() {
    let start = Instant::now();
    while start.elapsed() < GRACE {
        let children: Vec<Process> = processes().filter(|p| p.parent == Some(getpid()) && !p.is_zombie).collect();
        if children.is_empty() {
            return;
        }
        for child in children {
            // A child that has ended needs no signal.
            let _ = kill_process_group(child.pid, Signal::KILL);
            let _ = kill_process(child.pid, Signal::KILL);
        }
        sleep(POLL);
    }
}

/// A running command: the process that was started, its process group, and all descendants.
pub(super) struct Family {
    leader: Child,
    /// The entry of the environment that marks its processes.
    marker: Vec<u8>,
    /// Descendants outside of the group that have got a signal.
    signalled: Vec<Pid>,
}

impl Family {
    /// Starts the command as the leader of a new group. Its environment must contain [`MARKER`].
    pub(super) fn start(command: &mut Command) -> io::Result<Self> {
        use std::os::unix::process::CommandExt as _;
        let value = command.get_envs().find(|(name, _)| *name == MARKER).and_then(|(_, value)| value);
        let marker = [MARKER.as_bytes(), b"=", value.unwrap_or_default().as_bytes()].concat();
        let mut leaders = leaders();
        let leader = command.process_group(0).spawn()?;
        leaders.push(Pid::from_child(&leader));
        drop(leaders);
        Ok(Self { leader, marker, signalled: Vec::new() })
    }

    /// The exit status of the leader, if it has ended.
    pub(super) fn try_wait(&mut self) -> io::Result<Option<ExitStatus>> {
        self.leader.try_wait()
    }

    /// Ends all remaining processes, first with SIGTERM, then with SIGKILL. Returns whether there were any.
    pub(super) fn end(mut self) -> bool {
        let mut were_left = false;
        for signal in [Signal::TERM, Signal::KILL] {
            self.signalled.clear();
            let start = Instant::now();
            let mut group_signalled = false;
            while start.elapsed() <= GRACE {
                let group_left = self.is_group_left();
                if group_left && !group_signalled {
                    self.signal_group(signal);
                    group_signalled = true;
                }
                if !self.signal_strays(signal) && !group_left {
                    return were_left;
                }
                were_left = true;
                sleep(POLL);
            }
        }
        were_left
    }

    fn group(&self) -> Pid {
        Pid::from_child(&self.leader)
    }

    fn is_group_left(&mut self) -> bool {
        if matches!(self.leader.try_wait(), Ok(None)) {
            return true;
        }
        // An ended process counts as a member until it is reaped. Orphans of the group may be our children.
        while let Ok(Some(_)) = waitpgid(self.group(), WaitOptions::NOHANG) {}
        test_kill_process_group(self.group()).is_ok()
    }

    /// The kernel does not reuse the number of a group that has members.
    fn signal_group(&self, signal: Signal) {
        if kill_process_group(self.group(), signal).is_err() {
            // The leader has moved to another group.
            let _ = kill_process(self.group(), signal);
        }
    }

    /// Signals each descendant outside of the group once. Returns whether any is left.
    fn signal_strays(&mut self, signal: Signal) -> bool {
        let leaders = leaders();
        let mut left = false;
        for stray in self.strays(&leaders) {
            left = true;
            if !self.signalled.contains(&stray) {
                self.signalled.push(stray);
                // A process that has ended needs no signal.
                let _ = kill_process(stray, signal);
            }
        }
        left
    }

    /// The descendants outside of the group that still run. Reaps those that have ended.
    fn strays(&self, leaders: &[Pid]) -> Vec<Pid> {
        let is_subreaper = IS_SUBREAPER.load(Ordering::Relaxed);
        let owns_all = OWNS_ALL_CHILDREN.load(Ordering::Relaxed);
        if is_subreaper && has_no_children() {
            return Vec::new();
        }
        let own = getpid();
        let is_only_command = leaders.iter().all(|leader| *leader == self.group());
        let mut strays = Vec::new();
        for process in processes().filter(|p| p.pid != own && !leaders.contains(&p.pid)) {
            let is_child = process.parent == Some(own);
            if is_subreaper && !is_child {
                continue;
            }
            if process.is_zombie {
                if is_child && (owns_all || self.signalled.contains(&process.pid)) {
                    let _ = waitpid(Some(process.pid), WaitOptions::NOHANG);
                }
            } else if (owns_all && is_only_command) || self.is_marked(process.pid) {
                strays.push(process.pid);
            }
        }
        strays
    }

    fn is_marked(&self, pid: Pid) -> bool {
        let environment = fs::read(format!("/proc/{}/environ", pid.as_raw_nonzero())).unwrap_or_default();
        environment.split(|byte| *byte == 0).any(|entry| entry == self.marker)
    }
}

impl Drop for Family {
    fn drop(&mut self) {
        // Reaps the leader. If it survived SIGKILL for seconds, don't wait for it.
        let _ = self.leader.try_wait();
        let group = self.group();
        leaders().retain(|leader| *leader != group);
    }
}

fn leaders() -> MutexGuard<'static, Vec<Pid>> {
    LEADERS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Whether this process has no children, not even ended ones.
fn has_no_children() -> bool {
    let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
    matches!(waitid(WaitId::All, options), Err(rustix::io::Errno::CHILD))
}

/// A process of this machine.
struct Process {
    pid: Pid,
    parent: Option<Pid>,
    /// It has ended and was not reaped.
    is_zombie: bool,
}

fn processes() -> impl Iterator<Item = Process> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| {
        let pid = entry.file_name().to_str()?.parse().ok().and_then(Pid::from_raw)?;
        let stat = fs::read(entry.path().join("stat")).ok()?;
        // The name of the program is in parentheses and may contain any byte.
        let after_name = stat.iter().rposition(|byte| *byte == b')')?;
        let fields = String::from_utf8_lossy(stat.get(after_name + 1..)?);
        let mut fields = fields.split_ascii_whitespace();
        let is_zombie = matches!(fields.next()?, "Z" | "X");
        let parent = fields.next()?.parse().ok().and_then(Pid::from_raw);
        Some(Process { pid, parent, is_zombie })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn process_in_its_own_session_is_found_by_its_environment() {
        assert!(!IS_SUBREAPER.load(Ordering::Relaxed), "as in a library");
        let folder = tempfile::tempdir().unwrap();
        let started = folder.path().join("pid");
        let script =
            "setsid sh -c 'echo $$ > $0.new; mv $0.new $0; sleep 60' $0 & while ! test -e $0; do sleep 0.01; done";
        let mut command = Command::new("sh");
        command.args(["-c", script]).arg(&started).env(MARKER, folder.path());
        let mut family = Family::start(&mut command).unwrap();
        while family.try_wait().unwrap().is_none() {
            sleep(POLL);
        }
        assert!(family.end(), "something was left");
        let pid: i32 = fs::read_to_string(&started).unwrap().trim().parse().unwrap();
        let runs = processes().any(|p| p.pid.as_raw_nonzero().get() == pid && !p.is_zombie);
        assert!(!runs, "process {pid} still runs");
    }
}
