//! The threads of a run: a few that run stages, and one that commits what they made.
//!
//! A commit waits for the disk. While it does, stages go on, and what they make meanwhile is committed together with the
//! next flush: trivial stages cost a share of a flush each, and a lone one no more than before. Whatever reads a result
//! starts when that is durable, so the index holds nothing whose inputs it lacks.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Receiver, SendError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{Builder, Scope};

use crate::error::{EXHAUSTED_HINT, Error, Result};
use crate::exec::worker::{Done, Failure, Job, Made, Shared, said};
use crate::id::PointId;

/// What the scheduler hears.
pub(crate) enum News {
    /// A stage ended, and its result is to be committed.
    Made(Box<Made>),
    /// A stage made nothing.
    Failed(PointId, Box<Failure>),
    /// A result is in the store, or could not be put there.
    Committed(Box<Done>),
}

/// At most so many results in one commit: what waits is held in memory.
const GROUP: usize = 256;

/// The threads of a run. They end when this is dropped.
pub(crate) struct Crew<'scope, 'env> {
    scope: &'scope Scope<'scope, 'env>,
    shared: &'scope Shared<'scope>,
    jobs: Sender<Box<Job>>,
    queue: Arc<Mutex<Receiver<Box<Job>>>>,
    made: Sender<Made>,
    news: Sender<News>,
    workers: usize,
    open: usize,
}

impl<'scope, 'env> Crew<'scope, 'env> {
    /// Starts the thread that commits.
    ///
    /// # Errors
    /// If the system gives no thread.
    pub(crate) fn new(
        scope: &'scope Scope<'scope, 'env>,
        shared: &'scope Shared<'scope>,
        news: Sender<News>,
    ) -> Result<Self> {
        let (jobs, queue) = channel();
        let (made, waiting) = channel();
        let told = news.clone();
        Builder::new()
            .spawn_scoped(scope, move || {
                commit_groups(|group| shared.commit(group), |made: &Made| made.point, &waiting, &told);
            })
            .map_err(no_thread)?;
        Ok(Self { scope, shared, jobs, queue: Arc::new(Mutex::new(queue)), made, news, workers: 0, open: 0 })
    }

    /// Runs a job, in a thread of its own if all are busy and the system gives one. Without any the job fails.
    pub(crate) fn start(&mut self, job: Box<Job>) {
        self.open += 1;
        if self.open > self.workers {
            let (shared, queue, news) = (self.shared, Arc::clone(&self.queue), self.news.clone());
            match Builder::new().spawn_scoped(self.scope, move || work(shared, &queue, &news)) {
                Ok(_) => self.workers += 1,
                // One of those that are there takes it later.
                Err(_) if self.workers > 0 => {}
                Err(error) => {
                    let failure = Failure::of(no_thread(error));
                    let _ = self.news.send(News::Failed(job.point, Box::new(failure)));
                    return;
                }
            }
        }
        // The crew holds the other end.
        let _ = self.jobs.send(job);
    }

    /// A job ended: its thread is free.
    pub(crate) fn ended(&mut self) {
        self.open = self.open.saturating_sub(1);
    }

    /// Commits with the next group.
    pub(crate) fn commit(&self, made: Made) {
        if let Err(SendError(made)) = self.made.send(made) {
            let error = Error::storage("internal error: nothing commits results any more");
            let done = Done { point: made.point, outcome: Err(Failure::of(error)) };
            // We are who hears it, later.
            let _ = self.news.send(News::Committed(Box::new(done)));
        }
    }
}

fn no_thread(error: io::Error) -> Error {
    Error::storage("can't start a thread").caused_by(error).hint(EXHAUSTED_HINT)
}

fn work(shared: &Shared<'_>, queue: &Mutex<Receiver<Box<Job>>>, news: &Sender<News>) {
    loop {
        // Whoever waits for a job holds the lock meanwhile: the others wait for that.
        let job = queue.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(job) = job else { return };
        let point = job.point;
        let heard = match shared.execute(*job) {
            Ok(made) => News::Made(Box::new(made)),
            Err(failure) => News::Failed(point, Box::new(failure)),
        };
        if news.send(heard).is_err() {
            return;
        }
    }
}

/// Commits what waits, as much as there is at a time. `point` says whose a thing is.
fn commit_groups<T>(
    commit: impl Fn(&[T]) -> Vec<Done>,
    point: impl Fn(&T) -> PointId,
    waiting: &Receiver<T>,
    news: &Sender<News>,
) {
    while let Ok(first) = waiting.recv() {
        let mut group = vec![first];
        group.extend(waiting.try_iter().take(GROUP - 1));
        // Whatever happens in there, the scheduler must hear what became of each.
        let done = catch_unwind(AssertUnwindSafe(|| commit(&group))).unwrap_or_else(|panic| {
            let message = format!("internal error: {}", said(&*panic).unwrap_or("storing a result panicked"));
            let failed = |m: &T| Done { point: point(m), outcome: Err(Failure::of(Error::storage(&message))) };
            group.iter().map(failed).collect()
        });
        for done in done {
            if news.send(News::Committed(Box::new(done))).is_err() {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_while_results_are_stored_is_told_of_each_and_the_next_are_stored() {
        let (made, waiting) = channel();
        let (news, heard) = channel();
        let commit = |group: &[PointId]| {
            assert!(!group.contains(&PointId::new(3)), "three");
            let done = |point: &PointId| Done { point: *point, outcome: Err(Failure::of(Error::storage("stored"))) };
            group.iter().map(done).collect()
        };
        [3, 4].into_iter().for_each(|point| made.send(PointId::new(point)).unwrap());
        let told = std::thread::scope(|scope| {
            scope.spawn(move || commit_groups(commit, |point| *point, &waiting, &news));
            let next = || match heard.recv().unwrap() {
                News::Committed(done) => (done.point.index(), done.outcome.unwrap_err().error.message),
                _ => panic!("nothing else is told"),
            };
            let told = [next(), next()];
            made.send(PointId::new(5)).unwrap();
            let told = [&told[..], &[next()]].concat();
            drop(made);
            told
        });
        let failed = "internal error: three".to_owned();
        assert_eq!(told, [(3, failed.clone()), (4, failed), (5, "stored".to_owned())]);
    }
}
