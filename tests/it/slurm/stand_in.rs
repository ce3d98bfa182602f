//! Programs with the names of Slurm's, which start each task of an array as a process. They note how they are called,
//! and can be made to refuse or to answer nonsense.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process_group};
use tempfile::TempDir;

use crate::support::Project;

/// Looks at the queue often.
pub(super) const POLL: &str = "slurm.poll=200ms";

/// What all of them do first: note the call, and answer what the test wants once.
const HEAD: &str = r#"#!/bin/sh
dir=$(dirname "$0"); state=$dir/state; name=$(basename "$0")
echo "$name $*" >> "$dir/calls"
if [ "$1" = --version ]; then exit 0; fi
if [ -e "$dir/answer-$name" ]; then cat "$dir/answer-$name"; rm "$dir/answer-$name"; exit 0; fi
"#;

const SBATCH: &str = r#"
if [ -e "$dir/refusal-once" ]; then cat "$dir/refusal-once" >&2; rm "$dir/refusal-once"; exit 1; fi
if [ -e "$dir/refusal" ]; then cat "$dir/refusal" >&2; exit 1; fi
for option in "$@"; do
  case $option in
    --array=0-*) last=${option#--array=0-} ;;
    --comment=*) comment=${option#--comment=} ;;
    --mem=*M) memory=${option#--mem=}; export SLURM_MEM_PER_NODE="${memory%M}" ;;
    --output=*) output=${option#--output=} ;;
  esac
done
if [ -e "$dir/largest" ] && [ "$last" -ge "$(cat "$dir/largest")" ]; then
  echo "sbatch: error: Batch job submission failed: Invalid job array specification" >&2; exit 1
fi
job=$$
cat > "$state/$job.sh"
i=0
while [ "$i" -le "$last" ]; do
  (
    out=$(echo "$output" | sed "s/%A/$job/; s/%a/$i/")
    SLURM_ARRAY_JOB_ID=$job SLURM_ARRAY_TASK_ID=$i SLURM_JOB_ID=$job SLURM_CPUS_PER_TASK=1 \
      setsid sh "$state/$job.sh" > "$out" 2>&1 &
    echo $! > "$state/${job}_$i.pid"; echo "$comment" > "$state/${job}_$i.comment"
    wait $!
    echo $? > "$state/${job}_$i.new"; mv "$state/${job}_$i.new" "$state/${job}_$i.code"
  ) < /dev/null > /dev/null 2>&1 &
  i=$((i + 1))
done
# A task is in the queue when sbatch has answered.
i=0
while [ "$i" -le "$last" ]; do
  while [ ! -s "$state/${job}_$i.comment" ]; do sleep 0.01; done
  i=$((i + 1))
done
echo "$job"
"#;

const SQUEUE: &str = r#"
for pid in "$state"/*.pid; do
  task=$(basename "$pid" .pid)
  if [ -e "$pid" ] && [ ! -e "$state/$task.code" ]; then
    echo "$task|RUNNING|None|n1|2026-11-26T17:00:00|2026-11-26T17:00:07|$(cat "$state/$task.comment")"
  fi
done
"#;

const SCONTROL: &str = r#"
for last in "$@"; do :; done
for code in "$state/${last}"_*.code; do
  task=$(basename "$code" .code); number=$(cat "$code")
  if [ -e "$state/$task.fate" ]; then fate=$(cat "$state/$task.fate")
  elif [ "$number" = 0 ]; then fate=COMPLETED; else fate=FAILED; fi
  echo "JobId=1 ArrayJobId=$last ArrayTaskId=${task#*_} JobState=$fate ExitCode=$number:0 NodeList=n1"
done
"#;

const SCANCEL: &str = r#"
case "$*" in *PENDING*) exit 0 ;; esac
for pid in "$state"/*.pid; do
  task=$(basename "$pid" .pid)
  if [ -e "$pid" ] && [ ! -e "$state/$task.code" ]; then
    echo CANCELLED > "$state/$task.fate"; kill -TERM "$(cat "$pid")" 2> /dev/null
  fi
done
exit 0
"#;

const SACCT: &str = "echo 'Slurm accounting storage is disabled' >&2; exit 1";

/// A cluster that is none.
pub(super) struct StandIn {
    dir: TempDir,
}

impl StandIn {
    pub(super) fn new() -> Self {
        let cluster = Self { dir: tempfile::tempdir().expect("a folder") };
        fs::create_dir(cluster.path("state")).expect("a folder");
        let programs =
            [("sbatch", SBATCH), ("squeue", SQUEUE), ("scontrol", SCONTROL), ("scancel", SCANCEL), ("sacct", SACCT)];
        for (name, body) in programs {
            fs::write(cluster.path(name), format!("{HEAD}{body}")).expect("a program");
            fs::set_permissions(cluster.path(name), fs::Permissions::from_mode(0o755)).expect("a program");
        }
        cluster
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// A command on its login node.
    pub(super) fn command<A: AsRef<OsStr>>(&self, project: &Project, args: impl IntoIterator<Item = A>) -> Command {
        let mut command = project.command(args);
        let path = std::env::var("PATH").unwrap_or_default();
        command.env("PATH", format!("{}:{path}", self.dir.path().display()));
        command
    }

    /// All calls, one in a line.
    pub(super) fn all_calls(&self) -> String {
        fs::read_to_string(self.path("calls")).unwrap_or_default()
    }

    pub(super) fn forget_calls(&self) {
        fs::remove_file(self.path("calls")).expect("removed");
    }

    /// The calls of a program, without those that only ask whether it is there.
    pub(super) fn calls(&self, program: &str) -> usize {
        let calls = self.all_calls();
        calls.lines().filter(|line| line.starts_with(program) && !line.ends_with("--version")).count()
    }

    pub(super) fn wait_for_calls(&self, program: &str, more: usize) {
        let (begun, before) = (Instant::now(), self.calls(program));
        while self.calls(program) < before + more {
            assert!(begun.elapsed() < Duration::from_secs(30), "{program} was not called");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// `sbatch` fails with this message from now on.
    pub(super) fn refuses(&self, message: &str) {
        fs::write(self.path("refusal"), message).expect("written");
    }

    pub(super) fn refuses_once(&self, message: &str) {
        fs::write(self.path("refusal-once"), message).expect("written");
    }

    pub(super) fn accepts(&self) {
        fs::remove_file(self.path("refusal")).expect("removed");
    }

    /// The next call of a program gets this answer.
    pub(super) fn answers_once(&self, program: &str, answer: &str) {
        fs::write(self.path(&format!("answer-{program}")), answer).expect("written");
    }

    /// Arrays have at most this many tasks.
    pub(super) fn limits_arrays(&self, tasks: usize) {
        fs::write(self.path("largest"), tasks.to_string()).expect("written");
    }

    /// The files with the ids of workers that run.
    fn running(&self) -> Vec<PathBuf> {
        let files = fs::read_dir(self.path("state")).expect("a folder").flatten().map(|file| file.path());
        let is_running =
            |path: &PathBuf| path.extension().is_some_and(|end| end == "pid") && !path.with_extension("code").exists();
        files.filter(is_running).collect()
    }

    /// Kills the workers with this index and what they run, for this reason.
    pub(super) fn kill(&self, index: u32, fate: &str) {
        self.signal(index, Signal::KILL, fate);
    }

    /// Asks the workers with this index to leave, for this reason.
    pub(super) fn ask_to_leave(&self, index: u32, fate: &str) {
        self.signal(index, Signal::TERM, fate);
    }

    fn signal(&self, index: u32, with: Signal, fate: &str) {
        let end = format!("_{index}.pid");
        for path in self.running().iter().filter(|path| path.to_str().is_some_and(|path| path.ends_with(&end))) {
            fs::write(path.with_extension("fate"), fate).expect("written");
            signal(path, with);
        }
    }

    /// Whether no worker runs, or no longer after a moment.
    pub(super) fn is_idle(&self) -> bool {
        let begun = Instant::now();
        loop {
            if self.running().is_empty() {
                return true;
            }
            if begun.elapsed() > Duration::from_secs(20) {
                return false;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

/// Sends a signal to the worker whose id is in this file, and to what it runs.
fn signal(path: &Path, signal: Signal) {
    let pid = fs::read_to_string(path).expect("a pid").trim().parse().ok().and_then(Pid::from_raw);
    // It may have ended by itself.
    let _ = kill_process_group(pid.expect("a pid"), signal);
}

impl Drop for StandIn {
    /// After a failure, no worker may stay.
    fn drop(&mut self) {
        self.running().iter().for_each(|path| signal(path, Signal::KILL));
    }
}
