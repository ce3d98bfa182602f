//! The overhead of the runner: no-op runs, plans, and thousands of trivial stages. `cargo bench --bench runner`.
//!
//! This program is also a `vadpipe` with the additional stage kind `trivial`: after `--vadpipe` it accepts the command
//! line of `vadpipe`. Every figure is that of a whole process: the time from its start to its end, and its peak memory
//! as the kernel reports it. Figures are medians of [`ROUNDS`] runs.
//!
//! Words after `--` choose parts: `scale`, `reach` (with the peers), `epochs`, `beside`. The default is all parts. The
//! peers `ninja` and `dvc` are measured if they are on the PATH or beside the Python that `VADPIPE_PYTHON` names. The
//! bench exits with code 1 if a run does not do what it should (a no-op executes a stage, or an extended training has
//! other bytes).

#[path = "runner/peers.rs"]
mod peers;
#[path = "runner/pipelines.rs"]
mod pipelines;

use std::ffi::OsString;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use peers::Peers;
use vadpipe::artifact::Artifact;
use vadpipe::stage::{About, Bound, Context, Params, Registry, Roles, Stage, StageError, StageKind};

/// A stage that takes no time: it adds the numbers of its inputs to its own.
struct Trivial;

impl StageKind for Trivial {
    fn about(&self) -> About {
        About { roles: Roles::Any, ..About::new("trivial", 1, "a number") }
    }
    fn parse(&self, params: &mut Params<'_>) -> Arc<dyn Stage> {
        Arc::new(Number(params.float("n", 0.0, Bound::Finite)))
    }
}

struct Number(f64);

impl Stage for Number {
    fn run(&self, context: &Context<'_>) -> Result<Artifact, StageError> {
        let inputs = context.inputs.0.values().flatten();
        let sum: f64 = inputs.filter_map(|i| i.manifest().metrics.get("n")).sum();
        let mut artifact = Artifact::default();
        artifact.metrics.insert("n".into(), self.0 + sum);
        Ok(artifact)
    }
}

fn kinds() -> Registry {
    let mut registry = vadpipe::stages::builtin();
    registry.register(Trivial);
    registry
}

/// Runs of each measurement. The median counts.
const ROUNDS: usize = 5;
/// Megabytes of a state and a result of the shipped size.
const STATE_AND_RESULT: usize = 246 + 82;
/// The variable that names the file to which a child writes its peak memory.
const PEAK: &str = "VADPIPE_BENCH_PEAK";

type Outcome<T = ()> = Result<T, Box<dyn std::error::Error>>;

fn main() -> ExitCode {
    let mut args: Vec<OsString> = std::env::args_os().collect();
    if args.get(1).is_some_and(|a| a == "--vadpipe") {
        args.remove(1);
        let code = vadpipe::cli::main_with(kinds(), args);
        if let Some(file) = std::env::var_os(PEAK) {
            let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
            let _ = std::fs::write(file, status);
        }
        return code;
    }
    match measure() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say(&format!("stopped: {error}"));
            ExitCode::FAILURE
        }
    }
}

#[expect(clippy::print_stdout, reason = "a benchmark prints")]
fn say(line: &str) {
    println!("{line}");
}

fn measure() -> Outcome {
    let chosen: Vec<String> = std::env::args().skip(1).filter(|a| !a.starts_with('-')).collect();
    let wants = |part: &str| chosen.is_empty() || chosen.iter().any(|c| c == part);
    // On a disk, not in memory, because results are flushed.
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR"))?;
    let bench = Bench { program: std::env::current_exe()?, folder: folder.path().to_owned() };
    if wants("scale") {
        bench.scale()?;
    }
    if wants("reach") {
        bench.reach(&Peers::measure(folder.path())?)?;
    }
    if wants("epochs") {
        bench.epochs()?;
    }
    if wants("beside") {
        bench.beside()?;
    }
    Ok(())
}

struct Bench {
    program: PathBuf,
    folder: PathBuf,
}

/// The time and the peak memory of a process.
#[derive(Clone, Copy)]
struct Usage {
    seconds: f64,
    megabytes: f64,
}

/// The median by time, with the largest memory of all runs.
fn median(mut all: Vec<Usage>) -> Usage {
    all.sort_by(|a, b| a.seconds.total_cmp(&b.seconds));
    let megabytes = all.iter().map(|t| t.megabytes).fold(0.0, f64::max);
    Usage { megabytes, ..all[all.len() / 2] }
}

impl Bench {
    fn write(&self, name: &str, text: &str) -> Outcome {
        Ok(std::fs::write(self.folder.join(name), text)?)
    }

    /// Runs `vadpipe` in the folder. It must succeed. Its output goes to a file.
    fn vadpipe(&self, args: &[&str]) -> Outcome<Usage> {
        let (peak, out) = (self.folder.join("peak"), self.folder.join("out"));
        let mut command = Command::new(&self.program);
        command.arg("--vadpipe").args(args).current_dir(&self.folder).env(PEAK, &peak);
        command.stdin(Stdio::null()).stdout(std::fs::File::create(&out)?).stderr(Stdio::null());
        let begin = Instant::now();
        let status = command.status()?;
        let seconds = begin.elapsed().as_secs_f64();
        if !status.success() {
            return Err(format!("vadpipe {} ended with {status}", args.join(" ")).into());
        }
        let text = std::fs::read_to_string(&peak)?;
        let line = text.lines().find_map(|l| l.strip_prefix("VmHWM:"));
        let kb = line.and_then(|l| l.trim_end_matches("kB").trim().parse::<f64>().ok()).unwrap_or_default();
        Ok(Usage { seconds, megabytes: kb / 1024.0 })
    }

    fn median(&self, args: &[&str]) -> Outcome<Usage> {
        Ok(median((0..ROUNDS).map(|_| self.vadpipe(args)).collect::<Outcome<Vec<_>>>()?))
    }

    /// A first run in an empty cache.
    fn first(&self, file: &str, cache: &str) -> Outcome<Usage> {
        let path = self.folder.join(cache);
        if path.exists() {
            std::fs::remove_dir_all(&path)?;
        }
        self.vadpipe(&["run", file, "-q", "--cache", cache])
    }

    /// 100 to 10,000 points: the cost per stage must not grow.
    fn scale(&self) -> Outcome {
        say("stages   plan, cold cache    first run, each       no-op, each");
        for points in [100, 1_000, 10_000] {
            self.write("scale.toml", &pipelines::matrix(points, 1))?;
            let plan = self.median(&["plan", "scale.toml", "-q", "--cache", "none"])?;
            let run = self.first("scale.toml", "scale")?;
            let noop = self.median(&["run", "scale.toml", "-q", "--cache", "scale"])?;
            let each = |t: Usage| format!("{:.3} s {:>6.1} µs", t.seconds, t.seconds / points as f64 * 1e6);
            say(&format!("{points:<8} {}   {}   {}", each(plan), each(run), each(noop)));
        }
        Ok(())
    }

    /// The table of all measurements, with their limits and with similar measurements of the peers.
    fn reach(&self, peers: &Peers) -> Outcome {
        let row = |what: &str, measured: String, bound: &str, peers: String| {
            say(&format!("{what:<52} {measured:<17} {bound:<14} {peers}"));
        };
        let took = |t: Usage| format!("{:.3} s, {:.0} MB", t.seconds, t.megabytes);
        say("what                                                 measured          at most        peers");
        for (shape, text) in [("matrix", pipelines::matrix(10_000, 1)), ("tables", pipelines::tables(10_000))] {
            let (file, cache) = (format!("{shape}.toml"), format!("cache-{shape}"));
            self.write(&file, &text)?;
            let first = self.first(&file, &cache)?;
            let noop = self.median(&["run", &file, "-q", "--cache", &cache])?;
            self.expect_to_run(0, &file, &cache)?;
            let edited = (1..=ROUNDS).map(|round| {
                // Every round changes the original file to a new value.
                self.write(&file, &pipelines::edited(&text, round))?;
                self.vadpipe(&["run", &file, "-q", "--cache", &cache])
            });
            let edited = median(edited.collect::<Outcome<Vec<_>>>()?);
            self.write(&file, &pipelines::edited(&text, ROUNDS + 1))?;
            self.expect_to_run(1, &file, &cache)?;
            row(&format!("no-op run of 10,000 stages ({shape})"), took(noop), "0.15 s", peers.noop());
            row(&format!("edit one of 10,000 stages, rerun ({shape})"), took(edited), "0.3 s", String::new());
            let each = 1e3 * (first.seconds - noop.seconds) / 10_000.0;
            let measured = format!("{each:.3} ms, {:.0} MB", first.megabytes);
            row(&format!("overhead of an executed trivial stage ({shape})"), measured, "1 ms", peers.each());
        }
        for (shape, text) in [("matrix", pipelines::matrix(10_000, 4)), ("tables", pipelines::tables(40_000))] {
            self.write("large.toml", &text)?;
            let plan = self.median(&["plan", "large.toml", "-q", "--cache", "none"])?;
            let what = format!("plan of 40,000 stages, cold cache ({shape})");
            row(&what, took(plan), "0.5 s, 200 MB", String::new());
        }
        Ok(())
    }

    /// Checks that a run executes `count` stages. This run is not measured.
    fn expect_to_run(&self, count: usize, file: &str, cache: &str) -> Outcome {
        self.vadpipe(&["run", file, "--json", "--cache", cache])?;
        let out = std::fs::read_to_string(self.folder.join("out"))?;
        let last: serde_json::Value = serde_json::from_str(out.lines().last().unwrap_or_default())?;
        match last["executed"].as_array() {
            Some(executed) if executed.len() == count => Ok(()),
            other => Err(format!("{count} stages should run, not {other:?}").into()),
        }
    }

    /// The cost of extending a training, without the epochs: 100 → 200 epochs of a small decoder, and 4 → 8 of one of
    /// the shipped size.
    fn epochs(&self) -> Outcome {
        for (what, model, half) in [("small", pipelines::SMALL, 100), ("shipped size", pipelines::SHIPPED, 4)] {
            self.write("half.toml", &pipelines::training(model, half))?;
            self.write("whole.toml", &pipelines::training(model, 2 * half))?;
            let (mut rounds, mut plain) = (Vec::new(), Vec::new());
            for _ in 0..ROUNDS {
                plain.push(self.plain_write()?);
                let short = self.first("half.toml", "extended")?;
                let extended = self.vadpipe(&["run", "whole.toml", "-q", "--cache", "extended"])?;
                let whole = self.first("whole.toml", "at-once")?;
                if self.digest("extended")? != self.digest("at-once")? {
                    return Err(format!(
                        "epochs {half} → {} ({what}): the bytes differ from an uninterrupted training",
                        2 * half
                    )
                    .into());
                }
                rounds.push([extended.seconds - (whole.seconds - short.seconds), extended.seconds, whole.seconds]);
            }
            rounds.sort_by(|a, b| a[0].total_cmp(&b[0]));
            let [besides, extended, whole] = rounds[ROUNDS / 2];
            plain.sort_by(f64::total_cmp);
            say(&format!(
                "epochs {half} → {} ({what}): {extended:.2} s, uninterrupted {whole:.2} s, the same bytes; without the epochs \
                 {besides:.2} s (at most 1 s), fastest {:.2} s; a plain file of {STATE_AND_RESULT} MB with fsync takes {:.2} s",
                2 * half,
                rounds[0][0],
                plain[ROUNDS / 2],
            ));
        }
        Ok(())
    }

    /// Seconds to write as many bytes as the last state and the result of the shipped size.
    fn plain_write(&self) -> Outcome<f64> {
        let (path, bytes) = (self.folder.join("plain"), vec![1u8; STATE_AND_RESULT << 20]);
        let begin = Instant::now();
        let mut file = std::fs::File::create(&path)?;
        file.write_all(&bytes)?;
        file.sync_all()?;
        let seconds = begin.elapsed().as_secs_f64();
        std::fs::remove_file(&path)?;
        Ok(seconds)
    }

    /// The slowest time of each reading command while a training of the shipped size runs.
    fn beside(&self) -> Outcome {
        self.write("long.toml", &pipelines::training(pipelines::SHIPPED, 100_000).replace("1e6", "1"))?;
        let mut command = Command::new(&self.program);
        command.args(["--vadpipe", "run", "long.toml", "-q", "--cache", "busy"]).current_dir(&self.folder);
        let mut training = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
        // It saves a checkpoint every second, so the cache is in use all the time.
        std::thread::sleep(Duration::from_secs(5));
        let commands: [&[&str]; 4] =
            [&["plan", "long.toml"], &["status", "long.toml"], &["log"], &["log", "last", "--events"]];
        let slowest = commands.map(|args| {
            let runs = (0..ROUNDS).map(|_| self.vadpipe(&[args, &["--cache", "busy"]].concat()));
            let all = runs.collect::<Outcome<Vec<_>>>()?;
            let slowest = all.iter().map(|t| t.seconds).fold(0.0, f64::max);
            Ok(format!("{} {slowest:.3} s", args.join(" ").replace(" long.toml", "")))
        });
        let running = training.try_wait()?.is_none();
        training.kill()?;
        training.wait()?;
        if !running {
            return Err("the training ended during the measurement".into());
        }
        let slowest = slowest.into_iter().collect::<Outcome<Vec<_>>>()?.join(", ");
        say(&format!("during a training, the slowest of {ROUNDS} (at most 1 s): {slowest}"));
        Ok(())
    }

    /// The digest of the training's result.
    fn digest(&self, cache: &str) -> Outcome<String> {
        self.vadpipe(&["show", "whole.toml", "ad", "--json", "--cache", cache])?;
        let shown: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(self.folder.join("out"))?)?;
        Ok(shown["ad"]["digest"].to_string())
    }
}

/// A program on the PATH or beside `VADPIPE_PYTHON`.
fn find(program: &str) -> Option<PathBuf> {
    let beside = std::env::var_os("VADPIPE_PYTHON").map(PathBuf::from);
    let beside = beside.as_deref().and_then(Path::parent).map(Path::to_owned);
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = beside.into_iter().chain(std::env::split_paths(&path));
    folders.map(|f| f.join(program)).find(|p| p.is_file())
}
