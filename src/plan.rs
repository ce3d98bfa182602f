//! What a run would do: for every point its key, whether its result is in the cache, and if not, why.
//!
//! There is one code path. [`Planner::decide`] takes a point and the digests of those of its inputs that are known,
//! and decides. `plan`, `status`, `explain` and `run -n` decide about all points once, in plan order. `run` decides
//! about each point when its inputs are known.
//!
//! A point whose inputs are all known is a hit or a miss. A point with an unknown input is *maybe* a hit if there is a
//! result whose components differ in the inputs only, because the input may come out unchanged; otherwise it is a miss.
//! If the pipeline prunes a sweep ([`Bracket`]), the points that lose at a rung are *pruned*, and so is every point for
//! which all points of an input are pruned.
//!
//! - `reason`: why a point runs.
//! - `bracket`: how the points of a pruned sweep are compared.
//! - `decision`: what a plan consists of.
//! - `planner`: the decision about one point.
//! - `walk`: the decisions about all points, with pruning.

mod bracket;
mod decision;
mod planner;
mod reason;
mod walk;

pub use bracket::{Bracket, RungDecision, RungStatus, with_earlier_points};
pub(crate) use decision::all_of;
pub use decision::{CachedEpochs, Decision, Plan, ResolvedInputs, State};
pub use planner::{PipelineFiles, Planner};
pub(crate) use reason::some_of;
pub use reason::{Cause, Reason, content, differences};

#[cfg(test)]
mod tests;
