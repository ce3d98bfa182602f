//! What this machine has.

use std::path::Path;
use std::thread;

/// Bytes of memory.
pub fn memory() -> u64 {
    let info = rustix::system::sysinfo();
    info.totalram.saturating_mul(u64::from(info.mem_unit))
}

/// Bytes that this process may still write to the file system of a path. `u64::MAX` if unknown.
pub fn free_space(path: &Path) -> u64 {
    rustix::fs::statvfs(path).map_or(u64::MAX, |fs| fs.f_bavail.saturating_mul(fs.f_frsize))
}

/// Cores that this process may use, at least 1.
pub fn cores() -> usize {
    thread::available_parallelism().map_or(1, usize::from)
}
