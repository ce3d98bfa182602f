//! `run --on slurm` on a Slurm of two nodes on this machine, which `tests/slurm/up.sh` starts: as root, with slurm-wlm
//! and munge. `cargo bench --bench cluster`.
//!
//! Words after `--` choose parts: `sleeps`, `limit`, `failures`. The default is all of them. `--stages N` and
//! `--seconds N` make them smaller. `VADPIPE_SNAKEMAKE` names a `snakemake` with its executor for Slurm, which then
//! runs the same stages. The bench exits with code 1 if a run does not do what it should.
//!
//! - `sleeps`: stages of `sleep 1`, as many at a time as the nodes have CPUs, by configuration 8. They sleep, so it
//!   does not matter how many CPUs there are. How often Slurm's programs are called, and which part of CPUs · time is
//!   used.
//! - `limit`: a training that takes longer than its jobs may. Its bytes are those of an undisturbed one.
//! - `failures`: a node that fails, a preemption, a controller that is away and a driver that is killed. How each is
//!   named, and whether anything that was finished runs again.

#[path = "cluster/loopback.rs"]
mod loopback;
#[path = "cluster/snakemake.rs"]
mod snakemake;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::{Child, ExitCode};
use std::time::{Duration, Instant};

use loopback::Loopback;
use serde_json::Value;

type Outcome<T = ()> = Result<T, Box<dyn std::error::Error>>;

/// CPUs of both nodes.
const CPUS: u32 = 8;
/// The time limit of jobs, in seconds. Slurm counts in minutes.
const LIMIT: u64 = 60;

fn main() -> ExitCode {
    match measure() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say(&format!("error: {error}"));
            ExitCode::FAILURE
        }
    }
}

#[expect(clippy::print_stdout, reason = "a bench prints its figures")]
fn say(line: &str) {
    println!("{line}");
}

fn measure() -> Outcome {
    let args: Vec<String> = std::env::args().skip(1).filter(|arg| arg != "--bench").collect();
    let number = |name: &str, default: u64| -> Outcome<u64> {
        let position = args.iter().position(|arg| arg == name);
        position.and_then(|at| args.get(at + 1)).map_or(Ok(default), |number| Ok(number.parse()?))
    };
    let (stages, seconds) = (number("--stages", 2000)?, number("--seconds", 300)?);
    let parts = ["sleeps", "limit", "failures"];
    let is_chosen = |part: &str| args.iter().any(|arg| arg == part) || !args.iter().any(|arg| parts.contains(&&**arg));
    let cluster = Loopback::start()?;
    if is_chosen("sleeps") {
        sleeps(&cluster, stages)?;
    }
    if is_chosen("limit") {
        limit(&cluster, seconds)?;
    }
    if is_chosen("failures") {
        failures(&cluster, seconds)?;
    }
    Ok(())
}

/// The events of a run that has ended well.
fn ended(child: Child) -> Outcome<Vec<Value>> {
    let output = child.wait_with_output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    if !output.status.success() {
        return Err(format!("vadpipe failed:\n{text}{}", String::from_utf8_lossy(&output.stderr)).into());
    }
    Ok(text.lines().map(serde_json::from_str).collect::<Result<_, _>>()?)
}

fn of_kind<'e>(events: &'e [Value], kind: &'e str) -> impl Iterator<Item = &'e Value> {
    events.iter().filter(move |event| event["event"] == kind)
}

/// The digests of all points, by their names.
fn digests(cluster: &Loopback, folder: &Path) -> Outcome<BTreeMap<String, Value>> {
    let output = cluster.vadpipe(folder, &["show", "p.toml", "--json"]).output()?;
    let all: BTreeMap<String, Value> = serde_json::from_slice(&output.stdout)?;
    Ok(all.into_iter().map(|(name, record)| (name, record["digest"].clone())).collect())
}

fn sleeps(cluster: &Loopback, stages: u64) -> Outcome {
    let folder = tempfile::tempdir()?;
    let numbers: Vec<String> = (0..stages).map(|number| number.to_string()).collect();
    fs::write(
        folder.path().join("p.toml"),
        format!(
            "[pipeline]\nname = \"sleeps\"\n[matrix]\nn = [{}]\n[stages.a]\nkind = \"command\"\n\
             argv = [\"sh\", \"-c\", \"sleep 1; echo $0 > $1\", \"${{matrix.n}}\", \"{{outputs.x}}\"]\n\
             outputs = {{ x = \"x.txt\" }}\nresources = {{ cpus = 1, memory = \"500 MB\" }}\n",
            numbers.join(", ")
        ),
    )?;
    cluster.forget_calls();
    let begun = Instant::now();
    let events = ended(cluster.run(folder.path(), &["-E", &format!("slurm.workers={CPUS}"), "-E", "slurm.time=1h"])?)?;
    let taken = begun.elapsed().as_secs_f64();
    let ran = of_kind(&events, "stage-finished").count() as u64;
    if ran != stages {
        return Err(format!("{ran} of {stages} stages ran").into());
    }
    let calls = cluster.calls();
    let submissions = calls.get("sbatch").copied().unwrap_or(0);
    let others: usize = calls.iter().filter(|(name, _)| *name != "sbatch").map(|(_, count)| count).sum();
    let best = stages as f64 / f64::from(CPUS);
    say(&format!("{stages} stages of `sleep 1` on {CPUS} CPUs"));
    say(&format!(
        "ours        {taken:7.1} s  {:3.0} % of CPUs · time, {submissions} sbatch, {:.1} other calls a minute",
        100.0 * best / taken,
        others as f64 * 60.0 / taken
    ));
    cluster.forget_calls();
    // It takes so much longer that fewer stages do.
    let fewer = stages.min(64);
    match snakemake::run(cluster, fewer)? {
        None => say("snakemake   VADPIPE_SNAKEMAKE is not set"),
        Some(seconds) => say(&format!(
            "snakemake   {seconds:7.1} s  {:3.0} % of CPUs · time for {fewer} stages, {} sbatch",
            100.0 * fewer as f64 / f64::from(CPUS) / seconds,
            cluster.calls().get("sbatch").copied().unwrap_or(0)
        )),
    }
    Ok(())
}

/// A training of epochs that take half a second each.
fn training(seconds: u64) -> String {
    format!(
        "[pipeline]\nname = \"long\"\nseed = 7\ncheckpoint_seconds = 5\n[stages.net]\nkind = \"train-command\"\n\
         argv = [\"python3\", \"train.py\"]\nsegment_epochs = 4\nepochs = {}\n[stages.net.start]\nwidth = 4\n\
         [stages.net.epoch]\nlr = 0.05\n",
        seconds * 2
    )
}

const EPOCH: &str = "import time\n\ndef HOOK(epoch):\n    time.sleep(0.5)\n";

fn limit(cluster: &Loopback, seconds: u64) -> Outcome {
    let (folder, plain) = (tempfile::tempdir()?, tempfile::tempdir()?);
    let script = include_str!("../tests/it/training/train.py");
    for (folder, hook) in [(&folder, EPOCH), (&plain, "def HOOK(epoch):\n    pass\n")] {
        fs::write(folder.path().join("p.toml"), training(seconds))?;
        // Only its pauses differ, so the plain run takes a moment. The key of a result does not count here.
        fs::write(folder.path().join("train.py"), format!("{hook}\n{script}"))?;
    }
    ended(cluster.vadpipe(plain.path(), &["run", "p.toml", "--json"]).stdout(std::process::Stdio::piped()).spawn()?)?;
    let begun = Instant::now();
    let events = ended(cluster.run(folder.path(), &["-E", &format!("slurm.time={LIMIT}s")])?)?;
    let taken = begun.elapsed().as_secs_f64();
    let workers = of_kind(&events, "worker-started").count();
    let lost = of_kind(&events, "worker-ended").filter(|event| event["is_lost"] == true).count();
    let trained = of_kind(&events, "epoch").count() as u64;
    if digests(cluster, folder.path())? != digests(cluster, plain.path())? {
        return Err("a training under a time limit has other bytes".into());
    }
    say(&format!(
        "a training of {seconds} s under a limit of {LIMIT} s: {taken:.0} s, {workers} workers, {lost} lost, {trained} \
         epochs trained for {}, same bytes",
        seconds * 2
    ));
    Ok(())
}

/// Points that take two seconds, twelve for each CPU.
fn points() -> String {
    let numbers: Vec<String> = (0..12 * CPUS).map(|number| number.to_string()).collect();
    format!(
        "[pipeline]\nname = \"points\"\n[matrix]\nn = [{}]\n[stages.a]\nkind = \"command\"\n\
         argv = [\"sh\", \"-c\", \"sleep 2; echo $0 > $1\", \"${{matrix.n}}\", \"{{outputs.x}}\"]\n\
         outputs = {{ x = \"x.txt\" }}\nresources = {{ cpus = 1, memory = \"500 MB\" }}\n",
        numbers.join(", ")
    )
}

/// Does something to a run whose driver is this process, in this folder.
type Disturbance<'a> = &'a dyn Fn(&mut Child, &Path) -> Outcome;

fn failures(cluster: &Loopback, away: u64) -> Outcome {
    let disturb: [(&str, Disturbance<'_>); 4] = [
        ("node killed", &|_, _| cluster.kill("n1")),
        ("preemption", &|_, _| cluster.preempt("n2")),
        ("controller away", &|_, _| {
            cluster.kill("controller")?;
            std::thread::sleep(Duration::from_secs(away));
            cluster.start_again("controller")
        }),
        ("driver killed", &|driver, folder| {
            driver.kill()?;
            driver.wait()?;
            *driver = cluster.run(folder, &[])?;
            Ok(())
        }),
    ];
    for (what, disturb) in disturb {
        let folder = tempfile::tempdir()?;
        fs::write(folder.path().join("p.toml"), points())?;
        let mut driver = cluster.run(folder.path(), &[])?;
        cluster.wait_for_workers(CPUS as usize)?;
        std::thread::sleep(Duration::from_secs(3));
        disturb(&mut driver, folder.path())?;
        let events = ended(driver)?;
        let mut finished: BTreeMap<&str, usize> = BTreeMap::new();
        for event in of_kind(&events, "stage-finished") {
            *finished.entry(event["stage"].as_str().unwrap_or_default()).or_default() += 1;
        }
        let again = finished.values().filter(|count| **count > 1).count();
        let words = of_kind(&events, "worker-ended").filter(|event| event["cause"] != "done");
        let warnings = of_kind(&events, "warning").map(|event| &event["message"]);
        let named: std::collections::BTreeSet<String> =
            words.map(|event| &event["why"]).chain(warnings).filter_map(Value::as_str).map(str::to_owned).collect();
        say(&format!("{what:16} {} points, {again} finished ones ran again; {named:?}", finished.len()));
        if what == "node killed" {
            cluster.start_again("n1")?;
        }
        cluster.wait_until_idle()?;
        if again > 0 {
            return Err(format!("{what}: finished points ran again").into());
        }
    }
    Ok(())
}
