//! Pipelines that include files.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use insta::assert_snapshot;

use super::super::load_with;
use super::super::testing::{names, point, registry};
use crate::spec::Spec;
use crate::value::Value;

/// Reads the pipeline `exp/p.toml`. `files` have paths relative to the folder `exp`.
fn read(text: &str, files: &[(&str, &str)], overrides: &[&str]) -> Result<Spec, String> {
    let files: BTreeMap<PathBuf, &str> =
        files.iter().map(|(name, text)| (Path::new("/exp").join(name), *text)).collect();
    let overrides: Vec<String> = overrides.iter().map(|o| (*o).to_owned()).collect();
    let read = |path: &Path| match files.get(path) {
        Some(text) => Ok(text.as_bytes().to_vec()),
        None => Err(io::Error::from(io::ErrorKind::NotFound).into()),
    };
    load_with(text, "exp/p.toml", Path::new("/exp"), &overrides, &registry(), &read).map_err(|e| e.message)
}

fn good(text: &str, files: &[(&str, &str)]) -> Spec {
    read(text, files, &[]).unwrap_or_else(|e| panic!("{e}"))
}

fn wrong(text: &str, files: &[(&str, &str)]) -> String {
    read(text, files, &[]).err().unwrap_or_else(|| panic!("no error was reported"))
}

fn params(spec: &Spec, name: &str) -> String {
    Value::Table(point(spec, name).parsed.params.as_ref().clone()).to_string()
}

const COMMON: &str = r#"
[pipeline]
name = "common"
seed = 3

[params]
n = 10

[matrix]
width = { from = 8, to = 16, steps = 2 }

[stages.data]
kind = "load"
n = "${params.n}"
source = "far"

[stages.net]
kind = "train"
inputs = { data = "data" }
width = "${matrix.width}"
"#;

#[test]
fn tables_merge_and_other_values_and_axes_replace() {
    let text = r#"
        include = ["common.toml"]
        [pipeline]
        name = "mine"
        [params]
        n = 20
        [stages.last]
        kind = "show"
        inputs = { nets = ["net@*"] }
        [stages.data]
        source = "near"
        [matrix]
        width = [32]
    "#;
    let spec = good(text, &[("common.toml", COMMON)]);
    assert_eq!((spec.pipeline.name.as_str(), spec.pipeline.seed), ("mine", 3));
    assert_eq!(names(&spec), ["data", "net@width=32", "last"], "included stages come first");
    assert_eq!(params(&spec, "data"), "{ n = 20, source = \"near\" }");
    let whole = good("include = [\"common.toml\"]", &[("common.toml", COMMON)]);
    assert_eq!(names(&whole), ["data", "net@width=8", "net@width=16"]);
}

#[test]
fn later_file_wins_and_paths_start_from_the_including_file() {
    let files = [
        ("lib/a.toml", "include = [\"../base.toml\", \"more/deep.toml\"]\n[params]\nn = 1\nsource = \"a\""),
        ("lib/../base.toml", COMMON),
        ("lib/more/deep.toml", "[params]\nn = 2\nsource = \"deep\"\nlate = \"deep\""),
        ("b.toml", "params.source = \"b\""),
    ];
    let text = "include = [\"lib/a.toml\", \"b.toml\"]\n[stages.data]\nsource = \"${params.source} ${params.late}\"";
    assert_eq!(params(&good(text, &files), "data"), "{ n = 1, source = \"b deep\" }");
}

#[test]
fn file_can_be_included_in_two_ways() {
    let files = [
        ("a.toml", "include = [\"common.toml\"]\nparams.n = 1"),
        ("b.toml", "include = [\"common.toml\"]\nparams.m = 1"),
        ("common.toml", COMMON),
    ];
    let spec = good("include = [\"a.toml\", \"b.toml\", \"a.toml\"]", &files);
    assert_eq!(params(&spec, "data"), "{ n = 1, source = \"far\" }");
    assert_eq!(spec.sources.0.len(), 4, "each file is read once");
}

#[test]
fn errors_quote_the_file_that_they_are_in() {
    let text = "include = [\"common.toml\"]\n[stages.data]\nm = 1\n[stages.net]\nwidth = \"${params.w}\"\n";
    let common = COMMON.replace("source = \"far\"", "source = 5").replace("n = 10", "n = 10\nw = \"wide\"");
    assert_snapshot!(wrong(text, &[("common.toml", &common)]), @r#"
    error: unknown field `m`
     --> exp/p.toml:3:1
      |
    3 | m = 1
      | ^
      |
      = help: did you mean `matrix`?

    error: `width` must be an integer from 1 to 4096, not "wide"
     --> exp/common.toml:8:5
      |
    8 | w = "wide"
      |     ^^^^^^ used by stage `net`

    error: `source` must be a string, not 5
      --> exp/common.toml:16:10
       |
    16 | source = 5
       |          ^

    3 errors in the pipeline
    "#);
    let files = [("lib/a.toml", "include = [\"b.toml\"]\n[x\ny = 1"), ("lib/b.toml", "é = \"ä\" z\n")];
    assert_snapshot!(wrong("include = [\"lib/a.toml\"]\nx = y\n", &files), @r#"
    error: invalid TOML: string values must be quoted, expected literal string
     --> exp/p.toml:2:5
      |
    2 | x = y
      |     ^

    error: invalid TOML: unclosed table, expected `]`
     --> exp/lib/a.toml:2:3
      |
    2 | [x
      |   ^

    error: invalid TOML: invalid unquoted key, expected letters, numbers, `-`, `_`
     --> exp/lib/b.toml:1:1
      |
    1 | é = "ä" z
      | ^

    error: invalid TOML: unexpected key or value, expected newline, `#`
     --> exp/lib/b.toml:1:9
      |
    1 | é = "ä" z
      |         ^

    4 errors in the pipeline
    "#);
}

#[test]
fn override_of_an_included_value_is_checked_as_one_of_the_file() {
    let read = |set: &str| read("include = [\"common.toml\"]", &[("common.toml", COMMON)], &[set]);
    assert_eq!(params(&read("params.n=7").unwrap(), "data"), "{ n = 7, source = \"far\" }");
    assert_eq!(names(&read("stages.net.width=4").unwrap()), ["data", "net"]);
    assert_snapshot!(read("params.nn=7").unwrap_err(), @r"
    error: nothing uses the parameter `nn`
     --> -S params.nn=7:1:8
      |
    1 | params.nn=7
      |        ^^
      |
      = help: did you mean `params.n`?

    1 error in the pipeline
    ");
    assert_snapshot!(read("include=[]").unwrap_err(), @r"
    error: `include` can't be overridden
     --> -S include=[]:1:1
      |
    1 | include=[]
      | ^^^^^^^
      |
      = help: override a value of the included file: its path is the same as if this file had it

    1 error in the pipeline
    ");
}

#[test]
fn files_that_include_each_other_are_reported_with_the_chain() {
    let files = [("lib/a.toml", "include = [\"b.toml\"]"), ("lib/b.toml", "\ninclude = [\"a.toml\"]")];
    assert_snapshot!(wrong("include = [\"lib/a.toml\"]", &files), @r#"
    error: these files include each other: exp/lib/a.toml → exp/lib/b.toml → exp/lib/a.toml
     --> exp/lib/b.toml:2:12
      |
    2 | include = ["a.toml"]
      |            ^^^^^^^^
      |
      = help: a file can't include itself; remove one of these includes

    1 error in the pipeline
    "#);
    assert_snapshot!(wrong("include = [\"p.toml\"]", &[]), @r#"
    error: these files include each other: exp/p.toml → exp/p.toml
     --> exp/p.toml:1:12
      |
    1 | include = ["p.toml"]
      |            ^^^^^^^^
      |
      = help: a file can't include itself; remove one of these includes

    1 error in the pipeline
    "#);
    let chain: Vec<(String, String)> =
        (0..40).map(|n| (format!("{n}.toml"), format!("include = [\"{}.toml\"]", n + 1))).collect();
    let chain: Vec<(&str, &str)> = chain.iter().map(|(name, text)| (name.as_str(), text.as_str())).collect();
    let message = wrong("include = [\"0.toml\"]", &chain);
    assert!(message.contains("too many files") && message.contains("exp/31.toml:1:12"), "{message}");
}

#[test]
fn mistakes_in_include_are_explained() {
    assert_snapshot!(wrong("include = [\"gone.toml\", \"\", 5]", &[]), @r#"
    error: can't read the included file exp/gone.toml: entity not found
     --> exp/p.toml:1:12
      |
    1 | include = ["gone.toml", "", 5]
      |            ^^^^^^^^^^^

    error: this file has no name
     --> exp/p.toml:1:25
      |
    1 | include = ["gone.toml", "", 5]
      |                         ^^

    error: `include` must hold names of files, not an integer
     --> exp/p.toml:1:29
      |
    1 | include = ["gone.toml", "", 5]
      |                             ^

    3 errors in the pipeline
    "#);
    assert_snapshot!(wrong("include = \"common.toml\"", &[]), @r#"
    error: `include` must be a list of files, not a string
     --> exp/p.toml:1:11
      |
    1 | include = "common.toml"
      |           ^^^^^^^^^^^^^
      |
      = help: include = ["common.toml"]

    1 error in the pipeline
    "#);
    assert_snapshot!(wrong("inclde = [\"common.toml\"]", &[]), @r#"
    error: unknown section `inclde`
     --> exp/p.toml:1:1
      |
    1 | inclde = ["common.toml"]
      | ^^^^^^
      |
      = help: did you mean `include`?

    error: the pipeline has no `name`
     --> exp/p.toml:1:1
      |
    1 | inclde = ["common.toml"]
      | ^
      |
      = help: add `name = "…"` to [pipeline]

    2 errors in the pipeline
    "#);
    let text = "[pipeline]\nname = \"p\"\ninclude = [\"a.toml\"]\n[matrix]\nx = [1]\ninclude = [\"a.toml\"]\n\
                [stages.s]\nkind = \"show\"\ntitle = \"${matrix.x} x\"\n";
    assert_snapshot!(wrong(text, &[]), @r#"
    error: `include` is not a field of [pipeline]
     --> exp/p.toml:3:11
      |
    3 | include = ["a.toml"]
      |           ^^^^^^^^^^
      |
      = help: write it above the first table of this file

    error: `include` must hold tables such as { axis = value }, not a string
     --> exp/p.toml:6:12
      |
    6 | include = ["a.toml"]
      |            ^^^^^^^^
      |
      = help: to include a file, write `include` above the first table of this file

    2 errors in the pipeline
    "#);
}
