//! The interpreter of `python = "train.py"`, which is looked up beside the pipeline.
//!
//! | found | interpreter | file in the key |
//! |---|---|---|
//! | `# /// script` in the script | the environment that uv keeps for the script | `train.py.lock`, if it exists |
//! | `uv.lock` | the environment of the project, as `uv run` makes it | `uv.lock` |
//! | `.venv` | `.venv/bin/python3` | none |
//! | none of these | `python3` in `PATH` | none |
//!
//! The first line that fits counts. What enters the key depends only on the script and the lock files. So a pipeline
//! has the same keys in another folder, on another machine, and with or without an environment.
//!
//! uv works on the original folder and not on the mirror, because an environment refers to the paths of its project,
//! and uv knows the environment of a script by the script's path. It runs before the program and with the whole
//! environment of vadpipe, since its cache, its proxies and its indexes are configured there. The program is then
//! started by the interpreter itself. So the files that uv opens to build a package are not files that the program
//! read.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStringExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::Access;

use super::folders::Folders;
use super::process::{self, Invocation};
use crate::stage::{Context, StageError};

/// The interpreter of an environment beside the pipeline.
const VENV_PYTHON: &str = ".venv/bin/python3";

/// How the script is started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Runner {
    /// By uv, in an environment of the script, which has a lock file or not.
    UvScript { has_lock: bool },
    /// By uv, in the environment of the project.
    UvProject,
    /// By the interpreter of `.venv`.
    Venv,
    /// By `python3` in `PATH`.
    System,
}

impl Runner {
    /// Looks beside the pipeline, whose files `resolve` finds. A script that can't be read has no metadata.
    pub(super) fn find(script: &str, resolve: &dyn Fn(&str) -> PathBuf) -> Self {
        let text = std::fs::read(resolve(script)).unwrap_or_default();
        if has_metadata(&String::from_utf8_lossy(&text)) {
            return Self::UvScript { has_lock: resolve(&lock_of(script)).is_file() };
        }
        match () {
            () if resolve("uv.lock").is_file() => Self::UvProject,
            () if resolve(".venv").is_dir() => Self::Venv,
            () => Self::System,
        }
    }

    /// The lock file that determines the packages, as the pipeline would name it.
    pub(super) fn lock(self, script: &str) -> Option<String> {
        match self {
            Self::UvScript { has_lock } => has_lock.then(|| lock_of(script)),
            Self::UvProject => Some("uv.lock".to_owned()),
            Self::Venv | Self::System => None,
        }
    }

    /// The program that starts the script, an interpreter or uv: how it is found, and its file.
    pub(super) fn program(self, base: &Path) -> Option<(PathBuf, PathBuf)> {
        let found = match self {
            Self::UvScript { .. } | Self::UvProject => in_path("uv")?,
            Self::Venv => return Some((VENV_PYTHON.into(), base.join(VENV_PYTHON))),
            Self::System => in_path("python3")?,
        };
        Some((found.clone(), found))
    }

    /// The interpreter. With uv, its environment is made first. `None` means `python3` in `PATH`.
    ///
    /// # Errors
    /// If uv is not installed or fails, or if `.venv` has no interpreter.
    pub(super) fn interpreter(
        self,
        script: &str,
        folders: &Folders,
        context: &Context<'_>,
    ) -> Result<Option<PathBuf>, StageError> {
        let base = &folders.base;
        let uv = |words: &[&OsStr]| run_uv(words, self, &folders.root, context);
        match self {
            Self::UvScript { has_lock } => {
                let script = base.join(script);
                let locked: &[&OsStr] = if has_lock { &["--locked".as_ref()] } else { &[] };
                uv(&[&["sync".as_ref()], locked, &["--script".as_ref(), script.as_ref()]].concat())?;
                uv(&["python".as_ref(), "find".as_ref(), "--script".as_ref(), script.as_ref()]).map(Some)
            }
            Self::UvProject => {
                let python = ["--", "python3", "-c", "import sys; print(sys.executable)"].map(OsStr::new);
                let head = ["run".as_ref(), "--locked".as_ref(), "--project".as_ref(), base.as_ref()];
                uv(&[&head[..], &python[..]].concat()).map(Some)
            }
            Self::Venv => {
                let python = base.join(VENV_PYTHON);
                if !python.is_file() {
                    let message = "the environment `.venv` beside the pipeline has no `bin/python3`";
                    return Err(StageError::bad_input(message, "make it again, or remove it to use `python3` in PATH"));
                }
                Ok(Some(python))
            }
            Self::System => Ok(None),
        }
    }
}

/// Sets the variables that the script `activate` of an environment sets.
pub(super) fn activate(interpreter: &Path, environment: &mut BTreeMap<String, OsString>) {
    let Some((bin, prefix)) = interpreter.parent().and_then(|bin| Some((bin, bin.parent()?))) else { return };
    let mut path = bin.as_os_str().to_owned();
    if let Some(others) = environment.get("PATH") {
        path.push(":");
        path.push(others);
    }
    environment.insert("PATH".to_owned(), path);
    environment.insert("VIRTUAL_ENV".to_owned(), prefix.into());
}

/// The file of a program that `PATH` finds.
pub(super) fn in_path(name: &str) -> Option<PathBuf> {
    let is_program = |path: &PathBuf| path.is_file() && rustix::fs::access(path, Access::EXEC_OK).is_ok();
    std::env::split_paths(&std::env::var_os("PATH")?).map(|folder| folder.join(name)).find(is_program)
}

fn lock_of(script: &str) -> String {
    format!("{script}.lock")
}

/// Whether a script has inline metadata: a comment from the line `# /// script` to the line `# ///`.
fn has_metadata(script: &str) -> bool {
    let mut lines = script.lines().map(str::trim_end).skip_while(|line| *line != "# /// script").skip(1);
    lines.by_ref().take_while(|line| line.starts_with('#')).any(|line| line == "# ///")
}

/// Runs uv, and returns the path that it prints. Its messages go to the log of the stage.
fn run_uv(words: &[&OsStr], runner: Runner, scratch: &Path, context: &Context<'_>) -> Result<PathBuf, StageError> {
    if in_path("uv").is_none() {
        let found = match runner {
            Runner::UvProject => "`uv.lock` is beside the pipeline",
            _ => "the script has inline metadata (`# /// script`)",
        };
        let message = format!("{found}, so uv provides its packages, but `uv` is not in PATH");
        return Err(StageError::bad_input(message, "install it: pip install uv"));
    }
    let printed = scratch.join("uv-printed");
    // That of an environment in which vadpipe itself runs.
    let is_foreign = |name: &str| matches!(name, "VIRTUAL_ENV" | "PYTHONPATH" | "PYTHONHOME");
    let variables = std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value)));
    let invocation = Invocation {
        name: "uv".to_owned(),
        argv: std::iter::once("uv".as_ref()).chain(words.iter().copied()).map(OsStr::to_owned).collect(),
        environment: variables.filter(|(name, _)| !is_foreign(name)).collect(),
        folder: scratch.to_owned(),
        timeout: None,
        printed: Some(printed.clone()),
    };
    process::run(&invocation, &mut (), context)?;
    let bytes = std::fs::read(&printed).map_err(StageError::io(format!("can't read {}", printed.display())))?;
    let line = bytes.split(|byte| *byte == b'\n').next().unwrap_or_default();
    Ok(OsString::from_vec(line.to_vec()).into())
}

#[cfg(test)]
mod tests {
    use super::has_metadata;

    #[test]
    fn metadata_is_a_closed_block_of_comments() {
        for script in [
            "# /// script\n# ///\n",
            "#!/usr/bin/env python3\n\n# /// script\r\n# dependencies = []\r\n# ///\r\nimport x\n",
        ] {
            assert!(has_metadata(script), "{script:?}");
        }
        for script in [
            "",
            "# /// script\n",
            "# /// script\nimport x\n# ///\n",
            "# /// other\n# ///\n",
            "x = '# /// script'\n# ///\n",
        ] {
            assert!(!has_metadata(script), "{script:?}");
        }
    }
}
