//! Processes that hold something: who they are, and whether they are alive.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

use serde::{Deserialize, Serialize};

/// A process that holds a lock, a lease or a run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holder {
    /// Process id.
    pub pid: u32,
    /// Name of its machine.
    pub host: String,
    /// When it took what it holds, in Unix milliseconds.
    pub since: i64,
    /// When the process started, in the kernel's ticks since boot. It distinguishes processes that got the same id.
    pub start_ticks: u64,
}

impl Holder {
    /// This process, as of now.
    pub fn this_process() -> Self {
        // The start never changes, but a forked child has another.
        static START: OnceLock<(u32, u64)> = OnceLock::new();
        let pid = std::process::id();
        let own = || (pid, start_ticks(pid).unwrap_or(0));
        let (known, ticks) = *START.get_or_init(own);
        let start_ticks = if known == pid { ticks } else { own().1 };
        Self { pid, host: host_name(), since: now_ms(), start_ticks }
    }

    /// A process that has not left its name.
    pub fn unknown() -> Self {
        Self { pid: 0, host: String::new(), since: now_ms(), start_ticks: 0 }
    }

    /// "process 123 on lab7, since 2026-11-22 10:04:05 UTC".
    pub fn describe(&self) -> String {
        if self.pid == 0 {
            return "an unknown process".to_owned();
        }
        let since = jiff::Timestamp::from_millisecond(self.since).map(|t| t.strftime("%F %T UTC").to_string());
        format!("process {} on {}, since {}", self.pid, self.host, since.unwrap_or_default())
    }

    /// False only if it ran on this machine and has ended.
    pub fn may_live(&self) -> bool {
        self.host != host_name() || start_ticks(self.pid) == Some(self.start_ticks)
    }
}

/// A new run's id: UTC time, then process and a counter in hexadecimal, such as `20261122-100405123-1f3a0`.
pub fn new_run_id() -> String {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let time = jiff::Timestamp::now().strftime("%Y%m%d-%H%M%S%3f");
    format!("{time}-{:x}{:x}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed) % 16)
}

/// Now, in Unix milliseconds.
pub(super) fn now_ms() -> i64 {
    jiff::Timestamp::now().as_millisecond()
}

/// The machine's name.
pub fn host_name() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

/// Field 22 of `/proc/PID/stat`; 0 if there is no `/proc`, none if there is no such process.
fn start_ticks(pid: u32) -> Option<u64> {
    match std::fs::read_to_string(format!("/proc/{pid}/stat")) {
        // The command's name is in parentheses and may contain spaces, so fields are counted after the last
        // parenthesis.
        Ok(stat) => stat.rsplit_once(')')?.1.split_whitespace().nth(19)?.parse().ok(),
        Err(_) if std::path::Path::new("/proc/self/stat").exists() => None,
        Err(_) => {
            let pid = rustix::process::Pid::from_raw(i32::try_from(pid).ok()?)?;
            rustix::process::test_kill_process(pid).ok().map(|()| 0)
        }
    }
}
