//! The journal: what was appended is replayed, whatever happened to the file.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use proptest::prelude::*;

use super::*;

type Entries = BTreeMap<Vec<u8>, Vec<u8>>;
/// The changes of a frame, and the position after it.
type Frame = (Vec<(Vec<u8>, Option<Vec<u8>>)>, Position);

fn path(folder: &Path) -> PathBuf {
    folder.join(FILE)
}

fn new(folder: &Path) -> Journal {
    Journal::create(folder, 0, |_| Ok::<_, io::Error>(())).unwrap()
}

fn set(key: &str, value: &str) -> Changes {
    let mut changes = Changes::default();
    changes.insert(key, value);
    changes
}

/// Each frame's changes with their position, and what the replay returns.
fn replay(folder: &Path, start: u64) -> (Vec<Frame>, Replay) {
    let mut frames = Vec::new();
    let mut journal = Journal::open(folder, false).unwrap().unwrap();
    let found = journal.replay(start, |changes, position| {
        frames.push((changes.iter().map(|(k, v)| (k.to_vec(), v.map(<[u8]>::to_vec))).collect(), position));
        Ok::<_, io::Error>(())
    });
    (frames, found.unwrap())
}

fn keys(folder: &Path) -> Vec<String> {
    let frames = replay(folder, 0).0.into_iter().flat_map(|(changes, _)| changes);
    frames.map(|(key, _)| String::from_utf8(key).unwrap()).collect()
}

#[test]
fn appended_changes_are_replayed_from_any_position() {
    let dir = tempfile::tempdir().unwrap();
    let mut journal = new(dir.path());
    let first = journal.append(&set("a", "1"), true).unwrap();
    let mut both = set("b", "");
    both.remove("a");
    let second = journal.append(&both, false).unwrap();
    let (frames, found) = replay(dir.path(), 0);
    assert_eq!(frames[0], (vec![(b"a".to_vec(), Some(b"1".to_vec()))], first));
    assert_eq!(frames[1], (vec![(b"b".to_vec(), Some(vec![])), (b"a".to_vec(), None)], second));
    assert_eq!(found, Replay { end: second.offset, damaged: 0, damaged_at: None });
    assert_eq!(replay(dir.path(), first.offset).0.len(), 1);
    assert_eq!(replay(dir.path(), second.offset).0.len(), 0);
    assert_eq!(Position::decode(&second.encode()), Some(second));
}

#[test]
fn torn_frame_at_the_end_is_overwritten_by_the_next_append() {
    for cut in [1, 3, 20, 30] {
        let dir = tempfile::tempdir().unwrap();
        let mut journal = new(dir.path());
        journal.append(&set("a", "1"), true).unwrap();
        let end = journal.append(&set("torn", "22222222"), true).unwrap().offset;
        journal.file.set_len(end - cut).unwrap();
        let mut again = Journal::open(dir.path(), true).unwrap().unwrap();
        let found = again.replay(0, |_, _| Ok::<_, io::Error>(())).unwrap();
        assert_eq!(found.damaged, 0, "a torn end is not damage");
        again.append(&set("b", "2"), true).unwrap();
        assert_eq!(keys(dir.path()), ["a", "b"]);
        assert_eq!(replay(dir.path(), 0).1.damaged, 0);
    }
}

#[test]
fn damaged_frame_costs_only_its_own_changes() {
    let dir = tempfile::tempdir().unwrap();
    let mut journal = new(dir.path());
    let mut ends = vec![HEADER as u64];
    for key in ["a", "b", "c", "d"] {
        ends.push(journal.append(&set(key, "value"), true).unwrap().offset);
    }
    let whole = fs::read(path(dir.path())).unwrap();
    // Every byte of the second frame: mark, length, checksum, payload.
    for at in ends[1]..ends[2] {
        let mut bytes = whole.clone();
        bytes[at as usize] ^= 0x40;
        fs::write(path(dir.path()), &bytes).unwrap();
        assert_eq!(keys(dir.path()), ["a", "c", "d"], "byte {at}");
        assert_eq!(replay(dir.path(), 0).1, Replay { end: ends[4], damaged: 1, damaged_at: Some(ends[1]) });
        let mut journal = Journal::open(dir.path(), true).unwrap().unwrap();
        journal.replay(0, |_, _| Ok::<_, io::Error>(())).unwrap();
        journal.append(&set("e", "value"), true).unwrap();
        assert_eq!(keys(dir.path()), ["a", "c", "d", "e"]);
    }
}

#[test]
fn moved_frame_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let mut journal = new(dir.path());
    let first = journal.append(&set("a", "1"), true).unwrap().offset as usize;
    let mut bytes = fs::read(path(dir.path())).unwrap();
    let frame = bytes[HEADER..first].to_vec();
    bytes.extend_from_slice(&frame);
    fs::write(path(dir.path()), &bytes).unwrap();
    assert_eq!(keys(dir.path()), ["a"]);
}

#[test]
fn damaged_header_is_noticed_and_frames_are_still_read() {
    let dir = tempfile::tempdir().unwrap();
    let mut journal = Journal::create(dir.path(), HAS_CHUNKS, |_| Ok::<_, io::Error>(())).unwrap();
    journal.append(&set("a", "1"), true).unwrap();
    assert!(Journal::open(dir.path(), false).unwrap().is_some_and(|j| j.has_chunks() && j.is_whole()));
    let whole = fs::read(path(dir.path())).unwrap();
    for at in 0..HEADER {
        let mut bytes = whole.clone();
        bytes[at] ^= 1;
        fs::write(path(dir.path()), &bytes).unwrap();
        assert!(Journal::open(dir.path(), false).unwrap().is_some_and(|j| !j.is_whole()), "byte {at}");
        assert_eq!(keys(dir.path()), ["a"]);
    }
}

#[test]
fn new_journal_replaces_the_old_one_or_leaves_it() {
    let dir = tempfile::tempdir().unwrap();
    let old = new(dir.path()).append(&set("old", "1"), true).unwrap();
    let failed = Journal::create(dir.path(), 0, |journal| {
        journal.append(&set("new", "1"), false)?;
        Err(io::Error::other("the disk is full"))
    });
    assert!(failed.is_err());
    assert_eq!(keys(dir.path()), ["old"]);
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "the unfinished file is removed");
    let new = Journal::create(dir.path(), 0, |journal| journal.append(&set("new", "1"), false).map(drop)).unwrap();
    assert_eq!(keys(dir.path()), ["new"]);
    assert_ne!(new.position().id, old.id);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn replay_of_a_damaged_journal_gives_only_frames_that_were_written(
        values in proptest::collection::vec("[a-z]{0,40}", 1..12),
        damage in proptest::collection::vec((0_usize..10_000, 1_u8..), 0..6),
        cut in 0_usize..400,
    ) {
        let dir = tempfile::tempdir().unwrap();
        let mut journal = new(dir.path());
        let mut written = Entries::new();
        for (i, value) in values.iter().enumerate() {
            journal.append(&set(&i.to_string(), value), false).unwrap();
            written.insert(i.to_string().into_bytes(), value.clone().into_bytes());
        }
        let mut bytes = fs::read(path(dir.path())).unwrap();
        let length = bytes.len();
        damage.iter().for_each(|(at, mask)| bytes[at % length] ^= mask);
        bytes.truncate(length.saturating_sub(cut));
        fs::write(path(dir.path()), &bytes).unwrap();
        for (changes, _) in replay(dir.path(), 0).0 {
            for (key, value) in changes {
                prop_assert_eq!(value.as_ref(), written.get(&key));
            }
        }
        let mut again = Journal::open(dir.path(), true).unwrap().unwrap();
        again.replay(0, |_, _| Ok::<_, io::Error>(())).unwrap();
        again.append(&set("last", "1"), true).unwrap();
        prop_assert_eq!(keys(dir.path()).pop(), Some("last".to_owned()));
    }

    #[test]
    fn any_bytes_are_replayed_without_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
        let dir = tempfile::tempdir().unwrap();
        fs::write(path(dir.path()), &bytes).unwrap();
        prop_assert!(replay(dir.path(), 0).0.is_empty());
        prop_assert!(decode(&bytes).is_none_or(|changes| changes.len() <= bytes.len()));
    }
}
