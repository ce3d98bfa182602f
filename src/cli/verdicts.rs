//! What `verify` found about points, for the commands that show them.

use std::collections::BTreeMap;

use super::project::Project;
use super::ui::{DIM, YELLOW, count, paint, when};
use crate::id::PointId;
use crate::plan::{Decision, Plan};
use crate::store::{Finding, Verdict};

/// The verdicts about the points of a plan.
pub(super) struct PointVerdicts(BTreeMap<PointId, Verdict>);

impl PointVerdicts {
    /// Those about these points.
    pub(super) fn of<'d>(project: &Project, decisions: impl IntoIterator<Item = &'d Decision>) -> Self {
        let all = project.store.verdicts();
        let about = |decision: &Decision| {
            let (components, key) = (decision.components.as_ref()?, decision.key?);
            let verdict = project.store.verdict(&all, components, key, &project.spec.base)?;
            Some((decision.point, verdict.clone()))
        };
        Self(decisions.into_iter().filter_map(about).collect())
    }

    /// The verdict about a point.
    pub(super) fn get(&self, point: PointId) -> Option<&Verdict> {
        self.0.get(&point)
    }

    /// "  verify: exact", to follow what is printed about a point.
    pub(super) fn suffix(&self, project: &Project, point: PointId) -> String {
        let Some(verdict) = self.get(point) else { return String::new() };
        let total = project.spec.point(point).parsed.stage.epochs().map_or(0, |epochs| epochs.total());
        let style = if verdict.finding == Finding::Exact { DIM } else { YELLOW };
        paint(style, &format!("  verify: {}", verdict.words(total)))
    }

    /// How many points were found to be what, and what differs in those that are not exact.
    pub(super) fn lines(&self, project: &Project, plan: &Plan) -> Vec<String> {
        let of = |finding| self.0.values().filter(|verdict| verdict.finding == finding).count();
        let counts = [
            (of(Finding::Exact), "exact"),
            (of(Finding::NotReproducible), "not reproducible"),
            (of(Finding::StateIncomplete), "with an incomplete state"),
        ];
        let counts: Vec<_> = counts.iter().filter(|(n, _)| *n > 0).map(|(n, word)| format!("{n} {word}")).collect();
        if counts.is_empty() {
            return vec![];
        }
        let mut lines = vec![format!("verify: {} checked: {}", count(self.0.len(), "stage"), counts.join(", "))];
        let found = plan.decisions.iter().filter_map(|decision| Some((decision.point, self.get(decision.point)?)));
        let found = found.filter(|(_, verdict)| verdict.finding != Finding::Exact);
        lines.extend(found.map(|(point, verdict)| format!("  {}: {}", project.name(point), verdict.found())));
        lines
    }
}

/// What was found, what it was checked with, and what it means: lines with a label in front.
pub(super) fn labelled(verdict: &Verdict) -> Vec<(&'static str, String)> {
    let checked = format!("{}, {} on {}", verdict.checked(), when(verdict.at), verdict.class);
    let meaning = verdict.consequence().map(|meaning| ("meaning", meaning.to_owned()));
    [("verify", verdict.found()), ("checked", checked)].into_iter().chain(meaning).collect()
}
