//! `run --on slurm`: with stand-ins for the programs of Slurm, which start workers as processes, and on a real Slurm.

mod loopback;
mod stand_in;

use std::os::unix::fs::PermissionsExt as _;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::Value;

use self::stand_in::{POLL, StandIn};
use crate::support::{Project, Run, signal, text, wait_for};
use crate::workers::{ended, plain_digests, training};

/// Four points that append their names to a file, and one that reads them all. Points wait while there is a file
/// `block`.
const SWEEP: &str = r#"
[pipeline]
name = "sweep"

[stages.first]
kind = "command"
matrix = { i = [1, 2, 3, 4] }
argv = ["sh", "-c", "echo first-$0 >> \"$1/signals/ran\"; while [ -e \"$1/signals/block\" ]; do touch \"$1/signals/blocked\"; sleep 0.01; done; echo $0 > out; echo made $0", "i${matrix.i}", "{base}"]
outputs = { out = "out" }

[stages.all]
kind = "command"
inputs = { before = ["first@*"] }
argv = ["sh", "-c", "echo all >> \"$1/signals/ran\"; cat \"$0\"/*/out > out", "{inputs.before}", "{base}"]
outputs = { out = "out" }
"#;

fn project() -> Project {
    let project = Project::new(SWEEP);
    project.write("signals/.keep", "");
    with_path(project)
}

/// Workers have a copy of the project, so programs find the files of the test by an absolute path.
fn with_path(project: Project) -> Project {
    project.edit("\"{base}\"", &format!("{:?}", project.path("")));
    project
}

fn long_training() -> Option<Project> {
    training().map(with_path)
}

/// Starts a run on the cluster.
fn start(project: &Project, cluster: &StandIn, more: &[&str]) -> std::process::Child {
    let args = ["run", "p.toml", "--json", "--on", "slurm", "--store", "store", "--store-write", "-E", POLL];
    cluster.command(project, args.iter().chain(more)).spawn().expect("vadpipe starts")
}

fn run(project: &Project, cluster: &StandIn, more: &[&str]) -> Run {
    Run::of(ended(start(project, cluster, more)))
}

fn assert_ok(run: &Run) {
    assert_eq!(run.output.code, 0, "{}\n{}", run.output.stdout, run.output.stderr);
    assert_eq!(run.last()["status"], "ok");
}

/// The executions that the points have noted, sorted.
fn ran(project: &Project) -> Vec<String> {
    let mut lines: Vec<String> = project.read("signals/ran").lines().map(str::to_owned).collect();
    lines.sort();
    lines
}

const EACH_ONCE: [&str; 5] = ["all", "first-i1", "first-i2", "first-i3", "first-i4"];

/// Starts a run on the cluster, and waits until a point waits in the middle of its work.
fn start_blocked(project: &Project, cluster: &StandIn, more: &[&str]) -> std::process::Child {
    project.write("signals/block", "");
    let driver = start(project, cluster, more);
    wait_for(&project.path("signals/blocked"));
    driver
}

fn unblock(project: &Project) {
    std::fs::remove_file(project.path("signals/block")).expect("removed");
}

/// A run that is refused: exit code 2 with this message, and no worker is left.
fn is_refused(project: &Project, cluster: &StandIn, more: &[&str], message: &str) {
    let run = run(project, cluster, more);
    assert_eq!(run.output.code, 2, "{}\n{}", run.output.stdout, run.output.stderr);
    assert!(run.output.stderr.contains(message), "{}", run.output.stderr);
    assert!(cluster.is_idle(), "no worker is left");
}

fn warnings(run: &Run) -> Vec<String> {
    run.of_kind("warning").map(|event| text(&event["message"])).collect()
}

#[test]
fn sweep_on_a_cluster_runs_each_point_once_with_the_digests_of_a_plain_run() {
    let (project, cluster) = (project(), StandIn::new());
    let run = run(&project, &cluster, &[]);
    assert_ok(&run);
    assert_eq!(ran(&project), EACH_ONCE);
    assert!(run.of_kind("stage-started").all(|event| text(&event["worker"]).starts_with("slurm-")));
    let started: Vec<String> = run.of_kind("worker-started").map(|event| text(&event["worker"])).collect();
    let left: Vec<String> = run.of_kind("worker-ended").map(|event| text(&event["worker"])).collect();
    assert!(started.len() >= 4 && left.len() >= started.len() - 1, "{started:?} {left:?}");
    let log = project.vadpipe(["log", "last", "--stage", "first@i=3"]);
    assert!(log.stdout.contains("made i3"), "{}{}", log.stdout, log.stderr);
    assert!(cluster.calls("sbatch") <= 3 && cluster.calls("sacct") <= 1, "{}", cluster.all_calls());
    assert!(cluster.is_idle(), "no worker is left");
    let plain = self::project();
    plain.run(&[]);
    assert_eq!(project.digests(), plain.digests());
    // Nothing is left to do, so Slurm is only asked whether it is there.
    cluster.forget_calls();
    assert_ok(&self::run(&project, &cluster, &[]));
    assert_eq!(
        (ran(&project), cluster.all_calls()),
        (EACH_ONCE.map(str::to_owned).to_vec(), "sbatch --version\n".to_owned())
    );
}

#[test]
fn run_whose_driver_was_killed_goes_on_with_the_same_workers() {
    let (project, cluster) = (project(), StandIn::new());
    let mut driver = start_blocked(&project, &cluster, &[]);
    driver.kill().expect("it is killed");
    driver.wait().expect("it has ended");
    let second = start(&project, &cluster, &[]);
    // A third one finds that the run is watched.
    cluster.wait_for_calls("squeue", 3);
    let third = run(&project, &cluster, &[]);
    assert_eq!(third.output.code, 4, "{}", third.output.stderr);
    assert!(third.output.stderr.contains("another vadpipe watches this run"), "{}", third.output.stderr);
    unblock(&project);
    let run = Run::of(ended(second));
    assert_ok(&run);
    assert!(run.output.stderr.contains("goes on"), "{}", run.output.stderr);
    assert_eq!(ran(&project), EACH_ONCE, "no point ran again");
    assert!(cluster.is_idle());
}

#[test]
fn edits_while_workers_run_do_not_count_for_the_run() {
    let Some(project) = long_training() else { return };
    let (cluster, expected) = (StandIn::new(), plain_digests(&project));
    let driver = start_blocked(&project, &cluster, &[]);
    let (pipeline, script) = (project.read("p.toml"), project.read("train.py"));
    project.edit("lr = 0.05", "lr = 0.5");
    project.write("train.py", "raise SystemExit(1)");
    unblock(&project);
    assert_ok(&Run::of(ended(driver)));
    assert_eq!(project.plan(&[])["net"]["state"], "miss", "the edited pipeline has no result");
    project.write("p.toml", &pipeline);
    project.write("train.py", &script);
    assert_eq!(project.digests(), expected);
}

#[test]
fn detached_run_goes_on_by_itself_and_the_same_command_gathers_its_results() {
    let (project, cluster) = (project(), StandIn::new());
    let args = ["run", "p.toml", "--on", "slurm", "--store", "store", "--store-write", "-E", POLL];
    let detached = ended(cluster.command(&project, args.iter().chain(&["--detach"])).spawn().expect("vadpipe starts"));
    assert_eq!(detached.code, 0, "{}", detached.stderr);
    assert!(detached.stdout.contains("4 workers wait or run"), "{}", detached.stdout);
    let begun = Instant::now();
    while !project.path("signals/ran").exists() || ran(&project).len() < 5 {
        assert!(begun.elapsed() < Duration::from_secs(60), "the points never ran");
        std::thread::sleep(Duration::from_millis(20));
    }
    assert_ok(&run(&project, &cluster, &[]));
    assert_eq!(ran(&project), EACH_ONCE);
    assert!(cluster.is_idle());
}

#[test]
fn killed_worker_is_replaced_and_the_training_continues_from_its_last_pushed_state() {
    let Some(project) = long_training() else { return };
    let (cluster, expected) = (StandIn::new(), plain_digests(&project));
    let driver = start_blocked(&project, &cluster, &[]);
    cluster.kill(0, "NODE_FAIL");
    cluster.wait_for_calls("scontrol", 1);
    unblock(&project);
    let run = Run::of(ended(driver));
    assert_ok(&run);
    let lost = run.of_kind("worker-ended").find(|event| event["is_lost"] == true).expect("one is lost");
    assert!(text(&lost["why"]).contains("its job lost its node"), "{lost}");
    assert!(cluster.all_calls().contains("--exclude=n1"), "{}", cluster.all_calls());
    assert_eq!(project.digests(), expected);
}

#[test]
fn worker_that_ran_out_of_memory_is_replaced_by_one_with_twice_as_much() {
    let (project, cluster) = (project(), StandIn::new());
    let driver = start_blocked(&project, &cluster, &["-E", "slurm.workers=1", "-E", "slurm.memory=512MiB"]);
    cluster.kill(0, "OUT_OF_MEMORY");
    unblock(&project);
    assert_ok(&Run::of(ended(driver)));
    let calls = cluster.all_calls();
    assert!(calls.contains("--mem=512M") && calls.contains("--mem=1024M"), "{calls}");
}

/// The programs of a worker whose kernel counts, in the file `kills` of the test, what it kills for lack of memory.
const KERNEL: &str = r#"#!/bin/sh
exec unshare --user --map-root-user --mount sh -c \
  'mount -t tmpfs none /sys/fs/cgroup && mount --bind "$0" /proc/vmstat && exec "$@"' "$(dirname "$0")/kills" "$@"
"#;

/// Fails once, as when memory runs out.
const HUNGRY: &str = r#"
[pipeline]
name = "hungry"

[stages.a]
kind = "command"
argv = ["sh", "-c", "cd \"$0\"; echo ran >> ran; if [ $(wc -l < ran) = 1 ]; then echo oom_kill 7 > kills; kill -9 $$; fi; echo made > \"$1\"", "{base}", "{outputs.out}"]
outputs = { out = "out" }
resources = { memory = "100 MiB" }
"#;

#[test]
fn program_that_ran_out_of_memory_runs_once_more_with_twice_as_much() {
    let (project, cluster) = (Project::new(HUNGRY), StandIn::new());
    let path = project.path("").display().to_string();
    project.edit("\"{base}\"", &format!("{path:?}"));
    project.write("kills", "oom_kill 6\n");
    project.write("kernel", KERNEL);
    let kernel = project.path("kernel");
    std::fs::set_permissions(&kernel, std::fs::Permissions::from_mode(0o755)).expect("a program");
    if !std::process::Command::new(&kernel).arg("true").status().is_ok_and(|status| status.success()) {
        eprintln!("unshare is not permitted: no program ran out of memory");
        return;
    }
    let run = run(&project, &cluster, &["-E", &format!("slurm.prefix={}", kernel.display())]);
    assert_ok(&run);
    let calls = cluster.all_calls();
    assert!(calls.contains("--mem=100M") && calls.contains("--mem=200M"), "{calls}");
    assert_eq!(project.read("ran"), "ran\nran\n");
    let ended = run.of_kind("worker-ended").find(|event| event["cause"] == "out-of-memory").expect("one has ended");
    assert_eq!(text(&ended["why"]), "ended: `a` ran out of memory; the next ones get 1 CPU, 209.7 MB");
}

#[test]
fn preempted_worker_that_saved_its_states_ends_for_this_reason() {
    let Some(project) = long_training() else { return };
    let (cluster, expected) = (StandIn::new(), plain_digests(&project));
    let driver = start_blocked(&project, &cluster, &[]);
    cluster.ask_to_leave(0, "PREEMPTED");
    cluster.wait_for_calls("scontrol", 1);
    unblock(&project);
    let run = Run::of(ended(driver));
    assert_ok(&run);
    let ended = run.of_kind("worker-ended").find(|event| event["cause"] == "preempted").expect("one has ended");
    assert_eq!(
        (text(&ended["why"]), &ended["is_lost"]),
        ("saved its states and left: its job was preempted".to_owned(), &Value::from(false))
    );
    assert_eq!(project.digests(), expected);
    let status = project.vadpipe(["status", "p.toml"]);
    assert!(status.stdout.contains("1 preempted; 1 replaced"), "{}", status.stdout);
}

#[test]
fn interrupted_run_lets_its_workers_save_and_is_continued_by_a_plain_run() {
    let Some(project) = long_training() else { return };
    let (cluster, expected) = (StandIn::new(), plain_digests(&project));
    let driver = start_blocked(&project, &cluster, &[]);
    signal(&driver, Signal::INT);
    let run = Run::of(ended(driver));
    assert_eq!((run.output.code, &run.last()["status"]), (130, &Value::from("interrupted")), "{}", run.output.stderr);
    assert!(cluster.is_idle());
    unblock(&project);
    assert_eq!(project.run(&[]).trained(), (21..=40).collect::<Vec<_>>());
    assert_eq!(project.digests(), expected);
}

#[test]
fn cancelled_run_ends_and_its_workers_save() {
    let (project, cluster) = (project(), StandIn::new());
    let driver = start_blocked(&project, &cluster, &[]);
    cluster.wait_for_calls("squeue", 1);
    let cancelled = ended(cluster.command(&project, ["cancel", "--json"]).spawn().expect("vadpipe starts"));
    assert_eq!(cancelled.code, 0, "{}", cancelled.stderr);
    let run = Run::of(ended(driver));
    assert_eq!(run.output.code, 130, "{}", run.output.stderr);
    assert!(warnings(&run).contains(&"the run was cancelled".to_owned()), "{:?}", warnings(&run));
    let again = ended(cluster.command(&project, ["cancel"]).spawn().expect("vadpipe starts"));
    assert_eq!(again.code, 2, "{}", again.stdout);
    assert!(again.stderr.contains("no run of the cache cache is on a cluster"), "{}", again.stderr);
}

#[test]
fn failed_stage_ends_the_run_with_its_log() {
    let (project, cluster) = (project(), StandIn::new());
    project.edit("echo made $0", "echo trouble; [ $0 != i2 ]");
    let run = run(&project, &cluster, &[]);
    assert_eq!((run.output.code, run.failed()), (1, vec!["first@i=2".to_owned()]), "{}", run.output.stderr);
    let log = project.vadpipe(["log", "last", "--stage", "first@i=2"]);
    assert!(log.stdout.contains("trouble"), "{}{}", log.stdout, log.stderr);
    assert!(cluster.is_idle());
}

#[test]
fn controller_that_is_away_or_takes_no_jobs_is_waited_for() {
    let (project, cluster) = (project(), StandIn::new());
    cluster.refuses_once("sbatch: error: Batch job submission failed: Unable to contact slurm controller");
    cluster.answers_once("squeue", "Welcome to the cluster!");
    let run = run(&project, &cluster, &[]);
    assert_ok(&run);
    let warnings = warnings(&run).join("\n");
    assert!(warnings.contains("Slurm takes no jobs now; trying again"), "{warnings}");
    assert!(warnings.contains("squeue answered something else than a list of jobs"), "{warnings}");
    assert_eq!(ran(&project), EACH_ONCE);
}

#[test]
fn array_that_is_too_large_is_submitted_in_parts() {
    let (project, cluster) = (project(), StandIn::new());
    cluster.limits_arrays(2);
    assert_ok(&run(&project, &cluster, &[]));
    assert_eq!(ran(&project), EACH_ONCE);
    assert!(cluster.all_calls().contains("--array=0-1"), "{}", cluster.all_calls());
}

#[test]
fn bad_input_is_refused_and_leaves_no_worker() {
    let (project, cluster) = (project(), StandIn::new());
    let message = "sbatch: error: invalid partition specified: gpu";
    cluster.refuses(message);
    is_refused(&project, &cluster, &["-E", "slurm.partition=gpu"], message);
    cluster.accepts();
    cluster.answers_once("sbatch", "Submitted, thank you");
    is_refused(&project, &cluster, &[], "sbatch answered something else than the id of a job");
    is_refused(&project, &cluster, &["-E", "slurm.partitoin=gpu"], "unknown field `partitoin`");
    is_refused(&project, &cluster, &["-E", "slurm.memory=2"], "memory must be a number with a unit");
    let only_read = ["run", "p.toml", "--on", "slurm", "--store", "store"];
    let output = ended(cluster.command(&project, only_read).spawn().expect("vadpipe starts"));
    assert_eq!(output.code, 2, "{}", output.stderr);
    assert!(output.stderr.contains("they may write to"), "{}", output.stderr);
    let output = project.vadpipe(["run", "p.toml", "-E", "slurm.partition=gpu", "--on", "local:2"]);
    assert_eq!(output.code, 2);
    assert!(output.stderr.contains("need `--on slurm`"), "{}", output.stderr);
    // Without Slurm.
    let mut command = project.command(only_read.iter().chain(&["--store-write"]));
    let output = ended(command.env("PATH", project.path("nothing")).spawn().expect("vadpipe starts"));
    assert_eq!(output.code, 2, "{}", output.stderr);
    assert!(output.stderr.contains("there is no `sbatch`"), "{}", output.stderr);
    assert!(!project.path("signals/ran").exists());
}

#[test]
fn worker_that_can_not_work_is_said_by_the_first_one() {
    let (project, cluster) = (project(), StandIn::new());
    // On the nodes, the folder of the store is not there.
    let nowhere = "-E=slurm.setup=mv store elsewhere 2>/dev/null; touch store";
    let run = run(&project, &cluster, &[nowhere, "-E", "slurm.workers=1"]);
    assert_eq!(run.output.code, 2, "{}\n{}", run.output.stdout, run.output.stderr);
    let error = &run.output.stderr;
    assert!(error.contains("can't work") && error.contains("it is a file"), "{error}");
    assert!(cluster.is_idle());
    // A program that is not there.
    std::fs::remove_file(project.path("store")).expect("removed");
    std::fs::rename(project.path("elsewhere"), project.path("store")).expect("moved");
    is_refused(&project, &cluster, &["-E", "slurm.program=/no/vadpipe"], "/no/vadpipe");
}
