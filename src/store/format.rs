//! FORMAT: the file that makes a folder a cache, and says which versions can read it.

use std::fs;
use std::io;
use std::sync::atomic::Ordering;

use super::disk::{self, exists, write_atomically};
use super::inner::Inner;
use super::journal::Journal;
use super::{FORMAT, Result, StoreError};

/// Bytes of the longest FORMAT.
const LONGEST: u64 = 64;

impl Inner {
    /// Whether the folder is a cache that this version can read, or may become one.
    pub(super) fn check_format(&self) -> Result<()> {
        let not_a_cache = |why: String| StoreError::NotACache { dir: self.dir.clone(), why };
        let path = self.dir.join("FORMAT");
        let found = match disk::read(&path, LONGEST) {
            // It is longer than any FORMAT.
            Err(e) if e.kind() == io::ErrorKind::InvalidData => Ok(Vec::new()),
            other => other,
        };
        match found {
            Ok(bytes) => match String::from_utf8_lossy(&bytes).trim().parse::<u32>() {
                Ok(found) if found > FORMAT && !self.has_our_index() => {
                    Err(StoreError::Newer { dir: self.dir.clone(), found, known: FORMAT })
                }
                Ok(found) if found <= FORMAT => Ok(()),
                _ if self.has_our_index() => self.restore_format("was damaged"),
                _ => Err(not_a_cache("its file FORMAT holds no number".to_owned())),
            },
            Err(e) if e.kind() == io::ErrorKind::NotFound => match self.foreign_name()? {
                None => Ok(()),
                // Another process has created the cache meanwhile.
                Some(_) if exists(&path)? => self.check_format(),
                Some(_) if self.has_our_index() => self.restore_format("was missing"),
                Some(name) => Err(not_a_cache(format!("it has no file FORMAT, but holds `{name}`"))),
            },
            Err(e) if e.kind() == io::ErrorKind::NotADirectory => Err(not_a_cache("it is not a folder".to_owned())),
            Err(e) if e.kind() == io::ErrorKind::InvalidInput => Err(not_a_cache(format!("FORMAT: {e}"))),
            Err(e) => Err(StoreError::io("can't read", &path)(e)),
        }
    }

    /// Whether the index has a journal of this format, whatever FORMAT says.
    fn has_our_index(&self) -> bool {
        let index = self.dir.join("index");
        Journal::open(&index, false).is_ok_and(|journal| journal.is_some_and(|j| j.is_ours()))
    }

    fn restore_format(&self, what: &str) -> Result<()> {
        self.warn(format!("the file FORMAT of the cache {} {what}; it was written again", self.dir.display()));
        // A cache that can't be written is read as it is.
        match self.write_format() {
            Err(StoreError::ReadOnly { .. } | StoreError::Full { .. }) => Ok(()),
            other => other,
        }
    }

    /// A name in the folder that a cache without FORMAT can't have: it was begun by a process that was killed, or somebody
    /// else's files are there.
    fn foreign_name(&self) -> Result<Option<String>> {
        let entries = match fs::read_dir(&self.dir) {
            Ok(entries) => entries,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(StoreError::io("can't read", &self.dir)(e)),
        };
        let is_begun = |entry: &fs::DirEntry| {
            let is_half_format = || match entry.metadata() {
                Ok(m) => m.is_file() && m.len() <= LONGEST,
                // It was renamed meanwhile.
                Err(e) => e.kind() == io::ErrorKind::NotFound,
            };
            let is_temporary = entry.file_name().to_string_lossy().starts_with(disk::TEMPORARY);
            (is_temporary && is_half_format()) || entry.file_name() == ".gitignore"
        };
        let foreign = entries.flatten().find(|entry| !is_begun(entry));
        Ok(foreign.map(|entry| entry.file_name().to_string_lossy().into_owned()))
    }

    fn write_format(&self) -> Result<()> {
        fs::create_dir_all(&self.dir).map_err(StoreError::io("can't create the cache", &self.dir))?;
        write_atomically(&self.dir.join("FORMAT"), format!("{FORMAT}\n").as_bytes())
    }

    /// Creates the folder and its FORMAT, before the first write.
    pub(super) fn prepare(&self) -> Result<()> {
        match exists(&self.dir.join("FORMAT"))? {
            true => Ok(()),
            false => self.write_format(),
        }
    }

    /// Raises FORMAT to ours, so that an earlier version doesn't change a database without its journal. Before each change.
    pub(super) fn raise_format(&self) -> Result<()> {
        if self.current.load(Ordering::Relaxed) {
            return Ok(());
        }
        self.prepare()?;
        let path = self.dir.join("FORMAT");
        let found = disk::read(&path, LONGEST).map_err(StoreError::io("can't read", &path))?;
        let text = String::from_utf8_lossy(&found);
        match text.trim().parse::<u32>() {
            Ok(FORMAT) => {}
            // A later version has raised it since this process opened the cache.
            Ok(found) if found > FORMAT => {
                return Err(StoreError::Newer { dir: self.dir.clone(), found, known: FORMAT });
            }
            _ => self.write_format()?,
        }
        self.reserve();
        self.current.store(true, Ordering::Relaxed);
        Ok(())
    }
}
