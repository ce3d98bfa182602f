//! Makes one point for each combination of a stage's axes: its name, its parameters as parsed by its kind, and its
//! inputs.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::ops::Range;

use super::axes::flowing;
use super::axis::MAX_POINTS;
use super::parameters::{Expansion, Parsed, Parser};
use super::pipeline::{Point, PointInput};
use super::stages::{DraftInput, Member, Pick};
use crate::diagnostic::Diagnostics;
use crate::id::{PointId, PointName, StageId};
use crate::value::Value;

/// The longest name of a point in bytes. File systems allow 255, and file names add an ending.
const MAX_NAME: usize = 200;
/// The most inputs that all points of a pipeline may have in total.
const MAX_LINKS: usize = 20_000_000;

impl Expansion<'_> {
    /// All points, and the range of ids of each stage. Leaves out points that can't be made after an error.
    pub(super) fn points(&self, diagnostics: &mut Diagnostics) -> (Vec<Point>, Vec<Range<PointId>>) {
        let mut ranges = Vec::with_capacity(self.shapes.len());
        let mut total = 0;
        for shape in self.shapes {
            let first = PointId::new(total);
            total += shape.rows.len();
            ranges.push(first..PointId::new(total));
        }
        if total > MAX_POINTS {
            diagnostics.error_nowhere(format!("the pipeline has {total} points, more than {MAX_POINTS}"));
            return (vec![], ranges);
        }
        let mut points = Vec::with_capacity(total);
        let mut links = 0;
        for stage in StageId::first(self.drafts.len()) {
            let names = self.names(stage, diagnostics);
            let parsed = Parser::new(self, stage, diagnostics).and_then(|p| p.rows(diagnostics));
            let inputs = Links { whole: self, ranges: &ranges, stage }.rows(&mut links, diagnostics);
            // If one is missing there was an error, and the points will not be used.
            let (Some((variants, of_row)), Some(inputs)) = (parsed, inputs) else { continue };
            for (((name, coordinates), variant), inputs) in names.into_iter().zip(of_row).zip(inputs) {
                let Parsed { stage: parsed, seed, resources } = &variants[variant];
                let (stage, origin) = (self.draft(stage).name.to_owned(), self.draft(stage).origin.clone());
                points.push(Point {
                    name,
                    stage,
                    coordinates,
                    parsed: parsed.clone(),
                    seed: *seed,
                    resources: *resources,
                    inputs,
                    origin,
                });
            }
        }
        (points, ranges)
    }

    /// The name and coordinates of each point of a stage.
    fn names(&self, stage: StageId, diagnostics: &mut Diagnostics) -> Vec<(String, Vec<(String, Value)>)> {
        let (draft, shape) = (self.draft(stage), self.shape(stage));
        let mut names = Vec::with_capacity(shape.rows.len());
        let mut longest = 0;
        for row in &shape.rows {
            let values = shape.axes.iter().zip(row).map(|(axis, value)| {
                let axis = self.matrix.axis(*axis);
                (axis.name.as_str(), &axis.values[*value as usize])
            });
            let name = PointName::write(draft.name, values.clone().map(|(axis, value)| (axis, value.text.as_str())));
            let coordinates = values.map(|(axis, value)| (axis.to_owned(), value.coordinate())).collect();
            longest = longest.max(name.len());
            names.push((name, coordinates));
        }
        if longest > MAX_NAME {
            let message = format!("stage `{}` has a point with a name of {longest} bytes", draft.name);
            let help = format!("the limit is {MAX_NAME}: shorten the stage's name, its axes' names or their values");
            diagnostics.error(draft.origin, message).help(help);
        }
        names
    }
}

/// Finds the inputs of a stage's points.
struct Links<'a> {
    whole: &'a Expansion<'a>,
    ranges: &'a [Range<PointId>],
    stage: StageId,
}

/// The points of an input by the coordinates that its reader shares.
struct Index {
    /// The positions of these coordinates in the reader's row.
    positions: Vec<usize>,
    points: HashMap<Vec<u32>, Vec<PointId>>,
}

impl Links<'_> {
    /// The inputs of each row, by role. `None` after an error.
    fn rows(&self, links: &mut usize, diagnostics: &mut Diagnostics) -> Option<Vec<BTreeMap<String, PointInput>>> {
        let mut rows = vec![BTreeMap::new(); self.whole.shape(self.stage).rows.len()];
        let mut fine = true;
        for input in &self.whole.draft(self.stage).inputs {
            fine &= self.role(input, &mut rows, links, diagnostics).is_some();
        }
        fine.then_some(rows)
    }

    fn role(
        &self,
        input: &DraftInput,
        rows: &mut [BTreeMap<String, PointInput>],
        links: &mut usize,
        diagnostics: &mut Diagnostics,
    ) -> Option<()> {
        let indices: Option<Vec<Index>> = input.members.iter().map(|m| self.index(m)).collect();
        let indices = indices?;
        let stages: HashSet<StageId> = input.members.iter().map(|m| m.stage).collect();
        let may_repeat = stages.len() < input.members.len();
        for (row, inputs) in self.whole.shape(self.stage).rows.iter().zip(rows) {
            let mut found: Vec<PointId> = Vec::new();
            for (index, member) in indices.iter().zip(&input.members) {
                let key: Vec<u32> = index.positions.iter().map(|p| row[*p]).collect();
                let Some(points) = index.points.get(&key) else {
                    if self.whole.shape(member.stage).tainted {
                        return None;
                    }
                    let stage = self.whole.draft(member.stage).name;
                    let message = format!("no point of `{stage}` has these coordinates");
                    diagnostics.error(&member.origin, message).help("the matrix excludes this combination");
                    return None;
                };
                if may_repeat && points.iter().any(|p| found.contains(p)) {
                    let message = format!("a point of `{}` is in this list twice", self.whole.draft(member.stage).name);
                    diagnostics.error(&member.origin, message).help("remove one of them");
                    return None;
                }
                *links += points.len();
                if *links > MAX_LINKS {
                    diagnostics.error(&member.origin, format!("the points have more than {MAX_LINKS} inputs in total"));
                    return None;
                }
                found.extend(points);
            }
            let skips_missing = input.skips_missing;
            let found = match input.list {
                true => PointInput::Many { points: found, skips_missing },
                false => PointInput::One(*found.first()?),
            };
            inputs.insert(input.role.clone(), found);
        }
        Some(())
    }

    /// Indexes the points of an input. `None` if an error was reported before.
    fn index(&self, member: &Member) -> Option<Index> {
        let matrix = self.whole.matrix;
        let shape = self.whole.shape(member.stage);
        let own = self.whole.shape(self.stage);
        let flow = flowing(member, shape, matrix);
        let positions: Option<Vec<usize>> = flow.iter().map(|a| own.axes.binary_search(a).ok()).collect();
        let sources: Option<Vec<usize>> = flow.iter().map(|a| shape.axes.binary_search(a).ok()).collect();
        let (positions, sources) = (positions?, sources?);
        let mut fixed = Vec::new();
        for (name, pick) in &member.picks {
            let position = shape.position(name, matrix)?;
            if let Pick::Value(value) = pick {
                fixed.push((position, matrix.axis(shape.axes[position]).find(value)? as u32));
            }
        }
        let mut points: HashMap<Vec<u32>, Vec<PointId>> = HashMap::new();
        let start = self.ranges[member.stage.index()].start.index();
        for (i, row) in shape.rows.iter().enumerate() {
            if fixed.iter().all(|(position, value)| row[*position] == *value) {
                points.entry(sources.iter().map(|p| row[*p]).collect()).or_default().push(PointId::new(start + i));
            }
        }
        Some(Index { positions, points })
    }
}
