//! A stage's parameters for each of its points: overridden by `at`, with references replaced, and parsed by the kind.
//!
//! Parameters are parsed once for each combination of the axes that they depend on. If two matching `at` set the same
//! field, the one with more coordinates wins. If they have equally many it is an error, so their order does not matter.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use super::axes::Shape;
use super::axis::AxisValue;
use super::errors::{PointErrors, suggest};
use super::matrix::Matrix;
use super::resources::{self, Resources};
use super::stages::{At, Draft, DraftInput, RESERVED, may_vary};
use super::template::Scope;
use crate::diagnostic::{Diagnostics, Origin, Sources};
use crate::id::{PointName, StageId};
use crate::stage::{GivenInput, Params, ParsedStage, StageKind};
use crate::value::{Data, Entry, Node, Table};

/// After this many different errors in a stage, its other combinations are not checked.
const ENOUGH_ERRORS: usize = 20;

/// The input for the expansion of stages to points.
pub(super) struct Expansion<'a> {
    /// All texts.
    pub(super) sources: &'a Sources,
    /// Resolved parameters.
    pub(super) params: &'a BTreeMap<String, Node>,
    /// All axes.
    pub(super) matrix: &'a Matrix,
    /// The stages as written.
    pub(super) drafts: &'a [Draft<'a>],
    /// Their axes and combinations.
    pub(super) shapes: &'a [Shape],
    /// The pipeline's seed.
    pub(super) seed: i64,
}

impl Expansion<'_> {
    /// The stage as written.
    pub(super) fn draft(&self, stage: StageId) -> &Draft<'_> {
        &self.drafts[stage.index()]
    }

    /// The stage's axes and combinations.
    pub(super) fn shape(&self, stage: StageId) -> &Shape {
        &self.shapes[stage.index()]
    }
}

/// A stage's parameters for some of its points.
pub(super) struct Parsed {
    /// Its kind, the stage to run, and the canonical parameters.
    pub(super) stage: ParsedStage,
    /// Its own seed, or else the pipeline's.
    pub(super) seed: i64,
    /// What it needs of a machine.
    pub(super) resources: Resources,
}

/// Parses the parameters of one stage.
pub(super) struct Parser<'a> {
    whole: &'a Expansion<'a>,
    stage: StageId,
    kind: &'a dyn StageKind,
    at: Vec<Pattern<'a>>,
}

/// An `at` with its axes and values resolved.
struct Pattern<'a> {
    at: &'a At<'a>,
    /// For each coordinate, the position of its axis in the stage's axes and the index of its value.
    coordinates: Vec<(usize, u32)>,
}

impl<'a> Parser<'a> {
    /// `None` if the kind is unknown, which was reported.
    pub(super) fn new(whole: &'a Expansion<'a>, stage: StageId, diagnostics: &mut Diagnostics) -> Option<Self> {
        let (draft, shape) = (whole.draft(stage), whole.shape(stage));
        let mut at = Vec::new();
        for written in &draft.at {
            let mut coordinates = Some(Vec::new());
            for (name, value) in &written.coordinates {
                let Some(position) = shape.position(name, whole.matrix) else {
                    coordinates = None;
                    continue;
                };
                let axis = whole.matrix.axis(shape.axes[position]);
                let found = axis.find(value);
                // An axis without values has an error of its own.
                if found.is_none() && !axis.values.is_empty() {
                    let message = format!("axis `{name}` has no value `{value}`");
                    suggest(diagnostics, written.origin, message, value, axis.values.iter().map(|v| v.text.as_str()));
                }
                coordinates = coordinates.zip(found).map(|(mut all, f)| {
                    all.push((position, f as u32));
                    all
                });
            }
            at.extend(coordinates.map(|coordinates| Pattern { at: written, coordinates }));
        }
        Some(Self { whole, stage, kind: draft.kind.as_deref()?, at })
    }

    /// The distinct variants of the parameters, and for each row the index of its variant. `None` after an error.
    pub(super) fn rows(&self, diagnostics: &mut Diagnostics) -> Option<(Vec<Parsed>, Vec<usize>)> {
        let shape = self.whole.shape(self.stage);
        let before = diagnostics.0.len();
        let mut variants = Vec::new();
        let mut of_row = Vec::with_capacity(shape.rows.len());
        let mut known: HashMap<Vec<u32>, usize> = HashMap::new();
        let (mut errors, mut points) = (PointErrors::default(), Vec::new());
        let mut used = vec![false; self.at.len()];
        for row in &shape.rows {
            let key: Vec<u32> = shape.relevant.iter().map(|p| row[*p]).collect();
            if let Some(variant) = known.get(&key) {
                of_row.push(*variant);
                points[*variant] += 1;
                continue;
            }
            let matching = |p: &Pattern<'_>| p.coordinates.iter().all(|(position, value)| row[*position] == *value);
            used.iter_mut().zip(&self.at).for_each(|(u, p)| *u |= matching(p));
            let at: Vec<&Pattern<'_>> = self.at.iter().filter(|p| matching(p)).collect();
            let from = diagnostics.0.len();
            variants.extend(self.variant(row, &at, diagnostics));
            self.label(diagnostics, from);
            // This is the index in `variants` as long as there are no errors.
            let variant = known.len();
            errors.add(variant, diagnostics.0.split_off(from));
            known.insert(key, variant);
            of_row.push(variant);
            points.push(1);
            if errors.len() > ENOUGH_ERRORS {
                break;
            }
        }
        let complete = errors.len() <= ENOUGH_ERRORS;
        errors.report(&points, diagnostics);
        if !complete {
            return None;
        }
        for (pattern, _) in self.at.iter().zip(used).filter(|(_, used)| !used) {
            let message = format!("this matches no point of stage `{}`", self.whole.draft(self.stage).name);
            diagnostics.error(pattern.at.origin, message).help("the matrix excludes this combination");
        }
        (diagnostics.0.len() == before && variants.len() == known.len()).then_some((variants, of_row))
    }

    /// The parameters of all points that agree with this row on the relevant axes. `None` after an error.
    fn variant(&self, row: &[u32], at: &[&Pattern<'_>], diagnostics: &mut Diagnostics) -> Option<Parsed> {
        let draft = self.whole.draft(self.stage);
        let shape = self.whole.shape(self.stage);
        let mut axes: BTreeMap<&str, &AxisValue> = BTreeMap::new();
        for position in &shape.relevant {
            let axis = self.whole.matrix.axis(shape.axes[*position]);
            axes.insert(&axis.name, &axis.values[row[*position] as usize]);
        }
        let merged = merged(draft.table, at, diagnostics)?;
        let seed = Node { data: Data::Int(self.whole.seed), origin: draft.origin.clone() };
        let mut scope =
            Scope { axes: Some(&axes), seed: Some(&seed), ..Scope::of_params(self.whole.params, self.whole.sources) };
        let mut table = Table::default();
        for entry in &merged.0 {
            let node = scope.fill(&entry.node, diagnostics);
            table.0.extend(node.map(|node| Entry {
                node,
                name: entry.name.clone(),
                name_origin: entry.name_origin.clone(),
            }));
        }
        let complete = table.0.len() == merged.0.len();
        let seed = match table.0.iter().position(|e| e.name == "seed").map(|i| table.0.remove(i).node) {
            None => self.whole.seed,
            Some(Node { data: Data::Int(seed), .. }) => seed,
            Some(node) => {
                let message = format!("`seed` must be an integer, not {}", node.data.value());
                diagnostics.error(&node.origin, message);
                self.whole.seed
            }
        };
        let resources = self.resources(&mut table, diagnostics);
        let from = diagnostics.0.len();
        let given = |input: &'a DraftInput| {
            let kinds = input.members.iter().filter_map(|m| self.whole.drafts[m.stage.index()].kind.as_ref());
            let provides = kinds.map(|kind| kind.provides()).collect();
            GivenInput { role: &input.role, place: &input.role_origin, provides }
        };
        let inputs: Vec<GivenInput<'_>> = draft.inputs.iter().map(given).collect();
        let mut params = Params::new(&table, draft.origin.clone(), &RESERVED, diagnostics);
        if !draft.unreadable {
            params = params.with_inputs(&inputs);
        }
        let stage = self.kind.parse(&mut params);
        let params = params.finish();
        if !complete {
            // A field that seems to be missing may only have a bad reference, which was reported.
            let mut found = diagnostics.0.split_off(from);
            found.retain(|d| d.origin.as_ref() != Some(draft.origin));
            diagnostics.0.extend(found);
            return None;
        }
        let kind = draft.kind.clone()?;
        Some(Parsed { stage: ParsedStage { kind, stage, params: Arc::new(params) }, seed, resources })
    }

    /// Takes `resources` out of a table of parameters. `gpus` remains in the table as a parameter of programs.
    fn resources(&self, table: &mut Table, diagnostics: &mut Diagnostics) -> Resources {
        let Some(at) = table.0.iter().position(|e| e.name == "resources") else { return Resources::default() };
        let (resources, gpus) = resources::read(&table.0.remove(at), diagnostics);
        let Some(gpus) = gpus else { return resources };
        let has_parameter = self.kind.parameters().iter().any(|parameter| parameter.name == gpus.name);
        if !has_parameter {
            let message = format!("stages of kind `{}` don't get GPUs of their own", self.kind.name());
            diagnostics.error(&gpus.name_origin, message).help("`--device cuda` computes on a GPU");
        } else if let Some(other) = table.entry("gpus") {
            let message = "`gpus` is given twice: beside `resources` and in it";
            diagnostics.error(&other.name_origin, message).help("remove one of them");
        } else {
            table.0.push(gpus);
        }
        resources
    }

    /// Adds the stage's name to errors about values from elsewhere. They are reported where the value is written, which
    /// may be far from the stage.
    fn label(&self, diagnostics: &mut Diagnostics, from: usize) {
        let draft = self.whole.draft(self.stage);
        for diagnostic in diagnostics.0.iter_mut().skip(from) {
            let elsewhere = |o: &Origin| o != draft.origin && !within(draft.table, o);
            if diagnostic.label.is_none() && diagnostic.origin.as_ref().is_some_and(elsewhere) {
                diagnostic.label(format!("used by stage `{}`", draft.name));
            }
        }
    }
}

/// Whether a place is in a table, or in one of its strings.
fn within(table: &Table, place: &Origin) -> bool {
    fn node(n: &Node, place: &Origin) -> bool {
        let text = n.origin.source == place.source
            && n.origin.span.start <= place.span.start
            && place.span.end <= n.origin.span.end;
        text || match &n.data {
            Data::List(items) => items.iter().any(|i| node(i, place)),
            Data::Table(table) => within(table, place),
            _ => false,
        }
    }
    table.0.iter().any(|e| e.name_origin == *place || node(&e.node, place))
}

/// A stage's own parameters, overridden by name with those of the matching `at`. `None` if these contradict each other.
fn merged(table: &Table, at: &[&Pattern<'_>], diagnostics: &mut Diagnostics) -> Option<Table> {
    let is_ours = |e: &&Entry| may_vary(&e.name);
    let mut chosen: BTreeMap<&str, (&Entry, &Pattern<'_>)> = BTreeMap::new();
    let mut by_weight = at.to_vec();
    by_weight.sort_by_key(|p| Reverse(p.coordinates.len()));
    let mut fine = true;
    for pattern in by_weight {
        for entry in pattern.at.table.0.iter().filter(is_ours) {
            match chosen.get(entry.name.as_str()) {
                None => drop(chosen.insert(&entry.name, (entry, pattern))),
                Some((_, rival)) if rival.coordinates.len() == pattern.coordinates.len() => {
                    fine = false;
                    let message =
                        format!("`{}` is also set by {:?} for some of these points", entry.name, written(rival.at));
                    let help = "set it in an `at` with the coordinates of both";
                    diagnostics.error(&entry.name_origin, message).help(help);
                }
                Some(_) => {}
            }
        }
    }
    let mut merged = Table(table.0.iter().filter(is_ours).cloned().collect());
    // Two that exclude each other: one of an `at` replaces the other.
    for (given, replaced) in [("segments", "epochs"), ("epochs", "segments"), ("argv", "python"), ("python", "argv")] {
        if chosen.contains_key(given) && !chosen.contains_key(replaced) {
            merged.0.retain(|entry| entry.name != replaced);
        }
    }
    for (entry, _) in chosen.into_values() {
        merged.set(overridden(merged.get(&entry.name), entry));
    }
    fine.then_some(merged)
}

/// The tables of values that a program reads. An `at` overrides single values in them. It replaces other tables.
const VALUES: [&str; 3] = ["values", "start", "epoch"];

/// An entry of an `at`, with the values that it does not override.
fn overridden(own: Option<&Node>, entry: &Entry) -> Entry {
    let (Some(Data::Table(own)), Data::Table(over)) = (own.map(|node| &node.data), &entry.node.data) else {
        return entry.clone();
    };
    if !VALUES.contains(&entry.name.as_str()) {
        return entry.clone();
    }
    let mut values = own.clone();
    over.0.iter().for_each(|value| values.set(value.clone()));
    Entry { node: Node { data: Data::Table(values), origin: entry.node.origin.clone() }, ..entry.clone() }
}

fn written(at: &At<'_>) -> String {
    let name = PointName::write("", at.coordinates.iter().map(|(axis, value)| (axis.as_str(), value.as_str())));
    PointName::parse(&name).coordinates.unwrap_or_default().to_owned()
}
