//! A file that grows, line by line.

use std::fs::File;
use std::io::{ErrorKind, Read as _};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use crate::error::{Error, Result};

/// The most bytes that are read at once. The log of a program may have gigabytes.
const MOST: u64 = 1 << 20;
/// A line of a log with more bytes is returned in parts.
const LONGEST: usize = 1 << 20;
/// If a line has more bytes, only the newest piece of a progress bar is kept.
const LONGEST_BAR: usize = 64 << 10;
/// How often a progress bar is shown.
const BAR_INTERVAL: Duration = Duration::from_secs(1);

/// A file that grows. It may not exist yet.
pub(crate) struct Tail {
    path: PathBuf,
    file: Option<File>,
    /// The beginning of a line that is not complete.
    rest: Vec<u8>,
    /// The piece of a progress bar that was shown last, and when. It belongs to the line that is not complete.
    bar: Option<(String, Instant)>,
    /// Whether it may have progress bars and very long lines. Otherwise only complete lines are returned.
    is_log: bool,
}

impl Tail {
    /// A log, which people read. A progress bar draws itself again after each carriage return.
    pub(crate) fn new(path: PathBuf) -> Self {
        Self { path, file: None, rest: Vec::new(), bar: None, is_log: true }
    }

    /// A file with a document in each line, of any length.
    pub(crate) fn of_documents(path: PathBuf) -> Self {
        Self { is_log: false, ..Self::new(path) }
    }

    /// Calls `f` with the lines that were completed since the last call; if the file is `complete`, also with an
    /// unfinished last line. A long file is read in parts. Of a log, also returns the newest piece of a progress bar,
    /// at most once a second, and the parts of a very long line.
    ///
    /// # Errors
    /// If the file can't be read.
    pub(crate) fn read(&mut self, complete: bool, mut f: impl FnMut(&[String])) -> Result<()> {
        loop {
            let read = self.fill()?;
            let is_end = read < MOST;
            let newline = self.rest.iter().rposition(|byte| *byte == b'\n');
            let end = if is_end && complete { self.rest.len() } else { newline.map_or(0, |newline| newline + 1) };
            let mut lines: Vec<String> = Vec::new();
            if end > 0 {
                let text: Vec<u8> = self.rest.drain(..end).collect();
                let text = String::from_utf8_lossy(&text);
                lines.extend(text.lines().map(as_shown));
                // The end of a progress bar may have been shown.
                if self.bar.take().is_some_and(|(shown, _)| lines.first() == Some(&shown)) {
                    lines.remove(0);
                }
            }
            if self.is_log {
                lines.extend(self.bar_piece(is_end));
                lines.extend(self.part());
            }
            if !lines.is_empty() {
                f(&lines);
            }
            if is_end {
                return Ok(());
            }
        }
    }

    /// Drops what a progress bar has drawn over. Returns what it shows now if that is new and the last piece was
    /// returned a second ago.
    fn bar_piece(&mut self, is_end: bool) -> Option<String> {
        let end = self.rest.iter().rposition(|byte| *byte != b'\r')? + 1;
        let start = self.rest[..end].iter().rposition(|byte| *byte == b'\r').map_or(0, |at| at + 1);
        let is_bar = start > 0 || end < self.rest.len();
        if self.rest.len() > LONGEST_BAR {
            self.rest.truncate(end + usize::from(end < self.rest.len()));
            self.rest.drain(..start);
        }
        if !is_bar || !is_end {
            return None;
        }
        let piece = as_shown(&String::from_utf8_lossy(&self.rest));
        if piece.trim().is_empty() {
            return None;
        }
        let is_due = |(shown, at): &(String, Instant)| *shown != piece && at.elapsed() >= BAR_INTERVAL;
        if !self.bar.as_ref().is_none_or(is_due) {
            return None;
        }
        self.bar = Some((piece.clone(), Instant::now()));
        Some(piece)
    }

    /// The first part of a line that is too long. It ends between two characters.
    fn part(&mut self) -> Option<String> {
        if self.rest.len() <= LONGEST {
            return None;
        }
        let is_boundary = |at: &usize| self.rest[*at] & 0xc0 != 0x80;
        let end = (LONGEST - 3..=LONGEST).rev().find(is_boundary).unwrap_or(LONGEST);
        let part: Vec<u8> = self.rest.drain(..end).collect();
        Some(as_shown(&String::from_utf8_lossy(&part)))
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

    #[test]
    fn progress_bar_is_shown_once_a_second_and_does_not_fill_the_memory() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.log");
        let mut tail = Tail::new(path.clone());
        let mut file = File::create(path).unwrap();
        let mut after = |text: &str, wait: bool| {
            file.write_all(text.as_bytes()).unwrap();
            if let Some((_, at)) = tail.bar.as_mut().filter(|_| wait) {
                *at = at.checked_sub(BAR_INTERVAL).unwrap();
            }
            let lines = lines(&mut tail, false);
            (lines, tail.rest.len())
        };
        assert_eq!(after("begins\n\r 10%", false).0, ["begins", " 10%"]);
        assert_eq!(after("\r 20%", false).0, [""; 0], "a second has not passed");
        assert_eq!(after("\r 30%", true).0, [" 30%"]);
        assert_eq!(after("\r 30%", true).0, [""; 0], "it has not changed");
        assert_eq!(after("\r    \r", true).0, [""; 0], "it was cleared");
        assert_eq!(after("40%\r", true).0, ["40%"]);
        let (_, rest) = after(&"\r 50%".repeat(200_000), false);
        assert_eq!(rest, 4, "only the newest piece is kept");
        assert_eq!(after("\r 60%", true).0, [" 60%"]);
        // The last piece is not printed twice.
        assert_eq!(after("\nends\n", false), (vec!["ends".to_owned()], 0));
        assert_eq!(after("70%\r80%\nno bar", false).0, ["80%"]);
    }

    #[test]
    fn very_long_line_of_a_log_is_returned_in_parts() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.log");
        let text = "é".repeat(LONGEST / 2 - 1) + "x" + &"é".repeat(LONGEST);
        std::fs::write(&path, &text).unwrap();
        let mut tail = Tail::new(path.clone());
        let mut parts = lines(&mut tail, false);
        assert!(parts.len() >= 2 && tail.rest.len() <= LONGEST, "{} parts", parts.len());
        parts.extend(lines(&mut tail, true));
        assert!(parts.concat() == text && parts.iter().all(|part| part.len() <= LONGEST));
        // A document has to be complete.
        assert_eq!(lines(&mut Tail::of_documents(path.clone()), false), [""; 0]);
        std::fs::write(&path, text.clone() + "\n").unwrap();
        assert!(lines(&mut Tail::of_documents(path), false) == [text]);
    }
}
