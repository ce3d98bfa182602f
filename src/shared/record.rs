//! Records as objects of the store.
//!
//! ```text
//! vadpipe record 1
//! unsigned <digest>                                or `signed ed25519:<public key> <signature>`
//! {"key":…}                                        the record as JSON
//! ```
//!
//! Later formats have `format <number>` as their second line.
//!
//! The digest and the signature are over the object's name and all bytes of the JSON. So an altered byte is found, and
//! a record can't be moved to another name.

use std::fmt;
use std::path::{Component, Path};

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::signature::{PublicKey, SecretKey};
use crate::key::{Digest, Hash, Key};
use crate::store::{FilesRead, Provenance, ResultRecord, StateRecord};

/// The first line of every record. The number is that of its format.
const FIRST: &str = "vadpipe record ";
const FORMAT: u32 = 1;
const SIGNED: &str = "signed ";
const UNSIGNED: &str = "unsigned ";

/// A record with the key that signed it.
#[derive(Clone, Debug)]
pub(super) struct Signed<T> {
    pub(super) record: T,
    pub(super) signer: Option<PublicKey>,
}

/// A record that names its object.
pub(super) trait Named: Serialize + DeserializeOwned {
    /// The name of its object.
    fn object(&self) -> String;

    /// Whether its parts belong together.
    fn is_consistent(&self) -> bool;

    /// Whether it came from a store. Only the machine that made a result signs it.
    fn is_pulled(&self) -> bool;

    /// The record as all machines see it.
    fn shareable(&self) -> Self;
}

/// Whether these can be the names of files that a program of a project read.
fn are_names(files: &FilesRead) -> bool {
    let is_name = |name: &String| {
        let path = Path::new(name);
        path.is_relative() && path.components().any(|part| matches!(part, Component::Normal(_)))
    };
    files.keys().all(is_name)
}

impl Named for ResultRecord {
    fn object(&self) -> String {
        format!("{}{}", results(&self.components.declared().key()), files(&self.components.files_read))
    }

    fn is_consistent(&self) -> bool {
        self.is_consistent() && !self.damaged && self.lineage == 0 && are_names(&self.components.files_read)
    }

    fn is_pulled(&self) -> bool {
        self.provenance.pulled
    }

    fn shareable(&self) -> Self {
        let provenance = Provenance { pulled: false, ..self.provenance.clone() };
        Self { lineage: 0, provenance, ..self.clone() }
    }
}

impl Named for StateRecord {
    fn object(&self) -> String {
        format!("{}{}/{}", states(&self.key, &self.class), self.step, files(&self.files_read))
    }

    fn is_consistent(&self) -> bool {
        self.lineage == 0 && are_names(&self.files_read)
    }

    fn is_pulled(&self) -> bool {
        self.pulled
    }

    fn shareable(&self) -> Self {
        Self { lineage: 0, pulled: false, ..self.clone() }
    }
}

/// The beginning of the names of all results with this key, which is without the files that a program read.
pub(super) fn results(declared: &Key) -> String {
    format!("result/{declared}/")
}

/// The name of a result whose program read no files.
pub(super) fn result_without_files(key: &Key) -> String {
    format!("{}{NO_FILES}", results(key))
}

/// The beginning of the names of all states with this key and this numerics class.
pub(super) fn states(key: &Key, class: &str) -> String {
    format!("state/{key}/{}/", part(class))
}

/// The beginning of the names of all words about the result of this object.
pub(super) fn words(result: &str) -> String {
    format!("word/{}/", result.strip_prefix("result/").unwrap_or(result))
}

/// The name of what another machine says about a result.
pub(super) fn word(result: &ResultRecord, signer: Option<PublicKey>) -> String {
    let who = signer.map_or_else(|| part(&result.provenance.host), |key| key.short());
    format!("{}{who}/{}", words(&result.object()), result.digest.short())
}

const NO_FILES: &str = "none";

fn files(read: &FilesRead) -> String {
    if read.is_empty() {
        return NO_FILES.to_owned();
    }
    let mut hash = Hash::new("files read");
    for (name, digest) in read {
        hash.text(name).digest(digest);
    }
    hash.finish().to_string()
}

/// A text as a part of a name: letters, digits, `.`, `_` and `-`. Other characters are replaced, and a digest makes the
/// part unique.
pub(super) fn part(text: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    if !text.is_empty() && text.len() <= 100 && text.chars().all(is_plain) && !text.starts_with('.') {
        return text.to_owned();
    }
    let plain: String = text.chars().take(60).map(|c| if is_plain(c) { c } else { '_' }).collect();
    format!("{}-{}", plain.trim_start_matches('.'), Digest::of(text.as_bytes()).short())
}

/// The bytes of a record's object.
pub(super) fn encode<T: Named>(record: &T, name: &str, key: Option<&SecretKey>) -> Vec<u8> {
    // Only a map whose keys aren't strings can fail, and there is none.
    let json = serde_json::to_vec(&record.shareable()).unwrap_or_default();
    let message = message(name, &json);
    let second = match key.filter(|_| !record.is_pulled()) {
        Some(key) => format!("{SIGNED}{} {}", key.public(), hex::encode(key.sign(&message))),
        None => format!("{UNSIGNED}{}", Digest::of(&message)),
    };
    [format!("{FIRST}{FORMAT}\n{second}\n").into_bytes(), json].concat()
}

fn message(name: &str, json: &[u8]) -> Vec<u8> {
    [FIRST.as_bytes(), name.as_bytes(), b"\n", json].concat()
}

/// Why a record is not taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// A later vadpipe wrote it.
    Newer(u32),
    /// It is altered, cut off, or no record.
    Damaged(&'static str),
    /// The user does not trust its signer, or it has none.
    Untrusted(String),
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Newer(format) => write!(f, "it has format {format}, of a later vadpipe"),
            Self::Damaged(why) => f.write_str(why),
            Self::Untrusted(why) => f.write_str(why),
        }
    }
}

/// Whether a record with this signature is taken, or why not.
pub(super) type TrustCheck<'a> = &'a dyn Fn(Option<PublicKey>) -> Result<(), String>;

/// Takes every record.
pub(super) const ANYBODY: TrustCheck<'static> = &|_| Ok(());

/// Reads the record of the object `name`.
pub(super) fn decode<T: Named>(bytes: &[u8], name: &str, trust: TrustCheck<'_>) -> Result<Signed<T>, Refusal> {
    let signed: Signed<T> = decode_at(bytes, name, trust)?;
    let is_own = signed.record.object() == name;
    if is_own { Ok(signed) } else { Err(Refusal::Damaged("it is that of another key")) }
}

/// Reads a word about a result.
pub(super) fn decode_word(bytes: &[u8], name: &str) -> Result<Signed<ResultRecord>, Refusal> {
    let signed: Signed<ResultRecord> = decode_at(bytes, name, ANYBODY)?;
    let is_about = name.starts_with(&words(&signed.record.object()));
    if is_about { Ok(signed) } else { Err(Refusal::Damaged("it is about another result")) }
}

fn decode_at<T: Named>(bytes: &[u8], name: &str, trust: TrustCheck<'_>) -> Result<Signed<T>, Refusal> {
    let damaged = Refusal::Damaged;
    let (first, rest) = line(bytes).ok_or(damaged("it is not a record"))?;
    match first.strip_prefix(FIRST).and_then(|number| number.parse::<u32>().ok()) {
        Some(FORMAT) => {}
        // A flipped bit may make this number: a record of a later format must say so twice.
        Some(newer) if newer > FORMAT && rest.starts_with(format!("format {newer}\n").as_bytes()) => {
            return Err(Refusal::Newer(newer));
        }
        _ => return Err(damaged("it is not a record")),
    }
    let (second, json) = line(rest).ok_or(damaged("it is cut off"))?;
    let message = message(name, json);
    let signer = if let Some(signed) = second.strip_prefix(SIGNED) {
        let (key, signature) = signed.split_once(' ').ok_or(damaged("its signature can't be read"))?;
        Some(verified(key, signature, &message).map_err(damaged)?)
    } else {
        let digest = second.strip_prefix(UNSIGNED).ok_or(damaged("it is not a record"))?;
        if digest != Digest::of(&message).to_string() {
            return Err(damaged("it is altered or cut off"));
        }
        None
    };
    // Before the content is read: that of a stranger may be made to take long.
    trust(signer).map_err(Refusal::Untrusted)?;
    let record: T = serde_json::from_slice(json).map_err(|_| damaged("it is altered or cut off"))?;
    match record.is_consistent() {
        true => Ok(Signed { record, signer }),
        false => Err(damaged("it is altered: its content is not that of its key")),
    }
}

/// The key of a signature that is right.
fn verified(key: &str, signature: &str, message: &[u8]) -> Result<PublicKey, &'static str> {
    let key: PublicKey = key.parse().map_err(|_| "its signature can't be read")?;
    let signature = hex::decode(signature).map_err(|_| "its signature can't be read")?;
    match key.verifies(message, &signature) {
        true => Ok(key),
        false => Err("its signature is not that of its content"),
    }
}

/// The first line, and what follows it.
fn line(bytes: &[u8]) -> Option<(&str, &[u8])> {
    let end = bytes.iter().take(1000).position(|byte| *byte == b'\n')?;
    Some((std::str::from_utf8(&bytes[..end]).ok()?, &bytes[end + 1..]))
}
