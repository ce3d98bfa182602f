//! A command's files: inputs written out, outputs taken in.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::Path;

use super::{Folders, file_name};
use crate::artifact::{Artifact, Tensor, from_safetensors, to_safetensors};
use crate::stage::{Cancel, Context, Files, Input, Inputs, StageError};

/// The files of a source as written in the pipeline: itself, or all files below a folder but hidden ones and Python's
/// `__pycache__`, which the command itself may write.
pub(super) fn source_files(source: &str, files: &dyn Files) -> Result<BTreeSet<String>, StageError> {
    let mut found = BTreeSet::new();
    let mut open = vec![source.trim_end_matches('/').to_owned()];
    while let Some(name) = open.pop() {
        let path = files.resolve(&name);
        let metadata = fs::metadata(&path).map_err(|error| {
            let hint = format!("looked for {}: {error}", path.display());
            StageError::bad_input(format!("the source `{name}` can't be read"), hint)
        })?;
        if metadata.is_file() {
            found.insert(name);
            continue;
        }
        let what = format!("can't list the source {name}");
        for entry in fs::read_dir(&path).map_err(StageError::io(what.clone()))? {
            let entry = entry.map_err(StageError::io(what.clone()))?;
            let linked_folder = entry.file_type().is_ok_and(|t| t.is_symlink()) && entry.path().is_dir();
            match entry.file_name().to_str() {
                // A link to a folder may lead in circles.
                Some(child) if !child.starts_with('.') && child != "__pycache__" && !linked_folder => {
                    open.push(format!("{name}/{child}"));
                }
                _ => {}
            }
        }
    }
    Ok(found)
}

/// Writes all inputs below `folder`, by role and, where a role has members, by label.
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
    let tensors = manifest
        .tensors
        .keys()
        .map(|name| Ok((name.as_str(), input.tensor(name)?)))
        .collect::<Result<Vec<(&str, Tensor)>, StageError>>()?;
    let bytes = to_safetensors(tensors.iter().map(|(name, tensor)| (*name, tensor)))?;
    write(&folder.join("artifact.safetensors"), &bytes)?;
    let json = |value: Result<String, serde_json::Error>| {
        value.map_err(|error| StageError::failed(format!("can't write {} as JSON: {error}", input.label())))
    };
    write(&folder.join("metrics.json"), json(serde_json::to_string_pretty(&manifest.metrics))?.as_bytes())?;
    write(&folder.join("facts.json"), json(serde_json::to_string_pretty(&manifest.facts))?.as_bytes())?;
    for name in manifest.files.keys() {
        // Names of files in artifacts are ours, but an artifact may have come out of a shared cache.
        if Path::new(name).file_name() != Some(name.as_ref()) {
            return Err(StageError::failed(format!("{} holds a file with the name `{name}`", input.label())));
        }
        write(&folder.join(name), &input.file(name)?)?;
    }
    Ok(())
}

/// Makes the files of `from` appear in `to` as well, without a second copy.
fn link_all(from: &Path, to: &Path) -> Result<(), StageError> {
    let what = || format!("can't link the files of {}", from.display());
    for entry in fs::read_dir(from).map_err(StageError::io(what()))? {
        let entry = entry.map_err(StageError::io(what()))?;
        fs::hard_link(entry.path(), to.join(entry.file_name())).map_err(StageError::io(what()))?;
    }
    Ok(())
}

/// Makes the folders that outputs are to be written in.
pub(super) fn make_parents(outputs: &BTreeMap<String, String>, folder: &Path) -> Result<(), StageError> {
    outputs.values().filter_map(|path| folder.join(path).parent().map(make_folder)).collect()
}

/// Takes the declared outputs and the metrics, and says in the log what else was written.
pub(super) fn collect(
    outputs: &BTreeMap<String, String>,
    folders: &Folders,
    context: &Context<'_>,
) -> Result<Artifact, StageError> {
    let mut artifact = Artifact { metrics: read_metrics(&folders.metrics)?, ..Artifact::default() };
    let tables = outputs.values().filter(|path| is_safetensors(path)).count();
    for (role, path) in outputs {
        context.cancel.check()?;
        let bytes = read_output(role, path, &folders.outputs)?;
        if !is_safetensors(path) {
            artifact.files.insert(file_name(path).to_owned(), bytes);
            continue;
        }
        let tensors = from_safetensors(&bytes)
            .map_err(|error| StageError::failed(format!("the output `{role}` ({path}) can't be used: {error}")))?;
        for (name, tensor) in tensors {
            let name = if tables == 1 { name } else { format!("{role}.{name}") };
            artifact.tensors.insert(name, tensor);
        }
    }
    let declared: BTreeSet<&str> = outputs.values().map(String::as_str).collect();
    let extra = undeclared(&folders.outputs, &declared);
    if !extra.is_empty() {
        context.progress.log(&format!("written but not declared in `outputs`, so not kept: {}", extra.join(", ")));
    }
    Ok(artifact)
}

fn is_safetensors(path: &str) -> bool {
    path.ends_with(".safetensors")
}

fn read_output(role: &str, path: &str, folder: &Path) -> Result<Vec<u8>, StageError> {
    let mut so_far = folder.to_owned();
    let mut regular = false;
    for part in path.split('/') {
        so_far.push(part);
        let metadata = fs::symlink_metadata(&so_far).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => StageError::failed(format!(
                "the command did not write its output `{role}`; it belongs at {{outputs.{role}}}, or at `{path}` in the \
                 folder that the command starts in"
            )),
            _ => StageError::Io { what: format!("can't look at the output `{role}` ({path})"), source: error },
        })?;
        if metadata.is_symlink() {
            return Err(StageError::failed(format!("the output `{role}` ({path}) is a link or lies behind one")));
        }
        regular = metadata.is_file();
    }
    if !regular {
        return Err(StageError::failed(format!("the output `{role}` ({path}) is not a plain file")));
    }
    fs::read(&so_far).map_err(StageError::io(format!("can't read the output `{role}` ({path})")))
}

fn read_metrics(path: &Path) -> Result<BTreeMap<String, f64>, StageError> {
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(BTreeMap::new()),
        Ok(metadata) if metadata.is_file() => {}
        _ => return Err(StageError::failed("the metrics file is not a plain file")),
    }
    let text = fs::read(path).map_err(StageError::io("can't read the metrics file"))?;
    let wrong = |what: String| StageError::failed(format!("the metrics file must be a JSON object of numbers: {what}"));
    let value: serde_json::Value = serde_json::from_slice(&text).map_err(|error| wrong(error.to_string()))?;
    let serde_json::Value::Object(object) = value else { return Err(wrong("it is no object".to_owned())) };
    object
        .into_iter()
        .map(|(name, value)| match value.as_f64().filter(|v| v.is_finite()) {
            Some(number) => Ok((name, number)),
            None => Err(wrong(format!("`{name}` is {value}"))),
        })
        .collect()
}

/// Files below the output folder that nobody declared: at most ten names, sorted.
fn undeclared(folder: &Path, declared: &BTreeSet<&str>) -> Vec<String> {
    let mut found = BTreeSet::new();
    let mut open = vec![(folder.to_owned(), String::new())];
    while let Some((path, prefix)) = open.pop() {
        for entry in fs::read_dir(path).into_iter().flatten().flatten() {
            let name = format!("{prefix}{}", entry.file_name().to_string_lossy());
            if entry.file_type().is_ok_and(|t| t.is_dir()) {
                open.push((entry.path(), format!("{name}/")));
            } else if !declared.contains(name.as_str()) {
                found.insert(name);
            }
        }
    }
    found.into_iter().take(10).collect()
}

fn make_folder(path: &Path) -> Result<(), StageError> {
    fs::create_dir_all(path).map_err(StageError::io(format!("can't make the folder {}", path.display())))
}

fn write(path: &Path, bytes: &[u8]) -> Result<(), StageError> {
    fs::write(path, bytes).map_err(StageError::io(format!("can't write {}", path.display())))
}
