//! What is known of the workers of a class: what the next ones get, and whether they make progress.

use std::collections::BTreeSet;

use super::class::Class;

/// How often workers of a class are submitted in a row without any progress.
const ROUNDS: u32 = 4;

/// What is known of the workers of a class.
#[derive(Debug)]
pub(super) struct Group {
    class: Class,
    /// What the next workers get. They may need more memory than the first ones.
    pub(super) terms: Class,
    /// Nodes that failed.
    pub(super) excluded: BTreeSet<String>,
    /// How often workers were submitted since one of them made progress.
    rounds: u32,
    /// Why the last one ended early.
    pub(super) last_loss: Option<String>,
    /// Workers that ended although work was left for them, and in whose place none was submitted yet.
    pub(super) missing: usize,
}

impl Group {
    pub(super) fn new(class: Class) -> Self {
        Self { class, terms: class, excluded: BTreeSet::new(), rounds: 0, last_loss: None, missing: 0 }
    }

    /// Notes that workers were submitted, perhaps when none was there. Returns how many of them take the place of
    /// others.
    pub(super) fn submitted(&mut self, count: usize, none_was_there: bool) -> usize {
        self.rounds += u32::from(none_was_there);
        let replaced = self.missing.min(count);
        self.missing -= replaced;
        replaced
    }

    /// Notes that a worker saved or stored something.
    pub(super) fn made_progress(&mut self) {
        (self.rounds, self.last_loss) = (0, None);
    }

    /// If workers were submitted again and again without progress: why the last one ended.
    pub(super) fn is_stuck(&self) -> Option<String> {
        let last = || self.last_loss.clone().unwrap_or_else(|| "ended although work is left".to_owned());
        (self.rounds >= ROUNDS).then(last)
    }

    /// Lets the next workers have twice the memory of one that had these terms, and at most this many bytes. Returns
    /// what they get.
    ///
    /// # Errors
    /// If they get no more, in words that follow a reason.
    pub(super) fn more_memory(&mut self, terms: Class, most: Option<u64>) -> Result<String, String> {
        // Another worker with as little memory may have ended before.
        if self.terms.memory <= terms.memory {
            let grown = self.terms.with_twice_the_memory(self.class.memory.unwrap_or(0), most);
            self.terms = grown.ok_or("and gets no more; give `memory` of `resources`, or slurm.max_memory")?;
            // It grows a few times only, so this is progress.
            self.rounds = 0;
        }
        Ok(format!("the next ones get {}", self.terms.words()))
    }

    /// Notes what a worker of an earlier driver has.
    pub(super) fn found(&mut self, terms: Class) {
        self.terms.memory = self.terms.memory.max(terms.memory);
    }
}
