//! The system calls that can access files: which of their arguments name the files, and what they do to them.

use std::collections::HashMap;
use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

/// Where a system call's arguments name files.
#[derive(Clone, Copy)]
enum Names {
    /// A path in each of these arguments.
    Paths(&'static [usize]),
    /// A folder's descriptor and a path relative to it in each of these pairs.
    At(&'static [(usize, usize)]),
    /// A descriptor in each of these arguments.
    Descriptors(&'static [usize]),
}

use Names::{At, Descriptors, Paths};

/// The calls that exist on every architecture.
const CALLS: &[(libc::c_long, &str, Names)] = &[
    (libc::SYS_openat, "openat", At(&[(0, 1)])),
    (libc::SYS_openat2, "openat2", At(&[(0, 1)])),
    (libc::SYS_statx, "statx", At(&[(0, 1)])),
    (libc::SYS_newfstatat, "newfstatat", At(&[(0, 1)])),
    (libc::SYS_faccessat, "faccessat", At(&[(0, 1)])),
    (libc::SYS_faccessat2, "faccessat2", At(&[(0, 1)])),
    (libc::SYS_mkdirat, "mkdirat", At(&[(0, 1)])),
    (libc::SYS_unlinkat, "unlinkat", At(&[(0, 1)])),
    (libc::SYS_renameat2, "renameat2", At(&[(0, 1), (2, 3)])),
    (libc::SYS_linkat, "linkat", At(&[(0, 1), (2, 3)])),
    (libc::SYS_symlinkat, "symlinkat", At(&[(1, 2)])),
    (libc::SYS_readlinkat, "readlinkat", At(&[(0, 1)])),
    (libc::SYS_fchmodat, "fchmodat", At(&[(0, 1)])),
    (libc::SYS_utimensat, "utimensat", At(&[(0, 1)])),
    (libc::SYS_truncate, "truncate", Paths(&[0])),
    (libc::SYS_statfs, "statfs", Paths(&[0])),
    (libc::SYS_read, "read", Descriptors(&[0])),
    (libc::SYS_write, "write", Descriptors(&[0])),
    (libc::SYS_readv, "readv", Descriptors(&[0])),
    (libc::SYS_writev, "writev", Descriptors(&[0])),
    (libc::SYS_pread64, "pread64", Descriptors(&[0])),
    (libc::SYS_pwrite64, "pwrite64", Descriptors(&[0])),
    (libc::SYS_preadv, "preadv", Descriptors(&[0])),
    (libc::SYS_pwritev, "pwritev", Descriptors(&[0])),
    (libc::SYS_preadv2, "preadv2", Descriptors(&[0])),
    (libc::SYS_pwritev2, "pwritev2", Descriptors(&[0])),
    (libc::SYS_copy_file_range, "copy_file_range", Descriptors(&[0, 2])),
    (libc::SYS_sendfile, "sendfile", Descriptors(&[0, 1])),
    (libc::SYS_fsync, "fsync", Descriptors(&[0])),
    (libc::SYS_fdatasync, "fdatasync", Descriptors(&[0])),
    (libc::SYS_sync_file_range, "sync_file_range", Descriptors(&[0])),
    (libc::SYS_syncfs, "syncfs", Descriptors(&[0])),
    (libc::SYS_ftruncate, "ftruncate", Descriptors(&[0])),
    (libc::SYS_fallocate, "fallocate", Descriptors(&[0])),
    (libc::SYS_fadvise64, "fadvise64", Descriptors(&[0])),
    (libc::SYS_lseek, "lseek", Descriptors(&[0])),
    (libc::SYS_fstat, "fstat", Descriptors(&[0])),
    (libc::SYS_fstatfs, "fstatfs", Descriptors(&[0])),
    (libc::SYS_fchmod, "fchmod", Descriptors(&[0])),
    (libc::SYS_getdents64, "getdents64", Descriptors(&[0])),
    (libc::SYS_flock, "flock", Descriptors(&[0])),
    (libc::SYS_fcntl, "fcntl", Descriptors(&[0])),
    (libc::SYS_ioctl, "ioctl", Descriptors(&[0])),
    (libc::SYS_dup, "dup", Descriptors(&[0])),
    (libc::SYS_mmap, "mmap", Descriptors(&[4])),
    (libc::SYS_close, "close", Descriptors(&[0])),
];

/// Older calls, which only x86-64 has.
#[cfg(target_arch = "x86_64")]
const OLD_CALLS: &[(libc::c_long, &str, Names)] = &[
    (libc::SYS_open, "open", Paths(&[0])),
    (libc::SYS_creat, "creat", Paths(&[0])),
    (libc::SYS_stat, "stat", Paths(&[0])),
    (libc::SYS_lstat, "lstat", Paths(&[0])),
    (libc::SYS_access, "access", Paths(&[0])),
    (libc::SYS_mkdir, "mkdir", Paths(&[0])),
    (libc::SYS_rmdir, "rmdir", Paths(&[0])),
    (libc::SYS_unlink, "unlink", Paths(&[0])),
    (libc::SYS_rename, "rename", Paths(&[0, 1])),
    (libc::SYS_renameat, "renameat", At(&[(0, 1), (2, 3)])),
    (libc::SYS_link, "link", Paths(&[0, 1])),
    (libc::SYS_symlink, "symlink", Paths(&[1])),
    (libc::SYS_readlink, "readlink", Paths(&[0])),
    (libc::SYS_chmod, "chmod", Paths(&[0])),
    (libc::SYS_dup2, "dup2", Descriptors(&[0])),
];
#[cfg(not(target_arch = "x86_64"))]
const OLD_CALLS: &[(libc::c_long, &str, Names)] = &[];

/// A system call that touches the cache.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Call {
    pub(crate) name: &'static str,
    /// The first path in the cache that it names, relative to the cache.
    pub(crate) path: String,
    /// Whether it may create a file that does not exist yet.
    creates: bool,
    /// Bytes that it writes, if it writes from one buffer.
    pub(crate) len: u64,
}

impl Call {
    /// Whether a full disk can make it fail.
    pub(crate) fn needs_space(&self) -> bool {
        const NEED: &[&str] = &[
            "write",
            "writev",
            "pwrite64",
            "pwritev",
            "pwritev2",
            "copy_file_range",
            "sendfile",
            "mkdir",
            "mkdirat",
            "rename",
            "renameat",
            "renameat2",
            "link",
            "linkat",
            "symlink",
            "symlinkat",
            "fallocate",
            "fsync",
            "fdatasync",
            "sync_file_range",
            "syncfs",
        ];
        self.creates || NEED.contains(&self.name)
    }

    /// Whether it changes the cache or makes a change durable.
    pub(crate) fn changes(&self) -> bool {
        const CHANGE: &[&str] = &["ftruncate", "truncate", "unlink", "unlinkat", "rmdir", "fchmod", "chmod"];
        self.needs_space() || CHANGE.contains(&self.name)
    }

    /// Whether it reads or syncs, so that a failing disk can make it fail.
    pub(crate) fn needs_disk(&self) -> bool {
        ["read", "readv", "pread64", "preadv", "preadv2", "fsync", "fdatasync", "getdents64"].contains(&self.name)
    }

    /// Whether it writes more than one byte from one buffer, so that it can be cut short.
    pub(crate) fn can_tear(&self) -> bool {
        self.len > 1
    }
}

/// Reads the arguments of one traced program's system calls.
pub(crate) struct Reader {
    cache: PathBuf,
    /// The working folder of the program. Relative paths start there.
    folder: PathBuf,
    table: HashMap<u64, (&'static str, Names)>,
    memories: HashMap<i32, File>,
}

impl Reader {
    pub(crate) fn new(cache: &Path, folder: &Path) -> Self {
        let all = CALLS.iter().chain(OLD_CALLS);
        let table = all.filter_map(|(nr, name, names)| Some((u64::try_from(*nr).ok()?, (*name, *names)))).collect();
        Self { cache: cache.to_owned(), folder: folder.to_owned(), table, memories: HashMap::new() }
    }

    /// The call that thread `tid` is about to make, if it accesses the cache.
    pub(crate) fn call(&mut self, tid: i32, nr: u64, args: &[u64; 6]) -> Option<Call> {
        let (name, names) = *self.table.get(&nr)?;
        let full = match names {
            Paths(list) => list.iter().find_map(|i| self.inside(self.path(tid, libc::AT_FDCWD, args[*i])?)),
            At(list) => list.iter().find_map(|(fd, i)| self.inside(self.path(tid, args[*fd] as i32, args[*i])?)),
            Descriptors(list) => list.iter().find_map(|i| self.inside(descriptor(tid, args[*i] as i32)?)),
        }?;
        let flags = match name {
            "openat" => args[2],
            "open" => args[1],
            "creat" => libc::O_CREAT as u64,
            _ => 0,
        };
        let creates = flags & libc::O_CREAT as u64 != 0 && !full.exists();
        let len = if ["write", "pwrite64"].contains(&name) { args[2] } else { 0 };
        let path = full.strip_prefix(&self.cache).unwrap_or(&full).to_string_lossy().into_owned();
        Some(Call { name, path, creates, len })
    }

    fn inside(&self, path: PathBuf) -> Option<PathBuf> {
        path.starts_with(&self.cache).then_some(path)
    }

    fn path(&self, tid: i32, folder: i32, address: u64) -> Option<PathBuf> {
        let text = self.text(tid, address)?;
        if text.is_empty() {
            return descriptor(tid, folder);
        }
        let base = if folder == libc::AT_FDCWD { self.folder.clone() } else { descriptor(tid, folder)? };
        Some(base.join(text))
    }

    /// The string at an address of the traced program.
    fn text(&self, tid: i32, address: u64) -> Option<String> {
        if address == 0 {
            return None;
        }
        let opened;
        let memory = match self.memories.get(&tid) {
            Some(memory) => memory,
            None => {
                opened = File::open(format!("/proc/{tid}/mem")).ok()?;
                &opened
            }
        };
        let mut bytes = Vec::new();
        let mut at = address;
        // Each read ends at the end of a page, because the next page may not exist.
        while bytes.len() < 4096 {
            let mut part = vec![0u8; 4096 - (at % 4096) as usize];
            let n = memory.read_at(&mut part, at).ok().filter(|n| *n > 0)?;
            if let Some(end) = part[..n].iter().position(|b| *b == 0) {
                bytes.extend_from_slice(&part[..end]);
                return Some(String::from_utf8_lossy(&bytes).into_owned());
            }
            bytes.extend_from_slice(&part[..n]);
            at += n as u64;
        }
        None
    }

    /// Keeps the memory of a thread open. Must be called when the thread is first seen after `execve`.
    pub(crate) fn watch(&mut self, tid: i32) {
        if let Ok(memory) = File::open(format!("/proc/{tid}/mem")) {
            self.memories.insert(tid, memory);
        }
    }
}

/// The file behind a descriptor of a traced program.
fn descriptor(tid: i32, fd: i32) -> Option<PathBuf> {
    if fd < 0 {
        return None;
    }
    fs::read_link(format!("/proc/{tid}/fd/{fd}")).ok()
}
