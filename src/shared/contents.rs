//! What a store holds, by kind.

use super::error::Result;
use super::handle::SharedStore;
use super::objects::Listed;

/// What a store holds: the number of objects of each kind and their bytes.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counts {
    /// Results.
    pub results: usize,
    /// States of trainings.
    pub states: usize,
    /// Tensors and files.
    pub blobs: usize,
    /// Words of other machines about results.
    pub words: usize,
    /// Bytes of all objects.
    pub bytes: u64,
}

/// The objects of a store, by kind.
#[derive(Default)]
pub(super) struct Contents {
    pub(super) results: Vec<Listed>,
    pub(super) states: Vec<Listed>,
    pub(super) words: Vec<Listed>,
    pub(super) blobs: Vec<Listed>,
    pub(super) roots: Vec<Listed>,
    pub(super) runs: Vec<Listed>,
    /// Events of workers and logs of stages.
    pub(super) told: Vec<Listed>,
    pub(super) bytes: u64,
}

impl Contents {
    pub(super) fn counts(&self) -> Counts {
        Counts {
            results: self.results.len(),
            states: self.states.len(),
            blobs: self.blobs.len(),
            words: self.words.len(),
            bytes: self.bytes,
        }
    }
}

/// The names of objects.
pub(super) fn names<'a>(objects: impl IntoIterator<Item = &'a Listed>) -> Vec<String> {
    objects.into_iter().map(|object| object.name.clone()).collect()
}

impl SharedStore {
    /// Lists all objects.
    pub(super) fn contents(&self) -> Result<Contents> {
        self.check()?;
        let mut contents = Contents::default();
        for object in self.objects.list_each(&[String::new()]).pop().unwrap_or(Ok(Vec::new()))? {
            contents.bytes += object.size;
            match object.name.split('/').next() {
                Some("result") => contents.results.push(object),
                Some("state") => contents.states.push(object),
                Some("word") => contents.words.push(object),
                Some("blob") => contents.blobs.push(object),
                Some("root") => contents.roots.push(object),
                Some("run") => contents.runs.push(object),
                Some("event" | "log") => contents.told.push(object),
                _ => {}
            }
        }
        Ok(contents)
    }

    /// Counts the objects of the store.
    ///
    /// # Errors
    /// If the store can't be read.
    pub fn counts(&self) -> Result<Counts> {
        Ok(self.contents()?.counts())
    }
}
