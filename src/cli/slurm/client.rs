//! Calls the programs of Slurm.

use std::cell::Cell;
use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::mpsc::channel;
use std::thread;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use super::allocation::time_to_work;
use super::answers::{self, ACCOUNT_FIELDS, QUEUE_FORMAT, Queued, TaskEnd, TaskId};
use super::class::{Class, limit};
use super::site::Site;
use crate::error::{Error, Result};

/// A program that takes longer is ended. `sbatch` tries for long by itself when the controller is away.
const LONGEST: Duration = Duration::from_secs(120);
/// Variables that change what the programs other than `sbatch` show and end.
const FILTERS: [&str; 4] = ["SQUEUE_", "SCANCEL_", "SACCT_", "SLURM_CLUSTERS"];
/// How much of a program's error output is shown.
const MAX_MESSAGE: usize = 500;

/// An array of workers to be submitted.
pub(in crate::cli) struct Submission<'a> {
    /// The name of the job.
    pub(in crate::cli) name: &'a str,
    /// What the points need.
    pub(in crate::cli) class: Class,
    /// What the workers get.
    pub(in crate::cli) terms: Class,
    /// The longest time of a stage that can't be interrupted.
    pub(in crate::cli) time: Option<Duration>,
    /// How many workers.
    pub(in crate::cli) count: usize,
    /// Nodes that failed.
    pub(in crate::cli) excluded: &'a BTreeSet<String>,
    /// The folder for what the jobs print.
    pub(in crate::cli) outputs: &'a Path,
    /// The arguments of `vadpipe`.
    pub(in crate::cli) arguments: &'a [String],
    /// Where vadpipe is on this machine.
    pub(in crate::cli) program: &'a str,
}

/// Why `sbatch` did not take a job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::cli) enum Refused {
    /// It never will.
    Final(String),
    /// It may later.
    ForNow(String),
    /// Its array is too large.
    TooLarge,
}

/// The programs of Slurm.
pub(in crate::cli) struct Client<'a> {
    site: &'a Site,
    /// Whether the cluster keeps accounts, as far as known.
    has_accounts: Cell<bool>,
}

impl<'a> Client<'a> {
    pub(in crate::cli) fn new(site: &'a Site) -> Self {
        Self { site, has_accounts: Cell::new(true) }
    }

    /// Fails if there is no `sbatch` (exit code 2).
    pub(in crate::cli) fn check(&self) -> Result<()> {
        let mut command = Command::new("sbatch");
        command.arg("--version");
        call(command, "").map(drop).map_err(|why| {
            Error::bad_input(format!("can't use Slurm: {why}"))
                .hint("run this on a login node of the cluster, or use `--on local:N`")
        })
    }

    /// Submits an array. Returns the id of its job.
    pub(in crate::cli) fn submit(&self, submission: &Submission<'_>) -> Result<u64, Refused> {
        let mut command = Command::new("sbatch");
        command.args(options(submission, self.site));
        let answer = call(command, &script(submission, self.site)).map_err(|why| {
            if answers::is_too_large(&why) && submission.count > 1 {
                Refused::TooLarge
            } else if answers::is_final(&why) {
                Refused::Final(why)
            } else {
                Refused::ForNow(why)
            }
        })?;
        answers::submitted(&answer).ok_or_else(|| {
            let answer: String = answer.trim().chars().take(100).collect();
            Refused::Final(format!("sbatch answered something else than the id of a job: {answer:?}"))
        })
    }

    /// The tasks of the jobs with this name that wait or run.
    ///
    /// # Errors
    /// Why it can't be known now.
    pub(in crate::cli) fn queue(&self, name: &str) -> Result<Vec<Queued>, String> {
        let mut command = Command::new("squeue");
        command.args(["--noheader", "--array", "--me", "--name", name, "--format", QUEUE_FORMAT]);
        let answer = call(command, "")?;
        answers::queue(&answer).map_err(|line| format!("squeue answered something else than a list of jobs: {line:?}"))
    }

    /// How these tasks ended. Few clusters keep no accounts; their controller remembers jobs for some minutes.
    pub(in crate::cli) fn ends(&self, tasks: &BTreeSet<TaskId>) -> Vec<TaskEnd> {
        let mut known = self.known_ends(tasks);
        known.retain(|end| tasks.contains(&end.task));
        let named: BTreeSet<TaskId> = known.iter().map(|end| end.task).collect();
        known.extend(tasks.difference(&named).map(|task| TaskEnd::unknown(*task)));
        known
    }

    fn known_ends(&self, tasks: &BTreeSet<TaskId>) -> Vec<TaskEnd> {
        let mut known = Vec::new();
        if self.has_accounts.get() {
            let names: Vec<String> = tasks.iter().map(TaskId::to_string).collect();
            let mut command = Command::new("sacct");
            command.args(["--allocations", "--noheader", "--parsable2", "--format", ACCOUNT_FIELDS]);
            command.args(["--jobs", &names.join(",")]);
            match call(command, "") {
                Ok(answer) => known = answers::account(&answer),
                Err(_) => self.has_accounts.set(false),
            }
        }
        // Accounts may lag behind.
        let is_known = |task: &&TaskId| known.iter().any(|end| end.task == **task);
        let jobs: BTreeSet<u64> = tasks.iter().filter(|task| !is_known(task)).map(|task| task.job).collect();
        let show = |job: u64| {
            let mut command = Command::new("scontrol");
            command.args(["--oneliner", "show", "job", &job.to_string()]);
            call(command, "").map(|answer| answers::shown(&answer)).unwrap_or_default()
        };
        let shown: Vec<TaskEnd> = jobs.into_iter().flat_map(show).collect();
        let is_new = |end: &TaskEnd| !known.iter().any(|known| known.task == end.task);
        let new: Vec<TaskEnd> = shown.into_iter().filter(is_new).collect();
        known.extend(new);
        known
    }

    /// Removes the jobs with this name that wait, and asks the workers of those that run to save and leave.
    ///
    /// # Errors
    /// If `scancel` fails.
    pub(in crate::cli) fn stop(&self, name: &str) -> Result<(), String> {
        let pending = scancel(&["--state", "PENDING", "--name", name]);
        let running = scancel(&["--signal", "TERM", "--batch", "--state", "RUNNING", "--name", name]);
        pending.and(running)
    }

    /// Ends the jobs with this name.
    ///
    /// # Errors
    /// If `scancel` fails.
    pub(in crate::cli) fn kill(&self, name: &str) -> Result<(), String> {
        scancel(&["--name", name])
    }
}

fn scancel(arguments: &[&str]) -> Result<(), String> {
    let mut command = Command::new("scancel");
    command.arg("--me").args(arguments);
    call(command, "").map(drop)
}

fn options(submission: &Submission<'_>, site: &Site) -> Vec<String> {
    let Submission { name, class, terms, time, count, excluded, outputs, .. } = submission;
    let mut options = vec![
        "--parsable".to_owned(),
        "--no-requeue".to_owned(),
        format!("--job-name={name}"),
        format!("--comment={}", class.with_terms(terms)),
        format!("--array=0-{}", count - 1),
        format!("--output={}", outputs.join("%A_%a.out").display()),
    ];
    options.extend(terms.options(site, *time));
    let settings = [
        ("partition", &site.partition),
        ("account", &site.account),
        ("qos", &site.qos),
        ("constraint", &site.constraint),
    ];
    options.extend(settings.into_iter().filter_map(|(name, value)| Some(format!("--{name}={}", value.as_ref()?))));
    if !excluded.is_empty() {
        let nodes: Vec<&str> = excluded.iter().map(String::as_str).collect();
        options.push(format!("--exclude={}", nodes.join(",")));
    }
    options.extend(site.options.iter().cloned());
    options
}

/// The script of a job. It becomes the worker, so that signals reach it.
fn script(submission: &Submission<'_>, site: &Site) -> String {
    let program = site.program.as_deref().unwrap_or(submission.program);
    let words = std::iter::once(program).chain(submission.arguments.iter().map(String::as_str));
    // An argument can't contain a NUL.
    let command = shlex::try_join(words).unwrap_or_default();
    let mut script = "#!/bin/bash\n".to_owned();
    for line in &site.setup {
        let _ = writeln!(script, "{line}");
    }
    let prefix = if site.prefix.is_empty() { String::new() } else { format!("{} ", site.prefix) };
    let _ = write!(script, "exec {prefix}{command} --name slurm-${{SLURM_ARRAY_JOB_ID}}_${{SLURM_ARRAY_TASK_ID}}");
    let Submission { class, terms, .. } = submission;
    let _ = write!(script, " --class {}", class.with_terms(terms));
    if terms.with_twice_the_memory(class.memory.unwrap_or(0), site.max_memory).is_some() {
        script.push_str(" --leave-without-memory");
    }
    if let Some(memory) = class.memory.filter(|_| terms != class) {
        // What it has more is for stages that need more than they say, and not for more of them at a time.
        let _ = write!(script, " --memory {memory}MiB");
    }
    if let Some(limit) = limit(site, submission.time) {
        // So that the worker needs not ask Slurm. SECONDS is the time since the shell started.
        let _ = write!(script, " --until $(({} - SECONDS))", time_to_work(limit).as_secs());
    }
    script.push('\n');
    script
}

/// Runs a program with this input. Returns what it prints.
///
/// # Errors
/// Why it failed, in its own words.
fn call(mut command: Command, input: &str) -> Result<String, String> {
    let program = command.get_program().to_string_lossy().into_owned();
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    // The format of times that `answers` reads.
    command.env("SLURM_TIME_FORMAT", "standard");
    // They would hide jobs.
    let is_filter = |name: &str| FILTERS.iter().any(|filter| name.starts_with(filter));
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_str().is_some_and(is_filter)) {
        command.env_remove(name);
    }
    let failed = |error: io::Error| match error.kind() {
        io::ErrorKind::NotFound => format!("there is no `{program}`"),
        _ => format!("can't run `{program}`: {error}"),
    };
    let mut child = command.spawn().map_err(failed)?;
    if let Some(mut stdin) = child.stdin.take() {
        // It may not read its input, if it refuses the options.
        let _ = stdin.write_all(input.as_bytes());
    }
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    let (sender, output) = channel();
    thread::Builder::new().spawn(move || drop(sender.send(child.wait_with_output()))).map_err(failed)?;
    let Ok(output) = output.recv_timeout(LONGEST) else {
        // The thread that waits for it goes on.
        let _ = pid.map(|pid| kill_process(pid, Signal::KILL));
        return Err(format!("`{program}` timed out after {} s", LONGEST.as_secs()));
    };
    let Output { status, stdout, stderr } = output.map_err(failed)?;
    if status.success() {
        return Ok(String::from_utf8_lossy(&stdout).into_owned());
    }
    let text = String::from_utf8_lossy(&stderr);
    let text: String = text.trim().chars().take(MAX_MESSAGE).collect();
    Err(if text.is_empty() { format!("`{program}` failed: {status}") } else { text })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn script_becomes_the_worker_and_options_name_the_array() {
        let excluded = BTreeSet::from(["n1".to_owned(), "n2".to_owned()]);
        let arguments = ["worker", "--run", "r 1", "--store", "/s"].map(str::to_owned);
        let submission = Submission {
            name: "vadpipe-r1",
            class: Class { cpus: 2, memory: Some(1000), gpus: 0 },
            terms: Class { cpus: 2, memory: Some(2000), gpus: 0 },
            time: Some(Duration::from_secs(3600)),
            count: 8,
            excluded: &excluded,
            outputs: Path::new("/logs"),
            arguments: &arguments,
            program: "/opt/my programs/vadpipe",
        };
        let site = Site {
            partition: Some("main".to_owned()),
            options: vec!["--exclusive".to_owned()],
            setup: vec!["module load python".to_owned()],
            prefix: "apptainer exec image.sif".to_owned(),
            ..Site::default()
        };
        insta::assert_snapshot!(options(&submission, &site).join("\n") + "\n\n" + &script(&submission, &site), @r"
        --parsable
        --no-requeue
        --job-name=vadpipe-r1
        --comment=cpus=2,memory=1000,gpus=0,has=2000
        --array=0-7
        --output=/logs/%A_%a.out
        --ntasks=1
        --cpus-per-task=2
        --mem=2000M
        --time=65
        --partition=main
        --exclude=n1,n2
        --exclusive

        #!/bin/bash
        module load python
        exec apptainer exec image.sif '/opt/my programs/vadpipe' worker --run 'r 1' --store /s --name slurm-${SLURM_ARRAY_JOB_ID}_${SLURM_ARRAY_TASK_ID} --class cpus=2,memory=1000,gpus=0,has=2000 --leave-without-memory --memory 1000MiB --until $((3840 - SECONDS))
        ");
    }

    #[test]
    fn program_that_fails_says_why_in_its_own_words() {
        let shell = |text: &str| {
            let mut command = Command::new("sh");
            command.args(["-c", text]);
            call(command, "input")
        };
        assert_eq!(shell("cat").as_deref(), Ok("input"));
        assert_eq!(shell("echo refused >&2; exit 1"), Err("refused".to_owned()));
        assert_eq!(shell("exit 3"), Err("`sh` failed: exit status: 3".to_owned()));
        assert_eq!(call(Command::new("no-such-program"), ""), Err("there is no `no-such-program`".to_owned()));
    }
}
