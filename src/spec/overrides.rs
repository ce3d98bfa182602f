//! `-S path=value`: overrides that are put into the tree before types are checked.
//!
//! A path is a dotted TOML key of bare and quoted names: `stages.vad.at."distribution=gaussian".lr`. The value is TOML.
//! If it is not valid TOML it is a string, so `-S stages.vad.distribution=uniform` needs no quotes. `-S model=@wide`
//! chooses from a group (see `groups`).

use std::ops::Range;

use super::groups;
use super::include::INCLUDE;
use super::read::{self, Segment, Text};
use crate::diagnostic::{Diagnostics, Origin, SourceKind, Sources, nearest};
use crate::value::{Data, Entry, Node, Table};

/// The deepest path. A tree of unlimited depth could exhaust the stack.
const MAX_DEPTH: usize = 32;

/// An error in the text of an override, and where in it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct BadPath {
    message: &'static str,
    span: Range<usize>,
}

/// Puts the overrides into the tree in their order. Each becomes a separate source.
pub(super) fn apply(overrides: &[String], root: &mut Table, sources: &mut Sources, diagnostics: &mut Diagnostics) {
    for text in overrides {
        let source = sources.add(SourceKind::Override, format!("-S {text}"), text.as_str());
        let (path, value) = match split(text) {
            Ok(found) => found,
            Err(bad) => {
                let help = "write `-S path=value`, such as `-S params.epochs=8`";
                diagnostics.error(&Origin { source, span: bad.span }, bad.message).help(help);
                continue;
            }
        };
        let written = text.get(value.clone()).unwrap_or_default();
        if let [Segment { name, span }, ..] = path.as_slice()
            && name == INCLUDE
        {
            let error = diagnostics.error(&Origin { source, span: span.clone() }, "`include` can't be overridden");
            error.help("override a value of the included file: its path is the same as if this file had it");
            continue;
        }
        let mut node = read::value(written, Text { source, offset: value.start })
            .unwrap_or_else(|| Node { data: Data::Text(written.to_owned()), origin: Origin { source, span: value } });
        let path = groups::redirect(root, path, &mut node);
        if groups::check(root, &path, &node, source, diagnostics) {
            set(root, &path, source, node, diagnostics);
        }
    }
}

/// Splits an override into the names of its path and the range of its value.
fn split(text: &str) -> Result<(Vec<Segment>, Range<usize>), BadPath> {
    let mut path: Vec<Segment> = Vec::new();
    let mut at = 0;
    loop {
        let segment = segment(text, at)?;
        let mut end = segment.span.end;
        path.push(segment);
        if path.len() > MAX_DEPTH {
            return Err(BadPath { message: "this path is too deep", span: 0..end });
        }
        let rest = text.get(end..).unwrap_or_default();
        end += rest.len() - rest.trim_start_matches([' ', '\t']).len();
        match text.as_bytes().get(end) {
            Some(b'=') => {
                let rest = text.get(end + 1..).unwrap_or_default();
                let start = text.len() - rest.trim_start_matches([' ', '\t']).len();
                return Ok((path, start..text.len()));
            }
            Some(b'.') => at = end + 1,
            Some(_) => {
                let next = text.get(end..).and_then(|t| t.chars().next()).map_or(0, char::len_utf8);
                return Err(BadPath { message: "unexpected character in the path", span: end..end + next });
            }
            None => return Err(BadPath { message: "`=value` is missing after this path", span: 0..text.len() }),
        }
    }
}

/// The name that begins at byte `at`.
fn segment(text: &str, at: usize) -> Result<Segment, BadPath> {
    let rest = text.get(at..).unwrap_or_default();
    let start = text.len() - rest.trim_start_matches([' ', '\t']).len();
    let rest = text.get(start..).unwrap_or_default();
    let (name, length) = match rest.as_bytes().first() {
        Some(quote @ (b'"' | b'\'')) => quoted(rest, *quote)
            .ok_or(BadPath { message: "this quoted name is not closed or not valid TOML", span: start..text.len() })?,
        _ => {
            let length = rest.bytes().take_while(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-')).count();
            (rest.get(..length).unwrap_or_default().to_owned(), length)
        }
    };
    if name.is_empty() {
        let next = rest.chars().next().map_or(0, char::len_utf8);
        return Err(BadPath { message: "a name of the path is missing here", span: start..start + length.max(next) });
    }
    Ok(Segment { name, span: start..start + length })
}

/// A quoted name, and its length as written.
fn quoted(rest: &str, quote: u8) -> Option<(String, usize)> {
    let mut escaped = false;
    for (i, b) in rest.bytes().enumerate().skip(1) {
        if escaped {
            escaped = false;
        } else if b == b'\\' && quote == b'"' {
            escaped = true;
        } else if b == quote {
            let written = rest.get(..=i)?;
            let node = read::value(written, Text { source: 0, offset: 0 })?;
            return if let Data::Text(name) = node.data { Some((name, i + 1)) } else { None };
        }
    }
    None
}

/// Sets the value. Creates missing tables on the path.
fn set(root: &mut Table, path: &[Segment], source: usize, node: Node, diagnostics: &mut Diagnostics) {
    let Some((last, above)) = path.split_last() else { return };
    let mut table = root;
    for (depth, segment) in above.iter().enumerate() {
        let origin = Origin { source, span: segment.span.clone() };
        let index = match table.0.iter().position(|e| e.name == segment.name) {
            Some(index) => index,
            None => {
                let node = Node { data: Data::Table(Table::default()), origin: origin.clone() };
                table.0.push(Entry { name: segment.name.clone(), name_origin: origin.clone(), node });
                table.0.len() - 1
            }
        };
        match &mut table.0[index].node.data {
            Data::Table(next) => table = next,
            other => {
                let path: Vec<&str> = path[..=depth].iter().map(|s| s.name.as_str()).collect();
                let message = format!("`{}` is {}, not a table", path.join("."), other.describe());
                diagnostics.error(&origin, message).help("an override can replace the whole value");
                return;
            }
        }
    }
    let name_origin = Origin { source, span: last.span.clone() };
    table.set(Entry { name: last.name.clone(), name_origin, node });
}

/// Reports overrides of parameters that nothing uses. `[params]` accepts any name, so a misspelt override would
/// otherwise have no effect, and the run would silently be another experiment.
pub(super) fn report_unused_params(root: &Table, sources: &Sources, diagnostics: &mut Diagnostics) {
    let Some(Data::Table(params)) = root.get("params").map(|node| &node.data) else { return };
    let spaceless = |text: &str| text.split_whitespace().collect::<String>();
    let texts: Vec<String> = sources.0.iter().map(|source| spaceless(&source.text)).collect();
    let mentioned = |name: &str| {
        texts
            .iter()
            .any(|text| text.contains(&format!("${{params.{name}}}")) || text.contains(&format!("${{params.{name}.")))
    };
    let bare = |name: &str| name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '-');
    let overridden = |e: &&Entry| sources.is_override(e.name_origin.source);
    for entry in params.0.iter().filter(overridden).filter(|e| bare(&e.name) && !mentioned(&e.name)) {
        let message = format!("nothing uses the parameter `{}`", entry.name);
        let error = diagnostics.error(&entry.name_origin, message);
        let others = params.0.iter().map(|e| e.name.as_str()).filter(|n| *n != entry.name);
        match nearest(&entry.name, others) {
            Some(near) => error.help(format!("did you mean `params.{near}`?")),
            None => error.help(format!("a stage would use it as `${{params.{}}}`", entry.name)),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn names(text: &str) -> Result<(Vec<String>, &str), BadPath> {
        split(text).map(|(path, value)| (path.into_iter().map(|s| s.name).collect(), &text[value]))
    }

    fn applied(toml: &str, overrides: &[&str]) -> Result<Table, String> {
        let mut sources = Sources::default();
        let mut diagnostics = Diagnostics::default();
        let source = sources.add(SourceKind::Pipeline, "p.toml", toml);
        let mut root = read::document(toml, source, &mut diagnostics);
        let overrides: Vec<String> = overrides.iter().map(|o| (*o).to_owned()).collect();
        apply(&overrides, &mut root, &mut sources, &mut diagnostics);
        if diagnostics.is_empty() { Ok(root) } else { Err(diagnostics.render(&sources)) }
    }

    fn value(toml: &str, overrides: &[&str]) -> String {
        Data::Table(applied(toml, overrides).unwrap()).value().to_string()
    }

    #[test]
    fn paths_are_read_as_toml_keys() {
        let of = |names: &[&str]| names.iter().map(|n| (*n).to_owned()).collect::<Vec<_>>();
        assert_eq!(names("params.epochs=8"), Ok((of(&["params", "epochs"]), "8")));
        assert_eq!(names(" a . b = 1"), Ok((of(&["a", "b"]), "1")));
        assert_eq!(names("at.\"lr=0.1,d=a\".x=y=z"), Ok((of(&["at", "lr=0.1,d=a", "x"]), "y=z")));
        assert_eq!(names("a.'b\\'=1"), Ok((of(&["a", "b\\"]), "1")));
        assert_eq!(names(r#""a\"b"="#), Ok((of(&["a\"b"]), "")));
    }

    #[test]
    fn value_that_is_not_toml_is_string() {
        assert_eq!(value("", &["a.i=8", "a.f=1e-3", "a.b=true"]), "{ a = { b = true, f = 0.001, i = 8 } }");
        assert_eq!(value("", &["a=[64,32]"]), "{ a = [64, 32] }");
        assert_eq!(value("", &["a={ x = 1 }"]), "{ a = { x = 1 } }");
        assert_eq!(value("", &["a=uniform"]), "{ a = \"uniform\" }");
        assert_eq!(value("", &["a=\"8\""]), "{ a = \"8\" }");
        assert_eq!(value("", &["a=[64,"]), "{ a = \"[64,\" }");
        assert_eq!(value("", &["a=2024-01-01"]), "{ a = \"2024-01-01\" }");
        assert_eq!(value("", &["a="]), "{ a = \"\" }");
    }

    #[test]
    fn override_of_unused_parameter_is_error() {
        let check = |set: &str| {
            let (mut sources, mut diagnostics) = (Sources::default(), Diagnostics::default());
            let text = "[params]\nepochs = 3\n[stages.a]\nn = \"${ params.epochs }\"\nm = \"${params.late}\"\n";
            let source = sources.add(SourceKind::Pipeline, "p.toml", text);
            let mut root = read::document(text, source, &mut diagnostics);
            apply(&[set.to_owned()], &mut root, &mut sources, &mut diagnostics);
            report_unused_params(&root, &sources, &mut diagnostics);
            diagnostics
                .0
                .into_iter()
                .map(|d| format!("{}; {}", d.message, d.help.unwrap_or_default()))
                .collect::<Vec<_>>()
        };
        assert_eq!(check("params.epochs=4"), [""; 0]);
        assert_eq!(check("params.late=4"), [""; 0], "the file uses it without setting it");
        assert_eq!(check("params.epoch=4"), ["nothing uses the parameter `epoch`; did you mean `params.epochs`?"]);
        assert_eq!(check("params.zz=4"), ["nothing uses the parameter `zz`; a stage would use it as `${params.zz}`"]);
    }

    #[test]
    fn override_keeps_position_and_last_one_wins() {
        let table = applied("[m]\nb = 1\na = 2\n", &["m.b=5", "m.b=6", "m.c=7"]).unwrap();
        let Data::Table(m) = &table.get("m").unwrap().data else { panic!("no table") };
        let found: Vec<_> = m.0.iter().map(|e| (e.name.as_str(), e.node.data.clone())).collect();
        assert_eq!(found, [("b", Data::Int(6)), ("a", Data::Int(2)), ("c", Data::Int(7))]);
    }

    #[test]
    fn errors_quote_the_override() {
        let bad = |o: &str| applied("[params]\nepochs = 4\n", &[o]).unwrap_err();
        insta::assert_snapshot!(bad("params.epochs.x=1"), @r"
        error: `params.epochs` is an integer, not a table
         --> -S params.epochs.x=1:1:8
          |
        1 | params.epochs.x=1
          |        ^^^^^^
          |
          = help: an override can replace the whole value

        1 error in the pipeline
        ");
        insta::assert_snapshot!(bad("params..x=1"), @r"
        error: a name of the path is missing here
         --> -S params..x=1:1:8
          |
        1 | params..x=1
          |        ^
          |
          = help: write `-S path=value`, such as `-S params.epochs=8`

        1 error in the pipeline
        ");
        insta::assert_snapshot!(bad("params.epochs"), @r"
        error: `=value` is missing after this path
         --> -S params.epochs:1:1
          |
        1 | params.epochs
          | ^^^^^^^^^^^^^
          |
          = help: write `-S path=value`, such as `-S params.epochs=8`

        1 error in the pipeline
        ");
        insta::assert_snapshot!(bad("=1"), @r"
        error: a name of the path is missing here
         --> -S =1:1:1
          |
        1 | =1
          | ^
          |
          = help: write `-S path=value`, such as `-S params.epochs=8`

        1 error in the pipeline
        ");
        insta::assert_snapshot!(bad("params.\"x=1"), @r#"
        error: this quoted name is not closed or not valid TOML
         --> -S params."x=1:1:8
          |
        1 | params."x=1
          |        ^^^^
          |
          = help: write `-S path=value`, such as `-S params.epochs=8`

        1 error in the pipeline
        "#);
        insta::assert_snapshot!(bad("params/x=1"), @r"
        error: unexpected character in the path
         --> -S params/x=1:1:7
          |
        1 | params/x=1
          |       ^
          |
          = help: write `-S path=value`, such as `-S params.epochs=8`

        1 error in the pipeline
        ");
    }

    proptest! {
        #[test]
        fn no_override_panics(text in "[a-c.\"'=\\\\ {}\\[\\]é$\n0-9]{0,20}") {
            let _ = applied("[a]\nb = 1\nc = { d = 2 }\n", &[&text]);
        }

        #[test]
        fn quoted_name_parses_to_itself(name in "[^\\pC'\"\\\\]{1,12}") {
            let quoted = format!("'{name}'.x=1");
            prop_assert_eq!(names(&quoted).unwrap().0, vec![name, "x".to_owned()]);
        }
    }
}
