//! What the cache remembers: results, states of trainings, runs, and who is at work. All of it is JSON on disk.
//!
//! A field that is added later gets `#[serde(default)]`; anything else raises [`super::FORMAT`].

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::artifact::{BlobEntry, Manifest, TensorEntry};
use crate::key::{Components, Digest, Key};

/// How a result was come by: never part of its identity.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Provenance {
    /// vadpipe's version.
    pub version: String,
    /// `cpu`, `cuda:0`.
    pub device: String,
    /// Numerics class: `cpu-avx512`, `cuda-sm90`, …
    pub class: String,
    /// Threads it could use.
    pub threads: usize,
    /// Wall-clock seconds it took.
    pub seconds: f64,
    /// Unix milliseconds.
    pub finished_at: i64,
    /// The run that made it.
    pub run: String,
    /// The machine.
    pub host: String,
}

/// A finished result.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ResultRecord {
    /// Its identity.
    pub key: Key,
    /// The pipeline that made it.
    pub pipeline: String,
    /// The point that made it.
    pub point: String,
    /// Everything that entered the key.
    pub components: Components,
    /// What it is made of.
    pub manifest: Manifest,
    /// The manifest's digest.
    pub digest: Digest,
    /// How it was come by.
    pub provenance: Provenance,
    /// Bytes of it were found to be missing or wrong: it is no hit any more, but its digest stays known.
    #[serde(default)]
    pub damaged: bool,
    /// The line of chunk databases that its bytes are in; see [`super::Store::is_present`].
    pub lineage: u64,
}

/// A stored state of a training.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StateRecord {
    /// The key of state(`epoch`), or of state(`epoch` + 1) for a partial one.
    pub key: Key,
    /// The key of the last state of the training that saved it: whose it is, where chains share a beginning. None in
    /// those of earlier versions.
    #[serde(default)]
    pub towards: Option<Key>,
    /// Finished epochs.
    pub epoch: u64,
    /// Steps done in the epoch after them; 0 for the state proper.
    pub step: u64,
    /// Numerics class.
    pub class: String,
    /// Whether it stays when a later one is there.
    pub pinned: bool,
    /// Its tensors.
    pub tensors: BTreeMap<String, TensorEntry>,
    /// Unix milliseconds.
    pub saved_at: i64,
    /// As in [`ResultRecord`].
    pub lineage: u64,
}

impl StateRecord {
    /// Bytes of its tensors, before they are cut into chunks.
    pub fn bytes(&self) -> u64 {
        self.tensors.values().map(|t| t.blob.size).sum()
    }
}

/// The furthest state of a chain, without its content.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct StatePosition {
    /// Finished epochs.
    pub epoch: u64,
    /// Steps done in the epoch after them.
    pub step: u64,
}

/// How a stage fared in a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum StageOutcome {
    /// Not yet finished.
    Pending,
    /// It ran.
    Executed,
    /// Its result was there.
    Cached,
    /// It failed.
    Failed,
    /// Something it needs failed, or the run was interrupted before.
    Skipped,
    /// It was stopped before its last epoch by comparison with others, or hangs on points that were.
    Pruned,
}

/// How a run fared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RunStatus {
    /// Under way, or killed: ask whether its process lives.
    Running,
    /// Everything asked for is there.
    Ok,
    /// A stage failed.
    Failed,
    /// Interrupted by the user.
    Interrupted,
}

/// A stage in a run record.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StageRun {
    /// The point's name.
    pub name: String,
    /// Its kind.
    pub kind: String,
    /// Its key, once known.
    pub key: Option<Key>,
    /// How it fared.
    pub outcome: StageOutcome,
    /// Wall-clock seconds of this run.
    pub seconds: f64,
    /// The result's digest.
    pub digest: Option<Digest>,
    /// For a training that continued: the epoch it continued at.
    pub resumed_at: Option<u64>,
    /// For a training that ran to its end: how fast it was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate: Option<TrainingRate>,
}

/// How fast a training was. Later runs estimate their time from it.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct TrainingRate {
    /// A digest of what the time depends on.
    pub workload: Digest,
    /// Seconds per sample.
    pub seconds_per_sample: f64,
}

/// A run: written when it starts, replaced when it ends. What it names is a root for `gc`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RunRecord {
    /// The version of this record: 1.
    pub format: u32,
    /// See [`new_run_id`]: ids sort by time.
    pub id: String,
    /// The pipeline's name.
    pub pipeline: String,
    /// The pipeline's file, as given.
    pub file: String,
    /// The command line after the program's name.
    pub args: Vec<String>,
    /// Unix milliseconds.
    pub started_at: i64,
    /// Unix milliseconds.
    pub finished_at: Option<i64>,
    /// How it fared.
    pub status: RunStatus,
    /// Who runs it.
    pub holder: Holder,
    /// `cpu`, `cuda:0`.
    pub device: String,
    /// Numerics class.
    pub class: String,
    /// Threads.
    pub threads: usize,
    /// vadpipe's version.
    pub version: String,
    /// The stages, in plan order.
    pub stages: Vec<StageRun>,
    /// Keys of the states that its trainings would go on from as it began: those may have been saved for another
    /// training. What it saves itself is known by [`StateRecord::towards`].
    pub states: Vec<Key>,
}

/// The version of [`RunRecord`].
pub const RUN_FORMAT: u32 = 1;

impl RunRecord {
    /// Whether it is under way: not finished, and its process lives (or is on another machine).
    pub fn is_running(&self) -> bool {
        self.finished_at.is_none() && self.holder.may_live()
    }
}

/// A process at work.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holder {
    /// Process id.
    pub pid: u32,
    /// The machine.
    pub host: String,
    /// Unix milliseconds when it took what it holds.
    pub since: i64,
    /// The process's own start, in the kernel's ticks since boot: tells a pid that was given out again.
    pub start_ticks: u64,
}

impl BlobEntries for ResultRecord {
    fn blobs(&self) -> Vec<BlobEntry> {
        let tensors = self.manifest.tensors.values().map(|t| t.blob);
        tensors.chain(self.manifest.files.values().copied()).collect()
    }
}

impl BlobEntries for StateRecord {
    fn blobs(&self) -> Vec<BlobEntry> {
        self.tensors.values().map(|t| t.blob).collect()
    }
}

/// Whatever relies on blobs.
pub(super) trait BlobEntries {
    /// The blobs it relies on.
    fn blobs(&self) -> Vec<BlobEntry>;
}

impl Holder {
    /// This process, as of now.
    pub fn this_process() -> Self {
        // The same from the beginning to the end, but in a child that has been forked off.
        static START: std::sync::OnceLock<(u32, u64)> = std::sync::OnceLock::new();
        let pid = std::process::id();
        let own = || (pid, start_ticks(pid).unwrap_or(0));
        let (known, ticks) = *START.get_or_init(own);
        let start_ticks = if known == pid { ticks } else { own().1 };
        Self { pid, host: host_name(), since: now_ms(), start_ticks }
    }

    /// Somebody who has not left a name.
    pub fn unknown() -> Self {
        Self { pid: 0, host: String::new(), since: now_ms(), start_ticks: 0 }
    }

    /// "process 123 on lab7, since 2026-11-22 10:04:05 UTC".
    pub fn describe(&self) -> String {
        if self.pid == 0 {
            return "an unknown process".to_owned();
        }
        let since = jiff::Timestamp::from_millisecond(self.since).map(|t| t.strftime("%F %T UTC").to_string());
        format!("process {} on {}, since {}", self.pid, self.host, since.unwrap_or_default())
    }

    /// False only if it ran on this machine and is gone.
    pub fn may_live(&self) -> bool {
        self.host != host_name() || start_ticks(self.pid) == Some(self.start_ticks)
    }
}

/// A new run's id: UTC time, then process and a counter in hexadecimal, such as `20261122-100405-1f3a0`.
pub fn new_run_id() -> String {
    use std::sync::atomic::{AtomicU32, Ordering};
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let time = jiff::Timestamp::now().strftime("%Y%m%d-%H%M%S%3f");
    format!("{time}-{:x}{:x}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed) % 16)
}

/// Unix milliseconds.
pub(super) fn now_ms() -> i64 {
    jiff::Timestamp::now().as_millisecond()
}

/// The machine's name.
pub fn host_name() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

/// Field 22 of `/proc/PID/stat`; 0 where there is no such file system, none if there is no such process.
fn start_ticks(pid: u32) -> Option<u64> {
    match std::fs::read_to_string(format!("/proc/{pid}/stat")) {
        // The command's name, in parentheses, may hold spaces: fields are counted after the last one.
        Ok(stat) => stat.rsplit_once(')')?.1.split_whitespace().nth(19)?.parse().ok(),
        Err(_) if std::path::Path::new("/proc/self/stat").exists() => None,
        Err(_) => {
            let pid = rustix::process::Pid::from_raw(i32::try_from(pid).ok()?)?;
            rustix::process::test_kill_process(pid).ok().map(|()| 0)
        }
    }
}
