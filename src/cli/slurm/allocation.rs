//! What Slurm gives to a worker that runs in one of its jobs: cores, memory, and the time until the job ends.
//!
//! Slurm says it in variables of the environment, which `man sbatch` lists under "OUTPUT ENVIRONMENT VARIABLES". The
//! GPUs of a job are in CUDA_VISIBLE_DEVICES, as without Slurm. Options of the command line come before all of this.

use std::process::{Command, Stdio};
use std::time::Duration;

use jiff::Timestamp;

use crate::system::{cores, memory};

/// The longest time that a worker leaves before the end of its job, to save and push states.
const LONGEST_MARGIN: Duration = Duration::from_secs(60);
/// The part of the time that it leaves if that is shorter.
const MARGIN_PART: u32 = 5;

/// What a job has on this node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::cli) struct Allocation {
    /// Cores of a task.
    pub(in crate::cli) cpus: Option<u16>,
    /// Bytes of memory.
    pub(in crate::cli) memory: Option<u64>,
    /// The time until the worker should save its states.
    pub(in crate::cli) time: Option<Duration>,
}

impl Allocation {
    /// That of the job in which this process runs. Empty outside of Slurm. `asks_for_end` says whether to find out when
    /// the job ends.
    pub(in crate::cli) fn of_this_process(asks_for_end: bool) -> Self {
        let variable = |name: &str| std::env::var(name).ok();
        let found = Self::of(&variable, &|job| if asks_for_end { squeue(job) } else { None }, Timestamp::now());
        // A login node may be smaller than the job that its user has there.
        let most_cpus = u16::try_from(cores()).unwrap_or(u16::MAX);
        let (cpus, memory) = (found.cpus.map(|cpus| cpus.min(most_cpus)), found.memory.map(|m| m.min(memory())));
        Self { cpus, memory, ..found }
    }

    /// `queue` asks for the jobs of an id with the time that they have left, for versions before 23.02, which don't set
    /// a variable.
    fn of(variable: &dyn Fn(&str) -> Option<String>, queue: &dyn Fn(&str) -> Option<String>, now: Timestamp) -> Self {
        let Some(job) = variable("SLURM_JOB_ID") else { return Self::default() };
        let number = |name: &str| variable(name)?.parse::<u64>().ok().filter(|number| *number > 0);
        // `srun` starts several tasks on a node, which share it.
        let is_task = variable("SLURM_STEP_ID").is_some() && variable("SLURM_PROCID").is_some();
        let tasks = variable("SLURM_STEP_TASKS_PER_NODE").filter(|_| is_task).map_or(1, |tasks| first_number(&tasks));
        let of_node = |name: &str| Some((number(name)? / tasks).max(1));
        let cpus = number("SLURM_CPUS_PER_TASK").or_else(|| of_node("SLURM_CPUS_ON_NODE"));
        let megabytes = of_node("SLURM_MEM_PER_NODE").or_else(|| {
            let per_gpu = || Some(number("SLURM_MEM_PER_GPU")?.saturating_mul(of_node("SLURM_GPUS_ON_NODE")?));
            let per_cpu = || Some(number("SLURM_MEM_PER_CPU")?.saturating_mul(cpus?));
            per_cpu().or_else(per_gpu)
        });
        let (start, end) = (number("SLURM_JOB_START_TIME"), number("SLURM_JOB_END_TIME"));
        let set = || time_left(start?, end?, u64::try_from(now.as_second()).ok()?);
        let limit = || Some(Duration::from_secs(end?.checked_sub(start?)?));
        let left = set().or_else(|| left_in_queue(&queue(&job)?, &job)).or_else(limit);
        Self {
            cpus: cpus.map(|cpus| u16::try_from(cpus).unwrap_or(u16::MAX)),
            memory: megabytes.map(|megabytes| megabytes.saturating_mul(1 << 20)),
            time: left.map(time_to_work),
        }
    }
}

/// The time that a worker works if its job has this much time left.
pub(super) fn time_to_work(left: Duration) -> Duration {
    left.saturating_sub(LONGEST_MARGIN.min(left / MARGIN_PART))
}

/// The number at the start of a list such as `4(x2),3`; 1 if there is none.
fn first_number(list: &str) -> u64 {
    let digits = list.split(|c: char| !c.is_ascii_digit()).next().unwrap_or_default();
    digits.parse().unwrap_or(1).max(1)
}

/// The time that a job has left, by its start, its end and the time now, in Unix seconds. `None` if it does not run
/// now: the clock of this node is far from that of the controller, or the job was extended.
fn time_left(start: u64, end: u64, now: u64) -> Option<Duration> {
    (start..end).contains(&now).then(|| Duration::from_secs(end - now))
}

/// The jobs with this id and the time that they have left. An array has the id of one of its jobs.
fn squeue(job: &str) -> Option<String> {
    let mut command = Command::new("squeue");
    command.args(["--noheader", "--jobs", job, "--format", "%A %L"]);
    command.stdin(Stdio::null()).stderr(Stdio::null());
    String::from_utf8(command.output().ok()?.stdout).ok()
}

/// The time that a job has left: `1-02:03:04`, `5:00`. `None` if it has no limit.
fn left_in_queue(queue: &str, job: &str) -> Option<Duration> {
    let left = queue.lines().find_map(|line| line.trim().strip_prefix(job)?.strip_prefix(' '))?.trim();
    let (days, time) = left.split_once('-').unwrap_or(("0", left));
    let parts: Option<Vec<u64>> = time.split(':').map(|part| part.parse().ok()).collect();
    let seconds =
        parts.filter(|parts| (2..=3).contains(&parts.len()))?.into_iter().fold(0, |sum, part| sum * 60 + part);
    Some(Duration::from_secs(days.parse::<u64>().ok()? * 24 * 3600 + seconds))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn allocation(variables: &[(&str, &str)], left: Option<&str>) -> Allocation {
        let variables: BTreeMap<&str, &str> = variables.iter().copied().collect();
        let now = Timestamp::from_second(10_000).unwrap();
        let variable = |name: &str| variables.get(name).map(|text| (*text).to_owned());
        Allocation::of(&variable, &|job| left.filter(|_| job == "7").map(str::to_owned), now)
    }

    #[test]
    fn job_says_what_its_worker_has() {
        let variables = [
            ("SLURM_JOB_ID", "7"),
            ("SLURM_CPUS_PER_TASK", "4"),
            ("SLURM_CPUS_ON_NODE", "8"),
            ("SLURM_MEM_PER_NODE", "4000"),
            ("SLURM_JOB_START_TIME", "9000"),
            ("SLURM_JOB_END_TIME", "13600"),
        ];
        let minutes = |minutes: u64| Some(Duration::from_secs(60 * minutes));
        let expected = Allocation { cpus: Some(4), memory: Some(4000 << 20), time: minutes(59) };
        assert_eq!(allocation(&variables, None), expected);
        assert_eq!(allocation(&variables[1..], None), Allocation::default(), "this is not a job");
        let variables = [("SLURM_JOB_ID", "7"), ("SLURM_CPUS_ON_NODE", "2"), ("SLURM_MEM_PER_CPU", "100")];
        let asked = allocation(&variables, Some("70 2:00:00\n7 1:00\n8 1:00:00\n"));
        let task = [
            &variables[..],
            &[("SLURM_STEP_ID", "0"), ("SLURM_PROCID", "1"), ("SLURM_STEP_TASKS_PER_NODE", "2(x3),1")],
        ];
        let shared = allocation(&task.concat(), None);
        assert_eq!((shared.cpus, shared.memory), (Some(1), Some(100 << 20)), "two tasks share the node");
        assert_eq!(asked, Allocation { cpus: Some(2), memory: Some(200 << 20), time: Some(Duration::from_secs(48)) });
        for left in [None, Some("7 UNLIMITED"), Some("7 NOT_SET"), Some(""), Some("7 12"), Some("7 1:x")] {
            assert_eq!(allocation(&variables, left).time, None, "{left:?}");
        }
    }

    #[test]
    fn time_left_is_read_as_squeue_prints_it() {
        let left = |text: &str| left_in_queue(text, "7").map(|left| left.as_secs());
        assert_eq!(left("7 4:05"), Some(245));
        assert_eq!(left("7 1:02:03"), Some(3723));
        assert_eq!(left("7 2-00:00:01"), Some(2 * 86_400 + 1));
    }

    #[test]
    fn node_whose_clock_is_wrong_asks_slurm_or_has_the_time_of_its_job() {
        let left = |start, end, queue| {
            let variables = [("SLURM_JOB_ID", "7"), ("SLURM_JOB_START_TIME", start), ("SLURM_JOB_END_TIME", end)];
            allocation(&variables, queue).time.map(|time| time.as_secs())
        };
        // It is 10,000, and a fifth or a minute is left for saving.
        assert_eq!(left("9700", "10300", None), Some(240));
        for (start, end) in [("20000", "20600"), ("5000", "5600")] {
            assert_eq!((left(start, end, Some("7 4:00")), left(start, end, None)), (Some(192), Some(540)));
        }
        assert_eq!(left("20600", "20000", None), None);
    }
}
