//! The structure of the source: layers, no cycles of files, which files print, and the length of files, functions and
//! lines.
//!
//! [`exceptions`] lists known violations. A list may only shrink: an exception that is no longer needed fails the test,
//! too.

mod exceptions;
mod source;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use petgraph::algo::{astar, tarjan_scc};
use petgraph::graphmap::DiGraphMap;

use self::source::Crate;

/// Lines of a file, without tests.
const LONGEST_FILE: usize = 450;
/// Lines of a function, from the signature to the closing brace.
const LONGEST_FUNCTION: usize = 60;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn sources() -> Crate {
    Crate::read(&root().join("src"))
}

/// Fails for violations that are not exceptions, with their descriptions, and for exceptions that are no longer needed.
fn check(found: &BTreeMap<String, String>, exceptions: &[&str]) {
    let exceptions: BTreeSet<&str> = exceptions.iter().copied().collect();
    let new: Vec<&String> =
        found.iter().filter(|(name, _)| !exceptions.contains(name.as_str())).map(|(_, text)| text).collect();
    assert!(new.is_empty(), "{} new:\n{}", new.len(), new.iter().map(|text| format!("{text}\n")).collect::<String>());
    let gone: Vec<&&str> = exceptions.iter().filter(|name| !found.contains_key(**name)).collect();
    assert!(gone.is_empty(), "remove these exceptions, they are no longer needed: {gone:#?}");
}

#[test]
fn module_uses_only_modules_above_it_in_lib_rs() {
    let lib = fs::read_to_string(root().join("src/lib.rs")).expect("lib.rs");
    let layers: Vec<&str> =
        lib.lines().filter_map(|l| l.strip_prefix("pub mod ")).map(|m| m.trim_end_matches(';')).collect();
    assert!(layers.len() > 10, "lib.rs lists the modules: {layers:?}");
    assert_eq!(upward(&sources(), &layers), [""; 0]);
}

/// Where a module uses one that comes after it.
fn upward(sources: &Crate, layers: &[&str]) -> Vec<String> {
    let rank = |module: &str| layers.iter().position(|layer| *layer == module);
    let mut wrong = Vec::new();
    for source in sources.files().filter(|source| !source.module.is_empty()) {
        let own = &source.module[0];
        let own_rank = rank(own).unwrap_or_else(|| panic!("{} is in no layer", source.file));
        for (path, line) in sources.mentions(source) {
            let used = path.first().filter(|used| rank(used).is_some_and(|rank| rank > own_rank));
            wrong.extend(used.map(|used| format!("{}:{line}: {own} uses {used}", source.file)));
        }
    }
    wrong
}

#[test]
fn no_files_of_a_module_use_each_other() {
    check(&circles(&sources()), exceptions::CIRCLES);
}

/// Each use that is part of a cycle, as `a.rs → b.rs`, with the shortest cycle that it is part of.
fn circles(sources: &Crate) -> BTreeMap<String, String> {
    let module: BTreeMap<&str, &str> =
        sources.files().filter_map(|s| Some((s.file.as_str(), s.module.first()?.as_str()))).collect();
    let mut uses: DiGraphMap<&str, ()> = DiGraphMap::new();
    for source in sources.files() {
        let own = module.get(source.file.as_str());
        for used in sources.used_by(source).into_iter().filter(|used| own.is_some() && module.get(used) == own) {
            uses.add_edge(source.file.as_str(), used, ());
        }
    }
    let mut found = BTreeMap::new();
    for circle in tarjan_scc(&uses).into_iter().filter(|files| files.len() > 1) {
        let inside = |(user, used, _): &(&str, &str, &())| circle.contains(user) && circle.contains(used);
        for (user, used, _) in uses.all_edges().filter(inside) {
            let back = astar(&uses, used, |file| file == user, |_| 1, |_| 0).map(|(_, files)| files);
            let files: Vec<&str> = std::iter::once(user).chain(back.unwrap_or_default()).collect();
            found.insert(format!("{user} → {used}"), files.join(" → "));
        }
    }
    found
}

#[test]
fn only_the_ui_prints() {
    let sources = sources();
    let prints = |source: &&source::Source| !source.module.join("/").starts_with("cli/ui");
    let found: Vec<String> = sources.files().filter(prints).flat_map(printing).collect();
    assert_eq!(found, [""; 0]);
}

/// Where a file prints, by a macro or by a standard stream.
fn printing(source: &source::Source) -> Vec<String> {
    let is_print = |name: &str| matches!(name, "print" | "println" | "eprint" | "eprintln" | "dbg");
    let is_stream = |path: &[String]| {
        path[0] == "anstream"
            || path.windows(2).any(|pair| pair[0] == "io" && matches!(pair[1].as_str(), "stdout" | "stderr"))
    };
    let macros = source.macros.iter().filter(|(name, _)| is_print(name));
    let macros = macros.map(|(name, line)| format!("{}:{line}: {name}!", source.file));
    let streams = source.written().filter(|mention| is_stream(&mention.path));
    macros.chain(streams.map(|m| format!("{}:{}: {}", source.file, m.line, m.path.join("::")))).collect()
}

#[test]
fn only_the_store_names_sled() {
    let sources = sources();
    let others = sources.files().filter(|source| source.module.first().is_none_or(|module| module != "store"));
    let named = others.filter(|source| source.written().any(|mention| mention.path[0] == "sled"));
    assert_eq!(named.map(|source| source.file.clone()).collect::<Vec<_>>(), [""; 0]);
}

#[test]
fn files_and_functions_are_short_or_say_why_not() {
    let sources = sources();
    let long = sources.files().filter(|s| s.lines > LONGEST_FILE && !s.is_long_for_a_reason);
    let files = long.map(|s| (s.file.clone(), format!("{}: {} lines", s.file, s.lines))).collect();
    check(&files, exceptions::LONG_FILES);
    let mut functions = BTreeMap::new();
    for source in sources.files() {
        let long = |f: &&source::Function| f.lines > LONGEST_FUNCTION && !f.is_long_for_a_reason;
        for function in source.functions.iter().filter(long) {
            let name = format!("{}: {}", source.file, function.name);
            functions.insert(name.clone(), format!("{name}: {} lines", function.lines));
        }
    }
    check(&functions, exceptions::LONG_FUNCTIONS);
}

#[test]
fn comments_are_no_wider_than_code() {
    let settings = fs::read_to_string(root().join("rustfmt.toml")).expect("rustfmt.toml");
    let width = settings.lines().find_map(|line| line.strip_prefix("max_width = ")).expect("a width");
    let width: usize = width.parse().expect("a number");
    let mut wide = BTreeMap::new();
    for folder in ["src", "tests", "benches", "examples"] {
        for file in rust_files(&root().join(folder)) {
            let text = fs::read_to_string(&file).expect("a source");
            let lines = text.lines().enumerate().filter(|(_, line)| line.trim_start().starts_with("//"));
            let lines: Vec<_> = lines.filter(|(_, l)| l.chars().count() > width).map(|(n, _)| n + 1).collect();
            let name = file.strip_prefix(root()).expect("below the root").display().to_string();
            if !lines.is_empty() {
                wide.insert(name.clone(), format!("{name}: lines {lines:?}"));
            }
        }
    }
    check(&wide, &exceptions::WIDE_COMMENTS.lines().collect::<Vec<_>>());
}

fn rust_files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            found.extend(rust_files(&path));
        } else if path.extension().is_some_and(|e| e == "rs") {
            found.push(path);
        }
    }
    found
}

/// A crate of these files.
fn small(files: &[(&str, &str)]) -> Crate {
    let text = |name: &str| files.iter().find(|(file, _)| *file == name).map_or("", |(_, text)| *text).to_owned();
    Crate::load(&text)
}

#[test]
fn use_of_a_later_module_is_found_in_every_form() {
    for code in [
        "use crate::late::X;",
        "use crate::{early, late};",
        "use crate::{early::{self, A}, late::{X, Y as Z}};",
        "use super::late;",
        "fn f() { crate::late::x() }",
        "fn f() { use crate::late::X; }",
        "fn f() -> crate::late::X { todo() }",
        "fn f() { call!(1, crate::late::x(2)) }",
        "mod inside { use super::super::late; }",
        "#[cfg(not(test))] fn f() { crate::late::x() }",
        "#[cfg(test)] mod tests { } \n fn f() { crate::late::x() }",
    ] {
        let sources = small(&[("lib.rs", "pub mod early;\npub mod late;"), ("early.rs", code)]);
        let found = upward(&sources, &["early", "late"]);
        assert!(!found.is_empty() && found.iter().all(|text| text.ends_with("early uses late")), "{code}: {found:?}");
    }
    for code in [
        "#[cfg(test)] mod tests { use crate::late::X; }",
        "#[cfg(any(fuzzing, test))] use crate::late::X;",
        "// use crate::late::X;\nuse other::late::X;",
        "pub(in crate::early) fn f() { late() }",
    ] {
        let sources = small(&[("lib.rs", "pub mod early;\npub mod late;"), ("early.rs", code)]);
        assert_eq!(upward(&sources, &["early", "late"]), [""; 0], "{code}");
    }
}

#[test]
fn cycle_of_files_is_found_and_a_facade_is_not_a_cycle() {
    let of = |files: &[(&str, &str)]| {
        let lib = ("lib.rs", "pub mod m;");
        circles(&small(&[&[lib], files].concat())).into_values().collect::<Vec<_>>()
    };
    let facade = ("m.rs", "mod a;\nmod b;\npub use a::A;\npub(crate) use b::B;");
    let one_way = [facade, ("m/a.rs", "pub struct A;"), ("m/b.rs", "use super::A;\npub struct B(A);")];
    assert_eq!(of(&one_way), [""; 0]);
    let both_ways = [facade, ("m/a.rs", "pub struct A;\nfn f() { super::B }"), one_way[2]];
    assert_eq!(of(&both_ways), ["m/a.rs → m/b.rs → m/a.rs", "m/b.rs → m/a.rs → m/b.rs"]);
    // The parent uses a name that it re-exports, and its child uses the parent.
    let parent = ("m.rs", "mod a;\npub use a::A;\npub struct P;\nfn f() -> A { A }");
    assert_eq!(of(&[parent, ("m/a.rs", "pub struct A(super::P);")]).len(), 2);
    let parent = ("m.rs", "mod a;\npub struct P;\nfn f() { a::g() }");
    assert_eq!(of(&[parent, ("m/a.rs", "use crate::m::{P};\npub(super) fn g() {}")]).len(), 2);
    let tested = ("m/a.rs", "pub struct A;\n#[cfg(test)]\nmod tests { use crate::m::B; }");
    assert_eq!(of(&[facade, tested, one_way[2]]), [""; 0]);
}

#[test]
fn printing_is_found_in_every_form() {
    for code in [
        "fn f() { println!(\"{}\", 1) }",
        "fn f() { other!(eprint!(\"x\")) }",
        "fn f(x: u8) -> u8 { dbg!(x) }",
        "use std::io::{Write, stdout};",
        "fn f() { std::io::stderr().lock() }",
        "use std::io; fn f() { call!(io::stdout()) }",
        "use anstream::stdout;",
    ] {
        let sources = small(&[("lib.rs", code)]);
        assert_eq!(sources.files().flat_map(printing).count(), 1, "{code}");
    }
    let quiet = small(&[("lib.rs", "#[cfg(test)] mod tests { fn f() { println!() } } fn print() { print() }")]);
    assert_eq!(quiet.files().flat_map(printing).count(), 0);
}

#[test]
fn length_excludes_tests_and_a_reason_excuses_it() {
    let long = format!("fn f() {{\n{}}}\n", "    g();\n".repeat(80));
    let tests = format!("#[cfg(test)]\nmod tests {{\n{long}}}\n");
    let read = |text: String| {
        let sources = small(&[("lib.rs", text.as_str())]);
        let source = sources.files().next().expect("lib.rs");
        let functions: Vec<_> = source.functions.iter().map(|f| (f.lines, f.is_long_for_a_reason)).collect();
        (source.lines, functions)
    };
    assert_eq!(read(format!("{long}{tests}")), (82, vec![(82, false)]));
    for reason in ["// Long because: a table.\n", "/// Does it.\n// Long because: a table.\n#[inline]\n"] {
        assert_eq!(read(format!("{reason}{long}")).1, [(82, true)], "{reason}");
    }
}
