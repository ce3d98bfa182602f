//! The sources of a program, and the files of its inputs.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::os::unix::fs::symlink;
use std::path::Path;

use serde_json::Value as JsonValue;

use super::folders::{Folders, make_folder};
use super::words::is_name;
use crate::artifact::metrics::python_json;
use crate::file;
use crate::stage::{Cancel, Files, Input, Inputs, Params, StageError};
use crate::value::{Data, Entry, Node};

/// Reads the parameter `paths`: files and folders that are inputs, by role.
pub(super) fn parse_paths(params: &mut Params<'_>, node: &Node) -> BTreeMap<String, String> {
    const FORM: &str = "write `paths = { images = \"data/images\" }`: a name, and the path of a file or a folder";
    let mut paths = BTreeMap::new();
    let Data::Table(table) = &node.data else {
        params.error_at(&node.origin, format!("`paths` must be a table, not {}", node.data.describe()), FORM);
        return paths;
    };
    for Entry { name, name_origin, node } in &table.0 {
        match &node.data {
            _ if !is_name(name) => {
                let message = format!("`{name}` is not a valid name for an input");
                params.error_at(name_origin, message, "a name consists of A–Z, a–z, 0–9, `_` and `-`");
            }
            _ if params.has_input(name) == Some(true) => {
                let message = format!("the stage has two inputs `{name}`");
                params.error_at(name_origin, message, "`inputs` has another one; choose another name");
            }
            Data::Text(path) if !path.is_empty() && !path.contains('\0') => {
                paths.insert(name.clone(), path.clone());
            }
            other => {
                let message = format!("the path of an input must be a string, not {}", other.describe());
                params.error_at(&node.origin, message, FORM);
            }
        }
    }
    paths
}

/// Links the paths into the folder of the inputs.
pub(super) fn link_paths(paths: &BTreeMap<String, String>, folders: &Folders) -> Result<(), StageError> {
    for (role, path) in paths {
        let link = folders.inputs.join(role);
        let what = format!("can't link {path} as {}", link.display());
        symlink(folders.base.join(path), link).map_err(StageError::io(what))?;
    }
    Ok(())
}

/// The files of a source, as written in the pipeline: the file, or all files below the folder: see
/// [`file::files_below`].
pub(super) fn source_files(source: &str, files: &dyn Files) -> Result<BTreeSet<String>, StageError> {
    let source = source.trim_end_matches('/');
    let path = files.resolve(source);
    let names: BTreeSet<String> = if path.is_dir() {
        let below = file::files_below(&path).map_err(StageError::io(format!("can't list the source {source}")))?;
        below.iter().filter_map(|file| Some(format!("{source}/{}", file.to_str()?))).collect()
    } else {
        BTreeSet::from([source.to_owned()])
    };
    for name in &names {
        let path = files.resolve(name);
        let metadata = fs::metadata(&path).map_err(|error| {
            let hint = format!("looked for {}: {error}", path.display());
            StageError::bad_input(format!("the source `{name}` can't be read"), hint)
        })?;
        if !metadata.is_file() {
            let kind = file::kind(metadata.file_type());
            let message = format!("the source `{name}` is {kind}; a source is a regular file or a folder");
            return Err(StageError::bad_input(message, "name the files that the command reads"));
        }
    }
    Ok(names)
}

/// Writes all inputs below `folder`: a folder for each role, and in it a folder for each member by label.
pub(super) fn write_inputs(inputs: &Inputs, folder: &Path, cancel: &Cancel) -> Result<(), StageError> {
    for (role, members) in &inputs.0 {
        let folder = folder.join(role);
        make_folder(&folder)?;
        for member in members {
            cancel.check()?;
            let own = folder.join(member.label());
            make_folder(&own)?;
            write_input(&**member, &own)?;
            if let [_] = members[..] {
                link_all(&own, &folder)?;
            }
        }
    }
    Ok(())
}

fn write_input(input: &dyn Input, folder: &Path) -> Result<(), StageError> {
    let manifest = input.manifest();
    let json = |value: Result<String, serde_json::Error>| {
        value.map_err(|error| StageError::failed(format!("can't write {} as JSON: {error}", input.label())))
    };
    input.write_to(folder)?;
    write(&folder.join("metrics.json"), python_json(&manifest.metrics).as_bytes())?;
    write(&folder.join("facts.json"), json(serde_json::to_string_pretty(&manifest.facts))?.as_bytes())?;
    if !input.axes().is_empty() {
        let axes: JsonValue = input.axes().iter().map(|(name, value)| (name.clone(), JsonValue::from(value))).collect();
        write(&folder.join("values.json"), format!("{axes:#}").as_bytes())?;
    }
    Ok(())
}

/// Links the files of `from` into `to`.
fn link_all(from: &Path, to: &Path) -> Result<(), StageError> {
    let what = || format!("can't link the files of {}", from.display());
    for entry in fs::read_dir(from).map_err(StageError::io(what()))? {
        let entry = entry.map_err(StageError::io(what()))?;
        if from.file_name() == Some(&entry.file_name()) {
            let name = entry.file_name().display().to_string();
            let message = format!("`{name}` has a file `{name}`, which has the same name as the folder of the input");
            return Err(StageError::bad_input(message, "give that output another file name"));
        }
        link(&entry.path(), &to.join(entry.file_name())).map_err(StageError::io(what()))?;
    }
    Ok(())
}

/// Links a file, or all files below a folder.
fn link(from: &Path, to: &Path) -> io::Result<()> {
    if !from.is_dir() {
        return fs::hard_link(from, to);
    }
    fs::create_dir(to)?;
    fs::read_dir(from)?.try_for_each(|entry| entry.and_then(|entry| link(&entry.path(), &to.join(entry.file_name()))))
}

fn write(path: &Path, bytes: &[u8]) -> Result<(), StageError> {
    fs::write(path, bytes).map_err(StageError::io(format!("can't write {}", path.display())))
}
