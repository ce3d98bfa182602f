//! Checks what commands print with `--json` against the schemas in `docs/schema`.
//!
//! The schemas are open: an object may have other properties, because later versions add some. The checks close them,
//! so that a property without a description is found.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use boon::{Compiler, SchemaIndex};
use serde_json::Value;

/// All schemas, and the index of each by the name of its file.
struct Schemas {
    all: boon::Schemas,
    by_name: BTreeMap<String, SchemaIndex>,
}

/// The folder with the schemas.
pub(crate) fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/schema")
}

/// The names of the schemas, without `.json`.
pub(crate) fn names() -> Vec<String> {
    let files = std::fs::read_dir(folder()).expect("a folder");
    let names =
        files.filter_map(|file| file.expect("a file").file_name().to_str()?.strip_suffix(".json").map(str::to_owned));
    let mut names: Vec<String> = names.collect();
    names.sort();
    names
}

impl Schemas {
    /// Reads the schemas, and changes each by `change`.
    fn read(change: fn(&mut Value)) -> Self {
        let (mut all, mut compiler) = (boon::Schemas::new(), Compiler::new());
        let place = |name: &str| folder().join(format!("{name}.json")).to_str().expect("a path").to_owned();
        for name in names() {
            let text = std::fs::read_to_string(place(&name)).expect("a schema");
            let mut schema = serde_json::from_str(&text).expect("JSON");
            change(&mut schema);
            compiler.add_resource(&place(&name), schema).unwrap_or_else(|error| panic!("{name}: {error:#}"));
        }
        let mut compile = |name: String| {
            let index = compiler.compile(&place(&name), &mut all);
            let index = index.unwrap_or_else(|error| panic!("{name}: {error:#}"));
            (name, index)
        };
        let by_name = names().into_iter().map(&mut compile).collect();
        Self { all, by_name }
    }

    fn fault(&self, name: &str, value: &Value) -> Option<String> {
        let index = self.by_name.get(name).unwrap_or_else(|| panic!("docs/schema/{name}.json does not exist"));
        self.all.validate(value, *index).err().map(|error| format!("{error:#}\n{value:#}"))
    }
}

/// Forbids all properties that objects of a schema do not describe.
fn close(schema: &mut Value) {
    match schema {
        Value::Object(fields) => {
            fields.values_mut().for_each(close);
            if fields.get("type").is_some_and(|kind| kind == "object") {
                fields.entry("additionalProperties").or_insert(false.into());
            }
        }
        Value::Array(members) => members.iter_mut().for_each(close),
        _ => {}
    }
}

/// What is wrong with a value, by the closed schema of a command.
pub(crate) fn fault(name: &str, value: &Value) -> Option<String> {
    static CLOSED: OnceLock<Schemas> = OnceLock::new();
    CLOSED.get_or_init(|| Schemas::read(close)).fault(name, value)
}

/// What is wrong with a value, by the schema of a command as it is published.
pub(crate) fn fault_as_published(name: &str, value: &Value) -> Option<String> {
    static PUBLISHED: OnceLock<Schemas> = OnceLock::new();
    PUBLISHED.get_or_init(|| Schemas::read(|_| {})).fault(name, value)
}

/// Checks the output of a command, if it is one with `--json`. A command that failed may have printed nothing.
pub(super) fn check(args: &[OsString], stdout: &str) {
    let has = |words: &[&str]| args.iter().any(|arg| words.iter().any(|word| arg == *word));
    let Some(command) = args.first().and_then(|arg| arg.to_str()) else { return };
    let events = command == "log" && has(&["--events"]);
    if stdout.is_empty() || !(has(&["--json"]) || events) {
        return;
    }
    let schema = match command {
        "log" if events => "run",
        "worker" => "run",
        "run" if has(&["-n", "--dry-run"]) => "plan",
        "store" => &format!("store-{}", args[1].display()),
        other => other,
    };
    let values: Vec<&str> = if schema == "run" { stdout.lines().collect() } else { vec![stdout] };
    for text in values {
        let value = serde_json::from_str(text).unwrap_or_else(|error| panic!("{args:?}: {error}: {text}"));
        if let Some(fault) = fault(schema, &value) {
            panic!("{args:?} does not match docs/schema/{schema}.json: {fault}");
        }
    }
}
