//! The journal: replay returns whole frames only, and finds what was appended after damage.

use std::fs;
use std::io;
use std::path::Path;

use super::folder;
use crate::store::journal::{Change, Changes, FILE, Journal, Position};

/// As the documentation of the journal describes them, not taken from its code.
const HEADER: usize = 48;
const MARK: [u8; 4] = [0xF5, b'v', b'j', 0xA3];
const FRAME_HEADER: usize = 24;

/// A key with its new value; `None` if it was removed.
type Owned = (Vec<u8>, Option<Vec<u8>>);

/// A frame that a replay found: its changes and where it ends.
type Frame = (Vec<Owned>, u64);

/// The input is a flag byte and the content of a file.
pub(crate) fn check(bytes: &[u8]) {
    let Some((flags, content)) = bytes.split_first() else { return };
    let mut content = content.to_vec();
    // A fuzzer does not find checksums by itself.
    if flags & 1 != 0 {
        fix_header(&mut content);
    }
    if flags & 2 != 0 {
        fix_frames(&mut content);
    }
    let folder = folder();
    fs::write(folder.path().join(FILE), &content).unwrap_or_else(|e| panic!("can't write a journal: {e}"));
    let (mut journal, found) = replayed(folder.path(), 0);
    are_whole(&found, &content);
    is_resumable(folder.path(), &found);
    if flags & 4 != 0 {
        // As a writer that has read no frame before.
        journal = opened(folder.path());
    }
    // The next reader must find what is appended now, and everything that was found before.
    let mut changes = Changes::default();
    changes.insert(b"appended", content.get(..8).unwrap_or_default());
    changes.remove(b"removed");
    let position = journal.append(&changes, false).unwrap_or_else(|e| panic!("can't append: {e}"));
    drop(journal);
    let (_, again) = replayed(folder.path(), 0);
    let Some((last, before)) = again.split_last() else { panic!("what was appended is not found") };
    assert_eq!(before, found, "an append changed the frames before it");
    assert_eq!(last, &(owned(&changes.iter()), position.offset), "what was appended is not found");
}

fn opened(folder: &Path) -> Journal {
    match Journal::open(folder, true) {
        Ok(Some(journal)) => journal,
        other => panic!("a journal can't be opened: {other:?}"),
    }
}

/// The frames from an offset on.
fn replayed(folder: &Path, start: u64) -> (Journal, Vec<Frame>) {
    let mut journal = opened(folder);
    let mut frames: Vec<Frame> = Vec::new();
    let replay = journal.replay(start, |changes: &[Change<'_>], position: Position| -> io::Result<()> {
        frames.push((owned(changes), position.offset));
        Ok(())
    });
    let replay = replay.unwrap_or_else(|e| panic!("bytes make the replay fail: {e}"));
    let end = frames.last().map_or(start.max(HEADER as u64), |(_, end)| *end);
    assert_eq!(
        (replay.end, journal.position().offset),
        (end, end),
        "the next append does not go behind the last frame"
    );
    (journal, frames)
}

fn owned(changes: &[Change<'_>]) -> Vec<Owned> {
    changes.iter().map(|(key, value)| (key.to_vec(), value.map(<[u8]>::to_vec))).collect()
}

/// Checks that every frame is in the file with a correct checksum, after the one before it.
fn are_whole(frames: &[Frame], content: &[u8]) {
    let mut last = HEADER;
    for (changes, end) in frames {
        let mut payload = Vec::new();
        for (key, value) in changes {
            payload.push(u8::from(value.is_some()));
            for part in [Some(key), value.as_ref()].into_iter().flatten() {
                payload.extend((part.len() as u32).to_le_bytes());
                payload.extend(part);
            }
        }
        let end = *end as usize;
        let Some(start) = end.checked_sub(FRAME_HEADER + payload.len()).filter(|start| *start >= last) else {
            panic!("a frame that ends at {end} overlaps the one before it")
        };
        let length = (payload.len() as u32).to_le_bytes();
        let frame = [MARK.as_slice(), &length, &checksum(start, &payload), &payload].concat();
        assert!(content.get(start..end) == Some(frame.as_slice()), "a frame at {start} is not in the file");
        last = end;
    }
}

/// Checks that a replay that starts where a frame ends returns the frames after it.
fn is_resumable(folder: &Path, frames: &[Frame]) {
    for (i, (_, end)) in frames.iter().enumerate().take(4) {
        assert_eq!(replayed(folder, *end).1, frames[i + 1..], "a replay from {end} finds other frames");
    }
}

fn checksum(offset: usize, payload: &[u8]) -> [u8; 16] {
    let hash = blake3::Hasher::new().update(&(offset as u64).to_le_bytes()).update(payload).finalize();
    let mut half = [0; 16];
    half.copy_from_slice(&hash.as_bytes()[..16]);
    half
}

fn fix_header(content: &mut Vec<u8>) {
    content.resize(content.len().max(HEADER), 0);
    content[..16].copy_from_slice(b"vadpipe journal\n");
    let hash = blake3::hash(&content[..40]);
    content[40..HEADER].copy_from_slice(&hash.as_bytes()[..8]);
}

/// Gives each frame that fits into the file the right checksum, from front to back.
fn fix_frames(content: &mut [u8]) {
    let mut at = HEADER;
    while at + FRAME_HEADER <= content.len() {
        let length = u32::from_le_bytes([content[at + 4], content[at + 5], content[at + 6], content[at + 7]]) as usize;
        let payload = at + FRAME_HEADER;
        if content[at..at + 4] == MARK && length <= content.len() - payload {
            let sum = checksum(at, &content[payload..payload + length]);
            content[at + 8..payload].copy_from_slice(&sum);
            at = payload + length;
        } else {
            at += 1;
        }
    }
}
