//! Claims: which worker runs which key.
//!
//! A claim is the object `claim/<key>/<n>`. A worker creates it before it runs the key, rewrites it every period (its
//! heartbeat), and removes it when the job has ended. If a worker dies, its claim does not change any more. A worker
//! that sees the same claim for three periods, on its own monotonic clock, creates `claim/<key>/<n + 1>`. A claim of a
//! process that ran on the same machine and has ended is not waited for. No clocks are compared.
//!
//! A worker whose program ran out of memory writes `claim/<key>/memory-<bytes>`, with what it had. Workers with no more
//! than that leave the key to others. The one that makes the result removes it.
//!
//! A claim only saves work. If it is lost, or if two workers create it, both run the key. Results are named by their
//! keys, so the second one is compared with the first.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use ring::rand::{SecureRandom as _, SystemRandom};
use serde::{Deserialize, Serialize};

use super::error::Result;
use super::handle::SharedStore;
use super::objects::Listed;
use crate::key::Key;
use crate::store::Holder;
use crate::system::memory;

/// The time between two heartbeats, unless a worker has another one.
pub const HEARTBEAT: Duration = Duration::from_secs(10);
/// A claim is expired when it has not changed for this many heartbeats.
const SILENCE: u32 = 3;
/// A claim is removed with this many claims before it.
const EARLIER: u64 = 16;
/// The beginning of the names of all claims.
const CLAIMS: &str = "claim/";
/// The beginning of a name, after the key, that says how much memory was too little.
const MEMORY: &str = "memory-";

/// A worker, as its claims name it.
#[derive(Clone, Debug)]
pub struct ClaimOwner {
    /// Its name on its machine, such as `worker-2`.
    pub name: String,
    /// The time between its heartbeats.
    pub period: Duration,
    /// Bytes of memory that its programs may use.
    pub memory: u64,
    holder: Holder,
    /// See [`machine`].
    machine: Option<String>,
    /// Tells it from all other workers.
    id: String,
}

impl ClaimOwner {
    /// This process.
    pub fn this_process(name: String, period: Duration) -> Self {
        let mut random = [0; 8];
        // Without random numbers, the process and its machine must do.
        let _ = SystemRandom::new().fill(&mut random);
        let holder = Holder::this_process();
        let id = format!("{}-{}-{}", holder.host, holder.pid, hex::encode(random));
        Self { name, period, memory: memory(), holder, machine: machine(), id }
    }

    /// Tells it from all other workers.
    pub fn id(&self) -> &str {
        &self.id
    }
}

/// The content of a claim. Fields of later versions are ignored.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Body {
    worker: String,
    id: String,
    holder: Holder,
    machine: Option<String>,
    period_ms: u64,
    /// The number of heartbeats.
    beat: u64,
}

/// The newest claim of a key.
#[derive(Debug)]
struct Seen {
    number: u64,
    version: String,
    /// When this version was seen first.
    since: Instant,
    /// `None` if it can't be read.
    body: Option<Body>,
}

impl Seen {
    fn holder(&self) -> String {
        self.body
            .as_ref()
            .map_or_else(|| "another worker".to_owned(), |body| format!("{} ({})", body.worker, body.holder.describe()))
    }

    fn is_expired(&self, own: &ClaimOwner, now: Instant) -> bool {
        let period =
            self.body.as_ref().map_or(own.period, |body| own.period.max(Duration::from_millis(body.period_ms)));
        let is_dead = self
            .body
            .as_ref()
            .is_some_and(|body| body.machine.is_some() && body.machine == own.machine && !body.holder.may_live());
        is_dead || now.saturating_duration_since(self.since) >= period.saturating_mul(SILENCE)
    }

    fn is_of(&self, owner: &ClaimOwner) -> bool {
        self.body.as_ref().is_some_and(|body| body.id == owner.id)
    }
}

#[derive(Default)]
struct State {
    /// The numbers of the own claims.
    own: BTreeMap<Key, u64>,
    /// The claims of others.
    seen: BTreeMap<Key, Seen>,
    /// Bytes of memory that were too little.
    too_little: BTreeMap<Key, u64>,
    /// The number of heartbeats.
    beat: u64,
}

/// The claims of one worker.
pub struct Claims<'a> {
    shared: &'a SharedStore,
    owner: &'a ClaimOwner,
    /// Locked during requests, so that no heartbeat rewrites a claim that is being removed.
    state: Mutex<State>,
}

impl<'a> Claims<'a> {
    /// A worker without claims.
    pub fn new(shared: &'a SharedStore, owner: &'a ClaimOwner) -> Self {
        Self { shared, owner, state: Mutex::default() }
    }

    /// Claims keys. For each key, returns the worker that has it or can have it, or `None` if the claim is ours now.
    ///
    /// # Errors
    /// If the store can't be read or written.
    pub fn take(&self, keys: &[Key], now: Instant) -> Result<Vec<Option<String>>> {
        self.shared.mark()?;
        let mut guard = self.state();
        let state = &mut *guard;
        let prefixes: Vec<String> = keys.iter().map(|key| format!("{CLAIMS}{key}/")).collect();
        let listed = self.shared.objects.list_each(&prefixes).into_iter().collect::<Result<Vec<_>>>()?;
        self.observe(state, keys, listed.concat(), now)?;
        let (mut outcomes, mut new, mut adopted) = (vec![None; keys.len()], Vec::new(), Vec::new());
        for (i, key) in keys.iter().enumerate() {
            if state.too_little.get(key).is_some_and(|bytes| self.owner.memory <= *bytes) {
                outcomes[i] = Some("a worker with more memory".to_owned());
                continue;
            }
            match state.seen.get(key) {
                None => new.push((i, 1)),
                Some(seen) if seen.is_of(self.owner) => {
                    if state.own.insert(*key, seen.number).is_none() {
                        // Its answer was lost, and nobody renewed it since.
                        adopted.push((name(key, seen.number), self.body(state.beat + 1)));
                    }
                }
                Some(seen) if seen.is_expired(self.owner, now) => new.push((i, seen.number + 1)),
                Some(seen) => outcomes[i] = Some(seen.holder()),
            }
        }
        state.beat += 1;
        self.shared.objects.replace_each(adopted).into_iter().collect::<Result<Vec<()>>>()?;
        let objects = new.iter().map(|(i, number)| (name(&keys[*i], *number), self.body(state.beat))).collect();
        for ((i, number), created) in new.into_iter().zip(self.shared.objects.create_each(objects)) {
            // The answer to an earlier try may have been lost.
            if created? || self.is_own(&keys[i], number)? {
                state.own.insert(keys[i], number);
            } else {
                outcomes[i] = Some("another worker".to_owned());
            }
        }
        Ok(outcomes)
    }

    /// If this worker has too little memory for a key that it wanted to claim: how much was too little, in bytes.
    pub fn too_little_memory(&self, key: &Key) -> Option<u64> {
        self.state().too_little.get(key).copied().filter(|bytes| self.owner.memory <= *bytes)
    }

    /// Notes that the memory of this worker was too little for a key.
    ///
    /// # Errors
    /// If the store can't be written.
    pub fn note_too_little_memory(&self, key: &Key) -> Result<()> {
        self.shared.objects.put(&format!("{CLAIMS}{key}/{MEMORY}{}", self.owner.memory), Vec::new())
    }

    /// Those of these keys that nobody runs: they have no claim, or one that is expired.
    ///
    /// # Errors
    /// If the store can't be read.
    pub fn free(&self, keys: &[Key], now: Instant) -> Result<Vec<Key>> {
        let mut state = self.state();
        let listed = self.shared.objects.list_each(&[CLAIMS.to_owned()]).into_iter().collect::<Result<Vec<_>>>()?;
        self.observe(&mut state, keys, listed.concat(), now)?;
        let is_free = |key: &Key| {
            state.seen.get(key).is_none_or(|seen| seen.is_of(self.owner) || seen.is_expired(self.owner, now))
        };
        Ok(keys.iter().copied().filter(is_free).collect())
    }

    /// Rewrites all own claims, so that others see that this worker lives.
    ///
    /// # Errors
    /// If the store can't be written.
    pub fn beat(&self) -> Result<()> {
        let mut state = self.state();
        state.beat += 1;
        let objects = state.own.iter().map(|(key, number)| (name(key, *number), self.body(state.beat))).collect();
        self.shared.objects.replace_each(objects).into_iter().collect()
    }

    /// Removes own claims. Ignores keys that are not claimed.
    ///
    /// # Errors
    /// If the store can't be written.
    pub fn release(&self, keys: &[Key]) -> Result<()> {
        let mut state = self.state();
        let numbers = keys.iter().filter_map(|key| Some((key, state.own.remove(key)?)));
        let claims = numbers
            .flat_map(|(key, number)| (number.saturating_sub(EARLIER).max(1)..=number).map(move |n| name(key, n)));
        let mut names: Vec<String> = claims.collect();
        let too_little = keys.iter().filter_map(|key| Some((key, state.too_little.remove(key)?)));
        names.extend(too_little.map(|(key, bytes)| format!("{CLAIMS}{key}/{MEMORY}{bytes}")));
        keys.iter().for_each(|key| drop(state.seen.remove(key)));
        self.shared.objects.remove_each(&names).into_iter().collect()
    }

    /// Notes the newest claim of each key.
    fn observe(&self, state: &mut State, keys: &[Key], listed: Vec<Listed>, now: Instant) -> Result<()> {
        let mut newest: BTreeMap<&str, (u64, &str)> = BTreeMap::new();
        let mut too_little: BTreeMap<&str, u64> = BTreeMap::new();
        for Listed { name, version, .. } in &listed {
            let parts = name.strip_prefix(CLAIMS).and_then(|rest| rest.split_once('/'));
            if let Some((key, bytes)) = parts.and_then(|(key, rest)| Some((key, rest.strip_prefix(MEMORY)?)))
                && let Ok(bytes) = bytes.parse::<u64>()
            {
                let most = too_little.entry(key).or_default();
                *most = bytes.max(*most);
            }
            let Some((key, Ok(number))) = parts.map(|(key, number)| (key, number.parse::<u64>())) else { continue };
            if newest.get(key).is_none_or(|(known, _)| *known < number) {
                newest.insert(key, (number, version));
            }
        }
        let mut changed = Vec::new();
        for key in keys {
            match too_little.get(key.to_string().as_str()) {
                Some(bytes) => drop(state.too_little.insert(*key, *bytes)),
                None => drop(state.too_little.remove(key)),
            }
            let Some((number, version)) = newest.get(key.to_string().as_str()).copied() else {
                state.seen.remove(key);
                continue;
            };
            let is_known = |seen: &Seen| seen.number == number && seen.version == version;
            if !state.seen.get(key).is_some_and(is_known) {
                changed.push((*key, number, version));
            }
        }
        let names: Vec<String> = changed.iter().map(|(key, number, _)| name(key, *number)).collect();
        for ((key, number, version), bytes) in changed.into_iter().zip(self.shared.objects.get_each(&names)) {
            let body = bytes?.and_then(|bytes| serde_json::from_slice(&bytes).ok());
            state.seen.insert(key, Seen { number, version: version.to_owned(), since: now, body });
        }
        Ok(())
    }

    fn is_own(&self, key: &Key, number: u64) -> Result<bool> {
        let bytes = self.shared.objects.get_soon(&name(key, number))?;
        let body = bytes.and_then(|bytes| serde_json::from_slice::<Body>(&bytes).ok());
        Ok(body.is_some_and(|body| body.id == self.owner.id))
    }

    fn body(&self, beat: u64) -> Vec<u8> {
        let ClaimOwner { name, period, holder, machine, id, .. } = self.owner;
        let period_ms = u64::try_from(period.as_millis()).unwrap_or(u64::MAX);
        let (worker, id, holder, machine) = (name.clone(), id.clone(), holder.clone(), machine.clone());
        let body = Body { worker, id, holder, machine, period_ms, beat };
        // Only a map whose keys aren't strings can fail, and there is none.
        serde_json::to_vec(&body).unwrap_or_default()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The processes among which process ids are unique: those of one start of a kernel and one namespace. The names of
/// machines may repeat. `None` if it can't be found out.
fn machine() -> Option<String> {
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    let namespace = std::fs::read_link("/proc/self/ns/pid").ok()?;
    Some(format!("{} {}", boot.trim(), namespace.display()))
}

fn name(key: &Key, number: u64) -> String {
    format!("{CLAIMS}{key}/{number}")
}

#[cfg(test)]
mod tests;
