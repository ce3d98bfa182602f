//! One stage to run, as plain data, and how it ended.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::error::{Category, Error};
use crate::id::PointId;
use crate::key::{Components, StoredResult};
use crate::store::ResultRecord;

/// One stage to run. It can be serialized and run in another process.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Job {
    pub point: PointId,
    pub components: Components,
    /// The inputs by role.
    pub inputs: BTreeMap<String, Vec<JobInput>>,
    /// Epochs whose states are kept.
    pub kept: BTreeSet<u64>,
    /// The GPUs that its program gets, named as in `CUDA_VISIBLE_DEVICES`.
    pub gpus: Vec<String>,
    /// The numerics class of its states.
    pub class: String,
    pub options: StartOptions,
}

/// A result that a job reads.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct JobInput {
    pub point: PointId,
    #[serde(with = "shared")]
    pub record: Arc<ResultRecord>,
}

/// Serializes an [`Arc`] as its value.
mod shared {
    use super::{Arc, Deserialize, Serialize};

    pub(super) fn serialize<T: Serialize, S: serde::Serializer>(value: &Arc<T>, to: S) -> Result<S::Ok, S::Error> {
        value.as_ref().serialize(to)
    }

    pub(super) fn deserialize<'de, T: Deserialize<'de>, D: serde::Deserializer<'de>>(
        from: D,
    ) -> Result<Arc<T>, D::Error> {
        T::deserialize(from).map(Arc::new)
    }
}

/// How to run a job.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct StartOptions {
    /// The epoch at which a training stops for a comparison. The job then has no result.
    pub rung: Option<u64>,
    /// Ignore stored states.
    pub fresh: bool,
    /// Threads for this job alone. `None` to share the threads of the process.
    pub threads: Option<usize>,
    /// Whether nothing will run beside it.
    pub is_alone: bool,
}

/// Serializes an error as plain data. The message then includes the text of its causes.
mod plain {
    use super::{Category, Deserialize, Error, Serialize};

    #[derive(Serialize, Deserialize)]
    struct Plain {
        category: Category,
        message: String,
        hint: Option<String>,
    }

    pub(super) fn serialize<S: serde::Serializer>(error: &Error, to: S) -> Result<S::Ok, S::Error> {
        let hint = error.hint.clone();
        Plain { category: error.category, message: error.with_causes(), hint }.serialize(to)
    }

    pub(super) fn deserialize<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Error, D::Error> {
        let Plain { category, message, hint } = Plain::deserialize(from)?;
        Ok(Error { hint, ..Error::new(category, message) })
    }
}

/// How a job ended. `R` identifies its stored result.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Ended<R = StoredResult> {
    /// Its result is stored.
    Made(R),
    /// A training reached the rung at this epoch, and its state is stored.
    AtRung(u64),
    /// It was asked to stop.
    Interrupted,
    /// The stored results of these inputs are missing or damaged.
    Damaged(BTreeSet<PointId>, #[serde(with = "plain")] Error),
    /// Memory ran out, and the kernel killed its program.
    OutOfMemory(#[serde(with = "plain")] Error),
    /// Its worker was lost.
    WorkerLost(#[serde(with = "plain")] Error),
    /// It failed.
    Failed(#[serde(with = "plain")] Error),
}

impl<R> Ended<R> {
    /// The end of a job that returned an error.
    pub(crate) fn with(error: Error) -> Self {
        if error.category == Category::Interrupted { Self::Interrupted } else { Self::Failed(error) }
    }

    /// The same end, with another way to identify the result.
    pub(crate) fn map<S>(self, f: impl FnOnce(R) -> S) -> Ended<S> {
        match self {
            Self::Made(result) => Ended::Made(f(result)),
            Self::AtRung(epoch) => Ended::AtRung(epoch),
            Self::Interrupted => Ended::Interrupted,
            Self::Damaged(points, error) => Ended::Damaged(points, error),
            Self::OutOfMemory(error) => Ended::OutOfMemory(error),
            Self::WorkerLost(error) => Ended::WorkerLost(error),
            Self::Failed(error) => Ended::Failed(error),
        }
    }

    /// The result, or the error of a job that has none.
    pub(crate) fn into_result(self) -> Result<R, Error> {
        match self {
            Self::Made(result) => Ok(result),
            Self::AtRung(_) | Self::Interrupted => Err(Error::new(Category::Interrupted, "interrupted")),
            Self::Damaged(_, error) | Self::OutOfMemory(error) | Self::WorkerLost(error) | Self::Failed(error) => {
                Err(error)
            }
        }
    }
}
