//! Records as objects of the store.
//!
//! ```text
//! vadpipe record 1
//! unsigned <digest>                                or `signed ed25519:<public key> <signature>`
//! {"key":…}                                        the record as JSON
//! ```
//!
//! The digest and the signature are over the object's name and all bytes of the JSON. So an altered byte is found, and
//! a record can't be moved to another name.

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::signature::{PublicKey, SecretKey};
use crate::key::{Digest, Hash, Key};
use crate::store::{FilesRead, ResultRecord, StateRecord};

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
}

impl Named for ResultRecord {
    fn object(&self) -> String {
        format!("{}{}", results(&self.components.declared().key()), files(&self.components.files_read))
    }

    fn is_consistent(&self) -> bool {
        self.is_consistent() && !self.damaged && self.lineage == 0
    }
}

impl Named for StateRecord {
    fn object(&self) -> String {
        format!("{}{}/{}", states(&self.key, &self.class), self.step, files(&self.files_read))
    }

    fn is_consistent(&self) -> bool {
        self.lineage == 0
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

/// The name of what another machine says about a result.
pub(super) fn word(result: &ResultRecord, signer: Option<PublicKey>) -> String {
    let who = signer.map_or_else(|| part(&result.provenance.host), |key| key.short());
    let name = result.object();
    format!("word/{}/{who}/{}", name.strip_prefix("result/").unwrap_or(&name), result.digest.short())
}

/// Whether this is the name of a blob or a record.
pub(super) fn is_name(name: &str) -> bool {
    let mut parts = name.split('/');
    let is_kind = parts.next().is_some_and(|kind| ["blob", "result", "state", "word"].contains(&kind));
    is_kind && parts.next().is_some_and(|digest| digest.parse::<Digest>().is_ok())
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
fn part(text: &str) -> String {
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
    let json = serde_json::to_vec(record).unwrap_or_default();
    let message = message(name, &json);
    let second = match key {
        Some(key) => format!("{SIGNED}{} {}", key.public(), hex::encode(key.sign(&message))),
        None => format!("{UNSIGNED}{}", Digest::of(&message)),
    };
    [format!("{FIRST}{FORMAT}\n{second}\n").into_bytes(), json].concat()
}

fn message(name: &str, json: &[u8]) -> Vec<u8> {
    [FIRST.as_bytes(), name.as_bytes(), b"\n", json].concat()
}

/// Reads the record of the object `name`. A word is a result under another name, so `own` says whether the record must
/// name its object.
///
/// # Errors
/// Why the record is refused, as the end of a sentence.
pub(super) fn decode<T: Named>(bytes: &[u8], name: &str, own: bool) -> Result<Signed<T>, String> {
    let (first, rest) = line(bytes).ok_or("it is not a record")?;
    match first.strip_prefix(FIRST).and_then(|number| number.parse::<u32>().ok()) {
        Some(FORMAT) => {}
        Some(newer) if newer > FORMAT => return Err(format!("it has format {newer}, of a later vadpipe")),
        _ => return Err("it is not a record".to_owned()),
    }
    let (second, json) = line(rest).ok_or("it is cut off")?;
    let message = message(name, json);
    let signer = if let Some(signed) = second.strip_prefix(SIGNED) {
        let (key, signature) = signed.split_once(' ').ok_or("its signature can't be read")?;
        let key: PublicKey = key.parse().map_err(|_| "its signature can't be read")?;
        let signature = hex::decode(signature).map_err(|_| "its signature can't be read")?;
        if !key.verifies(&message, &signature) {
            return Err("its signature is not that of its content".to_owned());
        }
        Some(key)
    } else {
        let digest = second.strip_prefix(UNSIGNED).ok_or("it is not a record")?;
        if digest != Digest::of(&message).to_string() {
            return Err("it is altered or cut off".to_owned());
        }
        None
    };
    let record: T = serde_json::from_slice(json).map_err(|_| "it is altered or cut off")?;
    if !record.is_consistent() || (own && record.object() != name) {
        return Err("it is altered: its content is not that of its key".to_owned());
    }
    Ok(Signed { record, signer })
}

/// Whether a later vadpipe wrote this record. Otherwise a record that can't be read is damaged.
pub(super) fn is_of_later_format(bytes: &[u8]) -> bool {
    let number = line(bytes).and_then(|(first, _)| first.strip_prefix(FIRST)?.parse::<u32>().ok());
    number.is_some_and(|number| number > FORMAT)
}

/// The first line, and what follows it.
fn line(bytes: &[u8]) -> Option<(&str, &[u8])> {
    let end = bytes.iter().take(1000).position(|byte| *byte == b'\n')?;
    Some((std::str::from_utf8(&bytes[..end]).ok()?, &bytes[end + 1..]))
}
