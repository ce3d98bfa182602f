//! `run --watch`: runs, waits until a file changes that the pipeline is made of or that enters a key, and runs again.
//!
//! Files are asked for their size, time and inode a few times a second. That costs nothing for the files of a pipeline, and
//! it sees what notifications miss: editors that replace a file by another, network and container file systems, a file that
//! is not there yet. A change counts once it has been quiet for a moment.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::{RunArgs, Session, once};
use crate::cli::Global;
use crate::cli::patience::Patience;
use crate::cli::project::Project;
use crate::cli::ui::{DIM, Ui, paint};
use crate::error::{Category, Result};
use crate::key::Digest;
use crate::plan::{PipelineFiles, with_earlier_points};
use crate::stage::{Cancel, Files};

/// How often files are looked at.
const TICK: Duration = Duration::from_millis(150);
/// So many looks without a change are quiet.
const QUIET: usize = 2;

/// Size, modification time and inode; none of a file that is not there.
type Stamp = Option<(u64, i64, i64, u64)>;

/// Runs again and again, until the user stops it. What is forced is made again the first time only.
///
/// # Errors
/// If the cache fails, or the user stops it while something runs.
pub(super) fn watch(args: &RunArgs, global: &Global, ui: &Ui) -> Result<()> {
    let session = Session::start(args, ui)?;
    let pipeline = args.pipeline.file.clone();
    let mut stamps = stamps([pipeline.clone()]);
    let mut first = true;
    loop {
        session.idle(false);
        let patience = Patience::new(&session.cancel, global.no_wait);
        let ran = Project::open_to_run(&args.pipeline, global, ui, &patience).and_then(|project| {
            // Whatever changes from here on is seen after the run.
            let named = named(&project);
            stamps.retain(|path, _| *path == pipeline || named.contains(path));
            for path in named {
                let now = stamp(&path);
                stamps.entry(path).or_insert(now);
            }
            once(&project, args, first, &session, &patience, global, ui)
        });
        let ran = ran.map_err(|e| patience.explain(e));
        session.idle(true);
        match ran {
            Ok(()) => {}
            // In the middle of something.
            Err(error) if error.category == Category::Interrupted => return Err(error),
            Err(error) if error.category == Category::Storage => return Err(error),
            Err(error) => ui.error(&error),
        }
        first = false;
        let others = match stamps.len() - 1 {
            0 => String::new(),
            1 => " and a file that enters keys".to_owned(),
            n => format!(" and {n} files that enter keys"),
        };
        ui.note(&paint(DIM, &format!("watching {}{others}; Ctrl-C ends", pipeline.display())));
        let Some(changed) = wait(&mut stamps, &session.cancel) else { return Ok(()) };
        let names: Vec<_> = changed.iter().map(|p| p.display().to_string()).collect();
        ui.note(&paint(DIM, &format!("changed: {}", names.join(", "))));
    }
}

/// Waits for a change and until it is over. None if the user wants to stop.
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

fn stamps(paths: impl IntoIterator<Item = PathBuf>) -> BTreeMap<PathBuf, Stamp> {
    paths.into_iter().map(|path| (path.clone(), stamp(&path))).collect()
}

fn stamp(path: &Path) -> Stamp {
    let m = std::fs::metadata(path).ok()?;
    Some((m.size(), m.mtime(), m.mtime_nsec(), m.ino()))
}

/// The files and folders that the wanted points name, and those that decide about them; there or not.
fn named(project: &Project) -> BTreeSet<PathBuf> {
    let files = Recorder {
        files: PipelineFiles { store: &project.store, base: &project.spec.base },
        named: RefCell::default(),
    };
    for point in with_earlier_points(&project.spec, &project.graph, &project.wanted).iter() {
        // What can't be read is said by the run, and is waited for here.
        let _ = project.spec.point(*point).parsed.stage.contents(&files);
    }
    files.named.into_inner()
}

/// Remembers which files are asked for.
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
        // A folder, too: what comes and goes in it changes its time.
        self.named.borrow_mut().insert(path.clone());
        path
    }
}
