//! The words of argv: placeholders in braces, and names of files next to the pipeline.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::ops::Range;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Path, PathBuf};

/// The placeholders that are a single word.
const PLACEHOLDERS: [&str; 5] = ["metrics", "base", "seed", "device", "checkpoint"];
/// Programs whose first argument is a script. A version at the end of the name does not count.
const INTERPRETERS: [&str; 8] = ["python", "Rscript", "julia", "node", "perl", "ruby", "bash", "sh"];

/// The position of a word, which determines how file names are found in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// The program: a file if its name contains a `/`; other names are searched in `PATH`.
    Program,
    /// An argument: the whole word, or the part after the first `=`.
    Argument,
    /// A shell script: each piece between spaces and special characters that contains a `/` or a `.`.
    Script,
}

impl Place {
    /// The place of the word at this index of argv.
    pub(super) fn of(index: usize, shell: bool) -> Self {
        match (index, shell) {
            (0, true) => Self::Script,
            (0, false) => Self::Program,
            _ => Self::Argument,
        }
    }
}

/// Whether this is a valid name of a role: `[A-Za-z0-9_-]+`.
pub(super) fn is_name(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-')
}

/// The roles of `{group.ROLE}` in a word.
pub(super) fn roles(word: &str, group: &str) -> Vec<String> {
    placeholders(word)
        .into_iter()
        .filter_map(|range| word[range].split_once('.').filter(|(g, _)| *g == group).map(|(_, role)| role.to_owned()))
        .collect()
}

/// The files that argv names, as written.
pub(super) fn files_named(argv: &[String], shell: bool, is_file: &dyn Fn(&str) -> bool) -> BTreeSet<String> {
    let named = |(at, word): (usize, &String)| {
        let ranges = file_ranges(word, Place::of(at, shell), is_file);
        ranges.into_iter().map(|range| word[range].to_owned()).collect::<Vec<_>>()
    };
    argv.iter().enumerate().flat_map(named).collect()
}

/// The paths that words of argv refer to.
pub(super) trait Paths {
    /// The path that replaces a placeholder (`inputs.data`, `metrics`, …).
    fn placeholder(&self, name: &str) -> Option<PathBuf>;
    /// The path of something in the pipeline's folder.
    fn in_base(&self, name: &str) -> PathBuf;
}

/// Replaces the placeholders in a word, and names of files next to the pipeline by absolute paths.
pub(super) fn expand(word: &str, place: Place, paths: &dyn Paths) -> OsString {
    let mut parts: Vec<(Range<usize>, PathBuf)> = Vec::new();
    for range in file_ranges(word, place, &|name| paths.in_base(name).is_file()) {
        parts.push((range.clone(), paths.in_base(&word[range])));
    }
    for range in placeholders(word) {
        let (name, braces) = (&word[range.clone()], range.start - 1..range.end + 1);
        let below = if name == "base" { path_after(word, place, braces.end) } else { None };
        if let Some(below) = below {
            let path = paths.in_base(word[below.clone()].trim_start_matches('/'));
            parts.push((braces.start..below.end, path));
        } else if let Some(path) = paths.placeholder(name) {
            parts.push((braces, path));
        }
    }
    parts.sort_by_key(|(range, _)| range.start);
    let mut out = OsString::new();
    let mut at = 0;
    for (range, path) in parts {
        if range.start < at {
            continue;
        }
        out.push(&word[at..range.start]);
        if place == Place::Script {
            out.push(quoted(path))
        } else {
            out.push(path)
        }
        at = range.end;
    }
    out.push(&word[at..]);
    out
}

/// The rest of a path that begins before `start`, with its leading `/`. `None` if there is none, or if the shell
/// completes it.
fn path_after(word: &str, place: Place, start: usize) -> Option<Range<usize>> {
    let rest = &word[start..];
    let end = match place {
        Place::Script => rest.find(|c: char| c.is_whitespace() || ";|&<>()\"'`$".contains(c)).unwrap_or(rest.len()),
        _ => rest.len(),
    };
    let goes_on = rest[end..].starts_with(['"', '\'', '`', '$']) && place == Place::Script;
    let is_path = rest.starts_with('/')
        && !rest[..end].trim_matches('/').is_empty()
        && !rest[..end].contains(['{', '*', '?', '[', '\\', '\0']);
    (is_path && !goes_on).then_some(start..start + end)
}

/// Whether a word contains this placeholder.
pub(super) fn has_placeholder(word: &str, name: &str) -> bool {
    placeholders(word).into_iter().any(|range| word[range] == *name)
}

/// The name in braces that a word or its part after the first `=` consists of, if it is one edit away from a
/// placeholder; and that placeholder. Braces inside a longer word are for the program.
pub(super) fn misspelled(word: &str) -> Option<(&str, &'static str)> {
    let whole = |word: &'_ str| word.strip_prefix('{').and_then(|rest| rest.strip_suffix('}')).map(str::len);
    let part = if whole(word).is_some() { word } else { word.split_once('=')?.1 };
    let name = part.get(1..1 + whole(part)?).filter(|name| is_name(name))?;
    let known = PLACEHOLDERS.into_iter().find(|known| strsim::osa_distance(name, known) == 1)?;
    Some((name, known))
}

/// The script that an interpreter is to run, if it is next to the pipeline: `python3 SCRIPT …`.
pub(super) fn script(argv: &[String]) -> Option<&str> {
    let [program, script, ..] = argv else { return None };
    let program = program.rsplit('/').next()?.trim_end_matches(|c: char| c.is_ascii_digit() || c == '.');
    let is_plain = !script.is_empty() && !script.starts_with('-') && !script.contains('{');
    (INTERPRETERS.contains(&program) && is_plain).then_some(script)
}

/// The placeholders, without their braces: those of [`PLACEHOLDERS`], `inputs.ROLE` and `outputs.ROLE`.
fn placeholders(word: &str) -> Vec<Range<usize>> {
    let is_ours = |range: &Range<usize>| {
        let inner = &word[range.clone()];
        let role = inner.strip_prefix("inputs.").or_else(|| inner.strip_prefix("outputs."));
        // `${seed}` is a variable of the shell.
        let is_variable = matches!(inner, "seed" | "device" | "checkpoint") && word[..range.start - 1].ends_with('$');
        (PLACEHOLDERS.contains(&inner) && !is_variable) || role.is_some_and(is_name)
    };
    braces(word).filter(is_ours).collect()
}

/// The ranges between a `{` and the next `}`.
fn braces(word: &str) -> impl Iterator<Item = Range<usize>> {
    word.match_indices('{').filter_map(|(open, _)| {
        let length = word[open + 1..].find('}')?;
        Some(open + 1..open + 1 + length)
    })
}

fn file_ranges(word: &str, place: Place, is_file: &dyn Fn(&str) -> bool) -> Vec<Range<usize>> {
    let candidates: Vec<Range<usize>> = match place {
        Place::Program => std::iter::once(0..word.len()).collect(),
        Place::Argument => {
            let after = word.find('=').map(|at| at + 1..word.len());
            [Some(0..word.len()), after].into_iter().flatten().collect()
        }
        Place::Script => pieces(word),
    };
    let counts = |name: &str| match place {
        Place::Program => name.contains('/'),
        Place::Argument => true,
        Place::Script => name.contains(['/', '.']),
    };
    let mut found: Vec<Range<usize>> = Vec::new();
    for range in candidates {
        let name = &word[range.clone()];
        let plain = !name.is_empty() && !name.contains(['{', '\0']) && Path::new(name).is_relative();
        if plain && counts(name) && is_file(name) {
            found.push(range);
            if place != Place::Script {
                break;
            }
        }
    }
    found
}

fn pieces(script: &str) -> Vec<Range<usize>> {
    let separates = |c: char| c.is_whitespace() || ";|&<>()\"'`=$".contains(c);
    let mut found = Vec::new();
    let mut start = 0;
    for (at, c) in script.char_indices().chain([(script.len(), ' ')]) {
        if separates(c) {
            if start < at {
                found.push(start..at);
            }
            start = at + c.len_utf8();
        }
    }
    found
}

/// A path as a word of a shell script.
pub(in crate::stages) fn quoted(path: PathBuf) -> OsString {
    let quoted = shlex::bytes::try_quote(path.as_os_str().as_bytes()).map(|word| OsString::from_vec(word.into_owned()));
    // Only a NUL can't be quoted, and no path contains one.
    quoted.unwrap_or_else(|_| path.into())
}
