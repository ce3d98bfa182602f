//! Identity: what enters a key, and why.
//!
//! | enters | where | why |
//! |---|---|---|
//! | record type, [`FORMAT`] | every hash | no two kinds of record can collide; the scheme itself can change |
//! | stage kind, its `VERSION` | stage, init | functions can't be hashed: a change of results raises it |
//! | parameters, typed, by name | stage; of a training's start: init | they change the result; as values, not as text |
//! | seed, precision | where the stage reads them | a new seed reruns only the stages that draw random numbers |
//! | output digests of inputs, by role (lists by label) | stage, init | equal contents rerun nothing |
//! | digests of files read | stage, init | contents, never a path or a time |
//! | parameters of an epoch | that epoch's key in the chain | trainings share the epochs with which they begin |
//!
//! What never enters: the number of epochs (the last key of a longer chain is another key anyway), paths, times, hosts,
//! thread counts, devices, names of stages or points, the order in the pipeline file, comments, `keep`,
//! `checkpoint_seconds`.
//!
//! Every variable-length piece is length-prefixed, every record is tagged, every map is ordered.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::value::{Value, Values};

/// The version of the scheme on this page. Raising it makes every cached result a miss.
pub const FORMAT: u32 = 1;

/// BLAKE3 of some bytes. Also the type of every [`Key`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest(pub [u8; 32]);

/// The identity of a stage's result, or of a state of a training.
pub type Key = Digest;

impl Digest {
    /// The digest of these bytes.
    pub fn of(bytes: &[u8]) -> Self {
        Self(*blake3::hash(bytes).as_bytes())
    }

    /// The first twelve hexadecimal digits, for display.
    pub fn short(&self) -> String {
        hex::encode(&self.0[..6])
    }
}

impl Digest {
    /// Calls `f` with all hexadecimal digits. Allocates nothing.
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

/// A hasher that can't be used without separators.
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

    /// Adds a float by its bits; -0.0 counts as 0.0.
    pub fn float(&mut self, v: f64) -> &mut Self {
        let v = if v == 0.0 { 0.0 } else { v };
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

/// What an input contributes to a key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum InputDigest {
    /// One stage's output digest.
    One(Digest),
    /// Several, by label (the point's name).
    Many(BTreeMap<String, Digest>),
}

/// Everything that enters a key. It is stored with the result, so that a miss can be explained (old → new).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Components {
    /// Stage kind.
    pub kind: String,
    /// The kind's VERSION.
    pub version: u32,
    /// Parameters in canonical form; of a training, those of its start.
    pub params: Values,
    /// The seed, if the stage reads it.
    pub seed: Option<i64>,
    /// The precision, if the stage reads it. A string, so that a record whose precision is newer than this program can
    /// be read.
    pub precision: Option<String>,
    /// Output digests of the inputs by role.
    pub inputs: BTreeMap<String, InputDigest>,
    /// Digests of files read, by a name that is part of the pipeline (never an absolute path).
    pub contents: BTreeMap<String, Digest>,
    /// The epochs of a training; `None` for any other stage.
    pub segments: Option<Vec<Segment>>,
}

/// Consecutive epochs with the same parameters.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Segment {
    /// The number of epochs.
    pub epochs: u64,
    /// The parameters of each epoch.
    pub params: Values,
}

/// A place on a training's chain of states.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    /// Finished epochs.
    pub epoch: u64,
    /// Steps done in the epoch after them.
    pub step: u64,
}

/// The keys of a training's states: that of the start, then one for each epoch.
///
/// Two trainings whose chains begin with the same keys share the states behind those keys. The chain of a stage that is
/// not a training is empty.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StateChain {
    keys: Vec<Key>,
}

impl StateChain {
    /// The chain of these keys.
    #[cfg(test)]
    pub(crate) fn of(keys: Vec<Key>) -> Self {
        Self { keys }
    }

    /// All keys. The key at index `n` is that of the state after `n` epochs.
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

    /// How many keys both chains have in common, counted from the start. The shared state that is furthest is the one
    /// after one epoch less.
    pub fn shared_prefix(&self, other: &Self) -> usize {
        self.keys.iter().zip(&other.keys).take_while(|(a, b)| a == b).count()
    }
}

impl Components {
    /// The key of the stage's result. A training's is that of its last state.
    pub fn key(&self) -> Key {
        match self.chain().keys.last() {
            Some(state) => *state,
            None => self.start("stage"),
        }
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
        StateChain { keys }
    }

    /// [`Components::chain`] as a list.
    pub fn states(&self) -> Vec<Key> {
        self.chain().keys
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
        h.finish()
    }
}

#[cfg(test)]
mod tests;
