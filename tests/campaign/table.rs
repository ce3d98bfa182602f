//! The table of results, with one row per attack.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use crate::judge::{Fault, Verdict};

/// A fault that a trial found.
pub(crate) struct Failure {
    pub(crate) text: String,
    /// Whether it is the first fault of its kind in its trial. The others often follow from it.
    pub(crate) is_first: bool,
}

/// A row of the table.
#[derive(Default)]
pub(crate) struct Row {
    pub(crate) name: &'static str,
    pub(crate) trials: usize,
    /// The number of possible trials. The short form may end earlier.
    pub(crate) planned: usize,
    /// Trials with at least one fault of a kind.
    counts: BTreeMap<Fault, usize>,
    /// The place and the fault, one line each.
    pub(crate) failures: Vec<Failure>,
    /// Why the row was not run.
    pub(crate) skipped: Option<String>,
}

impl Row {
    pub(crate) fn new(name: &'static str) -> Self {
        Self { name, ..Self::default() }
    }

    /// Adds a verdict that counts as this many trials.
    pub(crate) fn add(&mut self, place: &str, verdict: &Verdict, trials: usize) {
        self.trials += trials;
        for fault in Fault::ALL {
            if verdict.faults.iter().any(|(f, _)| *f == fault) {
                *self.counts.entry(fault).or_default() += 1;
            }
        }
        for (i, (fault, text)) in verdict.faults.iter().enumerate() {
            let text = format!("{} [{place}] {}: {text}", self.name, fault.name());
            let is_first = verdict.faults[..i].iter().all(|(f, _)| f != fault);
            self.failures.push(Failure { text, is_first });
        }
    }

    pub(crate) fn is_clean(&self) -> bool {
        self.counts.is_empty()
    }

    fn cells(&self) -> Vec<String> {
        let count = |fault: &Fault| self.counts.get(fault).copied().unwrap_or(0).to_string();
        [self.name.to_owned(), self.trials.to_string()].into_iter().chain(Fault::ALL.iter().map(count)).collect()
    }
}

/// All rows and their sum as a Markdown table.
pub(crate) fn render(rows: &[Row]) -> String {
    let head = ["attack", "trials"].into_iter().chain(Fault::ALL.iter().map(|f| f.name())).map(str::to_owned);
    let mut lines: Vec<Vec<String>> = vec![head.collect()];
    lines.extend(rows.iter().filter(|r| r.skipped.is_none()).map(Row::cells));
    let mut sum = Row::new("all");
    for row in rows {
        sum.trials += row.trials;
        for (fault, n) in &row.counts {
            *sum.counts.entry(*fault).or_default() += n;
        }
    }
    lines.push(sum.cells());
    let widths: Vec<usize> =
        (0..lines[0].len()).map(|i| lines.iter().map(|l| l[i].chars().count()).max().unwrap_or(0)).collect();
    let mut text = String::new();
    for (at, line) in lines.iter().enumerate() {
        let cells = line.iter().zip(&widths).enumerate();
        let cells = cells.map(|(i, (cell, w))| if i == 0 { format!("{cell:w$}") } else { format!("{cell:>w$}") });
        let _ = writeln!(text, "| {} |", cells.collect::<Vec<_>>().join(" | "));
        if at == 0 {
            let rules = widths.iter().enumerate();
            let rules = rules.map(|(i, w)| if i == 0 { "-".repeat(*w) } else { format!("{}:", "-".repeat(w - 1)) });
            let _ = writeln!(text, "| {} |", rules.collect::<Vec<_>>().join(" | "));
        }
    }
    for row in rows {
        if let Some(why) = &row.skipped {
            let _ = writeln!(text, "{} was skipped: {why}", row.name);
        }
    }
    text
}
