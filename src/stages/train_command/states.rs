//! The states of a training: storing a folder that the program wrote, and what `select` says about the metrics so far.

use std::collections::BTreeMap;
use std::path::Path;

use super::curves::{Curves, Metrics};
use super::parameters::{Select, TrainCommand};
use crate::artifact::{Folder, FolderOnDisk};
use crate::diagnostic::nearest_first;
use crate::file::remove_folder;
use crate::stage::{Context, ProgramChain, StageError};
use crate::stages::program;

/// A state of the training.
#[derive(Default)]
pub(super) struct State {
    /// Finished epochs.
    pub(super) epoch: u64,
    pub(super) curves: Curves,
    pub(super) files: Folder,
}

/// Finds and stores the states of one training.
#[derive(Clone, Copy)]
pub(super) struct States<'a> {
    stage: &'a TrainCommand,
    chain: &'a dyn ProgramChain,
}

impl<'a> States<'a> {
    /// The states on this chain.
    pub(super) fn new(stage: &'a TrainCommand, chain: &'a dyn ProgramChain) -> Self {
        Self { stage, chain }
    }

    /// The furthest stored state, or the start. Writes its files to a folder, which is empty.
    pub(super) fn resume(self, to: &Path, context: &Context<'_>) -> Result<State, StageError> {
        let Some(stored) = self.chain.resume(to)? else { return Ok(State::default()) };
        context.progress.log(&format!("continuing after epoch {}", stored.epoch));
        let curves = Curves::from_tensors(&stored.curves, stored.epoch)?;
        self.note_best(&curves)?;
        self.check_names(&curves)?;
        Ok(State { epoch: stored.epoch, curves, files: stored.files })
    }

    /// Stores the state after this epoch, which the program wrote to a folder, and removes the folder. `epochs` are the
    /// metrics since the state before.
    pub(super) fn store(
        self,
        state: &mut State,
        epoch: u64,
        folder: &Path,
        epochs: &[Metrics],
    ) -> Result<(), StageError> {
        let files = FolderOnDisk::scan(folder)
            .map_err(|error| StageError::failed(format!("the state after epoch {epoch} can't be stored: {error}")))?;
        if files.is_empty() {
            return Err(StageError::failed(self.no_state(epoch)));
        }
        program::check_space(&format!("the state after epoch {epoch}"), files.bytes(), folder)?;
        epochs.iter().for_each(|epoch| state.curves.push(epoch));
        self.note_best(&state.curves)?;
        state.files = self.chain.save(epoch, &state.curves.to_tensors(), &files)?;
        state.epoch = epoch;
        remove_folder(folder).map_err(StageError::io(format!("can't remove {}", folder.display())))?;
        self.check_names(&state.curves)
    }

    fn no_state(self, epoch: u64) -> String {
        match self.stage.epochs.warm {
            true => format!("the program reported the state after epoch {epoch}, but its folder is empty"),
            false => format!(
                "the program exited with 0, but left no state after epoch {epoch}; write it to the folder \
                 VADPIPE_STATE_OUT"
            ),
        }
    }

    /// Keeps the state of the best epoch, if the stage selects one.
    fn note_best(self, curves: &Curves) -> Result<(), StageError> {
        let best = self.stage.select.as_ref().and_then(|select| curves.best(&select.metric, select.larger));
        best.map_or(Ok(()), |(_, epoch)| Ok(self.chain.set_best(epoch)?))
    }

    /// Fails if the metrics logged so far lack the one that `select` names, or have one that it adds.
    fn check_names(self, curves: &Curves) -> Result<(), StageError> {
        let Some(select) = &self.stage.select else { return Ok(()) };
        select.check_added(curves.names())?;
        if curves.names().any(|name| name == select.metric) {
            return Ok(());
        }
        let known = nearest_first(&select.metric, curves.names()).join(", ");
        let message = format!("`select` names the metric `{}`, which the program did not log", select.metric);
        let hint = format!("it logged: {}", if known.is_empty() { "nothing" } else { &known });
        Err(StageError::bad_input(message, hint))
    }

    /// Adds the metrics of `select` to those of the result.
    pub(super) fn add_best(self, curves: &Curves, metrics: &mut BTreeMap<String, f64>) -> Result<(), StageError> {
        let Some(select) = &self.stage.select else { return Ok(()) };
        select.check_added(metrics.keys().map(String::as_str))?;
        self.check_names(curves)?;
        let Some((best, epoch)) = curves.best(&select.metric, select.larger) else {
            let message = format!("`select` names the metric `{}`, which was NaN in every epoch", select.metric);
            return Err(StageError::bad_input(message, "NaN is never the best; select another metric"));
        };
        let [name, name_of_epoch] = select.adds();
        metrics.insert(name, best);
        metrics.insert(name_of_epoch, epoch as f64);
        Ok(())
    }
}

impl Select {
    /// The metrics that it adds to the result.
    fn adds(&self) -> [String; 2] {
        [format!("{}_best", self.metric), "best_epoch".to_owned()]
    }

    /// Fails if one of these metrics has a name that it adds.
    fn check_added<'n>(&self, mut names: impl Iterator<Item = &'n str>) -> Result<(), StageError> {
        let adds = self.adds();
        let Some(name) = names.find(|name| adds.iter().any(|added| added == name)) else { return Ok(()) };
        let message = format!("the program has a metric `{name}`, but `select` adds a metric with this name");
        Err(StageError::bad_input(message, "give the program's metric another name, or remove `select`"))
    }
}
