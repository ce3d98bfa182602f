//! Why a point runs: the differences between its components and those of its newest result.

use std::collections::BTreeSet;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::key::{Components, InputDigest, Segment};
use crate::value::{Value, Values};

/// One reason for a point to run, or to be pruned.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "code", rename_all = "kebab-case")]
pub enum Cause {
    /// The point has no earlier result.
    NeverRun,
    /// The kind of the stage changed.
    Kind {
        /// Before.
        old: String,
        /// Now.
        new: String,
    },
    /// The version of the stage kind changed: the same parameters now give different bytes.
    Version {
        /// Before.
        old: u32,
        /// Now.
        new: u32,
    },
    /// A parameter was changed, added or removed.
    Parameter {
        /// Its name.
        name: String,
        /// Before.
        old: Option<Value>,
        /// Now.
        new: Option<Value>,
        /// The first epoch that it affects, from 1, if it is a parameter of epochs.
        #[serde(skip_serializing_if = "Option::is_none")]
        from_epoch: Option<u64>,
    },
    /// The number of epochs changed.
    Epochs {
        /// Before.
        old: u64,
        /// Now.
        new: u64,
    },
    /// The seed changed.
    Seed {
        /// Before.
        old: Option<i64>,
        /// Now.
        new: Option<i64>,
    },
    /// The precision changed.
    Precision {
        /// Before.
        old: Option<String>,
        /// Now.
        new: Option<String>,
    },
    /// The content of an input changed, or the input was added or removed.
    Input {
        /// Its role.
        role: String,
        /// The points of the list that differ. Empty if the input is not a list.
        labels: Vec<String>,
    },
    /// The content of a file that the stage reads changed, or the file was added or removed.
    File {
        /// Its name in the pipeline.
        name: String,
    },
    /// Points that it reads will run, or may run.
    Upstream {
        /// The names of these points.
        stages: Vec<String>,
    },
    /// Its result in the cache was made without these points, which have no result. They run first.
    Missing {
        /// The names of these points.
        stages: Vec<String>,
    },
    /// It is trained to a rung and then compared with the points before it.
    Compared {
        /// The rung.
        epoch: u64,
    },
    /// It was not promoted at a rung.
    Pruned {
        /// The rung.
        epoch: u64,
        /// The metric that was compared.
        figure: String,
        /// Its value.
        value: f64,
        /// The rank of its value, from 1.
        place: usize,
        /// How many values were compared, including its own.
        of: usize,
        /// How many of them are promoted.
        best: usize,
    },
    /// All points of one of its inputs are pruned.
    LeftOut {
        /// The names of the pruned points among its inputs.
        stages: Vec<String>,
    },
    /// The user requested it (`-f`, `-R`).
    Forced,
    /// The cache has a record of a result with the same key, but the result is missing or damaged.
    Damaged,
}

/// Why a point runs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Reason {
    /// The code of the first cause.
    pub code: String,
    /// All causes in words.
    pub text: String,
    /// All causes.
    pub causes: Vec<Cause>,
}

impl Reason {
    /// A reason with these causes, the most important first.
    pub fn new(causes: Vec<Cause>) -> Self {
        let code = causes.first().map_or("unknown", Cause::code).to_owned();
        let text = causes.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ");
        Self { code, text, causes }
    }
}

impl Cause {
    /// The code that `--json` shows.
    pub fn code(&self) -> &'static str {
        match self {
            Self::NeverRun => "never-run",
            Self::Kind { .. } => "kind",
            Self::Version { .. } => "version",
            Self::Parameter { .. } => "parameter",
            Self::Epochs { .. } => "epochs",
            Self::Seed { .. } => "seed",
            Self::Precision { .. } => "precision",
            Self::Input { .. } => "input",
            Self::File { .. } => "file",
            Self::Upstream { .. } => "upstream",
            Self::Missing { .. } => "missing",
            Self::Compared { .. } => "compared",
            Self::Pruned { .. } => "pruned",
            Self::LeftOut { .. } => "left-out",
            Self::Forced => "forced",
            Self::Damaged => "damaged",
        }
    }
}

/// What an entry of [`Components::contents`] is, and its name: a file, or a variable of the environment.
pub fn content(name: &str) -> (&'static str, &str) {
    match name.split_once(' ') {
        Some(("file", path)) => ("file", path),
        Some(("env", variable)) => ("variable", variable),
        _ => ("file", name),
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = |v: &Option<Value>| v.as_ref().map_or("unset".to_owned(), Value::to_string);
        let text = |v: &Option<String>| v.clone().unwrap_or_else(|| "unset".to_owned());
        let number = |v: &Option<i64>| v.map_or("unset".to_owned(), |v| v.to_string());
        match self {
            Self::NeverRun => f.write_str("never run"),
            Self::Kind { old, new } => write!(f, "kind {old} → {new}"),
            Self::Version { old, new } => write!(f, "version of the stage kind {old} → {new}"),
            Self::Parameter { name, old, new, from_epoch } => {
                match (old, new) {
                    (Some(Value::List(old)), Some(Value::List(new))) => {
                        let (old, new) = differing_parts(old, new);
                        write!(f, "{name} {old} → {new}")?;
                    }
                    _ => write!(f, "{name} {} → {}", word(old), word(new))?,
                }
                from_epoch.filter(|e| *e > 1).map_or(Ok(()), |e| write!(f, " from epoch {e}"))
            }
            Self::Epochs { old, new } => write!(f, "epochs {old} → {new}"),
            Self::Seed { old, new } => write!(f, "seed {} → {}", number(old), number(new)),
            Self::Precision { old, new } => write!(f, "precision {} → {}", text(old), text(new)),
            Self::Input { role, labels } if labels.is_empty() => write!(f, "input {role} changed"),
            Self::Input { role, labels } => write!(f, "input {role} changed ({})", some_of(labels)),
            Self::File { name } => {
                let (what, name) = content(name);
                write!(f, "{what} {name} changed")
            }
            Self::Upstream { stages } => write!(f, "after {}", some_of(stages)),
            Self::Missing { stages } => write!(f, "cached without {}", some_of(stages)),
            Self::Compared { epoch } => write!(f, "compared after epoch {epoch}"),
            Self::Pruned { epoch, figure, value, place, of, best } => {
                let promoted = if *best == 1 {
                    "only the best is promoted".to_owned()
                } else {
                    format!("the best {best} are promoted")
                };
                write!(f, "pruned after epoch {epoch}: its {figure} {value:.6} ranks {place} of {of}; {promoted}")
            }
            Self::LeftOut { stages } => write!(f, "all points of an input are pruned: {}", some_of(stages)),
            Self::Forced => f.write_str("forced"),
            Self::Damaged => f.write_str("the stored result is missing or damaged"),
        }
    }
}

/// The parts in which two lists differ, with one member before them: `[…, "--epochs", 10]`. Short lists are whole.
fn differing_parts(old: &[Value], new: &[Value]) -> (String, String) {
    const SHORT: usize = 4;
    let before = old.iter().zip(new).take_while(|(a, b)| a == b).count();
    let after = old[before..].iter().rev().zip(new[before..].iter().rev()).take_while(|(a, b)| a == b).count();
    let part = |list: &[Value]| {
        if old.len().max(new.len()) <= SHORT {
            return Value::List(list.to_vec()).to_string();
        }
        let (start, end) = (before.saturating_sub(1), list.len() - after);
        let (head, tail) = (if start > 0 { "…, " } else { "" }, if after > 0 { ", …" } else { "" });
        let members: Vec<String> = list[start..end].iter().map(ToString::to_string).collect();
        format!("[{head}{}{tail}]", members.join(", "))
    };
    (part(old), part(new))
}

/// The first names, and how many more there are.
pub(crate) fn some_of(names: &[String]) -> String {
    const SHOWN: usize = 3;
    let mut text = names.iter().take(SHOWN).cloned().collect::<Vec<_>>().join(", ");
    if names.len() > SHOWN {
        text.push_str(&format!(" and {} more", names.len() - SHOWN));
    }
    text
}

/// The differences between the components of the newest result and the current ones. Empty only if the keys are equal.
pub fn differences(old: &Components, new: &Components) -> Vec<Cause> {
    if old.kind != new.kind {
        return vec![Cause::Kind { old: old.kind.clone(), new: new.kind.clone() }];
    }
    let mut causes = Vec::new();
    if old.version != new.version {
        causes.push(Cause::Version { old: old.version, new: new.version });
    }
    parameters(&old.params, &new.params, None, &mut causes);
    segments(old.segments.as_deref(), new.segments.as_deref(), &mut causes);
    parameters(&old.result, &new.result, None, &mut causes);
    if old.seed != new.seed {
        causes.push(Cause::Seed { old: old.seed, new: new.seed });
    }
    if old.precision != new.precision {
        causes.push(Cause::Precision { old: old.precision.clone(), new: new.precision.clone() });
    }
    let roles: BTreeSet<_> = old.inputs.keys().chain(new.inputs.keys()).collect();
    for role in roles {
        let (before, now) = (old.inputs.get(role), new.inputs.get(role));
        if before != now {
            causes.push(Cause::Input { role: role.clone(), labels: changed_labels(before, now) });
        }
    }
    for (old, new) in [(&old.contents, &new.contents), (&old.files_read, &new.files_read)] {
        let names: BTreeSet<_> = old.keys().chain(new.keys()).collect();
        let changed = names.into_iter().filter(|name| old.get(*name) != new.get(*name));
        causes.extend(changed.map(|name| Cause::File { name: name.clone() }));
    }
    causes
}

fn changed_labels(old: Option<&InputDigest>, new: Option<&InputDigest>) -> Vec<String> {
    let (Some(InputDigest::Many(old)), Some(InputDigest::Many(new))) = (old, new) else { return Vec::new() };
    let labels: BTreeSet<_> = old.keys().chain(new.keys()).collect();
    labels.into_iter().filter(|l| old.get(*l) != new.get(*l)).cloned().collect()
}

fn parameters(old: &Values, new: &Values, from_epoch: Option<u64>, causes: &mut Vec<Cause>) {
    let names: BTreeSet<_> = old.keys().chain(new.keys()).collect();
    for name in names {
        let (before, now) = (old.get(name), new.get(name));
        if before != now {
            let (name, old, new) = (name.clone(), before.cloned(), now.cloned());
            causes.push(Cause::Parameter { name, old, new, from_epoch });
        }
    }
}

/// Finds the first epoch in which the parameters of two chains differ, and a difference in the number of epochs.
fn segments(old: Option<&[Segment]>, new: Option<&[Segment]>, causes: &mut Vec<Cause>) {
    let (Some(old), Some(new)) = (old, new) else { return };
    let total = |s: &[Segment]| s.iter().map(|s| s.epochs).sum::<u64>();
    let at = |segments: &'_ [Segment], epoch: u64| {
        let mut end = 0;
        segments.iter().position(|s| {
            end += s.epochs;
            epoch < end
        })
    };
    let common = total(old).min(total(new));
    let mut epoch = 0;
    while epoch < common {
        let (Some(a), Some(b)) = (at(old, epoch), at(new, epoch)) else { break };
        if old[a].params != new[b].params {
            parameters(&old[a].params, &new[b].params, Some(epoch + 1), causes);
            break;
        }
        let end = |s: &[Segment], i: usize| s[..=i].iter().map(|s| s.epochs).sum::<u64>();
        epoch = end(old, a).min(end(new, b));
    }
    if total(old) != total(new) {
        causes.push(Cause::Epochs { old: total(old), new: total(new) });
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::key::Digest;

    fn training(epochs: &[(u64, f64)]) -> Components {
        let segment = |(epochs, lr): &(u64, f64)| Segment {
            epochs: *epochs,
            params: Values::from([("lr".into(), (*lr).into())]),
        };
        Components {
            kind: "train-ad".into(),
            version: 1,
            params: Values::from([("latent_dim".into(), Value::Int(16))]).into(),
            seed: Some(7),
            precision: Some("f32".into()),
            inputs: [("data".into(), InputDigest::One(Digest::of(b"data")))].into(),
            segments: Some(epochs.iter().map(segment).collect()),
            ..Components::default()
        }
    }

    #[test]
    fn equal_components_have_no_differences() {
        assert_eq!(differences(&training(&[(3, 1e-3)]), &training(&[(3, 1e-3)])), []);
    }

    #[test]
    fn changed_parameter_is_reported_with_its_old_and_new_value() {
        let old = training(&[(3, 1e-3)]);
        let mut new = old.clone();
        Arc::make_mut(&mut new.params).insert("latent_dim".into(), Value::Int(32));
        assert_eq!(Reason::new(differences(&old, &new)).text, "latent_dim 16 → 32");
    }

    #[test]
    fn changed_words_of_a_long_list_are_shown_with_the_word_before() {
        let argv = |words: &[&str]| Values::from([("argv".into(), Value::from(words.to_vec()))]);
        let reason = |old: &[&str], new: &[&str]| {
            let [old, new] =
                [old, new].map(|words| Components { params: argv(words).into(), ..training(&[(3, 1e-3)]) });
            Reason::new(differences(&old, &new)).text
        };
        let old = ["python3", "train.py", "--epochs", "10", "--lr", "0.1"];
        let changed = ["python3", "train.py", "--epochs", "20", "--lr", "0.1"];
        assert_eq!(reason(&old, &changed), r#"argv […, "--epochs", "10", …] → […, "--epochs", "20", …]"#);
        assert_eq!(reason(&old, &old[..4]), r#"argv […, "10", "--lr", "0.1"] → […, "10"]"#);
        assert_eq!(
            reason(&old[..2], &["python3", "test.py"]),
            r#"argv ["python3", "train.py"] → ["python3", "test.py"]"#
        );
    }

    #[test]
    fn first_epoch_with_a_changed_parameter_is_reported() {
        let causes = differences(&training(&[(50, 1e-3), (50, 1e-4)]), &training(&[(60, 1e-3), (60, 1e-4)]));
        assert_eq!(Reason::new(causes).text, "lr 0.0001 → 0.001 from epoch 51; epochs 100 → 120");
    }

    #[test]
    fn splitting_a_segment_makes_no_difference() {
        let (old, new) = (training(&[(100, 1e-3)]), training(&[(40, 1e-3), (60, 1e-3)]));
        assert_eq!(differences(&old, &new), []);
        assert_eq!(old.key(), new.key());
    }
}
