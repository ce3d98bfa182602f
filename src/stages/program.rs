//! A program that a stage runs: its arguments, its environment, its files. Shared by `command` and `train-command`.

mod folders;
mod gpus;
mod inputs;
pub(super) mod json;
mod outputs;
mod process;
mod process_tree;
mod python;
mod read_only;
mod supervisor;
mod values;
pub(super) mod words;

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use self::folders::ProgramPaths;
pub(super) use self::folders::{Folders, file_name};
use self::outputs::make_folders;
pub(super) use self::outputs::{MAX_METRIC_NAME, check_space, collect};
pub(super) use self::process::Watch;
pub(crate) use self::process_tree::supervise_with;
use self::python::{Runner, in_path};
pub(super) use self::read_only::ReadOnly;
pub(crate) use self::supervisor::{SUPERVISE, supervise};
pub(super) use self::values::{as_json, value_table};
use self::words::Paths as _;
use crate::diagnostic::nearest;
use crate::key::{Digest, Hash};
use crate::stage::{Context, Files, Params, StageError};

/// A program with what the pipeline says about it.
pub(super) struct Program {
    /// The program and its arguments. With `python`, the program is [`PYTHON`], in whose place comes the interpreter
    /// that is found beside or above the pipeline.
    argv: Vec<String>,
    /// The parameter that gave argv: `argv` or `python`.
    field: &'static str,
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

/// The program of `python = "train.py"`.
const PYTHON: &str = "python3";
/// The values of `home`, and whether the program gets the user's HOME.
const HOMES: &[(&str, bool)] = &[("scratch", false), ("user", true)];

impl Program {
    /// Reads the parameters.
    pub(super) fn parse(params: &mut Params<'_>, defaults: &Defaults) -> Self {
        let (field, argv) = parse_argv(params);
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
        if shell && field == "python" {
            params.error("shell", "`shell` does not go with `python`", "`argv` has the script for /bin/sh");
        }
        params.describe("HOME of the program: an empty folder, or the user's");
        let keeps_home = params.choice_added("home", defaults.home, HOMES);
        check_placeholders(params, (field, &argv), &outputs, &paths);
        let timeout = u64::try_from(timeout).ok().filter(|s| *s > 0).map(Duration::from_secs);
        Self { argv, field, outputs, paths, sources, env, pass_env, keeps_home, timeout, retries, gpus, shell }
    }

    /// The parameter that gives the words of the program.
    pub(super) fn field(&self) -> &'static str {
        self.field
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
        let mut names = self.files(files)?;
        // uv reads the original: a copy would hide an edit while the program runs.
        if let Some((lock, _)) = self.lock(files) {
            names.remove(&lock);
        }
        Ok(names)
    }

    /// See [`crate::stage::Stage::contents`].
    pub(super) fn contents(&self, files: &dyn Files) -> Result<BTreeMap<String, Digest>, StageError> {
        self.check_script(files)?;
        let mut contents = BTreeMap::new();
        let named = self.files(files)?.into_iter().map(|name| (files.resolve(&name), name));
        let lock = self.lock(files).map(|(name, path)| (path, name));
        for (path, name) in named.chain(lock) {
            let digest = files.digest(&path).map_err(StageError::io(format!("can't read {name}")))?;
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
    pub(super) fn file(&self, base: &Path) -> Option<String> {
        let (found, file) = match self.runner(&|name| base.join(name), base) {
            Some((_, runner)) => runner.program(base)?,
            None => {
                let name = self.argv.first().filter(|name| !self.shell && !name.contains('/'))?;
                in_path(name).map(|file| (file.clone(), file))?
            }
        };
        let file = file.canonicalize().unwrap_or(file);
        let target = if file == found { String::new() } else { format!(" → {}", file.display()) };
        Some(format!("{}{target}", found.display()))
    }

    /// See [`crate::stage::Stage::project`].
    pub(super) fn project(&self, base: &Path) -> Option<PathBuf> {
        let (_, runner) = self.runner(&|name| base.join(name), base)?;
        runner.project(base)
    }

    /// Writes the inputs to the folders.
    pub(super) fn write_inputs(&self, folders: &Folders, context: &Context<'_>) -> Result<(), StageError> {
        for role in self.argv.iter().flat_map(|word| words::roles(word, "inputs")) {
            if !context.inputs.0.contains_key(&role) && !self.paths.contains_key(&role) {
                let known: Vec<&str> = context.inputs.0.keys().map(String::as_str).collect();
                let hint =
                    format!("its inputs are: {}", if known.is_empty() { "none".into() } else { known.join(", ") });
                let message = format!("`{}` contains `{{inputs.{role}}}`, but the stage has no such input", self.field);
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
        let invocation = self.invocation(start, context)?;
        for retries_left in (0..=self.retries).rev() {
            make_folders(&self.outputs, &start.folders.outputs)?;
            watch.starts()?;
            match process::run(&invocation, watch, context) {
                Err(StageError::Failed(error) | StageError::OutOfMemory(error))
                    if retries_left > 0 && watch.can_start_again() =>
                {
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
                let message = format!("`{}` names the script `{script}`, which does not exist", self.field);
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

    /// With `python`, the script and what runs it. `resolve` finds the script.
    fn runner(&self, resolve: &dyn Fn(&str) -> PathBuf, base: &Path) -> Option<(&str, Runner)> {
        let script = self.argv.get(1).filter(|_| self.field == "python")?;
        Some((script, Runner::find(script, &resolve(script), base)))
    }

    /// The lock file that is in the key: its name there, and its path.
    fn lock(&self, files: &dyn Files) -> Option<(String, PathBuf)> {
        let base = files.base();
        let (script, runner) = self.runner(&|name| files.resolve(name), &base)?;
        // `run --watch` waits for what was resolved: a lock file that does not exist yet.
        let _ = (files.resolve("uv.lock"), files.resolve(&python::lock_of(script)));
        runner.lock(script, &base)
    }

    fn invocation(&self, start: &Start<'_>, context: &Context<'_>) -> Result<process::Invocation, StageError> {
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
        let mut argv: Vec<OsString> =
            words.map(|(at, word)| words::expand(word, words::Place::of(at, self.shell), &paths)).collect();
        if self.shell {
            argv.insert(1.min(argv.len()), "sh".into());
            argv.splice(0..0, ["/bin/sh".into(), "-c".into()]);
        }
        let mut environment = self.environment(start, context);
        let mut name = argv.first().map(|program| program.to_string_lossy().into_owned()).unwrap_or_default();
        if let Some((script, runner)) = self.runner(&|name| paths.in_base(name), &folders.base)
            && let Some(interpreter) = runner.interpreter(script, folders, self.timeout, context)?
        {
            python::activate(&interpreter, &mut environment);
            name = PYTHON.to_owned();
            argv[0] = interpreter.into();
        }
        let (folder, timeout) = (folders.outputs.clone(), self.timeout);
        Ok(process::Invocation { name, argv, environment, folder, timeout, printed: None })
    }

    /// The complete environment of the program, except for what an interpreter adds.
    fn environment(&self, start: &Start<'_>, context: &Context<'_>) -> BTreeMap<String, OsString> {
        let folders = start.folders;
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
        environment
    }
}

/// Reads the words of the program, and returns the parameter that gives them.
fn parse_argv(params: &mut Params<'_>) -> (&'static str, Vec<String>) {
    params.describe("the program and its arguments, with placeholders such as {inputs.ROLE}; or give `python`");
    let argv = params.words("argv");
    params.describe("instead of `argv`: a Python script and its arguments, run by uv, by `.venv` or by python3");
    let script = params.word_or_words("python");
    let field = if params.is_given("python") { "python" } else { "argv" };
    match (params.is_given("argv"), params.is_given("python")) {
        (true, true) => params.error("python", "the stage has both `argv` and `python`", "give one of the two"),
        (false, false) => {
            let help = "give the program and its arguments: argv = [\"julia\", …], or a script: python = \"train.py\"";
            params.error_at(&params.place().clone(), "`argv` or `python` is missing", help);
        }
        _ => {}
    }
    let words = if field == "argv" { argv } else { script };
    let is_given = words.is_some();
    let words = words.unwrap_or_default();
    if is_given && words.first().is_none_or(String::is_empty) || words.iter().any(|word| word.contains('\0')) {
        let message = format!("`{field}` is empty, begins with an empty word or contains a NUL");
        let first = if field == "argv" { "program" } else { "script" };
        params.error(field, message, format!("its first word is the {first}"));
    }
    if field == "python" && words.first().is_some_and(|script| script.starts_with('-')) {
        let help = "for options of Python, write argv = [\"python3\", \"-m\", …]";
        params.error(field, "`python` begins with an option, not with a script", help);
    }
    let interpreter = (field == "python").then(|| PYTHON.to_owned());
    (field, interpreter.into_iter().chain(words).collect())
}

fn check_placeholders(
    params: &mut Params<'_>,
    (field, argv): (&'static str, &[String]),
    outputs: &BTreeMap<String, String>,
    paths: &BTreeMap<String, String>,
) {
    for role in argv.iter().flat_map(|word| words::roles(word, "inputs")) {
        if params.has_input(&role) == Some(false) && !paths.contains_key(&role) {
            let message = format!("`{field}` contains `{{inputs.{role}}}`, but the stage has no such input");
            params.error(
                field,
                message,
                format!("add it: `inputs = {{ {role} = \"STAGE\" }}` or `paths = {{ {role} = \"FILE\" }}`"),
            );
        }
    }
    for (wrong, meant) in argv.iter().filter_map(|word| words::misspelled(word)) {
        let message = format!("`{field}` contains `{{{wrong}}}`, which is not a placeholder");
        params.error(field, message, format!("did you mean `{{{meant}}}`?"));
    }
    for role in argv.iter().flat_map(|word| words::roles(word, "outputs")) {
        if outputs.contains_key(&role) {
            continue;
        }
        let help = match nearest(&role, outputs.keys().map(String::as_str)) {
            Some(near) => format!("did you mean `{{outputs.{near}}}`?"),
            None => "declare it: `outputs = { … }`".to_owned(),
        };
        params.error(field, format!("`{field}` contains `{{outputs.{role}}}`, but the stage has no such output"), help);
    }
}
