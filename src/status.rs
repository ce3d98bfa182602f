//! The status of a stage and of a run, with the words that run records, events and the terminal use.

use serde::{Deserialize, Serialize};

macro_rules! status {
    ($(#[$doc:meta])* $name:ident { $($(#[$variant_doc:meta])* $variant:ident = $word:literal,)+ }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
        pub enum $name {
            $($(#[$variant_doc])* #[serde(rename = $word)] $variant,)+
        }

        impl $name {
            /// The word for this status.
            pub const fn word(self) -> &'static str {
                match self {
                    $(Self::$variant => $word,)+
                }
            }
        }
    };
}

status! {
    /// The status of a point in a run.
    StageStatus {
        /// It waits for its inputs or for a free worker.
        Pending = "pending",
        /// It is running.
        Running = "running",
        /// It ran, and its result is stored.
        Executed = "executed",
        /// Its result was in the cache.
        Cached = "cached",
        /// It failed.
        Failed = "failed",
        /// It did not run, because a point that it needs failed or because the run was interrupted first.
        Skipped = "skipped",
        /// The run was interrupted while it ran. Only in run records: to the run itself it is skipped.
        Interrupted = "interrupted",
        /// It has no result, because it or all points of one of its inputs were pruned.
        Pruned = "pruned",
    }
}

status! {
    /// The status of a run.
    RunStatus {
        /// It is running, or it was killed and its process no longer exists.
        Running = "running",
        /// All requested results are in the cache.
        Ok = "ok",
        /// A stage failed.
        Failed = "failed",
        /// The user stopped it.
        Interrupted = "interrupted",
    }
}
