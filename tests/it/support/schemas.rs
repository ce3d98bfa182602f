//! Checks what commands print with `--json` against the schemas in `docs/schema`.

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

fn schemas() -> &'static Schemas {
    static SCHEMAS: OnceLock<Schemas> = OnceLock::new();
    SCHEMAS.get_or_init(|| {
        let (mut all, mut compiler) = (boon::Schemas::new(), Compiler::new());
        let mut compile = |name: String| {
            let path = folder().join(format!("{name}.json"));
            let index = compiler.compile(path.to_str().expect("a path"), &mut all);
            (name, index.unwrap_or_else(|error| panic!("{}: {error:#}", path.display())))
        };
        let by_name = names().into_iter().map(&mut compile).collect();
        Schemas { all, by_name }
    })
}

/// What is wrong with a value, by the schema of a command.
pub(crate) fn fault(name: &str, value: &Value) -> Option<String> {
    let Schemas { all, by_name } = schemas();
    let index = by_name.get(name).unwrap_or_else(|| panic!("docs/schema/{name}.json does not exist"));
    all.validate(value, *index).err().map(|error| format!("{error:#}\n{value:#}"))
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
        "run" if has(&["-n", "--dry-run"]) => "plan",
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
