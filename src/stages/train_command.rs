//! `train-command`: a training in any language. A program trains from one state to the next, and no epoch is trained
//! twice.
//!
//! ```toml
//! [stages.net]
//! kind = "train-command"
//! inputs = { data = "data" }
//! argv = ["python3", "train.py"]       # or python = "train.py"; both as for `command`, and so are paths, sources, …
//! segment_epochs = 10                  # the epochs that one process trains
//! epochs = 100                         # or segments = [{ epochs = 80, lr = 1e-3 }, { epochs = 20, lr = 1e-4 }]
//! keep = [50]                          # epochs whose states are kept
//! outputs = { predictions = "predictions.npy" }
//! select = { metric = "val_acc", mode = "max" }   # adds the metrics `val_acc_best` and `best_epoch`
//! warm = true                          # one process saves a state every `segment_epochs`; the default is false
//!
//! [stages.net.start]                   # values that shape the first state
//! width = 256
//!
//! [stages.net.epoch]                   # values of an epoch, which `segments` override
//! lr = 1e-3
//! ```
//!
//! **Processes.** A process trains from one boundary to the next. The boundaries are the multiples of `segment_epochs`
//! and the last epoch. It reads the state of the first boundary from a folder, and writes that of the second to another
//! folder. So a training in one go and one that was extended, killed or branched are the same sequence of processes
//! with the same inputs. If there are outputs, a last process reads the last state and writes only them.
//!
//! **Warm.** With `warm = true`, one process trains to the end. It writes the state after 20 epochs to the folder
//! `STATE_OUT/20` and then logs `{"saved": 20}`. The state is stored at once, and the folder is removed. There must be
//! a state after each multiple of `VADPIPE_SEGMENT` and after TO. The bytes of a training that was continued then
//! depend on the program restoring everything, which `verify` checks.
//!
//! **Variables** of the environment, besides those of a `command`. A variable that is not set means that there is none.
//!
//! | variable | meaning |
//! |---|---|
//! | `VADPIPE_PROTOCOL` | `1` |
//! | `VADPIPE_FROM`, `VADPIPE_TO` | finished epochs at the start and at the end; if equal, it only writes outputs |
//! | `VADPIPE_STATE_IN` | a read-only folder with the state after FROM epochs; not set if FROM is 0 |
//! | `VADPIPE_STATE_OUT` | an empty folder for the state after TO epochs; not set if FROM = TO |
//! | `VADPIPE_VALUES` | a JSON file: `start`, `seed` and `epoch`, a list of `{from, to, values}`; see below |
//! | `VADPIPE_LOG` | append `{"epoch": 11, "loss": 0.3}` for each finished epoch, and `{"step": 40}` in between |
//! | `VADPIPE_SEGMENT` | with `warm`: the epochs between two states; not set otherwise |
//! | `VADPIPE_CHECKPOINT` | a folder that survives a kill and an interruption until this process's state is stored |
//! | `VADPIPE_OUTPUTS`, `VADPIPE_METRICS` | set if FROM = TO |
//!
//! **State.** A folder of files. A safetensors file is stored tensor by tensor, with its metadata; any other file as it
//! is. The state counts when the process has exited with 0.
//!
//! **Outputs.** If FROM = TO, `epoch` in `VADPIPE_VALUES` has the values of the last epoch, and `outputs` the file of
//! each role.
//!
//! **Log.** Numbers of an epoch are metrics and become curves; `NaN` and `Infinity` are numbers. Names that begin with
//! `_` are shown, but are in no result. Other values are ignored.
//!
//! **Key.** The parameters in state(0) are argv or `python`, `segment_epochs`, `warm` if it is true, `start`,
//! `sources`, `env`, `shell` and the seed. The values of an epoch are in that epoch's key. `outputs` and `select` are
//! in the key of the result only. The number of epochs, the point's name and its axes are in no key, and the program
//! does not learn them. Only a warm process learns its last epoch, `VADPIPE_TO`: nothing that it computes may depend on
//! that.

mod curves;
mod log;
mod parameters;
mod processes;
mod reported;
mod states;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use self::parameters::TrainCommand;
use self::processes::Processes;
use crate::artifact::Artifact;
use crate::key::Digest;
use crate::stage::{
    About, Capability, Context, Curves, Epochs, Files, Params, Reads, Roles, Stage, StageError, StageKind,
};
use crate::value::Values;

/// The kind `train-command`.
pub(super) struct Kind;

impl StageKind for Kind {
    fn about(&self) -> About {
        About {
            roles: Roles::Any,
            provides: &[Capability::OUTPUTS],
            heading: "Trainings",
            ..About::new("train-command", 1, "train with your own program, in any language; no epoch is trained twice")
        }
    }

    fn parse(&self, params: &mut Params<'_>) -> Arc<dyn Stage> {
        Arc::new(TrainCommand::parse(params))
    }
}

impl Stage for TrainCommand {
    fn reads(&self) -> Reads {
        Reads { seed: true, precision: false, files: true }
    }

    fn epochs(&self) -> Option<Epochs> {
        Some(self.epochs.clone())
    }

    fn result_params(&self) -> Values {
        self.result.clone()
    }

    fn curves(&self) -> Curves {
        Curves::Any
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

    fn run(&self, context: &Context<'_>) -> Result<Artifact, StageError> {
        Processes::create(self, context)?.run()
    }
}
