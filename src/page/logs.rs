//! The log of a point: a file on this machine, or what a worker of another one left in the shared store.

use std::io::{Cursor, Read, Result, Seek, SeekFrom};
use std::path::PathBuf;

use serde_json::{Value, json};

use super::model::Model;
use super::state::Remote;

/// Bytes of a log in one answer.
const PART: u64 = 256 << 10;

/// The log of a point.
pub(super) struct PointLog {
    run: String,
    point: String,
    /// Its file, if the run is one of this machine.
    path: Option<PathBuf>,
    /// Whether it does not grow any more.
    is_over: bool,
}

/// Where the log of a point is.
pub(super) fn find(model: &Model, number: usize) -> Option<PointLog> {
    let point = model.points.get(number)?;
    let run = point.log_run()?.to_owned();
    let path = model.reader.log_path(&run, &point.name);
    Some(PointLog { run, point: point.name.clone(), path, is_over: point.status() != "running" })
}

impl PointLog {
    /// A part of the log from this offset on, as JSON. Without an offset: its end.
    pub(super) fn read(self, from: Option<u64>, remote: Option<&Remote>) -> Value {
        let file = self.path.as_ref().and_then(|path| crate::file::open(path).ok());
        let left = file.is_none().then(|| self.of_worker(remote)).flatten();
        // The worker has left it at the end of the stage.
        let is_over = self.is_over || left.is_some();
        let part = match (file, left) {
            (Some(file), _) => part(file, from).ok(),
            (None, left) => left.and_then(|text| part(Cursor::new(text), from).ok()),
        };
        let exists = part.is_some();
        let (from, text) = part.unwrap_or_default();
        let next = from + text.len() as u64;
        let text = String::from_utf8_lossy(&text);
        json!({ "run": self.run, "from": from, "next": next, "text": text, "is_over": is_over, "exists": exists })
    }

    /// What the worker that ran the point left in the shared store.
    fn of_worker(&self, remote: Option<&Remote>) -> Option<impl AsRef<[u8]>> {
        let remote = remote.filter(|remote| remote.run == self.run)?;
        // A store that does not answer is shown as a problem of the page.
        remote.shared.log(&self.run, &self.point).ok().flatten()
    }
}

/// Where a part begins, and its bytes up to the last whole line. A very long line is cut.
fn part(mut log: impl Read + Seek, from: Option<u64>) -> Result<(u64, Vec<u8>)> {
    let length = log.seek(SeekFrom::End(0))?;
    let from = from.unwrap_or(length.saturating_sub(PART)).min(length);
    log.seek(SeekFrom::Start(from))?;
    let mut bytes = Vec::new();
    log.take(PART).read_to_end(&mut bytes)?;
    match bytes.iter().rposition(|byte| *byte == b'\n') {
        Some(end) => bytes.truncate(end + 1),
        None if (bytes.len() as u64) < PART => bytes.clear(),
        None => {}
    }
    Ok((from, bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn part_ends_with_a_whole_line() {
        let of = |text: &str, from| part(Cursor::new(text.to_owned()), from).unwrap();
        assert_eq!(of("a\nbc\nd", None), (0, b"a\nbc\n".to_vec()));
        assert_eq!(of("a\nbc\nd", Some(2)), (2, b"bc\n".to_vec()));
        assert_eq!(of("a\nbc\nd", Some(5)), (5, vec![]));
        assert_eq!(of("a", Some(9)), (1, vec![]), "the log was written again");
        let long = "x".repeat(300 << 10);
        assert_eq!(of(&long, Some(0)).1.len() as u64, PART);
    }
}
