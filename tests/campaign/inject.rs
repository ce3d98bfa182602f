//! Attacks at system calls: kills, torn writes, a full disk and a failing disk at every call that touches the cache.

mod calls;
mod tracer;

use std::io;
use std::path::Path;
use std::sync::OnceLock;

use calls::Call;
pub(crate) use tracer::{Action, CAN_FAIL};

use crate::judge::{Fault, Judge, Promises, Verdict};
use crate::scenario::{Lab, Scenario};

/// A row of the table that disturbs system calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    KillAfter,
    KillBefore,
    Tear,
    NoSpaceOnce,
    NoSpaceFrom,
    IoError,
}

impl Kind {
    pub(crate) fn action(self, n: usize) -> Action {
        match self {
            Self::KillAfter => Action::KillAfter(n),
            Self::KillBefore => Action::KillBefore(n),
            Self::Tear => Action::Tear(n),
            Self::NoSpaceOnce => Action::NoSpaceOnce(n),
            Self::NoSpaceFrom => Action::NoSpaceFrom(n),
            Self::IoError => Action::IoError(n),
        }
    }

    /// Whether a call is a point of this attack. Kills that leave the same files as a neighbouring kill are points only
    /// with `every`.
    fn applies(self, call: &Call, every: bool) -> bool {
        match self {
            Self::KillAfter => every || call.changes(),
            // If the calls before it change nothing, a kill before this call equals a kill after any of them.
            Self::KillBefore => call.changes(),
            Self::Tear => call.can_tear(),
            Self::NoSpaceOnce | Self::NoSpaceFrom => call.needs_space(),
            Self::IoError => call.needs_disk(),
        }
    }
}

/// The calls of the command of each scenario. They are counted once.
#[derive(Default)]
pub(crate) struct Counted(OnceLock<Vec<(&'static str, Vec<Call>)>>);

impl Counted {
    fn get(&self, lab: &Lab) -> io::Result<&Vec<(&'static str, Vec<Call>)>> {
        if let Some(counted) = self.0.get() {
            return Ok(counted);
        }
        let mut counted = Vec::new();
        for scenario in &lab.scenarios {
            let count = || -> io::Result<Vec<Call>> {
                let project = lab.copy(scenario, &lab.path("count"))?;
                Ok(tracer::trace(&project, &scenario.args, Action::Count)?.calls)
            };
            // The number of calls varies a little between runs because of threads.
            let (first, second) = (count()?, count()?);
            counted.push((scenario.name, if first.len() > second.len() { first } else { second }));
        }
        Ok(self.0.get_or_init(|| counted))
    }

    /// All points of an attack: a scenario and the number of a call.
    pub(crate) fn points(&self, lab: &Lab, kind: Kind, every: bool) -> io::Result<Vec<(&'static str, usize)>> {
        let mut points = Vec::new();
        for (scenario, calls) in self.get(lab)? {
            let applies = calls.iter().enumerate().filter(|(_, call)| kind.applies(call, every));
            points.extend(applies.map(|(i, _)| (*scenario, i + 1)));
        }
        Ok(points)
    }
}

/// One trial. Also returns the disturbed call.
pub(crate) fn trial(lab: &Lab, dir: &Path, kind: Kind, scenario: &Scenario, n: usize) -> io::Result<(Verdict, String)> {
    let project = lab.copy(scenario, dir)?;
    let traced = tracer::trace(&project, &scenario.args, kind.action(n))?;
    let place = match &traced.disturbed {
        Some((at, call)) => format!("{}:{n}: call {at} {}({})", scenario.name, call.name, call.path),
        None => format!("{}:{n}: not reached", scenario.name),
    };
    let output = &traced.output;
    let mut judge = Judge::new(lab, scenario, &project);
    judge.verdict.check(&scenario.args.join(" "), output, scenario.damaged || kind == Kind::IoError);
    let killed = matches!(kind, Kind::KillAfter | Kind::KillBefore | Kind::Tear) && traced.disturbed.is_some();
    // A run may fail if a stage runs out of space.
    if !killed && !output.hung && ![Some(0), Some(1), Some(5)].contains(&output.code) {
        judge.verdict.add(Fault::Wrong, format!("`{}`: {}", scenario.args.join(" "), output.describe()));
    }
    if scenario.name != "gc" {
        judge.promises = Promises::of(output);
    }
    Ok((judge.examine(n)?, place))
}
