//! A file that grows, line by line.

use std::fs::File;
use std::io::{ErrorKind, Read as _};
use std::path::PathBuf;

use crate::error::{Error, Result};
use crate::store::Store;

/// The most bytes that are read at once. The log of a program may have gigabytes.
const MOST: u64 = 1 << 20;

/// The log of a point in a run.
pub(super) fn log_path(store: &Store, run: &str, point: &str) -> PathBuf {
    store.dir().join("logs").join(run).join(format!("{point}.log"))
}

/// A file that grows. It may not exist yet.
pub(super) struct Tail {
    path: PathBuf,
    file: Option<File>,
    /// The beginning of a line that is not complete.
    rest: Vec<u8>,
}

impl Tail {
    pub(super) fn new(path: PathBuf) -> Self {
        Self { path, file: None, rest: Vec::new() }
    }

    /// Calls `f` with the lines that were completed since the last call; if the file is `complete`, also with an
    /// unfinished last line. A long file is read in parts.
    ///
    /// # Errors
    /// If the file can't be read.
    pub(super) fn read(&mut self, complete: bool, mut f: impl FnMut(&[String])) -> Result<()> {
        loop {
            let read = self.fill()?;
            let is_end = read < MOST;
            let newline = self.rest.iter().rposition(|byte| *byte == b'\n');
            let end = if is_end && complete { self.rest.len() } else { newline.map_or(0, |newline| newline + 1) };
            if end > 0 {
                let text: Vec<u8> = self.rest.drain(..end).collect();
                let text = String::from_utf8_lossy(&text);
                f(&text.lines().map(as_shown).collect::<Vec<_>>());
            }
            if is_end {
                return Ok(());
            }
        }
    }

    /// Reads a part, and returns its size.
    fn fill(&mut self) -> Result<u64> {
        let failed = |error| Error::storage(format!("can't read {}", self.path.display())).caused_by(error);
        if self.file.is_none() {
            match File::open(&self.path) {
                Ok(file) => self.file = Some(file),
                Err(error) if error.kind() == ErrorKind::NotFound => return Ok(0),
                Err(error) => return Err(failed(error)),
            }
        }
        let Some(file) = &mut self.file else { return Ok(0) };
        file.take(MOST).read_to_end(&mut self.rest).map(|read| read as u64).map_err(failed)
    }
}

/// What a terminal shows of a line. A progress bar draws itself again after each carriage return.
fn as_shown(line: &str) -> String {
    let line = line.trim_end_matches('\r');
    line.rsplit('\r').next().unwrap_or(line).to_owned()
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    fn lines(tail: &mut Tail, complete: bool) -> Vec<String> {
        let mut all = Vec::new();
        tail.read(complete, |lines| all.extend_from_slice(lines)).unwrap();
        all
    }

    #[test]
    fn lines_of_a_growing_file_are_returned_once_they_are_complete() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.log");
        let mut tail = Tail::new(path.clone());
        assert_eq!(lines(&mut tail, false), [""; 0], "there is no file yet");
        let mut file = File::create(path).unwrap();
        let mut after = |text: &str, complete| {
            file.write_all(text.as_bytes()).unwrap();
            lines(&mut tail, complete)
        };
        assert_eq!(after("one\ntw", false), ["one"]);
        assert_eq!(after("", false), [""; 0]);
        assert_eq!(after("o\nthree\nfo", false), ["two", "three"]);
        assert_eq!(after("ur", true), ["four"]);
        assert_eq!(after("", true), [""; 0]);
        assert_eq!(after(" 10%\r 50%\r100%\nwindows\r\n", false), ["100%", "windows"]);
    }

    #[test]
    fn long_file_is_read_in_parts() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.log");
        let line = "x".repeat(99);
        std::fs::write(&path, format!("{line}\n").repeat(30_000) + "end").unwrap();
        let (mut parts, mut count, mut last) = (0, 0, String::new());
        Tail::new(path)
            .read(true, |lines| {
                (parts, count) = (parts + 1, count + lines.len());
                last = lines.last().unwrap().clone();
            })
            .unwrap();
        assert_eq!((parts, count, &*last), (3, 30_001, "end"));
    }
}
