//! The trash: what a collection removes, while a machine may still need it.
//!
//! ```text
//! trash/<collection>/<name>
//! ```
//!
//! A machine that pushes writes its root first and then compares its records with those of the store. Once its records
//! are there, it looks again for the old blobs that they need. A collection moves objects to the trash first, and then
//! lists the roots and the records again. So whichever of the two is later sees what the other did: the collection puts
//! the object back, or the machine writes it again. This holds however slow a request is.

use std::collections::BTreeSet;
use std::time::Duration;

use object_store::{Error as StoreFailure, ObjectStoreExt as _};

use super::error::{Result, SharedError};
use super::objects::{Listed, Objects, retried};
use crate::store::new_run_id;

/// The beginning of the names of all objects in the trash.
const TRASH: &str = "trash/";
/// The object of the collection that is under way.
const COLLECTING: &str = "trash/collecting";
/// After this long, a collection was killed.
const LONGEST_COLLECTION: Duration = Duration::from_secs(3600);
/// Object stores in the cloud copy no larger object at once: 5 GB.
const MOST_COPIED: u64 = 5_000_000_000;
/// No move takes longer.
const LONGEST_MOVE: Duration = Duration::from_secs(24 * 3600);

/// The trash of one collection.
pub(super) struct Trash<'a> {
    objects: &'a Objects,
    folder: String,
    moved: BTreeSet<String>,
    /// Objects that can't be moved, and are removed at the end.
    large: BTreeSet<String>,
}

impl<'a> Trash<'a> {
    /// An empty trash.
    pub(super) fn new(objects: &'a Objects) -> Self {
        Self { objects, folder: format!("{TRASH}{}/", new_run_id()), moved: BTreeSet::new(), large: BTreeSet::new() }
    }

    /// Puts back what collections that were killed have left.
    ///
    /// # Errors
    /// If the store can't be read or written.
    pub(super) fn put_back_left(objects: &Objects) -> Result<()> {
        let left = objects.list_each(&[TRASH.to_owned()]).pop().unwrap_or(Ok(Vec::new()))?;
        let moves = left.iter().filter_map(|object| {
            let (_, name) = object.name.strip_prefix(TRASH)?.split_once('/')?;
            Some((object.name.clone(), name.to_owned()))
        });
        put_back(objects, moves.collect())?;
        // Those that a machine has written again. A move may be a copy, so a younger one may be under way.
        let names: Vec<String> =
            left.into_iter().filter(|object| object.age() > LONGEST_MOVE).map(|object| object.name).collect();
        objects.remove_each(&names).into_iter().collect()
    }

    /// Moves objects to the trash. Those that a machine has written within this time stay.
    ///
    /// # Errors
    /// If the store can't be read or written.
    pub(super) fn add(&mut self, listed: &[&Listed], grace: Duration) -> Result<()> {
        let names: Vec<String> = listed.iter().map(|object| object.name.clone()).collect();
        let now = self.objects.look_at_each(&names);
        let mut moves = Vec::new();
        for (object, now) in listed.iter().zip(now) {
            if now?.is_none_or(|now| now.age() < grace) {
                continue;
            }
            if object.size > MOST_COPIED && self.objects.address().folder().is_none() {
                self.large.insert(object.name.clone());
                continue;
            }
            moves.push((object.name.clone(), format!("{}{}", self.folder, object.name)));
            self.moved.insert(object.name.clone());
        }
        self.objects.move_each(moves).into_iter().collect()
    }

    /// Puts back what is needed. Returns it.
    ///
    /// # Errors
    /// If the store can't be read or written.
    pub(super) fn put_back(&mut self, is_needed: impl Fn(&String) -> bool) -> Result<Vec<String>> {
        self.large.retain(|name| !is_needed(name));
        let needed: Vec<String> = self.moved.iter().filter(|name| is_needed(name)).cloned().collect();
        put_back(self.objects, needed.iter().map(|name| (format!("{}{name}", self.folder), name.clone())).collect())?;
        Ok(needed)
    }

    /// Removes what is in the trash, and what can't be moved unless a machine has written it within this time.
    ///
    /// # Errors
    /// If the store can't be written.
    pub(super) fn empty(self, grace: Duration) -> Result<()> {
        let large: Vec<String> = self.large.into_iter().collect();
        self.objects.remove_older_each(&large, grace).into_iter().collect::<Result<Vec<()>>>()?;
        let names: Vec<String> = self.moved.iter().map(|name| format!("{}{name}", self.folder)).collect();
        self.objects.remove_each(&names).into_iter().collect()
    }
}

/// Moves objects back, unless a machine has written them again.
fn put_back(objects: &Objects, mut moves: Vec<(String, String)>) -> Result<()> {
    let names: Vec<String> = moves.iter().map(|(_, name)| name.clone()).collect();
    let found = objects.look_at_each(&names).into_iter().collect::<Result<Vec<_>>>()?;
    let mut found = found.into_iter();
    moves.retain(|_| found.next().flatten().is_none());
    let (blobs, records): (Vec<_>, Vec<_>) = moves.into_iter().partition(|(_, name)| name.starts_with("blob/"));
    objects.move_each(blobs).into_iter().collect::<Result<Vec<()>>>()?;
    // A machine may have written another record meanwhile, which counts. Records are small.
    let from: Vec<String> = records.iter().map(|(from, _)| from.clone()).collect();
    let contents = objects.get_each(&from).into_iter().collect::<Result<Vec<_>>>()?;
    let again = records.into_iter().zip(contents).filter_map(|((_, name), bytes)| Some((name, bytes?.to_vec())));
    objects.create_each(again.collect()).into_iter().collect::<Result<Vec<bool>>>()?;
    objects.remove_each(&from).into_iter().collect()
}

/// A collection that is under way. Two at the same time could each rely on what the other moves.
pub(super) struct Collecting<'a> {
    objects: &'a Objects,
}

impl<'a> Collecting<'a> {
    /// Begins a collection. With `force`, although another one seems to be under way.
    ///
    /// # Errors
    /// If another one is under way, or if the store fails.
    pub(super) fn begin(objects: &'a Objects, force: bool) -> Result<Self> {
        let name = COLLECTING.to_owned();
        let is_first = objects.create(&name, Vec::new())?;
        let found = objects.look_at_each(std::slice::from_ref(&name)).pop().unwrap_or(Ok(None))?;
        if !is_first && !force && found.is_some_and(|found| found.age() < LONGEST_COLLECTION) {
            let message = format!("another collection of the store {} is under way", objects.address());
            let hint = "if it was killed, give --force, or try again in an hour";
            return Err(SharedError::unusable(message, hint));
        }
        objects.put(&name, Vec::new())?;
        Ok(Self { objects })
    }
}

impl Drop for Collecting<'_> {
    fn drop(&mut self) {
        // If it stays, the next collection is refused for a while.
        let _ = self.objects.remove_each(&[COLLECTING.to_owned()]);
    }
}

impl Objects {
    /// Moves objects. One that does not exist is no error: another collection may have moved it, or the answer to an
    /// earlier try was lost.
    fn move_each(&self, moves: Vec<(String, String)>) -> Vec<Result<()>> {
        self.each(moves, |(from, to)| async move {
            let (path, target) = (self.path(&from), self.path(&to));
            match retried(|| self.store.rename(&path, &target)).await {
                Ok(()) | Err(StoreFailure::NotFound { .. }) => Ok(()),
                Err(error) => Err(self.failed(&format!("move {from} to {to}"), &error)),
            }
        })
    }
}
