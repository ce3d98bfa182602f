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
//! A large training fills the pipeline's GPU by itself. Small ones, whose kernels are too short to fill it, share it
//! ([`crate::stage::Stage::beside_on_gpu`]). A program gets as many GPUs of its own as it asks for
//! ([`crate::stage::Stage::gpus`]). No other stage uses them meanwhile. The GPUs limit how many such programs run at a
//! time, and `jobs` does not.
//!
//! The pipeline may say what a stage needs (`resources`). A stage that asks for cores occupies as many of them, and the
//! memory of all stages that run is at most that of the machine. A run by itself gives a stage at most the cores that
//! there are. A worker leaves a stage that asks for more than the worker has to other workers.
//!
//! A stage holds files open while it runs, and its lease until its result is stored. A low limit on open files
//! (`ulimit -n`) therefore lowers the number of stages that run and of results that wait to be stored.

use std::collections::{BTreeMap, BTreeSet};

use rustix::process::{Resource, getrlimit};

use crate::diagnostic::Diagnostics;
use crate::error::{Error, Result};
use crate::id::PointId;
use crate::plan::Plan;
use crate::spec::{Point, Resources, Spec, cpus_in_words, memory_in_words};
use crate::stage::Compute;

/// Files that the databases, the run's record and the standard streams need.
const FILES: usize = 20;
/// Files that a stage needs while it runs. Starting a command needs the most.
const FILES_OF_A_STAGE: usize = 8;
/// The most results that wait to be stored.
const BACKLOG: usize = 512;
/// No stage starts while this many bytes of results wait to be stored.
const BACKLOG_BYTES: usize = 256 << 20;

/// The parts into which the pipeline's GPU is divided: the most stages that share it.
pub(crate) const GPU_PARTS: usize = 8;

/// What a stage occupies while it runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Demand {
    /// Threads of the pool. A stage that does not use the pool needs none.
    pub threads: usize,
    /// The parts of the pipeline's GPU on which it computes, of [`GPU_PARTS`]. A part is not divided further, so 2, 4
    /// or 8 equal stages share a GPU.
    pub gpu: usize,
    /// How many GPUs its program gets.
    pub gpus: usize,
    /// Bytes of memory, if the pipeline says how many.
    pub memory: u64,
}

/// The most that a stage may ask for.
#[derive(Clone, Copy, Debug)]
pub struct Capacity<'a> {
    /// Cores. `None` if a stage gets fewer than it asks for.
    pub cpus: Option<usize>,
    /// Bytes of memory.
    pub memory: u64,
    /// GPUs of programs. `None` to count those that programs may use, if a stage asks for any.
    pub gpus: Option<usize>,
    /// Who has them, for messages: "this machine".
    pub owner: &'a str,
}

impl<'a> Capacity<'a> {
    /// What a run by itself has.
    pub fn of_run(memory: u64) -> Self {
        Self { cpus: None, memory, gpus: None, owner: "this machine" }
    }
}

/// The GPUs of a run.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Gpus {
    /// How many there are.
    pub count: usize,
    /// The index of the pipeline's device, if that is a GPU.
    pub device: Option<usize>,
}

/// The resources of a run, and what is in use.
#[derive(Clone, Debug)]
pub(crate) struct ResourcePool {
    threads: usize,
    /// Bytes.
    memory: u64,
    /// The most stages at a time, without those that have GPUs of their own.
    jobs: usize,
    /// The most stages at a time.
    most: usize,
    backlog: usize,
    gpus: Gpus,
    /// The stages that run, with the indices of the GPUs that each has.
    running: BTreeMap<PointId, (Demand, Vec<usize>)>,
    waiting: usize,
    waiting_bytes: usize,
}

impl ResourcePool {
    /// A pool of `threads` threads for at most `jobs` stages at a time, with at most `backlog` results waiting to be
    /// stored.
    pub(crate) fn new(threads: usize, jobs: usize, backlog: usize) -> Self {
        let (threads, jobs, gpus, running) = (threads.max(1), jobs.max(1), Gpus::default(), BTreeMap::new());
        Self { threads, memory: u64::MAX, jobs, most: jobs, backlog, gpus, running, waiting: 0, waiting_bytes: 0 }
    }

    /// Limits the memory of the stages that run, in bytes.
    #[must_use]
    pub(crate) fn with_memory(self, memory: u64) -> Self {
        Self { memory, ..self }
    }

    /// Adds GPUs.
    #[must_use]
    pub(crate) fn with_gpus(self, gpus: Gpus) -> Self {
        Self { gpus, most: self.jobs + gpus.count, ..self }
    }

    /// A pool whose number of jobs and backlog fit the limit on open files.
    pub(crate) fn within_limits(threads: usize, jobs: usize, gpus: Gpus) -> Self {
        let limit = getrlimit(Resource::Nofile).current.and_then(|limit| usize::try_from(limit).ok());
        let (most, backlog) = within_files(limit.unwrap_or(usize::MAX), jobs + gpus.count);
        Self { most, ..Self::new(threads, jobs.min(most), backlog).with_gpus(gpus) }
    }

    /// What each point of a pipeline occupies in this pool, in the order of [`Spec::points`]. None occupies more than
    /// there is: a run refuses such a stage, or a worker leaves it to others.
    pub(crate) fn demands(&self, spec: &Spec) -> Vec<Demand> {
        let demand = |point: &Point| {
            let (stage, resources) = (&*point.parsed.stage, point.resources);
            let on_gpu = self.gpus.device.is_some() && stage.uses_device();
            let gpu = if on_gpu { GPU_PARTS.div_ceil(stage.beside_on_gpu().clamp(1, GPU_PARTS)) } else { 0 };
            let own = if stage.parallel() && !on_gpu { stage.threads(self.threads) } else { 0 };
            Demand {
                gpu,
                threads: resources.cpus.unwrap_or(own).min(self.threads),
                gpus: stage.gpus().min(self.gpus.count),
                memory: resources.memory.unwrap_or(0).min(self.memory),
            }
        };
        spec.points.iter().map(demand).collect()
    }

    /// Whether no stage can start at all.
    pub(crate) fn is_full(&self) -> bool {
        self.running.len() >= self.most || self.waiting >= self.backlog || self.waiting_bytes >= BACKLOG_BYTES
    }

    /// Whether a stage can start beside those that run. A stage that needs all threads runs alone.
    pub(crate) fn fits(&self, demand: Demand) -> bool {
        let taken: usize = self.running.values().map(|(d, _)| d.threads).sum();
        let memory = self.running.values().fold(demand.memory, |sum, (d, _)| sum.saturating_add(d.memory));
        let is_exclusive = |d: &Demand| d.threads >= self.threads;
        let gpu: usize = self.running.values().map(|(d, _)| d.gpu).sum();
        if self.running.values().any(|(d, _)| is_exclusive(d)) || gpu + demand.gpu > GPU_PARTS {
            return false;
        }
        if is_exclusive(&demand) {
            return self.running.is_empty();
        }
        let without_gpus = self.running.values().filter(|(d, _)| d.gpus == 0).count();
        let is_within_jobs = demand.gpus > 0 || without_gpus < self.jobs;
        let is_within_limits = taken + demand.threads <= self.threads && memory <= self.memory;
        is_within_jobs && is_within_limits && self.free_gpus(demand).is_some()
    }

    /// The GPUs that a stage would get. `None` if too few are free.
    fn free_gpus(&self, demand: Demand) -> Option<Vec<usize>> {
        let is_free = |gpu: &usize| self.running.values().all(|(_, taken)| !taken.contains(gpu));
        let device = self.gpus.device.filter(|device| *device < self.gpus.count);
        if let Some(device) = device.filter(|_| demand.gpu > 0) {
            let is_of_a_program = |(d, taken): &(Demand, Vec<usize>)| d.gpu == 0 && taken.contains(&device);
            return (!self.running.values().any(is_of_a_program)).then(|| vec![device]);
        }
        // The pipeline's device comes last, because other stages can use no other GPU.
        let others = (0..self.gpus.count).filter(|gpu| Some(*gpu) != device);
        let free: Vec<usize> = others.chain(device).filter(is_free).take(demand.gpus).collect();
        (free.len() == demand.gpus).then_some(free)
    }

    /// The threads that a stage gets for itself. `None` if it shares the threads of the process, as it does when
    /// nothing will run beside it.
    pub(crate) fn own_threads(&self, demand: Demand, alone: bool) -> Option<usize> {
        Some(demand.threads).filter(|threads| (1..self.threads).contains(threads) && !alone)
    }

    /// Occupies what a stage needs.
    pub(crate) fn acquire(&mut self, point: PointId, demand: Demand) {
        let gpus = self.free_gpus(demand).unwrap_or_default();
        self.running.insert(point, (demand, gpus));
    }

    /// Frees what [`ResourcePool::acquire`] occupied.
    pub(crate) fn release(&mut self, point: PointId) {
        self.running.remove(&point);
    }

    /// The indices of the GPUs that a running stage has.
    pub(crate) fn gpus(&self, point: PointId) -> &[usize] {
        self.running.get(&point).map_or(&[], |(_, gpus)| gpus)
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

/// Refuses a plan in which a stage that may run needs more than there is.
///
/// # Errors
/// One error with the places of all such stages (exit code 2).
pub fn check_resources(spec: &Spec, plan: &Plan, compute: &Compute, capacity: Capacity<'_>) -> Result<()> {
    let mut diagnostics = Diagnostics::default();
    let mut refused = BTreeSet::new();
    for decision in plan.open() {
        let point = spec.point(decision.point);
        if let Some(Lack { has, needs, help }) = lack(point, compute, capacity)
            && refused.insert((&point.stage, needs.clone()))
        {
            let message = format!("stage `{}` needs {needs}, but {has}", point.stage);
            diagnostics.error(&point.origin, message).help(help);
        }
    }
    diagnostics.into_result(&spec.sources)
}

/// The GPUs that a program gets: of those of `compute`, those with these indices.
///
/// # Errors
/// If the stage needs more GPUs than there are (exit code 2).
pub(crate) fn gpus_for(point: &Point, compute: &Compute, given: &[usize]) -> Result<Vec<String>> {
    if let Some(Lack { needs, has, help }) = lack_of_gpus(point, compute, None, "this machine") {
        return Err(Error::bad_input(format!("stage `{}` needs {needs}, but {has}", point.stage)).hint(help));
    }
    // A stage that computes on the pipeline's device has no GPU of its own.
    let needed = given.iter().take(point.parsed.stage.gpus());
    Ok(needed.filter_map(|index| compute.gpus().ids.get(*index).cloned()).collect())
}

/// What a stage asks for and does not get.
pub(crate) struct Lack {
    /// What it needs: "8 GB of memory".
    pub(crate) needs: String,
    /// What there is, as a sentence: "this machine has 4 GB".
    has: String,
    help: &'static str,
}

/// What a stage asks for and does not get, if anything.
pub(crate) fn lack(point: &Point, compute: &Compute, capacity: Capacity<'_>) -> Option<Lack> {
    let Capacity { cpus: most_cpus, memory: most_memory, gpus, owner } = capacity;
    let Resources { cpus, memory, .. } = point.resources;
    if let (Some(cpus), Some(most)) = (cpus, most_cpus)
        && cpus > most
    {
        let has = format!("{owner} has {}", cpus_in_words(most));
        return Some(Lack {
            needs: cpus_in_words(cpus),
            has,
            help: "lower `cpus` of `resources`, or give `--threads`",
        });
    }
    if let Some(memory) = memory.filter(|memory| *memory > most_memory) {
        let has = format!("{owner} has {}", memory_in_words(most_memory));
        let needs = format!("{} of memory", memory_in_words(memory));
        return Some(Lack { needs, has, help: "lower `memory` of `resources`, or give `--memory`" });
    }
    lack_of_gpus(point, compute, gpus, owner)
}

fn lack_of_gpus(point: &Point, compute: &Compute, gpus: Option<usize>, owner: &str) -> Option<Lack> {
    let needed = point.parsed.stage.gpus();
    let found = if needed > 0 { gpus.unwrap_or_else(|| compute.gpus().ids.len()) } else { 0 };
    let words = |count| if count == 1 { "1 GPU".to_owned() } else { format!("{count} GPUs") };
    let has = match (found, gpus) {
        (0, _) => "none was found".to_owned(),
        (_, Some(_)) => format!("{owner} has only {}", words(found)),
        (1, None) => "there is only 1 GPU".to_owned(),
        (_, None) => format!("there are only {}", words(found)),
    };
    let help = "list the GPUs to use, such as `CUDA_VISIBLE_DEVICES=0,1`, or lower `gpus`";
    (needed > found).then(|| Lack { needs: words(needed), has, help })
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

    const CPU: Demand = Demand { threads: 0, gpu: 0, gpus: 0, memory: 0 };

    fn p(index: usize) -> PointId {
        PointId::new(index)
    }

    #[test]
    fn stage_that_needs_all_threads_runs_alone_and_others_share_them() {
        let fits = |threads, running: &[usize], jobs| {
            let mut pool = ResourcePool::new(4, jobs, 1);
            let running = running.iter().enumerate();
            running.for_each(|(at, threads)| pool.acquire(p(at), Demand { threads: *threads, ..CPU }));
            pool.fits(Demand { threads, ..CPU })
        };
        assert!(fits(4, &[], 4) && !fits(4, &[0], 4) && !fits(0, &[4], 4));
        assert!(fits(1, &[1, 1, 1], 4) && !fits(1, &[1, 1, 1, 1], 8));
        assert!(fits(0, &[1, 1, 1, 1], 8), "a stage without a pool takes no thread");
        assert!(!fits(1, &[1], 1) && !fits(0, &[0, 0], 2), "`-j` is the limit");
        assert!(fits(2, &[2], 4) && !fits(3, &[2], 4));
    }

    #[test]
    fn large_training_has_the_gpu_for_itself_and_small_ones_share_it() {
        let mut pool = ResourcePool::new(2, 4, 1).with_gpus(Gpus { count: 1, device: Some(0) });
        let [large, half, small] = [GPU_PARTS, GPU_PARTS / 2, 1].map(|gpu| Demand { gpu, ..CPU });
        pool.acquire(p(0), large);
        assert!(!pool.fits(small) && pool.fits(Demand { threads: 1, ..CPU }));
        pool.release(p(0));
        assert!(pool.fits(large));
        pool.acquire(p(1), small);
        pool.acquire(p(2), half);
        assert!(pool.fits(small) && !pool.fits(half) && !pool.fits(large));
        assert_eq!((pool.gpus(p(1)), pool.gpus(p(2))), (&[0][..], &[0][..]));
        assert!(!pool.fits(Demand { gpus: 1, ..CPU }), "a program shares no GPU");
    }

    #[test]
    fn programs_get_different_gpus_and_jobs_do_not_limit_them() {
        let one = Demand { gpus: 1, ..CPU };
        let mut pool = ResourcePool::new(2, 1, 1).with_gpus(Gpus { count: 2, device: None });
        pool.acquire(p(0), CPU);
        assert!(!pool.fits(CPU), "`-j 1`");
        pool.acquire(p(1), one);
        assert!(pool.fits(one) && !pool.fits(Demand { gpus: 2, ..CPU }));
        pool.acquire(p(2), one);
        assert_eq!((pool.gpus(p(1)), pool.gpus(p(2)), pool.fits(one)), (&[0][..], &[1][..], false));
        pool.release(p(1));
        pool.acquire(p(3), one);
        assert_eq!(pool.gpus(p(3)), [0]);
        pool.release(p(0));
        assert!(pool.fits(CPU), "programs with GPUs don't count as jobs");
    }

    #[test]
    fn program_does_not_get_the_gpu_on_which_the_pipeline_computes() {
        let (own, one) = (Demand { gpu: GPU_PARTS, ..CPU }, Demand { gpus: 1, ..CPU });
        let mut pool = ResourcePool::new(2, 4, 1).with_gpus(Gpus { count: 2, device: Some(0) });
        pool.acquire(p(0), one);
        assert_eq!(pool.gpus(p(0)), [1], "the pipeline's GPU is the last choice");
        assert!(pool.fits(own));
        pool.acquire(p(1), one);
        assert!(!pool.fits(own));
        pool.release(p(1));
        pool.acquire(p(2), own);
        assert!(!pool.fits(one));
    }

    #[test]
    fn stages_that_run_fit_into_the_memory_together() {
        let needs = |memory| Demand { memory, ..CPU };
        let mut pool = ResourcePool::new(4, 4, 1).with_memory(8);
        pool.acquire(p(0), needs(5));
        assert!(pool.fits(needs(3)) && !pool.fits(needs(4)) && pool.fits(CPU));
        pool.release(p(0));
        assert!(pool.fits(needs(8)));
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
