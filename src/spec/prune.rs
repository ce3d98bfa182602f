//! `[matrix.prune]`: which points of a sweep are stopped before their last epoch.
//!
//! ```toml
//! [matrix.prune]
//! metric = "ad.loss"      # a training stage, and a metric that it has for each epoch
//! mode = "min"            # or "max"; default "min"
//! rungs = [5, 20, 50]     # points are compared after these epochs; an empty list prunes nothing
//! reduction = 3           # the best third continues
//! ```
//!
//! This module only reads and checks the section. [`crate::plan::Bracket`] makes the decisions.

use super::errors::suggest;
use super::pipeline::{Mode, Point, Prune, StageSpec};
use crate::diagnostic::Diagnostics;
use crate::id::StageId;
use crate::stage::{Curves, Params};
use crate::value::{Data, Entry, Node, Table};

/// The default. The papers on successive halving use 3 or 4; with 2, too many points would continue.
const REDUCTION: i64 = 3;

/// Reads `prune` of `[matrix]`. Checks it against the stages and points only if these have no errors.
pub(super) fn read(
    matrix: &Table,
    stages: &[StageSpec],
    points: &[Point],
    diagnostics: &mut Diagnostics,
) -> Option<Prune> {
    let Entry { name_origin, node, .. } = matrix.entry("prune").filter(|e| !matches!(e.node.data, Data::List(_)))?;
    let Data::Table(table) = &node.data else {
        let message = format!("`prune` must be a table, not {}", node.data.describe());
        diagnostics.error(&node.origin, message).help("prune = { metric = \"stage.loss\", rungs = [5, 20] }");
        return None;
    };
    let fine = diagnostics.is_empty();
    let mut params = Params::new(table, name_origin.clone(), &[], diagnostics);
    let metric = params.text("metric");
    let mode = params.choice("mode", "min", &[("min", Mode::Min), ("max", Mode::Max)]);
    let is_mode_given = params.is_given("mode");
    let rungs = params.ints("rungs", 1..=1_000_000);
    let reduction = params.int("reduction", REDUCTION, 2..=1_000_000) as u64;
    for (field, example) in [("metric", "metric = \"stage.loss\""), ("rungs", "rungs = [5, 20]")] {
        if !params.is_given(field) {
            params.error(field, format!("[matrix.prune] has no `{field}`"), example);
        }
    }
    params.finish();
    let (Some(metric), Some(rungs), Some(place)) = (metric, rungs, table.get("metric")) else { return None };
    if !fine {
        return None;
    }
    let (stage, curve) = stage_and_curve(&metric, place, stages, points, diagnostics)?;
    let first = points.get(stages[stage.index()].points.start.index())?;
    if !is_mode_given && first.parsed.stage.curves() == Curves::Any {
        let message = format!("[matrix.prune] has no `mode`: is a larger or a smaller `{curve}` better?");
        diagnostics.error(&place.origin, message).help("add mode = \"max\" or mode = \"min\"");
        return None;
    }
    let rungs: Vec<u64> = rungs.into_iter().map(|r| r as u64).collect();
    check_rungs(&rungs, table.get("rungs")?, &stages[stage.index()], points, diagnostics)?;
    (!rungs.is_empty()).then_some(Prune { stage, curve, mode, rungs, reduction })
}

fn stage_and_curve(
    metric: &str,
    place: &Node,
    stages: &[StageSpec],
    points: &[Point],
    diagnostics: &mut Diagnostics,
) -> Option<(StageId, String)> {
    let Some((name, curve)) = metric.split_once('.') else {
        let message = format!("{metric:?} is not of the form `stage.metric`");
        diagnostics.error(&place.origin, message).help("write for example `ad.loss`");
        return None;
    };
    let Some(index) = stages.iter().position(|s| s.name == name) else {
        let known = stages.iter().map(|s| s.name.as_str());
        suggest(diagnostics, &place.origin, format!("there is no stage `{name}`"), name, known);
        return None;
    };
    let stage = &stages[index];
    let first = points.get(stage.points.start.index())?;
    let curves = match first.parsed.stage.curves() {
        Curves::Named(names) => names,
        Curves::Any => &[curve],
    };
    if first.parsed.stage.epochs().is_none() || curves.is_empty() {
        let message = format!("stage `{name}` is not a training, so it has no metrics for each epoch");
        diagnostics.error(&place.origin, message).help("name the training stage whose points are compared");
    } else if !curves.contains(&curve) {
        let message = format!("kind `{}` has no metric `{curve}` for each epoch", stage.kind);
        suggest(diagnostics, &place.origin, message, curve, curves.iter().copied());
    } else if stage.axes.is_empty() {
        let message = format!("stage `{name}` has no axes, so there are no points to compare");
        diagnostics.error(&place.origin, message).help("use an axis in the stage, or remove `prune`");
    } else {
        return Some((StageId::new(index), curve.to_owned()));
    }
    None
}

fn check_rungs(
    rungs: &[u64],
    place: &Node,
    stage: &StageSpec,
    points: &[Point],
    diagnostics: &mut Diagnostics,
) -> Option<()> {
    let Data::List(written) = &place.data else { return None };
    if let Some(at) = rungs.windows(2).position(|pair| pair[0] >= pair[1]) {
        let message = format!("rungs must ascend, but {} follows {}", rungs[at + 1], rungs[at]);
        diagnostics.error(&written.get(at + 1)?.origin, message);
        return None;
    }
    let shortest = points[stage.range()].iter().filter_map(|p| Some((p.parsed.stage.epochs()?.total(), p)));
    let (epochs, point) = shortest.min_by_key(|(epochs, _)| *epochs)?;
    if let Some(at) = rungs.iter().position(|r| *r >= epochs) {
        let message = format!("`{}` has {epochs} epochs, so it can't be pruned after {}", point.name, rungs[at]);
        let help = "rungs must be before the last epoch; `-S matrix.prune.rungs=[]` turns pruning off";
        diagnostics.error(&written.get(at)?.origin, message).help(help);
        return None;
    }
    let every = point.parsed.stage.epochs().map_or(1, |epochs| epochs.every);
    if let Some(at) = rungs.iter().position(|rung| !rung.is_multiple_of(every)) {
        let message = format!("`{}` has no state after {} epochs, so it can't be pruned there", point.name, rungs[at]);
        let help = format!("its states are {every} epochs apart (`segment_epochs`)");
        diagnostics.error(&written.get(at)?.origin, message).help(help);
        return None;
    }
    Some(())
}
