//! A mirror of the pipeline's folder, in which programs run: an edit while a stage runs does not change what it reads.
//!
//! The files that a stage declares are copied. Everything else in the folder is a symbolic link to the original, so a
//! script finds its modules and its data at the usual places. A folder that contains a copied file is a real folder.
//!
//! ```text
//! project/                      MIRROR/project/
//!   shared/                       shared         -> project/shared
//!   pipelines/                    pipelines/                                the mirror of the pipeline's folder
//!     p.toml                        p.toml       -> project/pipelines/p.toml
//!     train.py                      train.py                                a copy, because `argv` names it
//!     images/                       images       -> project/pipelines/images
//! ```
//!
//! The two folders above are mirrored one level deep, so that `..` and paths built from Python's `__file__` work. A
//! folder with many entries ends this, because each link takes time. Folders that a declared file requires are always
//! mirrored.
//!
//! What a program creates in a linked folder is in the original folder at once. What it creates or replaces in a real
//! folder is moved to the original after the program has ended, also if it failed.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::symlink;
use std::path::{Component, Path, PathBuf};
use std::time::SystemTime;

use tempfile::TempDir;

use crate::file;
use crate::key::Digest;
use crate::stage::{Files, StageError};
use crate::store::{Store, digest_now};

/// The most bytes that are copied for one stage if the file system can't share them between files. Larger files are
/// links.
const MAX_COPIED_BYTES: u64 = 64 << 20;
/// How many folders above the pipeline's are mirrored without being required.
const LEVELS: usize = 2;
/// A folder above the pipeline's with more entries is mirrored only if it is required.
const MAX_SIBLINGS: usize = 64;

/// The mirror of a folder.
pub(crate) struct Mirror {
    /// The folder that contains the whole mirror. Removed on drop.
    _temporary: TempDir,
    /// The same folder, without symbolic links in its path.
    folder: PathBuf,
    /// The highest folder that is mirrored, and its mirror.
    root: PathBuf,
    mirrored: PathBuf,
    /// The pipeline's folder, without symbolic links in its path, and its mirror.
    original_base: PathBuf,
    base: PathBuf,
    created: BTreeMap<PathBuf, Entry>,
}

/// The size and the modification time of a file.
type Stamp = (u64, SystemTime);

/// What was created in the mirror.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Entry {
    Folder,
    /// With the stamps of the copy and of the original. A file system may round times.
    Copy(Stamp, Stamp),
    Link,
}

/// The real folders and the copies in a folder of the mirror.
#[derive(Default)]
struct Tree {
    folders: BTreeMap<PathBuf, Tree>,
    files: BTreeSet<PathBuf>,
}

/// Creates a mirror.
struct Creation<'a> {
    /// The pipeline's folder.
    base: &'a Path,
    /// The folder that contains the whole mirror.
    folder: PathBuf,
    /// Files of this size or less are copied.
    largest: u64,
    created: BTreeMap<PathBuf, Entry>,
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
        // Without symbolic links, so that `..` means the same in both folders.
        let base = if base.as_os_str().is_empty() { Path::new(".") } else { base }.canonicalize()?;
        let files: Vec<(usize, PathBuf)> = files.iter().filter_map(|name| relative(name)).collect();
        let ancestors: Vec<&Path> = base.ancestors().collect();
        let required = files.iter().map(|(up, _)| *up).max().unwrap_or(0);
        let small = ancestors[1..].iter().take(LEVELS).take_while(|folder| is_small(folder)).count();
        let root = ancestors[small.max(required).min(ancestors.len() - 1)];
        let below = |up: usize| ancestors[up.min(ancestors.len() - 1)].strip_prefix(root).unwrap_or(Path::new(""));
        let mut tree = Tree::default();
        tree.add_folder(below(0));
        let mut sizes = Vec::new();
        for (up, name) in &files {
            let path = below(*up).join(name);
            sizes.extend(fs::metadata(root.join(&path)).map(|file| file.len()));
            tree.add_file(&path);
        }
        let mirrored = folder.join(root.file_name().unwrap_or("root".as_ref()));
        let mut creation = Creation { base: &base, largest: largest(sizes), folder, created: BTreeMap::new() };
        creation.mirror(root, &mirrored, &tree)?;
        let Creation { folder, created, .. } = creation;
        let (in_mirror, root) = (mirrored.join(below(0)), root.to_owned());
        Ok(Self { _temporary: temporary, folder, root, mirrored, original_base: base, base: in_mirror, created })
    }

    /// The mirror of the pipeline's folder.
    pub(crate) fn base(&self) -> &Path {
        &self.base
    }

    /// The folder that [`Mirror::base`] mirrors, without symbolic links in its path.
    pub(crate) fn original_base(&self) -> &Path {
        &self.original_base
    }

    /// The highest folder of the mirror, and its original.
    pub(crate) fn root(&self) -> (PathBuf, PathBuf) {
        (self.mirrored.clone(), self.root.clone())
    }

    /// The original of a path in the mirror. Other paths are returned unchanged.
    pub(crate) fn original(&self, path: &Path) -> PathBuf {
        path.strip_prefix(&self.mirrored).map_or_else(|_| path.to_owned(), |below| self.root.join(below))
    }

    /// The copy of a file in the mirror, if it was copied.
    pub(crate) fn copy_of(&self, original: &Path) -> Option<PathBuf> {
        let path = self.mirrored.join(original.strip_prefix(&self.root).ok()?);
        matches!(self.created.get(&path), Some(Entry::Copy(..))).then_some(path)
    }

    /// Moves what a program created or replaced to the original folders. Returns the names of files that could not be
    /// moved, for example because another file has the name.
    pub(crate) fn move_back(&self) -> Vec<String> {
        let mut left = Vec::new();
        self.move_folder_back(&self.mirrored, &mut left);
        left
    }

    fn move_folder_back(&self, folder: &Path, left: &mut Vec<String>) {
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            let path = entry.path();
            let Ok(name) = path.strip_prefix(&self.mirrored) else { continue };
            let original = self.root.join(name);
            let is_link = entry.file_type().is_ok_and(|kind| kind.is_symlink());
            let is_folder = entry.file_type().is_ok_and(|kind| kind.is_dir());
            let moved = match self.created.get(&path) {
                Some(Entry::Folder) => {
                    self.move_folder_back(&path, left);
                    continue;
                }
                Some(Entry::Copy(copy, _)) if stamp(&path) == Some(*copy) => continue,
                // A program that writes to a file writes to its copy.
                Some(Entry::Copy(_, before)) if stamp(&original) == Some(*before) => {
                    fs::copy(&path, &original).map(drop)
                }
                Some(Entry::Link) if is_link => continue,
                None if path.ends_with("__pycache__") => continue,
                None if is_folder && original.is_dir() => {
                    self.move_folder_back(&path, left);
                    continue;
                }
                // A program that replaces a file atomically replaces the link.
                Some(Entry::Link) if !is_folder => move_file(&path, &original),
                None if original.symlink_metadata().is_err() => move_file(&path, &original),
                _ => Err(io::ErrorKind::AlreadyExists.into()),
            };
            if moved.is_err() {
                left.push(original.display().to_string());
            }
        }
    }

    /// The files of the mirror. Digests of files outside it are remembered in `store`.
    pub(crate) fn files<'a>(&'a self, store: &'a Store) -> impl Files + 'a {
        MirrorFiles { mirror: self, store }
    }
}

/// The stamp of a regular file.
fn stamp(file: &Path) -> Option<Stamp> {
    let file = fs::symlink_metadata(file).ok().filter(fs::Metadata::is_file)?;
    Some((file.len(), file.modified().ok()?))
}

fn is_small(folder: &Path) -> bool {
    fs::read_dir(folder).is_ok_and(|entries| entries.take(MAX_SIBLINGS + 1).count() <= MAX_SIBLINGS)
}

/// Moves a file or a folder, also to another file system.
fn move_file(from: &Path, to: &Path) -> io::Result<()> {
    match fs::rename(from, to) {
        Err(error) if error.kind() == io::ErrorKind::CrossesDevices => copy_all(from, to),
        other => other,
    }
}

fn copy_all(from: &Path, to: &Path) -> io::Result<()> {
    let kind = fs::symlink_metadata(from)?.file_type();
    if kind.is_dir() {
        fs::create_dir(to)?;
        for entry in fs::read_dir(from)? {
            let entry = entry?;
            copy_all(&entry.path(), &to.join(entry.file_name()))?;
        }
    } else if kind.is_symlink() {
        symlink(fs::read_link(from)?, to)?;
    } else if kind.is_file() {
        fs::copy(from, to)?;
    }
    Ok(())
}

/// How many folders up a path begins, and the rest of the path. `None` if the mirror can't hold the file.
fn relative(name: &str) -> Option<(usize, PathBuf)> {
    let parts = || Path::new(name).components().filter(|part| *part != Component::CurDir);
    let up = parts().take_while(|part| *part == Component::ParentDir).count();
    let rest: PathBuf = parts().skip(up).collect();
    let is_plain = rest.components().all(|part| matches!(part, Component::Normal(_)));
    (is_plain && rest.file_name().is_some()).then_some((up, rest))
}

/// The size up to which all files can be copied without exceeding the limit.
fn largest(mut sizes: Vec<u64>) -> u64 {
    sizes.sort_unstable();
    let mut total = 0u64;
    let first_left_out = sizes.iter().find(|size| {
        total = total.saturating_add(**size);
        total > MAX_COPIED_BYTES
    });
    let fits = |size: &&u64| first_left_out.is_none_or(|limit| *size < limit);
    sizes.iter().rev().find(fits).copied().unwrap_or(0)
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

impl Creation<'_> {
    /// Creates the folder `to` with folders, copies and links of what is in `from`.
    fn mirror(&mut self, from: &Path, to: &Path, tree: &Tree) -> io::Result<()> {
        fs::create_dir(to)?;
        self.created.insert(to.to_owned(), Entry::Folder);
        for (name, tree) in &tree.folders {
            // A file that does not exist may be declared to be in a folder that does not exist.
            if from.join(name).is_dir() {
                self.mirror(&from.join(name), &to.join(name), tree)?;
            }
        }
        for name in &tree.files {
            match self.copy(&from.join(name), &to.join(name)) {
                // The check of the files reports it.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                copied => drop(self.created.insert(to.join(name), copied?)),
            }
        }
        let entries = match fs::read_dir(from) {
            // A folder above the pipeline's may be closed to this user. A folder may have been removed.
            Err(_) if from != self.base && !from.starts_with(self.base) => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::NotFound && from != self.base => return Ok(()),
            entries => entries?,
        };
        for entry in entries {
            let entry = entry?;
            let (path, copy) = (entry.path(), to.join(entry.file_name()));
            if self.created.contains_key(&copy) || self.folder.parent() == Some(&path) {
                continue;
            }
            if self.folder.starts_with(&path) {
                // A link to a folder that contains the mirror would have no end.
                self.mirror(&path, &copy, &Tree::default())?;
            } else {
                symlink(path, &copy)?;
                self.created.insert(copy, Entry::Link);
            }
        }
        Ok(())
    }

    /// Copies a file with its permissions and its modification time, by which Python recognises compiled modules. A
    /// file that is a link remains one: Python looks for the modules of a script where the link leads.
    fn copy(&self, from: &Path, to: &Path) -> io::Result<Entry> {
        let link = || symlink(from, to).map(|()| Entry::Link);
        if fs::symlink_metadata(from)?.is_symlink() {
            return link();
        }
        let source = File::open(from)?;
        let metadata = source.metadata()?;
        if metadata.len() > self.largest {
            let copy = File::create_new(to)?;
            if rustix::fs::ioctl_ficlone(&copy, &source).is_err() {
                drop(copy);
                fs::remove_file(to)?;
                return link();
            }
            fs::set_permissions(to, metadata.permissions())?;
        } else {
            // Shares the bytes if the file system can.
            fs::copy(from, to)?;
        }
        let modified = metadata.modified()?;
        let copy = File::open(to)?;
        copy.set_modified(modified)?;
        Ok(Entry::Copy((metadata.len(), copy.metadata()?.modified()?), (metadata.len(), modified)))
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

    /// Of the original, since a folder of the mirror may have links instead of folders.
    fn digest_all(&self, path: &Path) -> io::Result<Digest> {
        digest_now(&self.mirror.original(path), &|path| self.store.file_digest(path))
    }

    fn resolve(&self, path: &str) -> PathBuf {
        self.mirror.base.join(path)
    }

    fn base(&self) -> PathBuf {
        self.mirror.original_base.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A project with a pipeline in a folder of it.
    fn project() -> TempDir {
        let project = tempfile::tempdir().unwrap();
        for path in [
            "lib/shared.py",
            "pipelines/train.py",
            "pipelines/tools/helper.py",
            "pipelines/tools/other.py",
            "pipelines/images/1.png",
        ] {
            write(&project.path().join(path), path);
        }
        project
    }

    fn write(path: &Path, text: &str) {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn mirror(base: &Path, files: &[&str]) -> Mirror {
        let files = files.iter().map(|name| (*name).to_owned()).collect();
        Mirror::create(base, &files, tempfile::tempdir().unwrap()).unwrap()
    }

    fn is_link(path: PathBuf) -> bool {
        fs::symlink_metadata(path).unwrap().is_symlink()
    }

    #[test]
    fn declared_files_are_copies_and_all_others_are_links() {
        let project = project();
        let base = project.path().join("pipelines");
        let mirror = mirror(&base, &["train.py", "tools/helper.py", "tools/missing.py", "nowhere/x.py"]);
        for name in ["train.py", "tools/helper.py"] {
            fs::write(base.join(name), "edited").unwrap();
            let copy = mirror.base().join(name);
            assert_eq!(fs::read_to_string(&copy).unwrap(), format!("pipelines/{name}"));
            assert!(!is_link(copy), "{name}");
        }
        for name in ["tools/other.py", "images"] {
            assert!(is_link(mirror.base().join(name)), "{name}");
        }
        assert!(mirror.base().join("images/1.png").exists());
        assert!(!mirror.base().join("nowhere").exists());
    }

    #[test]
    fn folders_above_the_pipeline_are_there() {
        let project = project();
        let base = project.path().join("pipelines");
        assert!(is_link(mirror(&base, &["train.py"]).base().join("../lib")));
        assert!(!is_link(mirror(&base, &["../lib/shared.py"]).base().join("../lib/shared.py")));
    }

    #[test]
    fn pipeline_behind_dots_or_a_link_is_mirrored() {
        let project = project();
        let link = project.path().join("deep/link");
        fs::create_dir(link.parent().unwrap()).unwrap();
        symlink(project.path().join("pipelines"), &link).unwrap();
        for base in [project.path().join("pipelines/tools/.."), link] {
            let mirror = mirror(&base, &["train.py", "../lib/shared.py"]);
            for name in ["train.py", "../lib/shared.py"] {
                assert!(!is_link(mirror.base().join(name)), "{name} in {}", base.display());
            }
        }
    }

    #[test]
    fn paths_that_the_mirror_cannot_hold_refer_to_the_originals() {
        let project = project();
        let absolute = project.path().join("lib/shared.py").display().to_string();
        let mirror = mirror(&project.path().join("pipelines"), &[&absolute, "images/../train.py", "..", ".", ""]);
        assert!(is_link(mirror.base().join("train.py")));
        assert!(is_link(mirror.base().join("../lib")));
    }

    #[test]
    fn script_that_is_a_link_remains_one() {
        let project = project();
        let base = project.path().join("pipelines");
        symlink("../lib/shared.py", base.join("linked.py")).unwrap();
        let mirror = mirror(&base, &["linked.py"]);
        let mirrored = mirror.base().join("linked.py");
        let original = project.path().join("lib/shared.py");
        assert_eq!(mirrored.canonicalize().unwrap(), original.canonicalize().unwrap());
        drop(mirror);
        assert!(mirrored.symlink_metadata().is_err() && original.exists(), "only the mirror is removed");
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
        assert_eq!(largest(vec![3, 40 << 20, 40 << 20]), 3, "files of one size are all copied or all linked");
    }

    #[test]
    fn what_a_program_creates_or_replaces_is_moved_back() {
        let project = project();
        let base = project.path().join("pipelines");
        let mirror = mirror(&base, &["train.py", "tools/helper.py"]);
        assert_eq!(mirror.move_back(), [""; 0]);
        for path in ["new/a", "tools/b", "images/c", "../lib2/e", "taken", "__pycache__/train.pyc"] {
            write(&mirror.base().join(path), "written");
        }
        write(&base.join("taken"), "first");
        // As `sed -i` does.
        write(&mirror.base().join("tools/.new"), "replaced");
        fs::rename(mirror.base().join("tools/.new"), mirror.base().join("tools/other.py")).unwrap();
        let left = mirror.move_back();
        assert_eq!(left, [base.canonicalize().unwrap().join("taken").display().to_string()]);
        for path in ["new/a", "tools/b", "images/c", "../lib2/e"] {
            assert_eq!(fs::read_to_string(base.join(path)).unwrap(), "written", "{path}");
        }
        assert_eq!(fs::read_to_string(base.join("tools/other.py")).unwrap(), "replaced");
        assert_eq!(fs::read_to_string(base.join("taken")).unwrap(), "first");
        assert!(!base.join("__pycache__").exists());
    }

    #[test]
    fn folder_is_moved_back_to_another_file_system() {
        let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        write(&from.path().join("a/b/c"), "text");
        symlink("b/c", from.path().join("a/link")).unwrap();
        copy_all(&from.path().join("a"), &to.path().join("a")).unwrap();
        assert_eq!(fs::read_to_string(to.path().join("a/link")).unwrap(), "text");
        assert!(is_link(to.path().join("a/link")));
    }

    #[test]
    fn mirror_in_the_pipelines_folder_does_not_contain_itself() {
        let project = project();
        let base = project.path().join("pipelines");
        write(&base.join("results/cache/index"), "");
        write(&base.join("results/data.csv"), "");
        let scratch = base.join("results/cache/scratch");
        fs::create_dir(&scratch).unwrap();
        let mirror = Mirror::create(&base, &BTreeSet::new(), TempDir::new_in(&scratch).unwrap()).unwrap();
        assert!(is_link(mirror.base().join("results/data.csv")));
        assert!(is_link(mirror.base().join("results/cache/index")));
        assert!(fs::symlink_metadata(mirror.base().join("results/cache/scratch")).is_err());
    }
}
