//! A program that a stage runs: its arguments, its environment, its files. Shared by `command` and `train-command`.

mod folders;
mod gpus;
mod inputs;
pub(super) mod json;
mod outputs;
mod process;
mod process_tree;
mod read_only;
mod supervisor;
mod values;
pub(super) mod words;

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::Access;

use self::folders::ProgramPaths;
pub(super) use self::folders::{Folders, file_name};
use self::outputs::make_folders;
pub(super) use self::outputs::{MAX_METRIC_NAME, check_space, collect};
pub(super) use self::process::Watch;
pub(crate) use self::process_tree::supervise_with;
pub(super) use self::read_only::ReadOnly;
pub(crate) use self::supervisor::{SUPERVISE, supervise};
pub(super) use self::values::{as_json, value_table};
use crate::diagnostic::nearest;
use crate::key::{Digest, Hash};
use crate::stage::{Context, Files, Params, StageError};

/// A program with what the pipeline says about it.
pub(super) struct Program {
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

/// How the kinds that run a program differ.
pub(super) struct Defaults {
    /// The default of `home`.
    pub(super) home: &'static str,
    /// Whether `outputs` is a parameter of the stage. Otherwise it is one of the result.
    pub(super) outputs_in_params: bool,
}

/// One start of a program.
pub(super) struct Start<'a> {
    pub(super) folders: &'a Folders,
    /// See [`Context::checkpoint`].
    pub(super) checkpoint: Option<&'a Path>,
    /// See [`Context::dep_file`].
    pub(super) dep_file: Option<&'a Path>,
    /// Variables besides those of every program.
    pub(super) variables: Vec<(&'static str, OsString)>,
}

/// The values of `home`, and whether the program gets the user's HOME.
const HOMES: &[(&str, bool)] = &[("scratch", false), ("user", true)];

impl Program {
    /// Reads the parameters.
    pub(super) fn parse(params: &mut Params<'_>, defaults: &Defaults) -> Self {
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
        let outputs = match defaults.outputs_in_params {
            true => params.node("outputs"),
            false => params.node_unhashed("outputs"),
        };
        let outputs = outputs.map(|node| outputs::parse(params, &node)).unwrap_or_default();
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
        let keeps_home = params.choice_added("home", defaults.home, HOMES);
        check_placeholders(params, &argv, &outputs, &paths);
        let timeout = u64::try_from(timeout).ok().filter(|s| *s > 0).map(Duration::from_secs);
        Self { argv, outputs, paths, sources, env, pass_env, keeps_home, timeout, retries, gpus, shell }
    }

    /// Whether argv contains the placeholder.
    pub(super) fn has_placeholder(&self, name: &str) -> bool {
        self.argv.iter().any(|word| words::has_placeholder(word, name))
    }

    /// See [`crate::stage::Stage::gpus`].
    pub(super) fn gpus(&self) -> usize {
        self.gpus
    }

    /// How often the program is started again after it failed.
    pub(super) fn retries(&self) -> i64 {
        self.retries
    }

    /// Paths below the output folder, by role.
    pub(super) fn outputs(&self) -> &BTreeMap<String, String> {
        &self.outputs
    }

    /// See [`crate::stage::Stage::program_files`].
    pub(super) fn named_files(&self, files: &dyn Files) -> Result<BTreeSet<String>, StageError> {
        self.files(files)
    }

    /// See [`crate::stage::Stage::contents`].
    pub(super) fn contents(&self, files: &dyn Files) -> Result<BTreeMap<String, Digest>, StageError> {
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

    /// See [`crate::stage::Stage::program`].
    pub(super) fn found_in_path(&self) -> Option<String> {
        let name = self.argv.first().filter(|name| !self.shell && !name.contains('/'))?;
        let folders = std::env::var_os("PATH")?;
        let is_program = |path: &PathBuf| path.is_file() && rustix::fs::access(path, Access::EXEC_OK).is_ok();
        let found = std::env::split_paths(&folders).map(|folder| folder.join(name)).find(is_program)?;
        let file = found.canonicalize().unwrap_or_else(|_| found.clone());
        let target = if file == found { String::new() } else { format!(" → {}", file.display()) };
        Some(format!("{}{target}", found.display()))
    }

    /// Writes the inputs to the folders.
    pub(super) fn write_inputs(&self, folders: &Folders, context: &Context<'_>) -> Result<(), StageError> {
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
        inputs::link_paths(&self.paths, folders)
    }

    /// Runs the program, again if it fails and `retries` allows.
    pub(super) fn run(
        &self,
        start: &Start<'_>,
        watch: &mut dyn Watch,
        context: &Context<'_>,
    ) -> Result<(), StageError> {
        let invocation = self.invocation(start, context);
        for retries_left in (0..=self.retries).rev() {
            make_folders(&self.outputs, &start.folders.outputs)?;
            watch.starts()?;
            match process::run(&invocation, watch, context) {
                Err(StageError::Failed(error)) if retries_left > 0 && watch.can_start_again() => {
                    context.progress.log(&format!("{error}\nretries left: {retries_left}; the program starts again"));
                    start.folders.clear()?;
                }
                other => return other,
            }
        }
        Ok(())
    }

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

    fn invocation(&self, start: &Start<'_>, context: &Context<'_>) -> process::Invocation {
        let folders = start.folders;
        let paths = ProgramPaths {
            folders,
            outputs: &self.outputs,
            paths: &self.paths,
            seed: context.streams.seed(),
            device: gpus::device(context),
            checkpoint: start.checkpoint,
        };
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
        environment.insert("VADPIPE_SCRATCH".to_owned(), folders.scratch.clone().into());
        environment.extend(start.variables.iter().map(|(name, value)| ((*name).to_owned(), value.clone())));
        if let Some(checkpoint) = start.checkpoint {
            environment.insert("VADPIPE_CHECKPOINT".to_owned(), checkpoint.into());
        }
        if let Some(list) = start.dep_file {
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
