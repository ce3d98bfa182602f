//! Mounts file systems for the campaign: small, full and read-only ones.
//!
//! The campaign runs in its own mount namespace, so other programs do not see its mounts, and they end with it.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rustix::process::geteuid;

/// This variable is set in a campaign that has its own mount namespace.
const INSIDE: &str = "VADPIPE_CAMPAIGN_MOUNTS";

/// Restarts this program in its own mount namespace. Returns only if that is impossible or already done.
pub(crate) fn enter_namespace() {
    if !geteuid().is_root() || std::env::var_os(INSIDE).is_some() {
        return;
    }
    let unshare = ["--mount", "--propagation", "private"];
    let works = Command::new("unshare").args(unshare).arg("true").stderr(Stdio::null()).status();
    if let (true, Ok(program)) = (works.is_ok_and(|s| s.success()), std::env::current_exe()) {
        let mut command = Command::new("unshare");
        command.args(unshare).arg("--").arg(program).args(std::env::args_os().skip(1)).env(INSIDE, "1");
        let _ = command.exec();
    }
}

/// The reason why nothing can be mounted here, if there is one.
pub(crate) fn unavailable() -> Option<&'static str> {
    std::env::var_os(INSIDE).is_none().then_some("mounting needs root and `unshare`")
}

/// A kind of file system.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FileSystem {
    Tmpfs,
    Ext4,
}

/// A mounted file system. Dropping it unmounts it.
pub(crate) struct Mounted {
    at: PathBuf,
}

impl Mounted {
    /// A new file system with this many KB.
    pub(crate) fn new(kind: FileSystem, kilobytes: u64, at: &Path) -> io::Result<Self> {
        fs::create_dir_all(at)?;
        let options = format!("size={kilobytes}k");
        match kind {
            FileSystem::Tmpfs => call(
                "mount",
                ["-t".as_ref(), "tmpfs".as_ref(), "-o".as_ref(), options.as_ref(), "none".as_ref(), at.as_os_str()],
            )?,
            FileSystem::Ext4 => {
                let image = at.with_extension("image");
                fs::File::create(&image)?.set_len(kilobytes * 1024)?;
                call("mkfs.ext4", ["-q".as_ref(), "-m".as_ref(), "0".as_ref(), image.as_os_str()])?;
                call("mount", ["-o".as_ref(), "loop".as_ref(), image.as_os_str(), at.as_os_str()])?;
            }
        }
        Ok(Self { at: at.to_owned() })
    }

    /// A read-only bind mount of a folder.
    pub(crate) fn read_only(folder: &Path, at: &Path) -> io::Result<Self> {
        fs::create_dir_all(at)?;
        call("mount", ["--bind".as_ref(), folder.as_os_str(), at.as_os_str()])?;
        let mounted = Self { at: at.to_owned() };
        call("mount", ["-o".as_ref(), "remount,bind,ro".as_ref(), at.as_os_str()])?;
        Ok(mounted)
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.at).stderr(Stdio::null()).status();
        let _ = fs::remove_file(self.at.with_extension("image"));
    }
}

fn call<'a>(program: &str, args: impl IntoIterator<Item = &'a OsStr>) -> io::Result<()> {
    let output = Command::new(program).args(args).output()?;
    if output.status.success() {
        return Ok(());
    }
    Err(io::Error::other(format!("{program}: {}", String::from_utf8_lossy(&output.stderr).trim())))
}
