//! `command`: a stage in any language. A program gets its inputs as files and leaves its outputs as files.
//!
//! ```toml
//! [stages.summary]
//! kind = "command"
//! inputs = { data = "data", fits = ["fit@*"] }
//! argv = ["python3", "scripts/summarise.py", "{inputs.data}", "{outputs.plot}", "--metrics", "{metrics}"]
//! outputs = { plot = "plot.png", table = "table.safetensors", model = "model/" }   # `/` at the end: a folder
//! paths = { images = "data/images" }   # files and folders as inputs, by their content
//! sources = ["scripts/helpers.py"]     # more files, or folders, that change the result
//! env = ["OMP_NUM_THREADS"]            # handed through if set; the values are in the key
//! pass_env = ["WANDB_API_KEY"]         # handed through if set; not in the key
//! gpus = 1                             # GPUs of its own, named in its CUDA_VISIBLE_DEVICES; not in the key
//! home = "user"                        # the user's HOME; "scratch", the default: an empty folder
//! timeout_seconds = 600                # 0, the default, means none
//! retries = 2                          # starts the program again after a failure; 0, the default, does not
//! shell = false                        # true: argv's first word is a script for /bin/sh, the others are its $1, $2, …
//! ```
//!
//! **Input.** The program starts in an empty folder and writes its outputs there. These placeholders are replaced by
//! paths:
//!
//! - `{inputs.ROLE}`: a folder with `artifact.safetensors` (all tensors), `metrics.json`, `facts.json` and the files of
//!   the input. Each member of a list has its own folder below it, named by its label, with the values of its axes in
//!   `values.json`. A single input can't be distinguished from a list of one, so its files are in both places. If
//!   `paths` names the role: the path of the file or the folder.
//! - `{outputs.ROLE}`: the file or the folder for an output.
//! - `{metrics}`: the file for an optional JSON object of numbers. `NaN`, `Infinity` and `-Infinity` are numbers, too.
//! - `{seed}`: the seed of the stage. It is in the key if argv contains it.
//! - `{device}`: `cpu`, or `cuda:0` with the number of the GPU. With `gpus`, it is `cuda:0`, the first of the program's
//!   own. It is not in the key.
//! - `{checkpoint}`: a folder that survives a kill, an interruption and a failure until the result is stored. The
//!   program finds there what it saved before, and continues from it. The folder belongs to the key: after a change,
//!   also of a file that the program read, it is empty. `-f` empties it, too. `VADPIPE_CHECKPOINT` has the same path.
//! - `{base}`: a mirror of the pipeline's folder. It has copies of `sources` and of the files that argv names, so an
//!   edit while the program runs changes only later runs. Everything else in it, also a folder, is a link to the
//!   original; `find` does not follow links. What the program creates or replaces in the mirror is moved to the
//!   original folder afterwards. `{base}/PATH` is the original, unless `PATH` was copied.
//!
//! Other braces are not changed. In a shell script, paths are quoted if necessary. The environment contains only
//! `PATH`, the variables in `env` and `pass_env`, with `gpus` `CUDA_VISIBLE_DEVICES`, `HOME` and `TMPDIR` (a scratch
//! folder), `VADPIPE_INPUTS`, `VADPIPE_OUTPUTS`, `VADPIPE_METRICS`, `VADPIPE_SCRATCH`, `VADPIPE_DEPFILE`, and for
//! Python `PYTHONPATH` (see below) and `PYTHONDONTWRITEBYTECODE`.
//!
//! **Output.** The tensors of a `.safetensors` output keep their names if it is the only such output; otherwise they
//! are named `ROLE.NAME`. Every other output becomes a file of the artifact under its file name, and the files of a
//! folder keep their paths in it. Outputs must be regular files in the output folder: links, absolute paths and `..`
//! are errors. Files that are not declared are logged and dropped.
//!
//! **Key.** The parameters in the key are argv before replacement, `outputs`, `shell`, `sources` and the names in
//! `env`. The contents in the key are the files of `sources`, the files next to the pipeline that argv names, and the
//! values of `env`. A word of argv that names a file is replaced by the path of its copy in the mirror. The program
//! itself counts as a file only if its name contains a `/`, and a word of a script only if it contains a `/` or a `.`.
//! `PATH`, the time-out, `retries` and `gpus` are not in the key.
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

mod folders;
mod inputs;
mod outputs;
mod process;
mod process_tree;
mod supervisor;
#[cfg(test)]
mod tests;
mod words;

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use rustix::fs::Access;

use self::folders::{CommandPaths, Folders};
pub(crate) use self::process_tree::supervise_with;
pub(crate) use self::supervisor::{SUPERVISE, supervise};
use super::gpus;
use crate::artifact::Artifact;
use crate::diagnostic::nearest;
use crate::key::{Digest, Hash};
use crate::stage::{About, Capability, Context, Files, Params, Reads, Roles, Stage, StageError, StageKind};

/// The kind `command`.
pub struct Kind;

/// A command with its parameters.
struct Command {
    argv: Vec<String>,
    /// Paths below the output folder, by role.
    outputs: BTreeMap<String, String>,
    /// Files and folders that are inputs, by role.
    paths: BTreeMap<String, String>,
    sources: Vec<String>,
    env: Vec<String>,
    pass_env: Vec<String>,
    /// Whether the program gets the user's HOME.
    keeps_home: bool,
    timeout: Option<Duration>,
    /// How often the program is started again after it failed.
    retries: i64,
    /// How many GPUs the program gets for itself.
    gpus: usize,
    shell: bool,
}

/// The values of `home`, and whether the program gets the user's HOME.
const HOMES: &[(&str, bool)] = &[("scratch", false), ("user", true)];

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
        params.describe("the program and its arguments, with placeholders such as {inputs.ROLE} and {metrics}");
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
        params.describe("what the program writes: paths by role; `/` at the end is a folder");
        let outputs = params.node("outputs").map(|node| outputs::parse(params, &node)).unwrap_or_default();
        params.describe("files and folders that are inputs by their content, by role");
        let paths = params.node("paths").map(|node| inputs::parse_paths(params, &node)).unwrap_or_default();
        params.describe("more files and folders that change the result");
        let sources = params.texts("sources").unwrap_or_default();
        params.describe("variables of the environment that the program gets; in the key");
        let env = params.texts("env").unwrap_or_default();
        params.describe("variables that the program gets; not in the key");
        let pass_env = params.texts_unhashed("pass_env").unwrap_or_default();
        for (list, name) in env.iter().map(|name| ("env", name)).chain(pass_env.iter().map(|name| ("pass_env", name))) {
            if name.is_empty() || name.contains(['=', '\0']) || name.starts_with("VADPIPE_") {
                let message = format!("the program can't get the variable `{name}`");
                let help =
                    format!("`{list}` lists the names of variables; names that begin with VADPIPE_ are reserved");
                params.error(list, message, help);
            }
        }
        let gpus = gpus::read(params, [("env", &env), ("pass_env", &pass_env)]);
        params.describe("the longest time; 0 means none");
        let timeout = params.int_unhashed("timeout_seconds", 0, 0..=31_536_000);
        params.describe("how often the program is started again after a failure");
        let retries = params.int_unhashed("retries", 0, 0..=100);
        params.describe("whether the first word of `argv` is a script for /bin/sh");
        let shell = params.bool("shell", false);
        params.describe("HOME of the program: an empty folder, or the user's");
        let keeps_home = params.choice_added("home", "scratch", HOMES);
        check_placeholders(params, &argv, &outputs, &paths);
        let timeout = u64::try_from(timeout).ok().filter(|s| *s > 0).map(Duration::from_secs);
        Arc::new(Command { argv, outputs, paths, sources, env, pass_env, keeps_home, timeout, retries, gpus, shell })
    }
}

fn check_placeholders(
    params: &mut Params<'_>,
    argv: &[String],
    outputs: &BTreeMap<String, String>,
    paths: &BTreeMap<String, String>,
) {
    for role in argv.iter().flat_map(|word| words::roles(word, "inputs")) {
        if params.has_input(&role) == Some(false) && !paths.contains_key(&role) {
            let message = format!("`argv` contains `{{inputs.{role}}}`, but the stage has no such input");
            params.error(
                "argv",
                message,
                format!("add it: `inputs = {{ {role} = \"STAGE\" }}` or `paths = {{ {role} = \"FILE\" }}`"),
            );
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
        for path in self.paths.values() {
            let digest = files.digest_all(&files.resolve(path)).map_err(|error| {
                let hint = format!("looked for {}: {error}", files.resolve(path).display());
                StageError::bad_input(format!("the input `{path}` can't be read"), hint)
            })?;
            contents.insert(format!("file {path}"), digest);
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

    fn program(&self) -> Option<String> {
        let name = self.argv.first().filter(|name| !self.shell && !name.contains('/'))?;
        let folders = std::env::var_os("PATH")?;
        let is_program = |path: &PathBuf| path.is_file() && rustix::fs::access(path, Access::EXEC_OK).is_ok();
        let found = std::env::split_paths(&folders).map(|folder| folder.join(name)).find(is_program)?;
        let file = found.canonicalize().unwrap_or_else(|_| found.clone());
        let target = if file == found { String::new() } else { format!(" → {}", file.display()) };
        Some(format!("{}{target}", found.display()))
    }

    fn gpus(&self) -> usize {
        self.gpus
    }

    fn uses_checkpoint(&self) -> bool {
        self.argv.iter().any(|word| words::has_placeholder(word, "checkpoint"))
    }

    fn run(&self, context: &Context<'_>) -> Result<Artifact, StageError> {
        let folders = Folders::create(context)?;
        for role in self.argv.iter().flat_map(|word| words::roles(word, "inputs")) {
            if !context.inputs.0.contains_key(&role) && !self.paths.contains_key(&role) {
                let known: Vec<&str> = context.inputs.0.keys().map(String::as_str).collect();
                let hint =
                    format!("its inputs are: {}", if known.is_empty() { "none".into() } else { known.join(", ") });
                let message = format!("`argv` contains `{{inputs.{role}}}`, but the stage has no such input");
                return Err(StageError::bad_input(message, hint));
            }
        }
        inputs::write_inputs(&context.inputs, &folders.inputs, context.cancel)?;
        inputs::link_paths(&self.paths, &self.paths(&folders, context), &folders.inputs)?;
        let invocation = self.invocation(&folders, context);
        for retries_left in (0..=self.retries).rev() {
            outputs::make_folders(&self.outputs, &folders.outputs)?;
            match process::run(&invocation, context) {
                Err(StageError::Failed(error)) if retries_left > 0 => {
                    context.progress.log(&format!("{error}\nretries left: {retries_left}; the program starts again"));
                    folders.clear()?;
                }
                Err(other) => return Err(other),
                Ok(()) => break,
            }
        }
        outputs::collect(&self.outputs, &folders, context)
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
            names.extend(inputs::source_files(source, files)?);
        }
        Ok(names)
    }

    fn paths<'a>(&'a self, folders: &'a Folders, context: &'a Context<'_>) -> CommandPaths<'a> {
        let (outputs, paths, seed) = (&self.outputs, &self.paths, context.streams.seed());
        CommandPaths { folders, outputs, paths, seed, device: gpus::device(context), checkpoint: context.checkpoint }
    }

    fn invocation(&self, folders: &Folders, context: &Context<'_>) -> process::Invocation {
        let (paths, checkpoint) = (self.paths(folders, context), context.checkpoint);
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
        let home = self.keeps_home.then_some("HOME");
        for name in self.env.iter().chain(&self.pass_env).map(String::as_str).chain(["PATH"]).chain(home) {
            if let Some(value) = std::env::var_os(name) {
                environment.insert(name.to_owned(), value);
            }
        }
        gpus::set_variable(context, &mut environment);
        environment.insert("VADPIPE_INPUTS".to_owned(), folders.inputs.clone().into());
        environment.insert("VADPIPE_OUTPUTS".to_owned(), folders.outputs.clone().into());
        environment.insert("VADPIPE_METRICS".to_owned(), folders.metrics.clone().into());
        environment.insert("VADPIPE_SCRATCH".to_owned(), folders.scratch.clone().into());
        if let Some(checkpoint) = checkpoint {
            environment.insert("VADPIPE_CHECKPOINT".to_owned(), checkpoint.into());
        }
        if let Some(list) = context.dep_file {
            environment.insert("VADPIPE_DEPFILE".to_owned(), list.into());
            // Python judges a compiled module by its source's second and size, so it could run an outdated one.
            environment.entry("PYTHONDONTWRITEBYTECODE".to_owned()).or_insert_with(|| "1".into());
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
