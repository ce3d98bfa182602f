//! A user at work: a folder of their own, a pipeline, and the real program with a cleared environment.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use serde_json::Value;
use tempfile::TempDir;

/// A small pipeline with every way that stages hang together: lists, axes, `at`, trainings, fits.
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

/// A folder with a pipeline in it.
pub(crate) struct Desk {
    dir: TempDir,
}

/// What a command said.
pub(crate) struct Said {
    pub(crate) code: i32,
    pub(crate) out: String,
    pub(crate) err: String,
}

/// The last event of a run, and those before it.
pub(crate) struct Ran {
    pub(crate) said: Said,
    pub(crate) events: Vec<Value>,
}

impl Desk {
    /// A desk with this pipeline.
    pub(crate) fn new(pipeline: &str) -> Self {
        let desk = Self { dir: tempfile::tempdir().expect("a folder") };
        desk.write("p.toml", pipeline);
        desk
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

    /// Replaces text in the pipeline; it must be there.
    pub(crate) fn edit(&self, from: &str, to: &str) {
        let text = self.read("p.toml");
        assert!(text.contains(from), "the pipeline holds {from:?}");
        self.write("p.toml", &text.replace(from, to));
    }

    pub(crate) fn command<A: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = A>) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_vadpipe"));
        command.args(args).current_dir(self.dir.path()).env_clear().env("HOME", self.dir.path());
        command.env("PATH", std::env::var_os("PATH").unwrap_or_default());
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// Runs `vadpipe` to its end.
    pub(crate) fn vadpipe<A: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = A>) -> Said {
        Said::of(self.command(args).output().expect("vadpipe starts"))
    }

    pub(crate) fn start(&self, args: &[&str]) -> Child {
        self.command(args).spawn().expect("vadpipe starts")
    }

    /// `vadpipe run p.toml --json` with more arguments, whatever comes of it.
    pub(crate) fn try_run(&self, more: &[&str]) -> Ran {
        let said = self.vadpipe(["run", "p.toml", "--json"].iter().chain(more));
        let events = said.out.lines().map(|l| serde_json::from_str(l).expect("each line is JSON")).collect();
        Ran { said, events }
    }

    /// [`Desk::try_run`], which must succeed.
    pub(crate) fn run(&self, more: &[&str]) -> Ran {
        let ran = self.try_run(more);
        assert_eq!(ran.said.code, 0, "{}\n{}", ran.said.out, ran.said.err);
        assert_eq!(ran.last()["status"], "ok");
        ran
    }

    /// The output digest of every point; all must be cached.
    pub(crate) fn digests(&self) -> BTreeMap<String, String> {
        self.outputs(&[])
    }

    /// The output digests of these targets, which must be cached.
    pub(crate) fn outputs(&self, targets: &[&str]) -> BTreeMap<String, String> {
        let said = self.vadpipe(["show", "p.toml", "--json"].iter().chain(targets));
        assert_eq!(said.code, 0, "{}", said.err);
        let all: BTreeMap<String, Value> = serde_json::from_str(&said.out).expect("JSON");
        all.into_iter().map(|(name, record)| (name, text(&record["digest"]))).collect()
    }

    pub(crate) fn plan(&self, more: &[&str]) -> BTreeMap<String, Value> {
        let said = self.vadpipe(["plan", "p.toml", "--json"].iter().chain(more));
        assert_eq!(said.code, 0, "{}", said.err);
        let plan: Value = serde_json::from_str(&said.out).expect("JSON");
        let stages = plan["stages"].as_array().expect("stages").iter();
        stages.map(|s| (text(&s["name"]), s.clone())).collect()
    }
}

impl Said {
    pub(crate) fn of(output: Output) -> Self {
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        Self { code: output.status.code().unwrap_or(-1), out: text(output.stdout), err: text(output.stderr) }
    }
}

impl Ran {
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

/// What a command that succeeded printed with `--json`.
pub(crate) fn json(said: &Said) -> Value {
    assert_eq!(said.code, 0, "{}", said.err);
    serde_json::from_str(&said.out).expect("JSON")
}

pub(crate) fn text(value: &Value) -> String {
    value.as_str().expect("a string").to_owned()
}

/// Fashion-MNIST, if this machine has it.
pub(crate) fn fashion_mnist() -> Option<PathBuf> {
    let beside = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/data/fashion-mnist");
    let given = std::env::var_os("VADPIPE_DATA_DIR").map(PathBuf::from);
    given.into_iter().chain([beside]).find(|d| d.join("train-images-idx3-ubyte.gz").is_file())
}

/// Whether this program can be run here.
pub(crate) fn has(program: &str) -> bool {
    let found = Command::new(program).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
    found.is_ok_and(|s| s.success())
}
