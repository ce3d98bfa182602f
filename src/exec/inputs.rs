//! The stored results that a stage reads.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use crate::artifact::{Folder, Manifest, Tensor, TensorFile};
use crate::error::Error;
use crate::exec::context::RunContext;
use crate::exec::job::{Job, JobInput};
use crate::id::PointId;
use crate::key::InputDigest;
use crate::stage::{ARTIFACT_FILE, Input, Inputs, STATE_FOLDER};
use crate::store::{ResultRecord, Store, StoreError};
use crate::value::Value;

/// Points whose stored results a job found missing or damaged.
pub(crate) type DamagedInputs = Arc<Mutex<BTreeSet<PointId>>>;

/// The inputs of a job. An input whose bytes are found missing or damaged is added to `damaged`.
pub(crate) fn stored_inputs(context: &RunContext<'_>, job: &Job, damaged: &DamagedInputs) -> Inputs {
    let open = |input: &JobInput, is_member: bool| -> Arc<dyn Input> {
        let point = context.point(input.point);
        let kind = &point.parsed.kind;
        Arc::new(StoredInput {
            store: Arc::clone(context.store),
            label: point.name.clone(),
            axes: if is_member { point.coordinates.clone() } else { Vec::new() },
            provides: input.record.provides(kind.provides()),
            heading: kind.about().heading,
            record: Arc::clone(&input.record),
            point: input.point,
            damaged: Arc::clone(damaged),
        })
    };
    let mut inputs = BTreeMap::new();
    for (role, members) in &job.inputs {
        let is_list = matches!(job.components.inputs.get(role), Some(InputDigest::Many(_)));
        let mut list: Vec<_> = members.iter().map(|member| open(member, is_list)).collect();
        list.sort_by(|a, b| a.label().cmp(b.label()));
        inputs.insert(role.clone(), list);
    }
    Inputs(inputs)
}

struct StoredInput {
    store: Arc<Store>,
    label: String,
    axes: Vec<(String, Value)>,
    provides: BTreeSet<String>,
    heading: &'static str,
    record: Arc<ResultRecord>,
    point: PointId,
    damaged: DamagedInputs,
}

impl StoredInput {
    fn lacks(&self, what: &str, name: &str) -> StoreError {
        StoreError::NotFound(format!("`{}` has no {what} `{name}`", self.label))
    }

    fn noting_damage<T>(&self, read: Result<T, StoreError>) -> Result<T, Error> {
        read.map_err(|error| {
            if matches!(error, StoreError::Damaged { .. }) {
                self.damaged.lock().unwrap_or_else(PoisonError::into_inner).insert(self.point);
            }
            error.into()
        })
    }
}

impl Input for StoredInput {
    fn label(&self) -> &str {
        &self.label
    }

    fn axes(&self) -> &[(String, Value)] {
        &self.axes
    }

    fn manifest(&self) -> &Manifest {
        &self.record.manifest
    }

    fn provides(&self) -> &BTreeSet<String> {
        &self.provides
    }

    fn heading(&self) -> &str {
        self.heading
    }

    fn tensor(&self, name: &str) -> Result<Tensor, Error> {
        let entry = self.record.manifest.tensors.get(name).ok_or_else(|| self.lacks("tensor", name));
        self.noting_damage(entry.and_then(|entry| self.store.read_tensor(entry)))
    }

    fn file(&self, name: &str) -> Result<Vec<u8>, Error> {
        let entry = self.record.manifest.files.get(name).ok_or_else(|| self.lacks("file", name));
        self.noting_damage(entry.and_then(|entry| self.store.read_file(entry)))
    }

    fn write_to(&self, folder: &Path) -> Result<(), Error> {
        let Manifest { tensors, files, state, .. } = &self.record.manifest;
        let tensors = TensorFile { tensors: tensors.clone(), ..TensorFile::default() };
        let tensor_files = BTreeMap::from([(ARTIFACT_FILE.to_owned(), tensors)]);
        let artifact = Folder { files: files.clone(), tensor_files };
        self.noting_damage(self.store.share_folder(&artifact, folder))?;
        if state.is_empty() {
            return Ok(());
        }
        let folder = folder.join(STATE_FOLDER);
        let create = |e| Error::storage(format!("can't create {}", folder.display())).caused_by(e);
        fs::create_dir_all(&folder).map_err(create)?;
        self.noting_damage(self.store.share_folder(state, &folder))
    }
}
