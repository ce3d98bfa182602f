//! `SharedStore`: the handle that the rest of the crate uses. Its methods are in files by subject: `pull.rs`,
//! `push.rs`, `words.rs`, `roots.rs`, `runs.rs`, `events.rs`, `gc.rs`, `doctor.rs`.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use object_store::ObjectStore;
use serde::{Deserialize, Serialize};

use super::address::Address;
use super::error::{Result, SharedError};
use super::objects::Objects;
use super::record::{self, Named, Refusal, Signed};
use super::signature::{PublicKey, SecretKey};
use super::variables::Variables;

/// The object that says that this is a store of vadpipe.
const MARKER: &str = "vadpipe.json";
/// The beginnings of the names of all other objects.
const OWN: [&str; 11] =
    ["blob/", "claim/", "doctor/", "event/", "log/", "result/", "root/", "run/", "state/", "trash/", "word/"];
/// The format of the store.
const FORMAT: u32 = 1;
/// Records that are read at a time.
pub(super) const RECORDS: usize = 512;
/// Warnings about records of one call. More are only counted.
const WARNINGS: usize = 5;

/// Who signs and who is trusted.
#[derive(Debug, Default)]
pub struct Trust {
    /// The key that signs what this machine pushes.
    pub key: Option<SecretKey>,
    /// The names and the keys of those whose records are taken, besides one's own. Empty to take unsigned records and
    /// those of everybody.
    pub trusted: BTreeMap<String, PublicKey>,
}

impl Trust {
    /// Whether a record is taken.
    ///
    /// # Errors
    /// Why not.
    fn check(&self, signer: Option<PublicKey>) -> Result<(), String> {
        if self.trusted.is_empty() {
            return Ok(());
        }
        match signer {
            None => Err("it is not signed, and the configuration names trusted keys".to_owned()),
            Some(key) if self.trusted.values().any(|trusted| *trusted == key) => Ok(()),
            Some(key) if self.key.as_ref().is_some_and(|own| own.public() == key) => Ok(()),
            Some(key) => Err(format!("it is signed by {}, which is not a trusted key", key.short())),
        }
    }
}

/// What the store has under the name of a record: the record, or why it is refused.
pub(super) type Stored<T> = Option<Result<Signed<T>, Refusal>>;

/// A shared store, open.
pub struct SharedStore {
    pub(super) objects: Objects,
    pub(super) trust: Trust,
    /// Whether this machine may write to it.
    writes: bool,
    is_checked: OnceLock<()>,
    is_marked: AtomicBool,
    is_given_up: AtomicBool,
    warnings: Mutex<Vec<String>>,
    /// The names of blobs that were found damaged. A push replaces them.
    damaged: Mutex<BTreeSet<String>>,
}

#[derive(PartialEq, Serialize, Deserialize)]
struct Marker {
    format: u32,
    /// Says the same in words. So a damaged marker is not taken for that of a later format.
    is: String,
}

impl Marker {
    fn new(format: u32) -> Self {
        Self { format, is: format!("a store of vadpipe, format {format}") }
    }

    fn encode(&self) -> Vec<u8> {
        // Only a map whose keys aren't strings can fail, and there is none.
        serde_json::to_vec(self).unwrap_or_default()
    }
}

impl SharedStore {
    /// Opens a store. Makes no request.
    ///
    /// # Errors
    /// If this program was built without this kind of store, or if settings are missing or wrong.
    pub fn open(address: Address, variables: Variables, trust: Trust, writes: bool) -> Result<Self> {
        Ok(Self::of(Objects::open(address, variables)?, trust, writes))
    }

    /// Uses a store that is open.
    ///
    /// # Errors
    /// If the system refuses threads.
    pub fn with_store(store: Arc<dyn ObjectStore>, address: Address, trust: Trust, writes: bool) -> Result<Self> {
        let root = object_store::path::Path::default();
        Ok(Self::of(Objects::with_store(store, root, address, Variables::new())?, trust, writes))
    }

    fn of(objects: Objects, trust: Trust, writes: bool) -> Self {
        let (is_checked, is_marked, is_given_up, warnings, damaged) = Default::default();
        Self { objects, trust, writes, is_checked, is_marked, is_given_up, warnings, damaged }
    }

    /// Its address.
    pub fn address(&self) -> &Address {
        self.objects.address()
    }

    /// Whether this machine may write to it.
    pub fn writes(&self) -> bool {
        self.writes
    }

    /// Warnings for the user since the last call. Each is a sentence without a full stop.
    pub fn warnings(&self) -> Vec<String> {
        std::mem::take(&mut *self.warnings.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Whether a run does without the store from now on: see [`SharedStore::give_up`].
    pub fn is_given_up(&self) -> bool {
        self.is_given_up.load(Ordering::Relaxed)
    }

    /// Notes that the store failed, so that a run does not wait for it again and again. Returns a warning, but only the
    /// first time.
    pub fn give_up(&self, warning: impl FnOnce() -> String) -> Option<String> {
        (!self.is_given_up.swap(true, Ordering::Relaxed)).then(warning)
    }

    /// Adds a warning, unless there is the same one.
    pub(super) fn warn(&self, warning: String) {
        let mut warnings = self.warnings.lock().unwrap_or_else(PoisonError::into_inner);
        if !warnings.contains(&warning) {
            warnings.push(warning);
        }
    }

    /// The names of blobs that were found damaged.
    pub(super) fn damaged(&self) -> MutexGuard<'_, BTreeSet<String>> {
        self.damaged.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Checks once that this is a store of vadpipe, or nothing yet.
    ///
    /// # Errors
    /// If it holds something else, if a later vadpipe wrote it, or if it can't be reached.
    pub fn check(&self) -> Result<()> {
        let address = self.address();
        if self.is_checked.get().is_some() {
            let is_marked = self.is_marked.load(Ordering::Relaxed);
            // A folder may be unmounted. Then nothing must be written to what is below it.
            return match address.folder().filter(|folder| is_marked && !folder.join(MARKER).exists()) {
                Some(_) => Err(SharedError::Failed {
                    what: format!("find {MARKER}"),
                    address: address.to_string(),
                    why: "it was there before".to_owned(),
                }),
                None => Ok(()),
            };
        }
        if let Some(folder) = address.folder().filter(|folder| !folder.is_dir()) {
            let is_file = folder.exists();
            if is_file || !self.writes {
                let why = if is_file { "it is a file" } else { "no such folder" };
                let hint = "check the address; with --store-write, the first push creates the folder";
                return Err(SharedError::unusable(format!("there is no store {address}: {why}"), hint));
            }
        }
        match self.objects.get_soon(MARKER)? {
            Some(bytes) => match serde_json::from_slice::<Marker>(&bytes) {
                Ok(marker) if marker == Marker::new(FORMAT) => self.is_marked.store(true, Ordering::Relaxed),
                Ok(marker) if marker == Marker::new(marker.format) => {
                    let format = marker.format;
                    let message =
                        format!("the store {address} has format {format}; this vadpipe reads formats up to {FORMAT}");
                    return Err(SharedError::unusable(message, "use the vadpipe that wrote it or a later one"));
                }
                Ok(_) | Err(_) => {
                    if self.objects.first("result/")?.is_none() {
                        return Err(self.is_something_else(MARKER));
                    }
                    self.is_marked.store(true, Ordering::Relaxed);
                    self.warn(format!(
                        "{MARKER} of the store {address} is damaged; `vadpipe store doctor` restores it"
                    ));
                }
            },
            None => match self.objects.first("")? {
                // Another machine has just written it.
                Some(own) if own == MARKER => {}
                // The marker was removed.
                Some(own) if OWN.iter().any(|folder| own.starts_with(folder)) => {}
                Some(other) => return Err(self.is_something_else(&other)),
                None => {}
            },
        }
        let _ = self.is_checked.set(());
        Ok(())
    }

    fn is_something_else(&self, name: &str) -> SharedError {
        SharedError::unusable(
            format!("{} is not a store of vadpipe: it holds {name}", self.address()),
            "give an empty folder or a path of its own in the bucket, such as s3://BUCKET/vadpipe",
        )
    }

    /// # Errors
    /// If this machine may not write to the store.
    pub(super) fn require_writes(&self) -> Result<()> {
        if self.writes {
            return Ok(());
        }
        let message = format!("the store {} is only read from this machine", self.address());
        let hint = "give --store-write, or set `write = true` under [store] in the configuration";
        Err(SharedError::unusable(message, hint))
    }

    /// Restores the marker.
    pub(super) fn restore_marker(&self) -> Result<()> {
        self.objects.put(MARKER, Marker::new(FORMAT).encode())
    }

    /// Makes it a store of vadpipe, if it is none yet. Writes do it first.
    ///
    /// # Errors
    /// As [`SharedStore::check`], or if it can't be written.
    pub fn mark(&self) -> Result<()> {
        self.check()?;
        if !self.is_marked.load(Ordering::Relaxed) {
            let marker = Marker::new(FORMAT).encode();
            if self.objects.create(MARKER, marker)? {
                self.warn(format!("there was no store {}: this is a new one", self.address()));
            }
            self.is_marked.store(true, Ordering::Relaxed);
        }
        Ok(())
    }

    /// Reads records. Each is accepted, or refused with the reason; `None` if it does not exist.
    pub(super) fn read_each<T: Named>(&self, names: &[String]) -> Result<Vec<Stored<T>>> {
        let mut records = Vec::with_capacity(names.len());
        for names in names.chunks(RECORDS) {
            for (name, bytes) in names.iter().zip(self.objects.get_each(names)) {
                let is_trusted = |signer| self.trust.check(signer);
                records.push(bytes?.map(|bytes| record::decode(&bytes, name, &is_trusted)));
            }
        }
        Ok(records)
    }

    /// Reads records. `None` for one that is missing or refused. Warns about those that are refused.
    pub(super) fn read<T: Named>(&self, names: &[String]) -> Result<Vec<Option<Signed<T>>>> {
        let (mut refused, mut records) = (Vec::new(), Vec::with_capacity(names.len()));
        for (name, record) in names.iter().zip(self.read_each(names)?) {
            records.push(match record {
                Some(Ok(record)) => Some(record),
                Some(Err(why)) => {
                    refused.push(format!("{name} of the store {} is ignored: {why}", self.address()));
                    None
                }
                None => None,
            });
        }
        self.warn_of_some(refused);
        Ok(records)
    }

    /// Warns of the first of many things, and counts the others.
    pub(super) fn warn_of_some(&self, mut warnings: Vec<String>) {
        let more = warnings.len().saturating_sub(WARNINGS);
        warnings.truncate(WARNINGS);
        warnings.into_iter().for_each(|warning| self.warn(warning));
        if more > 0 {
            self.warn(format!("{more} more such objects of the store {}", self.address()));
        }
    }
}
