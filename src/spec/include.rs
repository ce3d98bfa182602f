//! `include = ["common.toml"]`: other files whose tables are put beneath those of this file.
//!
//! ```toml
//! include = ["common.toml", "../models.toml"]     # above the first table; relative to the folder of this file
//!
//! [stages.data]
//! train = 2000                                    # the other fields are those of common.toml
//! ```
//!
//! The result is one tree, which is then read as if it were one file:
//!
//! - Tables merge, at every depth. Any other value replaces the included one. So does an axis in a `matrix`, since half
//!   of a range and half of a list of samples make no axis.
//! - This file wins over the files that it includes, and later ones in the list win over earlier ones.
//! - Included tables come first, as if their text stood above this file's. A table or a value that is written again
//!   keeps its first position. This is the order of axes and points.
//! - An included file may include others. A file may be included several times, but not by itself.
//! - The folder of the pipeline is that of the main file. Paths of data, scripts and sources start from there, also if
//!   they are written in an included file.
//!
//! Each file is a source of its own, so every error quotes the file, line and column where the text at fault is
//! written.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use super::read;
use crate::diagnostic::{Diagnostics, Origin, SourceKind, Sources, nearest};
use crate::file::FileError;
use crate::value::{Data, Entry, Node, Table};

/// The field of a file that lists others.
pub(super) const INCLUDE: &str = "include";

/// The longest chain of files that include each other.
const MAX_DEPTH: usize = 32;
/// The most files that a pipeline includes.
const MAX_FILES: usize = 1_000;

/// Reads a file by its path.
pub type ReadFile<'a> = dyn Fn(&Path) -> Result<Vec<u8>, FileError> + 'a;

/// A file that is being read.
struct OpenFile {
    /// Its name in messages.
    name: String,
    /// Its folder, in which it includes others.
    folder: PathBuf,
    /// Its path without links, to recognize it.
    id: PathBuf,
}

impl OpenFile {
    fn new(name: String, path: &Path) -> Self {
        let folder = path.parent().map(Path::to_owned).unwrap_or_default();
        Self { name, folder, id: path.canonicalize().unwrap_or_else(|_| path.to_owned()) }
    }
}

/// Reads the files that a pipeline includes.
pub(super) struct Includes<'a> {
    read: &'a ReadFile<'a>,
    sources: &'a mut Sources,
    diagnostics: &'a mut Diagnostics,
    /// The files by path, with everything that they include. `None` if it can't be read.
    files: BTreeMap<PathBuf, Option<Table>>,
    /// The chain of files that include the current one, from the main file on.
    open: Vec<OpenFile>,
}

impl<'a> Includes<'a> {
    /// A reader for the pipeline with this file name in this folder.
    pub(super) fn new(
        file_name: &str,
        base: &Path,
        read: &'a ReadFile<'a>,
        sources: &'a mut Sources,
        diagnostics: &'a mut Diagnostics,
    ) -> Self {
        let path = base.join(Path::new(file_name).file_name().unwrap_or_default());
        let open = vec![OpenFile::new(file_name.to_owned(), &path)];
        Self { read, sources, diagnostics, files: BTreeMap::new(), open }
    }

    /// The table of the current file, with those of the files that it includes beneath it.
    pub(super) fn merged(&mut self, mut table: Table) -> Table {
        let Some(position) = table.0.iter().position(|e| e.name == INCLUDE) else { return table };
        let entry = table.0.remove(position);
        let mut beneath = Table::default();
        for (file, origin) in self.list(&entry.node) {
            if let Some(included) = self.file(&file, &origin) {
                merge(&mut beneath, included, &mut Vec::new());
            }
        }
        merge(&mut beneath, table, &mut Vec::new());
        beneath
    }

    /// The paths of all files that were included, even if they can't be read.
    pub(super) fn into_paths(self) -> BTreeSet<PathBuf> {
        self.files.into_keys().collect()
    }

    /// The names of the files in a list.
    fn list(&mut self, node: &Node) -> Vec<(String, Origin)> {
        let Data::List(items) = &node.data else {
            let message = format!("`{INCLUDE}` must be a list of files, not {}", node.data.describe());
            self.diagnostics.error(&node.origin, message).help("include = [\"common.toml\"]");
            return vec![];
        };
        let mut files = Vec::new();
        for item in items {
            match &item.data {
                Data::Text(file) if !file.is_empty() => files.push((file.clone(), item.origin.clone())),
                Data::Text(_) => drop(self.diagnostics.error(&item.origin, "this file has no name")),
                other => {
                    let message = format!("`{INCLUDE}` must hold names of files, not {}", other.describe());
                    self.diagnostics.error(&item.origin, message);
                }
            }
        }
        files
    }

    /// A file with everything that it includes. `None` after an error.
    fn file(&mut self, written: &str, place: &Origin) -> Option<Table> {
        let by = self.open.last()?;
        let path = by.folder.join(written);
        let name = Path::new(&by.name).parent().unwrap_or(Path::new("")).join(written).display().to_string();
        let file = OpenFile::new(name, &path);
        if let Some(first) = self.open.iter().position(|open| open.id == file.id) {
            let mut chain: Vec<&str> = self.open[first..].iter().map(|open| open.name.as_str()).collect();
            chain.push(chain[0]);
            let message = format!("these files include each other: {}", chain.join(" → "));
            self.diagnostics.error(place, message).help("a file can't include itself; remove one of these includes");
            return None;
        }
        if let Some(known) = self.files.get(&path) {
            return known.clone();
        }
        if self.open.len() > MAX_DEPTH || self.files.len() >= MAX_FILES {
            let message = format!("too many files: at most {MAX_FILES}, and {MAX_DEPTH} that include each other");
            self.diagnostics.error(place, message);
            return None;
        }
        self.files.insert(path.clone(), None);
        let table = self.text(&path, &file.name, place).map(|source| {
            let table = read::document(&self.sources.0[source].text, source, self.diagnostics);
            self.open.push(file);
            let merged = self.merged(table);
            self.open.pop();
            merged
        });
        self.files.insert(path, table.clone());
        table
    }

    /// Adds the text of a file to the sources.
    fn text(&mut self, path: &Path, name: &str, place: &Origin) -> Option<usize> {
        match (self.read)(path) {
            Ok(bytes) => self.sources.add_bytes(SourceKind::Included(path.to_owned()), name, bytes, self.diagnostics),
            Err(error) => {
                let error = self.diagnostics.error(place, format!("can't read the included file {name}: {error}"));
                error.help = similar(path).map(|near| format!("did you mean `{near}`?"));
                None
            }
        }
    }
}

/// The name of the file that is most similar to a missing one in its folder.
fn similar(path: &Path) -> Option<String> {
    let name = path.file_name()?.to_str()?;
    let entries = std::fs::read_dir(path.parent()?).ok()?;
    let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let mut names: Vec<String> = names.filter(|name| name.ends_with(".toml")).collect();
    names.sort_unstable();
    nearest(name, names.iter().map(String::as_str)).filter(|near| *near != name).map(str::to_owned)
}

/// Puts `over` on top of `table`. `path` leads to these tables.
fn merge(table: &mut Table, over: Table, path: &mut Vec<String>) {
    let is_matrix = match path.as_slice() {
        [matrix] => matrix == "matrix",
        [stages, _, matrix] => stages == "stages" && matrix == "matrix",
        _ => false,
    };
    for Entry { name, name_origin, node } in over.0 {
        let replaces = is_matrix && name != "prune";
        let Some(beneath) = table.0.iter_mut().find(|e| e.name == name) else {
            table.0.push(Entry { name, name_origin, node });
            continue;
        };
        beneath.name_origin = name_origin;
        match (&mut beneath.node, node) {
            (Node { data: Data::Table(table), origin }, Node { data: Data::Table(over), origin: place })
                if !replaces =>
            {
                *origin = place;
                path.push(name);
                merge(table, over, path);
                path.pop();
            }
            (value, node) => *value = node,
        }
    }
}
