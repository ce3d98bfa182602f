//! The program under attack, and a folder to run it in.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io;
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process_group};
use serde_json::Value;

/// The time after which a command counts as hanging: a minute, and proportionally more on a machine with a load above
/// its number of cores.
pub(crate) fn patience() -> Duration {
    let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let load = load.split(' ').next().and_then(|l| l.parse::<f64>().ok()).unwrap_or(0.0);
    let cores = std::thread::available_parallelism().map_or(1.0, |n| n.get() as f64);
    Duration::from_secs(60).mul_f64((load / cores).max(1.0))
}

/// A folder with a pipeline `p.toml` and a cache `cache`.
#[derive(Clone)]
pub(crate) struct Project {
    program: PathBuf,
    dir: PathBuf,
    cache: PathBuf,
}

/// The exit status and the output of a command.
#[derive(Default)]
pub(crate) struct CommandOutput {
    /// The exit code. `None` if a signal ended the command.
    pub(crate) code: Option<i32>,
    pub(crate) signal: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
    /// Whether it was killed after [`patience`].
    pub(crate) hung: bool,
}

/// A running command, which writes its output to two files.
pub(crate) struct RunningCommand {
    child: Child,
    files: OutputFiles,
}

/// The files to which a command writes its output. A pipe could fill up.
pub(crate) struct OutputFiles {
    stdout: PathBuf,
    stderr: PathBuf,
}

impl OutputFiles {
    pub(crate) fn read(&self, output: &mut CommandOutput) {
        let take = |path: &Path| {
            let text = String::from_utf8_lossy(&fs::read(path).unwrap_or_default()).into_owned();
            let _ = fs::remove_file(path);
            text
        };
        (output.stdout, output.stderr) = (take(&self.stdout), take(&self.stderr));
    }
}

impl Project {
    pub(crate) fn new(program: &Path, dir: &Path) -> Self {
        Self { program: program.to_owned(), dir: dir.to_owned(), cache: dir.join("cache") }
    }

    /// The same folder with another cache.
    pub(crate) fn with_cache(&self, cache: &Path) -> Self {
        Self { cache: cache.to_owned(), ..self.clone() }
    }

    /// The same program in another folder with its own cache.
    pub(crate) fn moved(&self, dir: &Path) -> Self {
        Self::new(&self.program, dir)
    }

    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    pub(crate) fn cache(&self) -> &Path {
        &self.cache
    }

    /// A command with a cleared environment, its own process group, and output files.
    pub(crate) fn command<A: AsRef<OsStr>>(&self, args: &[A]) -> io::Result<(Command, OutputFiles)> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let n = NEXT.fetch_add(1, Ordering::Relaxed);
        let files =
            OutputFiles { stdout: self.dir.join(format!("out-{n}")), stderr: self.dir.join(format!("err-{n}")) };
        let mut command = Command::new(&self.program);
        command.args(args).arg("--cache").arg(&self.cache).current_dir(&self.dir).env_clear().env("HOME", &self.dir);
        command.env("PATH", std::env::var_os("PATH").unwrap_or_default()).env("RUST_BACKTRACE", "1");
        command.stdin(Stdio::null()).stdout(File::create(&files.stdout)?).stderr(File::create(&files.stderr)?);
        command.process_group(0);
        Ok((command, files))
    }

    pub(crate) fn start<A: AsRef<OsStr>>(&self, args: &[A]) -> io::Result<RunningCommand> {
        let (mut command, files) = self.command(args)?;
        Ok(RunningCommand { child: command.spawn()?, files })
    }

    /// Runs a command to its end.
    pub(crate) fn run<A: AsRef<OsStr>>(&self, args: &[A]) -> io::Result<CommandOutput> {
        self.start(args)?.wait()
    }
}

impl RunningCommand {
    pub(crate) fn from_parts(child: Child, files: OutputFiles) -> Self {
        Self { child, files }
    }

    /// Kills the command and everything that it started.
    pub(crate) fn kill(&self) {
        kill_group(self.child.id());
    }

    pub(crate) fn wait(mut self) -> io::Result<CommandOutput> {
        let begun = Instant::now();
        let mut pause = Duration::from_micros(300);
        let (mut hung, mut limit) = (false, Duration::from_secs(60));
        let status = loop {
            if let Some(status) = self.child.try_wait()? {
                break status;
            }
            if begun.elapsed() > limit && !hung {
                limit = patience();
                hung = begun.elapsed() > limit;
                if hung {
                    self.kill();
                }
            }
            std::thread::sleep(pause);
            pause = (pause * 3 / 2).min(Duration::from_millis(5));
        };
        let mut output = CommandOutput::of(status);
        output.hung = hung;
        self.files.read(&mut output);
        Ok(output)
    }
}

/// Sends SIGKILL to a process group.
pub(crate) fn kill_group(leader: u32) {
    if let Some(pid) = i32::try_from(leader).ok().and_then(Pid::from_raw) {
        let _ = kill_process_group(pid, Signal::KILL);
    }
}

impl CommandOutput {
    pub(crate) fn of(status: ExitStatus) -> Self {
        Self { code: status.code(), signal: status.signal(), ..Self::default() }
    }

    pub(crate) fn succeeded(&self) -> bool {
        self.code == Some(0)
    }

    /// "exit code 5: error: …", with the first lines of its standard error.
    pub(crate) fn describe(&self) -> String {
        let end = match (self.code, self.signal) {
            (Some(code), _) => format!("exit code {code}"),
            (None, Some(signal)) => format!("signal {signal}"),
            (None, None) => "no status".to_owned(),
        };
        let lines: Vec<&str> = self.stderr.lines().filter(|l| !l.trim().is_empty()).take(4).collect();
        let mut text = format!("{end}: {}", lines.join(" / "));
        if let Some((at, _)) = text.char_indices().nth(400) {
            text.truncate(at);
        }
        text
    }

    /// The output as one JSON value.
    pub(crate) fn json(&self) -> Option<Value> {
        serde_json::from_str(&self.stdout).ok()
    }

    /// The output as JSON lines. The last line of a killed command may be incomplete.
    pub(crate) fn events(&self) -> Vec<Value> {
        self.stdout.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }
}

/// Copies a folder with its hard links, modes and times. Blocks of zeroes become holes, which is faster.
pub(crate) fn copy_folder(from: &Path, to: &Path) -> io::Result<()> {
    copy(from, to, "--sparse=always")
}

/// [`copy_folder`] without holes, so that every file occupies its full size on a full disk.
pub(crate) fn copy_dense(from: &Path, to: &Path) -> io::Result<()> {
    copy(from, to, "--sparse=never")
}

fn copy(from: &Path, to: &Path, sparse: &str) -> io::Result<()> {
    remove_folder(to)?;
    let status = Command::new("cp").arg("-a").arg(sparse).arg(from).arg(to).status()?;
    if status.success() { Ok(()) } else { Err(io::Error::other(format!("cp {}: {status}", from.display()))) }
}

/// Removes a folder if it exists.
pub(crate) fn remove_folder(path: &Path) -> io::Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// All plain files below a folder, sorted.
pub(crate) fn files_below(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let kind = entry.file_type()?;
        if kind.is_dir() {
            found.extend(files_below(&entry.path())?);
        } else if kind.is_file() {
            found.push(entry.path());
        }
    }
    found.sort();
    Ok(found)
}
