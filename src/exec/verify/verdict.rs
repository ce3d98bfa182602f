//! The verdict that is recorded about a stage.

use super::programs::{self, ProgramVerdict};
use super::sample::{Sampled, Stretch};
use crate::error::Result;
use crate::exec::job::Job;
use crate::exec::worker::Worker;
use crate::key::Key;
use crate::store::{Difference, EpochRange, Finding, ResultRecord, Verdict};

/// Records verdicts about one stage.
#[derive(Clone, Copy)]
pub(super) struct NewVerdict<'a> {
    pub(super) worker: &'a Worker<'a>,
    pub(super) job: &'a Job,
    pub(super) stored: &'a ResultRecord,
}

impl NewVerdict<'_> {
    /// Records what was found when everything ran again.
    pub(super) fn of_all(self, difference: Option<Difference>, program: Option<&ProgramVerdict>) -> Result<Verdict> {
        let incomplete = program.and_then(|program| program.incomplete.clone());
        let epochs = self.stored.components.segments.as_ref().map(|_| self.job.components.chain().total());
        let key = self.stored.components.chain().keys().last().copied().unwrap_or(self.stored.key);
        let compared = program.and_then(|program| program.compared);
        let verdict = Verdict {
            epoch: program.and_then(|program| program.epoch),
            epochs,
            pairs: compared.map(|to| EpochRange { from: 0, to }).into_iter().collect(),
            ..self.verdict(difference, incomplete)
        };
        self.record(&key, verdict)
    }

    /// Records what was found in some stretches.
    pub(super) fn of_sample(self, sampled: &Sampled) -> Result<Verdict> {
        let stretches = &sampled.stretches;
        // A stretch that only an incomplete state explains says less than one that is not reproducible.
        let differing = |s: &&Stretch| s.difference.is_some() && s.incomplete.is_none();
        let differing = stretches.iter().find(differing);
        let incomplete = stretches.iter().find(|s| s.incomplete.is_some()).filter(|_| differing.is_none());
        let last = stretches.iter().map(|s| s.to).max().unwrap_or_default();
        let verdict = Verdict {
            epoch: differing.or(incomplete).and_then(|s| s.epoch),
            epochs: Some(last),
            stretches: Some(stretches.iter().map(|s| EpochRange { from: s.from, to: s.to }).collect()),
            pairs: stretches.iter().filter_map(|s| s.pair).collect(),
            ..self.verdict(differing.and_then(|s| s.difference.clone()), incomplete.and_then(|s| s.incomplete.clone()))
        };
        let key = self.job.components.chain().at(last).unwrap_or(self.stored.key);
        self.record(&key, verdict)
    }

    fn verdict(self, difference: Option<Difference>, incomplete: Option<Difference>) -> Verdict {
        let finding = match (&difference, &incomplete) {
            (_, Some(_)) => Finding::StateIncomplete,
            (Some(_), None) => Finding::NotReproducible,
            (None, None) => Finding::Exact,
        };
        Verdict {
            finding,
            difference: incomplete.or(difference),
            epoch: None,
            epochs: None,
            warm: programs::is_warm(self.worker, self.job),
            stretches: None,
            pairs: vec![],
            at: jiff::Timestamp::now().as_millisecond(),
            class: self.job.class.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            files_read: self.stored.components.files_read.clone(),
        }
    }

    fn record(self, key: &Key, verdict: Verdict) -> Result<Verdict> {
        self.worker.context.store.put_verdict(key, &verdict)?;
        Ok(verdict)
    }
}
