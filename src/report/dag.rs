//! The pipeline's graph as inline SVG, from left to right.
//!
//! A point is in the column of its longest path from a source. Within a column, points are ordered by the mean height
//! of their inputs (one barycentre sweep), so that few edges cross.

use std::collections::BTreeMap;

use super::html::{Html, html, shortened};
use super::run::{StageOverlay, word};
use crate::id::PointName;
use crate::status::StageStatus;

const BOX_WIDTH: f64 = 164.0;
const BOX_HEIGHT: f64 = 38.0;
const COLUMN: f64 = 214.0;
const ROW: f64 = 50.0;
const MARGIN: f64 = 8.0;
/// With more points, a node is a stage.
const MOST_NODES: usize = 60;
/// The graph shrinks to the width of the page, down to this share of its size; then it scrolls.
const SMALLEST: f64 = 0.62;
/// Characters that fit into a box.
const NAME_LENGTH: usize = 23;

/// The graph; empty if there is nothing to draw. Of many points, those of a stage are one node.
pub(super) fn draw(stages: &[StageOverlay]) -> Html {
    if stages.len() > MOST_NODES {
        let merged = merge(stages);
        if merged.len() < stages.len() {
            return draw(&merged);
        }
    }
    let places = layout(stages);
    let (Some(columns), Some(rows)) =
        (places.iter().map(|p| p.0).max(), places.iter().map(|p| p.1).max_by(f64::total_cmp))
    else {
        return Html::default();
    };
    let width = MARGIN * 2.0 + columns as f64 * COLUMN + BOX_WIDTH;
    let height = MARGIN * 2.0 + rows * ROW + BOX_HEIGHT;
    let corner = |at: usize| (MARGIN + places[at].0 as f64 * COLUMN, MARGIN + places[at].1 * ROW);
    let index: BTreeMap<&str, usize> = stages.iter().enumerate().map(|(at, s)| (s.name.as_str(), at)).collect();
    let inputs = |stage: &StageOverlay| {
        stage.inputs.iter().filter_map(|name| index.get(name.as_str()).copied()).collect::<Vec<usize>>()
    };
    let edges = stages.iter().enumerate().flat_map(|(at, stage)| inputs(stage).into_iter().map(move |from| (from, at)));
    html!(
        "<div class=\"wide\" tabindex=\"0\" role=\"region\" aria-label=\"graph of the stages\"><svg class=\"dag\" \
         viewBox=\"0 0 {0} {1}\" style=\"min-width:{2}px;max-width:{0}px\" role=\"img\" \
         aria-label=\"the pipeline's stages\">{3}{4}</svg></div>\n",
        width,
        height,
        width * SMALLEST,
        edges.map(|(from, to)| edge(corner(from), corner(to))).collect::<Html>(),
        stages.iter().enumerate().map(|(at, stage)| node(stage, corner(at))).collect::<Html>(),
    )
}

/// The stages of these points, each with the status that a reader must know first.
fn merge(points: &[StageOverlay]) -> Vec<StageOverlay> {
    let stage_of = |name: &str| PointName::parse(name).stage.to_owned();
    let mut counts: Vec<usize> = Vec::new();
    let mut stages: Vec<StageOverlay> = Vec::new();
    for point in points {
        let name = stage_of(&point.name);
        let at = stages.iter().position(|stage| stage.name == name).unwrap_or_else(|| {
            stages.push(StageOverlay { name, inputs: Vec::new(), ..point.clone() });
            counts.push(0);
            stages.len() - 1
        });
        counts[at] += 1;
        let stage = &mut stages[at];
        if urgency(point.status) > urgency(stage.status) {
            stage.status = point.status;
        }
        for input in point.inputs.iter().map(|input| stage_of(input)) {
            if !stage.inputs.contains(&input) {
                stage.inputs.push(input);
            }
        }
    }
    for (stage, count) in stages.iter_mut().zip(counts).filter(|(_, count)| *count > 1) {
        stage.kind = format!("{count} points");
    }
    stages
}

fn urgency(status: StageStatus) -> usize {
    use StageStatus::{Cached, Executed, Failed, Pruned, Running, Skipped};
    let order = [Pruned, Cached, Executed, Skipped, Running, Failed];
    order.iter().position(|known| *known == status).unwrap_or(0)
}

fn edge((from_x, from_y): (f64, f64), (to_x, to_y): (f64, f64)) -> Html {
    let (x1, y1) = (from_x + BOX_WIDTH, from_y + BOX_HEIGHT / 2.0);
    let y2 = to_y + BOX_HEIGHT / 2.0;
    let bend = (COLUMN - BOX_WIDTH) * 0.7;
    html!(
        "<path class=\"edge\" d=\"M{0} {1:.1}C{2} {1:.1} {3} {4:.1} {5} {4:.1}\"/>",
        x1,
        y1,
        x1 + bend,
        to_x - bend,
        y2,
        to_x
    )
}

fn node(stage: &StageOverlay, (x, y): (f64, f64)) -> Html {
    let state = word(stage.status);
    let PointName { stage: name, coordinates } = PointName::parse(&stage.name);
    let second = coordinates.unwrap_or(&stage.kind);
    let title = format!("{} ({}): {state}", stage.name, stage.kind);
    let mut out = html!("<g class=\"node {}\"><title>{}</title>", state, title);
    let (width, height) = (BOX_WIDTH, BOX_HEIGHT);
    out.push(html!("<rect x=\"{}\" y=\"{:.1}\" width=\"{}\" height=\"{}\" rx=\"3\"/>", x, y, width, height));
    for (line, baseline, class) in [(name, 16.0, "name"), (second, 30.0, "point")] {
        let (x, y, text) = (x + 8.0, y + baseline, shortened(line, NAME_LENGTH));
        out.push(html!("<text class=\"{}\" x=\"{}\" y=\"{:.1}\">{}</text>", class, x, y, text));
    }
    out.push(Html::constant("</g>"));
    out
}

/// Column and row of each stage.
fn layout(stages: &[StageOverlay]) -> Vec<(usize, f64)> {
    let index: BTreeMap<&str, usize> = stages.iter().enumerate().map(|(at, s)| (s.name.as_str(), at)).collect();
    let inputs: Vec<Vec<usize>> =
        stages.iter().map(|s| s.inputs.iter().filter_map(|n| index.get(n.as_str()).copied()).collect()).collect();
    let mut column = vec![0; stages.len()];
    // In plan order, one pass is enough; in another order, at most as many as there are stages.
    for _ in 0..stages.len() {
        let mut changed = false;
        for at in 0..stages.len() {
            let wanted = inputs[at].iter().map(|i| column[*i] + 1).max().unwrap_or(0);
            if wanted > column[at] && wanted < stages.len() {
                column[at] = wanted;
                changed = true;
            }
        }
        if !changed {
            break;
        }
    }
    let last = column.iter().copied().max().unwrap_or(0);
    let mut row = vec![0.0; stages.len()];
    let tallest = (0..=last).map(|c| column.iter().filter(|x| **x == c).count()).max().unwrap_or(0);
    for current in 0..=last {
        let mut here: Vec<usize> = (0..stages.len()).filter(|at| column[*at] == current).collect();
        let mean = |at: usize| inputs[at].iter().map(|i| row[*i]).sum::<f64>() / inputs[at].len().max(1) as f64;
        let means: BTreeMap<usize, f64> = here.iter().map(|at| (*at, mean(*at))).collect();
        here.sort_by(|a, b| means[a].total_cmp(&means[b]).then(a.cmp(b)));
        let top = (tallest - here.len()) as f64 / 2.0;
        for (position, at) in here.into_iter().enumerate() {
            row[at] = top + position as f64;
        }
    }
    column.into_iter().zip(row).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::StageStatus;
    use crate::value::Values;

    fn stage(name: &str, inputs: &[&str]) -> StageOverlay {
        StageOverlay {
            name: name.to_owned(),
            kind: "decode".to_owned(),
            params: Values::new(),
            status: StageStatus::Executed,
            seconds: None,
            usage: None,
            inputs: inputs.iter().map(|s| (*s).to_owned()).collect(),
            metrics: BTreeMap::new(),
            pruned: None,
            verdict: None,
        }
    }

    #[test]
    fn stage_is_right_of_its_inputs() {
        // Not in plan order.
        let stages = [stage("c", &["a", "b"]), stage("b", &["a"]), stage("a", &[]), stage("d", &["a", "gone"])];
        let places = layout(&stages);
        assert_eq!(places.iter().map(|p| p.0).collect::<Vec<_>>(), [2, 1, 0, 1]);
        assert_ne!(places[1].1, places[3].1);
    }

    #[test]
    fn many_points_of_a_stage_are_one_node() {
        let names: Vec<String> = (0..100).map(|i| format!("fit@lr={i}")).collect();
        let mut stages = vec![stage("data", &[])];
        stages.extend(names.iter().map(|name| stage(name, &["data"])));
        stages.push(stage("report", &names.iter().map(String::as_str).collect::<Vec<_>>()));
        stages[7].status = StageStatus::Failed;
        let svg = draw(&stages);
        assert_eq!((svg.matches("<rect").count(), svg.matches("class=\"edge\"").count()), (3, 2));
        assert!(svg.contains(">100 points<") && svg.contains("node failed"), "{svg:?}");
    }

    #[test]
    fn no_two_stages_share_a_place() {
        let names: Vec<String> = (0..30).map(|i| format!("s{i}")).collect();
        let stages: Vec<StageOverlay> = (0..30)
            .map(|i| stage(&names[i], &if i > 2 { vec![names[i / 2].as_str(), &names[i / 3]] } else { vec![] }))
            .collect();
        let mut places: Vec<String> = layout(&stages).iter().map(|p| format!("{p:?}")).collect();
        places.sort();
        places.dedup();
        assert_eq!(places.len(), 30);
    }

    #[test]
    fn names_are_escaped_and_long_ones_shortened() {
        let svg = draw(&[stage("<b>", &[]), stage("sweep@distribution=exponential,lr=0.001", &["<b>"])]);
        assert!(svg.contains("&lt;b&gt;") && !svg.contains("<b>"));
        assert!(svg.contains(">distribution=exponenti…<"), "{svg:?}");
        assert_eq!(&*draw(&[]), "");
    }
}
