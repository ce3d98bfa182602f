//! Where the two databases are, and what depends on their content.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;

use super::database::{Opened, Place};
use super::disk::{exists, rename};
use super::inner::{Inner, things};
use super::recovery::Recovery;
use super::{Result, StoreError, blobs, index};
use crate::key::Digest;

/// What versions before format 3 saved of a damaged index, complete, until it took that one's place.
pub(super) const SAVED_INDEX: &str = "index-saved";

/// Where the index is.
pub(super) struct IndexPlace<'a>(pub(super) &'a Arc<Inner>);

impl Place for IndexPlace<'_> {
    fn path(&self) -> Result<PathBuf> {
        let (path, saved) = (self.0.dir.join("index"), self.0.dir.join(SAVED_INDEX));
        if !exists(&path)? && exists(&saved)? {
            match rename(&saved, &path) {
                // It is read where it is.
                Err(StoreError::ReadOnly { .. } | StoreError::Full { .. }) => return Ok(saved),
                other => other?,
            }
        }
        Ok(path)
    }

    fn create(&self) -> Result<()> {
        Ok(())
    }

    fn before_journal(&self) -> Result<()> {
        self.0.raise_format()
    }

    fn recovered(&self, opened: &Opened, recovery: &Recovery) -> Result<()> {
        self.0.warn(recovery.describe(opened.path()));
        Ok(())
    }
}

/// Where the current chunk database is.
pub(super) struct ChunksPlace<'a>(pub(super) &'a Arc<Inner>);

impl Place for ChunksPlace<'_> {
    fn path(&self) -> Result<PathBuf> {
        self.0.chunks_path()
    }

    /// What the index says was in a database that is gone is a miss from now on.
    fn create(&self) -> Result<()> {
        let inner = self.0;
        inner.change_index(|db, changes| {
            let generation = index::generation(db)?;
            let generation = generation.unwrap_or_else(|| inner.generations().last().copied().unwrap_or(0));
            index::set_chunks(changes, generation, index::lineage(db)? + 1);
            Ok(())
        })
    }

    fn before_journal(&self) -> Result<()> {
        self.0.raise_format()
    }

    /// Results and states that rely on lost blobs are misses from now on.
    fn recovered(&self, opened: &Opened, recovery: &Recovery) -> Result<()> {
        let inner = self.0;
        let mut lost = BTreeSet::<Digest>::new();
        for blob in inner.wanted_blobs()? {
            let has = blobs::has(&opened.db, &blob.0);
            if !has.map_err(|f| super::engine::failed(f, opened.path()))? {
                lost.insert(blob.0);
            }
        }
        let affected = inner.lose(&lost)?.len();
        inner.warn(format!("{}; lost: {}", recovery.describe(opened.path()), things(affected)));
        Ok(())
    }
}
