//! Writes a file past the page cache. This saves the kernel's copy, which is most of the CPU time of a large write. A
//! later read has to come from the disk.

use std::fs::File;
use std::io::{self, Write as _};

/// Bytes of a write, and the alignment of its memory and of its place in the file: a multiple of the block of any disk.
const BLOCK: usize = 1 << 20;
const ALIGNMENT: usize = 4096;

/// What is to be written to a new file.
pub(super) struct DirectWriter {
    /// Holds the aligned block.
    memory: Vec<u8>,
    /// Where the block begins.
    start: usize,
    /// The bytes of the block that are waiting to be written.
    filled: usize,
    /// Whether the kernel still writes past the page cache.
    is_direct: bool,
}

impl DirectWriter {
    /// Begins to write an empty file. If its file system has no such writes, it is written as usual.
    pub(super) fn begin(file: &File) -> Self {
        let memory = vec![0; BLOCK + ALIGNMENT];
        let start = memory.as_ptr().align_offset(ALIGNMENT).min(ALIGNMENT);
        Self { memory, start, filled: 0, is_direct: set_direct(file, true).is_ok() }
    }

    /// Appends bytes.
    pub(super) fn write(&mut self, file: &File, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let taken = bytes.len().min(BLOCK - self.filled);
            let (now, later) = bytes.split_at(taken);
            self.memory[self.start + self.filled..][..taken].copy_from_slice(now);
            (bytes, self.filled) = (later, self.filled + taken);
            if self.filled == BLOCK {
                self.flush(file)?;
            }
        }
        Ok(())
    }

    /// Writes the rest, which may not fill a disk's block, through the page cache.
    pub(super) fn finish(mut self, file: &File) -> io::Result<()> {
        if std::mem::take(&mut self.is_direct) {
            set_direct(file, false)?;
        }
        self.flush(file)
    }

    fn flush(&mut self, mut file: &File) -> io::Result<()> {
        let mut rest = &self.memory[self.start..][..self.filled];
        while !rest.is_empty() {
            match file.write(rest) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => rest = &rest[written..],
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // Some file systems refuse only the write itself.
                Err(error) if self.is_direct && is_refusal(&error) => {
                    set_direct(file, false)?;
                    self.is_direct = false;
                }
                Err(error) => return Err(error),
            }
        }
        self.filled = 0;
        Ok(())
    }
}

fn is_refusal(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::InvalidInput | io::ErrorKind::Unsupported)
}

#[cfg(target_os = "linux")]
fn set_direct(file: &File, is_direct: bool) -> io::Result<()> {
    use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
    let mut flags = fcntl_getfl(file)?;
    flags.set(OFlags::DIRECT, is_direct);
    Ok(fcntl_setfl(file, flags)?)
}

#[cfg(not(target_os = "linux"))]
fn set_direct(_: &File, is_direct: bool) -> io::Result<()> {
    if is_direct { Err(io::ErrorKind::Unsupported.into()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn direct_write_keeps_all_bytes() {
        let bytes: Vec<u8> = (0..2 * BLOCK + 12_345).map(|i| (i * 31 % 251) as u8).collect();
        // The second is often in memory, where writes always go through the page cache.
        for folder in [std::env::temp_dir(), "/dev/shm".into()].iter().filter(|folder| folder.is_dir()) {
            for sizes in [&[1, 4095, 4096, 70_001][..], &[BLOCK], &[BLOCK + 1, 7], &[3 * BLOCK]] {
                let file = tempfile::NamedTempFile::new_in(folder).unwrap();
                let mut writer = DirectWriter::begin(file.as_file());
                let (mut rest, mut sizes) = (&bytes[..], sizes.iter().cycle());
                while !rest.is_empty() {
                    let (now, later) = rest.split_at(rest.len().min(*sizes.next().unwrap()));
                    writer.write(file.as_file(), now).unwrap();
                    rest = later;
                }
                writer.finish(file.as_file()).unwrap();
                assert!(std::fs::read(file.path()).unwrap() == bytes, "{}", folder.display());
            }
        }
    }
}
