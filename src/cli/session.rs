//! What `run` and `verify` need for computing: threads, a listener, signals that stop the work, and the file of this
//! program.

use std::io::Read as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use super::ui::Watch;
use crate::error::{Category, Error, Result};
use crate::stage::Cancel;
use crate::system::cores;

const STOPPING: &str = "stopping: trainings save their state, programs get SIGTERM (a second signal exits at once)";

/// Starts the thread pool of this process and returns the number of threads. Call it once per process.
pub(super) fn start_threads(threads: Option<u16>) -> Result<usize> {
    let threads = threads.map_or_else(cores, usize::from);
    let failed = |error| Error::exhausted("can't start threads", error);
    rayon::ThreadPoolBuilder::new().num_threads(threads).build_global().map_err(failed)?;
    Ok(threads)
}

/// The threads, the listener and the signal handler of this process.
pub(super) struct Session {
    pub(super) threads: usize,
    pub(super) cancel: Cancel,
    pub(super) watch: Arc<Watch>,
    /// Nothing runs, so a signal prints nothing.
    idle: Arc<AtomicBool>,
}

impl Session {
    /// Starts the thread pool and handles signals. The first signal asks everything to save its state and stop; the
    /// second exits at once. Call it once per process.
    pub(super) fn start(threads: Option<u16>, watch: Watch) -> Result<Self> {
        let threads = start_threads(threads)?;
        let session = Self { threads, cancel: Cancel::default(), watch: Arc::new(watch), idle: Arc::default() };
        session.handle_signals()?;
        Ok(session)
    }

    /// Sets whether nothing runs from now on, so that a signal prints nothing.
    pub(super) fn set_idle(&self, idle: bool) {
        self.idle.store(idle, Ordering::SeqCst);
    }

    fn handle_signals(&self) -> Result<()> {
        let (watch, idle) = (Arc::clone(&self.watch), Arc::clone(&self.idle));
        stop_on_signals(&self.cancel, move |count| match count {
            1 if idle.load(Ordering::SeqCst) => {}
            1 => watch.say(STOPPING),
            _ => watch.clear(),
        })
    }
}

/// The first signal cancels. The second ends this process at once, and with it the programs that it runs. `announce` is
/// called at both, with their number.
pub(super) fn stop_on_signals(cancel: &Cancel, announce: impl Fn(usize) + Send + 'static) -> Result<()> {
    let failed = |error| Error::exhausted("can't handle signals", error);
    let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP]).map_err(failed)?;
    let cancel = cancel.clone();
    let handle = move || {
        for (count, _) in (1..).zip(signals.forever()) {
            if count > 1 {
                announce(count);
                std::process::exit(i32::from(Category::Interrupted.exit_code()));
            }
            cancel.cancel();
            announce(count);
        }
    };
    thread::Builder::new().name("vadpipe-signals".to_owned()).spawn(handle).map(drop).map_err(failed)
}

/// The driver closes our standard input when the run is interrupted. The kernel closes it when the driver dies.
pub(super) fn stop_at_end_of_input(cancel: &Cancel) -> Result<()> {
    let cancel = cancel.clone();
    let wait = move || {
        let mut input = std::io::stdin().lock();
        while input.read(&mut [0; 64]).is_ok_and(|read| read > 0) {}
        cancel.cancel();
    };
    let waiting = std::thread::Builder::new().name("vadpipe-input".to_owned()).spawn(wait);
    waiting.map(drop).map_err(|e| Error::exhausted("can't start a thread", e))
}

/// The path of this program, which runs supervisors and the jobs of `--isolate`. A path in `/proc` stays valid if the
/// file is replaced.
pub(super) fn own_program() -> Result<PathBuf> {
    let program = PathBuf::from(format!("/proc/{}/exe", std::process::id()));
    if program.exists() {
        return Ok(program);
    }
    std::env::current_exe().map_err(|e| Error::storage("can't find this program's file").caused_by(e))
}
