//! The verdict after an attack: lost or wrong results, false alarms, panics, hangs and refused commands.

use std::collections::BTreeSet;
use std::io;

use serde_json::Value;

use crate::program::{CommandOutput, Project};
use crate::scenario::{Lab, Scenario, View, exported, hits, records};

/// A kind of fault. Each is a column of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Fault {
    /// An existing result or state is gone or was made again.
    Lost,
    /// `run` failed without a cause, or a result has other bytes.
    Wrong,
    /// The program reports damage where there is none.
    FalseAlarm,
    /// A panic, an abort or a crash.
    Panic,
    /// A command took longer than a minute.
    Hang,
    /// A command failed that must succeed here, such as `gc` on a full disk.
    Refused,
}

impl Fault {
    pub(crate) const ALL: [Self; 6] =
        [Self::Lost, Self::Wrong, Self::FalseAlarm, Self::Panic, Self::Hang, Self::Refused];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Lost => "lost",
            Self::Wrong => "wrong",
            Self::FalseAlarm => "false alarms",
            Self::Panic => "panics",
            Self::Hang => "hangs",
            Self::Refused => "refused",
        }
    }
}

/// The faults of one trial.
#[derive(Default)]
pub(crate) struct Verdict {
    pub(crate) faults: Vec<(Fault, String)>,
}

/// Words in errors and warnings that report damage.
const ALARMS: [&str; 6] = ["damaged", "corrupt", "set aside", "is lost", "are lost", "entries were saved"];

impl Verdict {
    pub(crate) fn add(&mut self, fault: Fault, text: impl Into<String>) {
        self.faults.push((fault, text.into()));
    }

    /// Adds panics and hangs of a command, and false alarms unless `damaged`.
    pub(crate) fn check(&mut self, what: &str, output: &CommandOutput, damaged: bool) {
        let crashed = output.signal.is_some_and(|s| [libc::SIGABRT, libc::SIGSEGV, libc::SIGBUS].contains(&s));
        let panicked = output.code.is_some_and(|c| [101, 134, 139].contains(&c)) || output.stderr.contains("panicked");
        if output.hung {
            self.add(Fault::Hang, format!("`{what}` took longer than a minute"));
        } else if crashed || panicked {
            self.add(Fault::Panic, format!("`{what}`: {}", output.describe()));
        }
        if !damaged && let Some(line) = alarm(output) {
            self.add(Fault::FalseAlarm, format!("`{what}`: {line}"));
        }
    }
}

/// The first line of an output that reports damage.
fn alarm(output: &CommandOutput) -> Option<String> {
    let warnings = output.stdout.lines().filter(|l| l.contains("\"event\":\"warning\""));
    let mut lines = output.stderr.lines().chain(warnings);
    let line = lines.find(|l| ALARMS.iter().any(|word| l.to_lowercase().contains(word)))?;
    Some(line.chars().take(300).collect())
}

/// The results and states that a command reported as stored before it was stopped.
#[derive(Default)]
pub(crate) struct Promises {
    /// Keys of stages that it reported as finished.
    pub(crate) keys: BTreeSet<String>,
    /// The last epoch whose state it reported as saved.
    pub(crate) epoch: Option<u64>,
}

impl Promises {
    pub(crate) fn of(output: &CommandOutput) -> Self {
        let events = output.events();
        let finished = events.iter().filter(|e| e["event"] == "stage-finished");
        let saved = events.iter().filter(|e| e["event"] == "state-saved").filter_map(|e| e["epoch"].as_u64());
        Self { keys: finished.filter_map(|e| e["key"].as_str().map(str::to_owned)).collect(), epoch: saved.max() }
    }
}

/// Checks a project after an attack that damaged no bytes.
pub(crate) struct Judge<'a> {
    pub(crate) lab: &'a Lab,
    pub(crate) scenario: &'a Scenario,
    pub(crate) project: &'a Project,
    pub(crate) promises: Promises,
    pub(crate) verdict: Verdict,
}

impl<'a> Judge<'a> {
    pub(crate) fn new(lab: &'a Lab, scenario: &'a Scenario, project: &'a Project) -> Self {
        Self { lab, scenario, project, promises: Promises::default(), verdict: Verdict::default() }
    }

    /// Runs `plan`, `doctor` and `gc`, in an order that depends on `turn`, then `run` and `show`.
    pub(crate) fn examine(mut self, turn: usize) -> io::Result<Verdict> {
        match turn % 3 {
            0 => {
                self.plans()?;
                self.doctor(true)?;
            }
            1 => {
                self.doctor(true)?;
                self.plans()?;
            }
            _ => {
                // `gc` may remove results of an unfinished run, but not what finished runs need.
                self.promises = Promises::default();
                self.must_succeed("gc", &["gc".to_owned()])?;
                self.plans()?;
            }
        }
        for view in self.scenario.views.clone() {
            self.run(view)?;
        }
        for view in self.scenario.views.clone() {
            self.show(view)?;
        }
        self.doctor(false)?;
        Ok(self.verdict)
    }

    fn must_succeed(&mut self, what: &str, args: &[String]) -> io::Result<Option<CommandOutput>> {
        let output = self.project.run(args)?;
        self.verdict.check(what, &output, self.scenario.damaged);
        if output.succeeded() {
            return Ok(Some(output));
        }
        self.verdict.add(Fault::Wrong, format!("`{what}` failed: {}", output.describe()));
        Ok(None)
    }

    fn must_survive(&self, key: &str) -> bool {
        self.scenario.kept.contains(key) || self.promises.keys.contains(key)
    }

    /// Checks that every result that must survive is a hit.
    fn plans(&mut self) -> io::Result<()> {
        for view in self.scenario.views.clone() {
            let what = view.args("plan").join(" ");
            let Some(output) = self.must_succeed(&what, &view.json("plan"))? else { continue };
            let hits = hits(&output).unwrap_or_default();
            let points = &self.lab.references[&view];
            let missing = points.iter().filter(|(_, r)| self.must_survive(&r.key) && !hits.contains(&r.key));
            let missing: Vec<&str> = missing.map(|(name, _)| name.as_str()).collect();
            if !missing.is_empty() {
                self.verdict.add(Fault::Lost, format!("`{what}` misses {}", missing.join(", ")));
            }
        }
        Ok(())
    }

    /// Checks that `doctor` finds no damage.
    fn doctor(&mut self, dry_run: bool) -> io::Result<()> {
        let args: Vec<String> =
            ["doctor", "--json", "-n"].iter().take(if dry_run { 3 } else { 2 }).map(|w| (*w).to_owned()).collect();
        let what = args.join(" ");
        let output = self.project.run(&args)?;
        self.verdict.check(&what, &output, self.scenario.damaged);
        if self.scenario.damaged {
            if !dry_run && !output.succeeded() {
                self.verdict.add(Fault::Wrong, format!("`{what}` failed: {}", output.describe()));
            }
            return Ok(());
        }
        let report = output.json().unwrap_or_default();
        let any = |name: &str| report[name].as_array().is_some_and(|list| !list.is_empty());
        if !output.succeeded() || report["healthy"] == false || any("problems") || any("set_aside") {
            let found = format!("{} {}", report["problems"], report["set_aside"]);
            let found: String = found.chars().take(300).collect();
            self.verdict.add(Fault::FalseAlarm, format!("`{what}`: {found} ({})", output.describe()));
        }
        Ok(())
    }

    /// Checks that `run` succeeds and makes no surviving result again.
    fn run(&mut self, view: View) -> io::Result<()> {
        let what = view.args("run").join(" ");
        let Some(output) = self.must_succeed(&what, &view.json("run"))? else { return Ok(()) };
        let events = output.events();
        let started: Vec<&Value> = events.iter().filter(|e| e["event"] == "stage-started").collect();
        let again = started.iter().filter(|e| e["key"].as_str().is_some_and(|key| self.must_survive(key)));
        let again: Vec<&str> = again.filter_map(|e| e["stage"].as_str()).collect();
        if !again.is_empty() {
            self.verdict.add(Fault::Lost, format!("`{what}` makes {} again", again.join(", ")));
        }
        if view == View::Longer && started.iter().any(|e| e["stage"] == "ad") {
            let resumed = events.iter().find(|e| e["event"] == "resumed").and_then(|e| e["epoch"].as_u64());
            let floor = self.scenario.resumes_at.max(self.promises.epoch);
            if resumed < floor {
                self.verdict.add(Fault::Lost, format!("`{what}` resumes at {resumed:?}, not at {floor:?}"));
            }
        }
        Ok(())
    }

    /// Checks that digests and metrics are those of an undisturbed run.
    fn show(&mut self, view: View) -> io::Result<()> {
        let what = view.args("show").join(" ");
        let Some(output) = self.must_succeed(&what, &view.json("show"))? else { return Ok(()) };
        compare_records(self.lab, view, &output, &mut self.verdict);
        Ok(())
    }
}

/// Compares the output of `show --json` with the reference.
pub(crate) fn compare_records(lab: &Lab, view: View, output: &CommandOutput, verdict: &mut Verdict) {
    let shown = records(output).unwrap_or_default();
    for (name, reference) in &lab.references[&view] {
        if shown.get(name) != Some(reference) {
            verdict.add(Fault::Wrong, format!("`{name}` of {view:?} differs: {:?}", shown.get(name)));
        }
    }
}

/// Exports [`View::Base`] and compares every byte. Returns whether `export` succeeded.
pub(crate) fn compare_export(lab: &Lab, project: &Project, verdict: &mut Verdict) -> io::Result<bool> {
    let to = project.dir().join("exported");
    crate::program::remove_folder(&to)?;
    let output = project.run(&["export", "p.toml", "--to", "exported"])?;
    verdict.check("export", &output, true);
    if !output.succeeded() {
        return Ok(false);
    }
    let files = exported(&to)?;
    for (name, bytes) in &lab.exported {
        if files.get(name) != Some(bytes) {
            verdict.add(Fault::Wrong, format!("`export` writes other bytes to {name}"));
        }
    }
    Ok(true)
}
