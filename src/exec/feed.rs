//! The events of a worker and the logs of its stages, written to the shared store while it runs, so that another
//! machine can watch the run.
//!
//! Errors are ignored: the results do not depend on it, and what can't be written now is written with the next piece.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::event::{Event, Listener, WorkerCause};
use crate::shared::{ClaimOwner, SharedStore};
use crate::store::host_name;

/// The shortest and the longest time between two pieces. The pause grows with the time that the worker has run, so that
/// a worker that runs for days leaves some hundred pieces.
const SHORTEST: Duration = Duration::from_secs(1);
const LONGEST: Duration = Duration::from_secs(60);
const PART: u32 = 100;
/// How long the end of a worker waits until its last events are written.
const LAST_WORDS: Duration = Duration::from_secs(20);
/// Of a longer log, the end is written.
const MAX_LOG_BYTES: u64 = 1 << 20;

/// How a worker ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorkerEnd {
    /// Why, to be read after "it".
    pub why: String,
    /// The kind of this reason.
    pub cause: WorkerCause,
    /// The exit code of its process.
    pub exit_code: u8,
}

/// A worker that leaves its events in a store.
pub struct Feed {
    /// The store.
    pub shared: Arc<SharedStore>,
    /// The id of the run.
    pub run: String,
    /// The worker.
    pub owner: ClaimOwner,
    /// What the worker has, in the words of the engine that started it.
    pub class: Option<String>,
    /// The folder with the logs of the run.
    pub logs: PathBuf,
}

impl Feed {
    /// Calls `work` with a listener that passes events on to `listener` and to the store. `end` says how the
    /// worker ended.
    pub fn during<T>(
        self,
        listener: &dyn Listener,
        work: impl FnOnce(&dyn Listener) -> T,
        end: impl FnOnce(&T) -> WorkerEnd,
    ) -> T {
        let worker = self.owner.name.clone();
        let feeding = Feeding { listener, pending: Arc::default() };
        lock(&feeding.pending).add(&Event::WorkerStarted {
            worker: worker.clone(),
            host: host_name(),
            class: self.class.clone(),
        });
        let (stop, stopped) = channel::<()>();
        let (done, is_done) = channel::<()>();
        let feeder = Feeder { feed: self, pending: Arc::clone(&feeding.pending), next: 0, unwritten: Vec::new() };
        let run = move || {
            feeder.run(&stopped);
            drop(done);
        };
        // Without a thread, nobody can watch the run, which goes on all the same.
        if std::thread::Builder::new().name("vadpipe-feed".to_owned()).spawn(run).is_err() {
            lock(&feeding.pending).is_closed = true;
        }
        let begun = Instant::now();
        let result = work(&feeding);
        let WorkerEnd { why, cause, exit_code } = end(&result);
        lock(&feeding.pending).add(&Event::WorkerEnded {
            worker,
            why,
            cause,
            is_lost: false,
            exit_code: Some(exit_code),
            queued_seconds: None,
            seconds: Some(begun.elapsed().as_secs_f64()),
        });
        drop(stop);
        // A store that does not answer must not hold the worker.
        let _ = is_done.recv_timeout(LAST_WORDS);
        result
    }
}

/// What is not written yet.
#[derive(Default)]
struct Pending {
    lines: Vec<u8>,
    /// The newest progress of each stage.
    progress: BTreeMap<String, Event>,
    /// The stages that have ended.
    ended: BTreeSet<String>,
    /// Nobody writes any more.
    is_closed: bool,
}

struct Feeding<'a> {
    listener: &'a dyn Listener,
    pending: Arc<Mutex<Pending>>,
}

fn lock(pending: &Mutex<Pending>) -> MutexGuard<'_, Pending> {
    pending.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Listener for Feeding<'_> {
    fn event(&self, event: &Event) {
        self.listener.event(event);
        let mut pending = lock(&self.pending);
        match event {
            Event::Transferring { .. } => return,
            Event::Progress { stage, .. } => {
                pending.progress.insert(stage.clone(), event.clone());
                return;
            }
            Event::StageFinished { stage, .. }
            | Event::StageFailed { stage, .. }
            | Event::StageInterrupted { stage, .. } => {
                pending.progress.remove(stage);
                pending.ended.insert(stage.clone());
            }
            _ => {}
        }
        pending.add(event);
    }

    fn pause(&self) {
        self.listener.pause();
    }
}

impl Pending {
    fn add(&mut self, event: &Event) {
        if self.is_closed {
            return;
        }
        // Only a map whose keys aren't strings can fail, and there is none.
        if let Ok(line) = serde_json::to_vec(event) {
            self.lines.extend(line);
            self.lines.push(b'\n');
        }
    }

    /// The events to write, the newest progress last, and the stages whose logs come first.
    fn take(&mut self) -> (Vec<u8>, BTreeSet<String>) {
        for event in std::mem::take(&mut self.progress).into_values() {
            self.add(&event);
        }
        (std::mem::take(&mut self.lines), std::mem::take(&mut self.ended))
    }
}

/// The thread that writes.
struct Feeder {
    feed: Feed,
    pending: Arc<Mutex<Pending>>,
    /// The number of the next piece.
    next: u64,
    /// The next piece, if writing it failed. It may be there all the same, so it must not change.
    unwritten: Vec<u8>,
}

impl Feeder {
    fn run(mut self, stopped: &Receiver<()>) {
        let started = Instant::now();
        loop {
            let pause = (started.elapsed() / PART).clamp(SHORTEST, LONGEST);
            let is_over = stopped.recv_timeout(pause) != Err(RecvTimeoutError::Timeout);
            // What failed before comes first.
            while self.write() {}
            if is_over {
                return;
            }
        }
    }

    /// Writes the next piece. Returns whether there may be another one.
    fn write(&mut self) -> bool {
        let Feed { shared, run, owner, .. } = &self.feed;
        if shared.is_given_up() {
            *lock(&self.pending) = Pending { is_closed: true, ..Pending::default() };
            return false;
        }
        if self.unwritten.is_empty() {
            let (lines, ended) = lock(&self.pending).take();
            // A log is there when the event that says so is, if the store works.
            for (stage, log) in ended.iter().filter_map(|stage| Some((stage, end_of(&self.log(stage))?))) {
                if shared.is_given_up() || shared.put_log(run, stage, log).is_err() {
                    lock(&self.pending).ended.insert(stage.clone());
                }
            }
            self.unwritten = lines;
        }
        if self.unwritten.is_empty() {
            return false;
        }
        let is_written = shared.put_events(run, owner.id(), self.next, self.unwritten.clone()).is_ok();
        if is_written {
            self.next += 1;
            self.unwritten.clear();
        }
        is_written
    }

    fn log(&self, stage: &str) -> PathBuf {
        self.feed.logs.join(format!("{stage}.log"))
    }
}

/// The end of a file. `None` if it is empty or can't be read.
fn end_of(path: &Path) -> Option<Vec<u8>> {
    let mut file = File::open(path).ok()?;
    let length = file.metadata().ok()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(MAX_LOG_BYTES))).ok()?;
    let mut bytes = Vec::new();
    file.take(MAX_LOG_BYTES).read_to_end(&mut bytes).ok()?;
    Some(bytes).filter(|bytes| !bytes.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::Silent;
    use crate::shared::{Address, EventsRead, HEARTBEAT, Trust, Variables};

    fn warned(number: usize) -> Event {
        Event::Warning { message: number.to_string() }
    }

    #[test]
    fn events_come_in_their_order_and_logs_before_the_events_that_end_their_stages() {
        let dir = tempfile::tempdir().unwrap();
        let address = Address::parse(&dir.path().join("store").display().to_string(), Path::new("")).unwrap();
        let shared = Arc::new(SharedStore::open(address, Variables::new(), Trust::default(), true).unwrap());
        std::fs::write(dir.path().join("a.log"), "made a").unwrap();
        let owner = ClaimOwner::this_process("host/w".to_owned(), HEARTBEAT);
        let (run, logs) = ("r1".to_owned(), dir.path().to_owned());
        let feed = Feed { shared: Arc::clone(&shared), run, owner, class: None, logs };
        let work = |listener: &dyn Listener| {
            (0..30).for_each(|number| listener.event(&warned(number)));
            listener.event(&Event::StageInterrupted { stage: "a".to_owned(), has_checkpoint: false });
            // So that there are several pieces.
            std::thread::sleep(SHORTEST * 2);
            listener.event(&warned(30));
        };
        let end = WorkerEnd { why: "left in time".to_owned(), cause: WorkerCause::TimeLimit, exit_code: 0 };
        feed.during(&Silent, work, |()| end);
        let pieces = shared.new_events("r1", &mut EventsRead::default()).unwrap();
        assert!(pieces.len() >= 2);
        let lines = pieces.iter().flat_map(|(_, piece)| piece.split(|byte| *byte == b'\n'));
        let events: Vec<Event> =
            lines.filter(|line| !line.is_empty()).map(|line| serde_json::from_slice(line).unwrap()).collect();
        assert!(matches!(&events[0], Event::WorkerStarted { worker, .. } if worker == "host/w"), "{events:?}");
        assert_eq!(events[1..31], (0..30).map(warned).collect::<Vec<_>>());
        assert_eq!((events.len(), &events[32]), (34, &warned(30)));
        let Event::WorkerEnded { why, cause, exit_code, is_lost: false, .. } = &events[33] else {
            panic!("{events:?}")
        };
        assert_eq!((&**why, *cause, *exit_code), ("left in time", WorkerCause::TimeLimit, Some(0)));
        assert_eq!(shared.log("r1", "a").unwrap().unwrap(), "made a");
    }
}
