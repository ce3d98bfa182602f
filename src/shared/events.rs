//! What the workers of a run leave for whoever watches it: their events, and the logs of their stages.
//!
//! ```text
//! event/<run>/<worker>/<n>     events of a worker, one piece after the other
//! log/<run>/<stage>            the log of a stage, as the worker that ran it last left it
//! ```
//!
//! They are not signed: no result depends on them.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::error::Result;
use super::handle::SharedStore;
use super::record::part;

/// The beginnings of the names of all events and logs.
const EVENTS: &str = "event/";
const LOGS: &str = "log/";
/// Pieces of one worker that are read at a time.
const AT_A_TIME: u64 = 8;

/// How far the events of a run were read: the number of each worker's next piece.
#[derive(Clone, Debug, Default)]
pub struct EventsRead {
    next: BTreeMap<String, u64>,
}

impl SharedStore {
    /// Writes a piece of a worker's events. `worker` tells it from all other workers; numbers begin at 0.
    ///
    /// # Errors
    /// If the store can't be written.
    pub fn put_events(&self, run: &str, worker: &str, number: u64, bytes: Vec<u8>) -> Result<()> {
        self.objects.put(&piece(run, &part(worker), number), bytes)
    }

    /// Reads the pieces that were written since the last call: each with the id of its worker, and those of a worker in
    /// their order.
    ///
    /// # Errors
    /// If the store can't be read.
    pub fn new_events(&self, run: &str, read: &mut EventsRead) -> Result<Vec<(String, Bytes)>> {
        for worker in self.objects.folders(&format!("{EVENTS}{}/", part(run)))? {
            read.next.entry(worker).or_default();
        }
        let mut pieces = Vec::new();
        let mut workers: Vec<(&String, &mut u64)> = read.next.iter_mut().collect();
        // Most workers have no new piece, so the first request asks for one of each.
        let mut at_a_time = 1;
        while !workers.is_empty() {
            let names = workers.iter().flat_map(|(worker, next)| {
                let next = **next;
                (next..next + at_a_time).map(move |number| piece(run, worker, number))
            });
            let mut found = self.objects.get_each(&names.collect::<Vec<_>>()).into_iter();
            let mut failed = None;
            workers.retain_mut(|(worker, next)| {
                let before = **next;
                let answers: Vec<_> = found.by_ref().take(usize::try_from(at_a_time).unwrap_or(1)).collect();
                for answer in answers {
                    match answer {
                        Ok(Some(bytes)) => {
                            pieces.push((worker.to_string(), bytes));
                            **next += 1;
                        }
                        Ok(None) => break,
                        Err(error) => {
                            failed = Some(error);
                            break;
                        }
                    }
                }
                **next == before + at_a_time
            });
            match failed {
                // The pieces so far are counted as read.
                Some(error) if pieces.is_empty() => return Err(error),
                Some(_) => return Ok(pieces),
                None => at_a_time = AT_A_TIME,
            }
        }
        Ok(pieces)
    }

    /// Writes the log of a stage.
    ///
    /// # Errors
    /// If the store can't be written.
    pub fn put_log(&self, run: &str, stage: &str, bytes: Vec<u8>) -> Result<()> {
        self.objects.put(&log(run, stage), bytes)
    }

    /// Reads the log of a stage. `None` if it has none.
    ///
    /// # Errors
    /// If the store can't be read.
    pub fn log(&self, run: &str, stage: &str) -> Result<Option<Bytes>> {
        self.objects.get_soon(&log(run, stage))
    }
}

fn piece(run: &str, worker: &str, number: u64) -> String {
    format!("{EVENTS}{}/{worker}/{number}", part(run))
}

fn log(run: &str, stage: &str) -> String {
    format!("{LOGS}{}/{}", part(run), part(stage))
}
