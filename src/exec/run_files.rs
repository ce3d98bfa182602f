//! The files that a pushed run consists of, and how a worker lays them out.
//!
//! A run has the pipeline's file, what it includes, the files that its stages name, and the other files of the project:
//! those below the pipeline's folder, below the folder of a script, and below the folder above whose `uv.lock` or
//! `.venv` is used. Files that git ignores, hidden files, logs, links to folders and large files that no stage names
//! are left out. A worker has exactly these files, wherever it runs, so its keys and its results are those of the run.
//! The only link is to a `.venv` that uv does not manage, because an environment can't be copied.
//!
//! A program may still find an original by itself, such as a module of a package that is installed as editable.
//! [`Relocation`] says which files these are.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ignore::{DirEntry, WalkBuilder};

use crate::diagnostic::SourceKind;
use crate::error::{Error, Result};
use crate::file::{self, without_dots};
use crate::key::Digest;
use crate::shared::{SharedFile, SharedRun, SharedStore};
use crate::spec::Spec;
use crate::stage::{Files, Stage};

/// A larger file that no stage names is left out.
const MAX_FILE_BYTES: u64 = 16 << 20;
/// A larger file can't be a part of a run.
const MAX_NAMED_BYTES: u64 = 256 << 20;
/// The most files of a run that no stage names, and their bytes.
const MAX_FILES: usize = 10_000;
const MAX_BYTES: u64 = 256 << 20;
/// How many folders above the pipeline's a file may be, unless a repository contains more of them.
const LEVELS: usize = 2;
/// A folder that contains one of these is a cache, a shared store or an environment of Python.
const FOREIGN_MARKERS: [&str; 5] = ["CACHEDIR.TAG", "index/journal", "work.lock", "vadpipe.json", "pyvenv.cfg"];
/// The extensions of logs. They may change while a run is under way.
const LOGS: [&str; 3] = ["err", "log", "out"];

/// The files of a run.
#[derive(Debug)]
pub struct RunFiles {
    /// The folder that contains all of them, without symbolic links in its path.
    pub folder: PathBuf,
    /// The pipeline's file.
    pub pipeline: String,
    /// Their paths below the folder.
    pub files: BTreeSet<String>,
    /// Those that the pipeline names, and the pipeline's file.
    pub named: BTreeSet<String>,
    /// What was left out although a program may need it, one sentence each.
    pub warnings: Vec<String>,
}

impl RunFiles {
    /// Finds the files of a pipeline. `pipeline` is its file.
    ///
    /// # Errors
    /// If a file that the pipeline names is too large, or if there are too many files (exit code 2).
    pub fn find(spec: &Spec, pipeline: &Path) -> Result<Self> {
        // The pipeline's folder is that of the link if its file is a link.
        let pipeline = without_links_in_folder(pipeline)?;
        let base = pipeline.parent().unwrap_or(Path::new("/")).to_owned();
        let highest = highest(&base);
        let check = |path: &Path| match path.starts_with(&highest) {
            true => Ok(path.to_owned()),
            false => Err(too_far(path, &base)),
        };
        let Named { files, programs } = Named::of(spec, &base);
        let named = files.iter().map(|path| check(path)).collect::<Result<BTreeSet<_>>>()?;
        let named: BTreeSet<PathBuf> = named.into_iter().chain([pipeline.clone()]).collect();
        let mut projects: BTreeSet<PathBuf> =
            programs.iter().filter_map(|path| Some(path.parent()?.to_owned())).collect();
        for project in distinct_stages(spec).filter_map(|stage| stage.project(&base)) {
            projects.insert(check(&project)?);
        }
        projects.insert(base.clone());
        let folder = common_folder(named.iter().filter_map(|path| path.parent()).chain(projects.iter().map(|p| &**p)));
        let size = |path: &Path| path.metadata().map_or(0, |file| file.len());
        if let Some(large) = named.iter().find(|path| size(path) > MAX_NAMED_BYTES) {
            let message = format!("{} is too large for a run: {} MB", large.display(), size(large) >> 20);
            return Err(Error::bad_input(message).hint("name it by its absolute path, or read it from a data folder"));
        }
        let is_link = |path: &&PathBuf| path.is_symlink();
        let link = |path: &PathBuf| format!("{} is a link: the run has a copy in its place", path.display());
        let mut walk = Walk { warnings: programs.iter().filter(is_link).map(link).collect(), ..Walk::default() };
        if distinct_stages(spec).any(|stage| stage.reads().files) {
            projects.iter().try_for_each(|project| walk.add(project, &named))?;
        }
        let below = |path: &PathBuf| Some(path.strip_prefix(&folder).ok()?.to_str()?.to_owned());
        let is_utf8 = |path: &PathBuf| below(path).ok_or_else(|| not_utf8(path));
        let pipeline = is_utf8(&pipeline)?;
        let named = named.iter().map(is_utf8).collect::<Result<BTreeSet<String>>>()?;
        let files = walk.files.iter().filter_map(below).chain(named.iter().cloned()).collect();
        Ok(Self { pipeline, files, named, warnings: walk.warnings, folder })
    }

    /// The run with these files as they are now.
    ///
    /// # Errors
    /// If a file can't be read (exit code 2).
    pub fn run(&self, id: String, targets: Vec<String>, set: Vec<String>) -> Result<SharedRun> {
        let mut files = BTreeMap::new();
        for name in &self.files {
            let path = self.folder.join(name);
            let failed = |e| Error::bad_input(format!("can't read {}", path.display())).caused_by(e);
            let bytes = self.read(name).map_err(failed)?;
            let mode = path.metadata().map_or(0, |file| file.permissions().mode());
            files.insert(name.clone(), SharedFile::of(&bytes, mode & 0o111 != 0));
        }
        let folder = self.folder.to_str().ok_or_else(|| not_utf8(&self.folder))?.to_owned();
        Ok(SharedRun { id, pipeline: self.pipeline.clone(), targets, set, folder, files })
    }

    /// The bytes of one of the files.
    ///
    /// # Errors
    /// If it can't be read.
    pub fn read(&self, name: &str) -> io::Result<Vec<u8>> {
        Ok(file::read(&self.folder.join(name), MAX_NAMED_BYTES)?)
    }
}

/// A run whose files were laid out in another folder.
#[derive(Debug)]
pub struct Relocation {
    /// The pipeline's file there.
    pub pipeline: PathBuf,
    /// The folder from which the files come. It may exist on this machine, and its files may have been edited since.
    pub original: PathBuf,
    /// The folder in which they are now.
    pub folder: PathBuf,
}

impl Relocation {
    /// Writes the files of a run to a new folder in `scratch`. An environment is linked to the original.
    ///
    /// # Errors
    /// As [`SharedStore::write_run`].
    pub fn lay_out(run: &SharedRun, shared: &SharedStore, scratch: &Path) -> Result<Self> {
        let failed = |error| Error::storage(format!("can't write {}", scratch.display())).caused_by(error);
        let (scratch, original) = (scratch.canonicalize().map_err(failed)?.join("run"), PathBuf::from(&run.folder));
        let folder = scratch.join(original.file_name().unwrap_or("project".as_ref()));
        // The search for `uv.lock` and `.venv` in the folders above ends here.
        fs::create_dir_all(scratch.join(".git")).and_then(|()| fs::create_dir_all(&folder)).map_err(failed)?;
        shared.write_run(run, &folder)?;
        let relocation = Self { pipeline: folder.join(&run.pipeline), original, folder };
        relocation.link_environments();
        Ok(relocation)
    }

    /// Links each `.venv` that the pipeline may use. uv writes to its environment, so it makes one in the copy. Without
    /// the link, a script gets the `python3` in `PATH`, as on a machine that has no environment.
    fn link_environments(&self) {
        let folders = || self.pipeline.ancestors().skip(1).take_while(|folder| folder.starts_with(&self.folder));
        if folders().any(|folder| folder.join("uv.lock").exists()) {
            return;
        }
        for folder in folders() {
            let Ok(below) = folder.strip_prefix(&self.folder) else { continue };
            let environment = self.original.join(below).join(".venv");
            if environment.is_dir() {
                let _ = symlink(environment, folder.join(".venv"));
            }
        }
    }

    /// The file of the run that has the place of this original, however the path of the original is written.
    pub(crate) fn relocated(&self, path: &Path) -> Option<PathBuf> {
        if path.starts_with(&self.folder) {
            return None;
        }
        let below = |path: &Path| Some(self.folder.join(path.strip_prefix(&self.original).ok()?));
        below(path).or_else(|| below(&path.canonicalize().ok()?))
    }
}

/// The highest folder that a run may contain: that of the repository, or a few levels up.
fn highest(base: &Path) -> PathBuf {
    let folders = || base.ancestors().filter(|folder| folder.parent().is_some());
    let repository = folders().find(|folder| folder.join(".git").exists());
    let near = folders().take(LEVELS + 1).last().unwrap_or(base);
    repository.filter(|repository| near.starts_with(repository)).unwrap_or(near).to_owned()
}

fn too_far(path: &Path, base: &Path) -> Error {
    let message = format!("{} is too far above {} for a run", path.display(), base.display());
    Error::bad_input(message).hint("name it by its absolute path; workers then read it there")
}

/// The stages of a pipeline, each once.
fn distinct_stages(spec: &Spec) -> impl Iterator<Item = &dyn Stage> {
    let mut seen = BTreeSet::new();
    let stages = spec.points.iter().map(|point| &point.parsed.stage);
    stages.filter(move |stage| seen.insert(Arc::as_ptr(stage).cast::<()>())).map(|stage| &**stage)
}

/// What the pipeline names by a path relative to it. Workers read files with absolute paths where they are.
struct Named {
    files: BTreeSet<PathBuf>,
    /// Those of them that programs consist of.
    programs: BTreeSet<PathBuf>,
}

impl Named {
    fn of(spec: &Spec, base: &Path) -> Self {
        let recorded = RecordedFiles { base, absolute: RefCell::default(), found: RefCell::default() };
        let mut programs = BTreeSet::new();
        for stage in distinct_stages(spec) {
            // A file that is missing is an error of the plan.
            let _ = stage.contents(&recorded);
            let names = stage.program_files(&recorded).ok().flatten().unwrap_or_default();
            let relative = names.iter().filter(|name| Path::new(name).is_relative());
            programs.extend(relative.map(|name| without_dots(&base.join(name))).filter(|path| path.is_file()));
        }
        let included = spec.sources.0.iter().filter_map(|source| match &source.kind {
            SourceKind::Included(path) => without_links_in_folder(path).ok(),
            _ => None,
        });
        let absolute = recorded.absolute.into_inner();
        let is_relative = |path: &PathBuf| !absolute.iter().any(|absolute| path.starts_with(absolute));
        let found = recorded.found.into_inner().into_iter().filter(is_relative);
        let files = found.chain(included).chain(programs.iter().cloned());
        Self { files: files.filter(|path| path.is_file()).collect(), programs }
    }
}

/// Notes files instead of reading them.
struct RecordedFiles<'a> {
    base: &'a Path,
    /// Files and folders that are named by absolute paths.
    absolute: RefCell<BTreeSet<PathBuf>>,
    found: RefCell<BTreeSet<PathBuf>>,
}

impl Files for RecordedFiles<'_> {
    fn digest(&self, path: &Path) -> io::Result<Digest> {
        self.found.borrow_mut().insert(without_dots(path));
        Ok(Digest::of(b""))
    }

    fn resolve(&self, path: &str) -> PathBuf {
        if Path::new(path).is_absolute() {
            self.absolute.borrow_mut().insert(without_dots(Path::new(path)));
        }
        self.base.join(path)
    }
}

/// The files of a project that a program may read although no stage names them.
#[derive(Default)]
struct Walk {
    files: BTreeSet<PathBuf>,
    bytes: u64,
    warnings: Vec<String>,
}

impl Walk {
    /// Adds the files below a folder, without the `named` ones.
    fn add(&mut self, project: &Path, named: &BTreeSet<PathBuf>) -> Result<()> {
        let is_of_project = |entry: &DirEntry| {
            let is_marked = || FOREIGN_MARKERS.iter().any(|marker| entry.path().join(marker).exists());
            entry.depth() == 0 || (entry.file_name() != "__pycache__" && !is_marked())
        };
        // uv reads it. Other hidden files may be secrets.
        let version = project.join(".python-version");
        self.files.extend(Some(version).filter(|file| file.is_file()));
        for entry in WalkBuilder::new(project).require_git(false).filter_entry(is_of_project).build() {
            let path = match entry {
                Ok(entry) => entry.into_path(),
                Err(error) => {
                    self.warnings.push(format!("a folder is not part of the run: {error}"));
                    continue;
                }
            };
            let Some(file) = path.metadata().ok().filter(fs::Metadata::is_file) else { continue };
            let is_log = path.extension().is_some_and(|extension| LOGS.iter().any(|log| extension == *log));
            if named.contains(&path) || self.files.contains(&path) || is_log {
                continue;
            }
            if file.len() > MAX_FILE_BYTES {
                let size = file.len() >> 20;
                self.warnings.push(format!("{} is not part of the run: it has {size} MB", path.display()));
                continue;
            }
            self.bytes += file.len();
            self.files.insert(path);
            if self.files.len() > MAX_FILES || self.bytes > MAX_BYTES {
                let message = format!(
                    "{} has too many files for a run: more than {MAX_FILES} or {} MB",
                    project.display(),
                    MAX_BYTES >> 20
                );
                return Err(
                    Error::bad_input(message).hint("list what the programs don't read in .gitignore or .ignore")
                );
            }
        }
        Ok(())
    }
}

/// The path of a file, without links in the path of its folder.
fn without_links_in_folder(path: &Path) -> Result<PathBuf> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let found = folder.canonicalize().ok().zip(path.file_name());
    let missing = || Error::bad_input(format!("can't find the folder of {}", path.display()));
    found.map(|(folder, name)| folder.join(name)).ok_or_else(missing)
}

fn not_utf8(path: &Path) -> Error {
    Error::bad_input(format!("the path {} is not UTF-8", path.display()))
}

/// The deepest folder that contains all of these.
fn common_folder<'p>(mut folders: impl Iterator<Item = &'p Path>) -> PathBuf {
    let first = folders.next().unwrap_or(Path::new("/"));
    let common = folders.fold(first, |common, folder| {
        common.ancestors().find(|ancestor| folder.starts_with(ancestor)).unwrap_or(Path::new("/"))
    });
    common.to_owned()
}
