//! The git commit of a pipeline's folder, for the record of a run.

use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::thread::JoinHandle;

use crate::store::Commit;

/// git takes longer than a fully cached run, so it runs in the background while the run is planned.
#[derive(Default)]
pub(super) struct CommitQuery {
    git: Mutex<Option<JoinHandle<Option<Commit>>>>,
    answer: OnceLock<Option<Commit>>,
}

impl CommitQuery {
    /// Starts to ask, if the folder is in a repository.
    pub(super) fn start(folder: &Path) -> Self {
        let Some(folder) = folder.canonicalize().ok().filter(|folder| is_in_repository(folder)) else {
            return Self::default();
        };
        let git = std::thread::Builder::new().spawn(move || commit(&folder)).ok();
        Self { git: Mutex::new(git), ..Self::default() }
    }

    /// The answer, once git has ended. `None` if there is no commit yet, or git is not installed.
    pub(super) fn answer(&self) -> Option<Commit> {
        let wait = || self.git.lock().unwrap_or_else(PoisonError::into_inner).take()?.join().ok()?;
        self.answer.get_or_init(wait).clone()
    }
}

fn is_in_repository(folder: &Path) -> bool {
    folder.ancestors().any(|folder| folder.join(".git").exists())
}

fn commit(folder: &Path) -> Option<Commit> {
    // Without a lock, so that a run never makes another git command fail.
    let status = ["--no-optional-locks", "status", "--porcelain=v2", "--branch", "--untracked-files=no"];
    let mut git = Command::new("git");
    git.env_remove("GIT_DIR").env_remove("GIT_WORK_TREE").arg("-C").arg(folder).args(status).stdin(Stdio::null());
    let output = git.output().ok()?;
    output.status.success().then(|| parse(&String::from_utf8_lossy(&output.stdout)))?
}

/// Reads the lines of `git status --porcelain=v2 --branch`.
fn parse(status: &str) -> Option<Commit> {
    let (about, changes): (Vec<&str>, Vec<&str>) = status.lines().partition(|line| line.starts_with('#'));
    let id = about.iter().find_map(|line| line.strip_prefix("# branch.oid "))?;
    let is_commit = id.bytes().all(|byte| byte.is_ascii_hexdigit());
    is_commit.then(|| Commit { id: id.to_owned(), modified: !changes.is_empty() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn status_has_the_commit_and_whether_tracked_files_changed() {
        let oid = "0123456789abcdef0123456789abcdef01234567";
        let clean = format!("# branch.oid {oid}\n# branch.head main\n");
        assert_eq!(parse(&clean), Some(Commit { id: oid.to_owned(), modified: false }));
        let changed = format!("{clean}1 .M N... 100644 100644 100644 {oid} {oid} train.py\n");
        assert_eq!(parse(&changed), Some(Commit { id: oid.to_owned(), modified: true }));
        assert_eq!(parse("# branch.oid (initial)\n# branch.head main\n"), None, "a repository without a commit");
    }
}
