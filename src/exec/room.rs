//! Which stages run side by side, and with how many threads.
//!
//! A stage that fills all cores by itself runs alone; others run up to `jobs` at a time. A training of a small network does
//! not fill two cores: its steps are too short to be cut up, and the cores spend their time waiting for each other. So it says
//! how many threads it makes use of, and several such trainings run beside each other, each with threads of its own. Measured
//! on two cores (batches of 16, two trainings of the same size; one after the other with two threads each, against side by
//! side with one): channels 16-12-8-8 5.7 s against 3.0, 64-32-16-16 3.8 against 1.9, 128-64-32-16 2.7 against 1.8,
//! 256-128-64-32 3.8 against 2.3, 512-256-128-64 6.1 against 5.7. Results are the same bytes for any number of threads.
//! Trainings that have their first epochs in common do not run side by side before these are stored: no epoch twice.
//!
//! On a GPU the device, not the cores, is what a training fills: one stage at a time uses it.
//!
//! Each stage holds files open while it runs, and its lease until its result is stored. Where the system allows few open
//! files (`ulimit -n`), fewer stages run at the same time, and fewer results wait to be stored.

use rustix::process::{Resource, getrlimit};

use crate::exec::worker::Shared;
use crate::id::PointId;
use crate::spec::Spec;
use crate::stage::Stage;

/// Files that the databases, the run's record and the standard streams need.
const FILES: usize = 20;
/// Files that a stage needs while it runs. The most are open while a command is started.
const FILES_OF_A_STAGE: usize = 8;
/// At most so many results wait to be stored.
const BACKLOG: usize = 512;

/// The room of a run.
pub(crate) struct Room<'a> {
    spec: &'a Spec,
    threads: usize,
    jobs: usize,
    backlog: usize,
    on_gpu: bool,
}

impl<'a> Room<'a> {
    pub(crate) fn new(shared: &Shared<'a>, jobs: usize) -> Self {
        let on_gpu = !shared.compute.device.is_cpu();
        let files = getrlimit(Resource::Nofile).current.and_then(|limit| usize::try_from(limit).ok());
        let (jobs, backlog) = within_files(files.unwrap_or(usize::MAX), jobs);
        Self { spec: shared.spec, threads: shared.threads.max(1), jobs, backlog, on_gpu }
    }

    /// The most stages that run at the same time.
    pub(crate) fn jobs(&self) -> usize {
        self.jobs
    }

    /// The most results that wait to be stored.
    pub(crate) fn backlog(&self) -> usize {
        self.backlog
    }

    /// Whether a point can start beside these.
    pub(crate) fn is_there_for(&self, point: PointId, running: impl Iterator<Item = PointId> + Clone) -> bool {
        let on_gpu = |p| self.on_gpu && self.stage(p).uses_device();
        if on_gpu(point) && running.clone().any(on_gpu) {
            return false;
        }
        fits(self.needs(point), running.map(|p| self.needs(p)), self.threads, self.jobs)
    }

    /// The threads that a point gets for itself: none if it shares those of the process. `alone` where nothing will run
    /// beside it.
    pub(crate) fn threads_for(&self, point: PointId, alone: bool) -> Option<usize> {
        Some(self.needs(point)).filter(|needs| (1..self.threads).contains(needs) && !alone)
    }

    /// Threads of the pool. A stage that uses no pool is only counted among the jobs.
    fn needs(&self, point: PointId) -> usize {
        let stage = self.stage(point);
        if stage.parallel() && !(self.on_gpu && stage.uses_device()) { stage.threads(self.threads) } else { 0 }
    }

    fn stage(&self, point: PointId) -> &dyn Stage {
        &*self.spec.point(point).parsed.stage
    }
}

/// The stages at the same time, and the results that wait, that so many open files allow.
fn within_files(files: usize, jobs: usize) -> (usize, usize) {
    let free = files.saturating_sub(FILES);
    let jobs = jobs.min(free / FILES_OF_A_STAGE).max(1);
    (jobs, free.saturating_sub(jobs * FILES_OF_A_STAGE).clamp(1, BACKLOG))
}

/// Whether a stage that needs so many of `threads` can start beside stages that need these.
fn fits(need: usize, running: impl Iterator<Item = usize>, threads: usize, jobs: usize) -> bool {
    let (mut count, mut taken) = (0, 0);
    for other in running {
        if other >= threads {
            return false;
        }
        count += 1;
        taken += other;
    }
    if need >= threads { count == 0 } else { count < jobs && taken + need <= threads }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_open_files_mean_fewer_stages_at_the_same_time() {
        assert_eq!(within_files(1024, 2), (2, 512));
        assert_eq!(within_files(1024, 200), (125, 4));
        assert_eq!(within_files(64, 16), (5, 4));
        assert_eq!(within_files(32, 2), (1, 4));
        assert_eq!(within_files(8, 2), (1, 1));
        assert_eq!(within_files(usize::MAX, 0), (1, 512));
    }

    #[test]
    fn what_fills_all_threads_runs_alone_and_the_rest_share_them() {
        let fits = |need, running: &[usize], jobs| fits(need, running.iter().copied(), 4, jobs);
        assert!(fits(4, &[], 4) && !fits(4, &[0], 4) && !fits(0, &[4], 4));
        assert!(fits(1, &[1, 1, 1], 4) && !fits(1, &[1, 1, 1, 1], 8));
        assert!(fits(0, &[1, 1, 1, 1], 8), "what uses no pool takes no thread of it");
        assert!(!fits(1, &[1], 1) && !fits(0, &[0, 0], 2), "`-j` is the most");
        assert!(fits(2, &[2], 4) && !fits(3, &[2], 4));
    }
}
