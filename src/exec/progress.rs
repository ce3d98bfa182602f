//! Converts the progress of a stage into events and lines of its log.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write as _;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use crate::event::{Event, Listener};
use crate::exec::chain::StoredChain;
use crate::stage::{Progress, Update};
use crate::system::Usage;

/// The progress of one stage. Its log file is created with the first line.
pub(crate) struct StageProgress<'a> {
    listener: &'a dyn Listener,
    stage: &'a str,
    chain: Option<&'a StoredChain<'a>>,
    log_path: &'a Path,
    log: Mutex<Option<File>>,
    /// What the programs of the stage have used.
    used: Mutex<Option<Usage>>,
}

impl<'a> StageProgress<'a> {
    /// Sends events about `stage` to `listener`.
    pub(crate) fn new(
        listener: &'a dyn Listener,
        stage: &'a str,
        chain: Option<&'a StoredChain<'a>>,
        log_path: &'a Path,
    ) -> Self {
        Self { listener, stage, chain, log_path, log: Mutex::default(), used: Mutex::default() }
    }

    /// What the programs of the stage have used, if it ran any.
    pub(crate) fn usage(&self) -> Option<Usage> {
        *self.used.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Progress for StageProgress<'_> {
    fn update(&self, update: Update) {
        let Update { done, total, unit, figures, rate, epoch_end } = update;
        let figures: BTreeMap<_, _> = figures.into_iter().map(|(n, v)| (n.into_owned(), v)).collect();
        let stage = self.stage.to_owned();
        let resumed_at = self.chain.and_then(StoredChain::resumed_at);
        let event = if epoch_end {
            let words: Vec<_> = figures.iter().map(|(n, v)| format!("{n} {v:.6}")).collect();
            self.log(&format!("epoch {done}/{total} {}", words.join(" ")));
            Event::Epoch { stage, epoch: done, epochs: total, figures, resumed_at }
        } else {
            Event::Progress { stage, done, total, unit: unit.to_owned(), figures, rate, resumed_at }
        };
        self.listener.event(&event);
    }

    fn used(&self, usage: Usage) {
        let mut used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
        *used = Some(used.unwrap_or_default().and(usage));
    }

    fn log(&self, line: &str) {
        let mut log = self.log.lock().unwrap_or_else(PoisonError::into_inner);
        if log.is_none() {
            // A command's own output is appended to the same file.
            *log = File::options().create(true).append(true).open(self.log_path).ok();
        }
        // Errors are ignored, because the log is not a result. A full disk is reported when results are stored.
        let _ = log.as_mut().map(|log| writeln!(log, "{line}"));
    }
}
