//! Converts reports of the state machine into events and errors for the user.

use crate::error::{Category, Error};
use crate::event::Event;
use crate::exec::state::{Failure, PruneCause, Report};
use crate::exec::worker::Worker;
use crate::id::PointId;
use crate::plan::{Bracket, Cause, Reason};

/// Describes reports of one run.
pub(crate) struct Reporter<'a> {
    pub worker: &'a Worker<'a>,
    /// The points that are compared, with their values.
    pub bracket: Option<&'a Bracket>,
}

impl Reporter<'_> {
    /// The event of a report, and the error of a failure.
    pub(crate) fn describe(&self, report: Report) -> (Event, Option<Error>) {
        let stage = |point| self.name(point).to_owned();
        let event = match report {
            Report::Cached(point, key) => Event::StageCached { stage: stage(point), key },
            Report::WaitsFor(point, holder) => Event::StageWaiting { stage: stage(point), holder },
            Report::Left(point, lack) => Event::StageLeft { stage: stage(point), lack },
            Report::RunsAgain(point) => {
                let name = self.name(point);
                Event::Warning {
                    message: format!("the stored result of `{name}` is missing or damaged: the stage runs again"),
                }
            }
            Report::Pruned(point, cause) => {
                Event::StagePruned { stage: stage(point), reason: Reason::new(vec![self.cause(cause)]) }
            }
            Report::Interrupted(point) => {
                let has_checkpoint = self.worker.context.point(point).parsed.stage.uses_checkpoint();
                Event::StageInterrupted { stage: stage(point), has_checkpoint }
            }
            Report::Skipped(point, because) => Event::StageSkipped { stage: stage(point), because: stage(because) },
            Report::Without(point, missing) => {
                Event::InputsMissing { stage: stage(point), missing: missing.into_iter().map(stage).collect() }
            }
            Report::Failed(point, failure) => {
                let error = self.error(point, failure);
                let log = self.worker.log_path(point).display().to_string();
                let (text, hint) = (error.with_causes(), error.hint.clone());
                return (Event::StageFailed { stage: stage(point), error: text, hint, log }, Some(error));
            }
        };
        (event, None)
    }

    fn cause(&self, cause: PruneCause) -> Cause {
        match (cause, self.bracket) {
            (PruneCause::Planned(cause), _) => cause,
            (PruneCause::Compared(decision), Some(bracket)) => bracket.cause(&decision),
            // Without a bracket nothing is compared.
            (PruneCause::Compared(_), None) => Cause::LeftOut { stages: Vec::new() },
            (PruneCause::LeftOut(points), _) => {
                Cause::LeftOut { stages: points.iter().map(|p| self.name(*p).to_owned()).collect() }
            }
        }
    }

    fn error(&self, point: PointId, failure: Failure) -> Error {
        let name = self.name(point);
        match failure {
            Failure::Job(error) => error,
            Failure::Held(holder) => {
                let message = format!("`{name}` is being computed by {holder}");
                Error::new(Category::CacheHeld, message).hint("leave out `--no-wait` to wait for it")
            }
            Failure::KeepsLosing(producer, error) => {
                error.hint(format!("the cache keeps losing the result of `{}`: check the disk", self.name(producer)))
            }
            Failure::KeepsBeingLost => Error::storage(format!("the cache keeps losing the result of `{name}`"))
                .hint("check the disk of the cache"),
            Failure::NoFigure(epoch) => {
                let metric = self.bracket.map_or("the metric", |bracket| &bracket.curve);
                let message =
                    format!("the state of `{name}` after epoch {epoch} has no value of `{metric}` to compare");
                Error::new(Category::StageFailed, message)
            }
            Failure::NeverRan => Error::new(Category::StageFailed, format!("internal error: `{name}` never ran"))
                .hint("run again: finished stages are cached; please report this"),
        }
    }

    fn name(&self, point: PointId) -> &str {
        self.worker.context.name(point)
    }
}
