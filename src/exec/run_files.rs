//! The files that a pushed run consists of, and how a worker lays them out.
//!
//! A run has the pipeline's file, what it includes, the files that its stages name, and the other files of the project:
//! those below the pipeline's folder, below the folder of a script, and below the folder above whose `uv.lock` or
//! `.venv` is used. Files that git ignores, hidden files, links to folders and large files that no stage names are left
//! out.
//!
//! A worker links what was left out to the originals, if it finds those. A program may also find an original by itself,
//! such as a module of a package that is installed as editable. [`Relocation`] says which files these are.

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
use crate::file;
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
/// How many folders above the pipeline's a file may be.
const LEVELS: usize = 2;
/// A folder that contains one of these is a cache, a shared store or an environment of Python.
const FOREIGN_MARKERS: [&str; 4] = ["CACHEDIR.TAG", "index/journal", "vadpipe.json", "pyvenv.cfg"];

/// The files of a run.
#[derive(Debug)]
pub struct RunFiles {
    /// The folder that contains all of them, without symbolic links in its path.
    pub folder: PathBuf,
    /// The pipeline's file.
    pub pipeline: String,
    /// Their paths below the folder.
    pub files: BTreeSet<String>,
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
        let pipeline = plain(pipeline)
            .ok_or_else(|| Error::bad_input(format!("can't find the folder of {}", pipeline.display())))?;
        let base = pipeline.parent().unwrap_or(Path::new("/")).to_owned();
        let highest = base.ancestors().take(LEVELS + 1).filter(|folder| folder.parent().is_some()).last();
        let highest = highest.unwrap_or(&base).to_owned();
        let is_near = |path: &PathBuf| path.starts_with(&highest);
        let Named { files, programs } = Named::of(spec, &base);
        let named: BTreeSet<PathBuf> = files.into_iter().filter(is_near).chain([pipeline.clone()]).collect();
        let mut projects: BTreeSet<PathBuf> =
            programs.iter().filter_map(|path| Some(path.parent()?.to_owned())).collect();
        projects.extend(distinct_stages(spec).filter_map(|stage| stage.project(&base)?.canonicalize().ok()));
        projects.insert(base.clone());
        projects.retain(is_near);
        let folder = common_folder(named.iter().filter_map(|path| path.parent()).chain(projects.iter().map(|p| &**p)));
        let size = |path: &Path| path.metadata().map_or(0, |file| file.len());
        if let Some(large) = named.iter().find(|path| size(path) > MAX_NAMED_BYTES) {
            let message = format!("{} is too large for a run: {} MB", large.display(), size(large) >> 20);
            return Err(Error::bad_input(message).hint("name it by its absolute path, or read it from a data folder"));
        }
        let mut walk = Walk::default();
        if distinct_stages(spec).any(|stage| stage.reads().files) {
            projects.iter().try_for_each(|project| walk.add(project, &named))?;
        }
        let below = |path: &PathBuf| Some(path.strip_prefix(&folder).ok()?.to_str()?.to_owned());
        let is_utf8 = |path: &PathBuf| below(path).ok_or_else(|| not_utf8(path));
        let pipeline = is_utf8(&pipeline)?;
        let named = named.iter().map(is_utf8).collect::<Result<BTreeSet<String>>>()?;
        let files = walk.files.iter().filter_map(below).chain(named).collect();
        Ok(Self { pipeline, files, warnings: walk.warnings, folder })
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
    /// Writes the files of a run to a new folder in `scratch`, with links to what the run left out.
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
        link_others(&original, &folder);
        Ok(Self { pipeline: folder.join(&run.pipeline), original, folder })
    }

    /// The file of the run that has the place of this original.
    pub(crate) fn relocated(&self, path: &Path) -> Option<PathBuf> {
        path.strip_prefix(&self.original).ok().map(|below| self.folder.join(below))
    }
}

/// Links everything in a folder that its copy lacks. A program that needs what can't be linked says so. uv writes to an
/// environment, so it gets one of its own in the copy.
fn link_others(original: &Path, copy: &Path) {
    for path in fs::read_dir(original).into_iter().flatten().flatten().map(|entry| entry.path()) {
        let Some(name) = path.file_name() else { continue };
        let in_copy = copy.join(name);
        let is_of_uv = name == ".venv" && original.join("uv.lock").exists();
        if in_copy.is_dir() {
            link_others(&path, &in_copy);
        } else if in_copy.symlink_metadata().is_err() && !is_of_uv {
            let _ = symlink(&path, in_copy);
        }
    }
}

/// The stages of a pipeline, each once.
fn distinct_stages(spec: &Spec) -> impl Iterator<Item = &dyn Stage> {
    let mut seen = BTreeSet::new();
    let stages = spec.points.iter().map(|point| &point.parsed.stage);
    stages.filter(move |stage| seen.insert(Arc::as_ptr(stage).cast::<()>())).map(|stage| &**stage)
}

/// What the pipeline names.
struct Named {
    /// Files, without links in the paths of their folders.
    files: BTreeSet<PathBuf>,
    /// Those of them that programs consist of.
    programs: BTreeSet<PathBuf>,
}

impl Named {
    fn of(spec: &Spec, base: &Path) -> Self {
        let recorded = RecordedFiles { base, found: RefCell::default() };
        let mut programs = BTreeSet::new();
        for stage in distinct_stages(spec) {
            // A file that is missing is an error of the plan.
            let _ = stage.contents(&recorded);
            let names = stage.program_files(&recorded).ok().flatten().unwrap_or_default();
            let relative = names.iter().filter(|name| Path::new(name).is_relative());
            programs.extend(relative.filter_map(|name| plain(&base.join(name))).filter(|path| path.is_file()));
        }
        let included = spec.sources.0.iter().filter_map(|source| match &source.kind {
            SourceKind::Included(path) => plain(path),
            _ => None,
        });
        let files = recorded.found.into_inner().into_iter().chain(included).chain(programs.iter().cloned());
        Self { files: files.filter(|path| path.is_file()).collect(), programs }
    }
}

/// Notes files instead of reading them.
struct RecordedFiles<'a> {
    base: &'a Path,
    found: RefCell<BTreeSet<PathBuf>>,
}

impl Files for RecordedFiles<'_> {
    fn digest(&self, path: &Path) -> io::Result<Digest> {
        self.found.borrow_mut().extend(plain(path));
        Ok(Digest::of(b""))
    }

    fn resolve(&self, path: &str) -> PathBuf {
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
        for entry in WalkBuilder::new(project).require_git(false).filter_entry(is_of_project).build() {
            let path = match entry {
                Ok(entry) => entry.into_path(),
                Err(error) => {
                    self.warnings.push(format!("a folder is not part of the run: {error}"));
                    continue;
                }
            };
            let Some(file) = path.metadata().ok().filter(fs::Metadata::is_file) else { continue };
            if named.contains(&path) || self.files.contains(&path) {
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

/// A path without links in its folder: the layout of the copy is that of the original.
fn plain(path: &Path) -> Option<PathBuf> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    Some(folder.canonicalize().ok()?.join(path.file_name()?))
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
