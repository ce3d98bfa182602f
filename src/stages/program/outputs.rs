//! The outputs of a program: how they are declared, and how they are read when the program has ended.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Component, Path};

use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::io::Errno;

use super::folders::{Folders, file_name, make_folder};
use super::json::{Field, fields, shortened};
use super::words::is_name;
use crate::artifact::{Artifact, FileOnDisk, TensorFileOnDisk, from_safetensors, is_tensor_file};
use crate::file::{self, FileError};
use crate::stage::{Context, Params, StageError};
use crate::system;
use crate::value::{Data, Node};

/// A larger output stays on the disk until it is stored.
const MAX_FILE_IN_MEMORY: u64 = 1 << 20;
/// The most bytes of smaller outputs that are in memory.
const MAX_IN_MEMORY: u64 = 64 << 20;
/// A file of this size contains half a million metrics.
const MAX_METRICS_BYTES: u64 = 16 << 20;
/// The most bytes of the name of a metric. Tables print all names.
pub(in crate::stages) const MAX_METRIC_NAME: usize = 1000;
/// Names of files that vadpipe writes to an input folder. An output can't have such a name.
const RESERVED: [&str; 3] = ["artifact.safetensors", "metrics.json", "facts.json"];

/// Reads the parameter `outputs`: paths below the output folder by role. The path of a folder ends with `/`.
pub(super) fn parse(params: &mut Params<'_>, node: &Node) -> BTreeMap<String, String> {
    const FORM: &str = "write `outputs = { plot = \"plot.png\" }`: a name, and a path below the output folder; the path \
                        of a folder ends with `/`";
    let mut outputs: BTreeMap<String, String> = BTreeMap::new();
    let Data::Table(table) = &node.data else {
        params.error_at(&node.origin, format!("`outputs` must be a table, not {}", node.data.describe()), FORM);
        return outputs;
    };
    for entry in &table.0 {
        if !is_name(&entry.name) {
            let message = format!("`{}` is not a valid name for an output", entry.name);
            params.error_at(&entry.name_origin, message, "a name consists of A–Z, a–z, 0–9, `_` and `-`");
            continue;
        }
        let Data::Text(path) = &entry.node.data else {
            let message = format!("an output must be a string, not {}", entry.node.data.describe());
            params.error_at(&entry.node.origin, message, FORM);
            continue;
        };
        if let Some(problem) = output_problem(path) {
            let message = format!("the output `{path}` {problem}");
            params.error_at(&entry.node.origin, message, "an output is a path below the output folder of the stage");
            continue;
        }
        let name = file_name(path);
        let rival = outputs.values().map(|other| file_name(other)).find(|o| o.to_lowercase() == name.to_lowercase());
        if rival == Some(name) {
            let message = format!("two outputs have the file name `{name}`");
            params.error_at(&entry.node.origin, message, "the files of an artifact need different names");
        } else if let Some(rival) = rival {
            let message = format!("the outputs `{rival}` and `{name}` differ only in case");
            params.error_at(&entry.node.origin, message, "some file systems ignore case");
        }
        outputs.insert(entry.name.clone(), path.clone());
    }
    outputs
}

/// Why a path is not valid for an output.
fn output_problem(path: &str) -> Option<&'static str> {
    let path = path.strip_suffix('/').unwrap_or(path);
    let as_path = Path::new(path);
    if path.is_empty() || path.contains('\0') || path.ends_with('/') {
        return Some("is not a file");
    }
    if as_path.is_absolute() {
        return Some("is absolute");
    }
    if as_path.components().any(|c| c == Component::ParentDir) {
        return Some("contains `..`");
    }
    if path.split('/').any(|c| c.is_empty() || c == ".") {
        return Some("contains an empty part or `.`");
    }
    RESERVED.iter().any(|r| r.eq_ignore_ascii_case(file_name(path))).then_some("has a reserved name")
}

/// Creates the folders of the outputs.
pub(super) fn make_folders(outputs: &BTreeMap<String, String>, folder: &Path) -> Result<(), StageError> {
    let needed = |path: &String| match path.strip_suffix('/') {
        Some(path) => Some(folder.join(path)),
        None => folder.join(path).parent().map(Path::to_owned),
    };
    outputs.values().filter_map(needed).try_for_each(|path| make_folder(&path))
}

/// Reads the declared outputs and the metrics, and logs the names of other files.
pub(in crate::stages) fn collect(
    outputs: &BTreeMap<String, String>,
    folders: &Folders,
    context: &Context<'_>,
) -> Result<Artifact, StageError> {
    let mut artifact = Artifact { metrics: read_metrics(&folders.metrics)?, ..Artifact::default() };
    let tables = outputs.values().filter(|path| is_tensor_file(path)).count();
    let mut room = MAX_IN_MEMORY;
    for (role, path) in outputs {
        context.cancel.check()?;
        if let Some(folder) = path.strip_suffix('/') {
            for (name, content) in read_folder(role, folder, &folders.outputs, &mut room)? {
                content.add_file(&mut artifact, format!("{}/{name}", file_name(path)));
            }
            continue;
        }
        let content = read_output(role, path, &folders.outputs, &mut room)?;
        if is_tensor_file(path) {
            let name = |name: String| if tables == 1 { name } else { format!("{role}.{name}") };
            content
                .add_tensors(&mut artifact, name)
                .map_err(|fault| StageError::failed(format!("the output `{role}` ({path}) can't be used: {fault}")))?;
        } else {
            content.add_file(&mut artifact, file_name(path).to_owned());
        }
    }
    let declared: BTreeSet<&str> = outputs.values().map(String::as_str).collect();
    let extra = undeclared(&folders.outputs, &declared);
    if !extra.is_empty() {
        context.progress.log(&format!("not kept, because `outputs` does not declare it: {}", extra.join(", ")));
    }
    Ok(artifact)
}

/// The content of an output.
#[derive(Debug, PartialEq)]
enum Content {
    Memory(Vec<u8>),
    Disk(FileOnDisk),
}

impl Content {
    fn add_file(self, artifact: &mut Artifact, name: String) {
        match self {
            Self::Memory(bytes) => drop(artifact.files.insert(name, bytes)),
            Self::Disk(file) => drop(artifact.files_on_disk.insert(name, file)),
        }
    }

    /// Adds the tensors of a safetensors file. Fails with what is wrong with it.
    fn add_tensors(self, artifact: &mut Artifact, name: impl Fn(String) -> String) -> Result<(), String> {
        match self {
            Self::Memory(bytes) => {
                let tensors = from_safetensors(&bytes).map_err(|error| error.to_string())?;
                artifact.tensors.extend(tensors.into_iter().map(|(own, tensor)| (name(own), tensor)));
            }
            Self::Disk(FileOnDisk { path, .. }) => {
                let file = TensorFileOnDisk::read(file_name(&path.to_string_lossy()), &path);
                let tensors = file.map_err(|error| error.to_string())?.tensors;
                artifact.tensors_on_disk.extend(tensors.into_iter().map(|(own, tensor)| (name(own), tensor)));
            }
        }
        Ok(())
    }
}

/// Reads all files below an output that is a folder, by their path below it.
fn read_folder(
    role: &str,
    path: &str,
    outputs: &Path,
    room: &mut u64,
) -> Result<BTreeMap<String, Content>, StageError> {
    let what = || format!("the output `{role}` ({path}/)");
    let (mut files, mut open) = (BTreeMap::new(), vec![String::new()]);
    while let Some(below) = open.pop() {
        let folder = outputs.join(path).join(&below);
        for entry in fs::read_dir(&folder).map_err(StageError::io(format!("can't list {}", what())))? {
            let entry = entry.map_err(StageError::io(format!("can't list {}", what())))?;
            let Ok(name) = entry.file_name().into_string() else {
                let name = entry.file_name().display().to_string();
                return Err(StageError::failed(format!("{}: the name `{name}` is not valid UTF-8", what())));
            };
            let name = format!("{below}{name}");
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                open.push(format!("{name}/"));
                continue;
            }
            let content = read_output(role, &format!("{path}/{name}"), outputs, room)?;
            files.insert(name, content);
        }
    }
    if files.is_empty() {
        return Err(StageError::failed(format!("the command wrote no file to {}", what())));
    }
    Ok(files)
}

/// Reads an output below `folder`, or leaves it on the disk if it is large or there is no `room` for it in memory. A
/// link anywhere in the path is an error. Each part of the path is opened relative to the previous one, so that nothing
/// can be replaced between the check and the read.
fn read_output(role: &str, path: &str, folder: &Path, room: &mut u64) -> Result<Content, StageError> {
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
    let file = File::from(file);
    let metadata = file.metadata().map_err(StageError::io(format!("can't read {what}")))?;
    let size = metadata.len();
    if metadata.is_file() && size > MAX_FILE_IN_MEMORY.min(*room) {
        check_space(&what, size, folder)?;
        return Ok(Content::Disk(FileOnDisk { path: folder.join(path), size }));
    }
    *room -= size.min(*room);
    read_file(&what, file, size).map(Content::Memory)
}

/// Fails if the cache has no room for this many bytes. The folder is in the cache.
pub(in crate::stages) fn check_space(what: &str, size: u64, folder: &Path) -> Result<(), StageError> {
    let free = system::free_space(folder);
    if size <= free {
        return Ok(());
    }
    let message = format!("{what} has {size} bytes, but the file system of the cache has room for {free}");
    Err(StageError::failed(message))
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

fn read_file(what: &str, file: File, limit: u64) -> Result<Vec<u8>, StageError> {
    file::read_from(file, limit).map_err(|error| match error {
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
    let text = read_file(WHAT, file.into(), MAX_METRICS_BYTES)?;
    let wrong = |what: String| StageError::failed(format!("{WHAT} must be a JSON object of numbers: {what}"));
    let metric = |(name, field): (String, Field)| match field {
        _ if name.len() > MAX_METRIC_NAME => {
            let (start, length) = (shortened(&name), name.len());
            Err(wrong(format!("the name `{start}` has {length} bytes; the limit is {MAX_METRIC_NAME}")))
        }
        Field::Number(number) => Ok((name, number)),
        Field::Other(what) => Err(wrong(format!("`{name}` is {what}"))),
    };
    fields(&text).map_err(wrong)?.into_iter().map(metric).collect()
}

/// Whether a file is an output, or in one that is a folder.
fn is_part_of(name: &str, output: &str) -> bool {
    name == output || output.ends_with('/') && name.starts_with(output)
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
            } else if !declared.iter().any(|path| is_part_of(&name, path)) {
                found.insert(name);
            }
        }
    }
    found.into_iter().take(10).collect()
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
        let read = |path: &str| read_output("o", path, dir.path(), &mut 4).map_err(|error| error.to_string());
        assert_eq!(read("d/plain"), Ok(Content::Memory(b"text".to_vec())));
        let refused = |path: &str, what: &str| assert_eq!(read(path), Err(format!("the output `o` ({path}) {what}")));
        refused("linked/plain", "is a link or is behind one");
        refused("d/link", "is a link or is behind one");
        refused("d/plain/x", "is below something that is not a folder");
        refused("d/fifo", "is not a plain file: it is a FIFO");
        refused("d/socket", "is not a plain file: it is a socket");
        refused("d", "is not a plain file: it is a directory");
        fs::write(at("d/plain"), "text!").unwrap();
        let on_disk = FileOnDisk { path: at("d/plain"), size: 5 };
        assert_eq!(read("d/plain"), Ok(Content::Disk(on_disk)), "there is no room for it in memory");
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
