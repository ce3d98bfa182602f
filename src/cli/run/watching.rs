//! `run --watch`: runs the pipeline, waits until a file changes, and runs it again.
//!
//! The watched files are the pipeline file, the files that it includes, and the files that are part of a key. Their
//! size, time and inode are checked a few times per second. This costs next to nothing for so few files. It works where
//! notifications do not: for editors that replace a file, for network and container file systems, and for files that do
//! not exist yet. A run starts when the files have not changed for a moment.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::cli::args::{Global, PipelineArgs};
use crate::cli::cache_wait::CacheWait;
use crate::cli::project::Project;
use crate::cli::session::Session;
use crate::cli::ui::{DIM, Ui, paint};
use crate::error::{Category, Result};
use crate::key::Digest;
use crate::plan::{PipelineFiles, with_earlier_points};
use crate::spec::included_files;
use crate::stage::{Cancel, Files};

/// How often files are checked.
const TICK: Duration = Duration::from_millis(150);
/// A run starts after this many checks without a change.
const QUIET: usize = 2;

/// Size, modification time and inode; none for a missing file.
type Stamp = Option<(u64, i64, i64, u64)>;

/// Runs the pipeline until the user stops it. `once` runs it once; its last argument is true for the first run.
///
/// # Errors
/// If the cache fails, or the user stops it during a run.
pub(super) fn watch(
    args: &PipelineArgs,
    global: &Global,
    ui: &Ui,
    session: &Session,
    once: &dyn Fn(&Project, &CacheWait, bool) -> Result<()>,
) -> Result<()> {
    let pipeline = args.file.clone();
    let mut stamps = BTreeMap::from([(pipeline.clone(), stamp(&pipeline))]);
    let mut is_first = true;
    loop {
        session.set_idle(false);
        let cache_wait = CacheWait::new(&session.cancel, global.no_wait);
        // Watched even if the pipeline has errors, which may be in one of them.
        let included = included_files(&pipeline);
        for path in &included {
            stamps.entry(path.clone()).or_insert_with_key(|path| stamp(path));
        }
        let ran = Project::open_to_run(args, global, ui, &cache_wait).and_then(|project| {
            // A file that changes during the run starts the next one.
            let named = named(&project);
            stamps.retain(|path, _| *path == pipeline || included.contains(path) || named.contains(path));
            for path in named {
                stamps.entry(path).or_insert_with_key(|path| stamp(path));
            }
            once(&project, &cache_wait, is_first)
        });
        session.set_idle(true);
        match ran.map_err(|e| cache_wait.explain(e)) {
            Ok(()) => {}
            Err(error) if matches!(error.category, Category::Interrupted | Category::Storage) => return Err(error),
            Err(error) => ui.error(&error),
        }
        is_first = false;
        let others = match stamps.len() - 1 {
            0 => String::new(),
            1 => " and 1 other file".to_owned(),
            n => format!(" and {n} other files"),
        };
        ui.note(&paint(DIM, &format!("watching {}{others}; press Ctrl-C to exit", pipeline.display())));
        let Some(changed) = wait(&mut stamps, &session.cancel) else { return Ok(()) };
        let names: Vec<_> = changed.iter().map(|p| p.display().to_string()).collect();
        ui.note(&paint(DIM, &format!("changed: {}", names.join(", "))));
    }
}

/// Waits until files change and then stay the same for a moment. Returns the changed files; `None` if the user stops.
fn wait(stamps: &mut BTreeMap<PathBuf, Stamp>, cancel: &Cancel) -> Option<BTreeSet<PathBuf>> {
    let mut changed = BTreeSet::new();
    let mut quiet = 0;
    loop {
        if cancel.is_cancelled() {
            return None;
        }
        quiet += 1;
        for (path, known) in stamps.iter_mut() {
            let now = stamp(path);
            if now != *known {
                *known = now;
                changed.insert(path.clone());
                quiet = 0;
            }
        }
        if !changed.is_empty() && quiet >= QUIET {
            return Some(changed);
        }
        std::thread::sleep(TICK);
    }
}

fn stamp(path: &Path) -> Stamp {
    let m = std::fs::metadata(path).ok()?;
    Some((m.size(), m.mtime(), m.mtime_nsec(), m.ino()))
}

/// The files and folders named by the wanted points and by the points that these are compared with, and the files that
/// their programs read. They may be missing.
fn named(project: &Project) -> BTreeSet<PathBuf> {
    let files = Recorder {
        files: PipelineFiles { store: &project.store, base: &project.spec.base },
        named: RefCell::default(),
    };
    for point in with_earlier_points(&project.spec, &project.graph, &project.wanted).iter() {
        // The run reports files that can't be read. They are watched, too.
        let _ = project.spec.point(*point).parsed.stage.contents(&files);
        let newest = project.store.newest(&project.spec.pipeline.name, project.name(*point)).ok().flatten();
        let read = newest.into_iter().flat_map(|record| record.components.files_read.into_keys());
        files.named.borrow_mut().extend(read.map(|name| project.spec.base.join(name)));
    }
    files.named.into_inner()
}

/// Records the names of the files that are read.
struct Recorder<'a> {
    files: PipelineFiles<'a>,
    named: RefCell<BTreeSet<PathBuf>>,
}

impl Files for Recorder<'_> {
    fn digest(&self, path: &Path) -> io::Result<Digest> {
        self.named.borrow_mut().insert(path.to_owned());
        self.files.digest(path)
    }

    fn resolve(&self, path: &str) -> PathBuf {
        let path = self.files.resolve(path);
        // May be a folder: its time changes when a file is added or removed.
        self.named.borrow_mut().insert(path.clone());
        path
    }

    fn base(&self) -> PathBuf {
        self.files.base()
    }
}
