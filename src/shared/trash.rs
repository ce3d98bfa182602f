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

use std::time::Duration;

use object_store::{Error as StoreFailure, ObjectStoreExt as _};

use super::error::Result;
use super::objects::{Listed, Objects, retried};
use crate::store::new_run_id;

/// The beginning of the names of all objects in the trash.
const TRASH: &str = "trash/";
/// Object stores in the cloud copy no larger object at once: 5 GB.
const MOST_COPIED: u64 = 5_000_000_000;
/// No move takes longer.
const LONGEST_MOVE: Duration = Duration::from_secs(24 * 3600);

/// The trash of one collection.
pub(super) struct Trash<'a> {
    objects: &'a Objects,
    folder: String,
    moved: Vec<String>,
}

impl<'a> Trash<'a> {
    /// An empty trash.
    pub(super) fn new(objects: &'a Objects) -> Self {
        Self { objects, folder: format!("{TRASH}{}/", new_run_id()), moved: Vec::new() }
    }

    /// Puts back what collections that were killed have left. Another collection that is under way loses nothing by it:
    /// it looks only after what it moved itself.
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
                self.objects.remove(&object.name)?;
                continue;
            }
            moves.push((object.name.clone(), format!("{}{}", self.folder, object.name)));
            self.moved.push(object.name.clone());
        }
        self.objects.move_each(moves).into_iter().collect()
    }

    /// Puts back what is needed.
    ///
    /// # Errors
    /// If the store can't be read or written.
    pub(super) fn put_back(&self, is_needed: impl Fn(&String) -> bool) -> Result<()> {
        let needed = self.moved.iter().filter(|name| is_needed(name));
        put_back(self.objects, needed.map(|name| (format!("{}{name}", self.folder), name.clone())).collect())
    }

    /// Removes what is in the trash.
    ///
    /// # Errors
    /// If the store can't be written.
    pub(super) fn empty(self) -> Result<()> {
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
    objects.move_each(moves).into_iter().collect()
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

    fn remove(&self, name: &str) -> Result<()> {
        self.remove_each(&[name.to_owned()]).into_iter().collect()
    }
}
