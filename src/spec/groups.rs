//! Groups: named tables to choose from.
//!
//! ```toml
//! [groups.model.small]
//! width = 64
//! layers = 2
//!
//! [groups.model.wide]
//! width = 256
//! layers = 3
//!
//! [params]
//! model = "@small"                    # or: [matrix] model = ["@small", "@wide"]
//!
//! [stages.net]
//! kind = "command"
//! argv = ["python3", "train.py", "--width", "${params.model.width}"]      # or: ${matrix.model.width}
//! ```
//!
//! `"@member"` stands for the table of a member, in a parameter or an axis that has the name of the group. Nothing else
//! is new: a chosen parameter is a table like any other, and a chosen value of an axis is a table that is named by the
//! member (see `listed`). `"@*"` in an axis stands for all members. A group that is not chosen from changes nothing, so
//! a file that many pipelines include can define it.
//!
//! On the command line, `-S model=@wide` chooses another member. It is short for `-S params.model=@wide`, or for
//! `-S 'matrix.model=["@wide"]'` if `[matrix]` has that axis. `-S model.width=128` changes a field of the chosen
//! member, which must have it.
//!
//! The choices are made in the tree, after overrides and before types are checked. Each field keeps the place where it
//! is written.

use super::errors::{check_name, suggest};
use super::listed::NAME;
use super::read::{SECTIONS, Segment};
use crate::diagnostic::{Diagnostics, Origin};
use crate::value::{Data, Entry, Node, Table};

/// The section with the groups.
pub(super) const GROUPS: &str = "groups";
/// Begins the name of a member.
const MARK: char = '@';

/// Puts the chosen members in the place of their names.
pub(super) fn choose(root: &mut Table, diagnostics: &mut Diagnostics) {
    let Some(groups) = root.get(GROUPS).cloned() else { return };
    let Data::Table(groups) = &groups.data else {
        let message = format!("`{GROUPS}` must be a table, not {}", groups.data.describe());
        diagnostics.error(&groups.origin, message).help("[groups.NAME.MEMBER]");
        return;
    };
    let groups: Vec<Group<'_>> = groups.0.iter().filter_map(|entry| Group::read(entry, diagnostics)).collect();
    let find = |name: &str| groups.iter().find(|group| group.name == name);
    for entry in &mut root.0 {
        let Data::Table(section) = &mut entry.node.data else { continue };
        match entry.name.as_str() {
            "params" => section.0.iter_mut().for_each(|param| {
                find(&param.name).into_iter().for_each(|group| group.choose_parameter(&mut param.node, diagnostics));
            }),
            "matrix" => choose_axes(section, &find, diagnostics),
            "stages" => section.0.iter_mut().for_each(|stage| {
                if let Data::Table(stage) = &mut stage.node.data
                    && let Some(Entry { node: Node { data: Data::Table(matrix), .. }, .. }) =
                        stage.0.iter_mut().find(|field| field.name == "matrix")
                {
                    choose_axes(matrix, &find, diagnostics);
                }
            }),
            _ => {}
        }
    }
}

fn choose_axes<'g>(matrix: &mut Table, find: &impl Fn(&str) -> Option<&'g Group<'g>>, diagnostics: &mut Diagnostics) {
    for axis in &mut matrix.0 {
        let Some(group) = find(&axis.name) else { continue };
        match &mut axis.node.data {
            Data::List(values) => group.choose_values(values, diagnostics),
            Data::Table(table) => {
                let choice = table.0.iter_mut().find(|field| field.name == "choice");
                if let Some(Entry { node: Node { data: Data::List(values), .. }, .. }) = choice {
                    group.choose_values(values, diagnostics);
                }
            }
            _ => {}
        }
    }
}

/// A group and its members.
struct Group<'a> {
    name: &'a str,
    members: Vec<(&'a str, &'a Table)>,
}

impl<'a> Group<'a> {
    fn read(entry: &'a Entry, diagnostics: &mut Diagnostics) -> Option<Self> {
        check_name("a group", &entry.name, &entry.name_origin, diagnostics);
        let name = entry.name.as_str();
        let Data::Table(written) = &entry.node.data else {
            let message = format!("group `{name}` must be a table of its members, not {}", entry.node.data.describe());
            diagnostics.error(&entry.node.origin, message).help(format!("[groups.{name}.MEMBER]"));
            return None;
        };
        let mut members = Vec::new();
        for member in &written.0 {
            check_name("a member of a group", &member.name, &member.name_origin, diagnostics);
            match &member.node.data {
                Data::Table(fields) => members.push((member.name.as_str(), fields)),
                other => {
                    let (member_name, what) = (&member.name, other.describe());
                    let message = format!("member `{member_name}` of group `{name}` must be a table, not {what}");
                    diagnostics.error(&member.node.origin, message).help(format!("[groups.{name}.{member_name}]"));
                }
            }
        }
        Some(Self { name, members })
    }

    /// The member that a value of a parameter or an axis names. `None` if it names none.
    fn named(&self, node: &Node, diagnostics: &mut Diagnostics) -> Option<(&'a str, &'a Table)> {
        let Data::Text(text) = &node.data else { return None };
        let member = |name: &str| self.members.iter().find(|(member, _)| *member == name).copied();
        let Some(name) = text.strip_prefix(MARK) else {
            if member(text).is_some() {
                let message = format!("{text:?} is a string, not the member of group `{}`", self.name);
                diagnostics.error(&node.origin, message).help(format!("\"{MARK}{text}\" chooses the member"));
            }
            return None;
        };
        let found = member(name);
        if found.is_none() {
            let known = self.members.iter().map(|(member, _)| *member);
            suggest(diagnostics, &node.origin, format!("group `{}` has no member `{name}`", self.name), name, known);
        }
        found
    }

    fn choose_parameter(&self, node: &mut Node, diagnostics: &mut Diagnostics) {
        if let Data::List(items) = &node.data
            && items.iter().any(is_choice)
        {
            let name = self.name;
            let message = format!("the parameter `{name}` chooses one member of its group, not several");
            let help = format!("declare {name} in [matrix] and use ${{matrix.{name}}}");
            diagnostics.error(&node.origin, message).help(help);
        }
        if let Some((_, fields)) = self.named(node, diagnostics) {
            node.data = Data::Table(fields.clone());
        }
    }

    fn choose_values(&self, values: &mut Vec<Node>, diagnostics: &mut Diagnostics) {
        let all = format!("{MARK}*");
        let chosen = values.drain(..).flat_map(|value| match &value.data {
            Data::Text(text) if *text == all => {
                let place = &value.origin;
                self.members.iter().map(|(name, fields)| self.value(name, fields, place, diagnostics)).collect()
            }
            _ => match self.named(&value, diagnostics) {
                Some((name, fields)) => vec![self.value(name, fields, &value.origin, diagnostics)],
                None => vec![value],
            },
        });
        *values = chosen.collect();
    }

    /// A member as value of an axis: a table that is named by the member.
    fn value(&self, name: &str, fields: &Table, place: &Origin, diagnostics: &mut Diagnostics) -> Node {
        let mut table = fields.clone();
        let own = fields.entry(NAME).filter(|field| field.node.data != Data::Text(name.to_owned()));
        if let Some(own) = own {
            let message = format!("member `{name}` of group `{}` has another `{NAME}`", self.name);
            let help = format!("in an axis, `{NAME}` is the name of the member; give this field another name");
            diagnostics.error(&own.name_origin, message).help(help);
        }
        let node = Node { data: Data::Text(name.to_owned()), origin: place.clone() };
        table.set(Entry { name: NAME.to_owned(), name_origin: place.clone(), node });
        Node { data: Data::Table(table), origin: place.clone() }
    }
}

/// The place in the tree of an override that begins with a group: see the head of this module. Other paths stay as they
/// are. `value` becomes a list if it is put into an axis.
pub(super) fn redirect(root: &Table, mut path: Vec<Segment>, value: &mut Node) -> Vec<Segment> {
    let (Some(groups), Some(first)) = (table(root, GROUPS), path.first().cloned()) else { return path };
    let named = |name: &str| Segment { name: name.to_owned(), span: first.span.clone() };
    if groups.get(&first.name).is_some() && !SECTIONS.contains(&first.name.as_str()) {
        let is_axis = table(root, "matrix").is_some_and(|matrix| matrix.get(&first.name).is_some());
        path.insert(0, named(if is_axis { "matrix" } else { "params" }));
        if is_axis && path.len() == 2 && is_choice(value) {
            *value = Node { data: Data::List(vec![value.clone()]), origin: value.origin.clone() };
        }
    }
    if let [section, group, _, ..] = path.as_slice()
        && section.name == "params"
        && groups.get(&group.name).is_some()
        && let Some(Node { data: Data::Text(chosen), .. }) = table(root, "params").and_then(|p| p.get(&group.name))
        && let Some(member) = chosen.strip_prefix(MARK)
    {
        path[0] = named(GROUPS);
        path.insert(2, named(member));
    }
    path
}

/// Checks that the groups, members and fields of an override exist. A misspelt one would have no effect otherwise.
pub(super) fn check(
    root: &Table,
    path: &[Segment],
    value: &Node,
    source: usize,
    diagnostics: &mut Diagnostics,
) -> bool {
    let empty = Table::default();
    let mut table = table(root, GROUPS).unwrap_or(&empty);
    let names: Vec<&str> = path.iter().map(|segment| segment.name.as_str()).collect();
    let steps = match names.as_slice() {
        [name] if is_choice(value) && !SECTIONS.contains(name) => path,
        [GROUPS, _, _, _, ..] => &path[1..4],
        _ => return true,
    };
    for Segment { name, span } in steps {
        table = match table.get(name).map(|node| &node.data) {
            Some(Data::Table(next)) => next,
            Some(_) => return true,
            None => {
                let message = match names.as_slice() {
                    [_, group, member, ..] if member == name => format!("group `{group}` has no member `{name}`"),
                    [_, group, member, field, ..] if field == name => {
                        format!("member `{member}` of group `{group}` has no field `{name}`")
                    }
                    _ => format!("there is no group `{name}`"),
                };
                let known = table.0.iter().map(|entry| entry.name.as_str());
                suggest(diagnostics, &Origin { source, span: span.clone() }, message, name, known);
                return false;
            }
        }
    }
    true
}

fn table<'a>(root: &'a Table, name: &str) -> Option<&'a Table> {
    match &root.get(name)?.data {
        Data::Table(table) => Some(table),
        _ => None,
    }
}

fn is_choice(node: &Node) -> bool {
    matches!(&node.data, Data::Text(text) if text.starts_with(MARK))
}
