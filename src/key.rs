//! Identity: what enters a key, and why.
//!
//! | enters | where | why |
//! |---|---|---|
//! | record type, [`FORMAT`] | every hash | no two kinds of record can collide; the scheme itself can change |
//! | stage kind, its `VERSION` | stage, init | a Rust function cannot be hashed: whoever changes results raises VERSION |
//! | parameters, typed, by name | stage; a chain's start ones in init | they change the result; as values, never as text |
//! | seed, precision | where the stage reads them | else a new seed would rerun what never looks at it |
//! | output digests of inputs, by role (lists by label) | stage, init | contents: an input that came out the same stops the wave |
//! | digests of files read | stage, init | contents, never a path or a time |
//! | parameters of an epoch | that epoch's link of the chain | 100 + 100 epochs are 200; sweeps share what they have in common |
//!
//! What never enters: the number of epochs (a chain's length is its identity), paths, times, hosts, thread counts, devices,
//! names of stages or points, the order in which things are written, comments, `keep`, `checkpoint_seconds`.
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

/// The identity of a stage's result, or of a state in a training's chain.
pub type Key = Digest;

impl Digest {
    /// The digest of these bytes.
    pub fn of(bytes: &[u8]) -> Self {
        Self(*blake3::hash(bytes).as_bytes())
    }

    /// The first twelve hexadecimal digits: for people.
    pub fn short(&self) -> String {
        hex::encode(&self.0[..6])
    }
}

impl Digest {
    /// Calls `f` with all hexadecimal digits; nothing is allocated.
    fn with_hex<T>(&self, f: impl FnOnce(&str) -> T) -> T {
        let mut text = [b'0'; 64];
        // Twice as many digits as bytes: it can't fail, and digits are text.
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

    /// Adds a number of things.
    pub fn count(&mut self, n: usize) -> &mut Self {
        self.0.update(&(n as u64).to_le_bytes());
        self
    }

    /// Adds a float by its bits; the two zeros are one.
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

/// Everything that enters a key, kept beside the result so that a miss can be explained (old → new).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Components {
    /// Stage kind.
    pub kind: String,
    /// The kind's VERSION.
    pub version: u32,
    /// Parameters in canonical form; of a chain, those of its start.
    pub params: Values,
    /// The seed, if the stage reads it.
    pub seed: Option<i64>,
    /// The precision, if the stage reads it.
    pub precision: Option<String>,
    /// Output digests of the inputs by role.
    pub inputs: BTreeMap<String, InputDigest>,
    /// Digests of files read, by a name that is part of the pipeline (never an absolute path).
    pub contents: BTreeMap<String, Digest>,
    /// The epochs of a chain; none for a stage that is no training.
    pub segments: Option<Vec<Segment>>,
}

/// A stretch of equal epochs in a chain.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Segment {
    /// How many.
    pub epochs: u64,
    /// The parameters of each.
    pub params: Values,
}

impl Components {
    /// The key of the stage's result. A training's is that of its last state.
    pub fn key(&self) -> Key {
        match self.states().last() {
            Some(state) => *state,
            None => self.start("stage"),
        }
    }

    /// The keys of a chain's states, from state 0 (nothing trained) to the last; empty if this is no chain.
    pub fn states(&self) -> Vec<Key> {
        let Some(segments) = &self.segments else { return Vec::new() };
        let mut states = vec![self.start("init")];
        let mut last = states[0];
        for segment in segments {
            for _ in 0..segment.epochs {
                last = Hash::new("epoch").digest(&last).values(&segment.params).finish();
                states.push(last);
            }
        }
        states
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
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn table<const N: usize>(entries: [(&str, Value); N]) -> Values {
        entries.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
    }

    fn digest(text: &str) -> Digest {
        Digest::of(text.as_bytes())
    }

    fn epochs(count: u64, lr: f64) -> Segment {
        Segment { epochs: count, params: table([("batch", Value::Int(16)), ("lr", Value::Float(lr))]) }
    }

    fn training(segments: Vec<Segment>) -> Components {
        Components {
            kind: "train-ad".to_owned(),
            version: 1,
            params: table([("latent_dim", Value::Int(6))]),
            seed: Some(7),
            precision: Some("f32".to_owned()),
            inputs: BTreeMap::from([("data".to_owned(), InputDigest::One(digest("data")))]),
            contents: BTreeMap::new(),
            segments: Some(segments),
        }
    }

    /// Keys are on disks: whatever changes one must raise [`FORMAT`], and these with it. They were computed by a second
    /// implementation, from the table above.
    #[test]
    fn keys_are_what_they_were() {
        let more = Value::Table(table([("a", Value::Int(1))]));
        let flags = Value::List(vec![Value::Bool(true), Value::Int(-4)]);
        let shown = BTreeMap::from([("ad".to_owned(), digest("ad")), ("vad@x".to_owned(), digest("vad"))]);
        let stage = Components {
            kind: "report".to_owned(),
            version: 3,
            params: table([("title", "all".into()), ("flags", flags), ("scale", Value::Float(0.5)), ("more", more)]),
            seed: None,
            precision: None,
            inputs: BTreeMap::from([
                ("shown".to_owned(), InputDigest::Many(shown)),
                ("data".to_owned(), InputDigest::One(digest("data"))),
            ]),
            contents: BTreeMap::from([("script.py".to_owned(), digest("print()"))]),
            segments: None,
        };
        assert_eq!(stage.key().to_string(), "02efd967754be4a4816992196ad94d41e1da40cb6b48f93f6cce01bb5ae9d8a3");
        assert_eq!(stage.states(), []);

        let training = training(vec![epochs(2, 1e-3), epochs(1, 1e-4)]);
        let states: Vec<String> = training.states().iter().map(Digest::to_string).collect();
        assert_eq!(
            states,
            [
                "55aadcdff3a42f80bdce0453981b4181708724d554b91b6e4a358b17b73dc8e9",
                "7e1132b3dd32033a83fe762459e09c0611a12e33855139d78c7eae90ea592ab5",
                "0849eeab280d850a83306861a4cbda9b9859ec64f1653ce007ea30619436e2b5",
                "7ef1c46877934660c7ac988728fca6960304835e513334b91789178a81970fde",
            ]
        );
        assert_eq!(training.key().to_string(), states[3]);
    }

    #[test]
    fn every_component_changes_the_key() {
        let base = training(vec![epochs(2, 1e-3)]);
        let changes: [fn(&mut Components); 12] = [
            |c| c.kind = "train-vad".to_owned(),
            |c| c.version = 2,
            |c| c.params.clear(),
            |c| c.seed = Some(8),
            |c| c.seed = None,
            |c| c.precision = Some("f64".to_owned()),
            |c| c.precision = None,
            |c| c.inputs = BTreeMap::from([("model".to_owned(), InputDigest::One(digest("data")))]),
            |c| {
                let many = BTreeMap::from([("data".to_owned(), digest("data"))]);
                c.inputs = BTreeMap::from([("data".to_owned(), InputDigest::Many(many))]);
            },
            |c| c.contents = BTreeMap::from([("data".to_owned(), digest("data"))]),
            |c| c.segments = Some(vec![epochs(2, 1e-4)]),
            |c| c.segments = None,
        ];
        let mut keys = std::collections::BTreeSet::from([base.key()]);
        for (at, change) in changes.iter().enumerate() {
            let mut changed = base.clone();
            change(&mut changed);
            assert!(keys.insert(changed.key()), "change {at} leaves the key or gives that of another change");
        }
    }

    /// Few different values, so that equal ones are met.
    fn value() -> impl Strategy<Value = Value> {
        let scalar = prop_oneof![
            any::<bool>().prop_map(Value::Bool),
            (0i64..2).prop_map(Value::Int),
            prop::sample::select(vec![0.0, -0.0, 1.0]).prop_map(Value::Float),
            "[ab]{0,2}".prop_map(Value::Text),
        ];
        scalar.prop_recursive(2, 6, 2, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..3).prop_map(Value::List),
                prop::collection::btree_map("[ab]{0,1}", inner, 0..3).prop_map(Value::Table),
            ]
        })
    }

    proptest! {
        #[test]
        fn values_hash_alike_where_they_are_equal(a in value(), b in value(), c in value(), d in value()) {
            let of = |values: &[&Value]| {
                let mut hash = Hash::new("test");
                values.iter().for_each(|v| { hash.value(v); });
                hash.finish()
            };
            prop_assert_eq!(of(&[&a]), of(&[&a.clone()]));
            prop_assert_eq!(a == b, of(&[&a]) == of(&[&b]));
            prop_assert_eq!(a == c && b == d, of(&[&a, &b]) == of(&[&c, &d]));
            prop_assert_ne!(of(&[&a, &b]), of(&[&Value::List(vec![a.clone(), b.clone()])]));
        }

        #[test]
        fn text_that_is_split_differently_hashes_differently(text in "[a-zé]{1,12}", cuts in (0usize..12, 0usize..12)) {
            let places: Vec<usize> = text.char_indices().map(|(at, _)| at).collect();
            let [i, j] = [cuts.0, cuts.1].map(|cut| places[cut % places.len()]);
            let split = |at: usize| Hash::new("test").text(&text[..at]).text(&text[at..]).finish();
            prop_assert_eq!(i == j, split(i) == split(j));
            prop_assert_ne!(split(i), Hash::new("test").text(&text).finish());
            prop_assert_ne!(Hash::new("test").text(&text).finish(), Hash::new(&text).text("test").finish());
        }

        #[test]
        fn segments_that_are_split_differently_are_the_same_states(
            segments in prop::collection::vec((0u64..6, 0usize..2, 0u64..6), 0..4)
        ) {
            let whole = segments.iter().map(|(count, lr, _)| epochs(*count, [1e-3, 1e-4][*lr])).collect();
            let parts = segments.iter().flat_map(|(count, lr, cut)| {
                let first = *cut.min(count);
                [first, count - first].map(|part| epochs(part, [1e-3, 1e-4][*lr]))
            });
            let (whole, parts) = (training(whole), training(parts.collect()));
            prop_assert_eq!(whole.states(), parts.states());
            prop_assert_eq!(whole.key(), parts.key());
            // A chain is known by its beginning: one epoch more only adds a state.
            let mut longer = whole.clone();
            longer.segments.iter_mut().flatten().next_back().into_iter().for_each(|s| s.epochs += 1);
            prop_assert_eq!(&longer.states()[..whole.states().len()], &whole.states()[..]);
        }
    }
}
