//! What the programs of Slurm print, and what it means.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use jiff::civil::DateTime;

use crate::event::WorkerCause;

/// The fields of `squeue --format` that [`Queued`] is made of.
pub(super) const QUEUE_FORMAT: &str = "%i|%T|%r|%N|%V|%S|%k";
/// The most tasks of an array.
const MAX_TASKS: usize = 1 << 20;
/// The fields of `sacct --format` that [`TaskEnd`] is made of.
pub(super) const ACCOUNT_FIELDS: &str = "JobID,State,ExitCode,NodeList,Submit,Start,End";

/// A task of a job array: `12_3`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::cli) struct TaskId {
    /// The id of the array.
    pub(in crate::cli) job: u64,
    /// The index of the task.
    pub(in crate::cli) index: u32,
}

impl fmt::Display for TaskId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}_{}", self.job, self.index)
    }
}

impl FromStr for TaskId {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let (job, index) = text.split_once('_').ok_or(())?;
        Ok(Self { job: job.parse().map_err(|_| ())?, index: index.parse().map_err(|_| ())? })
    }
}

/// A task in the queue, waiting or running.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::cli) struct Queued {
    pub(super) task: TaskId,
    pub(super) is_pending: bool,
    /// Why it waits: "Resources".
    pub(super) reason: String,
    pub(super) node: String,
    /// How long it waited, if it runs.
    pub(super) waited: Option<Duration>,
    /// The comment of its job.
    pub(super) comment: String,
}

/// The id of the job in the answer of `sbatch --parsable`: `12` or `12;cluster`.
pub(super) fn submitted(answer: &str) -> Option<u64> {
    answer.trim().split(';').next()?.parse().ok()
}

/// The tasks in an answer of `squeue --array`.
///
/// # Errors
/// The first line that does not describe a task.
pub(super) fn queue(answer: &str) -> Result<Vec<Queued>, String> {
    let lines = answer.lines().filter(|line| !line.trim().is_empty());
    lines.map(|line| queued(line).ok_or_else(|| line.chars().take(100).collect())).collect()
}

fn queued(line: &str) -> Option<Queued> {
    let [task, state, reason, node, submitted, started, comment] = fields(line)?;
    let is_pending = matches!(state, "PENDING" | "CONFIGURING" | "REQUEUED" | "SUSPENDED");
    Some(Queued {
        task: task.parse().ok()?,
        is_pending,
        reason: reason.to_owned(),
        node: node.to_owned(),
        waited: between(submitted, started).filter(|_| !is_pending),
        comment: comment.to_owned(),
    })
}

fn fields<const N: usize>(line: &str) -> Option<[&str; N]> {
    line.trim().splitn(N, '|').collect::<Vec<_>>().try_into().ok()
}

/// The time between two times in Slurm's format.
fn between(start: &str, end: &str) -> Option<Duration> {
    let (start, end): (DateTime, DateTime) = (start.parse().ok()?, end.parse().ok()?);
    Duration::try_from(end.duration_since(start)).ok()
}

/// Why a task ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::cli) enum Fate {
    Completed,
    TimeLimit,
    Preempted,
    OutOfMemory,
    NodeFailed,
    Cancelled,
    /// With this exit code.
    Failed(i32),
    /// By this signal.
    Killed(i32),
    /// Slurm does not say.
    Unknown,
}

impl Fate {
    /// That of a state and an exit code (`CODE:SIGNAL`) in Slurm's words.
    fn of(state: &str, exit: &str) -> Self {
        let (code, signal) = exit.split_once(':').unwrap_or((exit, "0"));
        let (code, signal): (i32, i32) = (code.parse().unwrap_or(0), signal.parse().unwrap_or(0));
        // `CANCELLED by 1000`, `CANCELLED+`.
        let state = state.split([' ', '+']).next().unwrap_or_default();
        match state {
            "COMPLETED" => Self::Completed,
            "TIMEOUT" | "DEADLINE" => Self::TimeLimit,
            "PREEMPTED" => Self::Preempted,
            "OUT_OF_MEMORY" => Self::OutOfMemory,
            "NODE_FAIL" | "BOOT_FAIL" | "LAUNCH_FAILED" => Self::NodeFailed,
            "CANCELLED" => Self::Cancelled,
            "FAILED" if signal > 0 => Self::Killed(signal),
            // A shell's way to say it.
            "FAILED" if code > 128 => Self::Killed(code - 128),
            "FAILED" => Self::Failed(code),
            _ => Self::Unknown,
        }
    }

    /// As the cause of a worker's end.
    pub(in crate::cli) fn cause(self) -> WorkerCause {
        match self {
            Self::Completed | Self::Unknown => WorkerCause::Unknown,
            Self::TimeLimit => WorkerCause::TimeLimit,
            Self::Preempted => WorkerCause::Preempted,
            Self::OutOfMemory => WorkerCause::OutOfMemory,
            Self::NodeFailed => WorkerCause::NodeFailed,
            Self::Cancelled => WorkerCause::Cancelled,
            Self::Failed(_) => WorkerCause::Failed,
            Self::Killed(_) => WorkerCause::Killed,
        }
    }

    /// What happened, to be read after "its job".
    pub(in crate::cli) fn words(self) -> String {
        match self {
            Self::Completed => "ended".to_owned(),
            Self::TimeLimit => "reached its time limit".to_owned(),
            Self::Preempted => "was preempted".to_owned(),
            Self::OutOfMemory => "ran out of memory".to_owned(),
            Self::NodeFailed => "lost its node".to_owned(),
            Self::Cancelled => "was cancelled".to_owned(),
            Self::Failed(code) => format!("failed with exit code {code}"),
            Self::Killed(signal) => format!("was killed by signal {signal}"),
            Self::Unknown => "disappeared".to_owned(),
        }
    }
}

/// How a task ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::cli) struct TaskEnd {
    pub(super) task: TaskId,
    pub(super) fate: Fate,
    pub(super) node: String,
    /// How long it waited in the queue.
    pub(super) waited: Option<Duration>,
    /// How long it ran.
    pub(super) ran: Option<Duration>,
}

impl TaskEnd {
    /// The end of a task of which Slurm knows nothing.
    pub(super) fn unknown(task: TaskId) -> Self {
        Self { task, fate: Fate::Unknown, node: String::new(), waited: None, ran: None }
    }
}

/// The tasks of a job in Slurm's list: `3`, `[0-2,5%4]`.
fn tasks(job: &str, list: &str) -> Option<Vec<TaskId>> {
    let job = job.parse().ok()?;
    let list = list.trim_matches(['[', ']']).split('%').next()?;
    let mut tasks = Vec::new();
    for part in list.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last): (u32, u32) = (first.parse().ok()?, last.parse().ok()?);
        tasks.extend((first..=last).take(MAX_TASKS).map(|index| TaskId { job, index }));
    }
    Some(tasks)
}

/// The ended tasks in an answer of `sacct --parsable2`.
pub(super) fn account(answer: &str) -> Vec<TaskEnd> {
    let end = |line: &str| {
        let [task, state, exit, node, submit, start, end] = fields(line)?;
        let (job, list) = task.split_once('_')?;
        let is_over = !matches!(state, "PENDING" | "RUNNING" | "COMPLETING" | "REQUEUED" | "SUSPENDED");
        let (waited, ran) = (between(submit, start), between(start, end));
        let (tasks, fate, node) = (tasks(job, list)?, Fate::of(state, exit), node.to_owned());
        is_over.then(|| tasks.into_iter().map(move |task| TaskEnd { task, fate, node: node.clone(), waited, ran }))
    };
    answer.lines().filter_map(end).flatten().collect()
}

/// The ended tasks in an answer of `scontrol show job --oneliner`.
pub(super) fn shown(answer: &str) -> Vec<TaskEnd> {
    let end = |line: &str| {
        let field = |name: &str| {
            line.split_ascii_whitespace().find_map(|word| word.strip_prefix(name)?.strip_prefix('=')).unwrap_or("")
        };
        let state = field("JobState");
        let is_over = !matches!(state, "PENDING" | "RUNNING" | "COMPLETING" | "SUSPENDED" | "CONFIGURING" | "");
        let tasks = tasks(field("ArrayJobId"), field("ArrayTaskId"))?;
        let (waited, ran) =
            (between(field("SubmitTime"), field("StartTime")), between(field("StartTime"), field("EndTime")));
        let (fate, node) = (Fate::of(state, field("ExitCode")), field("NodeList").to_owned());
        is_over.then(|| tasks.into_iter().map(move |task| TaskEnd { task, fate, node: node.clone(), waited, ran }))
    };
    answer.lines().filter_map(end).flatten().collect()
}

/// Whether a refusal of `sbatch` stays the same until the user acts. Otherwise it may pass: the controller is away, or
/// the user has too many jobs.
pub(super) fn is_final(refusal: &str) -> bool {
    if refusal.contains("time limit is invalid") {
        return true;
    }
    const FOR_NOW: [&str; 9] = [
        "Unable to contact",
        "timed out",
        "Connection refused",
        "temporarily",
        "Limit",
        "limit",
        "Zero Bytes",
        "Slurm controller",
        "down",
    ];
    !FOR_NOW.iter().any(|text| refusal.contains(text))
}

/// Whether a job that waits for this reason never starts, unless someone changes the job or the cluster.
pub(super) fn is_hopeless(reason: &str) -> bool {
    const NEVER: [&str; 6] = [
        "BadConstraints",
        "InvalidAccount",
        "InvalidQOS",
        "PartitionConfig",
        "PartitionNodeLimit",
        "PartitionTimeLimit",
    ];
    let is_limit_of_one_job = reason.contains("PerJob") && reason.contains("Max");
    NEVER.contains(&reason) || is_limit_of_one_job
}

/// Whether `sbatch` refuses an array because of its size.
pub(super) fn is_too_large(refusal: &str) -> bool {
    refusal.contains("array specification")
}

#[cfg(test)]
mod tests {
    use super::*;

    const TASK: TaskId = TaskId { job: 12, index: 3 };

    #[test]
    fn queue_is_read_and_nonsense_is_refused() {
        let answer = "12_3|RUNNING|None|n1|2026-11-26T17:00:00|2026-11-26T17:02:00|cpus=1\n\
                      12_4|PENDING|Resources||2026-11-26T17:00:00|N/A|cpus=1\n";
        let tasks = queue(answer).unwrap();
        assert_eq!((tasks[0].task, tasks[0].is_pending, &*tasks[0].node), (TASK, false, "n1"));
        assert_eq!(tasks[0].waited, Some(Duration::from_secs(120)));
        assert_eq!((tasks[1].is_pending, &*tasks[1].reason, tasks[1].waited), (true, "Resources", None));
        assert_eq!(queue("\n"), Ok(Vec::new()));
        for nonsense in ["welcome to the cluster", "12|RUNNING|||||", "12_3|RUNNING"] {
            assert_eq!(queue(nonsense), Err(nonsense.to_owned()));
        }
        assert_eq!(
            (submitted("12\n"), submitted("12;main"), submitted("Submitted batch job")),
            (Some(12), Some(12), None)
        );
    }

    #[test]
    fn end_of_a_task_is_named_by_its_state() {
        let fate = |state: &str, exit: &str| Fate::of(state, exit);
        assert_eq!(fate("CANCELLED by 1000", "0:15"), Fate::Cancelled);
        assert_eq!(fate("FAILED", "2:0"), Fate::Failed(2));
        assert_eq!(fate("FAILED", "0:9"), Fate::Killed(9));
        assert_eq!(fate("FAILED", "137:0"), Fate::Killed(9));
        assert_eq!(fate("OUT_OF_MEMORY", "0:125"), Fate::OutOfMemory);
        assert_eq!(fate("PREEMPTED", "0:15"), Fate::Preempted);
        assert_eq!(fate("NODE_FAIL", "0:0"), Fate::NodeFailed);
        assert_eq!(fate("STRANGE", ""), Fate::Unknown);
    }

    #[test]
    fn both_programs_tell_the_end_of_a_task() {
        let accounted = account(
            "12_3|TIMEOUT|0:15|n1|2026-11-26T17:00:00|2026-11-26T17:01:00|2026-11-26T17:03:00\n\
             12_4|RUNNING|0:0|n1|2026-11-26T17:00:00|2026-11-26T17:01:00|Unknown\n",
        );
        let shown = shown(
            "JobId=13 ArrayJobId=12 ArrayTaskId=3 JobName=x JobState=TIMEOUT Reason=TimeLimit ExitCode=0:15 \
             SubmitTime=2026-11-26T17:00:00 StartTime=2026-11-26T17:01:00 EndTime=2026-11-26T17:03:00 NodeList=n1\n\
             JobId=14 ArrayJobId=12 ArrayTaskId=4 JobState=RUNNING\n\
             JobId=15 ArrayJobId=12 ArrayTaskId=5-9 JobState=PENDING\n",
        );
        let (waited, ran) = (Some(Duration::from_secs(60)), Some(Duration::from_secs(120)));
        let end = TaskEnd { task: TASK, fate: Fate::TimeLimit, node: "n1".to_owned(), waited, ran };
        let cancelled = account("12_[0-2,5%4]|CANCELLED by 1000|0:0|None assigned|Unknown|Unknown|Unknown\n");
        let indices: Vec<u32> = cancelled.iter().map(|end| end.task.index).collect();
        assert_eq!((indices, cancelled[0].fate), (vec![0, 1, 2, 5], Fate::Cancelled));
        assert_eq!(accounted, std::slice::from_ref(&end));
        assert_eq!(shown, [end]);
    }

    #[test]
    fn refusals_that_may_pass_are_told_from_those_that_stay() {
        for passing in [
            "sbatch: error: Batch job submission failed: Unable to contact slurm controller (connect failure)",
            "sbatch: error: QOSMaxSubmitJobPerUserLimit",
            "sbatch: error: Batch job submission failed: Socket timed out on send/recv operation",
            "sbatch: error: Slurm temporarily unable to accept job, sleeping and retrying",
        ] {
            assert!(!is_final(passing), "{passing}");
        }
        for staying in [
            "sbatch: error: invalid partition specified: gpu",
            "sbatch: error: Batch job submission failed: Invalid account or account/partition combination specified",
            "sbatch: error: Batch job submission failed: Requested node configuration is not available",
            "sbatch: error: Invalid --time specification",
            "sbatch: error: Requested time limit is invalid (missing or exceeds some limit)",
        ] {
            assert!(is_final(staying), "{staying}");
        }
        assert!(["PartitionConfig", "QOSMaxCpuPerJobLimit"].into_iter().all(is_hopeless));
        assert!(!["Resources", "Priority", "QOSMaxJobsPerUserLimit", "PartitionDown"].into_iter().any(is_hopeless));
        assert!(is_too_large("sbatch: error: Batch job submission failed: Invalid job array specification"));
    }
}
