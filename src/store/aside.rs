//! sled's files: setting them aside, removing them, and reading what is left of a damaged database.
//!
//! Setting aside moves sled's files one by one to another folder. A note is written before the first file is moved.
//! After a kill, the next opening reads the note and finishes the move. The note stays until the readable entries are
//! saved in a new database.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::disk::{self, remove_file};
use super::engine::{Failure, Setup, catch, open_sled};

type Result<T, E = Failure> = std::result::Result<T, E>;

/// Bytes of the longest note.
const LONGEST_NOTE: u64 = 64 << 10;
/// Marks a folder that was set aside: nothing more can be restored from it.
pub(super) const RESTORED: &str = "restored";
/// The note while sled's files are being moved.
pub(super) const MOVING: &str = "set-aside";
/// The note from then on, until the readable entries are saved.
pub(super) const SAVING: &str = "set-aside-complete";

/// Moves sled's files to a folder of their own. If this is interrupted, [`finish_moving`] continues it.
pub(super) fn set_aside(path: &Path, why: &str) -> Result<()> {
    if disk::exists(&path.join(SAVING))? {
        // The folder that was set aside before has all entries. sled's files only hold what was saved from it.
        return Ok(remove_sled(path)?);
    }
    let aside = disk::free_name(path);
    fs::create_dir(&aside)?;
    let note = format!("{}\n{}\n", disk::name(&aside), why.replace('\n', " "));
    disk::write_atomically(&path.join(MOVING), note.as_bytes())?;
    finish_moving(path).map(drop)
}

/// Completes a move of sled's files that was begun. Returns their folder and why they were moved. Files that sled wrote
/// later are removed, and will be built again.
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
    // With a name that is not one of ours, files could be moved anywhere.
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

/// Copies the readable entries of a database that was set aside into `db`, if they are wanted and `db` lacks them.
/// Returns how many.
pub(super) fn save(aside: &Path, db: &sled::Db, setup: Setup, is_wanted: impl Fn(&[u8]) -> bool) -> Result<usize> {
    let mut saved = 0;
    let Some(old) = open_damaged(aside, setup)? else { return Ok(0) };
    let mut entries = old.iter();
    loop {
        let (key, value) = match catch(|| Ok(entries.next().transpose()?)) {
            Ok(Some(entry)) => entry,
            Ok(None) | Err(Failure::Broken(_)) => break,
            // The disk fails. A later attempt may read more.
            Err(other) => return Err(other),
        };
        if is_wanted(&key) && !db.contains_key(&key)? {
            db.insert(key, value)?;
            saved += 1;
        }
    }
    close(entries);
    close(old);
    Ok(saved)
}

/// Drops a sled object. This can panic if the database is damaged; nothing is left to save then.
pub(super) fn close<T>(of_sled: T) {
    let _ = catch(|| {
        drop(of_sled);
        Ok(())
    });
}

/// Opens a damaged database as far as possible: without its settings, which we know; then without its newest snapshot,
/// without the one before, and so on. sled then reads its log again up to the first damage. The files that were left
/// out are kept in the folder `snapshots`.
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
        // `conf` sorts before the snapshots.
        let next = left.first().filter(|name| *name == "conf").or(left.last());
        let Some(name) = next else { return Ok(None) };
        fs::rename(path.join(name), kept.join(name))?;
    }
}

/// Removes snapshots that sled had not completed when its process ended. sled 0.34.7 would take such a file for its
/// newest snapshot and find it corrupted.
pub(super) fn remove_unfinished_snapshots(path: &Path) -> io::Result<()> {
    sled_files(path)?.iter().filter(|n| n.ends_with(".generating")).try_for_each(|name| remove_file(&path.join(name)))
}

/// The names of sled's own files in this folder, in order.
pub(super) fn sled_files(path: &Path) -> io::Result<Vec<String>> {
    let names = disk::entries(path)?.into_iter().map(|path| disk::name(&path));
    Ok(names.filter(|name| matches!(name.as_str(), "db" | "conf" | "blobs") || name.starts_with("snap.")).collect())
}

/// Removes sled's files. Snapshots go first, because sled reads a log without a snapshot from its beginning. Then the
/// files of large nodes go, because a new log may use the same names.
pub(super) fn remove_sled(path: &Path) -> io::Result<()> {
    let mut names = sled_files(path)?;
    names.sort_by_key(|name| (!name.starts_with("snap."), name != "blobs"));
    for name in names {
        let file = path.join(&name);
        if file.is_dir() { fs::remove_dir_all(file)? } else { remove_file(&file)? }
    }
    Ok(())
}
