//! `resources = { cpus = 4, memory = "8 GB", gpus = 1, time = "2h" }`: what a stage needs of the machine that runs it.
//!
//! Resources decide where and when a stage runs. They are not part of its key.

use std::time::Duration;

use bytesize::ByteSize;
use jiff::SignedDuration;

use crate::diagnostic::{Diagnostics, Origin, nearest};
use crate::value::{Data, Entry, Node};

const FIELDS: [&str; 4] = ["cpus", "memory", "gpus", "time"];
const HELP: &str = "resources = { cpus = 4, memory = \"8 GB\", gpus = 1, time = \"2h\" }";
/// The most cores of a stage.
const MOST_CPUS: i64 = 1 << 16;

/// What a stage needs. `None`: the pipeline does not say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Resources {
    /// Cores.
    pub cpus: Option<usize>,
    /// Bytes of memory.
    pub memory: Option<u64>,
    /// The longest time that it takes. A training can be interrupted, so it does not need this time at once.
    pub time: Option<Duration>,
}

impl Resources {
    /// These resources, with those of `defaults` in place of what is missing.
    #[must_use]
    pub fn or(self, defaults: Self) -> Self {
        Self {
            cpus: self.cpus.or(defaults.cpus),
            memory: self.memory.or(defaults.memory),
            time: self.time.or(defaults.time),
        }
    }
}

/// `1 CPU` or `4 CPUs`.
pub fn cpus_in_words(cpus: usize) -> String {
    if cpus == 1 { "1 CPU".to_owned() } else { format!("{cpus} CPUs") }
}

/// For example `8 GB` or `1.5 GB`.
pub fn memory_in_words(bytes: u64) -> String {
    ByteSize(bytes).display().si().to_string().replace(".0 ", " ")
}

/// For example `1h 30m`.
pub fn time_in_words(time: Duration) -> String {
    format!("{:#}", SignedDuration::try_from(time).unwrap_or(SignedDuration::MAX))
}

/// Parses an amount of memory: a number with a unit, such as `8 GB` or `512 MiB`.
///
/// # Errors
/// A message that says what to write.
pub fn parse_memory(text: &str) -> Result<u64, String> {
    let wrong = || format!("memory must be a number with a unit, such as `8 GB` or `512 MiB`, not {text:?}");
    let has_unit = text.ends_with(|c: char| c.is_ascii_alphabetic());
    let size: ByteSize = text.parse().map_err(|_| wrong())?;
    if has_unit && size.as_u64() > 0 { Ok(size.as_u64()) } else { Err(wrong()) }
}

/// Parses a time, such as `90s`, `50m` or `1h30m`.
///
/// # Errors
/// A message that says what to write.
pub fn parse_time(text: &str) -> Result<Duration, String> {
    let time = text.parse::<SignedDuration>().ok().and_then(|time| Duration::try_from(time).ok());
    time.filter(|time| !time.is_zero())
        .ok_or_else(|| format!("a time must be written as `90s`, `50m` or `1h30m`, not {text:?}"))
}

/// Reads the resources of a stage. Returns `gpus` separately, because it is a parameter of the kinds that run programs.
pub(super) fn read(entry: &Entry, diagnostics: &mut Diagnostics) -> (Resources, Option<Entry>) {
    let mut resources = Resources::default();
    let Data::Table(table) = &entry.node.data else {
        let message = format!("`resources` must be a table, not {}", entry.node.data.describe());
        diagnostics.error(&entry.node.origin, message).help(HELP);
        return (resources, None);
    };
    let mut gpus = None;
    for field in &table.0 {
        let node = &field.node;
        match field.name.as_str() {
            "cpus" => resources.cpus = cpus(node, diagnostics),
            "memory" => resources.memory = text(node, "memory", parse_memory, diagnostics),
            "time" => resources.time = text(node, "time", parse_time, diagnostics),
            "gpus" => gpus = Some(field.clone()),
            unknown => {
                let help = nearest(unknown, FIELDS).map_or(HELP.to_owned(), |name| format!("did you mean `{name}`?"));
                diagnostics.error(&field.name_origin, format!("there is no resource `{unknown}`")).help(help);
            }
        }
    }
    (resources, gpus)
}

fn cpus(node: &Node, diagnostics: &mut Diagnostics) -> Option<usize> {
    match node.data {
        Data::Int(cpus) if (1..=MOST_CPUS).contains(&cpus) => usize::try_from(cpus).ok(),
        _ => {
            wrong(&node.origin, format!("`cpus` must be an integer from 1, not {}", node.data.value()), diagnostics);
            None
        }
    }
}

fn text<T>(node: &Node, name: &str, parse: fn(&str) -> Result<T, String>, diagnostics: &mut Diagnostics) -> Option<T> {
    let parsed = match &node.data {
        Data::Text(text) => parse(text),
        other => Err(format!("`{name}` must be a string, not {}", other.value())),
    };
    parsed.map_err(|message| wrong(&node.origin, message, diagnostics)).ok()
}

fn wrong(origin: &Origin, message: String, diagnostics: &mut Diagnostics) {
    diagnostics.error(origin, message).help(HELP);
}
