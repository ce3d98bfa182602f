//! Where a program finds its inputs and writes its outputs.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};

use serde_json::Value as JsonValue;

use super::words::Paths;
use crate::file::empty_folder;
use crate::stage::{Context, Device, StageError};

/// The module that lists the files that a Python program reads.
const MODULE: &str = include_str!("sitecustomize.py");

/// The absolute paths of a program's files and folders.
pub(in crate::stages) struct Folders {
    /// The folder that contains the others.
    pub(in crate::stages) root: PathBuf,
    pub(in crate::stages) inputs: PathBuf,
    pub(super) outputs: PathBuf,
    pub(super) metrics: PathBuf,
    pub(super) scratch: PathBuf,
    /// Has a module that lists the files that a Python program reads.
    pub(super) python: PathBuf,
    /// The folder of the pipeline file.
    pub(super) base: PathBuf,
    /// The mirror of that folder.
    mirror: PathBuf,
}

impl Folders {
    /// Creates the folders.
    pub(in crate::stages) fn create(context: &Context<'_>) -> Result<Self, StageError> {
        let absolute = |path: &Path| -> io::Result<PathBuf> {
            if path.as_os_str().is_empty() { std::env::current_dir() } else { std::path::absolute(path) }
        };
        let root = absolute(context.scratch).map_err(StageError::io("can't find the scratch folder"))?;
        let base = absolute(context.base).map_err(StageError::io("can't find the pipeline's folder"))?;
        let mirror = context.mirror.map_or_else(|| base.clone(), Path::to_owned);
        let folders = Self {
            inputs: root.join("inputs"),
            outputs: root.join("outputs"),
            metrics: root.join("metrics.json"),
            scratch: root.join("scratch"),
            python: root.join("python"),
            base,
            mirror,
            root,
        };
        for folder in [&folders.inputs, &folders.outputs, &folders.scratch, &folders.python] {
            let what = format!("can't create the folder {}", folder.display());
            std::fs::create_dir_all(folder).map_err(StageError::io(what))?;
        }
        let module = folders.python.join("sitecustomize.py");
        std::fs::write(&module, MODULE).map_err(StageError::io(format!("can't write {}", module.display())))?;
        Ok(folders)
    }

    /// The variables that tell the program where to write its outputs.
    pub(in crate::stages) fn output_variables(&self) -> [(&'static str, OsString); 2] {
        [("VADPIPE_OUTPUTS", self.outputs.clone().into()), ("VADPIPE_METRICS", self.metrics.clone().into())]
    }

    /// Writes the values that the program reads, and returns the variable that names the file.
    pub(in crate::stages) fn write_values(&self, values: &JsonValue) -> Result<(&'static str, OsString), StageError> {
        let path = self.root.join("values.json");
        let what = format!("can't write {}", path.display());
        std::fs::write(&path, format!("{values:#}\n")).map_err(StageError::io(what))?;
        Ok(("VADPIPE_VALUES", path.into()))
    }

    /// Removes what the program wrote, so that it can start again. Its checkpoint stays.
    pub(in crate::stages) fn clear(&self) -> Result<(), StageError> {
        for folder in [&self.outputs, &self.scratch] {
            let what = format!("can't empty the folder {}", folder.display());
            empty_folder(folder).map_err(StageError::io(what))?;
        }
        match std::fs::remove_file(&self.metrics) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(StageError::io(format!("can't remove {}", self.metrics.display()))(error))
            }
            _ => Ok(()),
        }
    }
}

/// Folders and the outputs that are declared in them.
pub(super) struct ProgramPaths<'a> {
    pub(super) folders: &'a Folders,
    /// Paths below the output folder, by role.
    pub(super) outputs: &'a BTreeMap<String, String>,
    /// Paths as written in the pipeline, by role.
    pub(super) paths: &'a BTreeMap<String, String>,
    pub(super) seed: i64,
    pub(super) device: &'a Device,
    pub(super) checkpoint: Option<&'a Path>,
}

impl Paths for ProgramPaths<'_> {
    fn placeholder(&self, name: &str) -> Option<PathBuf> {
        let folders = self.folders;
        match name.split_once('.') {
            None if name == "metrics" => Some(folders.metrics.clone()),
            None if name == "base" => Some(folders.mirror.clone()),
            None if name == "seed" => Some(self.seed.to_string().into()),
            None if name == "checkpoint" => self.checkpoint.map(Path::to_owned),
            None if name == "device" => Some(self.device.to_string().into()),
            Some(("inputs", role)) => match self.paths.get(role) {
                // Not in the mirror, in which a folder may have links instead of folders.
                Some(path) => Some(folders.base.join(path)),
                None => Some(folders.inputs.join(role)),
            },
            Some(("outputs", role)) => self.outputs.get(role).map(|path| folders.outputs.join(path)),
            _ => None,
        }
    }

    /// A copy in the mirror, or a folder with copies. Everything else is the original, so that a program sees at once
    /// what others write there.
    fn in_base(&self, name: &str) -> PathBuf {
        let mirrored = self.folders.mirror.join(name);
        if has_copies(&mirrored) { mirrored } else { self.folders.base.join(name) }
    }
}

/// Whether a path in the mirror is a copy, or a folder that contains copies. Everything else in a mirror is a link.
fn has_copies(path: &Path) -> bool {
    let Ok(file) = path.symlink_metadata() else { return false };
    file.is_file()
        || file.is_dir()
            && std::fs::read_dir(path).into_iter().flatten().flatten().any(|entry| has_copies(&entry.path()))
}

/// The last component of an output's path.
pub(in crate::stages) fn file_name(path: &str) -> &str {
    let path = path.strip_suffix('/').unwrap_or(path);
    path.rsplit('/').next().unwrap_or(path)
}

pub(super) fn make_folder(path: &Path) -> Result<(), StageError> {
    std::fs::create_dir_all(path).map_err(StageError::io(format!("can't create the folder {}", path.display())))
}
