//! Which stages run side by side, and with how many threads.
//!
//! A stage that fills all cores runs alone. Other stages share the cores, up to `jobs` at a time. A training of a small
//! network does not fill two cores: its steps are too short to be split, and the cores wait for each other. Such a
//! stage declares how many threads it can use ([`crate::stage::Stage::threads`]), and several of them run side by side.
//!
//! Measured on two cores: two trainings of the same size with batches of 16, one after the other with two threads each,
//! against side by side with one thread each.
//!
//! | channels | one after the other | side by side |
//! |---|---|---|
//! | 16-12-8-8 | 5.7 s | 3.0 s |
//! | 64-32-16-16 | 3.8 s | 1.9 s |
//! | 128-64-32-16 | 2.7 s | 1.8 s |
//! | 256-128-64-32 | 3.8 s | 2.3 s |
//! | 512-256-128-64 | 6.1 s | 5.7 s |
//!
//! A training fills a GPU by itself, so one stage at a time uses the GPU.
//!
//! A stage holds files open while it runs, and its lease until its result is stored. A low limit on open files
//! (`ulimit -n`) therefore lowers the number of stages that run and of results that wait to be stored.

use rustix::process::{Resource, getrlimit};

use crate::spec::Spec;

/// Files that the databases, the run's record and the standard streams need.
const FILES: usize = 20;
/// Files that a stage needs while it runs. Starting a command needs the most.
const FILES_OF_A_STAGE: usize = 8;
/// The most results that wait to be stored.
const BACKLOG: usize = 512;
/// No stage starts while this many bytes of results wait to be stored.
const BACKLOG_BYTES: usize = 256 << 20;

/// What a stage occupies while it runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Demand {
    /// Threads of the pool. A stage that does not use the pool needs none.
    pub threads: usize,
    /// Whether it needs the GPU.
    pub gpu: bool,
}

/// The resources of a run, and what is in use.
#[derive(Clone, Debug)]
pub(crate) struct ResourcePool {
    threads: usize,
    jobs: usize,
    backlog: usize,
    running: Vec<Demand>,
    waiting: usize,
    waiting_bytes: usize,
}

impl ResourcePool {
    /// A pool of `threads` threads for at most `jobs` stages at a time, with at most `backlog` results waiting to be
    /// stored.
    pub(crate) fn new(threads: usize, jobs: usize, backlog: usize) -> Self {
        let threads = threads.max(1);
        Self { threads, jobs: jobs.max(1), backlog, running: Vec::new(), waiting: 0, waiting_bytes: 0 }
    }

    /// A pool whose number of jobs and backlog fit the limit on open files.
    pub(crate) fn within_limits(threads: usize, jobs: usize) -> Self {
        let limit = getrlimit(Resource::Nofile).current.and_then(|limit| usize::try_from(limit).ok());
        let (jobs, backlog) = within_files(limit.unwrap_or(usize::MAX), jobs);
        Self::new(threads, jobs, backlog)
    }

    /// What each point of a pipeline occupies, in the order of [`Spec::points`].
    pub(crate) fn demands(spec: &Spec, threads: usize, on_gpu: bool) -> Vec<Demand> {
        let demand = |point: &crate::spec::Point| {
            let stage = &*point.parsed.stage;
            let gpu = on_gpu && stage.uses_device();
            Demand { gpu, threads: if stage.parallel() && !gpu { stage.threads(threads.max(1)) } else { 0 } }
        };
        spec.points.iter().map(demand).collect()
    }

    /// Whether no stage can start at all.
    pub(crate) fn is_full(&self) -> bool {
        self.running.len() >= self.jobs || self.waiting >= self.backlog || self.waiting_bytes >= BACKLOG_BYTES
    }

    /// Whether a stage can start beside those that run. A stage that needs all threads runs alone.
    pub(crate) fn fits(&self, demand: Demand) -> bool {
        let taken: usize = self.running.iter().map(|d| d.threads).sum();
        let is_exclusive = |d: &Demand| d.threads >= self.threads;
        if self.running.iter().any(|d| is_exclusive(d) || (d.gpu && demand.gpu)) {
            return false;
        }
        if is_exclusive(&demand) {
            return self.running.is_empty();
        }
        self.running.len() < self.jobs && taken + demand.threads <= self.threads
    }

    /// The threads that a stage gets for itself. `None` if it shares the threads of the process, as it does when
    /// nothing will run beside it.
    pub(crate) fn own_threads(&self, demand: Demand, alone: bool) -> Option<usize> {
        Some(demand.threads).filter(|threads| (1..self.threads).contains(threads) && !alone)
    }

    /// Occupies what a stage needs.
    pub(crate) fn acquire(&mut self, demand: Demand) {
        self.running.push(demand);
    }

    /// Frees what [`ResourcePool::acquire`] occupied.
    pub(crate) fn release(&mut self, demand: Demand) {
        if let Some(index) = self.running.iter().position(|d| *d == demand) {
            self.running.swap_remove(index);
        }
    }

    /// Counts a result that waits to be stored.
    pub(crate) fn enqueue(&mut self, bytes: usize) {
        self.waiting += 1;
        self.waiting_bytes += bytes;
    }

    /// The reverse of [`ResourcePool::enqueue`].
    pub(crate) fn dequeue(&mut self, bytes: usize) {
        self.waiting = self.waiting.saturating_sub(1);
        self.waiting_bytes = self.waiting_bytes.saturating_sub(bytes);
    }
}

/// How many stages may run at a time and how many results may wait, for a limit on open files.
fn within_files(files: usize, jobs: usize) -> (usize, usize) {
    let free = files.saturating_sub(FILES);
    let jobs = jobs.min(free / FILES_OF_A_STAGE).max(1);
    (jobs, free.saturating_sub(jobs * FILES_OF_A_STAGE).clamp(1, BACKLOG))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn low_limit_of_open_files_lowers_the_number_of_jobs() {
        assert_eq!(within_files(1024, 2), (2, 512));
        assert_eq!(within_files(1024, 200), (125, 4));
        assert_eq!(within_files(64, 16), (5, 4));
        assert_eq!(within_files(32, 2), (1, 4));
        assert_eq!(within_files(8, 2), (1, 1));
        assert_eq!(within_files(usize::MAX, 0), (1, 512));
    }

    #[test]
    fn stage_that_needs_all_threads_runs_alone_and_others_share_them() {
        let fits = |threads, running: &[usize], jobs| {
            let mut pool = ResourcePool::new(4, jobs, 1);
            running.iter().for_each(|threads| pool.acquire(Demand { threads: *threads, gpu: false }));
            pool.fits(Demand { threads, gpu: false })
        };
        assert!(fits(4, &[], 4) && !fits(4, &[0], 4) && !fits(0, &[4], 4));
        assert!(fits(1, &[1, 1, 1], 4) && !fits(1, &[1, 1, 1, 1], 8));
        assert!(fits(0, &[1, 1, 1, 1], 8), "a stage without a pool takes no thread");
        assert!(!fits(1, &[1], 1) && !fits(0, &[0, 0], 2), "`-j` is the limit");
        assert!(fits(2, &[2], 4) && !fits(3, &[2], 4));
    }

    #[test]
    fn one_stage_at_a_time_uses_the_gpu_and_others_run_beside_it() {
        let mut pool = ResourcePool::new(2, 4, 1);
        let gpu = Demand { threads: 0, gpu: true };
        pool.acquire(gpu);
        assert!(!pool.fits(gpu) && pool.fits(Demand { threads: 1, gpu: false }));
        pool.release(gpu);
        assert!(pool.fits(gpu));
    }

    #[test]
    fn nothing_starts_while_too_much_waits_to_be_stored() {
        let mut pool = ResourcePool::new(2, 2, 2);
        pool.enqueue(BACKLOG_BYTES);
        assert!(pool.is_full());
        pool.dequeue(BACKLOG_BYTES);
        pool.enqueue(1);
        assert!(!pool.is_full());
        pool.enqueue(1);
        assert!(pool.is_full());
    }
}
