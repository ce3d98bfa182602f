//! The verdict after an attack: what is lost, wrong, a false alarm, a panic, a hang or refused.

use std::collections::BTreeSet;
use std::io;

use serde_json::Value;

use crate::program::{Answer, Desk};
use crate::scenario::{Lab, Scenario, View, exported, hits, records};

/// A kind of fault; a column of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Fault {
    /// A result or state that existed is gone or was made again.
    Lost,
    /// `run` failed without a cause, or a result has other bytes.
    Wrong,
    /// The program speaks of damage where there is none.
    FalseAlarm,
    /// A panic, an abort or a crash.
    Panic,
    /// A command took longer than a minute.
    Hang,
    /// A command failed that must work here, such as `gc` on a full disk.
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

/// Words in an error or a warning that speak of damage.
const ALARMS: [&str; 6] = ["damaged", "corrupt", "set aside", "is lost", "are lost", "entries were saved"];

impl Verdict {
    pub(crate) fn add(&mut self, fault: Fault, text: impl Into<String>) {
        self.faults.push((fault, text.into()));
    }

    /// Panics and hangs of a command, and false alarms unless `damaged`.
    pub(crate) fn look_at(&mut self, what: &str, answer: &Answer, damaged: bool) {
        let crashed = answer.signal.is_some_and(|s| [libc::SIGABRT, libc::SIGSEGV, libc::SIGBUS].contains(&s));
        let panicked = answer.code.is_some_and(|c| [101, 134, 139].contains(&c)) || answer.err.contains("panicked");
        if answer.hung {
            self.add(Fault::Hang, format!("`{what}` took longer than a minute"));
        } else if crashed || panicked {
            self.add(Fault::Panic, format!("`{what}`: {}", answer.describe()));
        }
        if !damaged && let Some(line) = alarm(answer) {
            self.add(Fault::FalseAlarm, format!("`{what}`: {line}"));
        }
    }
}

/// The first line of an answer that speaks of damage.
fn alarm(answer: &Answer) -> Option<String> {
    let warnings = answer.out.lines().filter(|l| l.contains("\"event\":\"warning\""));
    let mut lines = answer.err.lines().chain(warnings);
    let line = lines.find(|l| ALARMS.iter().any(|word| l.to_lowercase().contains(word)))?;
    Some(line.chars().take(300).collect())
}

/// What a trial's command promised before it was stopped.
#[derive(Default)]
pub(crate) struct Promises {
    /// Keys of stages that it called finished.
    pub(crate) keys: BTreeSet<String>,
    /// The last epoch whose state it called saved.
    pub(crate) epoch: Option<u64>,
}

impl Promises {
    pub(crate) fn of(answer: &Answer) -> Self {
        let events = answer.events();
        let finished = events.iter().filter(|e| e["event"] == "stage-finished");
        let saved = events.iter().filter(|e| e["event"] == "state-saved").filter_map(|e| e["epoch"].as_u64());
        Self { keys: finished.filter_map(|e| e["key"].as_str().map(str::to_owned)).collect(), epoch: saved.max() }
    }
}

/// Examines a desk after an attack that damaged no bytes.
pub(crate) struct Judge<'a> {
    pub(crate) lab: &'a Lab,
    pub(crate) scenario: &'a Scenario,
    pub(crate) desk: &'a Desk,
    pub(crate) promises: Promises,
    pub(crate) verdict: Verdict,
}

impl<'a> Judge<'a> {
    pub(crate) fn new(lab: &'a Lab, scenario: &'a Scenario, desk: &'a Desk) -> Self {
        Self { lab, scenario, desk, promises: Promises::default(), verdict: Verdict::default() }
    }

    /// Asks `plan`, `doctor`, `gc` (in an order that depends on `turn`), `run` and `show`.
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
                // A collection may drop what an unfinished run made, but not what finished runs need.
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

    fn must_succeed(&mut self, what: &str, args: &[String]) -> io::Result<Option<Answer>> {
        let answer = self.desk.ask(args)?;
        self.verdict.look_at(what, &answer, self.scenario.damaged);
        if answer.succeeded() {
            return Ok(Some(answer));
        }
        self.verdict.add(Fault::Wrong, format!("`{what}` failed: {}", answer.describe()));
        Ok(None)
    }

    fn must_survive(&self, key: &str) -> bool {
        self.scenario.kept.contains(key) || self.promises.keys.contains(key)
    }

    /// Every result that must survive is a hit.
    fn plans(&mut self) -> io::Result<()> {
        for view in self.scenario.views.clone() {
            let what = view.args("plan").join(" ");
            let Some(answer) = self.must_succeed(&what, &view.json("plan"))? else { continue };
            let hits = hits(&answer).unwrap_or_default();
            let points = &self.lab.references[&view];
            let missing = points.iter().filter(|(_, r)| self.must_survive(&r.key) && !hits.contains(&r.key));
            let missing: Vec<&str> = missing.map(|(name, _)| name.as_str()).collect();
            if !missing.is_empty() {
                self.verdict.add(Fault::Lost, format!("`{what}` misses {}", missing.join(", ")));
            }
        }
        Ok(())
    }

    /// `doctor` finds nothing.
    fn doctor(&mut self, dry_run: bool) -> io::Result<()> {
        let args: Vec<String> =
            ["doctor", "--json", "-n"].iter().take(if dry_run { 3 } else { 2 }).map(|w| (*w).to_owned()).collect();
        let what = args.join(" ");
        let answer = self.desk.ask(&args)?;
        self.verdict.look_at(&what, &answer, self.scenario.damaged);
        if self.scenario.damaged {
            if !dry_run && !answer.succeeded() {
                self.verdict.add(Fault::Wrong, format!("`{what}` failed: {}", answer.describe()));
            }
            return Ok(());
        }
        let report = answer.json().unwrap_or_default();
        let any = |name: &str| report[name].as_array().is_some_and(|list| !list.is_empty());
        if !answer.succeeded() || report["healthy"] == false || any("problems") || any("set_aside") {
            let found = format!("{} {}", report["problems"], report["set_aside"]);
            let found: String = found.chars().take(300).collect();
            self.verdict.add(Fault::FalseAlarm, format!("`{what}`: {found} ({})", answer.describe()));
        }
        Ok(())
    }

    /// `run` succeeds and makes nothing again.
    fn run(&mut self, view: View) -> io::Result<()> {
        let what = view.args("run").join(" ");
        let Some(answer) = self.must_succeed(&what, &view.json("run"))? else { return Ok(()) };
        let events = answer.events();
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

    /// Digests and metrics are those of an undisturbed run.
    fn show(&mut self, view: View) -> io::Result<()> {
        let what = view.args("show").join(" ");
        let Some(answer) = self.must_succeed(&what, &view.json("show"))? else { return Ok(()) };
        compare_records(self.lab, view, &answer, &mut self.verdict);
        Ok(())
    }
}

/// Compares what `show --json` printed with the reference.
pub(crate) fn compare_records(lab: &Lab, view: View, answer: &Answer, verdict: &mut Verdict) {
    let shown = records(answer).unwrap_or_default();
    for (name, reference) in &lab.references[&view] {
        if shown.get(name) != Some(reference) {
            verdict.add(Fault::Wrong, format!("`{name}` of {view:?} differs: {:?}", shown.get(name)));
        }
    }
}

/// Exports [`View::Base`] and compares every byte. False if `export` failed.
pub(crate) fn compare_export(lab: &Lab, desk: &Desk, verdict: &mut Verdict) -> io::Result<bool> {
    let to = desk.dir().join("exported");
    crate::program::remove_folder(&to)?;
    let answer = desk.ask(&["export", "p.toml", "--to", "exported"])?;
    verdict.look_at("export", &answer, true);
    if !answer.succeeded() {
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
