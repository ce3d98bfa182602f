//! Setting sled's files aside, and reading what can be read of them.
//!
//! The files are moved one by one. A note is written before the first is moved. After a kill, the next opening reads it and
//! finishes the move. The note stays until what can be read was saved into a new database.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::engine::{Failure, Setup, open_sled};
use super::{disk, quiet};

type Result<T, E = Failure> = std::result::Result<T, E>;

/// Bytes of the longest note.
const LONGEST_NOTE: u64 = 64 << 10;
/// A file in a folder that was set aside: nothing more can be brought back from it.
pub(super) const RESTORED: &str = "restored";
/// Names the folder that sled's files are being moved to, until all of them are there.
pub(super) const MOVING: &str = "set-aside";
/// The same from then on, until what can be read of them was saved.
pub(super) const SAVING: &str = "set-aside-complete";

/// Begins to move sled's files to a folder of their own. [`finish_moving`] goes on if this is cut short.
pub(super) fn set_aside(path: &Path, why: &str) -> Result<()> {
    if disk::exists(&path.join(SAVING))? {
        // What was set aside before has everything. Since then sled's files only held what was saved of it.
        return Ok(remove_sled(path)?);
    }
    let aside = disk::free_name(path);
    fs::create_dir(&aside)?;
    let aside = aside.file_name().unwrap_or_default().to_string_lossy();
    let note = format!("{aside}\n{}\n", why.replace('\n', " "));
    disk::write_atomically(&path.join(MOVING), note.as_bytes())?;
    finish_moving(path).map(drop)
}

/// If a move of sled's files was begun, completes it. Returns the folder that they are in, and why they were moved. What
/// sled wrote since then is removed, and will be built again.
pub(super) fn finish_moving(path: &Path) -> Result<Option<(PathBuf, String)>> {
    let (moving, saving) = (path.join(MOVING), path.join(SAVING));
    let is_moving = disk::exists(&moving)?;
    if !is_moving && !disk::exists(&saving)? {
        return Ok(None);
    }
    let note = disk::read(if is_moving { &moving } else { &saving }, LONGEST_NOTE)?;
    let note = String::from_utf8_lossy(&note);
    let mut lines = note.lines();
    let (name, why) = (lines.next().unwrap_or_default(), lines.next().unwrap_or_default());
    // The name is one of ours. Anything else would move files to anywhere.
    if !name.contains("-damaged-") || name.contains('/') {
        remove_file(&moving)?;
        remove_file(&saving)?;
        return Ok(None);
    }
    let aside = path.with_file_name(name);
    if is_moving {
        fs::create_dir_all(&aside)?;
        for name in sled_files(path)? {
            fs::rename(path.join(&name), aside.join(&name))?;
        }
        disk::sync_folder(&aside)?;
        disk::rename(&moving, &saving)?;
    } else {
        remove_sled(path)?;
    }
    Ok(Some((aside, why.to_owned())))
}

/// Adds the wanted entries that can be read of a database that was set aside, unless newer ones are there, and returns
/// how many.
pub(super) fn save(aside: &Path, db: &sled::Db, setup: Setup, is_wanted: impl Fn(&[u8]) -> bool) -> Result<usize> {
    let mut saved = 0;
    let Some(old) = open_damaged(aside, setup)? else { return Ok(0) };
    let mut entries = old.iter();
    // A panic is damage, too.
    while let Ok(Some(entry)) = quiet::catch(|| entries.next()) {
        let (key, value) = match entry.map_err(Failure::from) {
            Ok(entry) => entry,
            Err(Failure::Broken(_)) => break,
            // The disk fails. Another time there may be more.
            Err(other) => return Err(other),
        };
        if is_wanted(&key) && !db.contains_key(&key)? {
            db.insert(key, value)?;
            saved += 1;
        }
    }
    let _ = quiet::catch(|| drop((entries, old)));
    Ok(saved)
}

/// Opens a damaged database as far as that is possible: without its settings, which we know; then without its newest
/// snapshot, without the one before, and so on, so that sled reads its log again up to the first damage. What is left out
/// is kept in a folder of its own.
pub(super) fn open_damaged(path: &Path, setup: Setup) -> Result<Option<sled::Db>> {
    loop {
        remove_unfinished_snapshots(path)?;
        match open_sled(path, setup) {
            Ok(db) => return Ok(Some(db)),
            Err(Failure::Broken(_)) => {}
            Err(other) => return Err(other),
        }
        let kept = path.join("snapshots");
        fs::create_dir_all(&kept)?;
        let mut left = sled_files(path)?;
        left.retain(|name| name.starts_with("snap.") || (name == "conf" && !kept.join("conf").exists()));
        // The settings come first.
        let next = left.iter().position(|name| name == "conf").or(left.len().checked_sub(1));
        let Some(name) = next.and_then(|i| left.get(i)) else { return Ok(None) };
        fs::rename(path.join(name), kept.join(name))?;
    }
}

/// Removes snapshots that sled had not completed when its process ended. sled 0.34.7 would take such a file for its
/// newest snapshot, and find it corrupted.
pub(super) fn remove_unfinished_snapshots(path: &Path) -> io::Result<()> {
    for name in sled_files(path)?.iter().filter(|n| n.ends_with(".generating")) {
        remove_file(&path.join(name))?;
    }
    Ok(())
}

/// The names of sled's own files in this folder, in order.
pub(super) fn sled_files(path: &Path) -> io::Result<Vec<String>> {
    let entries = match fs::read_dir(path) {
        Ok(entries) => entries,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(e),
    };
    let mut names = Vec::new();
    for entry in entries {
        names.extend(entry?.file_name().into_string().ok().filter(|name| is_sled_file(name)));
    }
    names.sort();
    Ok(names)
}

fn is_sled_file(name: &str) -> bool {
    matches!(name, "db" | "conf" | "blobs") || name.starts_with("snap.")
}

/// Removes sled's files. Snapshots go first, because sled reads a log without a snapshot from its beginning; then the files
/// of large nodes, since a new log may want their names.
pub(super) fn remove_sled(path: &Path) -> io::Result<()> {
    let mut names = sled_files(path)?;
    names.sort_by_key(|name| (!name.starts_with("snap."), name != "blobs"));
    for name in names {
        let file = path.join(&name);
        if file.is_dir() { fs::remove_dir_all(file)? } else { remove_file(&file)? }
    }
    Ok(())
}

pub(super) fn remove_file(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    }
}
