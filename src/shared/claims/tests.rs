//! Workers on one store in memory, with a clock that the tests advance.

use std::path::Path;
use std::sync::Arc;

use object_store::memory::InMemory;
use proptest::prelude::*;

use super::*;
use crate::key::Digest;
use crate::shared::{Address, Trust};

const PERIOD: Duration = Duration::from_secs(10);

fn store() -> SharedStore {
    let address = Address::parse("memory:", Path::new("")).unwrap();
    SharedStore::with_store(Arc::new(InMemory::new()), address, Trust::default(), true).unwrap()
}

fn worker(name: &str) -> ClaimOwner {
    ClaimOwner::this_process(name.to_owned(), PERIOD)
}

fn key(text: &str) -> Key {
    Digest::of(text.as_bytes())
}

fn takes(claims: &Claims<'_>, key: Key, now: Instant) -> bool {
    claims.take(&[key], now).unwrap()[0].is_none()
}

fn objects(store: &SharedStore) -> usize {
    store.objects.list_each(&[CLAIMS.to_owned()]).pop().unwrap().unwrap().len()
}

#[test]
fn one_worker_gets_a_key_and_the_others_learn_who_has_it() {
    let (store, alice, bob) = (store(), worker("lab7/worker-1"), worker("lab7/worker-2"));
    let (first, second) = (Claims::new(&store, &alice), Claims::new(&store, &bob));
    let now = Instant::now();
    let keys = [key("a"), key("b")];
    assert!(takes(&first, keys[0], now));
    assert!(takes(&first, keys[0], now), "it has it already");
    let outcomes = second.take(&keys, now).unwrap();
    assert!(outcomes[0].as_ref().unwrap().starts_with("lab7/worker-1 (process "), "{outcomes:?}");
    assert_eq!(outcomes[1], None);
    assert_eq!(second.free(&keys, now).unwrap(), [keys[1]], "its own one is free for it");
    first.release(&keys).unwrap();
    assert_eq!(second.free(&keys, now).unwrap(), keys);
    assert!(takes(&second, keys[0], now));
    second.release(&keys).unwrap();
    assert_eq!(objects(&store), 0);
}

#[test]
fn key_for_which_a_worker_had_too_little_memory_goes_to_one_with_more() {
    let of = |name: &str, memory| ClaimOwner { memory, ..worker(name) };
    let (store, small, same, large) = (store(), of("w1", 100), of("w2", 100), of("w3", 200));
    let [small, same, large] = [&small, &same, &large].map(|owner| Claims::new(&store, owner));
    let (a, now) = (key("a"), Instant::now());
    assert!(takes(&small, a, now));
    small.note_too_little_memory(&a).unwrap();
    small.release(&[a]).unwrap();
    assert!(!takes(&same, a, now) && !takes(&small, a, now));
    assert_eq!((same.too_little_memory(&a), large.too_little_memory(&a)), (Some(100), None));
    assert!(takes(&large, a, now));
    large.release(&[a]).unwrap();
    assert_eq!(objects(&store), 0, "nothing stays after the result");
    assert!(takes(&same, a, now));
}

#[test]
fn claim_expires_after_three_periods_without_a_heartbeat() {
    let (store, alice, bob) = (store(), worker("w1"), worker("w2"));
    let (first, second) = (Claims::new(&store, &alice), Claims::new(&store, &bob));
    let begin = Instant::now();
    let at = |seconds: u64| begin + Duration::from_secs(seconds);
    let a = key("a");
    assert!(takes(&first, a, begin));
    // The reader's clock begins when it sees the claim for the first time.
    assert!(!takes(&second, a, at(1000)) && !takes(&second, a, at(1029)));
    first.beat().unwrap();
    assert!(second.free(&[a], at(1030)).unwrap().is_empty() && !takes(&second, a, at(1059)));
    assert_eq!(second.free(&[a], at(1060)).unwrap(), [a]);
    assert!(takes(&second, a, at(1060)));
    // The first worker was only slow. Its heartbeat does not take the key back.
    first.beat().unwrap();
    let third = worker("w3");
    let third = Claims::new(&store, &third);
    assert!(third.take(&[a], at(1061)).unwrap()[0].as_ref().unwrap().starts_with("w2 "));
    first.release(&[a]).unwrap();
    assert!(!takes(&third, a, at(1062)));
    second.release(&[a]).unwrap();
    assert_eq!(objects(&store), 0);
}

#[test]
fn claim_of_a_slower_heartbeat_is_waited_for_longer() {
    let (store, slow, fast) =
        (store(), worker("slow"), ClaimOwner { period: Duration::from_millis(1), ..worker("fast") });
    let (first, second) = (Claims::new(&store, &slow), Claims::new(&store, &fast));
    let now = Instant::now();
    assert!(takes(&first, key("a"), now) && !takes(&second, key("a"), now));
    assert!(!takes(&second, key("a"), now + PERIOD * 2) && takes(&second, key("a"), now + PERIOD * 3));
}

#[test]
fn claim_of_a_dead_process_of_this_machine_is_not_waited_for() {
    let (store, mut dead, bob) = (store(), worker("w1"), worker("w2"));
    dead.holder.start_ticks += 1;
    let now = Instant::now();
    assert!(takes(&Claims::new(&store, &dead), key("a"), now));
    assert!(takes(&Claims::new(&store, &bob), key("a"), now));
    // A process of another machine with the same name can't be looked up here.
    let far = ClaimOwner { machine: Some("other".to_owned()), ..dead };
    assert!(takes(&Claims::new(&store, &far), key("b"), now));
    assert!(!takes(&Claims::new(&store, &bob), key("b"), now));
}

#[test]
fn claim_that_cannot_be_read_expires_like_any_other() {
    let (store, bob) = (store(), worker("w2"));
    let claims = Claims::new(&store, &bob);
    store.mark().unwrap();
    let now = Instant::now();
    for (i, bytes) in [&b""[..], b"{}", b"\xff", br#"{"format":9}"#].into_iter().enumerate() {
        let a = key(&i.to_string());
        store.objects.create(&name(&a, 1), bytes.to_vec()).unwrap();
        assert_eq!(claims.take(&[a], now).unwrap(), [Some("another worker".to_owned())]);
        assert!(takes(&claims, a, now + PERIOD * 3));
    }
    // Names that are not those of claims.
    store.objects.create(&format!("{CLAIMS}{}/x", key("x")), vec![]).unwrap();
    store.objects.create(&format!("{CLAIMS}y"), vec![]).unwrap();
    assert!(takes(&claims, key("x"), now));
}

/// What happens next in a race for one key.
#[derive(Clone, Copy, Debug)]
enum Step {
    /// The worker asks for the key.
    Take(usize),
    /// The same, and the answer is lost.
    TakeUnheard(usize),
    /// The same, in a store in which its create does not see that of another worker.
    TakeBlindly(usize),
    Beat(usize),
    Die(usize),
    Wait(u64),
}

fn step() -> impl Strategy<Value = Step> {
    let worker = 0..3usize;
    prop_oneof![
        4 => worker.clone().prop_map(Step::Take),
        1 => worker.clone().prop_map(Step::TakeUnheard),
        1 => worker.clone().prop_map(Step::TakeBlindly),
        3 => worker.clone().prop_map(Step::Beat),
        1 => worker.prop_map(Step::Die),
        2 => (0..40u64).prop_map(Step::Wait),
    ]
}

fn remove_all(store: &SharedStore) {
    let listed = store.objects.list_each(&[CLAIMS.to_owned()]).pop().unwrap().unwrap();
    store.objects.remove_each(&listed.into_iter().map(|object| object.name).collect::<Vec<_>>());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn some_worker_always_gets_the_key(steps in proptest::collection::vec(step(), 0..40)) {
        let (store, owners) = (store(), ["a", "b", "c", "d"].map(worker));
        let claims: Vec<_> = owners.iter().map(|owner| Claims::new(&store, owner)).collect();
        let (a, mut now) = (key("a"), Instant::now());
        let (mut alive, mut has, mut is_atomic) = ([true; 3], [false; 3], true);
        // The last time at which the owner was heard of.
        let mut heard = [now; 3];
        for step in steps {
            match step {
                Step::Take(w) if alive[w] => {
                    let got = takes(&claims[w], a, now);
                    let rivals = (0..3).filter(|v| *v != w && alive[*v] && has[*v] && now - heard[*v] < PERIOD * SILENCE);
                    prop_assert!(!(got && is_atomic && !has[w] && rivals.count() > 0), "two have it");
                    // Only a new claim is a sign of life.
                    if got && !has[w] {
                        (has[w], heard[w]) = (true, now);
                    }
                }
                Step::TakeUnheard(w) if alive[w] && !has[w] => {
                    let _ = claims[w].take(&[a], now);
                    claims[w].state().own.remove(&a);
                }
                Step::TakeBlindly(w) if alive[w] => {
                    remove_all(&store);
                    has[w] |= takes(&claims[w], a, now);
                    heard[w] = now;
                    is_atomic = false;
                }
                Step::Beat(w) if alive[w] => {
                    claims[w].beat().unwrap();
                    // One that was silent for too long may have lost the key.
                    if now - heard[w] < PERIOD * SILENCE {
                        heard[w] = now;
                    }
                }
                Step::Die(w) => alive[w] = false,
                Step::Wait(seconds) => now += Duration::from_secs(seconds),
                _ => {}
            }
        }
        // Those who have it finish, and the fourth worker gets it after at most three periods.
        for w in (0..3).filter(|w| alive[*w]) {
            claims[w].release(&[a]).unwrap();
        }
        let last = &claims[3];
        prop_assert!(takes(last, a, now) || takes(last, a, now + PERIOD * SILENCE));
        last.release(&[a]).unwrap();
        prop_assert!(takes(last, a, now) || takes(last, a, now + PERIOD * SILENCE * 2), "what is left over expires");
    }
}
