//! Bringing back what indexes hold that were set aside.
//!
//! Versions before format 3 could take a whole index for damaged because sled had left one incomplete file behind
//! (`snap.*.generating`). They moved all its snapshots away and found nothing in it. The index is still there, under
//! another name, and complete. [`Store::doctor`] reads it from a copy and brings back the results and states whose bytes
//! are still in the cache.

use std::fs;
use std::path::Path;

use super::aside::{RESTORED, open_damaged};
use super::disk::{self, TEMPORARY};
use super::engine::{Failure, failed};
use super::index;
use super::record::BlobEntries;
use super::{DoctorReport, Result, ResultRecord, StateRecord, Store, StoreError, blobs, small};
use crate::artifact::BlobEntry;
use crate::key::Key;

/// What an index holds.
struct Content {
    results: Vec<ResultRecord>,
    states: Vec<StateRecord>,
    newest: Vec<(String, String, Key)>,
}

/// Whether a name is that of a database that was set aside.
pub(super) fn is_set_aside(name: &str) -> bool {
    name.split_once("-damaged-").is_some_and(|(database, n)| {
        let is_database =
            database == "index" || database.strip_prefix("chunks-").is_some_and(|g| g.parse::<u64>().is_ok());
        is_database && n.parse::<u64>().is_ok()
    })
}

impl Store {
    /// Looks for results and states in indexes that were set aside. With `repair`, they are brought back.
    pub(super) fn restore(&self, repair: bool, report: &mut DoctorReport) -> Result<()> {
        for aside in self.set_aside() {
            let is_index = aside.file_name().is_some_and(|name| name.to_string_lossy().starts_with("index-"));
            if !is_index || disk::exists(&aside.join(RESTORED))? {
                continue;
            }
            let content = match self.read_set_aside(&aside) {
                Ok(content) => content,
                // There is no space for a copy. Another time there may be.
                Err(StoreError::Full { .. } | StoreError::ReadOnly { .. }) => continue,
                Err(error) => return Err(error),
            };
            let lacking = self.lacking(content)?;
            report.results_restored += lacking.results.len();
            report.states_restored += lacking.states.len();
            if repair {
                self.bring_back(&lacking)?;
                // Later collections decide what stays.
                disk::write_atomically(&aside.join(RESTORED), b"")?;
            }
        }
        Ok(())
    }

    /// Reads what can be read of an index that was set aside. Its files stay as they are.
    fn read_set_aside(&self, aside: &Path) -> Result<Content> {
        let folder = tempfile::Builder::new().prefix(TEMPORARY).tempdir_in(&self.inner.dir);
        let folder = folder.map_err(StoreError::io("can't create a folder in", &self.inner.dir))?;
        let copied = folder.path().join("index");
        let copy = || {
            disk::copy(aside, &copied)?;
            // Earlier versions moved the snapshots here, whichever was at fault.
            let Ok(snapshots) = fs::read_dir(copied.join("snapshots")) else { return Ok(()) };
            for snapshot in snapshots {
                let snapshot = snapshot?;
                if snapshot.file_name() == "conf" {
                    continue;
                }
                fs::rename(snapshot.path(), copied.join(snapshot.file_name()))?;
            }
            Ok(())
        };
        copy().map_err(StoreError::io("can't copy", aside))?;
        let read = || -> Result<_, Failure> {
            let Some(db) = open_damaged(&copied, index::SETUP)? else { return Ok(None) };
            let (results, states) = (index::all_results(&db)?.0, index::all_states(&db)?.0);
            Ok(Some(Content { results, states, newest: index::all_newest(&db)? }))
        };
        match super::quiet::catch(read).unwrap_or_else(|panic| Err(Failure::Broken(panic))) {
            Ok(content) => {
                Ok(content.unwrap_or(Content { results: Vec::new(), states: Vec::new(), newest: Vec::new() }))
            }
            Err(Failure::Broken(_)) => Ok(Content { results: Vec::new(), states: Vec::new(), newest: Vec::new() }),
            Err(other) => Err(failed(other, aside)),
        }
    }

    /// Of this content, what the index lacks although the bytes are here.
    fn lacking(&self, content: Content) -> Result<Content> {
        let Content { mut results, mut states, mut newest } = content;
        results.retain(|r| !r.damaged);
        let (known, points) = self.inner.read_index(|db| {
            let mut known = Vec::new();
            for record in &results {
                known.push(index::result(db, &record.key)?.is_some_and(|r| !r.damaged));
            }
            for record in &states {
                let same = |s: &StateRecord| (s.step, &s.class) == (record.step, &record.class);
                known.push(index::states(db, &record.key)?.iter().any(same));
            }
            let mut points = Vec::new();
            for (pipeline, point, _) in &newest {
                points.push(index::newest(db, pipeline, point)?.is_some());
            }
            Ok((known, points))
        })?;
        // Where there is no index, nothing is known.
        let mut known = known.into_iter().chain(std::iter::repeat(false));
        results.retain(|_| known.next() == Some(false));
        states.retain(|_| known.next() == Some(false));
        let mut points = points.into_iter().chain(std::iter::repeat(false));
        newest.retain(|_| points.next() == Some(false));
        let is_here = |blobs: Vec<BlobEntry>| self.has_all(&blobs);
        let (mut kept_results, mut kept_states) = (Vec::new(), Vec::new());
        for record in results {
            if is_here(record.blobs())? {
                kept_results.push(record);
            }
        }
        for record in states {
            if is_here(record.blobs())? {
                kept_states.push(record);
            }
        }
        newest.retain(|(_, _, key)| kept_results.iter().any(|r| r.key == *key));
        Ok(Content { results: kept_results, states: kept_states, newest })
    }

    /// Whether all these blobs are in the cache, by their names.
    fn has_all(&self, blobs: &[BlobEntry]) -> Result<bool> {
        let in_packs: Vec<_> = blobs.iter().filter(|b| !small::has(&self.inner.dir, b.digest, b.size)).collect();
        if in_packs.is_empty() {
            return Ok(true);
        }
        if !self.inner.has_chunks()? {
            return Ok(false);
        }
        self.inner.read_chunks(|o| {
            for blob in &in_packs {
                if !blobs::has(&o.db, &blob.digest)? {
                    return Ok(false);
                }
            }
            Ok(true)
        })
    }

    fn bring_back(&self, lacking: &Content) -> Result<()> {
        self.inner.change_index(|db, changes| {
            let lineage = index::lineage(db)?;
            for record in &lacking.results {
                index::put_result(changes, &ResultRecord { lineage, ..record.clone() })?;
            }
            for record in &lacking.states {
                index::put_state(changes, &StateRecord { lineage, ..record.clone() })?;
            }
            for (pipeline, point, key) in &lacking.newest {
                index::put_newest(changes, pipeline, point, key);
            }
            Ok(())
        })
    }
}
