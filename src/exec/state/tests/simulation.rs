//! Tests the state machine by simulation: random pipelines and faults, with all events in random order.
//!
//! A seed decides everything, so a failure can be repeated:
//!
//! ```sh
//! VADPIPE_SIMULATION_SEED=4711 cargo test --lib simulation
//! ```

use std::collections::{BTreeMap, BTreeSet};

use super::pipelines::{Dice, GPUS, Model, Pipeline, THREADS, curve, hash, keys, pipeline};
use crate::error::{Category, Error};
use crate::exec::job::{Ended, StartOptions};
use crate::exec::resources::{Demand, GPU_PARTS, Gpus, ResourcePool};
use crate::exec::state::point::{Blocker, PointState};
use crate::exec::state::point::{Dependencies, RoleInput};
use crate::exec::state::table::PointTable;
use crate::exec::state::{Claim, Command, Failure, Input, Lookup, Planned, Report, RunState};
use crate::id::{PointId, StageId};
use crate::key::{Digest, Key, StateChain, StoredResult};
use crate::plan::{Bracket, ResolvedInputs};
use crate::spec::{Mode, Prune};

const SEEDS: u64 = 30_000;
const RUNGS: [u64; 2] = [1, 2];
const MAX_STEPS: usize = 20_000;

/// The cache and the other processes.
#[derive(Default)]
struct World {
    results: BTreeMap<Key, Digest>,
    states: BTreeSet<Key>,
    /// Keys that another process computes.
    held: BTreeSet<Key>,
    /// How often each key was made.
    made: BTreeMap<Key, u32>,
    /// How often the result of each key was lost.
    lost: BTreeMap<Key, u32>,
}

impl World {
    fn output(&mut self, model: &Model, key: Key) -> Digest {
        let times = self.made.entry(key).or_default();
        *times += 1;
        let version = if model.unstable { *times } else { 0 };
        let output = hash(&[b"output", &key.0, &version.to_le_bytes()]);
        self.results.insert(key, output);
        output
    }
}

/// A job that is running, or whose result is being stored.
struct Running {
    key: Key,
    chain: Vec<Key>,
    options: StartOptions,
    inputs: Vec<(PointId, Key, Digest)>,
    epoch: u64,
    /// Whether it has read its inputs.
    has_read: bool,
    made: bool,
}

impl Running {
    fn end(&self) -> u64 {
        self.options.rung.unwrap_or(self.chain.len().saturating_sub(1) as u64)
    }

    /// The epochs that it has yet to train.
    fn remaining(&self) -> BTreeSet<Key> {
        let trains = self.chain.iter().enumerate().filter(|(epoch, _)| {
            let epoch = *epoch as u64;
            epoch > self.epoch && epoch <= self.end()
        });
        trains.map(|(_, key)| *key).collect()
    }
}

/// An event that may happen next.
enum Step {
    Answer(usize),
    Advance(PointId),
    OtherEnds(Key),
    HolderGone(PointId),
    Lose(Key),
    Interrupt,
}

struct Simulation {
    pipeline: Pipeline,
    world: World,
    state: RunState,
    questions: Vec<Command>,
    lookups: BTreeMap<PointId, (Key, Vec<Key>, u64)>,
    running: BTreeMap<PointId, Running>,
    interrupted: bool,
    failures: BTreeSet<PointId>,
    /// Points that failed because another process held their key.
    refused: BTreeSet<PointId>,
    steps: usize,
    orderly: bool,
    losses: usize,
}

impl Simulation {
    fn new(seed: u64, orderly: bool) -> (Self, Dice) {
        let mut dice = Dice::new(seed);
        let pipeline = pipeline(&mut dice);
        let count = pipeline.models.len();
        let dependencies = Dependencies {
            roles: pipeline.models.iter().map(|m| m.roles.clone()).collect(),
            order: PointId::first(count).collect(),
        };
        let demands: Vec<Demand> = pipeline.models.iter().map(|m| m.demand).collect();
        let gpus = Gpus { count: GPUS, device: Some(0) };
        let pool = ResourcePool::new(THREADS, pipeline.jobs, 3).with_gpus(gpus);
        let table = PointTable::new(dependencies, &demands, pool);
        let prune = Prune {
            stage: StageId::new(0),
            curve: "loss".to_owned(),
            mode: Mode::Min,
            rungs: RUNGS.to_vec(),
            reduction: 2,
        };
        let members = &pipeline.members;
        let bracket = (!members.is_empty()).then(|| Bracket::new(&prune, members.iter().copied()));
        let state = RunState::new(table, pipeline.policy.clone(), bracket);
        let simulation = Self {
            pipeline,
            world: World::default(),
            state,
            questions: Vec::new(),
            lookups: BTreeMap::new(),
            running: BTreeMap::new(),
            interrupted: false,
            failures: BTreeSet::new(),
            refused: BTreeSet::new(),
            steps: 0,
            orderly,
            losses: 0,
        };
        (simulation, dice)
    }

    fn model(&self, point: PointId) -> &Model {
        &self.pipeline.models[point.index()]
    }

    /// Runs to the end and checks the outcome.
    fn run(mut self, dice: &mut Dice) -> BTreeMap<PointId, String> {
        let plan = self.plan();
        let commands = self.state.start(plan);
        self.take(commands);
        loop {
            while let Some(step) = self.choose(dice) {
                self.steps += 1;
                assert!(self.steps < MAX_STEPS, "the run does not end");
                let input = self.carry_out(step, dice);
                trace(|| format!("{input:?}"));
                let commands = input.map(|input| self.state.apply(input)).unwrap_or_default();
                self.take(commands);
            }
            assert!(!self.state.is_under_way(), "the run is under way, but no event can happen");
            let lost = self.lost_results();
            if lost.is_empty() || self.state.is_stopping() {
                break;
            }
            let commands = self.state.apply(Input::ResultsLost(lost));
            self.take(commands);
        }
        if !self.state.is_stopping() {
            for point in self.state.table().order() {
                let state = self.state.table().state(*point);
                // Points stay undecided if they are compared with a point that another process computes.
                let is_undecided = matches!(state, PointState::Blocked(Blocker::Comparison) | PointState::Waiting);
                assert!(
                    !state.is_pending() || (is_undecided && !self.refused.is_empty()),
                    "{point} is still {state:?} after the run"
                );
            }
        }
        let commands = self.state.finish();
        self.take(commands);
        self.check_outcome();
        self.check_pruned();
        self.outcome()
    }

    /// Caches some results before the run. Their inputs are cached, too, except for points that were missing when the
    /// result was made.
    fn plan(&mut self) -> Vec<(PointId, Planned)> {
        let mut known = ResolvedInputs::default();
        let mut plan = Vec::new();
        for point in PointId::first(self.pipeline.models.len()) {
            let model = self.model(point).clone();
            let is_known = |p: &PointId| known.outputs.contains_key(p);
            let has_inputs = model.roles.iter().flat_map(|role| &role.members).all(is_known);
            let has_some = |role: &RoleInput| match role.skips_missing {
                true => role.members.iter().any(is_known),
                false => role.members.iter().all(is_known),
            };
            let may_be_cached = self.pipeline.cached[point.index()]
                && model.roles.iter().all(has_some)
                && !model.fails
                && !self.pipeline.members.contains(&point)
                && !self.pipeline.policy.forced.contains(&point);
            if !may_be_cached {
                plan.push((point, Planned::Open));
                continue;
            }
            let (key, _) = keys(&model, point, &known);
            let output = self.world.output(&model, key);
            if !has_inputs {
                plan.push((point, Planned::Open));
                continue;
            }
            known.outputs.insert(point, output);
            plan.push((point, Planned::Hit(StoredResult { key, output })));
        }
        plan
    }

    /// Handles commands and checks each.
    fn take(&mut self, commands: Vec<Command>) {
        for command in commands {
            trace(|| format!("    {command:?}"));
            match command {
                Command::LookUp { .. } | Command::Claim { .. } => {
                    assert!(!self.interrupted, "nothing is looked up after an interruption");
                    self.questions.push(command);
                }
                Command::Release(point) => assert!(!self.running.contains_key(&point)),
                Command::Start(point, options) => self.start(point, options),
                Command::Report(Report::Failed(point, failure)) => {
                    assert!(!matches!(failure, Failure::NeverRan), "{point} never ran");
                    self.failures.insert(point);
                    if matches!(failure, Failure::Held(_)) {
                        self.refused.insert(point);
                    }
                }
                Command::Report(_) => {}
            }
        }
    }

    fn start(&mut self, point: PointId, options: StartOptions) {
        assert!(!self.interrupted, "nothing starts after an interruption");
        let (key, chain, cached) = self.lookups.remove(&point).expect("it was looked up");
        let mut inputs = Vec::new();
        for input in self.model(point).roles.iter().flat_map(|role| &role.members) {
            match self.state.table().state(*input) {
                PointState::Done(done) => inputs.push((*input, done.key, done.output)),
                _ if self.state.table().leaves_out(point, *input) => {}
                other => panic!("{point} starts before its input {input}, which is {other:?}"),
            }
        }
        let epoch = if options.fresh { 0 } else { cached };
        let job = Running { key, chain, options, inputs, epoch, has_read: false, made: false };
        for (other, running) in &self.running {
            assert_ne!(running.key, key, "{point} and {other} compute the same key");
            let shared = job.remaining().intersection(&running.remaining()).count();
            assert!(shared == 0 || options.fresh || running.options.fresh, "{point} and {other} train an epoch twice");
        }
        assert!(self.running.insert(point, job).is_none(), "{point} runs twice");
        let running: Vec<Demand> =
            self.running.iter().filter(|(_, r)| !r.made).map(|(p, _)| self.model(*p).demand).collect();
        assert!(running.iter().filter(|d| d.gpus == 0).count() <= self.pipeline.jobs, "too many jobs");
        let gpus = |p: &PointId| self.state.table().gpus(*p).to_vec();
        let active = self.running.iter().filter(|(_, r)| !r.made).map(|(p, _)| *p);
        let (sharing, others): (Vec<_>, Vec<_>) = active.partition(|p| self.model(*p).demand.gpu > 0);
        let shared: BTreeSet<usize> = sharing.iter().flat_map(gpus).collect();
        let taken: Vec<usize> = others.iter().flat_map(gpus).chain(shared).collect();
        assert_eq!(taken.iter().collect::<BTreeSet<_>>().len(), taken.len(), "two programs have the same GPU");
        assert!(taken.iter().all(|gpu| *gpu < GPUS));
        let demand = self.model(point).demand;
        assert_eq!(gpus(&point).len(), if demand.gpu > 0 { 1 } else { demand.gpus }, "GPUs of {point}");
        let taken: usize = running.iter().map(|d| d.threads).sum();
        assert!(taken <= THREADS && running.iter().map(|d| d.gpu).sum::<usize>() <= GPU_PARTS, "too few resources");
        let is_exclusive = |d: &&Demand| d.threads >= THREADS;
        assert!(running.len() == 1 || !running.iter().any(|d| is_exclusive(&d)), "it needs all threads");
    }

    /// The next step. `None` when nothing can happen.
    fn choose(&mut self, dice: &mut Dice) -> Option<Step> {
        let mut steps: Vec<Step> = (0..self.questions.len()).map(Step::Answer).collect();
        steps.extend(self.running.keys().copied().map(Step::Advance));
        let held = self.state.held();
        for (point, key) in held.iter().filter(|_| !self.interrupted) {
            let gone = !self.world.held.contains(key);
            steps.push(if gone { Step::HolderGone(*point) } else { Step::OtherEnds(*key) });
        }
        if steps.is_empty() {
            return None;
        }
        if self.orderly {
            return Some(steps.swap_remove(0));
        }
        if !self.interrupted && self.pipeline.trouble.interrupt_after.is_some_and(|after| self.steps >= after) {
            return Some(Step::Interrupt);
        }
        if self.pipeline.trouble.losses && self.losses < 4 && dice.once_in(12) {
            // A third loss of the same result would fail its point.
            let can_lose = |key: &&Key| self.world.lost.get(*key).is_none_or(|times| *times < 2);
            let keys: Vec<Key> = self.world.results.keys().filter(can_lose).copied().collect();
            if !keys.is_empty() {
                return Some(Step::Lose(keys[dice.below(keys.len())]));
            }
        }
        let index = dice.below(steps.len());
        Some(steps.swap_remove(index))
    }

    fn carry_out(&mut self, step: Step, dice: &mut Dice) -> Option<Input> {
        match step {
            Step::Answer(index) => match self.questions.remove(index) {
                Command::LookUp { point, inputs, curve } => Some(self.look_up(point, &inputs, curve)),
                Command::Claim { point, key, look_again } => Some(self.claim(point, key, look_again, dice)),
                _ => None,
            },
            Step::Advance(point) => self.advance(point, dice),
            Step::OtherEnds(key) => {
                self.world.held.remove(&key);
                let model = self.pipeline.models.iter().find(|m| !m.unstable && !m.fails).cloned();
                // Another process makes the same bytes of a stable stage.
                if let Some(model) = model.filter(|_| dice.once_in(2) && self.is_stable(key)) {
                    self.world.output(&model, key);
                }
                None
            }
            Step::HolderGone(point) => Some(Input::HolderGone(point)),
            Step::Lose(key) => {
                self.losses += 1;
                *self.world.lost.entry(key).or_default() += 1;
                self.world.results.remove(&key);
                None
            }
            Step::Interrupt => {
                self.interrupted = true;
                Some(Input::Interrupted)
            }
        }
    }

    fn is_stable(&self, key: Key) -> bool {
        self.state.held().iter().any(|(p, k)| *k == key && !self.model(*p).unstable && !self.model(*p).fails)
    }

    fn look_up(&mut self, point: PointId, inputs: &ResolvedInputs, with_curve: bool) -> Input {
        let (key, chain) = keys(self.model(point), point, inputs);
        let forced = self.pipeline.policy.forced.contains(&point);
        let stored = chain.iter().enumerate().skip(1).filter(|(_, key)| self.world.states.contains(*key));
        let epochs = stored.map(|(epoch, _)| epoch as u64).next_back().unwrap_or(0);
        let cached_epochs = if forced { 0 } else { epochs };
        let found = self.world.results.get(&key).filter(|_| !forced);
        let stored = found.map(|output| StoredResult { key, output: *output });
        let curve = if with_curve { curve(&chain, epochs) } else { Vec::new() };
        // A forced training that is compared continues from its stored states.
        self.lookups.insert(point, (key, chain.clone(), epochs));
        let chain = StateChain::of(chain);
        Input::LookedUp(point, Ok(Lookup { key, chain, cached_states: cached_epochs, stored, curve }))
    }

    fn claim(&mut self, point: PointId, key: Key, look_again: bool, dice: &mut Dice) -> Input {
        let lost: BTreeSet<PointId> = self
            .state
            .table()
            .inputs(point)
            .iter()
            .copied()
            .filter(|input| match self.state.table().state(*input) {
                PointState::Done(done) => self.world.results.get(&done.key) != Some(&done.output),
                _ => false,
            })
            .collect();
        if !lost.is_empty() {
            return Input::Claimed(point, Claim::InputsLost(lost));
        }
        if !self.orderly && self.pipeline.trouble.others && dice.once_in(8) {
            self.world.held.insert(key);
        }
        if self.world.held.contains(&key) {
            return Input::Claimed(point, Claim::HeldBy("another".to_owned()));
        }
        let found = self.world.results.get(&key).filter(|_| look_again);
        let found = found.map(|output| StoredResult { key, output: *output });
        // Another process may have saved states since the look-up.
        if let Some((_, chain, epoch)) = self.lookups.get_mut(&point) {
            let stored = chain.iter().enumerate().skip(1).filter(|(_, key)| self.world.states.contains(*key));
            *epoch = stored.map(|(epoch, _)| epoch as u64).next_back().unwrap_or(0);
        }
        Input::Claimed(point, found.map_or(Claim::Granted, Claim::Found))
    }

    /// A running job saves a state, makes its result, stores it, or ends without one.
    fn advance(&mut self, point: PointId, dice: &mut Dice) -> Option<Input> {
        let model = self.model(point).clone();
        let trouble = self.pipeline.trouble.clone();
        let running = self.running.get_mut(&point)?;
        if running.made {
            let key = running.key;
            self.running.remove(&point);
            let output = self.world.output(&model, key);
            return Some(Input::Ended(point, Ended::Made(StoredResult { key, output })));
        }
        if self.interrupted && dice.once_in(2) {
            self.running.remove(&point);
            return Some(Input::Ended(point, Ended::Interrupted));
        }
        if trouble.lost_workers && !self.orderly && dice.once_in(20) {
            self.running.remove(&point);
            return Some(Input::Ended(point, Ended::WorkerLost(Error::new(Category::StageFailed, "lost"))));
        }
        if !running.has_read {
            running.has_read = true;
            let results = &self.world.results;
            let damaged = running.inputs.iter().filter(|(_, key, output)| results.get(key) != Some(output));
            let damaged: BTreeSet<PointId> = damaged.map(|(input, ..)| *input).collect();
            if !damaged.is_empty() {
                self.running.remove(&point);
                return Some(Input::Ended(point, Ended::Damaged(damaged, Error::storage("damaged"))));
            }
            return None;
        }
        if running.epoch < running.end() {
            running.epoch += 1;
            let state = running.chain[running.epoch as usize];
            // A checkpoint is saved now and then, and always at the end.
            if running.epoch == running.end() || dice.once_in(2) {
                self.world.states.insert(state);
                return Some(Input::StateSaved(point));
            }
            return None;
        }
        if let Some(epoch) = running.options.rung {
            self.running.remove(&point);
            return Some(Input::Ended(point, Ended::AtRung(epoch)));
        }
        if model.fails {
            self.running.remove(&point);
            return Some(Input::Ended(point, Ended::Failed(Error::new(Category::StageFailed, "it fails"))));
        }
        running.made = true;
        Some(Input::Made(point, 1))
    }

    /// The points whose stored result is gone.
    fn lost_results(&self) -> Vec<PointId> {
        let table = self.state.table();
        let is_lost = |p: &PointId| match table.state(*p) {
            PointState::Done(done) => !self.world.results.contains_key(&done.key),
            _ => false,
        };
        table.order().iter().copied().filter(is_lost).collect()
    }

    fn check_outcome(&self) {
        let table = self.state.table();
        assert!(self.running.is_empty(), "jobs are still running");
        for point in table.order() {
            let state = table.state(*point);
            let is_over = matches!(
                state,
                PointState::Done(_)
                    | PointState::Pruned(_)
                    | PointState::Failed
                    | PointState::Refused
                    | PointState::Skipped(_)
            );
            assert!(is_over, "{point} ended as {state:?}");
            if let PointState::Done(done) = state {
                self.check_key(*point, done.key);
            }
            if let PointState::Skipped(Some(because)) = state {
                let failed = matches!(table.state(*because), PointState::Failed | PointState::Refused);
                assert!(failed, "{point} is skipped because of {because}, which did not fail");
                assert!(table.downstream(*because).contains(point), "{point} does not depend on {because}");
                assert!(self.must_be_skipped(*point), "{point} could run without what is missing");
            }
            if matches!(state, PointState::Skipped(None)) {
                let stopped = self.interrupted
                    || !self.refused.is_empty()
                    || (!self.failures.is_empty() && !self.pipeline.policy.keep_going);
                assert!(stopped, "{point} was skipped without a reason");
            }
        }
    }

    /// Whether a point lacks an input that it needs, or all members of a list.
    fn must_be_skipped(&self, point: PointId) -> bool {
        let is_missing = |p: &PointId| {
            matches!(
                self.state.table().state(*p),
                PointState::Failed | PointState::Refused | PointState::Skipped(Some(_))
            )
        };
        let is_left_out = |p: &PointId| is_missing(p) || self.state.table().is_pruned(*p);
        self.model(point).roles.iter().any(|role| match role.skips_missing {
            true => role.members.iter().all(is_left_out) && role.members.iter().any(is_missing),
            false => role.members.iter().any(is_missing),
        })
    }

    /// Checks that the pruned points are those of the definition in `plan/bracket.rs`.
    fn check_pruned(&self) {
        let table = self.state.table();
        let members: Vec<PointId> = self.pipeline.members.iter().copied().collect();
        let is_resolved = |p: &PointId| matches!(table.state(*p), PointState::Done(_) | PointState::Pruned(_));
        // A point that failed when it was made again leaves the results that were made from it.
        let is_input = |p: PointId, i: PointId| {
            matches!(table.state(i), PointState::Done(_)) || (table.leaves_out(p, i) && !table.has_previous(i))
        };
        let has_inputs = |p: &PointId| table.inputs(*p).iter().all(|i| is_input(*p, *i));
        if !members.iter().all(|p| is_resolved(p) && has_inputs(p)) {
            return;
        }
        let curve_of = |p: &PointId| {
            let outputs = table.inputs(*p).iter().filter_map(|i| match table.state(*i) {
                PointState::Done(done) => Some((*i, done.output)),
                _ => None,
            });
            let inputs = ResolvedInputs { outputs: outputs.collect(), left_out: BTreeSet::new() };
            curve(&keys(self.model(*p), *p, &inputs).1, 4)
        };
        let curves: BTreeMap<PointId, Vec<f64>> = members.iter().map(|p| (*p, curve_of(p))).collect();
        let mut reached = members.clone();
        for rung in RUNGS {
            let value = |p: &PointId| curves[p][rung as usize - 1];
            let goes_on = |p: &&PointId| {
                let group: Vec<&PointId> = reached.iter().filter(|q| q <= p).collect();
                let better = group.iter().filter(|q| (value(q), **q) < (value(p), *p)).count();
                better < group.len().div_ceil(2)
            };
            reached = reached.iter().filter(goes_on).copied().collect();
        }
        for point in members {
            let is_pruned = matches!(table.state(point), PointState::Pruned(_));
            assert_eq!(is_pruned, !reached.contains(&point), "whether {point} is pruned");
        }
    }

    /// Checks that a result was made from the inputs as they are at the end.
    fn check_key(&self, point: PointId, key: Key) {
        let mut inputs = ResolvedInputs::default();
        for input in self.state.table().inputs(point) {
            match self.state.table().state(*input) {
                PointState::Done(done) => drop(inputs.outputs.insert(*input, done.output)),
                _ if self.state.table().leaves_out(point, *input) && !self.state.table().has_previous(*input) => {
                    inputs.left_out.insert(*input);
                }
                // The input should have been made again and was not.
                _ => return,
            }
        }
        assert_eq!(keys(self.model(point), point, &inputs).0, key, "{point} was made from other inputs");
    }

    fn outcome(&self) -> BTreeMap<PointId, String> {
        let word = |point: PointId| match self.state.table().state(point) {
            PointState::Done(done) => format!("done {}", done.output),
            PointState::Pruned(_) => "pruned".to_owned(),
            PointState::Failed | PointState::Refused => "failed".to_owned(),
            _ => "skipped".to_owned(),
        };
        PointId::first(self.pipeline.models.len()).map(|point| (point, word(point))).collect()
    }
}

/// Prints a line if `VADPIPE_SIMULATION_TRACE` is set.
fn trace(line: impl FnOnce() -> String) {
    if std::env::var_os("VADPIPE_SIMULATION_TRACE").is_some() {
        eprintln!("{}", line());
    }
}

/// Simulates one seed. Then simulates its pipeline once more, with events in order and without faults.
fn simulate(seed: u64) {
    let (simulation, mut dice) = Simulation::new(seed, false);
    let (trouble, policy) = (simulation.pipeline.trouble.clone(), simulation.pipeline.policy.clone());
    trace(|| format!("{:#?} {trouble:?} {policy:?}", simulation.pipeline.models));
    let outcome = simulation.run(&mut dice);
    let is_complete = policy.keep_going || !outcome.values().any(|word| word == "failed");
    // A run that does not wait for other processes, or lost a worker too often, may fail where the run without faults
    // does not.
    let same_failures = (policy.wait || !trouble.others) && !trouble.lost_workers;
    if trouble.is_deterministic() && same_failures && is_complete {
        let (simulation, mut dice) = Simulation::new(seed, true);
        assert_eq!(outcome, simulation.run(&mut dice), "the outcome depends on the order of events");
    }
}

#[test]
fn no_order_of_events_breaks_the_state_machine() {
    if let Ok(seed) = std::env::var("VADPIPE_SIMULATION_SEED") {
        return simulate(seed.parse().expect("a seed is a number"));
    }
    let threads = std::thread::available_parallelism().map_or(2, usize::from) as u64;
    std::thread::scope(|scope| {
        for thread in 0..threads {
            scope.spawn(move || {
                for seed in (thread..SEEDS).step_by(threads as usize) {
                    let result = std::panic::catch_unwind(|| simulate(seed));
                    assert!(result.is_ok(), "repeat with VADPIPE_SIMULATION_SEED={seed} cargo test --lib simulation");
                }
            });
        }
    });
}
