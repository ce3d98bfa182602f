//! Checks at the start that the limits of the system (`ulimit`) allow a run.

use rustix::process::{Resource, getrlimit};

use crate::error::{Error, Result};
use crate::system::{cores, save_address_space};

/// Address space that a small pipeline needs in addition to the stacks of its threads.
const BASE: u64 = 128 << 20;
/// The stack of a thread.
const STACK: u64 = 2 << 20;
/// Threads of the database and the runner, whose number does not depend on the number of cores.
const THREADS: u64 = 16;
/// The stack of the main thread grows on demand. If there is no address space left at that time, the process ends with
/// a segmentation fault. So it grows to this size at the start.
const MAIN_STACK: usize = 1 << 20;

/// Threads that even a small pipeline needs at the same time, in addition to one per core.
const FEWEST_THREADS: usize = 11;
/// A limit of this size always allows enough threads.
const MANY_PROCESSES: u64 = 4096;

/// Prepares for a limited address space (`ulimit -v`) and few processes (`ulimit -u`).
///
/// # Errors
/// If the threads of a run could not be started. (Without threads, the database would wait forever.)
pub(super) fn check() -> Result<()> {
    check_address_space()?;
    match getrlimit(Resource::Nproc).current {
        Some(limit) if limit < MANY_PROCESSES => check_threads(FEWEST_THREADS + cores()),
        _ => Ok(()),
    }
}

/// Starts this number of threads at the same time.
fn check_threads(count: usize) -> Result<()> {
    let (running, until) = std::sync::mpsc::channel::<()>();
    let until = std::sync::Mutex::new(until);
    std::thread::scope(|scope| {
        for _ in 0..count {
            let wait = || drop(until.lock().map(|until| until.recv()));
            if let Err(error) = std::thread::Builder::new().spawn_scoped(scope, wait) {
                drop(running);
                let message = format!("too few threads: the system allows fewer than {count} more");
                return Err(Error::storage(message).caused_by(error).hint("raise the limit: see `ulimit -u`"));
            }
        }
        drop(running);
        Ok(())
    })
}

fn check_address_space() -> Result<()> {
    let Some(limit) = getrlimit(Resource::As).current else { return Ok(()) };
    save_address_space();
    let needed = BASE + STACK * (THREADS + 2 * cores() as u64);
    let used = address_space().unwrap_or(0);
    if limit.saturating_sub(used) >= needed {
        std::hint::black_box(&mut [0u8; MAIN_STACK]);
        return Ok(());
    }
    let mb = |bytes: u64| bytes.div_ceil(1 << 20);
    let message = format!(
        "too little memory: the address space is limited to {} MB, and at least {} MB are needed",
        limit >> 20,
        mb(used + needed)
    );
    Err(Error::storage(message).hint("raise the limit: see `ulimit -v`"))
}

/// Bytes of address space in use.
fn address_space() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/self/status").ok()?;
    let size = text.lines().find_map(|line| line.strip_prefix("VmSize:"))?;
    let kilobytes: u64 = size.split_ascii_whitespace().next()?.parse().ok()?;
    Some(kilobytes << 10)
}
