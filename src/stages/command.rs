//! `command`: a stage in any language. A program gets its inputs as files and leaves its outputs as files.
//!
//! ```toml
//! [stages.summary]
//! kind = "command"
//! inputs = { data = "data", fits = ["fit@*"] }
//! argv = ["python3", "scripts/summarise.py", "{inputs.data}", "{outputs.plot}", "--metrics", "{metrics}"]
//! outputs = { plot = "plot.png", table = "table.safetensors" }
//! sources = ["scripts/helpers.py"]     # more files, or folders, that change the result
//! env = ["OMP_NUM_THREADS"]            # handed through if set
//! timeout_seconds = 600                # 0, the default, means none
//! shell = false                        # true: argv's first word is a script for /bin/sh, the others are its $1, $2, …
//! ```
//!
//! **What the program sees.** It starts in an empty folder of its own, where it writes its outputs. `{inputs.ROLE}` is a
//! folder with `artifact.safetensors` (all tensors), `metrics.json`, `facts.json` and the plain files of that input; the
//! members of a list lie in folders below it, each under its label (a list of one can't be told from a single input, so
//! its files lie in both places). `{outputs.ROLE}` is the path to write that output to, `{metrics}` that of an optional
//! JSON object of numbers, `{base}` the folder of the pipeline file. Other braces stay as they are. In a shell script,
//! paths are quoted where they need to be. The environment is empty but for `PATH`, what `env` names, `HOME` and `TMPDIR`
//! (a scratch folder), and `VADPIPE_INPUTS`, `VADPIPE_OUTPUTS`, `VADPIPE_METRICS`, `VADPIPE_SCRATCH`.
//!
//! **What it leaves.** A `.safetensors` output becomes tensors: under their own names if it is the only one, else as
//! `ROLE.NAME`. Any other output becomes a file of the artifact, by its file name. Outputs must be plain files in the
//! output folder: links, absolute paths and `..` are refused. What was not declared is named in the log and dropped.
//!
//! **What is in the key.** argv unexpanded, `outputs`, `shell`, `sources` and the names in `env` as parameters; by content
//! each file of `sources`, each file beside the pipeline that argv names (such a word becomes an absolute path; the
//! program itself and words of a script need a `/` or, in a script, a `.` to count), and the values of `env`. Not in the
//! key: `PATH` and thus which version of a program it finds, the time-out, and whatever else the program reads.
//!
//! This is the one place in the library that reads the environment: a declared variable is an input like a file.
//!
//! **How it ends.** The program leads a process group. At the time-out or an interruption the whole group gets SIGTERM and
//! two seconds later SIGKILL. Processes that are still running when the program has ended get the same signals, and so do
//! those that left the group with `setsid` or `setpgid`: a descendant is recognised by `VADPIPE_SCRATCH` in its
//! environment or, in the program `vadpipe`, also without it by its parent. One that cleared its environment while other
//! commands run is ended together with the last of these. A process of another user (after `sudo`, say) can't be ended.

mod descendants;
mod files;
mod process;
#[cfg(test)]
mod tests;
mod words;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

pub(crate) use self::descendants::{adopt_orphans, kill_children};
use crate::artifact::Artifact;
use crate::diagnostic::nearest;
use crate::key::{Digest, Hash};
use crate::stage::{About, Capability, Context, Files, Params, Roles, Stage, StageError, StageKind};
use crate::value::{Data, Node};

/// The kind `command`.
pub struct Kind;

/// A command with its parameters.
struct Command {
    argv: Vec<String>,
    /// File name below the output folder, by role.
    outputs: BTreeMap<String, String>,
    sources: Vec<String>,
    env: Vec<String>,
    timeout: Option<Duration>,
    shell: bool,
}

/// File names in an input folder that are ours, so that no output may take them.
const RESERVED: [&str; 3] = ["artifact.safetensors", "metrics.json", "facts.json"];

impl StageKind for Kind {
    fn about(&self) -> About {
        About {
            roles: Roles::Any,
            provides: &[Capability::OUTPUTS],
            heading: "Commands",
            ..About::new(
                "command",
                1,
                "a program of yours: inputs and outputs as files, so that a stage can be written in any language",
            )
        }
    }

    fn parse(&self, params: &mut Params<'_>) -> Arc<dyn Stage> {
        let argv = params.texts("argv");
        if !params.is_given("argv") {
            params.error("argv", "`argv` is missing", "give the program and its arguments: argv = [\"python3\", …]");
        }
        let given = argv.is_some();
        let argv = argv.unwrap_or_default();
        if given && argv.first().is_none_or(String::is_empty) || argv.iter().any(|w| w.contains('\0')) {
            params.error(
                "argv",
                "`argv` is empty, begins with an empty word or holds a NUL",
                "its first word is the program",
            );
        }
        let outputs = params.node("outputs").map(|node| read_outputs(params, &node)).unwrap_or_default();
        let sources = params.texts("sources").unwrap_or_default();
        let env = params.texts("env").unwrap_or_default();
        for name in &env {
            if name.is_empty() || name.contains(['=', '\0']) || name.starts_with("VADPIPE_") {
                let message = format!("`{name}` can't be handed through");
                params.error("env", message, "`env` lists names of variables; those that begin with VADPIPE_ are ours");
            }
        }
        let timeout = params.int_unhashed("timeout_seconds", 0, 0..=31_536_000);
        let shell = params.bool("shell", false);
        check_placeholders(params, &argv, &outputs);
        let timeout = u64::try_from(timeout).ok().filter(|s| *s > 0).map(Duration::from_secs);
        Arc::new(Command { argv, outputs, sources, env, timeout, shell })
    }
}

fn read_outputs(params: &mut Params<'_>, node: &Node) -> BTreeMap<String, String> {
    const FORM: &str = "write `outputs = { plot = \"plot.png\" }`: a name, and a path below the output folder";
    let mut outputs: BTreeMap<String, String> = BTreeMap::new();
    let Data::Table(table) = &node.data else {
        params.error_at(&node.origin, format!("`outputs` must be a table, not {}", node.data.describe()), FORM);
        return outputs;
    };
    for entry in &table.0 {
        if !words::is_name(&entry.name) {
            let message = format!("`{}` is no name for an output", entry.name);
            params.error_at(&entry.name_origin, message, "a name is made of A–Z, a–z, 0–9, `_` and `-`");
            continue;
        }
        let Data::Text(path) = &entry.node.data else {
            let message = format!("an output must be a string, not {}", entry.node.data.describe());
            params.error_at(&entry.node.origin, message, FORM);
            continue;
        };
        if let Some(problem) = output_problem(path) {
            let message = format!("the output `{path}` {problem}");
            params.error_at(&entry.node.origin, message, "an output lies below the stage's own output folder");
            continue;
        }
        let name = file_name(path);
        let rival = outputs.values().map(|other| file_name(other)).find(|o| o.to_lowercase() == name.to_lowercase());
        if rival == Some(name) {
            let message = format!("two outputs have the file name `{name}`");
            params.error_at(&entry.node.origin, message, "an artifact's files are known by their names");
        } else if let Some(rival) = rival {
            let message = format!("the outputs `{rival}` and `{name}` differ only in case");
            params.error_at(&entry.node.origin, message, "on some disks upper and lower case make no difference");
        }
        outputs.insert(entry.name.clone(), path.clone());
    }
    outputs
}

/// Why a path can't be that of an output.
fn output_problem(path: &str) -> Option<&'static str> {
    let as_path = Path::new(path);
    if path.is_empty() || path.contains('\0') || path.ends_with('/') {
        return Some("is no file");
    }
    if as_path.is_absolute() {
        return Some("is absolute");
    }
    if as_path.components().any(|c| c == Component::ParentDir) {
        return Some("climbs out with `..`");
    }
    if path.split('/').any(|c| c.is_empty() || c == ".") {
        return Some("is not written plainly");
    }
    RESERVED.iter().any(|r| r.eq_ignore_ascii_case(file_name(path))).then_some("has a name that vadpipe uses beside it")
}

/// The last component of an output's path.
fn file_name(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

fn check_placeholders(params: &mut Params<'_>, argv: &[String], outputs: &BTreeMap<String, String>) {
    for role in argv.iter().flat_map(|word| words::roles(word, "inputs")) {
        if params.has_input(&role) == Some(false) {
            let message = format!("`argv` names `{{inputs.{role}}}`, which is no input");
            params.error("argv", message, format!("add it: `inputs = {{ {role} = \"STAGE\" }}`"));
        }
    }
    for role in argv.iter().flat_map(|word| words::roles(word, "outputs")) {
        if outputs.contains_key(&role) {
            continue;
        }
        let help = match nearest(&role, outputs.keys().map(String::as_str)) {
            Some(near) => format!("did you mean `{{outputs.{near}}}`?"),
            None => "declare it: `outputs = { … }`".to_owned(),
        };
        params.error("argv", format!("`argv` names `{{outputs.{role}}}`, which is not declared"), help);
    }
}

impl Stage for Command {
    fn contents(&self, files: &dyn Files) -> Result<BTreeMap<String, Digest>, StageError> {
        let mut contents = BTreeMap::new();
        for name in words::files_named(&self.argv, self.shell, &|name| files.resolve(name).is_file()) {
            let digest = files.digest(&files.resolve(&name)).map_err(StageError::io(format!("can't read {name}")))?;
            contents.insert(format!("file {name}"), digest);
        }
        for source in &self.sources {
            for name in files::source_files(source, files)? {
                let path = files.resolve(&name);
                let digest = files.digest(&path).map_err(StageError::io(format!("can't read the source {name}")))?;
                contents.insert(format!("file {name}"), digest);
            }
        }
        for name in &self.env {
            let mut hash = Hash::new("environment");
            match std::env::var_os(name) {
                Some(value) => hash.text("set").digest(&Digest::of(value.as_encoded_bytes())),
                None => hash.text("not set"),
            };
            contents.insert(format!("env {name}"), hash.finish());
        }
        Ok(contents)
    }

    fn run(&self, context: &Context<'_>) -> Result<Artifact, StageError> {
        let folders = Folders::create(context.scratch, context.base)?;
        for role in self.argv.iter().flat_map(|word| words::roles(word, "inputs")) {
            if !context.inputs.0.contains_key(&role) {
                let known: Vec<&str> = context.inputs.0.keys().map(String::as_str).collect();
                let hint =
                    format!("its inputs are: {}", if known.is_empty() { "none".into() } else { known.join(", ") });
                return Err(StageError::bad_input(
                    format!("`argv` names `{{inputs.{role}}}`, which is no input"),
                    hint,
                ));
            }
        }
        files::write_inputs(&context.inputs, &folders.inputs, context.cancel)?;
        files::make_parents(&self.outputs, &folders.outputs)?;
        process::run(&self.invocation(&folders)?, context)?;
        files::collect(&self.outputs, &folders, context)
    }
}

impl Command {
    fn invocation(&self, folders: &Folders) -> Result<process::Invocation, StageError> {
        let expand = |at: usize, word: &String| {
            let place = words::Place::of(at, self.shell);
            words::expand(word, place, &|name| folders.base.join(name).is_file(), &|name| {
                folders.placeholder(name, &self.outputs)
            })
        };
        let argv: Vec<OsString> = self.argv.iter().enumerate().map(|(at, word)| expand(at, word)).collect();
        let argv = if self.shell {
            let script = argv.first().cloned().unwrap_or_default();
            let head = ["/bin/sh".into(), "-c".into(), script, "sh".into()];
            head.into_iter().chain(argv.into_iter().skip(1)).collect()
        } else {
            argv
        };
        let mut environment: BTreeMap<String, OsString> = BTreeMap::from([
            ("HOME".to_owned(), folders.scratch.clone().into()),
            ("TMPDIR".to_owned(), folders.scratch.clone().into()),
        ]);
        for name in self.env.iter().map(String::as_str).chain(["PATH"]) {
            if let Some(value) = std::env::var_os(name) {
                environment.insert(name.to_owned(), value);
            }
        }
        environment.insert("VADPIPE_INPUTS".to_owned(), folders.inputs.clone().into());
        environment.insert("VADPIPE_OUTPUTS".to_owned(), folders.outputs.clone().into());
        environment.insert("VADPIPE_METRICS".to_owned(), folders.metrics.clone().into());
        environment.insert("VADPIPE_SCRATCH".to_owned(), folders.scratch.clone().into());
        let folder = folders.outputs.clone();
        Ok(process::Invocation { argv, environment, folder, timeout: self.timeout })
    }
}

/// Where a command's files lie, all absolute.
struct Folders {
    inputs: PathBuf,
    outputs: PathBuf,
    metrics: PathBuf,
    scratch: PathBuf,
    base: PathBuf,
}

impl Folders {
    fn create(scratch: &Path, base: &Path) -> Result<Self, StageError> {
        let absolute = |path: &Path| -> io::Result<PathBuf> {
            if path.as_os_str().is_empty() { std::env::current_dir() } else { std::path::absolute(path) }
        };
        let root = absolute(scratch).map_err(StageError::io("can't find the scratch folder"))?;
        let base = absolute(base).map_err(StageError::io("can't find the pipeline's folder"))?;
        let folders = Self {
            inputs: root.join("inputs"),
            outputs: root.join("outputs"),
            metrics: root.join("metrics.json"),
            scratch: root.join("scratch"),
            base,
        };
        for folder in [&folders.inputs, &folders.outputs, &folders.scratch] {
            let what = format!("can't make the folder {}", folder.display());
            std::fs::create_dir_all(folder).map_err(StageError::io(what))?;
        }
        Ok(folders)
    }

    /// What a placeholder (`inputs.data`, `metrics`, …) stands for.
    fn placeholder(&self, name: &str, outputs: &BTreeMap<String, String>) -> Option<PathBuf> {
        match name.split_once('.') {
            None if name == "metrics" => Some(self.metrics.clone()),
            None if name == "base" => Some(self.base.clone()),
            Some(("inputs", role)) => Some(self.inputs.join(role)),
            Some(("outputs", role)) => outputs.get(role).map(|path| self.outputs.join(path)),
            _ => None,
        }
    }
}
