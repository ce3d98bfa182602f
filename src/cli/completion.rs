//! Shell completions that include the stages and points of the pipeline on the command line.
//!
//! `vadpipe completions SHELL` prints a small script. To complete a word, the script runs the program with [`VARIABLE`]
//! set and passes the words so far after a `--`. [`answer`] prints the candidates and exits.
//!
//! The script for bash is ours. bash splits words at the characters of `COMP_WORDBREAKS`, which include `@`, `=` and
//! `:`. It would split `ad@lr=0.1` into five words. So the script splits the line at white space and removes from each
//! candidate the part that bash does not count as the current word.

use std::ffi::{OsStr, OsString};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use clap_complete::CompleteEnv;
use clap_complete::engine::{CompletionCandidate, PathCompleter, ValueCompleter as _};
use clap_complete::env::{Bash, Elvish, EnvCompleter, Fish, Powershell, Shells, Zsh};

use crate::error::{Error, Result};
use crate::file;
use crate::id::PointName;
use crate::spec::{MAX_BYTES, Spec, load};
use crate::stage::Registry;

/// The scripts set this variable to the name of the shell.
const VARIABLE: &str = "VADPIPE_COMPLETE";
const NAME: &str = "vadpipe";
/// With more points, only stages are offered until the user types an `@`.
const MOST_POINTS: usize = 60;

const SHELLS: Shells<'static> = Shells(&[&WholeWordBash, &Elvish, &Fish, &Powershell, &Zsh]);

/// The stage kinds of the program. A static, because clap calls completers without context.
static KINDS: OnceLock<Registry> = OnceLock::new();

/// If a shell asks for completions, prints them and exits. `command` is the command line to complete.
pub(super) fn answer(registry: &Registry, command: fn() -> clap::Command) {
    if std::env::var_os(VARIABLE).is_none() {
        return;
    }
    let _ = KINDS.set(registry.clone());
    CompleteEnv::with_factory(command).var(VARIABLE).shells(SHELLS).complete();
}

/// The script that connects a shell with this program.
///
/// # Errors
/// If there is no script for this shell.
pub(super) fn script(shell: &str) -> Result<String> {
    let failed = || Error::bad_input(format!("completions for {shell} are not supported"));
    let completer = SHELLS.completer(shell).ok_or_else(failed)?;
    let mut script = Vec::new();
    let written = completer.write_registration(VARIABLE, NAME, NAME, &program(), &mut script);
    written.map_err(|e| failed().caused_by(e))?;
    Ok(String::from_utf8_lossy(&script).into_owned())
}

/// The command that runs this program: its name if it was found in `PATH`, else its path.
fn program() -> String {
    let called = std::env::args_os().next().map(PathBuf::from).unwrap_or_default();
    let path = if called.components().count() > 1 { std::path::absolute(&called).ok() } else { None };
    path.map_or_else(|| NAME.to_owned(), |path| path.display().to_string())
}

/// Completes the path of a pipeline file.
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

/// Completes the arguments of `diff`: files, and the points of the first file.
pub(super) fn compared(current: &OsStr) -> Vec<CompletionCandidate> {
    targets(current).into_iter().chain(files(current)).collect()
}

/// The first word that is a pipeline file.
fn pipeline(words: impl Iterator<Item = OsString>) -> Option<PathBuf> {
    words.map(PathBuf::from).find(|p| p.extension().is_some_and(|e| e == "toml") && p.is_file())
}

/// Loads a pipeline; `None` if it is invalid, because a completion must not print errors.
fn read(path: &Path) -> Option<Spec> {
    let text = String::from_utf8(file::read(path, MAX_BYTES).ok()?).ok()?;
    let base = path.parent().unwrap_or(Path::new("."));
    load(&text, &path.display().to_string(), base, &[], KINDS.get()?).ok()
}

/// The stages that begin with `current`, and their points unless there are too many, with their kinds.
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

/// bash, with words that are split only at white space.
struct WholeWordBash;

const BASH: &str = r#"_vadpipe() {
    local line="${COMP_LINE:0:COMP_POINT}" breaks="" reply
    local -a words
    # Quotes are not part of a word.
    IFS=$' \t\n' read -r -a words <<< "${line//[\'\"]/}"
    [[ "$line" == *[[:space:]] ]] && words+=("")
    local current="${words[${#words[@]}-1]}"
    # bash keeps the part before the last character that it splits words at.
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
        let quoted = shlex::try_quote(completer).map_err(io::Error::other)?;
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
