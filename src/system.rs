//! What this machine has.

use std::fs;
use std::path::Path;
use std::thread;

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

/// Bytes that this process may still write to the file system of a path. `u64::MAX` if unknown.
pub fn free_space(path: &Path) -> u64 {
    rustix::fs::statvfs(path).map_or(u64::MAX, |fs| fs.f_bavail.saturating_mul(fs.f_frsize))
}

/// Cores that this process may use, at least 1.
pub fn cores() -> usize {
    thread::available_parallelism().map_or(1, usize::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_limited_by_the_control_groups_of_the_process() {
        let root = tempfile::tempdir().unwrap();
        let write = |path: &str, text: &str| {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        assert_eq!(control_group_memory(root.path()), None);
        write("proc/self/cgroup", "1:cpu:/x\n0::/job/step\n");
        assert_eq!(control_group_memory(root.path()), None);
        write("sys/fs/cgroup/job/step/memory.max", "max\n");
        write("sys/fs/cgroup/job/memory.max", "4096\n");
        write("sys/fs/cgroup/memory.max", "8192\n");
        assert_eq!(control_group_memory(root.path()), Some(4096));
    }
}
