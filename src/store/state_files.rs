//! The files of a program's state: storing a folder, and writing a stored one.
//!
//! Nothing is held in memory as a whole: files are read and written piece by piece.

use std::fs::{self, File};
use std::io::{self, BufWriter, Read, Write};
use std::path::{Component, Path};
use std::sync::mpsc::sync_channel;

use super::error::{Result, StoreError};
use super::handle::Store;
use super::pack_writer::{Pace, Source};
use super::results::{blob_header, file_source, tensor_on_disk};
use crate::artifact::{BlobEntry, Folder, FolderOnDisk, TensorEntry, TensorFile};
use crate::key::Digest;

/// A larger blob is read and written by two threads.
const LARGE: u64 = 4 << 20;
/// Bytes that one of them gives to the other at a time.
const BUFFER: usize = 1 << 20;
/// How many of these wait.
const BUFFERS: usize = 2;

/// A failure to copy a blob.
enum CopyError {
    /// The blob can't be read.
    Read,
    /// The copy can't be written.
    Write(io::Error),
}

impl Store {
    /// Writes the files of a folder, durably. Called while no process collects.
    pub(super) fn put_folder(&self, folder: &FolderOnDisk) -> Result<Folder> {
        let mut sources: Vec<Source<'_>> = folder.files.values().map(file_source).collect();
        for file in folder.tensor_files.values() {
            sources.extend(file.tensors.values().map(tensor_on_disk).collect::<Result<Vec<_>>>()?);
        }
        let mut blobs = self.blobs.write(&sources, Pace::Fast)?.into_iter();
        let files = folder.files.keys().cloned().zip(blobs.by_ref()).collect();
        let mut stored = Folder { files, ..Folder::default() };
        for (name, file) in &folder.tensor_files {
            let tensors = file.tensors.iter().zip(blobs.by_ref());
            let entry = |((name, t), blob): ((&String, &crate::artifact::TensorOnDisk), BlobEntry)| {
                (name.clone(), TensorEntry { element: t.element, shape: t.shape.clone(), blob })
            };
            let file = TensorFile { metadata: file.metadata.clone(), tensors: tensors.map(entry).collect() };
            stored.tensor_files.insert(name.clone(), file);
        }
        Ok(stored)
    }

    /// Writes the verified files of a stored folder below `to`, which exists and has none of them.
    ///
    /// # Errors
    /// [`StoreError::Damaged`] if a file is missing or altered. All results and states that need it are misses from
    /// then on.
    pub fn write_folder(&self, folder: &Folder, to: &Path) -> Result<()> {
        for (name, blob) in &folder.files {
            self.write_blob(blob, &mut create_below(to, name)?, &to.join(name))?;
        }
        for (name, file) in &folder.tensor_files {
            self.write_tensor_file(file, &mut create_below(to, name)?, &to.join(name))?;
        }
        Ok(())
    }

    /// The same for files that are written for several programs: clones of one copy where the file system has
    /// reflinks.
    ///
    /// # Errors
    /// As [`Store::write_folder`].
    pub fn share_folder(&self, folder: &Folder, to: &Path) -> Result<()> {
        let scratch = self.dir().join("scratch");
        for (name, blob) in &folder.files {
            let write = |file: &mut File| self.write_blob(blob, file, &to.join(name));
            self.clones.fill((&blob.digest, blob.size), &mut create_below(to, name)?, &scratch, write)?;
        }
        for (name, file) in &folder.tensor_files {
            let header = file.header().map_err(StoreError::io("can't write", &to.join(name)))?.0;
            let digests = file.tensors.values().flat_map(|tensor| tensor.blob.digest.0);
            let digest = Digest::of(&header.into_iter().chain(digests).collect::<Vec<u8>>());
            let size = file.tensors.values().map(|tensor| tensor.blob.size).sum();
            let write = |to_file: &mut File| self.write_tensor_file(file, to_file, &to.join(name));
            self.clones.fill((&digest, size), &mut create_below(to, name)?, &scratch, write)?;
        }
        Ok(())
    }

    /// Writes a blob's verified bytes, piece by piece. `path` is for messages.
    ///
    /// # Errors
    /// As [`Store::write_folder`].
    pub fn write_blob(&self, blob: &BlobEntry, to: &mut File, path: &Path) -> Result<()> {
        self.copy_blob(blob, 0, to, path)
    }

    /// Writes a safetensors file, piece by piece. `path` is for messages.
    ///
    /// # Errors
    /// As [`Store::write_folder`].
    pub fn write_tensor_file(&self, file: &TensorFile, to: &mut File, path: &Path) -> Result<()> {
        let failed = || StoreError::io("can't write", path);
        let mut to = BufWriter::new(to);
        let (header, order) = file.header().map_err(failed())?;
        to.write_all(&header).map_err(failed())?;
        for tensor in order.iter().filter_map(|name| file.tensors.get(*name)) {
            let head = blob_header(tensor.element, &tensor.shape)?.len();
            self.copy_blob(&tensor.blob, head as u64, &mut to, path)?;
        }
        to.flush().map_err(failed())
    }

    /// The verified elements of a tensor, piece by piece. Reading fails if the blob is damaged, or if a collection
    /// moves its pieces meanwhile.
    ///
    /// # Errors
    /// As [`Store::read_tensor`].
    pub fn tensor_elements(&self, tensor: &TensorEntry) -> Result<impl Read + use<>> {
        let head = blob_header(tensor.element, &tensor.shape)?.len();
        let mut stream = self.blobs.stream(&tensor.blob)?;
        // A failure shows when the elements are read.
        let _ = io::copy(&mut (&mut stream).take(head as u64), &mut io::sink());
        Ok(stream)
    }

    /// Copies a blob without its first `head` bytes.
    fn copy_blob(&self, blob: &BlobEntry, head: u64, to: &mut (impl Write + Send), path: &Path) -> Result<()> {
        let mut stream = self.blobs.stream(blob)?;
        let mut copied = 0;
        match copy(&mut stream, head, blob.size, to, &mut copied) {
            Ok(()) => Ok(()),
            Err(CopyError::Write(error)) => Err(StoreError::io("can't write", path)(error)),
            // The blob is damaged, which the store then reports, or a collection moved its pieces.
            Err(CopyError::Read) => {
                let bytes = self.blobs.read(blob, 0)?.1;
                let rest = usize::try_from(head + copied).ok().and_then(|done| bytes.get(done..)).unwrap_or_default();
                to.write_all(rest).map_err(StoreError::io("can't write", path))
            }
        }
    }
}

/// Copies what follows the first `head` bytes of a stream of `size` bytes, and counts what it has `copied`. Reading and
/// verifying takes as long as writing, so a thread of its own writes a large blob.
fn copy(
    from: &mut dyn Read,
    head: u64,
    size: u64,
    to: &mut (impl Write + Send),
    copied: &mut u64,
) -> std::result::Result<(), CopyError> {
    io::copy(&mut from.take(head), &mut io::sink()).map_err(|_| CopyError::Read)?;
    let size = size.saturating_sub(head);
    if size < LARGE {
        return copy_in_turn(from, size, to, copied);
    }
    std::thread::scope(|scope| {
        let (filled, to_write) = sync_channel::<Vec<u8>>(BUFFERS);
        let (written, empty) = sync_channel(BUFFERS);
        let write = move || {
            for buffer in to_write {
                to.write_all(&buffer)?;
                *copied += buffer.len() as u64;
                let _ = written.try_send(buffer);
            }
            Ok(())
        };
        let spawned = std::thread::Builder::new().spawn_scoped(scope, write);
        let writer = spawned.map_err(CopyError::Write)?;
        let mut left = size;
        let mut read = || {
            while left > 0 {
                let mut buffer = empty.try_recv().unwrap_or_default();
                buffer.resize(BUFFER.min(usize::try_from(left).unwrap_or(BUFFER)), 0);
                from.read_exact(&mut buffer).map_err(|_| CopyError::Read)?;
                left -= buffer.len() as u64;
                if filled.send(buffer).is_err() {
                    // The writer has failed.
                    return Ok(());
                }
            }
            Ok(())
        };
        let read = read();
        drop(filled);
        let lost = || Err(io::Error::other("the thread that writes has panicked"));
        writer.join().unwrap_or_else(|_| lost()).map_err(CopyError::Write)?;
        read
    })
}

fn copy_in_turn(
    from: &mut dyn Read,
    size: u64,
    to: &mut impl Write,
    copied: &mut u64,
) -> std::result::Result<(), CopyError> {
    let mut buffer = vec![0; 1 << 16];
    while *copied < size {
        let read = match from.read(&mut buffer) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Ok(0) | Err(_) => return Err(CopyError::Read),
            Ok(read) => read,
        };
        to.write_all(&buffer[..read]).map_err(CopyError::Write)?;
        *copied += read as u64;
    }
    Ok(())
}

/// Creates a file below a folder, and the folders in between. The store may come from others, so its names are not
/// trusted.
pub fn create_below(folder: &Path, name: &str) -> Result<File> {
    let is_plain = Path::new(name).components().all(|part| matches!(part, Component::Normal(_)));
    if !is_plain || name.is_empty() || name.ends_with('/') || name.contains('\0') {
        return Err(StoreError::NotFound(format!("{name:?} can't be the name of a file")));
    }
    let path = folder.join(name);
    let create = || {
        path.parent().map_or(Ok(()), fs::create_dir_all)?;
        // Readable too, because a file must be to be cloned.
        File::options().read(true).write(true).create_new(true).open(&path)
    };
    create().map_err(StoreError::io("can't create", &path))
}
