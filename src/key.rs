//! Keys: the identity of a stage's result, what enters it, and why.
//!
//! | enters | where | why |
//! |---|---|---|
//! | record type, [`FORMAT`] | every hash | records of different types never collide; the scheme can change |
//! | stage kind, its `VERSION` | stage, init | code can't be hashed; a kind whose results change raises its version |
//! | parameters, as typed values by name | stage; init: those of a training's start | they change the result |
//! | seed, precision | where the stage reads them | a new seed reruns only the stages that draw random numbers |
//! | output digests of inputs, by role (lists by label) | stage, init | equal input contents cause no rerun |
//! | digests of files that the pipeline names | stage, init | files count by their contents, never by path or time |
//! | digests of other files that the program read | stage, result | they are known only after the run |
//! | parameters of an epoch | that epoch's key in the chain | trainings with equal first epochs share them |
//! | what a training makes of its last state | result | declaring an output trains nothing again |
//!
//! These never enter a key: the number of epochs (a longer chain ends with another key anyway), paths, times, hosts,
//! thread counts, devices, names of stages or points, the order in the pipeline file, comments, `keep`,
//! `checkpoint_seconds`.
//!
//! Every piece of variable length has a length prefix, every record has a tag, and every map is ordered.

use std::collections::BTreeMap;
use std::fmt;
use std::io::{self, Read};
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::value::{Value, Values};

/// The version of the scheme that this file describes. Raising it makes every cached result a miss.
pub const FORMAT: u32 = 1;

/// A BLAKE3 digest. Also the type of every [`Key`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest(pub [u8; 32]);

/// The identity of a stage's result, or of a state of a training.
pub type Key = Digest;

impl Digest {
    /// The digest of these bytes.
    pub fn of(bytes: &[u8]) -> Self {
        Self(*blake3::hash(bytes).as_bytes())
    }

    /// The digest of all bytes of a reader.
    ///
    /// # Errors
    /// As reading.
    pub fn of_reader(reader: impl Read) -> io::Result<Self> {
        Ok(Self(*blake3::Hasher::new().update_reader(reader)?.finalize().as_bytes()))
    }

    /// The first twelve hexadecimal digits, for display.
    pub fn short(&self) -> String {
        hex::encode(&self.0[..6])
    }
}

impl Digest {
    /// Calls `f` with all hexadecimal digits, without an allocation.
    fn with_hex<T>(&self, f: impl FnOnce(&str) -> T) -> T {
        let mut text = [b'0'; 64];
        // Can't fail: the buffer holds two digits for each byte, and digits are UTF-8.
        let _ = hex::encode_to_slice(self.0, &mut text);
        f(std::str::from_utf8(&text).unwrap_or_default())
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.with_hex(|text| f.write_str(text))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.short())
    }
}

impl FromStr for Digest {
    type Err = hex::FromHexError;
    fn from_str(s: &str) -> Result<Self, Self::Err> {
        let mut bytes = [0; 32];
        hex::decode_to_slice(s, &mut bytes)?;
        Ok(Self(bytes))
    }
}

impl Serialize for Digest {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        self.with_hex(|text| s.serialize_str(text))
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        String::deserialize(d)?.parse().map_err(serde::de::Error::custom)
    }
}

/// A hasher that prefixes every piece of variable length with its length.
pub struct Hash(blake3::Hasher);

impl Hash {
    /// Begins a record of this type.
    pub fn new(record: &str) -> Self {
        let mut hash = Self(blake3::Hasher::new());
        hash.text(record).count(FORMAT as usize);
        hash
    }

    /// Adds a string.
    pub fn text(&mut self, text: &str) -> &mut Self {
        self.count(text.len());
        self.0.update(text.as_bytes());
        self
    }

    /// Adds a count or an index.
    pub fn count(&mut self, n: usize) -> &mut Self {
        self.0.update(&(n as u64).to_le_bytes());
        self
    }

    /// Adds a float by its bits. -0.0 counts as 0.0, and all bit patterns of NaN are the same.
    pub fn float(&mut self, v: f64) -> &mut Self {
        let v = match v {
            _ if v == 0.0 => 0.0,
            _ if v.is_nan() => f64::NAN,
            _ => v,
        };
        self.0.update(&v.to_bits().to_le_bytes());
        self
    }

    /// Adds a digest.
    pub fn digest(&mut self, digest: &Digest) -> &mut Self {
        self.0.update(&digest.0);
        self
    }

    /// Adds a value, tagged by its type.
    pub fn value(&mut self, value: &Value) -> &mut Self {
        match value {
            Value::Bool(v) => self.text("bool").count(usize::from(*v)),
            Value::Int(v) => {
                self.text("int");
                self.0.update(&v.to_le_bytes());
                self
            }
            Value::Float(v) => self.text("float").float(*v),
            Value::Text(v) => self.text("text").text(v),
            Value::List(v) => {
                self.text("list").count(v.len());
                for item in v {
                    self.value(item);
                }
                self
            }
            Value::Table(v) => self.text("table").values(v),
        }
    }

    /// Adds named values.
    pub fn values(&mut self, values: &Values) -> &mut Self {
        self.count(values.len());
        for (name, value) in values {
            self.text(name).value(value);
        }
        self
    }

    /// The digest of everything added.
    pub fn finish(&self) -> Digest {
        Digest(*self.0.finalize().as_bytes())
    }
}

/// The digests that an input adds to a key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum InputDigest {
    /// One stage's output digest.
    One(Digest),
    /// Several output digests, by label (the point's name).
    Many(BTreeMap<String, Digest>),
}

/// Everything that enters a key. Stored with the result, so that a miss can be explained (old → new).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Components {
    /// Stage kind.
    pub kind: String,
    /// The kind's VERSION.
    pub version: u32,
    /// Parameters in canonical form. For a training, only the parameters of its start.
    pub params: Arc<Values>,
    /// The seed, if the stage reads it.
    pub seed: Option<i64>,
    /// The precision, if the stage reads it. A string, so that this program can read records with a precision that it
    /// does not know.
    pub precision: Option<String>,
    /// Output digests of the inputs by role.
    pub inputs: BTreeMap<String, InputDigest>,
    /// Digests of files that the pipeline names, by a name that is part of the pipeline (never an absolute path).
    pub contents: BTreeMap<String, Digest>,
    /// Digests of the other files that a program read, by their path relative to the pipeline's folder. They are known
    /// only after the run, so a look-up begins with [`Components::declared`].
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub files_read: BTreeMap<String, Digest>,
    /// The epochs of a training; `None` for any other stage.
    pub segments: Option<Vec<Segment>>,
    /// For a training: the parameters that change its result, but none of its states.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub result: Values,
}

/// Consecutive epochs with the same parameters.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Segment {
    /// The number of epochs.
    pub epochs: u64,
    /// The parameters of each epoch.
    pub params: Values,
}

/// A stored result: its key and the digest of its bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredResult {
    /// The key.
    pub key: Key,
    /// The digest of the manifest.
    pub output: Digest,
}

/// A position in a training's chain of states.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    /// Finished epochs.
    pub epoch: u64,
    /// Steps done in the epoch after them.
    pub step: u64,
}

/// The keys of a training's states: the key of the start, then one key for each epoch.
///
/// Two trainings whose chains begin with the same keys share the states with these keys. A stage that is not a training
/// has an empty chain. Clones share the keys.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StateChain {
    keys: Arc<[Key]>,
}

/// The first multiple of `every` epochs after this one, or the `last` epoch.
pub fn boundary_after(epoch: u64, every: u64, last: u64) -> u64 {
    (epoch / every + 1).saturating_mul(every).min(last)
}

impl StateChain {
    /// The chain with these keys.
    #[cfg(test)]
    pub(crate) fn of(keys: Vec<Key>) -> Self {
        Self { keys: keys.into() }
    }

    /// All keys. The key at index `n` belongs to the state after `n` epochs.
    pub fn keys(&self) -> &[Key] {
        &self.keys
    }

    /// The number of epochs.
    pub fn total(&self) -> u64 {
        self.keys.len().saturating_sub(1) as u64
    }

    /// The key of the state after `epoch` epochs; `None` beyond the last.
    pub fn at(&self, epoch: u64) -> Option<Key> {
        self.keys.get(usize::try_from(epoch).ok()?).copied()
    }

    /// The first multiple of `every` epochs after this one, or the last epoch.
    pub fn boundary_after(&self, epoch: u64, every: u64) -> u64 {
        boundary_after(epoch, every, self.total())
    }

    /// The keys of the states after multiples of `every` epochs, and of the last state.
    pub fn at_boundaries(&self, every: u64) -> Self {
        if every == 1 {
            return self.clone();
        }
        let is_boundary = |epoch: u64| epoch.is_multiple_of(every) || epoch == self.total();
        let keys = (0..).zip(self.keys.iter()).filter(|(epoch, _)| is_boundary(*epoch));
        Self { keys: keys.map(|(_, key)| *key).collect() }
    }

    /// The length of the chains' common prefix, in keys. The first key is that of the start, so `n` shared keys mean
    /// that the state after `n - 1` epochs is the last shared one.
    pub fn shared_prefix(&self, other: &Self) -> usize {
        self.keys.iter().zip(other.keys.iter()).take_while(|(a, b)| a == b).count()
    }
}

impl Components {
    /// The key of the stage's result. For a training, the key of its last state, unless the result depends on more.
    pub fn key(&self) -> Key {
        self.key_on(&self.chain())
    }

    /// [`Components::key`], given [`Components::chain`], which takes a while for a long training.
    pub fn key_on(&self, chain: &StateChain) -> Key {
        match chain.keys.last() {
            Some(state) if self.result.is_empty() && self.files_read.is_empty() => *state,
            Some(state) => {
                let mut hash = Hash::new("result");
                hash.digest(state).values(&self.result);
                self.hash_files_read(&mut hash);
                hash.finish()
            }
            None => self.start("stage"),
        }
    }

    /// The components that are known before the stage runs: all but the files that its program was found to read.
    pub fn declared(&self) -> Self {
        Self { files_read: BTreeMap::new(), ..self.clone() }
    }

    /// The keys of a training's states; empty for any other stage.
    pub fn chain(&self) -> StateChain {
        let Some(segments) = &self.segments else { return StateChain::default() };
        let mut last = self.start("init");
        let mut keys = vec![last];
        for segment in segments {
            for _ in 0..segment.epochs {
                last = Hash::new("epoch").digest(&last).values(&segment.params).finish();
                keys.push(last);
            }
        }
        StateChain { keys: keys.into() }
    }

    fn start(&self, record: &str) -> Key {
        let mut h = Hash::new(record);
        h.text(&self.kind).count(self.version as usize).values(&self.params);
        match self.seed {
            Some(seed) => h.text("seed").value(&Value::Int(seed)),
            None => h.text("no seed"),
        };
        h.text(self.precision.as_deref().unwrap_or("no precision"));
        h.count(self.inputs.len());
        for (role, input) in &self.inputs {
            h.text(role);
            match input {
                InputDigest::One(d) => h.text("one").digest(d),
                InputDigest::Many(many) => {
                    h.text("many").count(many.len());
                    for (label, d) in many {
                        h.text(label).digest(d);
                    }
                    &mut h
                }
            };
        }
        h.count(self.contents.len());
        for (name, d) in &self.contents {
            h.text(name).digest(d);
        }
        // A state of a training carries the files that were read before it: its key is known before they are.
        if self.segments.is_none() {
            self.hash_files_read(&mut h);
        }
        h.finish()
    }

    fn hash_files_read(&self, hash: &mut Hash) {
        if !self.files_read.is_empty() {
            hash.text("files read").count(self.files_read.len());
            for (name, d) in &self.files_read {
                hash.text(name).digest(d);
            }
        }
    }
}

#[cfg(test)]
mod tests;
