//! The processes of a training program: one for each stretch between two boundaries, and one for the outputs.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use serde_json::{Value as JsonValue, json};

use super::curves::Metrics;
use super::log::TrainingLog;
use super::parameters::TrainCommand;
use super::reported::ReportedStates;
use super::states::{State, States};
use crate::artifact::{Artifact, Capability};
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
        let mut state = self.states().resume(&state_in, self.context)?;
        while state.epoch < self.total() {
            self.context.cancel.check()?;
            let (before, protected) = (state.epoch, ReadOnly::protect(state_in.clone())?);
            match self.train(&mut state, &protected) {
                // A warm process may fail after it has saved a state. The next one starts from there.
                Err(StageError::Failed(error) | StageError::OutOfMemory(error))
                    if state.epoch > before && self.stage.program.retries() > 0 =>
                {
                    let message = format!("{error}\nthe program starts again after epoch {}", state.epoch);
                    self.context.progress.log(&message);
                }
                trained => trained?,
            }
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

    fn states(&self) -> States<'a> {
        States::new(self.stage, self.chain)
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

    /// Runs the process that starts from a state, and stores the states that it writes: that at the next boundary or,
    /// if it is warm, those at all boundaries.
    fn train(&self, state: &mut State, state_in: &ReadOnly) -> Result<(), StageError> {
        let (from, state_out) = (state.epoch, self.state_out());
        if !self.stage.epochs.warm {
            let to = self.chain.boundary_after(from);
            let epochs = self.start((from, to), state_in, Some(&state_out), None)?.finish()?;
            return self.states().store(state, to, &state_out, &epochs);
        }
        let store = |epoch, folder: &Path, epochs: &[Metrics]| {
            self.chain.note_files()?;
            self.states().store(state, epoch, folder, epochs)?;
            // The runner may stop the training at this state.
            self.context.cancel.check()
        };
        let taken = self.folders.root.join("state-reported");
        let reported = ReportedStates::new(state_out.clone(), taken, self.stage.epochs.every, Box::new(store));
        let epochs = (from, self.chain.stops_at());
        self.start(epochs, state_in, Some(&state_out), Some(reported))?.finish()?;
        remove_folder(&state_out).map_err(StageError::io(format!("can't remove {}", state_out.display())))
    }

    /// Runs one process and returns its log.
    fn start<'p>(
        &'p self,
        (from, to): (u64, u64),
        state_in: &'p ReadOnly,
        state_out: Option<&Path>,
        reported: Option<ReportedStates<'p>>,
    ) -> Result<TrainingLog<'p>, StageError> {
        // A process must not find what the one before has left.
        self.folders.clear()?;
        let ProcessFolders { checkpoint, dep_file } = self.chain.begin(state_out.map(|_| to), reported.is_none())?;
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
        if reported.is_some() {
            variables.push(("VADPIPE_SEGMENT", self.stage.epochs.every.to_string().into()));
        }
        let start =
            Start { folders: &self.folders, checkpoint: checkpoint.as_deref(), dep_file: Some(&dep_file), variables };
        let state_out = state_out.map(Path::to_owned);
        let protected = [&self.inputs, state_in];
        let epochs = (from, to, self.total());
        let mut log = TrainingLog::new(log, state_out, reported, protected, epochs, self.context.progress);
        let ran = self.stage.program.run(&start, &mut log, self.context);
        self.chain.end(ran.is_ok())?;
        ran.map(|()| log)
    }

    /// The content of `VADPIPE_VALUES`.
    fn values(&self, from: u64, to: u64) -> JsonValue {
        let (mut epochs, mut begin): (Vec<(u64, u64, &Values)>, u64) = (Vec::new(), 0);
        let for_outputs = from == to;
        // Outputs are made with the values of the last epoch.
        let from = if for_outputs { to.saturating_sub(1) } else { from };
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
        let start = program::as_json(&self.stage.start);
        let mut values = json!({ "start": start, "seed": self.context.streams.seed(), "epoch": epochs });
        if for_outputs {
            values["outputs"] = json!(self.stage.program.outputs());
        }
        values
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
            self.start((state.epoch, state.epoch), state_in, None, None)?.finish()?;
            let made = program::collect(self.stage.program.outputs(), &self.folders, self.context)?;
            artifact.metrics.extend(made.metrics.clone());
            artifact = Artifact { metrics: artifact.metrics, ..made };
        }
        self.states().add_best(&state.curves, &mut artifact.metrics)?;
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
