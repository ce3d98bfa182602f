//! The caches and the commands that are attacked, and what an undisturbed program makes of them.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

use crate::program::{Answer, Desk, copy_folder, remove_folder};

/// Images large enough for a pack, a training with a state after each epoch, and small results. It runs in a tenth of a
/// second.
const PIPELINE: &str = r#"
[pipeline]
name = "campaign"
seed = 7
checkpoint_seconds = 0

[params]
epochs = 2
ones = 1

[stages.data]
kind = "load-data"
source = "synthetic"
train = 400
test = 20

[stages.ad]
kind = "train-ad"
inputs = { data = "data" }
epochs = "${params.epochs}"
batch = 100
latent_dim = 6
channels = [16, 12, 8, 8]

[stages.fit]
kind = "fit-latents"
inputs = { data = "data", model = "ad" }
split = "test"
epochs = 2

[stages.ones]
kind = "decode"
inputs = { model = "ad" }
what = "ones"
count = "${params.ones}"
"#;

/// The pipeline with one set of values.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum View {
    /// As it is in the file.
    Base,
    /// With another seed: every stage but `data` has other results.
    Seed,
    /// One stage with another parameter.
    More,
    /// The training extended from two epochs to four.
    Longer,
    /// With a third seed; only the scenario `gc` has these results, and removes them.
    Garbage,
}

impl View {
    pub(crate) const ALL: [Self; 5] = [Self::Base, Self::Seed, Self::More, Self::Longer, Self::Garbage];

    fn set(self) -> &'static [&'static str] {
        match self {
            Self::Base => &[],
            Self::Seed => &["-S", "pipeline.seed=3"],
            Self::More => &["-S", "params.ones=2"],
            Self::Longer => &["-S", "params.epochs=4"],
            Self::Garbage => &["-S", "pipeline.seed=9"],
        }
    }

    /// `COMMAND p.toml` with this view's values.
    pub(crate) fn args(self, command: &str) -> Vec<String> {
        let words = [command, "p.toml"].into_iter().chain(self.set().iter().copied());
        words.map(str::to_owned).collect()
    }

    /// [`View::args`] with `--json`.
    pub(crate) fn json(self, command: &str) -> Vec<String> {
        let mut args = self.args(command);
        args.push("--json".to_owned());
        args
    }
}

/// What an undisturbed program makes of a point.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Reference {
    pub(crate) key: String,
    pub(crate) digest: String,
    pub(crate) metrics: Value,
}

/// A prepared cache and the command that is attacked.
pub(crate) struct Scenario {
    pub(crate) name: &'static str,
    /// The folder with the pipeline and the prepared cache.
    pub(crate) base: PathBuf,
    pub(crate) args: Vec<String>,
    /// The views that the verdict looks at.
    pub(crate) views: Vec<View>,
    /// The keys of results that must survive any attack on the command.
    pub(crate) kept: BTreeSet<String>,
    /// The epoch that an extended training must resume at, or later.
    pub(crate) resumes_at: Option<u64>,
    /// The prepared cache was damaged on purpose: the program may report it.
    pub(crate) damaged: bool,
    /// The time that the command takes undisturbed.
    pub(crate) takes: Duration,
}

/// Everything that trials need.
pub(crate) struct Lab {
    pub(crate) program: PathBuf,
    dir: TempDir,
    pub(crate) references: BTreeMap<View, BTreeMap<String, Reference>>,
    /// The files that `export` writes, for [`View::Base`].
    pub(crate) exported: BTreeMap<String, Vec<u8>>,
    pub(crate) scenarios: Vec<Scenario>,
}

fn words(text: &str) -> Vec<String> {
    text.split(' ').map(str::to_owned).collect()
}

/// What `show --json` says of all points of a view.
pub(crate) fn records(answer: &Answer) -> Option<BTreeMap<String, Reference>> {
    let all: BTreeMap<String, Value> = serde_json::from_str(&answer.out).ok()?;
    let text = |v: &Value| v.as_str().unwrap_or_default().to_owned();
    let of = |r: &Value| Reference {
        key: text(&r["key"]),
        digest: text(&r["digest"]),
        metrics: r["manifest"]["metrics"].clone(),
    };
    Some(all.iter().map(|(name, record)| (name.clone(), of(record))).collect())
}

/// The files below an export folder, by relative path.
pub(crate) fn exported(dir: &Path) -> io::Result<BTreeMap<String, Vec<u8>>> {
    let files = crate::program::files_below(dir)?;
    let relative = |f: &Path| f.strip_prefix(dir).unwrap_or(f).to_string_lossy().into_owned();
    files.iter().map(|f| Ok((relative(f), fs::read(f)?))).collect()
}

/// The keys of the points of a view that `plan` calls hits.
pub(crate) fn hits(answer: &Answer) -> Option<BTreeSet<String>> {
    let plan = answer.json()?;
    let stages = plan["stages"].as_array()?.iter().filter(|s| s["state"] == "hit");
    Some(stages.filter_map(|s| s["key"].as_str()).map(str::to_owned).collect())
}

impl Lab {
    /// Makes the references and the scenarios. With `preparer`, another program makes the prepared caches.
    pub(crate) fn new(program: &Path, preparer: Option<&Path>) -> io::Result<Self> {
        let memory = Path::new("/dev/shm");
        let parent = if memory.is_dir() { memory.to_owned() } else { std::env::temp_dir() };
        let dir = tempfile::Builder::new().prefix("vadpipe-campaign-").tempdir_in(parent.canonicalize()?)?;
        // Another user must be able to reach the program and the caches.
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755))?;
        let copied = dir.path().join("vadpipe");
        fs::copy(program, &copied)?;
        let mut lab = Self {
            program: copied,
            references: BTreeMap::new(),
            exported: BTreeMap::new(),
            scenarios: Vec::new(),
            dir,
        };
        lab.make_references()?;
        let preparer = match preparer {
            Some(path) => {
                let copied = lab.path("preparer");
                fs::copy(path, &copied)?;
                copied
            }
            None => lab.program.clone(),
        };
        lab.make_scenarios(&preparer)?;
        Ok(lab)
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn fresh(&self, program: &Path, name: &str) -> io::Result<Desk> {
        let dir = self.path(name);
        remove_folder(&dir)?;
        fs::create_dir(&dir)?;
        fs::write(dir.join("p.toml"), PIPELINE)?;
        Ok(Desk::new(program, &dir))
    }

    /// A fresh copy of a scenario's folder.
    pub(crate) fn copy(&self, scenario: &Scenario, to: &Path) -> io::Result<Desk> {
        copy_folder(&scenario.base, to)?;
        Ok(Desk::new(&self.program, to))
    }

    pub(crate) fn scenario(&self, name: &str) -> &Scenario {
        self.scenarios.iter().find(|s| s.name == name).expect("a scenario")
    }

    fn make_references(&mut self) -> io::Result<()> {
        for view in View::ALL {
            let desk = self.fresh(&self.program, "reference")?;
            must(&desk, &view.json("run"))?;
            let shown = must(&desk, &view.json("show"))?;
            let records = records(&shown).ok_or_else(|| io::Error::other("`show --json` printed something else"))?;
            self.references.insert(view, records);
            if view == View::Base {
                must(&desk, &words("export p.toml --to exported"))?;
                self.exported = exported(&desk.dir().join("exported"))?;
            }
            remove_folder(desk.dir())?;
        }
        Ok(())
    }

    fn make_scenarios(&mut self, preparer: &Path) -> io::Result<()> {
        use View::{Base, Longer, More, Seed};
        let plain: [(&'static str, Vec<String>, &[View]); 5] = [
            ("new", More.json("run"), &[Base, More]),
            ("extend", Longer.json("run"), &[Base, Longer]),
            ("plan", Base.json("plan"), &[Base, Seed]),
            ("doctor", words("doctor --json"), &[Base, Seed]),
            ("gc", words("gc --keep-runs 1 --json"), &[Base, Longer]),
        ];
        for (name, args, views) in plain {
            let desk = self.fresh(preparer, &format!("base-{name}"))?;
            must(&desk, &Seed.json("run"))?;
            if name == "gc" {
                must(&desk, &View::Garbage.json("run"))?;
            }
            must(&desk, &Base.json("run"))?;
            self.add(name, &desk, args, views, false)?;
        }
        let desk = self.fresh(preparer, "base-first")?;
        self.add("first", &desk, Base.json("run"), &[Base], false)?;
        let desk = self.fresh(preparer, "base-rebuild")?;
        must(&desk, &Seed.json("run"))?;
        must(&desk, &Base.json("run"))?;
        remove_databases(desk.cache())?;
        self.add("rebuild", &desk, Base.json("run"), &[Base, Seed], true)
    }

    /// Runs a scenario's command undisturbed to learn what must survive.
    fn add(
        &mut self,
        name: &'static str,
        desk: &Desk,
        args: Vec<String>,
        views: &[View],
        damaged: bool,
    ) -> io::Result<()> {
        let mut scenario = Scenario {
            name,
            base: desk.dir().to_owned(),
            args,
            views: views.to_vec(),
            kept: BTreeSet::new(),
            resumes_at: None,
            damaged,
            takes: Duration::ZERO,
        };
        let before = self.copy(&scenario, &self.path("learn-before"))?;
        let after = self.copy(&scenario, &self.path("learn-after"))?;
        let begun = Instant::now();
        let answer = must(&after, &scenario.args)?;
        scenario.takes = begun.elapsed();
        if damaged {
            // What the undisturbed command found again.
            let cached = answer.events().into_iter().filter(|e| e["event"] == "stage-cached");
            scenario.kept = cached.filter_map(|e| e["key"].as_str().map(str::to_owned)).collect();
        } else if name != "first" {
            for view in View::ALL {
                let plan = |desk| must(desk, &view.json("plan")).map(|a| hits(&a).unwrap_or_default());
                scenario.kept.extend(plan(&before)?.intersection(&plan(&after)?).cloned());
            }
        }
        if views.contains(&View::Longer) {
            let answer = must(if name == "gc" { &after } else { &before }, &View::Longer.json("run"))?;
            let resumed = answer.events().into_iter().find(|e| e["event"] == "resumed");
            scenario.resumes_at = resumed.and_then(|e| e["epoch"].as_u64());
        }
        remove_folder(before.dir())?;
        remove_folder(after.dir())?;
        self.scenarios.push(scenario);
        Ok(())
    }
}

/// Removes everything of the databases but their journals, from which they can be built again.
fn remove_databases(cache: &Path) -> io::Result<()> {
    for folder in fs::read_dir(cache)? {
        let folder = folder?;
        let name = folder.file_name().to_string_lossy().into_owned();
        if name != "index" && !name.starts_with("chunks-") || !folder.file_type()?.is_dir() {
            continue;
        }
        for entry in fs::read_dir(folder.path())? {
            let entry = entry?;
            if entry.file_type()?.is_dir() && entry.file_name() != "packs" {
                remove_folder(&entry.path())?;
            } else if entry.file_type()?.is_file() && entry.file_name() != "journal" {
                fs::remove_file(entry.path())?;
            }
        }
    }
    Ok(())
}

/// Runs a command that must succeed, since nothing disturbs it.
fn must(desk: &Desk, args: &[String]) -> io::Result<Answer> {
    let answer = desk.ask(args)?;
    if answer.succeeded() {
        return Ok(answer);
    }
    Err(io::Error::other(format!("`vadpipe {}` failed undisturbed: {}", args.join(" "), answer.describe())))
}
