//! What this machine has, and what a stage uses of it.

mod heap;

use std::fs;
use std::path::Path;
use std::thread;

use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike as _;
use rustix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};

pub(crate) use self::heap::{
    return_freed_memory, save_address_space, set_up_heap_for_planning, set_up_heap_for_work, vec_on_large_pages,
    zeros_on_large_pages,
};

/// Bytes of memory that this process may use: that of the machine, or less in a control group.
pub fn memory() -> u64 {
    let info = rustix::system::sysinfo();
    let memory = info.totalram.saturating_mul(u64::from(info.mem_unit));
    memory.min(control_group_memory(Path::new("/")).unwrap_or(u64::MAX))
}

/// The smallest memory limit of the control groups (version 2) of this process. `root` has `proc` and `sys`.
fn control_group_memory(root: &Path) -> Option<u64> {
    let groups = fs::read_to_string(root.join("proc/self/cgroup")).ok()?;
    let group = groups.lines().find_map(|line| line.strip_prefix("0::/"))?;
    let mounted = root.join("sys/fs/cgroup");
    let groups = Path::new(group).ancestors().map(|group| mounted.join(group).join("memory.max"));
    groups.filter_map(|limit| fs::read_to_string(limit).ok()?.trim().parse().ok()).min()
}

/// Processes that the kernel has killed because memory ran out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryKills {
    count: u64,
    /// Whether only those in the control group of this process are counted, and not all of the machine.
    is_own: bool,
}

impl MemoryKills {
    /// Those so far.
    pub fn so_far() -> Self {
        Self::below(Path::new("/"))
    }

    /// `root` has `proc` and `sys`.
    fn below(root: &Path) -> Self {
        let groups = fs::read_to_string(root.join("proc/self/cgroup")).unwrap_or_default();
        let files = groups.lines().filter_map(|line| {
            let (_, group) = line.split_once(':')?;
            let (controllers, path) = group.split_once(":/")?;
            let is_version_1 = || controllers.split(',').any(|controller| controller == "memory");
            match controllers {
                "" => Some(root.join("sys/fs/cgroup").join(path).join("memory.events")),
                _ => is_version_1().then(|| root.join("sys/fs/cgroup/memory").join(path).join("memory.oom_control")),
            }
        });
        let own = files.filter_map(|file| oom_kills(&file)).max();
        let count = own.or_else(|| oom_kills(&root.join("proc/vmstat"))).unwrap_or_default();
        Self { count, is_own: own.is_some() }
    }

    /// Whether the kernel has killed processes since then.
    pub fn have_grown(self) -> bool {
        let now = Self::so_far();
        now.is_own == self.is_own && now.count > self.count
    }

    /// Whether only those in the control group of this process are counted.
    pub fn are_own(self) -> bool {
        self.is_own
    }
}

/// The number after `oom_kill` in a file of the kernel.
fn oom_kills(file: &Path) -> Option<u64> {
    let text = fs::read_to_string(file).ok()?;
    text.lines().find_map(|line| line.strip_prefix("oom_kill ")?.trim().parse().ok())
}

/// Bytes that this process may still write to the file system of a path. `u64::MAX` if unknown.
pub fn free_space(path: &Path) -> u64 {
    rustix::fs::statvfs(path).map_or(u64::MAX, |fs| fs.f_bavail.saturating_mul(fs.f_frsize))
}

/// Cores that this process may use, at least 1.
pub fn cores() -> usize {
    thread::available_parallelism().map_or(1, usize::from)
}

/// What a stage has used of the machine.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Usage {
    /// Seconds that its threads and its processes computed, together.
    pub cpu_seconds: f64,
    /// Bytes of memory that its largest process had at most. None if it ran no program.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peak_memory: Option<u64>,
}

impl Usage {
    /// That of the children of this process which have ended, and of their descendants.
    pub fn of_children() -> Self {
        // It fails only for an unknown kind.
        let Ok(usage) = getrusage(UsageWho::RUSAGE_CHILDREN) else { return Self::default() };
        let time = usage.user_time() + usage.system_time();
        let kibibytes = u64::try_from(usage.max_rss()).unwrap_or_default();
        Self { cpu_seconds: time.num_microseconds() as f64 / 1e6, peak_memory: Some(kibibytes << 10) }
    }

    /// That of a clock of this process or this thread.
    pub fn of_clock(clock: ClockId) -> Self {
        let time = clock_gettime(clock);
        Self { cpu_seconds: time.tv_sec as f64 + time.tv_nsec as f64 / 1e9, peak_memory: None }
    }

    /// Both together: the sum of the times, and the larger memory.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        let peak_memory = self.peak_memory.max(other.peak_memory);
        Self { cpu_seconds: self.cpu_seconds + other.cpu_seconds, peak_memory }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write_below(root: &Path, path: &str, text: &str) {
        let path = root.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    #[test]
    fn memory_is_limited_by_the_control_groups_of_the_process() {
        let root = tempfile::tempdir().unwrap();
        let write = |path: &str, text: &str| write_below(root.path(), path, text);
        assert_eq!(control_group_memory(root.path()), None);
        write("proc/self/cgroup", "1:cpu:/x\n0::/job/step\n");
        assert_eq!(control_group_memory(root.path()), None);
        write("sys/fs/cgroup/job/step/memory.max", "max\n");
        write("sys/fs/cgroup/job/memory.max", "4096\n");
        write("sys/fs/cgroup/memory.max", "8192\n");
        assert_eq!(control_group_memory(root.path()), Some(4096));
    }

    #[test]
    fn killed_processes_are_those_of_the_own_control_group_or_else_of_the_machine() {
        let root = tempfile::tempdir().unwrap();
        let write = |path: &str, text: &str| write_below(root.path(), path, text);
        let kills = || MemoryKills::below(root.path());
        assert_eq!(kills(), MemoryKills { count: 0, is_own: false });
        write("proc/vmstat", "nr_free_pages 7\noom_kill 12\n");
        assert_eq!(kills(), MemoryKills { count: 12, is_own: false });
        write("proc/self/cgroup", "0::/job/step\n");
        write("sys/fs/cgroup/job/step/memory.events", "oom 5\noom_kill 3\noom_group_kill 0\n");
        assert_eq!(kills(), MemoryKills { count: 3, is_own: true });
        write("proc/self/cgroup", "5:memory:/slurm/job\n1:cpu:/x\n0::/\n");
        write("sys/fs/cgroup/memory/slurm/job/memory.oom_control", "oom_kill_disable 0\noom_kill 4\n");
        assert_eq!(kills(), MemoryKills { count: 4, is_own: true }, "version 1");
    }
}
