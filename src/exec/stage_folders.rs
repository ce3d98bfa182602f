//! The folders of a running stage, and the files that its program reads.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use crate::error::Error;
use crate::event::Event;
use crate::exec::checkpoint::Checkpoint;
use crate::exec::context::RunContext;
use crate::exec::files_read::{FileTime, Scan};
use crate::exec::job::Job;
use crate::exec::mirror::Mirror;
use crate::id::PointId;
use crate::key::{Digest, Key};
use crate::plan::PipelineFiles;
use crate::stage::StageError;
use crate::store::FilesRead;

/// A larger file that a program read at its last run is not copied for the next one.
const MAX_COPIED_BYTES: u64 = 1 << 20;

/// The folders of a running stage. Removed on drop.
pub(crate) struct StageFolders<'a> {
    context: RunContext<'a>,
    point: PointId,
    run: &'a str,
    log_path: PathBuf,
    /// The digests of the files that are in the key.
    contents: BTreeMap<String, Digest>,
    /// Whether to ignore what earlier attempts saved.
    fresh: bool,
    /// For a stage that runs a program.
    pub mirror: Option<Mirror>,
    /// The files that the pipeline names for the program.
    named: BTreeSet<String>,
    /// Before the mirror was created.
    started: FileTime,
    pub scratch: TempDir,
}

impl<'a> StageFolders<'a> {
    /// Creates the folders that a stage needs while it runs.
    pub(crate) fn create(
        context: RunContext<'a>,
        run: &'a str,
        job: &Job,
        log_path: PathBuf,
    ) -> Result<Self, StageError> {
        let RunContext { spec, store, .. } = context;
        let point = context.point(job.point);
        let all_scratch = store.dir().join("scratch");
        let failed = |folder: &Path| {
            let message = format!("can't create {}", folder.display());
            move |error| StageError::from(Error::storage(message).caused_by(error))
        };
        for folder in [log_path.parent().unwrap_or(Path::new(".")), &all_scratch] {
            fs::create_dir_all(folder).map_err(failed(folder))?;
        }
        let temporary = |suffix: &str| {
            let prefix = format!("{}-{suffix}", point.stage);
            tempfile::Builder::new().prefix(&prefix).tempdir_in(&all_scratch).map_err(failed(&all_scratch.join(prefix)))
        };
        let named = point.parsed.stage.program_files(&PipelineFiles { store, base: &spec.base })?;
        // Only programs read files that no key has.
        let started = match &named {
            Some(_) => FileTime::now(&all_scratch).map_err(failed(&all_scratch))?,
            None => FileTime::default(),
        };
        let mirror = match &named {
            Some(named) => {
                let copied = named.union(&read_before(&context, job.point, named)?).cloned().collect();
                Some(Mirror::create(&spec.base, &copied, temporary("mirror-")?)?)
            }
            None => None,
        };
        let contents = job.components.contents.clone();
        let named = contents.keys().filter_map(|name| Some(name.strip_prefix("file ")?.to_owned())).collect();
        let (fresh, scratch) = (job.options.fresh, temporary("")?);
        let folders =
            Self { context, point: job.point, run, log_path, contents, fresh, mirror, named, started, scratch };
        if folders.mirror.is_some() {
            folders.check_files("just before the stage started")?;
        }
        Ok(folders)
    }

    /// The checkpoint of the program for a key. Reports if an earlier attempt left files in it. `None` without a
    /// program.
    pub(crate) fn open_checkpoint(&self, into: &Path, key: &Key) -> Result<Option<Checkpoint>, StageError> {
        let Some(scan) = self.scan(None) else { return Ok(None) };
        let stage = self.context.name(self.point).to_owned();
        let private = self.scratch.path().join(format!("checkpoint-{key}"));
        let checkpoint = Checkpoint::open((into, &private), key, self.run, self.fresh, &scan)
            .map_err(StageError::io(format!("can't open the checkpoint of `{stage}`")))?;
        if let Some(run) = checkpoint.resumed.clone() {
            self.append_to_log(&format!("resuming from the checkpoint of run {run}"));
            self.context.listener.event(&Event::CheckpointFound { stage, run });
        }
        if let Some(file) = &checkpoint.changed {
            self.warn(format!("{file} changed: the checkpoint of `{}` was dropped", self.context.name(self.point)));
        }
        Ok(Some(checkpoint))
    }

    /// Where the program lists the files that it reads.
    pub(crate) fn dep_file(&self, checkpoint: Option<&Checkpoint>) -> PathBuf {
        checkpoint.map_or_else(|| self.scratch.path().join("files-read"), Checkpoint::dep_file)
    }

    /// The files that the program read although the pipeline does not name them. Warns if one changed while it ran.
    pub(crate) fn files_read(&self, checkpoint: Option<&Checkpoint>) -> Result<FilesRead, StageError> {
        let Some(scan) = self.scan(checkpoint) else { return Ok(FilesRead::new()) };
        let name = self.context.name(self.point);
        let what = format!("can't read which files `{name}` read");
        let found = scan.files_read(&self.dep_file(checkpoint)).map_err(StageError::io(what))?;
        if let [first, others @ ..] = &*found.changed {
            let more = if others.is_empty() { String::new() } else { format!(" and {} more", others.len()) };
            self.warn(format!("{first}{more} changed while `{name}` ran, so its result won't be reused"));
        }
        Ok(found.digests)
    }

    /// Moves what the program wrote to its mirror to the pipeline's folder.
    pub(crate) fn move_back(&self) {
        let left = self.mirror.as_ref().map(Mirror::move_back).unwrap_or_default();
        if !left.is_empty() {
            let names = left.iter().take(10).cloned().collect::<Vec<_>>().join(", ");
            self.append_to_log(&format!("written by the program, but could not be moved from its mirror: {names}"));
        }
    }

    /// Remembers which files the process has written, for the next process of the stage.
    pub(crate) fn remember_written(&self, checkpoint: Option<&Checkpoint>) -> Result<(), StageError> {
        let what = || "can't remember which files the program wrote";
        let mut list = self.dep_file(checkpoint).into_os_string();
        list.push(".written");
        let new = match fs::read(list) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            new => new.map_err(StageError::io(what()))?,
        };
        let all = fs::OpenOptions::new().create(true).append(true).open(self.written_before());
        all.and_then(|mut all| all.write_all(&new)).map_err(StageError::io(what()))
    }

    fn written_before(&self) -> PathBuf {
        self.scratch.path().join("written-before")
    }

    /// Remembers in a checkpoint which files the program has read, after an attempt without a result.
    pub(crate) fn remember(&self, checkpoint: &Checkpoint) {
        // If this fails, the next attempt judges the files by their times.
        let found = self.scan(Some(checkpoint)).and_then(|scan| scan.files_read(&checkpoint.dep_file()).ok());
        let _ = found.map(|found| checkpoint.remember(&found.digests));
    }

    /// Finds the files that the program in these folders reads. `None` without a program.
    fn scan(&self, checkpoint: Option<&Checkpoint>) -> Option<Scan<'_>> {
        let mirror = self.mirror.as_ref()?;
        let started = checkpoint.map_or(self.started, |checkpoint| checkpoint.started);
        let mirrors = checkpoint.map(|checkpoint| checkpoint.mirrors.clone()).unwrap_or_default();
        let written_before = self.written_before();
        let RunContext { spec, store, relocation, .. } = self.context;
        let project = self.context.point(self.point).parsed.stage.project(&spec.base);
        Some(Scan { store, mirror, named: &self.named, project, relocation, started, mirrors, written_before })
    }

    /// The key contains the digests of files as they were at the look-up. If a file changed since, the result belongs
    /// to no key.
    pub(crate) fn check_files(&self, when: &str) -> Result<(), StageError> {
        let (store, stage) = (self.context.store, &self.context.point(self.point).parsed.stage);
        let now = match &self.mirror {
            Some(mirror) => stage.contents(&mirror.files(store)),
            None => stage.contents(&PipelineFiles { store, base: &self.context.spec.base }),
        }?;
        let before = &self.contents;
        let changed = now.keys().chain(before.keys()).find(|name| now.get(*name) != before.get(*name));
        match changed {
            Some(name) => {
                let message = format!("{name} changed {when}: its result was not kept");
                Err(StageError::bad_input(message, "run again"))
            }
            None => Ok(()),
        }
    }

    /// Reports a warning, and appends it to the log of the stage.
    fn warn(&self, message: String) {
        self.append_to_log(&message);
        self.context.listener.event(&Event::Warning { message });
    }

    /// Appends lines to the log of the stage. Errors are ignored, because the log is not a result.
    fn append_to_log(&self, lines: &str) {
        let log = fs::OpenOptions::new().create(true).append(true).open(&self.log_path);
        let _ = log.and_then(|mut log| writeln!(log, "{lines}"));
    }
}

/// The small files that the program of a point read when it last ran. Copying them into the mirror protects the program
/// from edits while it runs. Only files in folders that are real folders of the mirror anyway: what a program finds in
/// the mirror must not depend on the run before.
fn read_before(
    context: &RunContext<'_>,
    point: PointId,
    named: &BTreeSet<String>,
) -> Result<BTreeSet<String>, StageError> {
    let RunContext { spec, store, .. } = *context;
    let newest = store.newest(&spec.pipeline.name, context.name(point)).map_err(Error::from)?;
    let names = newest.into_iter().flat_map(|record| record.components.files_read.into_keys());
    let folders: BTreeSet<&Path> = named.iter().filter_map(|name| Path::new(name).parent()).collect();
    let is_in_real_folder = |name: &String| {
        Path::new(name).parent().is_some_and(|folder| folder == Path::new("") || folders.contains(folder))
    };
    let is_small = |name: &String| {
        fs::metadata(spec.base.join(name)).is_ok_and(|file| file.is_file() && file.len() <= MAX_COPIED_BYTES)
    };
    Ok(names.filter(is_in_real_folder).filter(is_small).collect())
}
