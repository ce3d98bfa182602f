//! The journal of a database: an append-only file that holds every change.
//!
//! sled finds entries quickly, but a kill or a full disk at the wrong moment can make it lose some or all of them. So
//! each change is appended to the journal and synced before sled gets it. The journal is the record. sled is an index
//! of it: it remembers how far it has followed the journal, and it can be rebuilt from the journal at any time.
//!
//! ```text
//! file     MAGIC ‖ FORMAT (u32) ‖ flags (u32) ‖ id (16 bytes) ‖ checksum of these (8 bytes) ‖ frame …
//! frame    MARK ‖ length of the payload (u32) ‖ checksum (16 bytes) ‖ payload
//! payload  change …
//! change   0 ‖ length of the key (u32) ‖ key                                          removes the key
//!          1 ‖ length of the key (u32) ‖ key ‖ length of the value (u32) ‖ value      sets the key
//! ```
//!
//! Numbers are little-endian. The checksum is the first half of BLAKE3(offset of the frame ‖ payload). The changes of a
//! frame are applied together or not at all.
//!
//! A process that is killed while it appends leaves a torn frame at the end. The next append overwrites it. A damaged
//! frame costs its own changes only: the reader looks for the next frame with a correct checksum.
//!
//! A version that raises [`FORMAT`] first writes the index's journal again, so that a damaged file FORMAT can be
//! distinguished from a newer one.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use super::disk;
use super::holder::new_run_id;
use crate::key::Digest;

/// The version of the cache's layout: 2 since large blobs are in packs, 3 since databases have journals. Caches of
/// formats 1 and 2 are read as they are. The first change makes them format 3. States with checksums did not raise it.
/// An earlier version treats such a state as damaged, and continues from the one before it.
pub const FORMAT: u32 = 3;

/// The name of the journal in its database's folder.
pub(super) const FILE: &str = "journal";
/// Flag: sled holds entries that this journal lacks (chunks that an earlier version wrote).
pub(super) const HAS_CHUNKS: u32 = 1;

const MAGIC: [u8; 16] = *b"vadpipe journal\n";
const HEADER: usize = 48;
const MARK: [u8; 4] = [0xF5, b'v', b'j', 0xA3];
const FRAME_HEADER: usize = 24;
/// Bytes that are read at a time to find the next frame.
const WINDOW: usize = 64 << 10;

/// Changes of a database that are applied together.
#[derive(Clone, Debug, Default)]
pub(super) struct Changes {
    payload: Vec<u8>,
}

/// A key and its new value; `None` removes the key.
pub(super) type Change<'a> = (&'a [u8], Option<&'a [u8]>);

impl Changes {
    /// Sets a key.
    pub(super) fn insert(&mut self, key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) {
        self.payload.push(1);
        self.bytes(key.as_ref());
        self.bytes(value.as_ref());
    }

    /// Removes a key.
    pub(super) fn remove(&mut self, key: impl AsRef<[u8]>) {
        self.payload.push(0);
        self.bytes(key.as_ref());
    }

    pub(super) fn is_empty(&self) -> bool {
        self.payload.is_empty()
    }

    /// Bytes that these changes take in the journal.
    pub(super) fn len(&self) -> usize {
        self.payload.len()
    }

    fn bytes(&mut self, bytes: &[u8]) {
        // Records are some thousand bytes long, so no key and no value comes near 4 GiB.
        self.payload.extend_from_slice(&u32::try_from(bytes.len()).unwrap_or(u32::MAX).to_le_bytes());
        self.payload.extend_from_slice(bytes);
    }

    /// The changes in their order.
    pub(super) fn iter(&self) -> Vec<Change<'_>> {
        decode(&self.payload).unwrap_or_default()
    }
}

/// The changes of a payload; `None` if it is malformed.
fn decode(mut payload: &[u8]) -> Option<Vec<Change<'_>>> {
    fn take<'a>(payload: &mut &'a [u8]) -> Option<&'a [u8]> {
        let (len, rest) = payload.split_first_chunk::<4>()?;
        let (bytes, rest) = rest.split_at_checked(u32::from_le_bytes(*len) as usize)?;
        *payload = rest;
        Some(bytes)
    }
    let mut changes = Vec::new();
    while let Some((op, rest)) = payload.split_first() {
        payload = rest;
        let key = take(&mut payload)?;
        changes.push(match op {
            0 => (key, None),
            1 => (key, Some(take(&mut payload)?)),
            _ => return None,
        });
    }
    Some(changes)
}

/// How far a database has followed a journal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Position {
    pub(super) id: [u8; 16],
    pub(super) offset: u64,
}

impl Position {
    pub(super) fn encode(&self) -> Vec<u8> {
        [self.id.as_slice(), &self.offset.to_le_bytes()].concat()
    }

    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let (id, offset) = bytes.split_first_chunk::<16>()?;
        Some(Self { id: *id, offset: u64::from_le_bytes(offset.try_into().ok()?) })
    }
}

/// The outcome of a replay.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Replay {
    /// Where the last whole frame ends.
    pub(super) end: u64,
    /// Damaged parts of the file that are followed by a whole frame.
    pub(super) damaged: usize,
    /// Where the first of them begins.
    pub(super) damaged_at: Option<u64>,
}

/// An open journal.
#[derive(Debug)]
pub(super) struct Journal {
    file: File,
    format: u32,
    flags: u32,
    id: [u8; 16],
    /// Where the next frame goes.
    end: u64,
}

impl Journal {
    /// Opens the journal in this folder, if there is one. If its header is damaged, [`Journal::is_whole`] is false and
    /// its frames can still be replayed.
    pub(super) fn open(folder: &Path, writable: bool) -> io::Result<Option<Self>> {
        let path = folder.join(FILE);
        let file = match disk::open_regular(OpenOptions::new().read(true).write(writable), &path) {
            Ok(file) => file,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(e),
        };
        let mut header = [0; HEADER];
        let length = file.metadata()?.len();
        if length >= HEADER as u64 {
            file.read_exact_at(&mut header, 0)?;
        }
        let (mut format, mut flags, mut id) = ([0; 4], [0; 4], [0; 16]);
        if header[..16] == MAGIC && header[40..] == Digest::of(&header[..40]).0[..8] {
            format.copy_from_slice(&header[16..20]);
            flags.copy_from_slice(&header[20..24]);
            id.copy_from_slice(&header[24..40]);
        }
        let (format, flags) = (u32::from_le_bytes(format), u32::from_le_bytes(flags));
        Ok(Some(Self { file, format, flags, id, end: length.max(HEADER as u64) }))
    }

    /// Writes a new journal, which replaces the one in this folder. `fill` appends to it. The new journal is durable
    /// when this returns; if it fails, the old one stays.
    pub(super) fn create<E: From<io::Error>>(
        folder: &Path,
        flags: u32,
        fill: impl FnOnce(&mut Self) -> Result<(), E>,
    ) -> Result<Self, E> {
        let named = disk::temporary(folder)?;
        let id = new_id();
        let mut header = [MAGIC.as_slice(), &FORMAT.to_le_bytes(), &flags.to_le_bytes(), &id].concat();
        header.extend_from_slice(&Digest::of(&header).0[..8]);
        let file = named.as_file().try_clone()?;
        file.write_all_at(&header, 0)?;
        let mut journal = Self { file, format: FORMAT, flags, id, end: HEADER as u64 };
        fill(&mut journal)?;
        journal.file.sync_all()?;
        named.persist(folder.join(FILE)).map_err(|e| e.error)?;
        disk::sync_folder(folder)?;
        Ok(journal)
    }

    /// Whether sled holds entries that this journal lacks.
    pub(super) fn has_chunks(&self) -> bool {
        self.flags & HAS_CHUNKS != 0
    }

    /// Whether the header is that of a journal.
    pub(super) fn is_whole(&self) -> bool {
        self.id != [0; 16]
    }

    /// The format of the version that wrote it.
    pub(super) fn format(&self) -> u32 {
        self.format
    }

    /// Whether this version can write it.
    pub(super) fn is_ours(&self) -> bool {
        self.is_whole() && self.format <= FORMAT
    }

    /// Where the journal ends.
    pub(super) fn position(&self) -> Position {
        Position { id: self.id, offset: self.end }
    }

    /// Appends changes as one frame, and returns the position after it. With `sync` they are durable then. Nothing is
    /// appended if this fails.
    pub(super) fn append(&mut self, changes: &Changes, sync: bool) -> io::Result<Position> {
        let length = u32::try_from(changes.payload.len()).map_err(io::Error::other)?.to_le_bytes();
        let frame = [&MARK, &length, checksum(self.end, &changes.payload).as_slice(), &changes.payload].concat();
        if self.file.metadata()?.len() != self.end {
            self.file.set_len(self.end)?;
        }
        let written = self.file.write_all_at(&frame, self.end);
        let written = written.and_then(|()| if sync { self.file.sync_data() } else { Ok(()) });
        if let Err(error) = written {
            // If this fails too, the next append or the next reader skips the torn frame.
            let _ = self.file.set_len(self.end);
            return Err(error);
        }
        self.end += frame.len() as u64;
        Ok(self.position())
    }

    /// Calls `apply` with the changes of each whole frame from `start` on (0: of all frames), and the position after
    /// it. The next append goes after the last whole frame.
    pub(super) fn replay<E: From<io::Error>>(
        &mut self,
        start: u64,
        mut apply: impl FnMut(&[Change<'_>], Position) -> Result<(), E>,
    ) -> Result<Replay, E> {
        let length = self.file.metadata()?.len();
        let mut found = Replay { end: start.max(HEADER as u64), damaged: 0, damaged_at: None };
        let mut at = found.end;
        loop {
            if let Some(payload) = self.frame(at, length)?
                && let Some(changes) = decode(&payload)
            {
                if at != found.end {
                    found.damaged += 1;
                    found.damaged_at.get_or_insert(found.end);
                }
                found.end = at + (FRAME_HEADER + payload.len()) as u64;
                at = found.end;
                apply(&changes, Position { id: self.id, offset: at })?;
            } else if let Some(next) = self.next_mark(at + 1, length)? {
                at = next;
            } else {
                self.end = found.end;
                return Ok(found);
            }
        }
    }

    /// The payload of the frame at this offset, if there is a whole one.
    fn frame(&self, at: u64, length: u64) -> io::Result<Option<Vec<u8>>> {
        let room = length.saturating_sub(at);
        if room < FRAME_HEADER as u64 {
            return Ok(None);
        }
        let mut header = [0; FRAME_HEADER];
        self.file.read_exact_at(&mut header, at)?;
        let (mark, rest) = header.split_at(4);
        let (size, sum) = rest.split_at(4);
        let size = u32::from_le_bytes(size.try_into().unwrap_or_default());
        if mark != MARK || u64::from(size) > room - FRAME_HEADER as u64 {
            return Ok(None);
        }
        let mut payload = vec![0; size as usize];
        self.file.read_exact_at(&mut payload, at + FRAME_HEADER as u64)?;
        Ok((checksum(at, &payload) == sum).then_some(payload))
    }

    /// The offset of the next MARK.
    fn next_mark(&self, from: u64, length: u64) -> io::Result<Option<u64>> {
        let mut at = from;
        let mut window = vec![0; WINDOW];
        while length.saturating_sub(at) >= FRAME_HEADER as u64 {
            let size = WINDOW.min(usize::try_from(length - at).unwrap_or(WINDOW));
            self.file.read_exact_at(&mut window[..size], at)?;
            if let Some(found) = window[..size].windows(MARK.len()).position(|w| w == MARK) {
                return Ok(Some(at + found as u64));
            }
            at += (size - (MARK.len() - 1)) as u64;
        }
        Ok(None)
    }
}

fn checksum(offset: u64, payload: &[u8]) -> [u8; 16] {
    let hash = *blake3::Hasher::new().update(&offset.to_le_bytes()).update(payload).finalize().as_bytes();
    let mut half = [0; 16];
    half.copy_from_slice(&hash[..16]);
    half
}

/// A new id for a journal.
fn new_id() -> [u8; 16] {
    let now = jiff::Timestamp::now().as_nanosecond();
    let digest = Digest::of(format!("{}-{now}", new_run_id()).as_bytes());
    let mut id = [0; 16];
    id.copy_from_slice(&digest.0[..16]);
    id
}

#[cfg(test)]
mod tests;
