//! Runs the real program in a temporary folder with a pipeline and a cleared environment.

pub(crate) mod schemas;

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;

/// A small pipeline with every kind of dependency between stages: lists, axes, `at`, trainings, fits.
pub(crate) const MINI: &str = r#"
[pipeline]
name = "mini"
seed = 7
checkpoint_seconds = 0

[params]
epochs = 3

[stages.data]
kind = "load-data"
source = "synthetic"
train = 40
test = 20

[stages.ad]
kind = "train-ad"
inputs = { data = "data" }
epochs = "${params.epochs}"
latent_dim = 6
channels = [16, 12, 8, 8]

[stages.vad]
kind = "train-vad"
inputs = { data = "data" }
matrix = { distribution = ["gaussian", "uniform"] }
distribution = "${matrix.distribution}"
epochs = "${params.epochs}"
latent_dim = 6
channels = [16, 12, 8, 8]

[stages.vad.at."distribution=gaussian"]
kl_weight = 0.5

[stages.fit]
kind = "fit-latents"
inputs = { data = "data", model = "vad" }
split = "test"
epochs = 2

[stages.report]
kind = "report"
inputs = { shown = ["data", "ad", "vad@*", "fit@*"] }
"#;

/// A temporary folder with a pipeline, and the program that runs it.
pub(crate) struct Project {
    dir: TempDir,
    program: PathBuf,
}

/// The exit code and the output of a command.
pub(crate) struct CommandOutput {
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

/// The output of a `run --json` and its events.
pub(crate) struct Run {
    pub(crate) output: CommandOutput,
    pub(crate) events: Vec<Value>,
}

impl Project {
    /// A folder with this pipeline.
    pub(crate) fn new(pipeline: &str) -> Self {
        Self::with_program(env!("CARGO_BIN_EXE_vadpipe").into(), pipeline)
    }

    /// A folder with this pipeline and a `train.py`. `None` without Python.
    pub(crate) fn with_script(pipeline: &str, script: &str) -> Option<Self> {
        has_python().then(|| {
            let project = Self::new(pipeline);
            project.write("train.py", script);
            project
        })
    }

    /// A folder with this pipeline for a program that has stage kinds of its own.
    pub(crate) fn with_program(program: PathBuf, pipeline: &str) -> Self {
        let project = Self { dir: tempfile::tempdir().expect("a folder"), program };
        project.write("p.toml", pipeline);
        project
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn write(&self, name: &str, text: &str) {
        let path = self.path(name);
        std::fs::create_dir_all(path.parent().expect("a parent")).expect("a folder");
        std::fs::write(path, text).expect("a file");
    }

    pub(crate) fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.path(name)).expect("a file")
    }

    /// Replaces text in the pipeline. The text must occur.
    pub(crate) fn edit(&self, from: &str, to: &str) {
        let text = self.read("p.toml");
        assert!(text.contains(from), "the pipeline contains {from:?}");
        self.write("p.toml", &text.replace(from, to));
    }

    pub(crate) fn command<A: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = A>) -> Command {
        let mut command = Command::new(&self.program);
        command.args(args).current_dir(self.dir.path()).env_clear().env("HOME", self.dir.path());
        command.env("PATH", std::env::var_os("PATH").unwrap_or_default());
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// Runs `vadpipe` to its end. What it prints with `--json` must match the schema of the command.
    pub(crate) fn vadpipe<A: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = A>) -> CommandOutput {
        let args: Vec<OsString> = args.into_iter().map(|arg| arg.as_ref().to_owned()).collect();
        let output = CommandOutput::of(self.command(&args).output().expect("vadpipe starts"));
        schemas::check(&args, &output.stdout);
        output
    }

    pub(crate) fn start(&self, args: &[&str]) -> Child {
        self.command(args).spawn().expect("vadpipe starts")
    }

    /// Runs `vadpipe run p.toml --json` with more arguments. It may fail.
    pub(crate) fn try_run(&self, more: &[&str]) -> Run {
        Run::of(self.vadpipe(["run", "p.toml", "--json"].iter().chain(more)))
    }

    /// Like [`Project::try_run`], but the run must succeed.
    pub(crate) fn run(&self, more: &[&str]) -> Run {
        let run = self.try_run(more);
        assert_eq!(run.output.code, 0, "{}\n{}", run.output.stdout, run.output.stderr);
        assert_eq!(run.last()["status"], "ok");
        run
    }

    /// The output digest of every point. All points must be cached.
    pub(crate) fn digests(&self) -> BTreeMap<String, String> {
        self.outputs(&[])
    }

    /// The output digests of these targets. All must be cached.
    pub(crate) fn outputs(&self, targets: &[&str]) -> BTreeMap<String, String> {
        let output = self.vadpipe(["show", "p.toml", "--json"].iter().chain(targets));
        assert_eq!(output.code, 0, "{}", output.stderr);
        let all: BTreeMap<String, Value> = serde_json::from_str(&output.stdout).expect("JSON");
        all.into_iter().map(|(name, record)| (name, text(&record["digest"]))).collect()
    }

    pub(crate) fn plan(&self, more: &[&str]) -> BTreeMap<String, Value> {
        let output = self.vadpipe(["plan", "p.toml", "--json"].iter().chain(more));
        assert_eq!(output.code, 0, "{}", output.stderr);
        let plan: Value = serde_json::from_str(&output.stdout).expect("JSON");
        let stages = plan["stages"].as_array().expect("stages").iter();
        stages.map(|s| (text(&s["name"]), s.clone())).collect()
    }
}

impl CommandOutput {
    pub(crate) fn of(output: std::process::Output) -> Self {
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        Self { code: output.status.code().unwrap_or(-1), stdout: text(output.stdout), stderr: text(output.stderr) }
    }
}

impl Run {
    /// The events that a `run --json` printed.
    pub(crate) fn of(output: CommandOutput) -> Self {
        let events = output.stdout.lines().map(|l| serde_json::from_str(l).expect("each line is JSON")).collect();
        Self { output, events }
    }

    /// The epochs that the run trained, in order.
    pub(crate) fn trained(&self) -> Vec<u64> {
        self.of_kind("epoch").map(|event| event["epoch"].as_u64().expect("a number")).collect()
    }

    pub(crate) fn last(&self) -> &Value {
        let last = self.events.last().expect("an event");
        assert_eq!(last["event"], "run-finished");
        last
    }

    fn list(&self, name: &str) -> Vec<String> {
        self.last()[name].as_array().expect("a list").iter().map(text).collect()
    }

    pub(crate) fn executed(&self) -> Vec<String> {
        self.list("executed")
    }

    pub(crate) fn cached(&self) -> Vec<String> {
        self.list("cached")
    }

    pub(crate) fn failed(&self) -> Vec<String> {
        self.list("failed")
    }

    pub(crate) fn skipped(&self) -> Vec<String> {
        self.list("skipped")
    }

    pub(crate) fn of_kind<'a>(&'a self, event: &'a str) -> impl Iterator<Item = &'a Value> {
        self.events.iter().filter(move |e| e["event"] == event)
    }
}

/// The JSON that a command printed. The command must have succeeded.
pub(crate) fn json(output: &CommandOutput) -> Value {
    assert_eq!(output.code, 0, "{}", output.stderr);
    serde_json::from_str(&output.stdout).expect("JSON")
}

pub(crate) fn text(value: &Value) -> String {
    value.as_str().expect("a string").to_owned()
}

/// The folder of Fashion-MNIST, if this machine has it.
pub(crate) fn fashion_mnist() -> Option<PathBuf> {
    let shared = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/data/fashion-mnist");
    let given = std::env::var_os("VADPIPE_DATA_DIR").map(PathBuf::from);
    given.into_iter().chain([shared]).find(|d| d.join("train-images-idx3-ubyte.gz").is_file())
}

/// Whether this program is installed.
pub(crate) fn has(program: &str) -> bool {
    let found = Command::new(program).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
    found.is_ok_and(|s| s.success())
}

/// Whether Python is installed. Says so if it is not.
#[expect(clippy::print_stderr, reason = "it says why a test did nothing")]
pub(crate) fn has_python() -> bool {
    let found = has("python3");
    if !found {
        eprintln!("python3 is not installed: its programs were not run");
    }
    found
}

/// Waits until a file exists.
pub(crate) fn wait_for(path: &Path) {
    let begun = Instant::now();
    while !path.exists() {
        assert!(begun.elapsed() < Duration::from_secs(30), "{} never came", path.display());
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Sends a signal to a process that was started.
pub(crate) fn signal(child: &Child, signal: Signal) {
    let pid = Pid::from_raw(i32::try_from(child.id()).expect("a pid")).expect("a pid");
    kill_process(pid, signal).expect("the signal is sent");
}
