//! `vadpipe explain`.

use std::collections::{BTreeMap, BTreeSet};

use clap::Args;
use serde_json::{Value, json};

use super::args::{Global, PipelineArgs};
use super::failed::FailedPoints;
use super::plan::{RUN_BYTES, word};
use super::project::Project;
use super::ui::{Ui, bytes, when};
use super::verdicts::{PointVerdicts, labelled};
use crate::error::Result;
use crate::id::PointId;
use crate::key::{Digest, Segment};
use crate::plan::{Bracket, Decision, PipelineFiles, Plan, RungDecision, State, content};
use crate::store::{ResultRecord, StateRecord, Verdict};

/// Arguments of `explain`.
#[derive(Args)]
#[command(after_help = "Examples:
  vadpipe explain full.toml ad                       its key and what changed
  vadpipe explain full.toml ad -S params.epochs=200  what would change
  vadpipe explain full.toml 'vad@*' --json")]
pub(super) struct ExplainArgs {
    #[command(flatten)]
    pipeline: PipelineArgs,
}

/// What is known about all points.
#[derive(Clone, Copy)]
struct Known<'a> {
    records: &'a BTreeMap<PointId, ResultRecord>,
    failed: &'a FailedPoints,
    outputs: &'a BTreeMap<PointId, Digest>,
    verdicts: &'a PointVerdicts,
}

/// What is printed about one point.
struct Explanation<'a> {
    project: &'a Project,
    decision: &'a Decision,
    /// The plan of all points. It contains the comparisons of a sweep.
    plan: &'a Plan,
    /// Its result, if it is a hit.
    record: Option<&'a ResultRecord>,
    /// The points that failed when they last ran.
    failed: &'a FailedPoints,
    /// Known output digests, by point.
    outputs: &'a BTreeMap<PointId, Digest>,
    /// What `verify` found about it.
    verdict: Option<&'a Verdict>,
    /// Digests of the files that it reads, by name.
    contents: BTreeMap<String, Digest>,
    /// The newest result of the point, under any key.
    newest: Option<ResultRecord>,
    /// Stored states, if it is a training whose inputs are known.
    chain: Option<Chain>,
}

/// The stored states of a training.
struct Chain {
    total: u64,
    /// The numerics class of the states that can be continued here.
    class: String,
    /// The furthest state that can be continued here.
    nearest: Option<StateRecord>,
    /// The result of the training that saved this state.
    of: Option<ResultRecord>,
    /// The furthest state of another numerics class.
    elsewhere: Option<StateRecord>,
}

/// Prints the parts of the targets' keys, what changed, and what is cached.
pub(super) fn explain(args: &ExplainArgs, global: &Global, ui: &Ui) -> Result<()> {
    let project = Project::open(&args.pipeline, global, ui)?;
    let plan = project.plan(&BTreeSet::new(), ui)?;
    let outputs: BTreeMap<PointId, Digest> = plan.decisions.iter().filter_map(|d| Some((d.point, d.output?))).collect();
    let records = project.planner(&BTreeSet::new()).records(&plan)?;
    let runs = project.store.newest_runs(RUN_BYTES)?;
    let failed = FailedPoints::of(&project.spec.pipeline.name, &runs);
    let decisions = plan.decisions.iter().filter(|d| project.targets.contains(&d.point));
    let verdicts = PointVerdicts::of(&project, decisions.clone());
    let known = Known { records: &records, failed: &failed, outputs: &outputs, verdicts: &verdicts };
    let explanations: Vec<_> = decisions.map(|d| Explanation::new(&project, &plan, d, known)).collect::<Result<_>>()?;
    if ui.json {
        return ui.object(&json!({ "stages": explanations.iter().map(Explanation::object).collect::<Vec<_>>() }));
    }
    let texts: Vec<_> = explanations.iter().map(Explanation::text).collect();
    ui.text(&texts.join("\n\n"));
    Ok(())
}

/// At each rung: whether a point continues, and the values it was compared with.
fn comparisons(project: &Project, bracket: &Bracket, point: PointId) -> Vec<String> {
    let mut lines = Vec::new();
    for decision in bracket.decisions(point) {
        let RungDecision { epoch, place, of, best, goes_on, .. } = decision;
        let word = if goes_on { "it continues" } else { "it ends here" };
        let figure = &bracket.curve;
        lines.push(format!("  epoch {epoch:<6}{figure} ranks {place} of {of}, the best {best} continue: {word}"));
        let compared = bracket.compared(point, epoch);
        lines.extend(compared.iter().map(|(other, value)| format!("    {value:<14.6}{}", project.name(*other))));
    }
    lines
}

fn rungs(project: &Project, plan: &Plan, point: PointId) -> Vec<Value> {
    let Some(bracket) = &plan.bracket else { return vec![] };
    let rung = |decision: RungDecision| {
        let compared = bracket.compared(point, decision.epoch);
        let compared = compared.iter().map(|(other, value)| json!({ "name": project.name(*other), "value": value }));
        json!({ "figure": bracket.curve, "verdict": decision, "compared": compared.collect::<Vec<_>>() })
    };
    bracket.decisions(point).into_iter().map(rung).collect()
}

impl<'a> Explanation<'a> {
    fn new(project: &'a Project, plan: &'a Plan, decision: &'a Decision, known: Known<'a>) -> Result<Self> {
        let Known { records, failed, outputs, verdicts } = known;
        let point = project.spec.point(decision.point);
        let files = PipelineFiles { store: &project.store, base: &project.spec.base };
        Ok(Self {
            project,
            decision,
            plan,
            record: records.get(&decision.point),
            failed,
            outputs,
            verdict: verdicts.get(decision.point),
            contents: point.parsed.stage.contents(&files)?,
            newest: project.store.newest(&project.spec.pipeline.name, &point.name)?,
            chain: Chain::of(project, decision)?,
        })
    }

    fn text(&self) -> String {
        let Decision { point, state, reason, key, .. } = self.decision;
        let record = self.record;
        let mut lines = vec![format!("{}: {}", self.project.name(*point), word(*state).0)];
        if reason.is_some() {
            let causes = self.failed.causes(self.project.name(*point), self.decision);
            lines.extend(causes.into_iter().map(|cause| format!("  because     {cause}")));
        }
        if let (Some(newest), None) = (&self.newest, record) {
            lines.push(format!("  before      {}, {}", newest.key.short(), made(newest)));
        }
        if *state != State::Hit
            && let Some(chain) = &self.chain
        {
            lines.push(format!("  cached      {}", chain.text()));
        }
        lines.extend(self.plan.bracket.iter().flat_map(|bracket| comparisons(self.project, bracket, *point)));
        match key {
            Some(key) => lines.push(format!("  key         {key}")),
            None => lines.push("  key         not known until its inputs are".to_owned()),
        }
        lines.extend(self.parts());
        if let Some(record) = record {
            lines.push(format!("  output      {}", record.digest));
            lines.push(format!("  made        {}", made(record)));
        }
        let verdict = self.verdict.map(labelled).unwrap_or_default();
        lines.extend(verdict.into_iter().map(|(label, text)| format!("  {label:11} {text}")));
        lines.extend(self.changed_program().map(|(then, now)| format!("  program     was {then}, is now {now}")));
        lines.join("\n")
    }

    /// The file of its program when the newest result was made, and now, if it is another one. A change does not make
    /// the stage run again.
    fn changed_program(&self) -> Option<(&str, String)> {
        let then = self.record.or(self.newest.as_ref())?.provenance.program.as_deref()?;
        let spec = &self.project.spec;
        let now = spec.point(self.decision.point).parsed.stage.program(&spec.base)?;
        (then != now).then_some((then, now))
    }

    /// One line for each part of the key.
    fn parts(&self) -> Vec<String> {
        let point = self.project.spec.point(self.decision.point);
        let (kind, stage) = (&point.parsed.kind, &point.parsed.stage);
        let mut lines = vec![format!("  kind        {}, version {}", kind.name(), self.project.spec.version(point))];
        lines.extend(point.parsed.params.iter().map(|(name, value)| format!("  parameter   {name} = {value}")));
        lines.extend(stage.epochs().iter().flat_map(|e| &e.segments).map(segment));
        if stage.reads().seed {
            lines.push(format!("  seed        {}", point.seed));
        }
        if stage.reads().precision {
            lines.push(format!("  precision   {}", self.project.spec.pipeline.precision));
        }
        for (role, input) in &point.inputs {
            lines.extend(input.points().iter().map(|i| format!("  input       {role} from {}", self.input(*i))));
        }
        lines.extend(self.contents.iter().map(|(entry, digest)| {
            let (what, name) = content(entry);
            format!("  {what:11} {name} = {}", digest.short())
        }));
        match (&self.decision.components, self.record, &self.newest) {
            // What the program will read is not known before it runs.
            (_, None, Some(newest)) => lines.extend(newest.components.files_read.keys().map(|name| {
                let now = self.project.store.digest_now(&self.project.spec.base.join(name));
                format!("  file read   {name} = {}, before", now.map_or("missing".to_owned(), |now| now.short()))
            })),
            (components, ..) => {
                let read = components.iter().flat_map(|components| &components.files_read);
                lines.extend(read.map(|(name, digest)| format!("  file read   {name} = {}", digest.short())));
            }
        }
        lines
    }

    fn input(&self, point: PointId) -> String {
        let name = self.project.name(point);
        match self.outputs.get(&point) {
            Some(digest) => format!("{name} = {}", digest.short()),
            None if self.record.is_some() => format!("{name}, left out of the cached result"),
            None => format!("{name}, not known until it runs"),
        }
    }

    fn object(&self) -> Value {
        let Decision { point, state, key, reason, components, epochs, .. } = self.decision;
        let inputs = self.project.spec.point(*point).inputs.iter().map(|(role, input)| {
            let of = |i: &PointId| (self.project.name(*i).to_owned(), json!(self.outputs.get(i)));
            (role.clone(), Value::Object(input.points().iter().map(of).collect()))
        });
        let newest = self.newest.as_ref().map(|r| {
            json!({ "key": r.key, "digest": r.digest, "run": r.provenance.run, "finished_at": r.provenance.finished_at })
        });
        json!({
            "name": self.project.name(*point), "state": state, "key": key, "reason": reason, "components": components,
            "epochs": epochs, "rungs": rungs(self.project, self.plan, *point), "inputs": Value::Object(inputs.collect()), "newest": newest,
            "program": self.changed_program().map(|(then, now)| json!({ "then": then, "now": now })),
            "nearest_state": self.chain.as_ref().and_then(Chain::object), "verdict": self.verdict,
        })
    }
}

impl Chain {
    fn of(project: &Project, decision: &Decision) -> Result<Option<Self>> {
        let Some(chain) = decision.components.as_ref().map(|c| c.chain()).filter(|c| !c.keys().is_empty()) else {
            return Ok(None);
        };
        let class = project.spec.class(decision.point, &project.compute);
        let resumable = project.spec.resumable(decision.point, &class);
        let nearest = project.store.longest_state(chain.keys(), &resumable)?;
        let is_elsewhere = |state: &StateRecord| state.class != class;
        let elsewhere = project.store.chain_states(chain.keys())?.into_iter().rfind(is_elsewhere);
        let of = match nearest.as_ref().and_then(|s| s.towards) {
            Some(key) => project.store.result(&key)?,
            None => None,
        };
        Ok(Some(Self { total: chain.total(), class, nearest, of, elsewhere }))
    }

    fn text(&self) -> String {
        let (total, class) = (self.total, &self.class);
        let Some(state) = &self.nearest else {
            let elsewhere = self
                .elsewhere
                .as_ref()
                .map(|s| format!("; {} epochs from {} can't be continued on {class}", s.epoch, s.class));
            return format!("none of {total} epochs{}", elsewhere.unwrap_or_default());
        };
        let step = if state.step > 0 { format!(" and {} steps", state.step) } else { String::new() };
        let of = self.of.as_ref().map(|r| format!(" of {}/{} (run {})", r.pipeline, r.point, r.provenance.run));
        format!(
            "{} of {total} epochs{step}, from the state{} saved {}, {}",
            state.epoch,
            of.unwrap_or_default(),
            when(state.saved_at),
            bytes(state.bytes())
        )
    }

    fn object(&self) -> Option<Value> {
        let state = self.nearest.as_ref()?;
        let of = self.of.as_ref();
        let of = of.map(|r| json!({ "pipeline": r.pipeline, "point": r.point, "run": r.provenance.run }));
        Some(json!({
            "key": state.key, "epoch": state.epoch, "step": state.step, "class": state.class, "saved_at": state.saved_at,
            "bytes": state.bytes(), "of": of,
        }))
    }
}

fn segment(segment: &Segment) -> String {
    let params = segment.params.iter().map(|(name, value)| format!("{name} = {value}"));
    format!("  epochs      {} with {}", segment.epochs, params.collect::<Vec<_>>().join(", "))
}

fn made(record: &ResultRecord) -> String {
    let made = format!("by run {} on {}", record.provenance.run, when(record.provenance.finished_at));
    made + &accepted(record)
}

/// That the user accepted edits of files as changing nothing.
pub(super) fn accepted(record: &ResultRecord) -> String {
    let accepted = record.provenance.accepted.as_ref();
    accepted.map_or_else(String::new, |edits| {
        format!("; edits of {} accepted on {}", edits.files.join(", "), when(edits.at))
    })
}
