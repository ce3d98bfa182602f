//! The runner's own cost: no-ops, plans and trivial stages by the thousand. `cargo bench --bench runner`.
//!
//! This program is also a `vadpipe` with one more stage kind, `trivial`, as a crate of a user's would be: with `--vadpipe`
//! first, the rest is `vadpipe`'s command line. Every figure is one of a whole process: from its start to its end, as a
//! user waits for it, and its peak memory as the kernel counts it. Medians of [`ROUNDS`].
//!
//! Words after `--` choose parts: `scale`, `reach` (with the peers), `epochs`, `beside`; all of them if none is given. Peers are
//! measured where they are installed: `ninja` and `dvc` on the PATH, or beside the Python that `VADPIPE_PYTHON` names. A run that
//! does not do what it is measured for (a no-op that executes something, an extended training with other bytes) ends the bench
//! with exit code 1.

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

/// A stage that costs nothing: it adds its inputs' numbers to its own.
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

/// Runs of each measurement; the median counts.
const ROUNDS: usize = 5;
/// Megabytes of the shipped size's state and result.
const STATE_AND_RESULT: usize = 246 + 82;
/// Where a child leaves its peak memory.
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
    // On the disk that a user would have it on, not in memory: results are flushed.
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

/// What a process took.
#[derive(Clone, Copy)]
struct Took {
    seconds: f64,
    megabytes: f64,
}

/// The one in the middle by time, with the most memory of all.
fn median(mut all: Vec<Took>) -> Took {
    all.sort_by(|a, b| a.seconds.total_cmp(&b.seconds));
    let megabytes = all.iter().map(|t| t.megabytes).fold(0.0, f64::max);
    Took { megabytes, ..all[all.len() / 2] }
}

impl Bench {
    fn write(&self, name: &str, text: &str) -> Outcome {
        Ok(std::fs::write(self.folder.join(name), text)?)
    }

    /// One whole process of `vadpipe` in the folder; it must succeed. Its output goes to a file, as in a script.
    fn vadpipe(&self, args: &[&str]) -> Outcome<Took> {
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
        Ok(Took { seconds, megabytes: kb / 1024.0 })
    }

    fn median(&self, args: &[&str]) -> Outcome<Took> {
        Ok(median((0..ROUNDS).map(|_| self.vadpipe(args)).collect::<Outcome<Vec<_>>>()?))
    }

    /// A first run in an empty cache.
    fn first(&self, file: &str, cache: &str) -> Outcome<Took> {
        let path = self.folder.join(cache);
        if path.exists() {
            std::fs::remove_dir_all(&path)?;
        }
        self.vadpipe(&["run", file, "-q", "--cache", cache])
    }

    /// 100 to 10,000 points: what a stage costs must not grow.
    fn scale(&self) -> Outcome {
        say("stages   plan, cold cache    first run, each       no-op, each");
        for points in [100, 1_000, 10_000] {
            self.write("scale.toml", &pipelines::matrix(points, 1))?;
            let plan = self.median(&["plan", "scale.toml", "-q", "--cache", "none"])?;
            let run = self.first("scale.toml", "scale")?;
            let noop = self.median(&["run", "scale.toml", "-q", "--cache", "scale"])?;
            let each = |t: Took| format!("{:.3} s {:>6.1} µs", t.seconds, t.seconds / points as f64 * 1e6);
            say(&format!("{points:<8} {}   {}   {}", each(plan), each(run), each(noop)));
        }
        Ok(())
    }

    /// The whole table: ours, what it must reach, and what the peers take for the like of it.
    fn reach(&self, peers: &Peers) -> Outcome {
        let row = |what: &str, measured: String, bound: &str, beside: String| {
            say(&format!("{what:<52} {measured:<17} {bound:<14} {beside}"));
        };
        let took = |t: Took| format!("{:.3} s, {:.0} MB", t.seconds, t.megabytes);
        say("what                                                 measured          at most        peers");
        for (shape, text) in [("matrix", pipelines::matrix(10_000, 1)), ("tables", pipelines::tables(10_000))] {
            let (file, cache) = (format!("{shape}.toml"), format!("cache-{shape}"));
            self.write(&file, &text)?;
            let first = self.first(&file, &cache)?;
            let noop = self.median(&["run", &file, "-q", "--cache", &cache])?;
            self.expect_to_run(0, &file, &cache)?;
            let edited = (1..=ROUNDS).map(|round| {
                // Another value each time, and the file as it was for the next.
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

    /// What a run executes, which is not measured: `count` stages.
    fn expect_to_run(&self, count: usize, file: &str, cache: &str) -> Outcome {
        self.vadpipe(&["run", file, "--json", "--cache", cache])?;
        let out = std::fs::read_to_string(self.folder.join("out"))?;
        let last: serde_json::Value = serde_json::from_str(out.lines().last().unwrap_or_default())?;
        match last["executed"].as_array() {
            Some(executed) if executed.len() == count => Ok(()),
            other => Err(format!("{count} stages were to run, not {other:?}").into()),
        }
    }

    /// 100 → 200 epochs of a small decoder, and 4 → 8 of one as large as the shipped: what that costs besides the epochs.
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
                    return Err(format!("epochs {half} → {} ({what}): other bytes than in one go", 2 * half).into());
                }
                rounds.push([extended.seconds - (whole.seconds - short.seconds), extended.seconds, whole.seconds]);
            }
            rounds.sort_by(|a, b| a[0].total_cmp(&b[0]));
            let [besides, extended, whole] = rounds[ROUNDS / 2];
            plain.sort_by(f64::total_cmp);
            say(&format!(
                "epochs {half} → {} ({what}): {extended:.2} s, and {whole:.2} s in one go, the same bytes; besides the epochs \
                 {besides:.2} s (at most 1 s), quickest {:.2} s; a plain file of {STATE_AND_RESULT} MB with fsync takes {:.2} s",
                2 * half,
                rounds[0][0],
                plain[ROUNDS / 2],
            ));
        }
        Ok(())
    }

    /// Seconds that the disk takes for as many bytes as the shipped size's last state and result.
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

    /// What is asked while a training of the shipped size runs: the slowest of each question.
    fn beside(&self) -> Outcome {
        self.write("long.toml", &pipelines::training(pipelines::SHIPPED, 100_000).replace("1e6", "1"))?;
        let mut command = Command::new(&self.program);
        command.args(["--vadpipe", "run", "long.toml", "-q", "--cache", "busy"]).current_dir(&self.folder);
        let mut training = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
        // With a checkpoint each second: the cache is in use all the time.
        std::thread::sleep(Duration::from_secs(5));
        let questions: [&[&str]; 4] =
            [&["plan", "long.toml"], &["status", "long.toml"], &["log"], &["log", "last", "--events"]];
        let slowest = questions.map(|question| {
            let asked = (0..ROUNDS).map(|_| self.vadpipe(&[question, &["--cache", "busy"]].concat()));
            let all = asked.collect::<Outcome<Vec<_>>>()?;
            let slowest = all.iter().map(|t| t.seconds).fold(0.0, f64::max);
            Ok(format!("{} {slowest:.3} s", question.join(" ").replace(" long.toml", "")))
        });
        let running = training.try_wait()?.is_none();
        training.kill()?;
        training.wait()?;
        if !running {
            return Err("the training ended while it was asked about".into());
        }
        let slowest = slowest.into_iter().collect::<Outcome<Vec<_>>>()?.join(", ");
        say(&format!("beside a running training, the slowest of {ROUNDS} (at most 1 s): {slowest}"));
        Ok(())
    }

    /// What `show` says of the training's result, but for how it was come by.
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
