//! Reads a pipeline: TOML → a tree with places in the source → overrides (`-S`) → stages with axes → points.
//!
//! ```text
//! texts ─read, include─► Node tree ─overrides, groups─► Node tree
//!       ─header, params, matrix, stages─► axes of every stage ─expand─► points
//! ```
//!
//! - `read`: turns TOML text into a tree of nodes with places; reports all syntax errors at once.
//! - `include`: puts the tables of other files beneath those of the file.
//! - `overrides`: each `-S path=value` is a separate source; it is put into the tree before types are checked.
//! - `groups`: puts the chosen members of groups in the place of their names.
//! - `template`: replaces `${params.x}`, `${matrix.axis}` and `${pipeline.seed}`. Replacements are not scanned for
//!   references.
//! - `values`: the values of an axis: lists, ranges, samples.
//! - `listed`: the values in a list, and their form in point names.
//! - `matrix`: all axes, and the combinations of their values.
//! - `prune`: which points are stopped early.
//! - `stages`: the runner's own fields of a stage's table (`kind`, `inputs`, `matrix`, `at`, `seed`, `resources`).
//! - `resources`: what a stage needs of the machine that runs it.
//! - `roles`: whether inputs provide what the roles of their stage need.
//! - `axes`: the axes of each stage, found in dependency order, and their combinations.
//! - `parameters`: a stage's parameters, overridden by its `at` and parsed by its kind.
//! - `expand`: makes one point for each combination, and links its inputs.
//!
//! A step that finds an error adds a diagnostic and continues, so that all errors are reported together. The cost is
//! linear in the size of the text and in the number of points. A stage's parameters are parsed once for each
//! combination of the axes that they use, not once for each point.

mod axes;
mod axis;
mod errors;
mod expand;
mod groups;
mod header;
mod include;
mod listed;
mod matrix;
mod overrides;
mod parameters;
mod pipeline;
mod prune;
mod read;
mod resources;
mod roles;
mod stages;
mod template;
mod values;
mod workload;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;

pub use crate::stage::Precision;
pub use include::ReadFile;
pub use pipeline::{DeviceChoice, Header, Mode, Point, PointInput, Prune, Spec, StageSpec};
pub use resources::{Resources, cpus_in_words, memory_in_words, parse_memory, parse_time, time_in_words};
pub use workload::Workload;

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use self::include::{INCLUDE, Includes};
use crate::diagnostic::{Diagnostic, Diagnostics, Origin, SourceKind, Sources};
use crate::error::Error;
use crate::file;
use crate::id::StageId;
use crate::stage::Registry;
use crate::value::{Data, Entry, Node, Table};

/// The most bytes of a pipeline file. One with a million points is far smaller.
pub const MAX_BYTES: u64 = 64 << 20;

/// Reads a pipeline and the files that it includes. `file_name` is used in messages, `base` is the folder for relative
/// paths, and `overrides` are the values of `-S` in their order.
///
/// # Errors
/// All errors in the text, as one error (exit code 2) that quotes each place.
pub fn load(
    text: &str,
    file_name: &str,
    base: &Path,
    overrides: &[String],
    registry: &Registry,
) -> Result<Spec, Error> {
    load_with(text, file_name, base, overrides, registry, &|path| file::read(path, MAX_BYTES))
}

/// Like [`load`], and reads included files with `read`.
///
/// # Errors
/// As [`load`].
pub fn load_with(
    text: &str,
    file_name: &str,
    base: &Path,
    overrides: &[String],
    registry: &Registry,
    read: &ReadFile<'_>,
) -> Result<Spec, Error> {
    let mut sources = Sources::default();
    let mut diagnostics = Diagnostics::default();
    let file = sources.add(SourceKind::Pipeline, file_name, text);
    let root = read::document(text, file, &mut diagnostics);
    let mut root = Includes::new(file_name, base, read, &mut sources, &mut diagnostics).merged(root);
    let broken = !diagnostics.is_empty();
    overrides::apply(overrides, &mut root, &mut sources, &mut diagnostics);
    let before = diagnostics.0.len();
    groups::choose(&mut root, &mut diagnostics);
    if broken || diagnostics.0.len() > before {
        // Further errors would only follow from these.
        std::mem::take(&mut diagnostics).into_result(&sources)?;
    }
    overrides::report_unused_params(&root, &sources, &mut diagnostics);
    let found = typed(&root, &sources, registry, &mut diagnostics);
    diagnostics.into_result(&sources)?;
    let Typed { pipeline, stages, points, prune, warnings } = found;
    Ok(Spec { sources, pipeline, stages, points, prune, base: base.to_owned(), warnings })
}

/// The files that a pipeline includes, directly or indirectly. Some of them may be missing, and the pipeline may have
/// errors.
pub fn included_files(pipeline: &Path) -> BTreeSet<PathBuf> {
    let Ok(bytes) = file::read(pipeline, MAX_BYTES) else { return BTreeSet::new() };
    let (mut sources, mut diagnostics) = (Sources::default(), Diagnostics::default());
    let name = pipeline.display().to_string();
    let Some(file) = sources.add_bytes(SourceKind::Pipeline, &name, bytes, &mut diagnostics) else {
        return BTreeSet::new();
    };
    let root = read::document(&sources.0[file].text, file, &mut diagnostics);
    let base = pipeline.parent().unwrap_or(Path::new(""));
    let read = |path: &Path| file::read(path, MAX_BYTES);
    let mut includes = Includes::new(&name, base, &read, &mut sources, &mut diagnostics);
    includes.merged(root);
    includes.into_paths()
}

/// The result of [`typed`].
struct Typed {
    pipeline: Header,
    stages: Vec<StageSpec>,
    points: Vec<Point>,
    prune: Option<Prune>,
    warnings: Vec<Diagnostic>,
}

/// Types and expands the whole tree. After an error the result must not be used.
fn typed(root: &Table, sources: &Sources, registry: &Registry, diagnostics: &mut Diagnostics) -> Typed {
    let known = |e: &&Entry| read::SECTIONS.contains(&e.name.as_str());
    for entry in root.0.iter().filter(|e| !known(e)) {
        let message = format!("unknown section `{}`", entry.name);
        let names = read::SECTIONS.into_iter().chain([INCLUDE]);
        errors::suggest(diagnostics, &entry.name_origin, message, &entry.name, names);
    }
    let params = template::params(&section(root, "params", diagnostics).unwrap_or_default(), sources, diagnostics);
    let filled = |name: &str, diagnostics: &mut Diagnostics| {
        let section = section(root, name, diagnostics)?;
        Some(template::Scope::of_params(&params, sources).fill_table(&section, diagnostics).unwrap_or_default())
    };
    let place = root.entry("pipeline").map_or(Origin { source: 0, span: 0..0 }, |e| e.name_origin.clone());
    let pipeline = filled("pipeline", diagnostics);
    let header = pipeline.map_or_else(Header::default, |section| header::read(&section, &place, diagnostics));
    let swept = filled("matrix", diagnostics).unwrap_or_default();
    let mut matrix = matrix::Matrix::read(&swept, diagnostics);

    let stages = section(root, "stages", diagnostics);
    let missing = stages.as_ref().is_some_and(|s| s.0.is_empty());
    let written = stages.unwrap_or_default();
    // If a section is misspelt, that error is enough.
    if missing && root.0.iter().all(|e| known(&e)) {
        let error = diagnostics.error(&place, "the pipeline has no stages");
        error.help("add a table such as [stages.data]");
    }
    let names = written.0.iter().map(|e| e.name.as_str()).zip(StageId::first(written.0.len())).collect();
    let reader = stages::Reader { registry, sources, params: &params, names };
    let drafts = reader.stages(&written, &mut matrix, diagnostics);
    roles::check(&drafts, registry, diagnostics);
    let shapes = axes::shapes(&drafts, &matrix, diagnostics);
    let seed = header.seed;
    let expansion =
        parameters::Expansion { sources, params: &params, matrix: &matrix, drafts: &drafts, shapes: &shapes, seed };
    let (points, ranges) = expansion.points(diagnostics);
    // An override may have replaced the only use of an axis. That is not an error: a value can be fixed for one
    // command.
    let overrides = sources.0.iter().filter(|s| s.kind == SourceKind::Override);
    let fixed = overrides.into_iter().any(|s| s.text.trim_start().starts_with("stages"));
    if diagnostics.is_empty() && !fixed {
        axes::check_use(&shapes, &matrix, diagnostics);
    }
    let stages = drafts.iter().zip(&shapes).zip(ranges).map(|((draft, shape), points)| StageSpec {
        name: draft.name.to_owned(),
        kind: draft.kind_name.clone(),
        axes: shape.axes.iter().map(|a| matrix.axis(*a).name.clone()).collect(),
        points,
        origin: draft.origin.clone(),
    });
    let stages: Vec<StageSpec> = stages.collect();
    let prune = prune::read(&swept, &stages, &points, diagnostics);
    Typed { pipeline: header, stages, points, prune, warnings: matrix.warnings() }
}

/// A section of the file, empty if it is missing. Reports a section that is not a table and returns `None`.
fn section<'a>(root: &'a Table, name: &str, diagnostics: &mut Diagnostics) -> Option<Cow<'a, Table>> {
    match root.get(name) {
        None => Some(Cow::Owned(Table::default())),
        Some(Node { data: Data::Table(table), .. }) => Some(Cow::Borrowed(table)),
        Some(node) => {
            diagnostics.error(&node.origin, format!("`{name}` must be a table, not {}", node.data.describe()));
            None
        }
    }
}
