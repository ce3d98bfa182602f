//! Restores the content of indexes that were set aside.
//!
//! Versions before format 3 could mistake an intact index for a damaged one, because sled had left one incomplete file
//! behind (`snap.*.generating`). They moved all its snapshots away and found nothing in it. The index still exists
//! under another name, and is complete. [`Store::doctor`] reads it from a copy, and restores the results and states
//! whose bytes are still in the cache.

use std::fs;
use std::path::Path;

use super::aside::{RESTORED, open_damaged};
use super::disk::{self, TEMPORARY};
use super::engine::{Failure, catch};
use super::entries;
use super::error::{Result, StoreError};
use super::handle::Store;
use super::record::{ResultRecord, StateRecord};
use crate::artifact::BlobEntry;
use crate::key::Key;

/// What an index holds.
#[derive(Default)]
struct Content {
    results: Vec<ResultRecord>,
    states: Vec<StateRecord>,
    newest: Vec<(String, String, Key)>,
}

impl Store {
    /// Looks for results and states in indexes that were set aside, and returns their numbers. With `repair`, restores
    /// them.
    pub(super) fn restore(&self, repair: bool) -> Result<(usize, usize)> {
        let (mut results, mut states) = (0, 0);
        for aside in self.index.folder.set_aside() {
            if !disk::name(&aside).starts_with("index-") || disk::exists(&aside.join(RESTORED))? {
                continue;
            }
            let content = match self.read_set_aside(&aside) {
                Ok(content) => content,
                // A copy can't be written now.
                Err(error) if error.is_refusal() => continue,
                Err(error) => return Err(error),
            };
            let lacking = self.lacking(content)?;
            results += lacking.results.len();
            states += lacking.states.len();
            if repair {
                self.put(&lacking)?;
                // Later collections decide what stays.
                disk::write_atomically(&aside.join(RESTORED), b"")?;
            }
        }
        Ok((results, states))
    }

    /// Reads the readable part of an index that was set aside. Its files stay as they are.
    fn read_set_aside(&self, aside: &Path) -> Result<Content> {
        let folder = tempfile::Builder::new().prefix(TEMPORARY).tempdir_in(self.dir());
        let folder = folder.map_err(StoreError::io("can't create a folder in", self.dir()))?;
        let copied = folder.path().join("index");
        let copy = || {
            disk::copy(aside, &copied)?;
            // Earlier versions moved all snapshots here, intact ones too.
            for snapshot in disk::entries(&copied.join("snapshots"))?.iter().filter(|path| disk::name(path) != "conf") {
                fs::rename(snapshot, copied.join(disk::name(snapshot)))?;
            }
            Ok(())
        };
        copy().map_err(StoreError::io("can't copy", aside))?;
        let read = || {
            let Some(db) = open_damaged(&copied, entries::SETUP)? else { return Ok(Content::default()) };
            let (results, states) = (entries::all_results(&db)?.0, entries::all_states(&db)?.0);
            Ok(Content { results, states, newest: entries::all_newest(&db)? })
        };
        match catch(read) {
            Err(Failure::Broken(_)) => Ok(Content::default()),
            content => content.map_err(|f| f.at(aside)),
        }
    }

    /// The part of this content that the index lacks and whose bytes are in the cache.
    fn lacking(&self, mut content: Content) -> Result<Content> {
        content.results.retain(|r| !r.damaged);
        let in_index: [Vec<bool>; 3] = self.index.read(|db| {
            let result = |r: &ResultRecord| Ok(matches!(entries::result(db, &r.key)?, Some(Ok(r)) if !r.damaged));
            let state = |s: &StateRecord| Ok(entries::states(db, &s.key)?.iter().any(|other| other.has_name_of(s)));
            let newest =
                |(pipeline, point, _): &(String, String, Key)| Ok(entries::newest(db, pipeline, point)?.is_some());
            Ok([
                content.results.iter().map(result).collect::<Result<_, Failure>>()?,
                content.states.iter().map(state).collect::<Result<_, Failure>>()?,
                content.newest.iter().map(newest).collect::<Result<_, Failure>>()?,
            ])
        })?;
        let [results, states, newest] = in_index;
        retain_not(&mut content.results, results);
        retain_not(&mut content.states, states);
        retain_not(&mut content.newest, newest);
        let lacks_any = |blobs: Vec<BlobEntry>| Ok(self.blobs.has_each(&blobs)?.contains(&false));
        let results = content.results.iter().map(|r| lacks_any(r.blobs().collect())).collect::<Result<_>>()?;
        let states = content.states.iter().map(|s| lacks_any(s.blobs().collect())).collect::<Result<_>>()?;
        retain_not(&mut content.results, results);
        retain_not(&mut content.states, states);
        let results = &content.results;
        content.newest.retain(|(_, _, key)| results.iter().any(|r| r.key == *key));
        Ok(content)
    }

    fn put(&self, content: &Content) -> Result<()> {
        self.index.change(|db, changes| {
            let lineage = entries::lineage(db)?;
            for record in &content.results {
                entries::put_result(changes, &ResultRecord { lineage, ..record.clone() })?;
            }
            for record in &content.states {
                entries::put_state(changes, &StateRecord { lineage, ..record.clone() })?;
            }
            for (pipeline, point, key) in &content.newest {
                entries::put_newest(changes, pipeline, point, key);
            }
            Ok(())
        })
    }
}

/// Removes the items whose flag is true. Missing flags are false.
fn retain_not<T>(items: &mut Vec<T>, flags: Vec<bool>) {
    let mut flags = flags.into_iter();
    items.retain(|_| !flags.next().unwrap_or(false));
}
