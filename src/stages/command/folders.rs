//! Where a command finds its inputs and writes its outputs.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use crate::stage::StageError;

/// The absolute paths of a command's files and folders.
pub(super) struct Folders {
    pub(super) inputs: PathBuf,
    pub(super) outputs: PathBuf,
    pub(super) metrics: PathBuf,
    pub(super) scratch: PathBuf,
    pub(super) base: PathBuf,
}

impl Folders {
    pub(super) fn create(scratch: &Path, base: &Path) -> Result<Self, StageError> {
        let absolute = |path: &Path| -> io::Result<PathBuf> {
            if path.as_os_str().is_empty() { std::env::current_dir() } else { std::path::absolute(path) }
        };
        let root = absolute(scratch).map_err(StageError::io("can't find the scratch folder"))?;
        let base = absolute(base).map_err(StageError::io("can't find the pipeline's folder"))?;
        let folders = Self {
            inputs: root.join("inputs"),
            outputs: root.join("outputs"),
            metrics: root.join("metrics.json"),
            scratch: root.join("scratch"),
            base,
        };
        for folder in [&folders.inputs, &folders.outputs, &folders.scratch] {
            let what = format!("can't make the folder {}", folder.display());
            std::fs::create_dir_all(folder).map_err(StageError::io(what))?;
        }
        Ok(folders)
    }

    /// The path that replaces a placeholder (`inputs.data`, `metrics`, …).
    pub(super) fn placeholder(&self, name: &str, outputs: &BTreeMap<String, String>) -> Option<PathBuf> {
        match name.split_once('.') {
            None if name == "metrics" => Some(self.metrics.clone()),
            None if name == "base" => Some(self.base.clone()),
            Some(("inputs", role)) => Some(self.inputs.join(role)),
            Some(("outputs", role)) => outputs.get(role).map(|path| self.outputs.join(path)),
            _ => None,
        }
    }
}

/// The last component of an output's path.
pub(super) fn file_name(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}
