//! The Slurm on this machine, and the calls of its programs.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use super::Outcome;

const PROGRAMS: [&str; 5] = ["sbatch", "squeue", "scontrol", "scancel", "sacct"];

/// A cluster that is stopped when this is dropped.
pub(super) struct Loopback {
    folder: TempDir,
}

impl Loopback {
    pub(super) fn start() -> Outcome<Self> {
        let folder = tempfile::tempdir()?;
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755))?;
        let cluster = Self { folder };
        if !cluster.script("up.sh").status()?.success() {
            return Err("can't start Slurm: it needs root, slurm-wlm and munge".into());
        }
        // Programs that note their calls.
        fs::create_dir(cluster.path("bin"))?;
        for name in PROGRAMS {
            let real = Command::new("which").arg(name).output()?.stdout;
            let real = String::from_utf8(real)?;
            let calls = cluster.path("calls");
            let text = format!("#!/bin/sh\necho {name} >> {}\nexec {} \"$@\"\n", calls.display(), real.trim());
            fs::write(cluster.path("bin").join(name), text)?;
            fs::set_permissions(cluster.path("bin").join(name), fs::Permissions::from_mode(0o755))?;
        }
        Ok(cluster)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn script(&self, name: &str) -> Command {
        let mut command = Command::new(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/slurm").join(name));
        command.arg(self.folder.path()).stdin(Stdio::null());
        command
    }

    /// A program with the cluster's settings.
    pub(super) fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        let path = std::env::var("PATH").unwrap_or_default();
        command.env("PATH", format!("{}:{path}", self.path("bin").display()));
        command.env("SLURM_CONF", self.path("slurm.conf")).stdin(Stdio::null());
        command
    }

    pub(super) fn vadpipe(&self, folder: &Path, args: &[&str]) -> Command {
        let mut command = self.command(env!("CARGO_BIN_EXE_vadpipe"));
        command.args(args).current_dir(folder);
        command
    }

    /// Starts a run on the cluster.
    pub(super) fn run(&self, folder: &Path, more: &[&str]) -> Outcome<Child> {
        let args = ["run", "p.toml", "--json", "--on", "slurm", "--store", "store", "--store-write"];
        let mut command = self.vadpipe(folder, &[&args, more].concat());
        Ok(command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?)
    }

    /// The settings, for programs that take all of Slurm's variables away from their jobs.
    pub(super) fn settings(&self) -> PathBuf {
        self.path("slurm.conf")
    }

    pub(super) fn forget_calls(&self) {
        // There may be none.
        let _ = fs::remove_file(self.path("calls"));
    }

    /// How often each program was called.
    pub(super) fn calls(&self) -> BTreeMap<String, usize> {
        let mut calls = BTreeMap::new();
        for name in fs::read_to_string(self.path("calls")).unwrap_or_default().lines() {
            *calls.entry(name.to_owned()).or_default() += 1;
        }
        calls
    }

    /// The output of one of Slurm's programs, which is not counted.
    fn slurm(&self, program: &str, args: &[&str]) -> Outcome<String> {
        let mut command = Command::new(program);
        let output = command.args(args).env("SLURM_CONF", self.path("slurm.conf")).stdin(Stdio::null()).output()?;
        match output.status.success() {
            true => Ok(String::from_utf8(output.stdout)?),
            false => Err(format!("{program}: {}", String::from_utf8_lossy(&output.stderr)).into()),
        }
    }

    pub(super) fn wait_for_workers(&self, count: usize) -> Outcome {
        let begun = Instant::now();
        while self.slurm("squeue", &["--noheader", "--states=RUNNING"])?.lines().count() < count {
            if begun.elapsed() > Duration::from_secs(120) {
                return Err("workers never ran".into());
            }
            std::thread::sleep(Duration::from_millis(200));
        }
        Ok(())
    }

    /// Kills a node with everything that runs on it, or stops the controller.
    pub(super) fn kill(&self, part: &str) -> Outcome {
        self.call("stop.sh", part)
    }

    /// Starts what was killed.
    pub(super) fn start_again(&self, part: &str) -> Outcome {
        self.call("start.sh", part)
    }

    fn call(&self, script: &str, argument: &str) -> Outcome {
        match self.script(script).arg(argument).status()?.success() {
            true => Ok(()),
            false => Err(format!("{script} {argument} failed").into()),
        }
    }

    /// Takes all memory of a node for a moment.
    pub(super) fn preempt(&self, node: &str) -> Outcome {
        let node = format!("--nodelist={node}");
        let args = ["--partition=urgent", &node, "--mem=4000", "--output=/dev/null", "--wrap=sleep 2"];
        self.slurm("sbatch", &args).map(drop)
    }

    /// Waits until nothing runs.
    pub(super) fn wait_until_idle(&self) -> Outcome {
        self.call("wait.sh", "120")
    }
}

impl Drop for Loopback {
    fn drop(&mut self) {
        let _ = self.script("down.sh").status();
    }
}
