//! The interpreter of `python = "train.py"`, which is looked up beside the pipeline and in the folders above it.
//!
//! | found | interpreter | file in the key |
//! |---|---|---|
//! | `# /// script` in the script | the environment that uv keeps for the script | `train.py.lock`, if it exists |
//! | `uv.lock` | the environment of the project, as `uv run` makes it | `uv.lock` |
//! | `.venv` | `.venv/bin/python3` | none |
//! | none of these | `python3` in `PATH` | none |
//!
//! The first line that fits counts. What enters the key depends only on the script and the lock files, and not on where
//! a lock file lies. So a pipeline has the same keys in another folder, on another machine, and with or without an
//! environment.
//!
//! `uv.lock` and `.venv` are looked up in the pipeline's folder and those above it, up to the repository's, which has
//! `.git`, and never in the root of the file system.
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
use std::process::Command;
use std::time::Duration;

use rustix::fs::Access;

use super::folders::Folders;
use super::process::{self, Invocation};
use crate::stage::{Context, StageError};

/// The interpreter of an environment.
const VENV_PYTHON: &str = ".venv/bin/python3";
/// The first version of uv that has `uv python find --script`.
const OLDEST_UV: [u64; 3] = [0, 6, 10];

/// How the script is started. `above` is how many folders above the pipeline's something was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Runner {
    /// By uv, in an environment of the script, which has a lock file or not.
    UvScript { has_lock: bool },
    /// By uv, in the environment of the project.
    UvProject { above: usize },
    /// By the interpreter of `.venv`.
    Venv { above: usize },
    /// By `python3` in `PATH`.
    System,
}

impl Runner {
    /// Looks beside the pipeline, in the folder `base`, and above it. `text` is the file of the script. A script that
    /// can't be read has no metadata.
    pub(super) fn find(script: &str, text: &Path, base: &Path) -> Self {
        let text = std::fs::read(text).unwrap_or_default();
        if has_metadata(&String::from_utf8_lossy(&text)) {
            return Self::UvScript { has_lock: base.join(lock_of(script)).is_file() };
        }
        let folders = project_folders(base);
        let nearest = |is_there: &dyn Fn(&Path) -> bool| folders.iter().position(|folder| is_there(folder));
        let lock = nearest(&|folder| folder.join("uv.lock").is_file()).map(|above| Self::UvProject { above });
        let venv = || nearest(&|folder| folder.join(".venv").is_dir()).map(|above| Self::Venv { above });
        lock.or_else(venv).unwrap_or(Self::System)
    }

    /// The lock file that determines the packages: its name in the key, and its path.
    pub(super) fn lock(self, script: &str, base: &Path) -> Option<(String, PathBuf)> {
        match self {
            Self::UvScript { has_lock } => has_lock.then(|| (lock_of(script), base.join(lock_of(script)))),
            Self::UvProject { above } => Some(("uv.lock".to_owned(), folder_above(base, above).join("uv.lock"))),
            Self::Venv { .. } | Self::System => None,
        }
    }

    /// The folder of the project, if it is above the pipeline's.
    pub(super) fn project(self, base: &Path) -> Option<PathBuf> {
        match self {
            Self::UvProject { above } | Self::Venv { above } if above > 0 => Some(folder_above(base, above)),
            _ => None,
        }
    }

    /// The program that starts the script, an interpreter or uv: how it is found, and its file.
    pub(super) fn program(self, base: &Path) -> Option<(PathBuf, PathBuf)> {
        let found = match self {
            Self::UvScript { .. } | Self::UvProject { .. } => in_path("uv")?,
            Self::Venv { above } => {
                let found = "../".repeat(above) + VENV_PYTHON;
                return Some((found.into(), folder_above(base, above).join(VENV_PYTHON)));
            }
            Self::System => in_path("python3")?,
        };
        Some((found.clone(), found))
    }

    /// The interpreter. With uv, its environment is made first, in `timeout` for each call of uv. `None` means
    /// `python3` in `PATH`.
    ///
    /// # Errors
    /// If uv is not installed, fails or takes too long, or if `.venv` has no interpreter.
    pub(super) fn interpreter(
        self,
        script: &str,
        folders: &Folders,
        timeout: Option<Duration>,
        context: &Context<'_>,
    ) -> Result<Option<PathBuf>, StageError> {
        let base = &folders.base;
        let uv = |words: &[&OsStr]| Uv { scratch: &folders.root, timeout, context }.run(words);
        match self {
            Self::UvScript { has_lock } => {
                check_for_uv(|| "the script has inline metadata (`# /// script`)".to_owned())?;
                let script = base.join(script);
                let locked: &[&OsStr] = if has_lock { &["--locked".as_ref()] } else { &[] };
                uv(&[&["sync".as_ref()], locked, &["--script".as_ref(), script.as_ref()]].concat())?;
                uv(&["python".as_ref(), "find".as_ref(), "--script".as_ref(), script.as_ref()]).map(Some)
            }
            Self::UvProject { above } => {
                check_for_uv(|| format!("{} exists", folder_above(base, above).join("uv.lock").display()))?;
                // Of a workspace, that of the member which contains the pipeline.
                let member = folder_above(base, 0);
                let python = ["--", "python3", "-c", "import sys; print(sys.executable)"].map(OsStr::new);
                let head = ["run".as_ref(), "--locked".as_ref(), "--project".as_ref(), member.as_ref()];
                uv(&[&head[..], &python[..]].concat()).map(Some)
            }
            Self::Venv { above } => {
                let folder = folder_above(base, above);
                let python = folder.join(VENV_PYTHON);
                if !python.is_file() {
                    let message = format!("the environment {} has no `bin/python3`", folder.join(".venv").display());
                    return Err(StageError::bad_input(message, "make it again, or remove it to use `python3` in PATH"));
                }
                Ok(Some(python))
            }
            Self::System => Ok(None),
        }
    }
}

/// The pipeline's folder, and the folders above it in which a project may be. Without symbolic links, so that they are
/// the same however the pipeline was given.
fn project_folders(base: &Path) -> Vec<PathBuf> {
    let base = folder_above(base, 0);
    let mut folders = vec![base.clone()];
    while let Some(folder) = folders.last().filter(|folder| !folder.join(".git").exists())
        && let Some(above) = folder.parent().filter(|above| above.parent().is_some())
    {
        folders.push(above.to_owned());
    }
    folders
}

/// The folder so many levels above the pipeline's, without symbolic links.
fn folder_above(base: &Path, above: usize) -> PathBuf {
    let base = if base.as_os_str().is_empty() { Path::new(".") } else { base };
    let base = base.canonicalize().unwrap_or_else(|_| base.to_owned());
    base.ancestors().nth(above).unwrap_or(&base).to_owned()
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

/// The lock file of a script with inline metadata.
pub(super) fn lock_of(script: &str) -> String {
    format!("{script}.lock")
}

/// Whether a script has inline metadata: a comment from the line `# /// script` to the line `# ///`.
fn has_metadata(script: &str) -> bool {
    let mut lines = script.lines().map(str::trim_end).skip_while(|line| *line != "# /// script").skip(1);
    lines.by_ref().take_while(|line| line.starts_with('#')).any(|line| line == "# ///")
}

/// `why` says why uv is needed.
fn check_for_uv(why: impl FnOnce() -> String) -> Result<(), StageError> {
    if in_path("uv").is_some() {
        return Ok(());
    }
    let message = format!("{}, so uv provides its packages, but `uv` is not in PATH", why());
    Err(StageError::bad_input(message, "install it: pip install uv"))
}

/// Runs uv.
struct Uv<'a> {
    scratch: &'a Path,
    timeout: Option<Duration>,
    context: &'a Context<'a>,
}

impl Uv<'_> {
    /// Returns the path that uv prints. Its messages go to the log of the stage.
    fn run(&self, words: &[&OsStr]) -> Result<PathBuf, StageError> {
        let printed = self.scratch.join("uv-printed");
        // That of an environment in which vadpipe itself runs.
        let is_foreign = |name: &str| matches!(name, "VIRTUAL_ENV" | "PYTHONPATH" | "PYTHONHOME");
        let variables = std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value)));
        let invocation = Invocation {
            name: "uv".to_owned(),
            argv: std::iter::once("uv".as_ref()).chain(words.iter().copied()).map(OsStr::to_owned).collect(),
            environment: variables.filter(|(name, _)| !is_foreign(name)).collect(),
            folder: self.scratch.to_owned(),
            timeout: self.timeout,
            printed: Some(printed.clone()),
        };
        process::run(&invocation, &mut (), self.context).map_err(|error| match error {
            StageError::Failed(message) => failure(message),
            error => error,
        })?;
        let bytes = std::fs::read(&printed).map_err(StageError::io(format!("can't read {}", printed.display())))?;
        let line = bytes.split(|byte| *byte == b'\n').next().unwrap_or_default();
        Ok(OsString::from_vec(line.to_vec()).into())
    }
}

/// The error of a uv that failed. One that is too old may not know the options.
fn failure(message: String) -> StageError {
    match uv_version() {
        Some((version, numbers)) if numbers < OLDEST_UV => {
            let [major, minor, patch] = OLDEST_UV;
            let help = format!("uv {version} is too old: `python` needs uv {major}.{minor}.{patch} or later");
            StageError::bad_input(message, help)
        }
        _ => StageError::failed(message),
    }
}

/// The version of uv as text and as numbers: `uv 0.6.9 (…)`.
fn uv_version() -> Option<(String, [u64; 3])> {
    let output = Command::new("uv").arg("--version").output().ok()?;
    let version = String::from_utf8(output.stdout).ok()?.split_whitespace().nth(1)?.to_owned();
    let numbers: Vec<u64> = version.split('.').map_while(|number| number.parse().ok()).collect();
    Some((version, numbers.try_into().ok()?))
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
