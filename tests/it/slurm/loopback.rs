//! A Slurm of two nodes on this machine. `VADPIPE_SLURM` names the folder in which `tests/slurm/up.sh` has started it.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::support::{CommandOutput, MINI, Project, Run, text};
use crate::workers::ended;

/// Twelve trainings of twelve seconds: Slurm notices after ten that a node is gone.
const SWEEP: &str = r#"
[pipeline]
name = "sweep"
seed = 7

[stages.net]
kind = "train-command"
argv = ["python3", "train.py"]
matrix = { lr = [0.01, 0.02, 0.03, 0.04, 0.05, 0.06, 0.07, 0.08, 0.09, 0.10, 0.11, 0.12] }
segment_epochs = 5
epochs = 40

[stages.net.start]
width = 4

[stages.net.epoch]
lr = "${matrix.lr}"
"#;

/// Its epochs take a moment.
const SCRIPT: &str =
    concat!("import time\n\ndef HOOK(epoch):\n    time.sleep(0.3)\n\n", include_str!("../training/train.py"));

const GPUS: &str = r#"
[pipeline]
name = "gpus"

[stages.a]
kind = "command"
matrix = { i = [1, 2, 3] }
argv = ["sh", "-c", "echo \"$CUDA_VISIBLE_DEVICES\" > out", "${matrix.i}"]
outputs = { out = "out" }
resources = { gpus = 1 }
"#;

/// The cluster, for one test at a time.
struct Loopback {
    folder: PathBuf,
    _alone: MutexGuard<'static, ()>,
}

impl Loopback {
    /// `None` if there is none.
    #[expect(clippy::print_stderr, reason = "it says why a test did nothing")]
    fn new() -> Option<Self> {
        static ALONE: Mutex<()> = Mutex::new(());
        let Some(folder) = std::env::var_os("VADPIPE_SLURM") else {
            eprintln!("VADPIPE_SLURM is not set: the workers were not run on a real Slurm");
            return None;
        };
        Some(Self { folder: folder.into(), _alone: ALONE.lock().unwrap_or_else(PoisonError::into_inner) })
    }

    fn start(&self, project: &Project, more: &[&str]) -> std::process::Child {
        let args = ["run", "p.toml", "--json", "--on", "slurm", "--store", "store", "--store-write"];
        let mut command = project.command(args.iter().chain(&["-E", "slurm.poll=1s"]).chain(more));
        command.env("SLURM_CONF", self.folder.join("slurm.conf")).spawn().expect("vadpipe starts")
    }

    fn run(&self, project: &Project, more: &[&str]) -> Run {
        Run::of(ended(self.start(project, more)))
    }

    /// Runs one of Slurm's programs. Returns what it prints.
    fn slurm(&self, program: &str, args: &[&str]) -> String {
        let mut command = Command::new(program);
        command.args(args).env("SLURM_CONF", self.folder.join("slurm.conf")).stdin(Stdio::null());
        let output = CommandOutput::of(command.output().expect("the program starts"));
        assert_eq!(output.code, 0, "{program}: {}", output.stderr);
        output.stdout
    }

    /// Waits until this many jobs run.
    fn wait_for_workers(&self, count: usize) {
        let begun = Instant::now();
        while self.slurm("squeue", &["--noheader", "--states=RUNNING"]).lines().count() < count {
            assert!(begun.elapsed() < Duration::from_secs(60), "{count} workers never ran");
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// Calls one of the scripts that start and kill parts of the cluster.
    fn script(&self, name: &str, part: &str) {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/slurm").join(name);
        let status = Command::new(script).arg(&self.folder).arg(part).stdin(Stdio::null()).status();
        assert!(status.expect("the script starts").success(), "{name} {part}");
    }
}

#[test]
fn sweep_whose_driver_and_node_were_killed_and_that_was_preempted_gives_the_digests_of_a_plain_run() {
    let Some(cluster) = Loopback::new() else { return };
    let Some(project) = Project::with_script(SWEEP, SCRIPT) else { return };
    let mut first = cluster.start(&project, &[]);
    cluster.wait_for_workers(8);
    first.kill().expect("it is killed");
    first.wait().expect("it has ended");
    let second = cluster.start(&project, &[]);
    cluster.script("stop.sh", "n1");
    // It needs all memory of the other node.
    cluster.slurm(
        "sbatch",
        &["--partition=urgent", "--nodelist=n2", "--mem=4000", "--output=/dev/null", "--wrap=sleep 2"],
    );
    let run = Run::of(ended(second));
    assert_eq!(run.output.code, 0, "{}\n{}", run.output.stdout, run.output.stderr);
    let lost = run.of_kind("worker-ended").filter(|event| event["is_lost"] == true);
    let lost: Vec<String> = lost.map(|event| text(&event["why"])).collect();
    assert!(lost.iter().any(|why| why.starts_with("its job lost its node")), "{lost:?}");
    let plain = Project::with_script(SWEEP, SCRIPT).expect("Python");
    plain.run(&[]);
    assert_eq!(project.digests(), plain.digests());
    cluster.script("start.sh", "n1");
}

#[test]
fn pipeline_with_every_kind_of_dependency_runs_while_the_controller_is_away() {
    let Some(cluster) = Loopback::new() else { return };
    let project = Project::new(MINI);
    let driver = cluster.start(&project, &[]);
    cluster.wait_for_workers(1);
    cluster.script("stop.sh", "controller");
    std::thread::sleep(Duration::from_secs(3));
    cluster.script("start.sh", "controller");
    let run = Run::of(ended(driver));
    assert_eq!(run.output.code, 0, "{}\n{}", run.output.stdout, run.output.stderr);
    let plain = Project::new(MINI);
    plain.run(&[]);
    assert_eq!(project.digests(), plain.digests());
}

#[test]
fn programs_get_the_gpus_of_their_jobs() {
    let Some(cluster) = Loopback::new() else { return };
    let project = Project::new(GPUS);
    let run = cluster.run(&project, &[]);
    assert_eq!(run.output.code, 0, "{}\n{}", run.output.stdout, run.output.stderr);
    let output = project.vadpipe(["export", "p.toml", "a", "--to", "out"]);
    assert_eq!(output.code, 0, "{}", output.stderr);
    for i in 1..=3 {
        let given = project.read(&format!("out/a@i={i}/out"));
        assert!(matches!(given.trim(), "0" | "1"), "one GPU of the node: {given:?}");
    }
}

#[test]
fn refusals_of_slurm_are_told_in_its_words() {
    let Some(cluster) = Loopback::new() else { return };
    let project = Project::new(GPUS);
    for (setting, message) in [
        ("slurm.partition=gpu", "invalid partition specified: gpu"),
        ("slurm.cpus=100", "they wait for the reason PartitionConfig"),
        ("slurm.options=--no-such-option", "no-such-option"),
    ] {
        let run = cluster.run(&project, &["-E", setting]);
        assert_eq!(run.output.code, 2, "{setting}: {}\n{}", run.output.stdout, run.output.stderr);
        assert!(run.output.stderr.contains(message), "{setting}: {}", run.output.stderr);
    }
    // A job that some user cancels.
    let driver = cluster.start(&project, &["-E", "slurm.options=--hold"]);
    let begun = Instant::now();
    loop {
        let queue = cluster.slurm("squeue", &["--noheader", "--array", "--format=%i"]);
        if let Some(task) = queue.lines().next() {
            cluster.slurm("scancel", &[task.trim()]);
            break;
        }
        assert!(begun.elapsed() < Duration::from_secs(60), "no job is in the queue");
        std::thread::sleep(Duration::from_millis(100));
    }
    let run = Run::of(ended(driver));
    assert_eq!(run.output.code, 130, "{}\n{}", run.output.stdout, run.output.stderr);
}
