//! `command`: a stage in any language. A program gets its inputs as files and leaves its outputs as files.
//!
//! ```toml
//! [stages.summary]
//! kind = "command"
//! inputs = { data = "data", fits = ["fit@*"] }
//! argv = ["python3", "scripts/summarise.py", "{inputs.data}", "{outputs.plot}", "--metrics", "{metrics}"]
//! # python = ["scripts/summarise.py", …]   instead of argv, with the project's interpreter
//! outputs = { plot = "plot.png", table = "table.safetensors", model = "model/" }   # `/` at the end: a folder
//! paths = { images = "data/images" }   # files and folders as inputs, by their content
//! sources = ["scripts/helpers.py"]     # more files, or folders, that change the result
//! env = ["OMP_NUM_THREADS"]            # handed through if set; the values are in the key
//! pass_env = ["WANDB_API_KEY"]         # handed through if set; not in the key
//! gpus = 1                             # GPUs of its own, named in its CUDA_VISIBLE_DEVICES; not in the key
//! home = "user"                        # the user's HOME; "scratch", the default: an empty folder
//! timeout_seconds = 600                # 0, the default, means none
//! retries = 2                          # starts the program again after a failure; 0, the default, does not
//! values = { width = 64 }              # in the JSON file VADPIPE_VALUES; `at` overrides single values
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
//! `PATH`, the variables in `env` and `pass_env`, with `gpus` `CUDA_VISIBLE_DEVICES` and `CUDA_DEVICE_ORDER`, `HOME`
//! and `TMPDIR` (a scratch folder), `VADPIPE_INPUTS`, `VADPIPE_OUTPUTS`, `VADPIPE_METRICS`, `VADPIPE_SCRATCH`,
//! `VADPIPE_DEPFILE`, and for Python `PYTHONPATH` (see below) and `PYTHONDONTWRITEBYTECODE`.
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
//! `PATH`, the time-out, `retries` and `gpus` are not in the key. With `python`, its words are in the key in the place
//! of argv, and the content of the lock file, but not the interpreter: see `program::python`.
//!
//! **Files that the program reads** besides these enter the key after the run, if they belong to the project: see
//! [`Context::dep_file`]. The program runs again when one of them changes. A Python program needs nothing for this: a
//! module on `PYTHONPATH` lists what it imports and opens. It does not see files that native code opens, such as HDF5
//! or OpenCV: name these in `sources`. A program in another language writes a path a line to the file
//! `VADPIPE_DEPFILE`.
//!
//! This is the only place in the library that reads the environment: a declared variable is an input like a file. uv,
//! which is not the program of the stage, gets all of it.
//!
//! **End.** The program leads a process group. At the time-out or an interruption, the group gets SIGTERM and, two
//! seconds later, SIGKILL. Descendants that still run after the program has ended get the same signals, in whatever
//! group or session they are. If vadpipe is killed, they are killed at once: see `supervisor`.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::program::{self, Defaults, Folders, Program, Start};
use crate::artifact::Artifact;
use crate::key::Digest;
use crate::stage::{About, Capability, Context, Files, Params, Reads, Roles, Stage, StageError, StageKind};
use crate::value::Values;

/// The kind `command`.
pub struct Kind;

/// A command with its parameters.
struct Command {
    program: Program,
    /// Values that the program reads, if it has any.
    values: Option<Values>,
}

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
        let program = Program::parse(params, &Defaults { home: "scratch", outputs_in_params: true });
        params.describe("values that the program reads from the JSON file VADPIPE_VALUES");
        let values = params.node("values").map(|node| program::value_table(params, "values", &node));
        Arc::new(Command { program, values })
    }
}

impl Stage for Command {
    fn reads(&self) -> Reads {
        Reads { seed: self.program.has_placeholder("seed"), precision: false, files: true }
    }

    fn contents(&self, files: &dyn Files) -> Result<BTreeMap<String, Digest>, StageError> {
        self.program.contents(files)
    }

    fn program_files(&self, files: &dyn Files) -> Result<Option<BTreeSet<String>>, StageError> {
        self.program.named_files(files).map(Some)
    }

    fn program(&self, base: &Path) -> Option<String> {
        self.program.file(base)
    }

    fn project(&self, base: &Path) -> Option<PathBuf> {
        self.program.project(base)
    }

    fn gpus(&self) -> usize {
        self.program.gpus()
    }

    fn output_paths(&self) -> Vec<&str> {
        self.program.outputs().values().map(String::as_str).collect()
    }

    fn uses_checkpoint(&self) -> bool {
        self.program.has_placeholder("checkpoint")
    }

    fn run(&self, context: &Context<'_>) -> Result<Artifact, StageError> {
        let folders = Folders::create(context)?;
        self.program.write_inputs(&folders, context)?;
        let mut variables = Vec::from(folders.output_variables());
        if let Some(values) = &self.values {
            variables.push(folders.write_values(&program::as_json(values))?);
        }
        let (checkpoint, dep_file) = (context.checkpoint, context.dep_file);
        let start = Start { folders: &folders, checkpoint, dep_file, variables };
        self.program.run(&start, &mut (), context)?;
        program::collect(self.program.outputs(), &folders, context)
    }
}

#[cfg(test)]
mod tests;
