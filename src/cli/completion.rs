//! Shell completions that know the pipeline: stages and points of the file that stands on the command line.
//!
//! `vadpipe completions SHELL` prints a small script. When the user asks for a completion, the script calls the program with
//! [`VARIABLE`] set and the words typed so far behind a `--`; [`answer`] prints the candidates and ends the process.
//!
//! The script for bash is our own. bash breaks words at the characters of `COMP_WORDBREAKS`, which `@`, `=` and `:` are among:
//! `ad@lr=0.1` would be five words, none of which the parser knows. So the script splits the line at white space, and takes
//! from each candidate what stands before bash's idea of the current word.

use std::ffi::{OsStr, OsString};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use clap::CommandFactory as _;
use clap_complete::CompleteEnv;
use clap_complete::engine::{CompletionCandidate, PathCompleter, ValueCompleter as _};
use clap_complete::env::{Bash, Elvish, EnvCompleter, Fish, Powershell, Shells, Zsh};

use super::Cli;
use crate::error::{Error, Result};
use crate::id::PointName;
use crate::spec::{Spec, load};
use crate::stage::Registry;

/// Set by the scripts, to the shell's name.
const VARIABLE: &str = "VADPIPE_COMPLETE";
const NAME: &str = "vadpipe";
/// Above so many points, only stages are offered until an `@` is typed.
const MOST_POINTS: usize = 60;

const SHELLS: Shells<'static> = Shells(&[&WholeWordBash, &Elvish, &Fish, &Powershell, &Zsh]);

/// The stage kinds that the program was started with: whoever completes a word is called without anything at hand.
static KINDS: OnceLock<Registry> = OnceLock::new();

/// Answers a shell that asks for completions and ends the process; else returns.
pub(super) fn answer(registry: &Registry) {
    if std::env::var_os(VARIABLE).is_none() {
        return;
    }
    let _ = KINDS.set(registry.clone());
    CompleteEnv::with_factory(Cli::command).var(VARIABLE).shells(SHELLS).complete();
}

/// The script that makes a shell ask us.
///
/// # Errors
/// If there is no script for this shell.
pub(super) fn script(shell: &str) -> Result<String> {
    let failed = || Error::bad_input(format!("there are no completions for {shell}"));
    let completer = SHELLS.completer(shell).ok_or_else(failed)?;
    let mut script = Vec::new();
    let written = completer.write_registration(VARIABLE, NAME, NAME, &program(), &mut script);
    written.map_err(|e| failed().caused_by(e))?;
    Ok(String::from_utf8_lossy(&script).into_owned())
}

/// How to call this program: by its name if it was found by that, else by its path.
fn program() -> String {
    let called = std::env::args_os().next().map(PathBuf::from).unwrap_or_default();
    let path = if called.components().count() > 1 { std::path::absolute(&called).ok() } else { None };
    path.map_or_else(|| NAME.to_owned(), |path| path.display().to_string())
}

/// Completes the path of a pipeline.
pub(super) fn files(current: &OsStr) -> Vec<CompletionCandidate> {
    PathCompleter::any().filter(|p| p.extension().is_some_and(|e| e == "toml")).complete(current)
}

/// Completes a stage or a point of the pipeline on the command line.
pub(super) fn targets(current: &OsStr) -> Vec<CompletionCandidate> {
    let words = std::env::args_os().skip_while(|word| word != "--").skip(1);
    let current = current.to_string_lossy();
    let Some(spec) = pipeline(words).and_then(|file| read(&file)) else { return Vec::new() };
    let offered = offered(&spec, &current);
    offered.into_iter().map(|(name, kind)| CompletionCandidate::new(name).help(Some(kind.into()))).collect()
}

/// Completes what `diff` compares: files, and points of the first.
pub(super) fn compared(current: &OsStr) -> Vec<CompletionCandidate> {
    targets(current).into_iter().chain(files(current)).collect()
}

/// The first word that is a pipeline's file.
fn pipeline(words: impl Iterator<Item = OsString>) -> Option<PathBuf> {
    words.map(PathBuf::from).find(|p| p.extension().is_some_and(|e| e == "toml") && p.is_file())
}

/// A pipeline; none if it can't be read or is wrong: nobody is told in the middle of a word.
fn read(file: &Path) -> Option<Spec> {
    let text = String::from_utf8(crate::file::read(file, super::project::MAX_PIPELINE_BYTES).ok()?).ok()?;
    let base = file.parent().unwrap_or(Path::new("."));
    load(&text, &file.display().to_string(), base, &[], KINDS.get()?).ok()
}

/// Names that begin so, with their kinds: stages, and points where there are not too many.
fn offered(spec: &Spec, current: &str) -> Vec<(String, String)> {
    let few = spec.points.len() <= MOST_POINTS || PointName::parse(current).coordinates.is_some();
    let mut names = Vec::new();
    for stage in &spec.stages {
        names.push((stage.name.clone(), stage.kind.clone()));
        let points = spec.points[stage.range()].iter().filter(|p| few && p.name != stage.name);
        names.extend(points.map(|p| (p.name.clone(), stage.kind.clone())));
    }
    names.retain(|(name, _)| name.starts_with(current));
    names
}

/// bash, with words that are split at white space alone.
struct WholeWordBash;

const BASH: &str = r#"_vadpipe() {
    local line="${COMP_LINE:0:COMP_POINT}" breaks="" reply
    local -a words
    # Quotes are bash's, not part of a word.
    IFS=$' \t\n' read -r -a words <<< "${line//[\'\"]/}"
    [[ "$line" == *[[:space:]] ]] && words+=("")
    local current="${words[${#words[@]}-1]}"
    # What stands before the last character that bash breaks words at is there already.
    local sign
    for sign in @ = :; do
        [[ "$COMP_WORDBREAKS" == *"$sign"* ]] && breaks+="$sign"
    done
    local rest="$current"
    [[ -n "$breaks" ]] && rest="${current##*[$breaks]}"
    local there="${current%"$rest"}"
    COMPREPLY=()
    while IFS= read -r reply || [[ -n "$reply" ]]; do
        COMPREPLY+=("${reply#"$there"}")
    done < <(_CLAP_IFS=$'\n' _CLAP_COMPLETE_INDEX=$(( ${#words[@]} - 1 )) VARIABLE=bash COMPLETER -- "${words[@]}" 2> /dev/null)
    if [[ ${#COMPREPLY[@]} -eq 1 && "${COMPREPLY[0]}" == *[=/] ]]; then
        compopt -o nospace 2> /dev/null
    fi
}
complete -o bashdefault -o nosort -F _vadpipe vadpipe 2> /dev/null || complete -o bashdefault -F _vadpipe vadpipe
"#;

impl EnvCompleter for WholeWordBash {
    fn name(&self) -> &'static str {
        "bash"
    }

    fn is(&self, name: &str) -> bool {
        name == "bash"
    }

    fn write_registration(
        &self,
        variable: &str,
        _name: &str,
        _bin: &str,
        completer: &str,
        out: &mut dyn io::Write,
    ) -> Result<(), io::Error> {
        let quoted = format!("'{}'", completer.replace('\'', r"'\''"));
        write!(out, "{}", BASH.replace("VARIABLE", variable).replace("COMPLETER", &quoted))
    }

    fn write_complete(
        &self,
        command: &mut clap::Command,
        words: Vec<OsString>,
        folder: Option<&Path>,
        out: &mut dyn io::Write,
    ) -> Result<(), io::Error> {
        Bash.write_complete(command, words, folder, out)
    }
}
