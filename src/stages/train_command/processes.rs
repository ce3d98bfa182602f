//! The processes of a training program: one for each stretch between two boundaries, and one for the outputs.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use serde_json::{Value as JsonValue, json};

use super::log::{Curves, TrainingLog};
use super::parameters::{Select, TrainCommand};
use crate::artifact::{Artifact, Capability, Folder, FolderOnDisk};
use crate::file::{empty_folder, remove_folder};
use crate::key::Segment;
use crate::stage::{Context, ProcessFolders, ProgramChain, StageError};
use crate::stages::program::{self, Folders, ReadOnly, Start};
use crate::value::Values;

/// The processes of one training.
pub(super) struct Processes<'a> {
    stage: &'a TrainCommand,
    context: &'a Context<'a>,
    chain: &'a dyn ProgramChain,
    folders: Folders,
    /// Restores the permissions of the inputs in the end.
    inputs: ReadOnly,
}

/// A state of the training.
#[derive(Default)]
struct State {
    /// Finished epochs.
    epoch: u64,
    curves: Curves,
    files: Folder,
}

impl<'a> Processes<'a> {
    /// Prepares the folders of the processes.
    pub(super) fn create(stage: &'a TrainCommand, context: &'a Context<'a>) -> Result<Self, StageError> {
        let Some(chain) = context.program_chain else {
            return Err(StageError::failed("a training program needs a chain of states"));
        };
        let folders = Folders::create(context)?;
        stage.program.write_inputs(&folders, context)?;
        let inputs = ReadOnly::protect(folders.inputs.clone())?;
        Ok(Self { stage, context, chain, folders, inputs })
    }

    /// Trains from the furthest stored state to the last epoch, and writes the outputs.
    pub(super) fn run(self) -> Result<Artifact, StageError> {
        let state_out = self.state_out();
        let result = self.run_all();
        // A program may have left folders that only this removes.
        let _ = remove_folder(&state_out);
        result
    }

    fn run_all(mut self) -> Result<Artifact, StageError> {
        let state_in = self.folders.root.join("state");
        create_empty(&state_in)?;
        let mut state = match self.chain.resume(&state_in)? {
            None => State::default(),
            Some(stored) => {
                self.context.progress.log(&format!("continuing after epoch {}", stored.epoch));
                let curves = Curves::from_tensors(&stored.curves, stored.epoch)?;
                self.note_best(&curves)?;
                State { epoch: stored.epoch, curves, files: stored.files }
            }
        };
        while state.epoch < self.total() {
            self.context.cancel.check()?;
            let protected = ReadOnly::protect(state_in.clone())?;
            state = self.train(state, &protected)?;
            drop(protected);
            self.restore_inputs()?;
            // The runner may stop the training at this state.
            self.context.cancel.check()?;
            if state.epoch < self.total() || self.has_outputs() {
                create_empty(&state_in)?;
                self.chain.write(&state.files, &state_in)?;
            }
        }
        let protected = ReadOnly::protect(state_in)?;
        self.artifact(state, &protected)
    }

    /// Where a process writes its state.
    fn state_out(&self) -> PathBuf {
        self.folders.root.join("state-out")
    }

    fn total(&self) -> u64 {
        self.stage.epochs.total()
    }

    fn has_outputs(&self) -> bool {
        !self.stage.program.outputs().is_empty()
    }

    /// Runs the process from a state to the next boundary, and stores the state there.
    fn train(&self, mut state: State, state_in: &ReadOnly) -> Result<State, StageError> {
        let to = self.chain.boundary_after(state.epoch);
        let state_out = self.state_out();
        let log = self.start(state.epoch, to, state_in, Some(&state_out))?;
        let files = FolderOnDisk::scan(&state_out)
            .map_err(|error| StageError::failed(format!("the state after epoch {to} can't be stored: {error}")))?;
        if files.is_empty() {
            let message = format!("the program exited with 0, but left no state after epoch {to}");
            return Err(StageError::failed(format!("{message}; write it to the folder VADPIPE_STATE_OUT")));
        }
        program::check_space(&format!("the state after epoch {to}"), files.bytes(), &state_out)?;
        log.finish()?.iter().for_each(|epoch| state.curves.push(epoch));
        self.note_best(&state.curves)?;
        state.files = self.chain.save(to, &state.curves.to_tensors(), &files)?;
        remove_folder(&state_out).map_err(StageError::io(format!("can't remove {}", state_out.display())))?;
        state.epoch = to;
        Ok(state)
    }

    /// Keeps the state of the best epoch, if the stage selects one.
    fn note_best(&self, curves: &Curves) -> Result<(), StageError> {
        let best = self.stage.select.as_ref().and_then(|select| curves.best(&select.metric, select.larger));
        best.map_or(Ok(()), |(_, epoch)| Ok(self.chain.set_best(epoch)?))
    }

    /// Runs one process and returns its log.
    fn start<'p>(
        &'p self,
        from: u64,
        to: u64,
        state_in: &'p ReadOnly,
        state_out: Option<&Path>,
    ) -> Result<TrainingLog<'p>, StageError> {
        // A process must not find what the one before has left.
        self.folders.clear()?;
        let ProcessFolders { checkpoint, dep_file } = self.chain.begin(state_out.map(|_| to))?;
        let root = &self.folders.root;
        let log = root.join("log.ndjson");
        let path = |path: &Path| path.as_os_str().to_owned();
        let mut variables: Vec<(&str, OsString)> = vec![
            ("VADPIPE_PROTOCOL", "1".into()),
            ("VADPIPE_FROM", from.to_string().into()),
            ("VADPIPE_TO", to.to_string().into()),
            self.folders.write_values(&self.values(from, to))?,
            ("VADPIPE_LOG", path(&log)),
        ];
        if from > 0 {
            variables.push(("VADPIPE_STATE_IN", path(state_in.path())));
        }
        match state_out {
            Some(state_out) => variables.push(("VADPIPE_STATE_OUT", path(state_out))),
            None => variables.extend(self.folders.output_variables()),
        }
        let start =
            Start { folders: &self.folders, checkpoint: checkpoint.as_deref(), dep_file: Some(&dep_file), variables };
        let state_out = state_out.map(Path::to_owned);
        let protected = [&self.inputs, state_in];
        let epochs = (from, to, self.total());
        let mut log = TrainingLog::new(log, state_out, protected, epochs, self.context.progress);
        let ran = self.stage.program.run(&start, &mut log, self.context);
        self.chain.end(ran.is_ok())?;
        ran.map(|()| log)
    }

    /// The content of `VADPIPE_VALUES`.
    fn values(&self, from: u64, to: u64) -> JsonValue {
        let (mut epochs, mut begin): (Vec<(u64, u64, &Values)>, u64) = (Vec::new(), 0);
        for Segment { epochs: count, params } in &self.stage.epochs.segments {
            let (first, last) = (begin.max(from), (begin + count).min(to));
            begin += count;
            match epochs.last_mut() {
                _ if first >= last => {}
                // Equal values are one part, however they are written: the keys are the same.
                Some((_, end, before)) if *before == params => *end = last,
                _ => epochs.push((first, last, params)),
            }
        }
        let part = |(from, to, values): (u64, u64, &Values)| json!({ "from": from, "to": to, "values": program::as_json(values) });
        let epochs: Vec<JsonValue> = epochs.into_iter().map(part).collect();
        json!({ "start": program::as_json(&self.stage.start), "seed": self.context.streams.seed(), "epoch": epochs })
    }

    /// Writes the inputs again if the program changed them.
    fn restore_inputs(&mut self) -> Result<(), StageError> {
        if !self.inputs.is_changed() {
            return Ok(());
        }
        self.context.progress.log("the program changed its inputs; they are written again");
        self.inputs.release();
        create_empty(&self.folders.inputs)?;
        self.stage.program.write_inputs(&self.folders, self.context)?;
        self.inputs.protect_again()
    }

    /// Writes the outputs, and makes the result.
    fn artifact(self, state: State, state_in: &ReadOnly) -> Result<Artifact, StageError> {
        let mut artifact = Artifact { metrics: state.curves.last(), ..Artifact::default() };
        if self.has_outputs() {
            self.context.cancel.check()?;
            self.start(state.epoch, state.epoch, state_in, None)?.finish()?;
            let made = program::collect(self.stage.program.outputs(), &self.folders, self.context)?;
            artifact.metrics.extend(made.metrics.clone());
            artifact = Artifact { metrics: artifact.metrics, ..made };
        }
        if let Some(Select { metric, larger }) = &self.stage.select {
            let Some((best, epoch)) = state.curves.best(metric, *larger) else {
                let known = state.curves.names().collect::<Vec<_>>().join(", ");
                let message = format!("`select` names the metric `{metric}`, which the program did not log");
                let hint = format!("it logged: {}", if known.is_empty() { "nothing" } else { &known });
                return Err(StageError::bad_input(message, hint));
            };
            artifact.metrics.insert(format!("{metric}_best"), best);
            artifact.metrics.insert("best_epoch".to_owned(), epoch as f64);
        }
        let curves = state.curves.to_tensors();
        if let Some(name) = curves
            .keys()
            .find(|name| artifact.tensors.contains_key(*name) || artifact.tensors_on_disk.contains_key(*name))
        {
            let message = format!("an output has a tensor `{name}`, which is the name of a curve");
            return Err(StageError::bad_input(message, "give the tensor of the output another name"));
        }
        if !curves.is_empty() {
            artifact.provides.insert(Capability::HISTORY.name().to_owned());
        }
        artifact.tensors.extend(curves);
        artifact.state = state.files;
        Ok(artifact)
    }
}

/// Creates an empty folder, or empties it.
fn create_empty(folder: &Path) -> Result<(), StageError> {
    empty_folder(folder).map_err(StageError::io(format!("can't empty the folder {}", folder.display())))
}
