//! Unit tests of the state machine. `simulation.rs` tests it with random events.

mod pipelines;
mod simulation;

use std::collections::BTreeSet;

use super::point::PointState;
use super::point::{Dependencies, RoleInput};
use super::table::PointTable;
use super::{Claim, Command, Input, Lookup, Planned, Policy, RunState};
use crate::error::{Category, Error};
use crate::exec::job::Ended;
use crate::exec::resources::{Demand, ResourcePool};
use crate::id::PointId;
use crate::key::{Digest, StateChain, StoredResult};

/// A run in which each point reads the points in its list, with room for two jobs.
fn run(inputs: &[&[usize]], policy: Policy) -> RunState {
    let points = PointId::first(inputs.len());
    let role = |input: &usize| RoleInput { members: vec![PointId::new(*input)], skips_missing: false };
    let read = |inputs: &&[usize]| inputs.iter().map(role).collect();
    let dependencies = Dependencies { roles: inputs.iter().map(read).collect(), order: points.clone().collect() };
    let demands = vec![Demand::default(); inputs.len()];
    let mut state = RunState::new(PointTable::new(dependencies, &demands, ResourcePool::new(2, 2, 9)), policy, None);
    state.start(points.map(|point| (point, Planned::Open)).collect());
    state
}

fn digest(text: &str) -> Digest {
    Digest::of(text.as_bytes())
}

/// Takes a point from its look-up to the start of its job. Returns the last commands.
fn start(state: &mut RunState, point: usize) -> Vec<Command> {
    let key = digest(&format!("key {point}"));
    let lookup = Lookup { key, chain: StateChain::default(), cached_states: 0, stored: None, curve: vec![] };
    state.apply(Input::LookedUp(PointId::new(point), Ok(lookup)));
    state.apply(Input::Claimed(PointId::new(point), Claim::Granted))
}

/// A result whose key also covers files that its program read.
fn made(text: &str) -> Ended {
    Ended::Made(StoredResult { key: digest(&format!("{text} with files")), output: digest(text) })
}

fn end(state: &mut RunState, point: usize, ended: Ended) -> Vec<Command> {
    state.apply(Input::Ended(PointId::new(point), ended))
}

fn starts(commands: &[Command]) -> Vec<usize> {
    let point = |command: &Command| match command {
        Command::Start(point, _) => Some(point.index()),
        _ => None,
    };
    commands.iter().filter_map(point).collect()
}

fn looks_up(commands: &[Command]) -> Vec<usize> {
    let point = |command: &Command| match command {
        Command::LookUp { point, .. } => Some(point.index()),
        _ => None,
    };
    commands.iter().filter_map(point).collect()
}

#[test]
fn point_starts_after_its_input_is_stored() {
    let mut state = run(&[&[], &[0]], Policy::default());
    assert_eq!(starts(&start(&mut state, 0)), [0]);
    assert_eq!(looks_up(&state.apply(Input::Made(PointId::new(0), 1))), [0; 0], "the result is not durable yet");
    assert_eq!(looks_up(&end(&mut state, 0, made("a"))), [1]);
    assert_eq!(starts(&start(&mut state, 1)), [1]);
    end(&mut state, 1, made("b"));
    assert!(!state.is_under_way() && state.finish().is_empty());
}

#[test]
fn failure_skips_only_its_dependents() {
    let mut state = run(&[&[], &[0], &[1], &[]], Policy { keep_going: true, ..Policy::default() });
    start(&mut state, 0);
    start(&mut state, 3);
    end(&mut state, 0, Ended::Failed(Error::new(Category::StageFailed, "it fails")));
    end(&mut state, 3, made("d"));
    let because = PointState::Skipped(Some(PointId::new(0)));
    assert_eq!(*state.table().state(PointId::new(1)), because);
    assert_eq!(*state.table().state(PointId::new(2)), because);
    assert!(matches!(state.table().state(PointId::new(3)), PointState::Done(_)));
}

#[test]
fn damaged_input_is_made_again_before_its_reader() {
    let mut state = run(&[&[], &[0]], Policy::default());
    start(&mut state, 0);
    end(&mut state, 0, made("a"));
    start(&mut state, 1);
    let damaged = Ended::Damaged(BTreeSet::from([PointId::new(0)]), Error::storage("a chunk is damaged"));
    assert_eq!(looks_up(&end(&mut state, 1, damaged)), [0]);
    assert_eq!(starts(&start(&mut state, 0)), [0]);
    assert_eq!(looks_up(&end(&mut state, 0, made("a"))), [1]);
}

#[test]
fn dependent_runs_again_if_its_repaired_input_has_different_bytes() {
    let mut state = run(&[&[], &[0], &[0]], Policy::default());
    start(&mut state, 0);
    end(&mut state, 0, made("old"));
    start(&mut state, 1);
    start(&mut state, 2);
    let damaged = Ended::Damaged(BTreeSet::from([PointId::new(0)]), Error::storage("a chunk is damaged"));
    end(&mut state, 1, damaged);
    end(&mut state, 2, made("made from old"));
    start(&mut state, 0);
    assert_eq!(looks_up(&end(&mut state, 0, made("new"))), [1, 2]);
}

#[test]
fn point_with_the_same_key_waits_for_the_first() {
    let mut state = run(&[&[], &[]], Policy::default());
    let key = digest("the key of both");
    let lookup = || Lookup { key, chain: StateChain::default(), cached_states: 0, stored: None, curve: vec![] };
    let [first, second] = [PointId::new(0), PointId::new(1)];
    state.apply(Input::LookedUp(first, Ok(lookup())));
    assert!(state.apply(Input::LookedUp(second, Ok(lookup()))).is_empty());
    state.apply(Input::Claimed(first, Claim::Granted));
    assert_eq!(looks_up(&end(&mut state, 0, made("a"))), [1]);
}

#[test]
fn nothing_starts_after_an_interruption() {
    let mut state = run(&[&[], &[0]], Policy::default());
    start(&mut state, 0);
    state.apply(Input::Interrupted);
    assert!(end(&mut state, 0, made("a")).is_empty());
    assert!(!state.is_under_way());
    state.finish();
    assert_eq!(*state.table().state(PointId::new(1)), PointState::Skipped(None));
}
