//! The checkpoint of a program: a folder that survives a kill and an interruption until the result is stored.
//!
//! ```text
//! CACHE/checkpoints/KEY/files/       what the program wrote; it finds these files again when it starts again
//! CACHE/checkpoints/KEY/files-read   the files that the program has listed, in all attempts
//! CACHE/checkpoints/KEY/about.json   About
//! CACHE/checkpoints/KEY/digests.json the digests of the files that it had read when it was interrupted or failed
//! CACHE/checkpoints/KEY.lock         held while a program uses the folder
//! ```
//!
//! If another process uses the folder, the program gets a folder of its own, which is removed with its scratch folder.
//!
//! The key does not cover the files that the program reads but the pipeline does not name. If one of them changed since
//! the first attempt, the checkpoint is dropped. A file that was written since, but has its old digest, has not
//! changed.

use std::collections::BTreeMap;
use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::exec::files_read::{FileTime, Scan};
use crate::file;
use crate::key::{Digest, Key};

/// The checkpoint of one key.
pub(crate) struct Checkpoint {
    folder: PathBuf,
    /// The run that last used it, if it has files.
    pub resumed: Option<String>,
    /// The file that changed, so that what earlier attempts saved was dropped.
    pub changed: Option<String>,
    /// The start of the first attempt.
    pub started: FileTime,
    /// The mirrored folders of earlier attempts, and their originals.
    pub mirrors: Vec<(PathBuf, PathBuf)>,
    /// The lock of a folder in the cache.
    lock: Option<(PathBuf, File)>,
}

/// About the attempts so far.
#[derive(Clone, Serialize, Deserialize)]
struct About {
    /// The run of the last one. `gc` keeps the checkpoint as long as it keeps this run.
    run: String,
    started: FileTime,
    mirrors: Vec<(PathBuf, PathBuf)>,
}

impl Checkpoint {
    /// Opens or creates the checkpoint of a key in a cache, for an attempt in this run. With `fresh`, or if a file that
    /// an earlier attempt read has changed, it is empty. `private` is the folder to use if another process uses that of
    /// the cache.
    ///
    /// # Errors
    /// If the cache can't be read or written.
    pub(crate) fn open(
        (cache, private): (&Path, &Path),
        key: &Key,
        run: &str,
        fresh: bool,
        scan: &Scan<'_>,
    ) -> io::Result<Self> {
        let all = std::path::absolute(cache)?.join("checkpoints");
        fs::create_dir_all(&all)?;
        let path = all.join(format!("{key}.lock"));
        let lock = File::options().create(true).append(true).open(&path)?;
        let lock = match lock.try_lock() {
            Ok(()) => Some((path, lock)),
            Err(TryLockError::WouldBlock) => None,
            Err(TryLockError::Error(error)) => return Err(error),
        };
        let folder = if lock.is_some() { all.join(key.to_string()) } else { std::path::absolute(private)? };
        let fresh = fresh || lock.is_none();
        let about: Option<About> = match fs::read(folder.join("about.json")) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            text => serde_json::from_slice(&text?).ok(),
        };
        let changed = match &about {
            Some(About { started, mirrors, .. }) if !fresh => {
                let earlier = Scan { started: *started, mirrors: mirrors.clone(), ..scan.clone() };
                let digests = fs::read(folder.join("digests.json")).ok();
                let digests = digests.and_then(|text| serde_json::from_slice(&text).ok()).unwrap_or_default();
                earlier.changed_file(&folder.join("files-read"), &digests)?
            }
            _ => None,
        };
        let about = about.filter(|_| !fresh && changed.is_none());
        if about.is_none() && folder.exists() {
            file::remove_folder(&folder)?;
        }
        fs::create_dir_all(folder.join("files"))?;
        let resumed = match &about {
            Some(about) if fs::read_dir(folder.join("files"))?.next().is_some() => Some(about.run.clone()),
            _ => None,
        };
        let (started, mirrors) = about.map_or((scan.started, Vec::new()), |about| (about.started, about.mirrors));
        let own = scan.mirror.root();
        let all = mirrors.iter().cloned().chain([own]).collect();
        let text = serde_json::to_vec(&About { run: run.to_owned(), started, mirrors: all })?;
        file::replace_durably(&folder.join("about.json"), &text)?;
        Ok(Self { folder, resumed, changed, started, mirrors, lock })
    }

    /// Remembers the digests of the files that the program has read, when it ends without a result. Without them, only
    /// the times of the files tell whether they changed.
    pub(crate) fn remember(&self, digests: &BTreeMap<String, Digest>) -> io::Result<()> {
        file::replace_durably(&self.folder.join("digests.json"), &serde_json::to_vec(digests)?)
    }

    /// The files of the program.
    pub(crate) fn files(&self) -> PathBuf {
        self.folder.join("files")
    }

    /// Where the program lists the files that it reads.
    pub(crate) fn dep_file(&self) -> PathBuf {
        self.folder.join("files-read")
    }

    /// Removes it. If that fails, `gc` removes it.
    pub(crate) fn remove(&self) {
        let _ = file::remove_folder(&self.folder);
        if let Some((path, _)) = &self.lock {
            let _ = fs::remove_file(path);
        }
    }
}
