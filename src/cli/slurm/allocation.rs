//! What Slurm gives to a worker that runs in one of its jobs: cores, memory, and the time until the job ends.
//!
//! Slurm says it in variables of the environment, which `man sbatch` lists under "OUTPUT ENVIRONMENT VARIABLES". The
//! GPUs of a job are in CUDA_VISIBLE_DEVICES, as without Slurm. Options of the command line come before all of this.

use std::process::{Command, Stdio};
use std::time::Duration;

use jiff::civil::DateTime;
use jiff::{Timestamp, Zoned};

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
        let found = Self::of(&variable, &|job| if asks_for_end { squeue(job) } else { None }, &Zoned::now());
        // A login node may be smaller than the job that its user has there.
        let most_cpus = u16::try_from(cores()).unwrap_or(u16::MAX);
        let (cpus, memory) = (found.cpus.map(|cpus| cpus.min(most_cpus)), found.memory.map(|m| m.min(memory())));
        Self { cpus, memory, ..found }
    }

    /// `queue` asks for the jobs of an id with their ends, for versions before 23.02, which don't set a variable.
    fn of(variable: &dyn Fn(&str) -> Option<String>, queue: &dyn Fn(&str) -> Option<String>, now: &Zoned) -> Self {
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
        let set = || Timestamp::from_second(i64::try_from(number("SLURM_JOB_END_TIME")?).ok()?).ok();
        let asked = || now.time_zone().to_timestamp(end_in_queue(&queue(&job)?, &job)?).ok();
        let left = set().or_else(asked).and_then(|end| Duration::try_from(end.duration_since(now.timestamp())).ok());
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

/// The jobs with this id and their ends, in local time. An array has the id of one of its jobs.
fn squeue(job: &str) -> Option<String> {
    let mut command = Command::new("squeue");
    command.args(["--noheader", "--jobs", job, "--format", "%A %e"]).env("SLURM_TIME_FORMAT", "standard");
    command.stdin(Stdio::null()).stderr(Stdio::null());
    String::from_utf8(command.output().ok()?.stdout).ok()
}

/// The end of a job. `None` if it has no limit.
fn end_in_queue(queue: &str, job: &str) -> Option<DateTime> {
    let end = queue.lines().find_map(|line| line.trim().strip_prefix(job)?.strip_prefix(' '))?;
    end.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn allocation(variables: &[(&str, &str)], end: Option<&str>) -> Allocation {
        let variables: BTreeMap<&str, &str> = variables.iter().copied().collect();
        let now: Zoned = "2026-11-26T17:00:00[UTC]".parse().unwrap();
        let variable = |name: &str| variables.get(name).map(|text| (*text).to_owned());
        Allocation::of(&variable, &|job| end.filter(|_| job == "7").map(str::to_owned), &now)
    }

    #[test]
    fn job_says_what_its_worker_has() {
        let variables = [
            ("SLURM_JOB_ID", "7"),
            ("SLURM_CPUS_PER_TASK", "4"),
            ("SLURM_CPUS_ON_NODE", "8"),
            ("SLURM_MEM_PER_NODE", "4000"),
            ("SLURM_JOB_END_TIME", "1795716000"),
        ];
        let minutes = |minutes: u64| Some(Duration::from_secs(60 * minutes));
        let expected = Allocation { cpus: Some(4), memory: Some(4000 << 20), time: minutes(59) };
        assert_eq!(allocation(&variables, None), expected);
        assert_eq!(allocation(&variables[1..], None), Allocation::default(), "this is not a job");
        let variables = [("SLURM_JOB_ID", "7"), ("SLURM_CPUS_ON_NODE", "2"), ("SLURM_MEM_PER_CPU", "100")];
        let asked =
            allocation(&variables, Some("70 2026-11-26T19:00:00\n7 2026-11-26T17:01:00\n8 2026-11-26T18:00:00\n"));
        let task = [
            &variables[..],
            &[("SLURM_STEP_ID", "0"), ("SLURM_PROCID", "1"), ("SLURM_STEP_TASKS_PER_NODE", "2(x3),1")],
        ];
        let shared = allocation(&task.concat(), None);
        assert_eq!((shared.cpus, shared.memory), (Some(1), Some(100 << 20)), "two tasks share the node");
        assert_eq!(asked, Allocation { cpus: Some(2), memory: Some(200 << 20), time: Some(Duration::from_secs(48)) });
        for end in [None, Some("7 NONE"), Some(""), Some("7 2026-11-26T16:00:00")] {
            assert_eq!(allocation(&variables, end).time, None, "{end:?}");
        }
    }
}
