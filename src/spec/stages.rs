//! The fields of a stage's table that the runner reads: `kind`, `inputs`, `matrix`, `at`, `seed` and `resources`. All
//! other fields are parameters of the kind.
//!
//! An input is written `stage`, or `stage@axis=value` to fix a coordinate; the reading stage gets all other axes of the
//! input. A list can also hold `stage@axis=*`, which gathers over this axis, and `stage@*`, which gathers over all
//! axes. A list can also be written `{ from = […], missing = "skip" }`: it then leaves out points that failed.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::errors::{check_name, suggest};
use super::matrix::Matrix;
use super::template::{Scope, mentions, part_of};
use crate::diagnostic::{Diagnostics, Origin, Sources, nearest};
use crate::id::{AxisId, PointName, StageId};
use crate::stage::{Registry, StageKind};
use crate::value::{Data, Entry, Node, Table};

/// The fields that the runner reads in a stage's table.
pub(super) const RESERVED: [&str; 6] = ["kind", "inputs", "matrix", "at", "seed", "resources"];

/// A stage as written, with its references to other stages resolved.
pub(super) struct Draft<'a> {
    /// Its name.
    pub(super) name: &'a str,
    /// Where the name is written.
    pub(super) origin: &'a Origin,
    /// Its table.
    pub(super) table: &'a Table,
    /// The name of its kind. Empty if it can't be read.
    pub(super) kind_name: String,
    /// The kind with that name, if it exists.
    pub(super) kind: Option<Arc<dyn StageKind>>,
    /// Its inputs, without references to unknown stages.
    pub(super) inputs: Vec<DraftInput>,
    /// The inputs are unknown: `inputs` is malformed, which was reported.
    pub(super) unreadable: bool,
    /// The axes it declares.
    pub(super) own_axes: Vec<AxisId>,
    /// The axes that its parameters use, and where.
    pub(super) mentions: Vec<(String, Origin)>,
    /// Its values for some points.
    pub(super) at: Vec<At<'a>>,
    /// An error in its inputs or axes was reported, so further errors may only be consequences.
    pub(super) tainted: bool,
}

/// The input in one role.
pub(super) struct DraftInput {
    /// The role.
    pub(super) role: String,
    /// Where the role is written.
    pub(super) role_origin: Origin,
    /// Where its value is written.
    pub(super) origin: Origin,
    /// Whether it is written as a list.
    pub(super) list: bool,
    /// Whether a list leaves out points that failed or were skipped.
    pub(super) skips_missing: bool,
    /// The stages in it.
    pub(super) members: Vec<Member>,
}

/// One reference to a stage.
pub(super) struct Member {
    /// The stage.
    pub(super) stage: StageId,
    /// Whether it gathers over all axes.
    pub(super) all: bool,
    /// Coordinates that are fixed or gathered, by the name of their axis.
    pub(super) picks: Vec<(String, Pick)>,
    /// Where it is written.
    pub(super) origin: Origin,
}

/// What a reference selects on an axis.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Pick {
    /// This value, as written.
    Value(String),
    /// All values.
    All,
}

/// Values for the points that match.
pub(super) struct At<'a> {
    /// The coordinates, axis and value as written.
    pub(super) coordinates: Vec<(String, String)>,
    /// Where the coordinates are written.
    pub(super) origin: &'a Origin,
    /// The values.
    pub(super) table: &'a Table,
}

/// Reads stages.
pub(super) struct Reader<'a> {
    /// The known kinds.
    pub(super) registry: &'a Registry,
    /// All texts.
    pub(super) sources: &'a Sources,
    /// Resolved parameters.
    pub(super) params: &'a BTreeMap<String, Node>,
    /// The names of all stages.
    pub(super) names: BTreeMap<&'a str, StageId>,
}

impl<'a> Reader<'a> {
    /// Reads the `[stages]` section, and adds the stages' axes to the matrix. Every stage in `names` gets a draft, so
    /// that ids are indices of drafts.
    pub(super) fn stages(
        &self,
        section: &'a Table,
        matrix: &mut Matrix,
        diagnostics: &mut Diagnostics,
    ) -> Vec<Draft<'a>> {
        let mut seen: BTreeMap<String, &str> = BTreeMap::new();
        let mut drafts = Vec::with_capacity(section.0.len());
        for (id, entry) in StageId::first(section.0.len()).zip(&section.0) {
            if let Some(other) = seen.insert(entry.name.to_lowercase(), &entry.name) {
                let message = format!("stages `{other}` and `{}` differ only in case", entry.name);
                let help = "point names become file names, and some file systems ignore case";
                diagnostics.error(&entry.name_origin, message).help(help);
            }
            drafts.push(match &entry.node.data {
                Data::Table(table) => self.stage(id, entry, table, matrix, diagnostics),
                other => {
                    let message = format!("stage `{}` must be a table, not {}", entry.name, other.describe());
                    diagnostics.error(&entry.node.origin, message);
                    no_stage(entry)
                }
            });
        }
        drafts
    }

    /// Reads the stage with this id.
    fn stage(
        &self,
        id: StageId,
        entry: &'a Entry,
        table: &'a Table,
        matrix: &mut Matrix,
        diagnostics: &mut Diagnostics,
    ) -> Draft<'a> {
        check_name("a stage", &entry.name, &entry.name_origin, diagnostics);
        let (kind_name, kind) = self.kind(entry, table, diagnostics);
        let before = diagnostics.0.len();
        let inputs = self.inputs(id, table, diagnostics);
        let unreadable = inputs.is_none();
        let inputs = inputs.unwrap_or_default();
        let own_axes = match table.get("matrix").and_then(|n| self.filled(n, diagnostics)) {
            None => vec![],
            Some(Node { data: Data::Table(axes), .. }) => matrix.declare(&axes, Some(id), diagnostics),
            Some(node) => {
                let message = format!("`matrix` must be a table, not {}", node.data.describe());
                diagnostics.error(&node.origin, message).help("matrix = { axis = [value, value] }");
                vec![]
            }
        };
        let tainted = diagnostics.0.len() > before;
        let at = at(table, diagnostics);
        let mut mentioned = Vec::new();
        let own = table.0.iter().filter(|e| may_vary(&e.name));
        for entry in own.chain(at.iter().flat_map(|a| &a.table.0)) {
            mentions(&entry.node, self.sources, &mut |axis, place| mentioned.push((axis.to_owned(), place)));
        }
        let (name, origin) = (entry.name.as_str(), &entry.name_origin);
        Draft { name, origin, table, kind_name, kind, inputs, unreadable, own_axes, mentions: mentioned, at, tainted }
    }

    fn filled(&self, node: &Node, diagnostics: &mut Diagnostics) -> Option<Node> {
        Scope::of_params(self.params, self.sources).fill(node, diagnostics)
    }

    fn kind(
        &self,
        entry: &Entry,
        table: &Table,
        diagnostics: &mut Diagnostics,
    ) -> (String, Option<Arc<dyn StageKind>>) {
        let Some(written) = table.get("kind") else {
            let kinds: Vec<&str> = self.registry.iter().map(|k| k.name()).collect();
            let error = diagnostics.error(&entry.name_origin, format!("stage `{}` has no `kind`", entry.name));
            error.help(format!("choose one of {}", kinds.join(", ")));
            return (String::new(), None);
        };
        let Some(node) = self.filled(written, diagnostics) else { return (String::new(), None) };
        let Data::Text(name) = node.data else {
            diagnostics.error(&node.origin, format!("`kind` must be a string, not {}", node.data.describe()));
            return (String::new(), None);
        };
        let kind = self.registry.get(&name);
        if kind.is_none() {
            let known: Vec<&str> = self.registry.iter().map(|k| k.name()).collect();
            let message = format!("there is no stage kind `{name}`");
            suggest(diagnostics, &node.origin, message, &name, known.into_iter());
        }
        (name, kind)
    }

    fn inputs(&self, reader: StageId, table: &Table, diagnostics: &mut Diagnostics) -> Option<Vec<DraftInput>> {
        let Some(written) = table.get("inputs") else { return Some(vec![]) };
        let node = self.filled(written, diagnostics)?;
        let Data::Table(roles) = &node.data else {
            let message = format!("`inputs` must be a table of roles, not {}", node.data.describe());
            diagnostics.error(&node.origin, message).help("inputs = { role = \"stage\" }");
            return None;
        };
        let (mut inputs, mut readable) = (Vec::new(), true);
        for entry in &roles.0 {
            check_name("a role", &entry.name, &entry.name_origin, diagnostics);
            let from = match &entry.node.data {
                Data::Table(table) => gathering(entry, table, diagnostics),
                _ => Some((&entry.node, false)),
            };
            let Some((from, skips_missing)) = from else {
                readable = false;
                continue;
            };
            let (list, nodes) = match &from.data {
                Data::List(items) => (true, items.iter().collect()),
                _ => (false, vec![from]),
            };
            if nodes.is_empty() {
                let message = format!("the list of input `{}` is empty", entry.name);
                diagnostics.error(&from.origin, message).help("remove the role, or name a stage");
            }
            let members: Vec<Member> =
                nodes.into_iter().filter_map(|n| self.member(reader, n, list, diagnostics)).collect();
            let (role, role_origin, origin) = (entry.name.clone(), entry.name_origin.clone(), from.origin.clone());
            inputs.push(DraftInput { role, role_origin, origin, list, skips_missing, members });
        }
        readable.then_some(inputs)
    }

    fn member(&self, reader: StageId, node: &Node, list: bool, diagnostics: &mut Diagnostics) -> Option<Member> {
        let Data::Text(text) = &node.data else {
            let message = format!("an input must be the name of a stage, not {}", node.data.describe());
            diagnostics.error(&node.origin, message);
            return None;
        };
        let PointName { stage: name, coordinates } = PointName::parse(text);
        let Some(&stage) = self.names.get(name) else {
            let place = part_of(self.sources, &node.origin, name);
            let known = self.names.keys().copied().filter(|n| self.names.get(n) != Some(&reader));
            suggest(diagnostics, &place, format!("there is no stage `{name}`"), name, known);
            return None;
        };
        if stage == reader {
            diagnostics.error(&node.origin, format!("stage `{name}` is its own input"));
            return None;
        }
        let all = coordinates == Some("*");
        let picks = match coordinates {
            Some(coordinates) if !all => self.picks(coordinates, node, diagnostics)?,
            _ => vec![],
        };
        if !list && (all || picks.iter().any(|(_, p)| *p == Pick::All)) {
            let error = diagnostics.error(&node.origin, format!("`{text}` gathers points, so it must be in a list"));
            error.help(format!("[\"{text}\"]"));
            return None;
        }
        Some(Member { stage, all, picks, origin: node.origin.clone() })
    }

    fn picks(&self, text: &str, node: &Node, diagnostics: &mut Diagnostics) -> Option<Vec<(String, Pick)>> {
        let found = coordinates(text, &node.origin, self.sources, diagnostics)?;
        let pick = |value: String| if value == "*" { Pick::All } else { Pick::Value(value) };
        Some(found.into_iter().map(|(axis, value)| (axis, pick(value))).collect())
    }
}

/// The list in an input that is written as a table, `{ from = […], missing = "skip" }`, and whether it leaves out
/// points that failed. `None` after an error.
fn gathering<'a>(entry: &Entry, table: &'a Table, diagnostics: &mut Diagnostics) -> Option<(&'a Node, bool)> {
    const FIELDS: [&str; 2] = ["from", "missing"];
    let before = diagnostics.0.len();
    for field in table.0.iter().filter(|field| !FIELDS.contains(&field.name.as_str())) {
        let message = format!("unknown field `{}` in the input `{}`", field.name, entry.name);
        suggest(diagnostics, &field.name_origin, message, &field.name, FIELDS.into_iter());
    }
    let from = table.get("from");
    match from {
        None if diagnostics.0.len() == before => {
            let message = format!("the input `{}` does not say what it gathers", entry.name);
            let help = format!("{} = {{ from = [\"STAGE@*\"], missing = \"skip\" }}", entry.name);
            diagnostics.error(&entry.node.origin, message).help(help);
        }
        Some(Node { data: Data::Text(stage), origin }) => {
            let message = "`from` must be a list: only a list can leave out points that are missing";
            diagnostics.error(origin, message).help(format!("from = [\"{stage}\"]"));
        }
        Some(node) if !matches!(node.data, Data::List(_)) => {
            let message = format!("`from` must be a list of stages, not {}", node.data.describe());
            diagnostics.error(&node.origin, message);
        }
        _ => {}
    }
    let missing = table.get("missing");
    match missing.map(|node| (&node.data, &node.origin)) {
        None => {}
        Some((Data::Text(word), _)) if word == "skip" => {}
        Some((Data::Text(word), origin)) => {
            let help = match nearest(word, ["skip"]) {
                Some(_) => "did you mean `skip`?",
                None => "write `missing = \"skip\"`",
            };
            diagnostics.error(origin, format!("`missing` can't be {word:?}")).help(help);
        }
        Some((other, origin)) => {
            let message = format!("`missing` must be \"skip\", not {}", other.describe());
            diagnostics.error(origin, message);
        }
    }
    from.filter(|_| diagnostics.0.len() == before).map(|from| (from, missing.is_some()))
}

/// A placeholder for a stage that is not a table. That error was reported.
fn no_stage(entry: &Entry) -> Draft<'_> {
    const EMPTY: &Table = &Table(Vec::new());
    Draft {
        name: &entry.name,
        origin: &entry.name_origin,
        table: EMPTY,
        kind_name: String::new(),
        kind: None,
        inputs: vec![],
        unreadable: true,
        own_axes: vec![],
        mentions: vec![],
        at: vec![],
        tainted: true,
    }
}

/// Whether a field of a stage's table may differ between the points of the stage.
pub(super) fn may_vary(name: &str) -> bool {
    !["kind", "inputs", "matrix", "at"].contains(&name)
}

/// Reads `axis=value,axis=value`. Each axis may occur once.
fn coordinates(
    text: &str,
    origin: &Origin,
    sources: &Sources,
    diagnostics: &mut Diagnostics,
) -> Option<Vec<(String, String)>> {
    let mut found: Vec<(String, String)> = Vec::new();
    for part in PointName::split_coordinates(text) {
        let (axis, value) = PointName::split_coordinate(part).map_or((part.trim(), ""), |(a, v)| (a.trim(), v.trim()));
        let message = if axis.is_empty() || value.is_empty() {
            format!("{part:?} is not of the form `axis=value`")
        } else if found.iter().any(|(a, _)| a == axis) {
            format!("axis `{axis}` is given twice")
        } else {
            found.push((axis.to_owned(), value.to_owned()));
            continue;
        };
        let help = "coordinates are written axis=value,axis=value";
        diagnostics.error(&part_of(sources, origin, part), message).help(help);
        return None;
    }
    Some(found)
}

fn at<'a>(table: &'a Table, diagnostics: &mut Diagnostics) -> Vec<At<'a>> {
    let help = "[stages.NAME.at.\"axis=value\"]";
    let blocks = match table.get("at") {
        None => return vec![],
        Some(Node { data: Data::Table(blocks), .. }) => blocks,
        Some(node) => {
            let message = format!("`at` must be a table, not {}", node.data.describe());
            diagnostics.error(&node.origin, message).help(help);
            return vec![];
        }
    };
    let mut found = Vec::new();
    for entry in &blocks.0 {
        let Data::Table(table) = &entry.node.data else {
            let message = format!("each entry of `at` must be a table, not {}", entry.node.data.describe());
            diagnostics.error(&entry.name_origin, message).help(help);
            continue;
        };
        for field in table.0.iter().filter(|e| !may_vary(&e.name)) {
            let message = format!("`{}` can't differ between the points of a stage", field.name);
            diagnostics.error(&field.name_origin, message).help("write two stages instead");
        }
        let none = Sources::default();
        if let Some(coordinates) = coordinates(&entry.name, &entry.name_origin, &none, diagnostics) {
            found.push(At { coordinates, origin: &entry.name_origin, table });
        }
    }
    found
}
