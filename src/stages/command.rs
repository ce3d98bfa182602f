//! `command`: a stage in any language. A program gets its inputs as files and leaves its outputs as files.
//!
//! ```toml
//! [stages.summary]
//! kind = "command"
//! inputs = { data = "data", fits = ["fit@*"] }
//! argv = ["python3", "scripts/summarise.py", "{inputs.data}", "{outputs.plot}", "--metrics", "{metrics}"]
//! outputs = { plot = "plot.png", table = "table.safetensors" }
//! sources = ["scripts/helpers.py"]     # more files, or folders, that change the result
//! env = ["OMP_NUM_THREADS"]            # handed through if set; the values are in the key
//! pass_env = ["CUDA_VISIBLE_DEVICES"]  # handed through if set; not in the key
//! timeout_seconds = 600                # 0, the default, means none
//! shell = false                        # true: argv's first word is a script for /bin/sh, the others are its $1, $2, …
//! ```
//!
//! **Input.** The program starts in an empty folder and writes its outputs there. These placeholders are replaced by
//! paths:
//!
//! - `{inputs.ROLE}`: a folder with `artifact.safetensors` (all tensors), `metrics.json`, `facts.json` and the files of
//!   the input. Each member of a list has its own folder below it, named by its label. A single input can't be
//!   distinguished from a list of one, so its files are in both places.
//! - `{outputs.ROLE}`: the file for an output.
//! - `{metrics}`: the file for an optional JSON object of numbers. `NaN`, `Infinity` and `-Infinity` are numbers, too.
//! - `{seed}`: the seed of the stage. It is in the key if argv contains it.
//! - `{device}`: `cpu`, or `cuda:0` with the number of the GPU. It is not in the key.
//! - `{checkpoint}`: a folder that survives a kill, an interruption and a failure until the result is stored. The
//!   program finds there what it saved before, and continues from it. The folder belongs to the key: after a change,
//!   also of a file that the program read, it is empty. `-f` empties it, too. `VADPIPE_CHECKPOINT` has the same path.
//! - `{base}`: a mirror of the pipeline's folder. It has copies of `sources` and of the files that argv names, so an
//!   edit while the program runs changes only later runs. Everything else in it, also a folder, is a link to the
//!   original; `find` does not follow links. What the program creates or replaces in the mirror is moved to the
//!   original folder afterwards. `{base}/PATH` is the original, unless `PATH` was copied.
//!
//! Other braces are not changed. In a shell script, paths are quoted if necessary. The environment contains only
//! `PATH`, the variables in `env` and `pass_env`, `HOME` and `TMPDIR` (a scratch folder), `VADPIPE_INPUTS`,
//! `VADPIPE_OUTPUTS`, `VADPIPE_METRICS`, `VADPIPE_SCRATCH`, `VADPIPE_DEPFILE`, and `PYTHONPATH` (see below).
//!
//! **Output.** The tensors of a `.safetensors` output keep their names if it is the only such output; otherwise they
//! are named `ROLE.NAME`. Every other output becomes a file of the artifact under its file name. Outputs must be
//! regular files in the output folder: links, absolute paths and `..` are errors. Files that are not declared are
//! logged and dropped.
//!
//! **Key.** The parameters in the key are argv before replacement, `outputs`, `shell`, `sources` and the names in
//! `env`. The contents in the key are the files of `sources`, the files next to the pipeline that argv names, and the
//! values of `env`. A word of argv that names a file is replaced by the path of its copy in the mirror. The program
//! itself counts as a file only if its name contains a `/`, and a word of a script only if it contains a `/` or a `.`.
//! `PATH` and the time-out are not in the key.
//!
//! **Files that the program reads** besides these enter the key after the run, if they belong to the project: see
//! [`Context::dep_file`]. The program runs again when one of them changes. A Python program needs nothing for this: a
//! module on `PYTHONPATH` lists what it imports and opens. It does not see files that native code opens, such as HDF5
//! or OpenCV: name these in `sources`. A program in another language writes a path a line to the file
//! `VADPIPE_DEPFILE`.
//!
//! This is the only place in the library that reads the environment: a declared variable is an input like a file.
//!
//! **End.** The program leads a process group. At the time-out or an interruption, the group gets SIGTERM and, two
//! seconds later, SIGKILL. Descendants that still run after the program has ended get the same signals, in whatever
//! group or session they are. If vadpipe is killed, they are killed at once: see `supervisor`.

mod family;
mod files;
mod folders;
mod process;
mod supervisor;
#[cfg(test)]
mod tests;
mod words;

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::path::{Component, Path};
use std::sync::Arc;
use std::time::Duration;

pub(crate) use self::family::supervise_with;
use self::folders::{CommandPaths, Folders, file_name};
pub(crate) use self::supervisor::{SUPERVISE, supervise};
use crate::artifact::Artifact;
use crate::diagnostic::nearest;
use crate::key::{Digest, Hash};
use crate::stage::{About, Capability, Context, Files, Params, Reads, Roles, Stage, StageError, StageKind};
use crate::value::{Data, Node};

/// The kind `command`.
pub struct Kind;

/// A command with its parameters.
struct Command {
    argv: Vec<String>,
    /// Paths below the output folder, by role.
    outputs: BTreeMap<String, String>,
    sources: Vec<String>,
    env: Vec<String>,
    pass_env: Vec<String>,
    timeout: Option<Duration>,
    shell: bool,
}

/// Names of files that vadpipe writes to an input folder. An output can't have such a name.
const RESERVED: [&str; 3] = ["artifact.safetensors", "metrics.json", "facts.json"];

impl StageKind for Kind {
    fn about(&self) -> About {
        About {
            roles: Roles::Any,
            provides: &[Capability::OUTPUTS],
            heading: "Commands",
            ..About::new("command", 1, "run your own program, in any language; inputs and outputs are files")
        }
    }

    fn parse(&self, params: &mut Params<'_>) -> Arc<dyn Stage> {
        let argv = params.words("argv");
        if !params.is_given("argv") {
            params.error("argv", "`argv` is missing", "give the program and its arguments: argv = [\"python3\", …]");
        }
        let given = argv.is_some();
        let argv = argv.unwrap_or_default();
        if given && argv.first().is_none_or(String::is_empty) || argv.iter().any(|w| w.contains('\0')) {
            params.error(
                "argv",
                "`argv` is empty, begins with an empty word or contains a NUL",
                "its first word is the program",
            );
        }
        let outputs = params.node("outputs").map(|node| read_outputs(params, &node)).unwrap_or_default();
        let sources = params.texts("sources").unwrap_or_default();
        let env = params.texts("env").unwrap_or_default();
        let pass_env = params.texts_unhashed("pass_env").unwrap_or_default();
        for (list, name) in env.iter().map(|name| ("env", name)).chain(pass_env.iter().map(|name| ("pass_env", name))) {
            if name.is_empty() || name.contains(['=', '\0']) || name.starts_with("VADPIPE_") {
                let message = format!("the program can't get the variable `{name}`");
                let help =
                    format!("`{list}` lists the names of variables; names that begin with VADPIPE_ are reserved");
                params.error(list, message, help);
            }
        }
        let timeout = params.int_unhashed("timeout_seconds", 0, 0..=31_536_000);
        let shell = params.bool("shell", false);
        check_placeholders(params, &argv, &outputs);
        let timeout = u64::try_from(timeout).ok().filter(|s| *s > 0).map(Duration::from_secs);
        Arc::new(Command { argv, outputs, sources, env, pass_env, timeout, shell })
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
            let message = format!("`{}` is not a valid name for an output", entry.name);
            params.error_at(&entry.name_origin, message, "a name consists of A–Z, a–z, 0–9, `_` and `-`");
            continue;
        }
        let Data::Text(path) = &entry.node.data else {
            let message = format!("an output must be a string, not {}", entry.node.data.describe());
            params.error_at(&entry.node.origin, message, FORM);
            continue;
        };
        if let Some(problem) = output_problem(path) {
            let message = format!("the output `{path}` {problem}");
            params.error_at(&entry.node.origin, message, "an output is a path below the output folder of the stage");
            continue;
        }
        let name = file_name(path);
        let rival = outputs.values().map(|other| file_name(other)).find(|o| o.to_lowercase() == name.to_lowercase());
        if rival == Some(name) {
            let message = format!("two outputs have the file name `{name}`");
            params.error_at(&entry.node.origin, message, "the files of an artifact need different names");
        } else if let Some(rival) = rival {
            let message = format!("the outputs `{rival}` and `{name}` differ only in case");
            params.error_at(&entry.node.origin, message, "some file systems ignore case");
        }
        outputs.insert(entry.name.clone(), path.clone());
    }
    outputs
}

/// Why a path is not valid for an output.
fn output_problem(path: &str) -> Option<&'static str> {
    let as_path = Path::new(path);
    if path.is_empty() || path.contains('\0') || path.ends_with('/') {
        return Some("is not a file");
    }
    if as_path.is_absolute() {
        return Some("is absolute");
    }
    if as_path.components().any(|c| c == Component::ParentDir) {
        return Some("contains `..`");
    }
    if path.split('/').any(|c| c.is_empty() || c == ".") {
        return Some("contains an empty part or `.`");
    }
    RESERVED.iter().any(|r| r.eq_ignore_ascii_case(file_name(path))).then_some("has a reserved name")
}

fn check_placeholders(params: &mut Params<'_>, argv: &[String], outputs: &BTreeMap<String, String>) {
    for role in argv.iter().flat_map(|word| words::roles(word, "inputs")) {
        if params.has_input(&role) == Some(false) {
            let message = format!("`argv` contains `{{inputs.{role}}}`, but the stage has no such input");
            params.error("argv", message, format!("add it: `inputs = {{ {role} = \"STAGE\" }}`"));
        }
    }
    for (wrong, meant) in argv.iter().filter_map(|word| words::misspelled(word)) {
        let message = format!("`argv` contains `{{{wrong}}}`, which is not a placeholder");
        params.error("argv", message, format!("did you mean `{{{meant}}}`?"));
    }
    for role in argv.iter().flat_map(|word| words::roles(word, "outputs")) {
        if outputs.contains_key(&role) {
            continue;
        }
        let help = match nearest(&role, outputs.keys().map(String::as_str)) {
            Some(near) => format!("did you mean `{{outputs.{near}}}`?"),
            None => "declare it: `outputs = { … }`".to_owned(),
        };
        params.error("argv", format!("`argv` contains `{{outputs.{role}}}`, but the stage has no such output"), help);
    }
}

impl Stage for Command {
    fn reads(&self) -> Reads {
        let seed = self.argv.iter().any(|word| words::has_placeholder(word, "seed"));
        Reads { seed, precision: false, files: true }
    }

    fn contents(&self, files: &dyn Files) -> Result<BTreeMap<String, Digest>, StageError> {
        self.check_script(files)?;
        let mut contents = BTreeMap::new();
        for name in self.files(files)? {
            let digest = files.digest(&files.resolve(&name)).map_err(StageError::io(format!("can't read {name}")))?;
            contents.insert(format!("file {name}"), digest);
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

    fn program_files(&self, files: &dyn Files) -> Result<Option<BTreeSet<String>>, StageError> {
        self.files(files).map(Some)
    }

    fn uses_checkpoint(&self) -> bool {
        self.argv.iter().any(|word| words::has_placeholder(word, "checkpoint"))
    }

    fn run(&self, context: &Context<'_>) -> Result<Artifact, StageError> {
        let folders = Folders::create(context)?;
        for role in self.argv.iter().flat_map(|word| words::roles(word, "inputs")) {
            if !context.inputs.0.contains_key(&role) {
                let known: Vec<&str> = context.inputs.0.keys().map(String::as_str).collect();
                let hint =
                    format!("its inputs are: {}", if known.is_empty() { "none".into() } else { known.join(", ") });
                let message = format!("`argv` contains `{{inputs.{role}}}`, but the stage has no such input");
                return Err(StageError::bad_input(message, hint));
            }
        }
        files::write_inputs(&context.inputs, &folders.inputs, context.cancel)?;
        files::make_parents(&self.outputs, &folders.outputs)?;
        process::run(&self.invocation(&folders, context), context)?;
        files::collect(&self.outputs, &folders, context)
    }
}

impl Command {
    /// Fails if the script of an interpreter does not exist. Otherwise the interpreter would fail in the run.
    fn check_script(&self, files: &dyn Files) -> Result<(), StageError> {
        let Some(script) = words::script(&self.argv).filter(|_| !self.shell) else { return Ok(()) };
        let path = files.resolve(script);
        match path.try_exists() {
            Ok(false) => {
                let message = format!("`argv` names the script `{script}`, which does not exist");
                Err(StageError::bad_input(message, format!("looked for {}", path.display())))
            }
            _ => Ok(()),
        }
    }

    /// The files that argv names, and those of `sources`.
    fn files(&self, files: &dyn Files) -> Result<BTreeSet<String>, StageError> {
        let mut names = words::files_named(&self.argv, self.shell, &|name| files.resolve(name).is_file());
        for source in &self.sources {
            names.extend(files::source_files(source, files)?);
        }
        Ok(names)
    }

    fn invocation(&self, folders: &Folders, context: &Context<'_>) -> process::Invocation {
        let Context { device, checkpoint, .. } = *context;
        let paths = CommandPaths { folders, outputs: &self.outputs, seed: context.streams.seed(), device, checkpoint };
        let words = self.argv.iter().enumerate();
        let argv: Vec<OsString> =
            words.map(|(at, word)| words::expand(word, words::Place::of(at, self.shell), &paths)).collect();
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
        for name in self.env.iter().chain(&self.pass_env).map(String::as_str).chain(["PATH"]) {
            if let Some(value) = std::env::var_os(name) {
                environment.insert(name.to_owned(), value);
            }
        }
        environment.insert("VADPIPE_INPUTS".to_owned(), folders.inputs.clone().into());
        environment.insert("VADPIPE_OUTPUTS".to_owned(), folders.outputs.clone().into());
        environment.insert("VADPIPE_METRICS".to_owned(), folders.metrics.clone().into());
        environment.insert("VADPIPE_SCRATCH".to_owned(), folders.scratch.clone().into());
        if let Some(checkpoint) = checkpoint {
            environment.insert("VADPIPE_CHECKPOINT".to_owned(), checkpoint.into());
        }
        if let Some(list) = context.dep_file {
            environment.insert("VADPIPE_DEPFILE".to_owned(), list.into());
            let declared = environment.remove("PYTHONPATH").filter(|path| !path.is_empty());
            let mut path = folders.python.clone().into_os_string();
            if let Some(declared) = declared {
                path.push(":");
                path.push(declared);
            }
            environment.insert("PYTHONPATH".to_owned(), path);
        }
        let folder = folders.outputs.clone();
        process::Invocation { argv, environment, folder, timeout: self.timeout }
    }
}
