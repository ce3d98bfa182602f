//! Any schedule of faults: no wrong bytes, no panic, and all is well once the faults are over.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::artifact::{Artifact, Tensor};
use crate::key::Components;
use crate::store::NewState;
use crate::store::tests::{artifact, at, chain, commit, components, noise, read, state};

const MACHINES: usize = 3;
const KEYS: u8 = 5;
const EPOCHS: u64 = 4;

/// What a machine does.
#[derive(Clone, Copy, Debug)]
enum Action {
    /// Makes the result of a key. Those of odd keys differ from machine to machine.
    Make(u8),
    /// Saves a state of the training.
    Save(u64),
    Push,
    Pull,
    /// Loses its cache.
    Restart,
}

fn action() -> impl Strategy<Value = Action> {
    prop_oneof![
        3 => (0..KEYS).prop_map(Action::Make),
        1 => (1..=EPOCHS).prop_map(Action::Save),
        3 => Just(Action::Push),
        3 => Just(Action::Pull),
        1 => Just(Action::Restart),
    ]
}

fn rates() -> impl Strategy<Value = Rates> {
    // Each fault is off, rare or frequent.
    let rate = || prop_oneof![2 => Just(0_u64), 2 => 1..8_u64, 1 => 8..60_u64];
    let (first, second) = ((rate(), rate(), rate(), rate(), rate()), (rate(), rate(), rate(), rate()));
    (first, second).prop_map(|((fail, lose_answer, delay, cut, break_off), (flip, overwrite, delete, hide))| Rates {
        fail,
        lose_answer,
        delay,
        cut,
        break_off,
        flip,
        overwrite,
        delete,
        hide,
    })
}

fn of_key(key: u8) -> Components {
    components("key", key)
}

/// What a machine makes under a key.
fn made(machine: usize, key: u8) -> Artifact {
    let variant = if key % 2 == 1 { machine as u64 } else { 0 };
    let size = [10, 60_000, 300_000, 3 << 20, 9 << 20][usize::from(key) % 5];
    let mut a = artifact(u64::from(key) * 10 + variant, 60_000);
    // All results share one tensor.
    a.tensors.insert("shared".to_owned(), Tensor::vector(&noise(77, 1 << 20)));
    a.tensors.insert("own".to_owned(), Tensor::vector(&noise(u64::from(key) * 100 + variant, size)));
    a
}

struct Team {
    store: Arc<Faulty>,
    machines: Vec<Machine>,
    /// What was made under each key: bytes by digest.
    made: BTreeMap<Key, BTreeMap<Digest, Artifact>>,
}

impl Team {
    fn new(seed: u64, rates: Rates) -> Self {
        let store = Arc::new(Faulty::new(seed, rates));
        let machines = (0..MACHINES).map(|_| Machine::new(&store)).collect();
        Self { store, machines, made: BTreeMap::new() }
    }

    fn act(&mut self, index: usize, action: Action) {
        let keys: Vec<Key> = (0..KEYS).map(|key| of_key(key).key()).collect();
        let machine = &self.machines[index];
        match action {
            Action::Make(key) if machine.hit(&keys[usize::from(key)]).is_none() => {
                let a = made(index, key);
                let record = commit(&machine.cache, "x", &of_key(key), &a);
                self.made.entry(record.key).or_default().insert(record.digest, a);
            }
            Action::Make(_) => {}
            Action::Save(epoch) => {
                let tensors = state(epoch, 100_000);
                let new = NewState::new(at(epoch, 0), "cpu", true, &tensors);
                machine.cache.put_state(chain(EPOCHS).chain().keys(), new).unwrap();
            }
            Action::Push => drop(self.push(index)),
            Action::Pull => drop(self.pull(index)),
            Action::Restart => {
                self.machines[index] = Machine::new(&self.store);
            }
        }
    }

    fn push(&self, index: usize) -> Result<Pushed, SharedError> {
        let machine = &self.machines[index];
        let results = (0..KEYS).filter_map(|key| machine.cache.result(&of_key(key).key()).unwrap()).collect();
        let states = machine.cache.chain_states(chain(EPOCHS).chain().keys()).unwrap();
        let pushed = machine.push(results, states)?;
        // As a run does.
        for other in &pushed.others {
            machine.shared.pull_record(&machine.cache, other.clone(), &Transfer::default())?;
        }
        Ok(pushed)
    }

    fn pull(&self, index: usize) -> Result<(), SharedError> {
        let machine = &self.machines[index];
        let lacking: Vec<Key> =
            (0..KEYS).map(|key| of_key(key).key()).filter(|key| machine.hit(key).is_none()).collect();
        machine.pull(&lacking)?;
        let keys = chain(EPOCHS).chain().keys().to_vec();
        let query = StateQuery { class: "cpu", every: 1, base: machine.dir.path() };
        let wanted = [WantedState { states: &keys, query, cached: 0 }];
        machine.shared.pull_states(&machine.cache, &wanted, &|_| None, &Transfer::default())?;
        Ok(())
    }

    /// All bytes of all caches are those that were made.
    fn check(&self) {
        for machine in &self.machines {
            for key in 0..KEYS {
                let Some(record) = machine.cache.result(&of_key(key).key()).unwrap() else { continue };
                let expected = &self.made[&record.key][&record.digest];
                assert_eq!(read(&machine.cache, &record).unwrap(), *expected);
            }
            let keys = chain(EPOCHS).chain().keys().to_vec();
            for record in machine.cache.chain_states(&keys).unwrap() {
                let query = StateQuery::new("cpu");
                let upto = usize::try_from(record.epoch).unwrap() + 1;
                let (found, tensors) = machine.cache.resume(&keys[..upto], &query).unwrap().unwrap();
                assert_eq!((found.epoch, tensors), (record.epoch, state(record.epoch, 100_000)));
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, failure_persistence: None, max_shrink_iters: 60, ..ProptestConfig::default() })]
    #[test]
    fn no_schedule_of_faults_gives_wrong_bytes_and_all_is_well_after_them(
        seed: u64,
        rates in rates(),
        actions in prop::collection::vec((0..MACHINES, action()), 4..20),
    ) {
        let mut team = Team::new(seed, rates);
        for (machine, action) in actions {
            team.act(machine, action);
            team.check();
        }
        team.store.set(Rates::default());
        for index in 0..MACHINES {
            team.push(index).unwrap();
        }
        let in_caches: Vec<Key> = (0..KEYS)
            .map(|key| of_key(key).key())
            .filter(|key| team.machines.iter().any(|machine| machine.hit(key).is_some()))
            .collect();
        let furthest = |machine: &Machine| {
            let states = machine.cache.chain_states(chain(EPOCHS).chain().keys()).unwrap();
            states.iter().map(|state| state.epoch).max()
        };
        let expected = team.machines.iter().filter_map(furthest).max();
        team.machines.push(Machine::new(&team.store));
        for index in 0..=MACHINES {
            team.pull(index).unwrap();
            prop_assert!(furthest(&team.machines[index]) >= expected, "the store may have a state of a cache that was lost");
            for key in &in_caches {
                prop_assert!(team.machines[index].hit(key).is_some(), "{:?}", team.machines[index].shared.warnings());
            }
            prop_assert!(team.machines[index].is_healthy());
        }
        team.check();
    }
}

#[test]
fn store_that_fails_is_an_error_that_names_the_store_and_the_cause() {
    let store = Arc::new(Faulty::new(0, Rates { fail: 100, ..Rates::default() }));
    let machine = Machine::new(&store);
    let record = commit(&machine.cache, "x", &components("a", 1), &artifact(1, 60_000));
    let expected = "can't read vadpipe.json in the store memory:: no answer";
    assert_eq!(machine.pull(&[record.key]).unwrap_err().to_string(), expected);
    let error = crate::error::Error::from(machine.push(vec![record.clone()], Vec::new()).unwrap_err());
    assert_eq!((error.message.as_str(), error.category.exit_code()), (expected, 5));
    // It fails later.
    store.set(Rates::default());
    machine.push_result(&record);
    let second = Machine::new(&store);
    second.shared.check().unwrap();
    store.set(Rates { fail: 100, ..Rates::default() });
    let error = second.pull(&[record.key]).unwrap_err().to_string();
    assert!(error.starts_with("can't read result/") && error.ends_with("no answer"), "{error}");
    assert_eq!(second.shared.warnings(), [""; 0], "nothing is said about single objects");
}

#[test]
fn store_that_fails_in_the_middle_ends_a_pull_at_once() {
    let store = faultless();
    let machine = Machine::new(&store);
    let records: Vec<_> =
        (0..40).map(|i| commit(&machine.cache, "x", &components("a", i), &artifact(u64::from(i), 60_000))).collect();
    machine.push(records.clone(), Vec::new()).unwrap();
    let second = Machine::new(&store);
    let asked: Vec<_> = records.iter().map(|r| Asked { declared: r.key, reads_files: false }).collect();
    let found: Vec<_> = second.shared.find_results(&asked).unwrap().concat();
    assert_eq!(found.len(), 40);
    store.requests();
    store.set(Rates { break_off: 100, ..Rates::default() });
    let error = second.shared.pull_record(&second.cache, found[0].clone(), &Transfer::default()).unwrap_err();
    assert!(error.to_string().contains("can't read blob/"), "{error}");
    assert!(store.requests()["get"] <= 4 * 2, "each range is tried four times");
    assert_eq!(second.pull(&[]).unwrap(), 0);
}

#[test]
fn short_and_broken_answers_are_asked_for_again() {
    let store = faultless();
    let machine = Machine::new(&store);
    let a = artifact(1, 500_000);
    let record = commit(&machine.cache, "x", &components("a", 1), &a);
    machine.push_result(&record);
    store.set(Rates { cut: 30, break_off: 20, delay: 50, ..Rates::default() });
    let pulled = (0..20).filter(|_| Machine::new(&store).pull(&[record.key]).is_ok_and(|pulled| pulled == 1)).count();
    assert!(pulled > 10, "{pulled} of 20 pulls succeed");
}
