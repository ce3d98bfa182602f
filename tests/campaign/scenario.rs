//! The caches and the commands that are attacked, and the results of an undisturbed program.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

use crate::program::{CommandOutput, Project, copy_folder, remove_folder};

/// Has images large enough for a pack, a training with a state after each epoch, and small results. Runs in a tenth of
/// a second.
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
    /// The values of the file.
    Base,
    /// With another seed: every stage but `data` has other results.
    Seed,
    /// One stage with another parameter.
    More,
    /// The training extended from two epochs to four.
    Longer,
    /// With a third seed. Only the scenario `gc` has these results, and it removes them.
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

/// The result of a point by an undisturbed program.
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
    /// The views that the verdict checks.
    pub(crate) views: Vec<View>,
    /// The keys of results that must survive any attack on the command.
    pub(crate) kept: BTreeSet<String>,
    /// The earliest epoch from which an extended training may resume.
    pub(crate) resumes_at: Option<u64>,
    /// Whether the prepared cache was damaged on purpose. The program may then report damage.
    pub(crate) damaged: bool,
    /// The time of the undisturbed command.
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

/// The results of all points of a view, from the output of `show --json`.
pub(crate) fn records(output: &CommandOutput) -> Option<BTreeMap<String, Reference>> {
    let all: BTreeMap<String, Value> = serde_json::from_str(&output.stdout).ok()?;
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

/// The keys of the hits in the output of `plan`.
pub(crate) fn hits(output: &CommandOutput) -> Option<BTreeSet<String>> {
    let plan = output.json()?;
    let stages = plan["stages"].as_array()?.iter().filter(|s| s["state"] == "hit");
    Some(stages.filter_map(|s| s["key"].as_str()).map(str::to_owned).collect())
}

impl Lab {
    /// Makes the references and the scenarios. With `preparer`, that program makes the prepared caches.
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

    fn fresh(&self, program: &Path, name: &str) -> io::Result<Project> {
        let dir = self.path(name);
        remove_folder(&dir)?;
        fs::create_dir(&dir)?;
        fs::write(dir.join("p.toml"), PIPELINE)?;
        Ok(Project::new(program, &dir))
    }

    /// A fresh copy of a scenario's folder.
    pub(crate) fn copy(&self, scenario: &Scenario, to: &Path) -> io::Result<Project> {
        copy_folder(&scenario.base, to)?;
        Ok(Project::new(&self.program, to))
    }

    pub(crate) fn scenario(&self, name: &str) -> &Scenario {
        self.scenarios.iter().find(|s| s.name == name).expect("a scenario")
    }

    fn make_references(&mut self) -> io::Result<()> {
        for view in View::ALL {
            let project = self.fresh(&self.program, "reference")?;
            must(&project, &view.json("run"))?;
            let shown = must(&project, &view.json("show"))?;
            let records = records(&shown).ok_or_else(|| io::Error::other("`show --json` printed no records"))?;
            self.references.insert(view, records);
            if view == View::Base {
                must(&project, &words("export p.toml --to exported"))?;
                self.exported = exported(&project.dir().join("exported"))?;
            }
            remove_folder(project.dir())?;
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
            let project = self.fresh(preparer, &format!("base-{name}"))?;
            must(&project, &Seed.json("run"))?;
            if name == "gc" {
                must(&project, &View::Garbage.json("run"))?;
            }
            must(&project, &Base.json("run"))?;
            self.add(name, &project, args, views, false)?;
        }
        let project = self.fresh(preparer, "base-first")?;
        self.add("first", &project, Base.json("run"), &[Base], false)?;
        let project = self.fresh(preparer, "base-rebuild")?;
        must(&project, &Seed.json("run"))?;
        must(&project, &Base.json("run"))?;
        remove_databases(project.cache())?;
        self.add("rebuild", &project, Base.json("run"), &[Base, Seed], true)
    }

    /// Runs the command of a scenario undisturbed, to determine which results must survive.
    fn add(
        &mut self,
        name: &'static str,
        project: &Project,
        args: Vec<String>,
        views: &[View],
        damaged: bool,
    ) -> io::Result<()> {
        let mut scenario = Scenario {
            name,
            base: project.dir().to_owned(),
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
        let output = must(&after, &scenario.args)?;
        scenario.takes = begun.elapsed();
        if damaged {
            // The results that the undisturbed command recovers.
            let cached = output.events().into_iter().filter(|e| e["event"] == "stage-cached");
            scenario.kept = cached.filter_map(|e| e["key"].as_str().map(str::to_owned)).collect();
        } else if name != "first" {
            for view in View::ALL {
                let plan = |project| must(project, &view.json("plan")).map(|a| hits(&a).unwrap_or_default());
                scenario.kept.extend(plan(&before)?.intersection(&plan(&after)?).cloned());
            }
        }
        if views.contains(&View::Longer) {
            let output = must(if name == "gc" { &after } else { &before }, &View::Longer.json("run"))?;
            let resumed = output.events().into_iter().find(|e| e["event"] == "resumed");
            scenario.resumes_at = resumed.and_then(|e| e["epoch"].as_u64());
        }
        remove_folder(before.dir())?;
        remove_folder(after.dir())?;
        self.scenarios.push(scenario);
        Ok(())
    }
}

/// Removes the databases, except their journals. They can be rebuilt from these.
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

/// Runs an undisturbed command, which must succeed.
fn must(project: &Project, args: &[String]) -> io::Result<CommandOutput> {
    let output = project.run(args)?;
    if output.succeeded() {
        return Ok(output);
    }
    Err(io::Error::other(format!("`vadpipe {}` failed undisturbed: {}", args.join(" "), output.describe())))
}
