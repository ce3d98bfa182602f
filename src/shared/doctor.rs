//! Checks a store and removes what is damaged.

use std::collections::{BTreeMap, BTreeSet};

use rayon::prelude::*;

use super::blobs::{self, blob_name};
use super::contents::{Contents, Counts, names};
use super::error::Result;
use super::handle::{RECORDS, SharedStore};
use super::objects::Listed;
use super::record::{self, ANYBODY, Named, Refusal};
use super::roots::Root;
use super::runs::SharedRun;
use crate::artifact::BlobEntry;
use crate::store::{ResultRecord, StateRecord};

/// Creates that race in a test of the store.
const RACERS: usize = 32;
/// Blobs that are read at the same time.
const AT_A_TIME: usize = 16;

/// What is wrong with a store.
#[derive(Debug, Default)]
pub struct SharedDoctorReport {
    /// What was checked.
    pub counts: Counts,
    /// What is wrong, one sentence each.
    pub problems: Vec<String>,
    /// Damaged objects that were removed, so that the next push writes them again.
    pub removed: usize,
    /// Whether exactly one of several creates of the same object succeeded. `None` if it was not tried.
    pub is_atomic: Option<bool>,
}

impl SharedStore {
    /// Checks every record, whether its blobs are there and, with `read_blobs`, their bytes. Records of a later vadpipe
    /// are left alone. With `repair`, removes what is damaged, and tests with creates that race whether the store is
    /// atomic. `progress` gets the number of checked objects and of all.
    ///
    /// # Errors
    /// If the store can't be read or written.
    pub fn doctor(&self, repair: bool, read_blobs: bool, progress: &dyn Fn(u64, u64)) -> Result<SharedDoctorReport> {
        if repair {
            self.require_writes()?;
        }
        let contents = self.contents()?;
        let mut checkup = Checkup::new(self, &contents);
        let all = (contents.results.len() + contents.states.len() + contents.blobs.len()) as u64;
        if read_blobs {
            checkup.check_blobs(&contents.blobs, &|done| progress(done, all))?;
        }
        checkup.check_records::<ResultRecord>(&contents.results, |record| record.blobs().collect())?;
        checkup.check_records::<StateRecord>(&contents.states, |record| record.blobs().collect())?;
        checkup.check_records::<SharedRun>(&contents.runs, |run| run.files.values().map(|file| file.blob).collect())?;
        checkup.check_others(&contents)?;
        progress(all, all);
        let Checkup { damaged, problems, .. } = checkup;
        let mut report = SharedDoctorReport { counts: contents.counts(), problems, ..SharedDoctorReport::default() };
        if repair {
            self.objects.remove_each(&damaged).into_iter().collect::<Result<Vec<()>>>()?;
            report.removed = damaged.len();
            self.restore_marker()?;
            report.is_atomic = Some(self.is_atomic()?);
        }
        Ok(report)
    }

    /// Whether exactly one of several creates of the same object succeeds.
    fn is_atomic(&self) -> Result<bool> {
        let name = format!("doctor/{}", crate::store::new_run_id());
        let racers = (0..RACERS).map(|racer| (name.clone(), racer.to_string().into_bytes())).collect();
        let created = self.objects.create_each(racers).into_iter().collect::<Result<Vec<bool>>>()?;
        self.objects.remove_each(&[name]).into_iter().collect::<Result<Vec<()>>>()?;
        Ok(created.into_iter().filter(|created| *created).count() == 1)
    }
}

/// A check of the whole store.
struct Checkup<'a> {
    store: &'a SharedStore,
    /// The size of each blob by its name.
    sizes: BTreeMap<&'a str, u64>,
    bad_blobs: BTreeSet<String>,
    damaged: Vec<String>,
    problems: Vec<String>,
}

impl<'a> Checkup<'a> {
    fn new(store: &'a SharedStore, contents: &'a Contents) -> Self {
        let sizes = contents.blobs.iter().map(|blob| (blob.name.as_str(), blob.size)).collect();
        Self { store, sizes, bad_blobs: BTreeSet::new(), damaged: Vec::new(), problems: Vec::new() }
    }

    fn check_records<T: Named>(&mut self, listed: &[Listed], blobs: impl Fn(&T) -> Vec<BlobEntry>) -> Result<()> {
        for names in names(listed).chunks(RECORDS) {
            for (name, bytes) in names.iter().zip(self.store.objects.get_each(names)) {
                let Some(bytes) = bytes? else { continue };
                match record::decode::<T>(&bytes, name, ANYBODY) {
                    Ok(signed) => self.check_needs(name, &blobs(&signed.record))?,
                    Err(Refusal::Newer(_)) => {}
                    Err(why) => self.note(name, &why.to_string()),
                }
            }
        }
        Ok(())
    }

    /// Checks the blobs of a record.
    fn check_needs(&mut self, name: &str, blobs: &[BlobEntry]) -> Result<()> {
        for blob in blobs {
            let blob_name = blob_name(blob);
            let is_right = self.sizes.get(blob_name.as_str()) == Some(&blob.size);
            if is_right && !self.bad_blobs.contains(&blob_name) {
                continue;
            }
            // It may have been written since the blobs were listed. If its bytes are right, the record is wrong.
            let stored = self.store.objects.look_at_each(std::slice::from_ref(&blob_name)).pop().unwrap_or(Ok(None))?;
            let is_right = stored.as_ref().is_some_and(|stored| stored.size == blob.size);
            if is_right && !self.bad_blobs.contains(&blob_name) {
                continue;
            }
            if let Some(stored) = stored {
                self.check_blob(&stored)?;
            }
            self.note(name, &format!("{blob_name} is missing or damaged"));
            return Ok(());
        }
        Ok(())
    }

    /// Reads every blob.
    fn check_blobs(&mut self, listed: &[Listed], progress: &dyn Fn(u64)) -> Result<()> {
        let mut done = 0;
        for listed in listed.chunks(AT_A_TIME) {
            let digest = |blob: &Listed| blobs::digest(&self.store.objects, &blob.name, blob.size);
            let digests: Vec<_> = listed.par_iter().map(digest).collect::<Result<_>>()?;
            for (blob, digest) in listed.iter().zip(digests) {
                self.compare(blob, digest);
            }
            done += listed.len() as u64;
            progress(done);
        }
        Ok(())
    }

    fn check_blob(&mut self, blob: &Listed) -> Result<()> {
        let digest = blobs::digest(&self.store.objects, &blob.name, blob.size)?;
        self.compare(blob, digest);
        Ok(())
    }

    fn compare(&mut self, blob: &Listed, digest: Option<crate::key::Digest>) {
        let is_right = digest.is_none_or(|digest| blob.name == format!("blob/{digest}"));
        if !is_right && self.bad_blobs.insert(blob.name.clone()) {
            self.note(&blob.name, "its bytes are not those of its name");
        }
    }

    /// Checks words and roots.
    fn check_others(&mut self, contents: &Contents) -> Result<()> {
        for (listed, is_word) in [(&contents.words, true), (&contents.roots, false)] {
            for names in names(listed).chunks(RECORDS) {
                for (name, bytes) in names.iter().zip(self.store.objects.get_each(names)) {
                    let Some(bytes) = bytes? else { continue };
                    let why = match is_word {
                        true => record::decode_word(&bytes, name).err().map(|why| why.to_string()),
                        false => Root::decode(&bytes).is_none().then(|| "it is damaged".to_owned()),
                    };
                    why.iter().for_each(|why| self.note(name, why));
                }
            }
        }
        Ok(())
    }

    fn note(&mut self, name: &str, why: &str) {
        self.problems.push(format!("{name}: {why}"));
        self.damaged.push(name.to_owned());
    }
}
