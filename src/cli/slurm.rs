//! What Slurm gives to a worker that runs in one of its jobs: cores, memory, and the time until the job ends.
//!
//! Slurm says it in variables of the environment, which `man sbatch` lists under "OUTPUT ENVIRONMENT VARIABLES". The GPUs
//! of a job are in CUDA_VISIBLE_DEVICES, as without Slurm. Options of the command line come before all of this.

use std::process::{Command, Stdio};
use std::time::Duration;

use jiff::civil::DateTime;
use jiff::{Timestamp, Zoned};

/// The longest time that a worker leaves before the end of its job, to save and push states.
const LONGEST_MARGIN: Duration = Duration::from_secs(60);
/// The part of the time that it leaves if that is shorter.
const MARGIN_PART: u32 = 5;

/// What a job has on this node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Allocation {
    /// Cores of a task.
    pub(super) cpus: Option<u16>,
    /// Bytes of memory.
    pub(super) memory: Option<u64>,
    /// The time until the worker should save its states.
    pub(super) time: Option<Duration>,
}

impl Allocation {
    /// That of the job in which this process runs. Empty outside of Slurm.
    pub(super) fn of_this_process() -> Self {
        let variable = |name: &str| std::env::var(name).ok();
        Self::of(&variable, &|job| squeue(job), &Zoned::now())
    }

    /// `end` asks for the end of a job, for versions before 23.02, which don't set a variable.
    fn of(variable: &dyn Fn(&str) -> Option<String>, end: &dyn Fn(&str) -> Option<String>, now: &Zoned) -> Self {
        let Some(job) = variable("SLURM_JOB_ID") else { return Self::default() };
        let number = |name: &str| variable(name)?.parse::<u64>().ok().filter(|number| *number > 0);
        let cpus = number("SLURM_CPUS_PER_TASK").or_else(|| number("SLURM_CPUS_ON_NODE"));
        let megabytes = number("SLURM_MEM_PER_NODE").or_else(|| {
            let per_gpu = || Some(number("SLURM_MEM_PER_GPU")?.saturating_mul(number("SLURM_GPUS_ON_NODE")?));
            let per_cpu = || Some(number("SLURM_MEM_PER_CPU")?.saturating_mul(number("SLURM_CPUS_ON_NODE")?));
            per_cpu().or_else(per_gpu)
        });
        let set = number("SLURM_JOB_END_TIME").and_then(|end| Timestamp::from_second(i64::try_from(end).ok()?).ok());
        let asked = || now.time_zone().to_timestamp(end(&job)?.trim().parse::<DateTime>().ok()?).ok();
        let left = set.or_else(asked).and_then(|end| Duration::try_from(end.duration_since(now.timestamp())).ok());
        Self {
            cpus: cpus.map(|cpus| u16::try_from(cpus).unwrap_or(u16::MAX)),
            memory: megabytes.map(|megabytes| megabytes.saturating_mul(1 << 20)),
            time: left.map(|left| left.saturating_sub(LONGEST_MARGIN.min(left / MARGIN_PART))),
        }
    }
}

/// When a job ends, in local time; a word such as `NONE` for a job without a limit.
fn squeue(job: &str) -> Option<String> {
    let mut command = Command::new("squeue");
    command.args(["--noheader", "--jobs", job, "--format", "%e"]).stdin(Stdio::null()).stderr(Stdio::null());
    String::from_utf8(command.output().ok()?.stdout).ok()
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
        let asked = allocation(&variables, Some("2026-11-26T17:01:00\n"));
        assert_eq!(asked, Allocation { cpus: Some(2), memory: Some(200 << 20), time: Some(Duration::from_secs(48)) });
        for end in [None, Some("NONE"), Some(""), Some("2026-11-26T16:00:00")] {
            assert_eq!(allocation(&variables, end).time, None, "{end:?}");
        }
    }
}
