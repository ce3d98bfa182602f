//! Files that are written for several programs, sharing their bytes on disk.
//!
//! Where the file system has reflinks (btrfs, xfs, bcachefs), the first copy of a large file is cloned to a folder of
//! the cache, and later copies are clones of that: they take no time and no space. Each program still has a file of its
//! own. What a program writes to it reaches no other copy. So hard links, which a program of the same user can write
//! through, are not used.
//!
//! Nothing here can fail: without reflinks, every copy is written from the cache.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use rustix::fs::ioctl_ficlone;
use tempfile::TempDir;

use super::error::Result;
use crate::file::{Stamp, stamp};
use crate::key::Digest;
use crate::system::free_space;

/// A smaller file is written faster than it is cloned.
const MIN_BYTES: u64 = 1 << 20;
/// The newest file is kept, and older ones as long as all together take at most this fraction of the free space.
const SHARE: u64 = 4;

/// The files that this process has written for programs, by digest.
#[derive(Default)]
pub(super) struct Clones(Mutex<Kept>);

#[derive(Default)]
struct Kept {
    /// Whether the file system refused a clone.
    refused: bool,
    /// Removed on drop.
    folder: Option<TempDir>,
    /// The oldest first.
    originals: Vec<Original>,
}

/// A file that is cloned for the next program.
struct Original {
    digest: Digest,
    path: PathBuf,
    stamp: Stamp,
}

impl Clones {
    /// Fills a new file of this digest and size: by a clone, or with `write`. `scratch` is a folder for clones, on the
    /// same file system.
    pub(super) fn fill(
        &self,
        (digest, size): (&Digest, u64),
        to: &mut File,
        scratch: &Path,
        write: impl FnOnce(&mut File) -> Result<()>,
    ) -> Result<()> {
        let is_large = size >= MIN_BYTES;
        if is_large && self.clone_to(digest, to) {
            return Ok(());
        }
        write(to)?;
        if is_large {
            self.keep(digest, to, scratch);
        }
        Ok(())
    }

    /// Clones a kept file. Returns `false` if there is none, or if something has changed it.
    fn clone_to(&self, digest: &Digest, to: &File) -> bool {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(at) = kept.originals.iter().position(|original| original.digest == *digest) else { return false };
        let original = &kept.originals[at];
        let cloned = File::open(&original.path).and_then(|from| {
            let unchanged = stamp(&from.metadata()?) == original.stamp;
            if unchanged { ioctl_ficlone(to, &from).map(|()| true).map_err(io::Error::from) } else { Ok(false) }
        });
        let cloned = cloned.unwrap_or(false);
        if !cloned {
            kept.originals.remove(at);
        }
        cloned
    }

    /// Keeps a clone of a file that was just written.
    fn keep(&self, digest: &Digest, from: &File, scratch: &Path) {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.refused {
            return;
        }
        let clone = |kept: &mut Kept| {
            if kept.folder.is_none() {
                fs::create_dir_all(scratch)?;
                kept.folder = Some(tempfile::Builder::new().prefix("clones-").tempdir_in(scratch)?);
            }
            let Some(folder) = &kept.folder else { return Ok(()) };
            let path = folder.path().join(digest.to_string());
            let size = |original: &Original| original.stamp.1;
            let mut bytes = kept.originals.iter().map(size).sum::<u64>() + from.metadata()?.len();
            while bytes > free_space(scratch) / SHARE && !kept.originals.is_empty() {
                let oldest = kept.originals.remove(0);
                bytes -= size(&oldest);
                fs::remove_file(oldest.path)?;
            }
            // An earlier one that was changed.
            let _ = fs::remove_file(&path);
            let file = File::create_new(&path)?;
            ioctl_ficlone(&file, from)?;
            let mut permissions = file.metadata()?.permissions();
            permissions.set_readonly(true);
            file.set_permissions(permissions)?;
            kept.originals.push(Original { digest: *digest, path, stamp: stamp(&file.metadata()?) });
            io::Result::Ok(())
        };
        if clone(&mut kept).is_err() {
            *kept = Kept { refused: true, ..Kept::default() };
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::io::Write as _;

    use super::*;

    const BYTES: &[u8] = &[7; MIN_BYTES as usize];

    /// Whether the folder of temporary files has reflinks. `TMPDIR` may name one that has.
    fn has_reflinks(folder: &Path) -> bool {
        fs::write(folder.join("from"), BYTES).unwrap();
        let (from, to) = (File::open(folder.join("from")), File::create_new(folder.join("to")));
        ioctl_ficlone(to.unwrap(), from.unwrap()).is_ok()
    }

    #[test]
    fn second_copy_is_a_clone_where_there_are_reflinks_and_no_program_harms_another() {
        let folder = tempfile::tempdir().unwrap();
        let reflinks = has_reflinks(folder.path());
        if !reflinks {
            eprintln!("only the fallback is tested: there are no reflinks in {}", folder.path().display());
        }
        let (clones, scratch, written) = (Clones::default(), folder.path().join("scratch"), Cell::new(0));
        let copy = |name: &str, bytes: &[u8]| {
            let mut file = crate::store::create_below(folder.path(), name).unwrap();
            let write = |file: &mut File| {
                written.set(written.get() + 1);
                file.write_all(bytes).unwrap();
                Ok(())
            };
            clones.fill((&Digest::of(bytes), bytes.len() as u64), &mut file, &scratch, write).unwrap();
            assert!(fs::read(folder.path().join(name)).unwrap() == bytes, "{name}");
        };
        copy("first", BYTES);
        copy("second", BYTES);
        assert_eq!(written.get(), if reflinks { 1 } else { 2 });
        fs::write(folder.path().join("first"), b"altered").unwrap();
        fs::write(folder.path().join("second"), vec![8; BYTES.len()]).unwrap();
        copy("third", BYTES);
        assert_eq!(written.get(), if reflinks { 1 } else { 3 });
        // Small files are always written.
        written.set(0);
        copy("small", b"small");
        copy("small too", b"small");
        assert_eq!(written.get(), 2);
        // A program of the same user finds the kept clone and alters it.
        if reflinks {
            let kept = clones.0.lock().unwrap().originals[0].path.clone();
            fs::remove_file(&kept).unwrap();
            fs::write(&kept, vec![9; BYTES.len()]).unwrap();
        }
        written.set(0);
        copy("fourth", BYTES);
        assert_eq!(written.get(), 1);
        drop(clones);
        assert_eq!(fs::read_dir(&scratch).map_or(0, Iterator::count), 0, "nothing is left");
    }
}
