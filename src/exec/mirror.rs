//! A mirror of the pipeline's folder, in which programs run: an edit while a stage runs changes the next run.
//!
//! The files that a stage declares are copied. Everything else in the folder is a symbolic link to the original, so a
//! script finds its modules and its data at the usual places. A folder that contains a copied file is a real folder.
//!
//! ```text
//! project/                      MIRROR/project/
//!   shared/lib.py                 shared/lib.py  -> project/shared/lib.py
//!   pipelines/                    pipelines/                                the mirror of the pipeline's folder
//!     p.toml                        p.toml       -> project/pipelines/p.toml
//!     train.py                      train.py                                a copy, because `argv` names it
//!     images/                       images       -> project/pipelines/images
//! ```
//!
//! What a program creates in a real folder of the mirror is lost, and [`Mirror::written`] finds it. What it creates in
//! a linked folder is created in the original.
//!
//! The mirror begins at the project, the nearest folder with `.git`, or further up if a declared file requires it. So
//! `../shared/lib.py` and paths built from Python's `__file__` are inside it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io;
use std::path::{Component, Path, PathBuf};

use tempfile::TempDir;

use crate::file;
use crate::key::Digest;
use crate::stage::{Files, StageError};
use crate::store::Store;

/// The most bytes that are copied for one stage if the file system can't share them between files. Larger files are
/// links.
const MAX_COPIED_BYTES: u64 = 64 << 20;

/// The mirror of a folder.
pub(crate) struct Mirror {
    /// The folder that contains the whole mirror. Removed on drop.
    _temporary: TempDir,
    /// The same folder, without symbolic links in its path.
    folder: PathBuf,
    /// The mirror of the pipeline's folder.
    base: PathBuf,
    /// All its folders, copies and links.
    created: BTreeSet<PathBuf>,
}

/// What to mirror in a folder.
#[derive(Default)]
struct Tree {
    folders: BTreeMap<PathBuf, Tree>,
    files: BTreeSet<PathBuf>,
}

/// Creates a mirror.
struct Creation {
    /// The folder that contains the whole mirror.
    folder: PathBuf,
    /// Files of this size or less are copied.
    largest: u64,
    /// What was created.
    created: BTreeSet<PathBuf>,
}

impl Mirror {
    /// Mirrors the folder `base` below the empty folder `temporary`. `files` are copied: paths as written in the
    /// pipeline. Absolute paths, and `..` behind the name of a folder, refer to the originals.
    pub(crate) fn create(base: &Path, files: &BTreeSet<String>, temporary: TempDir) -> Result<Self, StageError> {
        let what = format!("can't mirror the folder {}", base.display());
        Self::try_create(base, files, temporary).map_err(StageError::io(what))
    }

    fn try_create(base: &Path, files: &BTreeSet<String>, temporary: TempDir) -> io::Result<Self> {
        let folder = temporary.path().canonicalize()?;
        let base = if base.as_os_str().is_empty() { std::env::current_dir()? } else { std::path::absolute(base)? };
        let files: Vec<(usize, PathBuf)> = files.iter().filter_map(|name| relative(name)).collect();
        let ancestors: Vec<&Path> = base.ancestors().collect();
        let project = ancestors.iter().position(|folder| folder.join(".git").exists()).unwrap_or(0);
        let up = files.iter().map(|(up, _)| *up).max().unwrap_or(0).max(project).min(ancestors.len() - 1);
        let root = ancestors[up];
        let mut tree = Tree::default();
        let below = |up: usize| ancestors[up.min(ancestors.len() - 1)].strip_prefix(root).unwrap_or(Path::new(""));
        tree.add_folder(below(0));
        let mut sizes = Vec::new();
        for (up, name) in &files {
            let path = below(*up).join(name);
            sizes.extend(fs::metadata(root.join(&path)).map(|file| file.len()));
            tree.add_file(&path);
        }
        let mirrored = folder.join(root.file_name().unwrap_or("root".as_ref()));
        let mut creation = Creation { largest: largest(sizes), folder, created: BTreeSet::new() };
        creation.mirror(root, &mirrored, &tree)?;
        let Creation { folder, created, .. } = creation;
        Ok(Self { base: mirrored.join(below(0)), folder, created, _temporary: temporary })
    }

    /// The mirror of the pipeline's folder.
    pub(crate) fn base(&self) -> &Path {
        &self.base
    }

    /// The names of at most ten files or folders that a program created in the mirror, sorted.
    pub(crate) fn written(&self) -> Vec<String> {
        let mut found = BTreeSet::new();
        let mut folders = vec![self.folder.clone()];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(&folder).into_iter().flatten().flatten() {
                let path = entry.path();
                if !self.created.contains(&path) {
                    found.insert(path.strip_prefix(&self.base).unwrap_or(&path).display().to_string());
                } else if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                    folders.push(path);
                }
            }
        }
        found.retain(|name| !name.ends_with("__pycache__"));
        found.into_iter().take(10).collect()
    }

    /// The files of the mirror. Digests of files outside it are remembered in `store`.
    pub(crate) fn files<'a>(&'a self, store: &'a Store) -> impl Files + 'a {
        MirrorFiles { mirror: self, store }
    }
}

/// How many folders up a path begins, and the rest of the path. `None` if the mirror can't hold the file.
fn relative(name: &str) -> Option<(usize, PathBuf)> {
    let parts = || Path::new(name).components().filter(|part| *part != Component::CurDir);
    let up = parts().take_while(|part| *part == Component::ParentDir).count();
    let rest: PathBuf = parts().skip(up).collect();
    let is_plain = rest.components().all(|part| matches!(part, Component::Normal(_)));
    (is_plain && rest.file_name().is_some()).then_some((up, rest))
}

/// The size up to which files can be copied without exceeding the limit.
fn largest(mut sizes: Vec<u64>) -> u64 {
    sizes.sort_unstable();
    let mut total = 0u64;
    sizes
        .into_iter()
        .take_while(|size| {
            total = total.saturating_add(*size);
            total <= MAX_COPIED_BYTES
        })
        .last()
        .unwrap_or(0)
}

impl Tree {
    fn add_folder(&mut self, path: &Path) -> &mut Self {
        path.components().fold(self, |tree, part| tree.folders.entry(part.as_os_str().into()).or_default())
    }

    fn add_file(&mut self, path: &Path) {
        if let (Some(parent), Some(name)) = (path.parent(), path.file_name()) {
            self.add_folder(parent).files.insert(name.into());
        }
    }
}

impl Creation {
    /// Creates the folder `to` with copies and links of what is in `from`.
    fn mirror(&mut self, from: &Path, to: &Path, tree: &Tree) -> io::Result<()> {
        fs::create_dir(to)?;
        self.created.insert(to.to_owned());
        for (name, tree) in &tree.folders {
            // A file that does not exist may be declared to be in a folder that does not exist.
            if from.join(name).is_dir() {
                self.mirror(&from.join(name), &to.join(name), tree)?;
            }
        }
        for name in tree.files.iter().filter(|name| from.join(name).is_file()) {
            self.copy(&from.join(name), &to.join(name))?;
            self.created.insert(to.join(name));
        }
        // A folder above the pipeline's may be closed to this user.
        for entry in fs::read_dir(from).into_iter().flatten() {
            let entry = entry?;
            let copy = to.join(entry.file_name());
            if !self.created.contains(&copy) && !self.is_inside(&entry.path()) {
                std::os::unix::fs::symlink(entry.path(), &copy)?;
                self.created.insert(copy);
            }
        }
        Ok(())
    }

    /// Whether the mirror is inside this folder. A program that follows links would never reach the end of it.
    fn is_inside(&self, path: &Path) -> bool {
        path.is_dir() && path.canonicalize().is_ok_and(|path| self.folder.starts_with(path))
    }

    /// Copies a file with its permissions and its modification time, by which Python recognises compiled modules.
    fn copy(&self, from: &Path, to: &Path) -> io::Result<()> {
        let source = File::open(from)?;
        let metadata = source.metadata()?;
        if metadata.len() > self.largest {
            let copy = File::create_new(to)?;
            if rustix::fs::ioctl_ficlone(&copy, &source).is_err() {
                drop(copy);
                fs::remove_file(to)?;
                return std::os::unix::fs::symlink(from, to);
            }
            fs::set_permissions(to, metadata.permissions())?;
        } else {
            // Shares the bytes if the file system can.
            fs::copy(from, to)?;
        }
        File::open(to)?.set_modified(metadata.modified()?)
    }
}

/// See [`Mirror::files`].
struct MirrorFiles<'a> {
    mirror: &'a Mirror,
    store: &'a Store,
}

impl Files for MirrorFiles<'_> {
    fn digest(&self, path: &Path) -> io::Result<Digest> {
        let path = path.canonicalize()?;
        match path.starts_with(&self.mirror.folder) {
            true => Digest::of_reader(file::open(&path)?),
            false => self.store.file_digest(&path),
        }
    }

    fn resolve(&self, path: &str) -> PathBuf {
        self.mirror.base.join(path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A project with a pipeline in a folder of it.
    fn project() -> TempDir {
        let project = tempfile::tempdir().unwrap();
        for (path, text) in [
            ("lib/shared.py", "shared"),
            ("pipelines/train.py", "train"),
            ("pipelines/tools/helper.py", "helper"),
            ("pipelines/tools/other.py", "other"),
            ("pipelines/images/1.png", "image"),
        ] {
            let path = project.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        project
    }

    fn mirror(base: &Path, files: &[&str]) -> Mirror {
        let files = files.iter().map(|name| (*name).to_owned()).collect();
        Mirror::create(base, &files, tempfile::tempdir().unwrap()).unwrap()
    }

    fn is_link(path: PathBuf) -> bool {
        fs::symlink_metadata(path).unwrap().is_symlink()
    }

    #[test]
    fn declared_files_are_copies_and_everything_else_is_a_link() {
        let project = project();
        let base = project.path().join("pipelines");
        let mirror = mirror(&base, &["train.py", "tools/helper.py", "tools/missing.py", "nowhere/x.py"]);
        for name in ["train.py", "tools/helper.py"] {
            fs::write(base.join(name), "edited").unwrap();
            assert!(!is_link(mirror.base().join(name)), "{name}");
        }
        assert_eq!(fs::read(mirror.base().join("train.py")).unwrap(), b"train");
        assert_eq!(fs::read(mirror.base().join("tools/helper.py")).unwrap(), b"helper");
        for name in ["tools/other.py", "images"] {
            assert!(is_link(mirror.base().join(name)), "{name}");
        }
        assert_eq!(fs::read(mirror.base().join("images/1.png")).unwrap(), b"image");
        assert!(!mirror.base().join("nowhere").exists());
    }

    #[test]
    fn mirror_begins_at_the_project_or_where_a_declared_file_requires_it() {
        let project = project();
        let base = project.path().join("pipelines");
        assert!(!mirror(&base, &["train.py"]).base().join("../lib").exists());
        let declared = mirror(&base, &["train.py", "../lib/shared.py"]);
        assert!(!is_link(declared.base().join("../lib/shared.py")));
        fs::create_dir(project.path().join(".git")).unwrap();
        assert!(is_link(mirror(&base, &["train.py"]).base().join("../lib")));
    }

    #[test]
    fn paths_that_the_mirror_cannot_hold_refer_to_the_originals() {
        let project = project();
        let absolute = project.path().join("lib/shared.py").display().to_string();
        let mirror = mirror(&project.path().join("pipelines"), &[&absolute, "images/../train.py", "..", ".", ""]);
        assert!(is_link(mirror.base().join("train.py")));
        assert_eq!(fs::read(mirror.base().join(&absolute)).unwrap(), b"shared");
    }

    #[test]
    fn copy_keeps_the_modification_time_and_the_permissions() {
        use std::os::unix::fs::PermissionsExt as _;
        let project = project();
        let base = project.path().join("pipelines");
        let script = base.join("train.py");
        let long_ago = std::time::SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(1_000_000_000);
        File::open(&script).unwrap().set_modified(long_ago).unwrap();
        fs::set_permissions(&script, fs::Permissions::from_mode(0o555)).unwrap();
        let copy = fs::metadata(mirror(&base, &["train.py"]).base().join("train.py")).unwrap();
        assert_eq!((copy.modified().unwrap(), copy.permissions().mode() & 0o777), (long_ago, 0o555));
    }

    #[test]
    fn large_files_are_linked_so_that_at_most_64_mib_are_copied() {
        assert_eq!(largest(vec![]), 0);
        assert_eq!(largest(vec![5, MAX_COPIED_BYTES - 5]), MAX_COPIED_BYTES - 5);
        assert_eq!(largest(vec![MAX_COPIED_BYTES - 4, 2, 5]), 5);
        assert_eq!(largest(vec![u64::MAX, u64::MAX, 1]), 1);
    }

    #[test]
    fn what_a_program_creates_in_a_real_folder_is_found() {
        let project = project();
        let mirror = mirror(&project.path().join("pipelines"), &["tools/helper.py"]);
        assert_eq!(mirror.written(), [""; 0]);
        for path in ["new/a", "tools/b", "images/kept", "tools/__pycache__/helper.pyc"] {
            let path = mirror.base().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "").unwrap();
        }
        assert_eq!(mirror.written(), ["new", "tools/b"]);
        assert!(project.path().join("pipelines/images/kept").exists());
    }

    #[test]
    fn folder_that_contains_the_mirror_is_left_out() {
        let project = project();
        let base = project.path().join("pipelines");
        let cache = base.join("cache");
        fs::create_dir(&cache).unwrap();
        std::os::unix::fs::symlink(&cache, base.join("linked")).unwrap();
        let mirror = Mirror::create(&base, &BTreeSet::new(), TempDir::new_in(&cache).unwrap()).unwrap();
        assert!(fs::symlink_metadata(mirror.base().join("cache")).is_err());
        assert!(fs::symlink_metadata(mirror.base().join("linked")).is_err());
        assert!(is_link(mirror.base().join("images")));
    }
}
