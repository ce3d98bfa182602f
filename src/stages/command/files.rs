//! Writes the inputs of a command and reads its outputs.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use jiter::JsonValue;
use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::io::Errno;

use super::folders::{Folders, file_name};
use crate::artifact::metrics::python_json;
use crate::artifact::{Artifact, Tensor, from_safetensors, to_safetensors};
use crate::file::{self, FileError};
use crate::stage::{Cancel, Context, Files, Input, Inputs, StageError};
use crate::system;

/// A file of this size contains half a million metrics.
const MAX_METRICS_BYTES: u64 = 16 << 20;
/// The most bytes of the name of a metric. Tables print all names.
const MAX_METRIC_NAME: usize = 1000;

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
    write(&folder.join("metrics.json"), python_json(&manifest.metrics).as_bytes())?;
    write(&folder.join("facts.json"), json(serde_json::to_string_pretty(&manifest.facts))?.as_bytes())?;
    for name in manifest.files.keys() {
        // The artifact may come from a shared cache, so its names can't be trusted.
        if Path::new(name).file_name() != Some(name.as_ref()) {
            return Err(StageError::failed(format!(
                "{} contains a file with the invalid name `{name}`",
                input.label()
            )));
        }
        write(&folder.join(name), &input.file(name)?)?;
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
        fs::hard_link(entry.path(), to.join(entry.file_name())).map_err(StageError::io(what()))?;
    }
    Ok(())
}

/// Creates the folders of the outputs.
pub(super) fn make_parents(outputs: &BTreeMap<String, String>, folder: &Path) -> Result<(), StageError> {
    outputs.values().filter_map(|path| folder.join(path).parent().map(make_folder)).collect()
}

/// Reads the declared outputs and the metrics, and logs the names of other files.
pub(super) fn collect(
    outputs: &BTreeMap<String, String>,
    folders: &Folders,
    context: &Context<'_>,
) -> Result<Artifact, StageError> {
    let mut artifact = Artifact { metrics: read_metrics(&folders.metrics)?, ..Artifact::default() };
    let tables = outputs.values().filter(|path| is_safetensors(path)).count();
    for (role, path) in outputs {
        context.cancel.check()?;
        // An artifact is in memory, so no output may be larger than that.
        let bytes = read_output(role, path, &folders.outputs, system::memory())?;
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
        context.progress.log(&format!("not kept, because `outputs` does not declare it: {}", extra.join(", ")));
    }
    Ok(artifact)
}

fn is_safetensors(path: &str) -> bool {
    path.ends_with(".safetensors")
}

/// Reads an output below `folder`. A link anywhere in the path is an error. Each part of the path is opened relative to
/// the previous one, so that nothing can be replaced between the check and the read.
fn read_output(role: &str, path: &str, folder: &Path, limit: u64) -> Result<Vec<u8>, StageError> {
    let what = format!("the output `{role}` ({path})");
    let mut file = open_below(CWD, folder, OFlags::DIRECTORY).map_err(|error| cannot_open(&what, error))?;
    for part in path.split('/') {
        file = open_below(&file, part, OFlags::NOFOLLOW).map_err(|error| match error {
            Errno::NOENT => StageError::failed(format!(
                "the command did not write its output `{role}`; write it to {{outputs.{role}}}, or to `{path}` in the \
                 folder that the command starts in"
            )),
            error => cannot_open(&what, error),
        })?;
    }
    read_file(&what, file, limit)
}

/// Opens a file without waiting, even if it is a FIFO.
fn open_below(folder: impl AsFd, name: impl rustix::path::Arg, flags: OFlags) -> Result<OwnedFd, Errno> {
    let flags = flags | OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    openat(folder, name, flags, Mode::empty())
}

fn cannot_open(what: &str, error: Errno) -> StageError {
    match error {
        Errno::LOOP => StageError::failed(format!("{what} is a link or is behind one")),
        Errno::NOTDIR => StageError::failed(format!("{what} is below something that is not a folder")),
        // The error for a socket.
        Errno::NXIO => StageError::failed(format!("{what} is not a plain file: it is a socket")),
        error => StageError::Io { what: format!("can't open {what}"), source: error.into() },
    }
}

fn read_file(what: &str, file: OwnedFd, limit: u64) -> Result<Vec<u8>, StageError> {
    file::read_from(file.into(), limit).map_err(|error| match error {
        FileError::NotRegular(kind) => StageError::failed(format!("{what} is not a plain file: it is {kind}")),
        FileError::TooLong { limit } => StageError::failed(format!("{what} has more than {limit} bytes, the limit")),
        FileError::Io(source) => StageError::Io { what: format!("can't read {what}"), source },
    })
}

fn read_metrics(path: &Path) -> Result<BTreeMap<String, f64>, StageError> {
    const WHAT: &str = "the metrics file";
    let file = match open_below(CWD, path, OFlags::NOFOLLOW) {
        Err(Errno::NOENT) => return Ok(BTreeMap::new()),
        opened => opened.map_err(|error| cannot_open(WHAT, error))?,
    };
    let text = read_file(WHAT, file, MAX_METRICS_BYTES)?;
    let wrong = |what: String| StageError::failed(format!("{WHAT} must be a JSON object of numbers: {what}"));
    let value = JsonValue::parse(&text, true).map_err(|error| wrong(error.description(&text)))?;
    let JsonValue::Object(object) = value else { return Err(wrong("it is not an object".to_owned())) };
    object
        .iter()
        .map(|(name, value)| match metric(value) {
            _ if name.len() > MAX_METRIC_NAME => {
                let (start, length) = (shortened(name), name.len());
                Err(wrong(format!("the name `{start}` has {length} bytes; the limit is {MAX_METRIC_NAME}")))
            }
            Ok(number) => Ok((name.clone().into_owned(), number)),
            Err(what) => Err(wrong(format!("`{name}` is {what}"))),
        })
        .collect()
}

/// The value of a metric, which may be NaN or infinite, as Python writes it. Otherwise, what it is instead.
fn metric(value: &JsonValue<'_>) -> Result<f64, String> {
    match value {
        JsonValue::Int(number) => Ok(*number as f64),
        JsonValue::BigInt(number) => number.to_string().parse().map_err(|_| "not a number".to_owned()),
        JsonValue::Float(number) => Ok(*number),
        JsonValue::Null => Err("null".to_owned()),
        JsonValue::Bool(truth) => Err(truth.to_string()),
        JsonValue::Str(text) => Err(shortened(&format!("{text:?}"))),
        JsonValue::Array(_) => Err("a list".to_owned()),
        JsonValue::Object(_) => Err("an object".to_owned()),
    }
}

/// The beginning of a long text.
fn shortened(text: &str) -> String {
    const MOST: usize = 60;
    let start: String = text.chars().take(MOST).collect();
    if start.len() < text.len() { start + "…" } else { start }
}

/// The names of at most ten files below the output folder that are not declared, sorted.
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
    fs::create_dir_all(path).map_err(StageError::io(format!("can't create the folder {}", path.display())))
}

fn write(path: &Path, bytes: &[u8]) -> Result<(), StageError> {
    fs::write(path, bytes).map_err(StageError::io(format!("can't write {}", path.display())))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn output_must_be_a_regular_file_without_links_in_its_path() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        fs::create_dir(at("d")).unwrap();
        fs::write(at("d/plain"), "text").unwrap();
        symlink(at("d"), at("linked")).unwrap();
        symlink("plain", at("d/link")).unwrap();
        rustix::fs::mknodat(CWD, at("d/fifo"), rustix::fs::FileType::Fifo, Mode::RUSR, 0).unwrap();
        let _socket = std::os::unix::net::UnixListener::bind(at("d/socket")).unwrap();
        let read = |path: &str| read_output("o", path, dir.path(), 4).map_err(|error| error.to_string());
        assert_eq!(read("d/plain"), Ok(b"text".to_vec()));
        let refused = |path: &str, what: &str| assert_eq!(read(path), Err(format!("the output `o` ({path}) {what}")));
        refused("linked/plain", "is a link or is behind one");
        refused("d/link", "is a link or is behind one");
        refused("d/plain/x", "is below something that is not a folder");
        refused("d/fifo", "is not a plain file: it is a FIFO");
        refused("d/socket", "is not a plain file: it is a socket");
        refused("d", "is not a plain file: it is a directory");
        fs::write(at("d/plain"), "text!").unwrap();
        refused("d/plain", "has more than 4 bytes, the limit");
    }

    #[test]
    fn metrics_are_limited_in_size_and_length_of_names() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("metrics.json");
        let read = || read_metrics(&path).map_err(|error| error.to_string());
        assert_eq!(read(), Ok(BTreeMap::new()), "metrics are optional");
        // Sparse: a file of a tebibyte that takes no disk must take no memory either.
        fs::File::create(&path).unwrap().set_len(1 << 40).unwrap();
        assert_eq!(read(), Err("the metrics file has more than 16777216 bytes, the limit".to_owned()));
        fs::write(&path, format!("{{\"{}\": 1}}", "n".repeat(1001))).unwrap();
        let message = read().unwrap_err();
        assert!(message.ends_with("…` has 1001 bytes; the limit is 1000") && message.len() < 200, "{message}");
        fs::write(&path, format!("{{\"{}\": 1}}", "n".repeat(1000))).unwrap();
        assert_eq!(read().map(|metrics| metrics.len()), Ok(1));
        fs::write(
            &path,
            r#"{"a": NaN, "b": Infinity, "c": -Infinity, "d": 1, "e": 1e999, "f": 123456789012345678901}"#,
        )
        .unwrap();
        let values: Vec<f64> = read().unwrap().into_values().collect();
        assert!(values[0].is_nan());
        assert_eq!(values[1..], [f64::INFINITY, f64::NEG_INFINITY, 1.0, f64::INFINITY, 123456789012345678901.0]);
        for (text, what) in
            [("null", "null"), ("true", "true"), ("\"x\"", "\"x\""), ("[1]", "a list"), ("{}", "an object")]
        {
            fs::write(&path, format!("{{\"a\": {text}}}")).unwrap();
            assert_eq!(read(), Err(format!("the metrics file must be a JSON object of numbers: `a` is {what}")));
        }
        fs::write(&path, "{\"a\": 1,\n}").unwrap();
        insta::assert_snapshot!(read().unwrap_err(), @"the metrics file must be a JSON object of numbers: trailing comma at line 2 column 1");
        fs::remove_file(&path).unwrap();
        symlink("elsewhere", &path).unwrap();
        assert_eq!(read(), Err("the metrics file is a link or is behind one".to_owned()));
    }
}
