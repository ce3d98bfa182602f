//! The blobs of results and states: writing, reading, verifying and removing them, wherever they are.
//!
//! A blob is looked up among the small files, then in the packs, then among the chunks of earlier versions. A tensor's
//! header and its elements are written and read separately, so that a large tensor is never copied.

use std::collections::BTreeSet;
use std::io::{Cursor, Read};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use super::database::{Access, Database, Host, Opened, is_database};
use super::disk::{self, exists};
use super::engine::Failure;
use super::error::{Result, StoreError};
use super::index::{Index, count_affected};
use super::lock::Sharing;
use super::old_chunks;
use super::pack;
use super::pack_writer::{self, Body, Pace, Source, Written};
use super::pieces::{self, Corruption, Located, Locations, Parts, PieceReader, ReadError};
use super::recovery::Recovery;
use crate::artifact::BlobEntry;
use crate::key::Digest;

/// How often a write starts again because pieces that it reused were removed meanwhile.
const ATTEMPTS: usize = 3;
/// How often a read starts again because its pieces were moved meanwhile.
const MOVES: usize = 20;
/// Bytes of chunks that are moved to one pack.
const MOVED: usize = 64 << 20;

/// The folder of the chunk database and a blob's locations in it, as a read found them.
type Seen = (PathBuf, Option<Locations>);

/// All blobs of a cache.
pub(super) struct Blobs {
    index: Arc<Index>,
    pub(super) database: Arc<Database>,
}

impl Host for Blobs {
    fn path(&self) -> Result<PathBuf> {
        self.index.chunks_path()
    }

    /// All blobs of the previous database, if there was one, are lost.
    fn create(&self) -> Result<()> {
        self.index.raise_lineage()
    }

    /// Results and states that need lost blobs are misses from now on.
    fn recovered(&self, opened: &Opened, recovery: &Recovery) -> Result<()> {
        let mut lost = BTreeSet::new();
        for blob in self.index.wanted_blobs()? {
            if !is_listed(opened, &blob).map_err(|f| f.at(opened.path()))? {
                lost.insert(blob.digest);
            }
        }
        let affected = count_affected(self.index.lose(&lost)?.len());
        self.index.folder.warn(format!("{}; lost: {affected}", recovery.describe(opened.path())));
        Ok(())
    }
}

impl Blobs {
    pub(super) fn new(index: Arc<Index>) -> Self {
        Self { database: Database::new(index.folder.clone(), "chunks", pieces::SETUP), index }
    }

    /// Whether there is a chunk database.
    pub(super) fn exist(&self) -> Result<bool> {
        is_database(&self.index.chunks_path()?)
    }

    /// Reads the chunk database, which must exist.
    pub(super) fn look_up<T>(&self, f: impl Fn(&Opened) -> Result<T, Failure>) -> Result<T> {
        self.database.with(self, Access::Read, f)
    }

    /// Changes the chunk database, which is created if there is none.
    pub(super) fn change<T>(&self, f: impl Fn(&Opened) -> Result<T, Failure>) -> Result<T> {
        self.change_for(Access::Write, f)
    }

    /// As [`Blobs::change`]. On a full disk, [`Access::Collect`] writes to the journal only.
    fn change_for<T>(&self, access: Access, f: impl Fn(&Opened) -> Result<T, Failure>) -> Result<T> {
        self.index.folder.raise_format()?;
        self.database.with(self, access, f)
    }

    /// Which of these blobs are stored, without reading them.
    pub(super) fn has_each(&self, blobs: &[BlobEntry]) -> Result<Vec<bool>> {
        let is_small: Vec<bool> = blobs.iter().map(|blob| self.index.small.has(blob)).collect();
        if !is_small.contains(&false) || !self.exist()? {
            return Ok(is_small);
        }
        let is_stored =
            |o: &Opened, blob: &BlobEntry| Ok::<_, Failure>(pieces::has(o, blob)? || old_chunks::has(o, blob)?);
        let each = blobs.iter().zip(&is_small);
        self.look_up(|o| each.clone().map(|(blob, is_small)| Ok(*is_small || is_stored(o, blob)?)).collect())
    }

    /// A blob's verified bytes, the first `head` of them separately if the blob is large.
    ///
    /// # Errors
    /// [`StoreError::Damaged`] if it is missing or altered. All results and states that need it are misses from then
    /// on.
    pub(super) fn read(&self, entry: &BlobEntry, head: usize) -> Result<Parts> {
        let corruption = match self.find(entry, head)? {
            Ok(parts) => return Ok(parts),
            Err(corruption) => corruption,
        };
        // No process may write, move or remove blobs while this decides what is damaged.
        let _alone = match self.index.folder.collect_lock(Sharing::Exclusive) {
            Ok(lock) => lock,
            // The cache can't be written, so nothing can be forgotten.
            Err(error) if error.is_refusal() => {
                let (what, why) = (format!("blob {}", entry.digest.short()), corruption.why);
                return Err(StoreError::Damaged { what, why, blob: entry.digest, forgotten: Vec::new() });
            }
            Err(error) => return Err(error),
        };
        // The open database may be an outdated copy.
        self.database.close();
        let corruption = match self.find(entry, head)? {
            Ok(parts) => return Ok(parts),
            Err(corruption) => corruption,
        };
        let mut lost = BTreeSet::from([entry.digest]);
        for (neighbour, corruption) in self.corrupt_neighbours(&corruption)? {
            self.remove_corrupt(&neighbour, &corruption);
            lost.insert(neighbour.digest);
        }
        self.remove_corrupt(entry, &corruption);
        Err(self.index.damaged(&entry.digest, corruption.why, &lost))
    }

    /// A blob's verified bytes as [`Blobs::read`] gives them, or what is wrong with it.
    pub(super) fn find(&self, entry: &BlobEntry, head: usize) -> Result<Result<Parts, Corruption>> {
        let small = match self.index.small.read(entry)? {
            Some(Ok(bytes)) => return Ok(Ok((Vec::new(), bytes))),
            Some(Err(why)) => Some(Corruption::new(why)),
            None => None,
        };
        let mut before: Option<Seen> = None;
        for _ in 0..MOVES {
            let (found, seen) = self.find_in_packs(entry, head)?;
            let corruption = match found {
                Ok(parts) => return Ok(Ok(parts)),
                Err(corruption) => corruption,
            };
            // A collection, even one in another process, may move or remove pieces while they are read. So a blob
            // counts as corrupt only if it is found corrupt twice in the same locations.
            if seen.is_none() || seen == before {
                return Ok(Err(small.unwrap_or(corruption)));
            }
            before = seen;
        }
        let why = "its entries kept changing while they were read".to_owned();
        Err(StoreError::Database { path: self.index.chunks_path()?, why })
    }

    /// A blob in packs or among the chunks. Also returns where the read looked for it, unless that can't have changed
    /// during the read.
    fn find_in_packs(&self, entry: &BlobEntry, head: usize) -> Result<(Result<Parts, Corruption>, Option<Seen>)> {
        enum Found {
            Packed(PathBuf, Located),
            Chunked(Vec<u8>),
        }
        // Reading must not create the database.
        if !self.exist()? {
            return Ok((Err(Corruption::new("it is missing")), Some((self.index.chunks_path()?, None))));
        }
        let find = |o: &Opened| match pieces::locate(&o.db, o.path(), entry)? {
            Some(located) => Ok(Found::Packed(o.path().to_owned(), located)),
            None => Ok(Found::Chunked(old_chunks::read(&o.db, entry)?)),
        };
        // Other processes may use the database while packs are read.
        Ok(match self.look_up(|o| ReadError::split(find(o)))? {
            Ok(Found::Packed(path, located)) => (located.read(head)?, Some((path, Some(located.locations)))),
            Ok(Found::Chunked(bytes)) => (Ok((Vec::new(), bytes)), None),
            Err(corruption) => (Err(corruption), None),
        })
    }

    /// Removes a corrupt blob, so that it is not mistaken for a stored one when it is computed again. Only while no
    /// process writes.
    pub(super) fn remove_corrupt(&self, entry: &BlobEntry, corruption: &Corruption) {
        self.index.small.remove(entry.digest);
        if self.exist().unwrap_or(false) {
            // A database that can't be changed will be rebuilt.
            let _ = self.change(|o| {
                let removed = pieces::remove_corrupt(o, &entry.digest, corruption);
                match removed.and_then(|()| old_chunks::remove_corrupt(o, &entry.digest, corruption)) {
                    Err(Failure::Broken(_)) => Ok(()),
                    other => other,
                }
            });
        }
    }

    /// Other corrupt blobs in the packs of a corrupt one. They too would be mistaken for stored ones when their results
    /// are computed again.
    fn corrupt_neighbours(&self, corruption: &Corruption) -> Result<Vec<(BlobEntry, Corruption)>> {
        if corruption.pieces.is_empty() || !self.exist()? {
            return Ok(Vec::new());
        }
        let mut corrupt = Vec::new();
        for entry in self.look_up(|o| pieces::neighbours(&o.db, &corruption.pieces))? {
            corrupt.extend(self.find(&entry, 0)?.err().map(|corruption| (entry, corruption)));
        }
        Ok(corrupt)
    }

    /// Writes blobs to a pack, durably, and returns their entries. Called while no process collects.
    pub(super) fn write(&self, sources: &[Source<'_>], pace: Pace) -> Result<Vec<BlobEntry>> {
        if sources.is_empty() {
            return Ok(Vec::new());
        }
        self.commit(|folder| {
            let known = |pieces: &[Digest]| {
                // The index is written at the end, so it should stay open.
                self.index.database.touch();
                self.change(|o| pieces::known(o, pieces))
            };
            pack_writer::write(sources, folder, &known, pace)
        })
    }

    /// Calls `write` with the folder of packs, adds the blobs that it wrote to the chunk database, and returns their
    /// entries. Called while no process collects.
    pub(super) fn commit(&self, write: impl Fn(&Path) -> Result<Written>) -> Result<Vec<BlobEntry>> {
        for _ in 0..ATTEMPTS {
            // If there is no database yet it is created, which changes what the index says about it.
            let path = match self.exist()? {
                true => self.index.chunks_path()?,
                false => self.change(|o| Ok(o.path().to_owned()))?,
            };
            let folder = pack::folder(&path);
            if !exists(&folder)? {
                self.change(|o| self.create_packs(o))?;
            }
            let written = write(&folder)?;
            // A database that was set aside meanwhile no longer has the locations of the pieces.
            if self.change(|o| Ok(o.path() == path && pieces::commit(o, &written)?))? {
                let lists = written.lists.iter();
                return Ok(lists.map(|(digest, list)| BlobEntry { digest: *digest, size: list.size }).collect());
            }
        }
        let why = "its entries kept changing while blobs were written".to_owned();
        Err(StoreError::Database { path: self.index.chunks_path()?, why })
    }

    /// A blob's bytes as a stream, which fails if the blob is damaged. Called while no process collects.
    pub(super) fn stream(&self, entry: &BlobEntry) -> Result<Box<dyn Read>> {
        if !self.index.small.has(entry)
            && self.exist()?
            && let Ok(Some(located)) = self.look_up(|o| ReadError::split(pieces::locate(&o.db, o.path(), entry)))?
        {
            return Ok(Box::new(PieceReader::new(located)));
        }
        Ok(Box::new(Cursor::new(self.read(entry, 0)?.1)))
    }

    /// Creates the folder of packs. If there was one and it is gone, all results that need it are misses from now on.
    fn create_packs(&self, o: &Opened) -> Result<(), Failure> {
        // No other process has the database now, but other threads of this one may.
        static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
        let _one = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
        let folder = pack::folder(o.path());
        if !exists(&folder)? && o.db.scan_prefix(b"p").next().is_some() {
            self.index.raise_lineage()?;
        }
        Ok(disk::create_folder(&folder)?)
    }

    /// Removes the blobs that `is_dead` picks. Only while no process writes.
    pub(super) fn remove(&self, access: Access, is_dead: impl Fn(&Digest) -> bool) -> Result<()> {
        self.change_for(access, |o| {
            pieces::remove(o, &is_dead)?;
            old_chunks::remove(o, &is_dead)
        })
    }

    /// Moves the chunks of earlier versions to packs. Only while no process writes.
    pub(super) fn move_old_chunks(&self) -> Result<()> {
        let lost = self.change(|o| {
            let (mut lost, mut group) = (BTreeSet::new(), Vec::new());
            for blob in old_chunks::all(&o.db)? {
                match ReadError::split(old_chunks::read(&o.db, &blob))? {
                    Ok(bytes) => group.push(bytes),
                    Err(_) => drop(lost.insert(blob.digest)),
                }
                if group.iter().map(Vec::len).sum::<usize>() >= MOVED {
                    write_group(o, &std::mem::take(&mut group))?;
                }
            }
            write_group(o, &group)?;
            old_chunks::remove_all(o)?;
            Ok(lost)
        })?;
        if !lost.is_empty() {
            let affected = count_affected(self.index.lose(&lost)?.len());
            let count = lost.len();
            self.index.folder.warn(format!("{count} damaged blobs were found; to be computed again: {affected}"));
        }
        Ok(())
    }
}

/// Whether the chunk database has a list of a blob's pieces or chunks.
pub(super) fn is_listed(o: &Opened, blob: &BlobEntry) -> Result<bool, Failure> {
    Ok(o.db.contains_key(pieces::key(b'l', &blob.digest))? || old_chunks::has(o, blob)?)
}

fn write_group(o: &Opened, group: &[Vec<u8>]) -> Result<(), Failure> {
    let sources: Vec<_> = group.iter().map(|bytes| Source { head: Vec::new(), body: Body::Bytes(bytes) }).collect();
    let known = |pieces: &[Digest]| pieces::known(o, pieces).map_err(|f| f.at(o.path()));
    let written = pack_writer::write(&sources, &pack::folder(o.path()), &known, Pace::Fast)?;
    // Nothing was removed meanwhile.
    pieces::commit(o, &written).map(drop)
}
