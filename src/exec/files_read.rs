//! The files that a program read although its stage does not name them.
//!
//! A program lists the files that it opens in [`Context::dep_file`](crate::stage::Context::dep_file), one path a line,
//! absolute or relative to the pipeline's folder. The files that belong to the project enter the key of the result:
//! those below the pipeline's folder, those below the folder of a file that the stage names, and with `python` those
//! below the folder above whose `uv.lock` or `.venv` is used. Installed packages, all of `.venv`, compiled Python
//! modules, the repository's `.git`, the cache, and the files that the program itself wrote do not.
//!
//! A program may read a file in place although the mirror has a copy: a package that is installed as editable is found
//! in its original folder. Then the original counts, also if the stage names the file.
//!
//! A folder in which a program read very many files counts as a whole, so that no result has thousands of names.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::{self, BufRead as _, BufReader};
use std::os::unix::ffi::OsStringExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::exec::mirror::Mirror;
use crate::exec::run_files::Relocation;
use crate::file::{self, without_dots};
use crate::key::{Digest, Hash};
use crate::store::Store;

/// A folder with more files that were read counts as a whole.
const MAX_IN_FOLDER: usize = 100;
/// With more files and folders than this, the deepest folders count as a whole.
const MAX_NAMES: usize = 1000;
/// Folders of files that do not belong to the project.
const FOREIGN: [&str; 5] = [".git", ".venv", "__pycache__", "site-packages", "dist-packages"];

/// Finds the files of a project in the lists that a program writes.
#[derive(Clone)]
pub(crate) struct Scan<'a> {
    pub store: &'a Store,
    pub mirror: &'a Mirror,
    /// The files and folders that its stage names.
    pub named: &'a BTreeSet<String>,
    /// A folder above the pipeline's whose files belong to the project, too.
    pub project: Option<PathBuf>,
    /// Where the files of the project come from, if they were laid out in another folder.
    pub relocation: Option<&'a Relocation>,
    /// When the attempt started. With a checkpoint, when the first attempt started.
    pub started: FileTime,
    /// The mirrored folders of earlier attempts, and their originals.
    pub mirrors: Vec<(PathBuf, PathBuf)>,
    /// A list of files that earlier processes of the same stage wrote.
    pub written_before: PathBuf,
}

/// A moment, as a local file system records it for a file that changes then: seconds and nanoseconds.
#[derive(Clone, Copy, Default, Serialize, Deserialize)]
pub(crate) struct FileTime(i64, i64);

/// The files of the project that a program read.
#[derive(Debug, Default)]
pub(crate) struct FoundFiles {
    /// Their digests, by their path relative to the pipeline's folder.
    pub digests: BTreeMap<String, Digest>,
    /// Those that changed while the program ran. It is unknown what the program read, so their digests match no file.
    pub changed: Vec<String>,
}

/// The files and folders of the project in a list, by their path relative to the pipeline's folder.
struct ProjectFiles {
    /// Those that the stage does not name.
    others: BTreeMap<String, PathBuf>,
    /// Those that the stage names, and that the program read in place although the mirror has copies. Their digests
    /// are in the key.
    named: BTreeMap<String, PathBuf>,
    /// Those that the program read in place: it found them by another path than that of the mirror, for example by that
    /// of a package that is installed as editable.
    in_place: BTreeSet<PathBuf>,
    /// The files that the program wrote.
    written: BTreeSet<PathBuf>,
    /// The files that it read where the project comes from, by the file in their place.
    relocated: BTreeMap<PathBuf, PathBuf>,
}

impl FoundFiles {
    /// Adds a file that changed while the program ran.
    fn add_changed(&mut self, name: String, started: FileTime) {
        self.digests.insert(name.clone(), unmatched(&name, started));
        self.changed.push(name);
    }
}

impl FileTime {
    /// Now. Creates a file in this folder, because no clock that a process can read is exact: since Linux 6.13, the
    /// time of a file may be some milliseconds later than the coarse clock, and it may be earlier than the fine clock.
    ///
    /// # Errors
    /// If the file can't be created.
    pub(crate) fn now(folder: &Path) -> io::Result<Self> {
        let file = tempfile::tempfile_in(folder)?.metadata()?;
        Ok(Self(file.ctime(), file.ctime_nsec()))
    }

    /// Whether a file was written, replaced or renamed later.
    fn is_before_change_of(self, file: &fs::Metadata) -> bool {
        (file.ctime(), file.ctime_nsec()) > (self.0, self.1)
    }
}

impl Scan<'_> {
    /// The files that the program has listed in `list`.
    ///
    /// # Errors
    /// If the list can't be read.
    pub(crate) fn files_read(&self, list: &Path) -> io::Result<FoundFiles> {
        let files = self.project_files(list)?;
        let (mut names, mut folders) = (BTreeSet::new(), BTreeSet::new());
        for (name, path) in &files.others {
            match fs::metadata(path) {
                Ok(file) if file.is_file() => drop(names.insert(PathBuf::from(name))),
                Ok(file) if file.is_dir() => drop(folders.insert(PathBuf::from(name))),
                _ => {}
            }
        }
        // The program does not see changes of a file whose copy it read.
        let copy = |path: &Path| {
            let is_read_in_place = || path.ancestors().any(|path| files.in_place.contains(path));
            self.mirror.copy_of(path).filter(|_| !is_read_in_place())
        };
        let has_changed = |path: &Path| self.has_changed(path, &files.written, &|path| copy(path).is_some());
        let mut found = FoundFiles::default();
        for name in summarized(names, folders) {
            let path = self.path(&name);
            let digest = match copy(&path) {
                Some(copy) => file::open(&copy).ok().and_then(|copy| Digest::of_reader(copy).ok()),
                None => self.store.digest_now(&path),
            };
            let Some(digest) = digest else { continue };
            // After the digest was computed, because the file may also change meanwhile.
            if has_changed(&path)? {
                found.add_changed(name, self.started);
            } else {
                found.digests.insert(name, digest);
            }
        }
        for name in files.named.into_keys() {
            if has_changed(&self.path(&name))? {
                found.add_changed(name, self.started);
            }
        }
        for (path, original) in &files.relocated {
            // The original may have been edited since the run was pushed, and edited back since it was read.
            let is_same = self.store.digest_now(path) == self.store.digest_now(original)
                && !self.has_changed(original, &files.written, &|_| false)?;
            if let Some(name) = self.project().name(path).filter(|_| !is_same) {
                found.add_changed(name, self.started);
            }
        }
        Ok(found)
    }

    /// The first file of the project in the list of an earlier attempt that has changed since the start. A file that
    /// was written since has not changed if it has the digest in `digests`, which are those of [`Scan::files_read`].
    ///
    /// # Errors
    /// If the list or a folder in it can't be read.
    pub(crate) fn changed_file(&self, list: &Path, digests: &BTreeMap<String, Digest>) -> io::Result<Option<String>> {
        let files = self.project_files(list)?;
        for (name, path) in files.others.into_iter().chain(files.named) {
            let has_digest =
                || digests.contains_key(&name) && digests.get(&name) == self.store.digest_now(&path).as_ref();
            // The copies of this attempt are newer than what the earlier attempt read.
            if self.has_changed(&path, &files.written, &|_| false)? && !has_digest() {
                return Ok(Some(name));
            }
        }
        Ok(None)
    }

    /// Whether a file, or a file below a folder, has changed since the start. Files do not count if the program read
    /// their copies. A program that looked for a file that does not exist has not read it.
    fn has_changed(
        &self,
        path: &Path,
        written: &BTreeSet<PathBuf>,
        is_copy_read: &dyn Fn(&Path) -> bool,
    ) -> io::Result<bool> {
        let is_file_changed = |path: &Path| {
            let is_later = |file: fs::Metadata| file.is_file() && self.started.is_before_change_of(&file);
            !is_copy_read(path) && !written.contains(path) && fs::metadata(path).is_ok_and(is_later)
        };
        if !path.is_dir() {
            return Ok(is_file_changed(path));
        }
        Ok(file::files_below(path)?.iter().any(|file| is_file_changed(&path.join(file))))
    }

    /// The files and folders of the project in a list, without those that the program wrote.
    fn project_files(&self, list: &Path) -> io::Result<ProjectFiles> {
        let mut written = list.as_os_str().to_owned();
        written.push(".written");
        let before = self.listed(&self.written_before)?;
        let written: BTreeSet<PathBuf> =
            self.listed(Path::new(&written))?.into_keys().chain(before.into_keys()).collect();
        let (project, all_named) = (self.project(), self.named_files()?);
        let (mut others, mut named, mut in_place) = (BTreeMap::new(), BTreeMap::new(), BTreeSet::new());
        let mut relocated = BTreeMap::new();
        for (listed, is_in_place) in self.listed(list)? {
            if written.contains(&listed) {
                continue;
            }
            let place = self.relocation.and_then(|relocation| relocation.relocated(&listed));
            let path = place.clone().unwrap_or_else(|| listed.clone());
            relocated.extend(place.map(|place| (place, listed)));
            let Some(name) = project.name(&path).filter(|_| !written.contains(&path)) else { continue };
            let original = self.path(&name);
            if !all_named.contains(Path::new(&name)) {
                others.insert(name, path);
            } else if is_in_place && self.mirror.copy_of(&original).is_some() {
                named.insert(name, path);
            }
            in_place.extend(is_in_place.then_some(original));
        }
        Ok(ProjectFiles { others, named, in_place, written, relocated })
    }

    /// The path of a file of the project, without links in it.
    fn path(&self, name: &str) -> PathBuf {
        without_dots(&self.mirror.original_base().join(name))
    }

    /// The files whose digests are in the key already: those that the stage names, and those below folders that it
    /// names.
    fn named_files(&self) -> io::Result<BTreeSet<PathBuf>> {
        let mut files = BTreeSet::new();
        for name in self.named {
            let path = self.mirror.original_base().join(name);
            if path.is_dir() {
                files.extend(file::files_below(&path)?.iter().map(|file| Path::new(name).join(file)));
            }
            files.insert(Path::new(name).components().collect());
        }
        Ok(files)
    }

    /// The original paths in a list, and whether a line names the original and not the mirror. No list means none.
    fn listed(&self, list: &Path) -> io::Result<BTreeMap<PathBuf, bool>> {
        let file = match file::open(list).map_err(io::Error::from) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(BTreeMap::new()),
            file => BufReader::new(file?),
        };
        let original = |path: &Path| {
            let original = self.mirror.original(path);
            let earlier = |(mirrored, original): &(PathBuf, PathBuf)| {
                path.strip_prefix(mirrored).ok().map(|below| original.join(below))
            };
            self.mirrors.iter().find_map(earlier).unwrap_or(original)
        };
        let mut paths = BTreeMap::new();
        for line in file.split(b'\n') {
            let line = line?;
            if !line.is_empty() {
                let path = without_dots(&self.mirror.base().join(OsString::from_vec(line)));
                let original = original(&path);
                let is_in_place = original == path;
                *paths.entry(original).or_default() |= is_in_place;
            }
        }
        Ok(paths)
    }

    /// The folders of the project.
    fn project(&self) -> Project<'_> {
        let base = self.mirror.original_base();
        let root = |name: &String| {
            let path = base.join(name).canonicalize().ok()?;
            let folder = if path.is_dir() { Some(&*path) } else { path.parent().filter(|_| !name.starts_with('/')) };
            folder.filter(|folder| folder.parent().is_some()).map(Path::to_owned)
        };
        let roots = std::iter::once(base.to_owned())
            .chain(self.project.clone())
            .chain(self.named.iter().filter_map(root))
            .collect();
        Project { base, roots, cache: self.store.dir().canonicalize().ok() }
    }
}

/// Which files belong to a project.
struct Project<'a> {
    /// The pipeline's folder.
    base: &'a Path,
    /// The folders whose files belong to the project: that of the pipeline, that of a project in which it lies, those
    /// that the stage names, and those of files that it names relative to the pipeline. Never the root of the file
    /// system.
    roots: Vec<PathBuf>,
    cache: Option<PathBuf>,
}

impl Project<'_> {
    /// The name of a file that belongs to the project: its path relative to the pipeline's folder.
    fn name(&self, path: &Path) -> Option<String> {
        // A link below a root may lead anywhere.
        let real = path.canonicalize().unwrap_or_else(|_| path.to_owned());
        let path = [path, &real].into_iter().find(|path| self.contains(path))?;
        if self.cache.as_ref().is_some_and(|cache| real.starts_with(cache)) {
            return None;
        }
        let mut ancestors = self.base.ancestors().enumerate();
        let (up, below) = ancestors.find_map(|(up, folder)| Some((up, path.strip_prefix(folder).ok()?)))?;
        Some("../".repeat(up) + below.to_str()?)
    }

    fn contains(&self, path: &Path) -> bool {
        let is_foreign = |part: &OsStr| FOREIGN.iter().any(|name| part == *name);
        let mut below = self.roots.iter().filter_map(|root| path.strip_prefix(root).ok());
        below.any(|below| !below.iter().any(is_foreign))
    }
}

/// A digest that no file has.
fn unmatched(name: &str, started: FileTime) -> Digest {
    let FileTime(seconds, nanoseconds) = started;
    Hash::new("changed while it was read").text(name).text(&format!("{seconds}.{nanoseconds}")).finish()
}

/// The names of files and folders, those of folders with `/` at the end. Replaces very many names in a folder by the
/// folder's.
fn summarized(mut names: BTreeSet<PathBuf>, mut folders: BTreeSet<PathBuf>) -> BTreeSet<String> {
    names.retain(|name| !name.ancestors().any(|folder| folders.contains(folder)));
    names.extend(folders.iter().cloned());
    loop {
        let mut counts: BTreeMap<PathBuf, usize> = BTreeMap::new();
        for name in &names {
            let folder = name.parent().filter(|folder| folder.file_name().is_some());
            folder.into_iter().for_each(|folder| *counts.entry(folder.to_owned()).or_default() += 1);
        }
        let deepest = counts.keys().map(|folder| folder.components().count()).max();
        let is_too_deep = |folder: &Path| {
            names.len() > MAX_NAMES
                && counts.values().all(|count| *count <= MAX_IN_FOLDER)
                && Some(folder.components().count()) == deepest
        };
        let whole: BTreeSet<PathBuf> = counts
            .iter()
            .filter(|(folder, count)| **count > MAX_IN_FOLDER || is_too_deep(folder))
            .map(|(folder, _)| folder.clone())
            .collect();
        if whole.is_empty() {
            break;
        }
        names.retain(|name| !name.ancestors().any(|folder| whole.contains(folder)));
        names.extend(whole.iter().cloned());
        folders.extend(whole);
    }
    let text = |name: PathBuf| {
        let end = if folders.contains(&name) { "/" } else { "" };
        Some(format!("{}{end}", name.to_str()?))
    };
    names.into_iter().filter_map(text).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn summary(names: impl IntoIterator<Item = String>) -> BTreeSet<String> {
        summarized(names.into_iter().map(PathBuf::from).collect(), BTreeSet::new())
    }

    fn texts(names: &[&str]) -> BTreeSet<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn few_names_stay_as_they_are() {
        let names = texts(&["a.py", "../src/b.py", "pkg/__init__.py", "pkg/sub/c.py"]);
        assert_eq!(summary(names.clone()), names);
    }

    #[test]
    fn crowded_folder_becomes_one_name_and_its_neighbours_stay() {
        let images = (0..=MAX_IN_FOLDER).map(|n| format!("data/images/{n}.png"));
        let others = ["data/labels.csv", "data/images/more/x.png"].map(str::to_owned);
        assert_eq!(summary(images.chain(others)), texts(&["data/images/", "data/labels.csv"]));
    }

    #[test]
    fn folder_with_a_crowd_of_crowded_folders_becomes_one_name() {
        let images = (0..=MAX_IN_FOLDER).flat_map(|a| (0..=MAX_IN_FOLDER).map(move |b| format!("train/{a}/{b}.png")));
        assert_eq!(summary(images), texts(&["train/"]));
    }

    #[test]
    fn many_small_folders_are_summarized_from_the_deepest_up() {
        let deep = (0..MAX_NAMES).map(|n| format!("a/{}/{}/{n}.txt", n % 90, n % 7));
        let names = summary(deep.chain((0..5).map(|n| format!("b/{n}.txt"))));
        assert_eq!(names.len(), 90 * 7 + 5);
        assert!(names.contains("b/0.txt") && names.contains("a/3/0/"), "{names:?}");
    }

    #[test]
    fn files_beside_the_pipeline_are_never_summarized() {
        let names: BTreeSet<String> = (0..2 * MAX_NAMES).map(|n| format!("{n}.txt")).collect();
        assert_eq!(summary(names.clone()), names);
    }

    #[test]
    fn file_that_was_just_written_has_not_changed_since() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        for _ in 0..200 {
            // Since its time was read, the next change gets a time from the fine clock.
            fs::write(&path, "old").unwrap();
            fs::metadata(&path).unwrap();
            fs::write(&path, "new").unwrap();
            let now = FileTime::now(folder.path()).unwrap();
            assert!(!now.is_before_change_of(&fs::metadata(&path).unwrap()));
        }
        let before = FileTime::now(folder.path()).unwrap();
        std::thread::sleep(std::time::Duration::from_millis(50));
        fs::write(&path, "later").unwrap();
        assert!(before.is_before_change_of(&fs::metadata(&path).unwrap()));
    }

    #[test]
    fn files_of_the_project_are_named_relative_to_the_pipeline_and_others_are_left_out() {
        let project = tempfile::tempdir().unwrap();
        let root = project.path().canonicalize().unwrap();
        let base = root.join("pipelines");
        let store = Store::open(&base.join("cache"), crate::store::Options::default()).unwrap();
        for file in [
            "pipelines/p.toml",
            "src/train.py",
            "src/pkg/model.py",
            "elsewhere/x.py",
            "pipelines/data/1.csv",
            "pipelines/cache/index/x",
        ] {
            fs::create_dir_all(root.join(file).parent().unwrap()).unwrap();
            fs::write(root.join(file), file).unwrap();
        }
        let named = texts(&["../src/train.py"]);
        let mirror = Mirror::create(&base, &named, tempfile::tempdir().unwrap()).unwrap();
        let (started, written_before) = (FileTime::now(&root).unwrap(), PathBuf::from("/nowhere"));
        let scan = Scan {
            relocation: None,
            store: &store,
            mirror: &mirror,
            named: &named,
            project: None,
            started,
            mirrors: vec![],
            written_before,
        };
        let name = |path: &Path| scan.project().name(path);
        assert_eq!(name(&base.join("data/1.csv")).as_deref(), Some("data/1.csv"));
        assert_eq!(name(&root.join("src/pkg/model.py")).as_deref(), Some("../src/pkg/model.py"), "beside a named file");
        for other in ["elsewhere/x.py", "pipelines/cache/index/x", "pipelines/.venv/share/x", "lib/site-packages/y.py"]
        {
            assert_eq!(name(&root.join(other)), None, "{other}");
        }
        let list = root.join("list");
        let lines = format!("{}\ndata/1.csv\ndata/gone.csv\n", mirror.base().join("../src/pkg/model.py").display());
        fs::write(&list, lines).unwrap();
        let found = scan.files_read(&list).unwrap();
        let names: Vec<&str> = found.digests.keys().map(String::as_str).collect();
        assert_eq!(names, ["../src/pkg/model.py", "data/1.csv"], "existing files only");
        assert_eq!(found.digests["data/1.csv"], Digest::of(b"pipelines/data/1.csv"));
        fs::write(&list, "data/1.csv\ndata\n").unwrap();
        let found = scan.files_read(&list).unwrap();
        assert_eq!(found.digests.keys().collect::<Vec<_>>(), ["data/"], "a listed folder counts as a whole");
        assert_eq!(scan.files_read(&root.join("no list")).unwrap().digests, BTreeMap::new());
    }
}
