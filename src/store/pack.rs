//! One pack file, which holds pieces of blobs one after the other and nothing else.
//!
//! A pack is named by the names of its pieces, so writing the same pieces again replaces it by the same file. A pack
//! never changes.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::direct::DirectWriter;
use super::disk;
use super::error::{Result, StoreError};
use super::tree::PIECE;
use crate::key::Digest;

/// A file that is being written is locked. An unlocked one of this age was left by a killed process.
const ABANDONED: Duration = Duration::from_secs(60);

/// The folder of packs beside a database.
pub(super) fn folder(database: &Path) -> PathBuf {
    database.join("packs")
}

/// Where a piece is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct PackLocation {
    pub(super) pack: Digest,
    pub(super) offset: u64,
    pub(super) len: u32,
}

impl PackLocation {
    pub(super) fn encode(&self) -> Vec<u8> {
        [self.pack.0.as_slice(), &self.offset.to_le_bytes(), &self.len.to_le_bytes()].concat()
    }

    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let (pack, rest) = bytes.split_first_chunk::<32>()?;
        let (offset, len) = rest.split_first_chunk::<8>()?;
        let (offset, len) = (u64::from_le_bytes(*offset), u32::from_le_bytes(len.try_into().ok()?));
        // No piece is longer, and the reader allocates this length. No file is longer, and the system would refuse to
        // read there, which would look like a failing disk.
        if len as usize > PIECE || offset > i64::MAX as u64 - PIECE as u64 {
            return None;
        }
        Some(Self { pack: Digest(*pack), offset, len })
    }
}

/// A pack that is being written under a temporary name. Dropping it before [`NewPack::finish`] removes it.
pub(super) struct NewPack {
    file: tempfile::NamedTempFile,
    folder: PathBuf,
    pub(super) offset: u64,
    pieces: BTreeMap<Digest, (u64, u32)>,
    name: blake3::Hasher,
    /// If it is written past the page cache.
    direct: Option<DirectWriter>,
}

impl NewPack {
    pub(super) fn begin(folder: &Path) -> io::Result<Self> {
        disk::create_folder(folder)?;
        let file = disk::temporary(folder)?;
        file.as_file().lock()?;
        let (pieces, name) = (BTreeMap::new(), blake3::Hasher::new());
        Ok(Self { file, folder: folder.to_owned(), offset: 0, pieces, name, direct: None })
    }

    /// Writes what follows past the page cache.
    pub(super) fn make_direct(&mut self) {
        self.direct = Some(DirectWriter::begin(self.file.as_file()));
    }

    /// Another handle of the file.
    pub(super) fn handle(&self) -> io::Result<File> {
        self.file.as_file().try_clone()
    }

    pub(super) fn has(&self, piece: &Digest) -> bool {
        self.pieces.contains_key(piece)
    }

    pub(super) fn push(&mut self, piece: Digest, parts: [&[u8]; 2]) -> io::Result<()> {
        let len: usize = parts.iter().map(|part| part.len()).sum();
        parts.iter().try_for_each(|part| match &mut self.direct {
            Some(direct) => direct.write(self.file.as_file(), part),
            None => self.file.write_all(part),
        })?;
        self.pieces.insert(piece, (self.offset, u32::try_from(len).map_err(io::Error::other)?));
        self.offset += len as u64;
        self.name.update(&piece.0);
        Ok(())
    }

    /// Makes the pack durable under its own name, and returns the locations of its pieces.
    pub(super) fn finish(self) -> io::Result<BTreeMap<Digest, PackLocation>> {
        let pack = Digest(*self.name.finalize().as_bytes());
        if self.pieces.is_empty() {
            return Ok(BTreeMap::new());
        }
        let file = self.file.as_file();
        self.direct.map_or(Ok(()), |direct| direct.finish(file))?;
        file.sync_all()?;
        self.file.persist(self.folder.join(pack.to_string())).map_err(|e| e.error)?;
        disk::sync_folder(&self.folder)?;
        let location = |(piece, (offset, len))| (piece, PackLocation { pack, offset, len });
        Ok(self.pieces.into_iter().map(location).collect())
    }
}

/// Reads pieces. Keeps the last pack open.
pub(super) struct PackReader {
    folder: PathBuf,
    open: Option<(Digest, File)>,
}

impl PackReader {
    pub(super) fn new(folder: &Path) -> Self {
        Self { folder: folder.to_owned(), open: None }
    }

    /// Fills `parts` with a piece; or says what is wrong with its pack, as the end of a sentence.
    ///
    /// # Errors
    /// If the pack can't be read for a reason that says nothing about its bytes.
    pub(super) fn read(&mut self, location: &PackLocation, parts: [&mut [u8]; 2]) -> Result<Result<(), &'static str>> {
        let path = self.folder.join(location.pack.to_string());
        let [first, second] = parts;
        let mut read = || {
            let open = match self.open.take().filter(|(pack, _)| *pack == location.pack) {
                Some(open) => open,
                None => (location.pack, disk::open_regular(OpenOptions::new().read(true), &path)?),
            };
            let (_, pack) = self.open.insert(open);
            pack.read_exact_at(first, location.offset)?;
            pack.read_exact_at(second, location.offset + first.len() as u64)
        };
        match read() {
            Ok(()) => Ok(Ok(())),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(Err("is missing (its pack is gone)")),
            Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => Ok(Err("is missing (its pack is cut short)")),
            Err(e) => Err(StoreError::unreadable(&path)(e)),
        }
    }
}

/// Removes the incomplete packs of killed processes.
pub(super) fn remove_abandoned(folder: &Path) {
    for path in disk::entries(folder).unwrap_or_default().iter().filter(|path| disk::is_temporary(path)) {
        if disk::is_older(path, ABANDONED) && File::open(path).is_ok_and(|file| file.try_lock().is_ok()) {
            let _ = fs::remove_file(path);
        }
    }
}

/// The packs in a folder and their lengths.
pub(super) fn lengths(folder: &Path) -> BTreeMap<Digest, u64> {
    let length = |path: &PathBuf| Some((disk::name(path).parse().ok()?, fs::metadata(path).map_or(0, |m| m.len())));
    disk::entries(folder).unwrap_or_default().iter().filter_map(length).collect()
}

/// Copies these pieces of a pack to a new pack, durably. Returns their new locations, or none if a piece is gone.
///
/// # Errors
/// If the pack can't be read for a reason that says nothing about its bytes, or the new one can't be written.
pub(super) fn rewrite(
    folder: &Path,
    pieces: &BTreeSet<(PackLocation, Digest)>,
) -> Result<Option<BTreeMap<Digest, PackLocation>>> {
    let mut reader = PackReader::new(folder);
    let failed = || StoreError::io("can't write to", folder);
    let mut new = NewPack::begin(folder).map_err(failed())?;
    for (location, piece) in pieces {
        let mut bytes = vec![0; location.len as usize];
        if reader.read(location, [&mut bytes, &mut []])?.is_err() {
            return Ok(None);
        }
        new.push(*piece, [&bytes, &[]]).map_err(failed())?;
    }
    Ok(Some(new.finish().map_err(failed())?))
}
