//! `vadpipe plan`, and what `run -n` prints.

use std::collections::{BTreeMap, BTreeSet};

use anstyle::Style;
use clap::Args;
use serde_json::json;
use unicode_width::UnicodeWidthStr as _;

use super::args::{Global, PipelineArgs};
use super::estimate::Estimates;
use super::failed::FailedPoints;
use super::project::Project;
use super::shared::{StoreArgs, print_warnings};
use super::ui::{DIM, GREEN, Ui, Watch, YELLOW, about, count, pad, paint};
use super::verdicts::PointVerdicts;
use crate::error::{Category, Error, Result};
use crate::exec::{Capacity, check_resources, plan_with_store};
use crate::plan::{Decision, Plan, State};
use crate::shared::SharedStore;
use crate::spec::PointInput;
use crate::stage::Cancel;
use crate::store::{EpochRange, StateQuery};

/// The most bytes of run records to read, so that planning stays quick.
pub(super) const RUN_BYTES: u64 = 1 << 20;

/// Arguments of `plan`.
#[derive(Args)]
#[command(after_help = "Examples:
  vadpipe plan full.toml
  vadpipe plan full.toml report -S params.epochs=200
  vadpipe plan full.toml --check || echo 'not up to date'

Time estimates come from earlier runs on this machine. A stage that never ran here has none.")]
pub(super) struct PlanArgs {
    #[command(flatten)]
    pipeline: PipelineArgs,
    #[command(flatten)]
    store: StoreArgs,
    /// Exit with code 10 if a stage would run
    #[arg(long)]
    check: bool,
}

/// Prints a plan.
pub(super) fn plan(args: &PlanArgs, global: &Global, ui: &Ui) -> Result<()> {
    let project = Project::open(&args.pipeline, global, ui)?;
    project.print_warnings(ui);
    let plan = match args.store.open(Some(false))? {
        Some(shared) => with_store(&project, &shared, ui)?,
        None => project.plan(&BTreeSet::new(), ui)?,
    };
    print(&project, &plan, ui)?;
    let complete = plan.is_complete();
    // The process ends here: see `Project::leave`.
    std::mem::forget(plan);
    project.leave();
    if args.check && !complete {
        return Err(Error::new(Category::WouldRun, "not everything is cached"));
    }
    Ok(())
}

/// The plan of a run that takes what the shared store has. Without the store if that can't be reached.
pub(super) fn with_store(project: &Project, shared: &SharedStore, ui: &Ui) -> Result<Plan> {
    let (cancel, watch) = (Cancel::default(), Watch::of_errors(ui));
    let planned = plan_with_store(&project.context(&[], 1, &cancel, &watch), shared, &project.wanted);
    project.store.warnings().iter().for_each(|warning| ui.warn(warning));
    print_warnings(shared, ui);
    match planned {
        Err(error) if error.category == Category::Storage => {
            ui.warn(&format!("{error}; planning without the store"));
            project.plan(&BTreeSet::new(), ui)
        }
        planned => planned,
    }
}

/// What earlier runs say about a plan.
struct History {
    estimates: Estimates,
    failed: FailedPoints,
    verdicts: PointVerdicts,
}

/// Prints what would run, and why. A stage that needs more GPUs than there are is an error. Its memory is
/// not checked: it may run on another machine.
pub(super) fn print(project: &Project, plan: &Plan, ui: &Ui) -> Result<()> {
    check_resources(&project.spec, plan, &project.compute, Capacity::of_run(u64::MAX))?;
    let runs = if plan.is_complete() { Vec::new() } else { project.store.newest_runs(RUN_BYTES)? };
    let history = History {
        estimates: Estimates::of(project, plan, &runs),
        failed: FailedPoints::of(&project.spec.pipeline.name, &runs),
        verdicts: PointVerdicts::of(project, &plan.decisions),
    };
    if ui.json {
        return ui.object(&object(project, plan, &history));
    }
    let names = plan.decisions.iter().map(|d| project.name(d.point).width()).max().unwrap_or(0);
    let words = plan.decisions.iter().map(|d| word(d.state).0.len()).max().unwrap_or(0).max("maybe".len());
    let width = (words, names);
    let lines: Vec<_> = plan.decisions.iter().map(|d| line(project, d, &history, width)).collect();
    ui.text(&lines.join("\n"));
    let time = history.estimates.words().map(|words| format!("; {words}"));
    ui.note(&format!("{}{}", summary(plan), time.unwrap_or_default()));
    if ui.verbose {
        ui.note(&format!("on {} ({})", project.compute.name, project.compute.numerics));
    }
    Ok(())
}

/// "5 stages: 3 cached, 2 to run".
pub(super) fn summary(plan: &Plan) -> String {
    let of = |state| plan.decisions.iter().filter(|d| d.state == state && !d.in_store).count();
    let counts = [
        (of(State::Hit), "cached"),
        (plan.decisions.iter().filter(|d| d.in_store).count(), "in the store"),
        (of(State::Miss), "to run"),
        (of(State::Maybe), "may run"),
        (of(State::Pruned), "pruned"),
    ];
    let counts: Vec<_> = counts.iter().filter(|(n, _)| *n > 0).map(|(n, word)| format!("{n} {word}")).collect();
    format!("{}: {}", count(plan.decisions.len(), "stage"), counts.join(", "))
}

/// The name of a state, and its style.
pub(super) fn word(state: State) -> (&'static str, Style) {
    match state {
        State::Hit => ("hit", GREEN),
        State::Miss => ("miss", YELLOW),
        State::Maybe => ("maybe", YELLOW),
        State::Pruned => ("pruned", DIM),
    }
}

/// Why a point will run, and how many epochs are cached.
pub(super) fn why(project: &Project, decision: &Decision, failed: &FailedPoints) -> Option<String> {
    decision.reason.as_ref()?;
    let mut causes = failed.causes(project.name(decision.point), decision);
    let cached = decision.epochs.filter(|epochs| epochs.cached > 0);
    causes.extend(cached.map(|epochs| format!("{} of {} epochs cached", epochs.cached, epochs.total)));
    causes.extend(trained_again(project, decision).map(|(epochs, words)| {
        let what = if epochs.to - epochs.from == 1 {
            format!("epoch {} is", epochs.to)
        } else {
            format!("epochs {epochs} are")
        };
        let every = project.spec.resumable(decision.point, "").every;
        format!("{what} trained {words}, because states continue at multiples of segment_epochs = {every}")
    }));
    Some(causes.join("; "))
}

/// The epochs that a training with long segments repeats, and why: a state that it has is no multiple, or it parts from
/// other trainings within a segment.
fn trained_again(project: &Project, decision: &Decision) -> Option<(EpochRange, &'static str)> {
    let class = project.spec.class(decision.point, &project.compute);
    let resumable = project.spec.resumable(decision.point, &class);
    let (from, components) = (decision.epochs?.cached, decision.components.as_ref()?);
    if resumable.every == 1 {
        return None;
    }
    let any = StateQuery { every: 1, ..resumable };
    let furthest = project.store.longest_state(components.chain().keys(), &any).ok()?;
    if let Some(state) = furthest.filter(|state| state.epoch > from) {
        return Some((EpochRange { from, to: state.epoch }, "again"));
    }
    let ends = components.segments.iter().flatten().scan(0, |end, segment| {
        *end += segment.epochs;
        Some(*end)
    });
    let mut starts: Vec<u64> = ends.collect();
    starts.pop();
    let to = starts.into_iter().find(|start| from > 0 && *start > from && *start - from < resumable.every)?;
    Some((EpochRange { from, to }, "for this point alone"))
}

fn line(project: &Project, decision: &Decision, history: &History, (words, width): (usize, usize)) -> String {
    let History { estimates, failed, verdicts } = history;
    let (word, style) = if decision.in_store { ("store", GREEN) } else { word(decision.state) };
    let word = paint(style, &format!("{word:words$}"));
    let name = pad(project.name(decision.point), width);
    let why = why(project, decision, failed)
        .unwrap_or_else(|| paint(DIM, &decision.key.map(|k| k.short()).unwrap_or_default()));
    let left = if decision.epochs.is_some_and(|e| e.cached > 0) { " left" } else { "" };
    let time = estimates.point(decision.point).filter(|s| *s >= 1.0).map(|s| format!("  {}{left}", about(s)));
    let time = time.map(|time| paint(DIM, &time)).unwrap_or_default();
    let verdict = verdicts.suffix(project, decision.point);
    format!("{word} {name}  {why}{time}{verdict}").trim_end().to_owned()
}

fn object(project: &Project, plan: &Plan, history: &History) -> serde_json::Value {
    let History { estimates, failed, verdicts } = history;
    let stages = plan.decisions.iter().map(|d| {
        let point = project.spec.point(d.point);
        let names = |input: &PointInput| input.points().iter().map(|i| project.name(*i)).collect::<Vec<_>>();
        let inputs: BTreeMap<_, _> = point.inputs.iter().map(|(role, input)| (role, names(input))).collect();
        json!({
            "name": point.name, "kind": point.parsed.kind.name(), "key": d.key, "state": d.state, "reason": d.reason,
            "inputs": inputs, "epochs": d.epochs, "estimate_seconds": estimates.point(d.point),
            "failed_in": failed.run(&point.name), "verdict": verdicts.get(d.point),
            "trained_again": trained_again(project, d).map(|(epochs, _)| epochs), "in_store": d.in_store,
        })
    });
    let stages: Vec<_> = stages.collect();
    json!({ "pipeline": project.spec.pipeline.name, "stages": stages, "estimate_seconds": estimates.seconds() })
}
