//! `vadpipe export`.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Component, Path, PathBuf};

use clap::Args;
use serde_json::json;

use super::project::Project;
use super::ui::Ui;
use super::{Global, PipelineArgs};
use crate::artifact::{ElementType, Tensor, to_safetensors};
use crate::error::{Error, Result};
use crate::exec::replace_file;
use crate::report::image;
use crate::store::{ResultRecord, Store};

/// Arguments of `export`.
#[derive(Args)]
#[command(after_help = "Examples:
  vadpipe export pipelines/full.toml ad --to out
  vadpipe export pipelines/full.toml 'vad@*' fit-ad --to out --overwrite

A tensor `decoder.fc.weight` is written to decoder.safetensors as `fc.weight`, so that PyTorch's load_state_dict takes
the file; tensors without a dot in their name go to tensors.safetensors, stacks of images to PNG files as well.")]
pub(super) struct ExportArgs {
    #[command(flatten)]
    pipeline: PipelineArgs,
    /// The folder to write to; each point gets a folder in it
    #[arg(long, value_name = "DIR")]
    to: PathBuf,
    /// Replace files that are there
    #[arg(long)]
    overwrite: bool,
}

/// Takes results out of the cache.
pub(super) fn export(args: &ExportArgs, global: &Global, ui: &Ui) -> Result<()> {
    let project = Project::open(&args.pipeline, global, ui)?;
    let results = project.all_results(ui)?;
    let planned: Vec<(PathBuf, &ResultRecord)> =
        results.iter().map(|(point, record)| (args.to.join(project.name(*point)), record)).collect();
    let mut existing = Vec::new();
    for (folder, record) in &planned {
        existing
            .extend(names(record)?.into_iter().map(|name| folder.join(name)).filter(|p| p.symlink_metadata().is_ok()));
    }
    if let (Some(first), false) = (existing.first(), args.overwrite) {
        let others = existing.len() - 1;
        let more = if others > 0 { format!(" (and {others} more files)") } else { String::new() };
        let message = format!("{} exists{more}: nothing was written", first.display());
        return Err(Error::bad_input(message).hint("give another folder, or `--overwrite`"));
    }
    let mut written = Vec::new();
    for (folder, record) in &planned {
        for (name, bytes) in files(&project.store, record)? {
            let path = folder.join(name);
            write(&path, &bytes)?;
            ui.note(&format!("wrote {}", path.display()));
            written.push(path);
        }
    }
    if ui.json {
        ui.object(&json!({ "written": written }))?;
    }
    Ok(())
}

/// The file that a tensor goes to, and its name in it.
fn place(tensor: &str) -> (String, &str) {
    match tensor.split_once('.') {
        Some((group, name)) => (format!("{group}.safetensors"), name),
        None => ("tensors.safetensors".to_owned(), tensor),
    }
}

fn is_image_stack(element: ElementType, shape: &[usize]) -> bool {
    element == ElementType::U8 && shape.len() == 3 && shape[0] <= MOST_IMAGES
}

/// More than these are a data set, not something to look at.
const MOST_IMAGES: usize = 400;

/// The files that a result is written to, without reading it.
fn names(record: &ResultRecord) -> Result<Vec<String>> {
    let manifest = &record.manifest;
    let mut names = vec!["metrics.json".to_owned(), "facts.json".to_owned()];
    for (name, entry) in &manifest.tensors {
        names.push(place(name).0);
        if is_image_stack(entry.element, &entry.shape) {
            names.push(format!("{name}.png"));
        }
    }
    names.extend(manifest.files.keys().cloned());
    names.sort();
    names.dedup();
    match names.iter().find(|n| !Path::new(n).components().all(|c| matches!(c, Component::Normal(_)))) {
        Some(bad) => Err(Error::bad_input(format!("`{bad}` is no name for a file"))),
        None => Ok(names),
    }
}

/// The files with their content.
fn files(store: &Store, record: &ResultRecord) -> Result<BTreeMap<String, Vec<u8>>> {
    let manifest = &record.manifest;
    let mut files = BTreeMap::new();
    let mut groups: BTreeMap<String, Vec<(String, Tensor)>> = BTreeMap::new();
    for (name, entry) in &manifest.tensors {
        let tensor = store.read_tensor(entry)?;
        if is_image_stack(entry.element, &entry.shape) {
            let columns = (entry.shape[0] as f64).sqrt().ceil() as usize;
            let png = image::grid(&tensor, columns.clamp(1, 10), 2).map_err(as_storage)?;
            files.insert(format!("{name}.png"), png);
        }
        let (file, short) = place(name);
        groups.entry(file).or_default().push((short.to_owned(), tensor));
    }
    for (file, tensors) in groups {
        let bytes = to_safetensors(tensors.iter().map(|(name, tensor)| (name.as_str(), tensor))).map_err(as_storage)?;
        files.insert(file, bytes);
    }
    for (name, blob) in &manifest.files {
        files.insert(name.clone(), store.read_file(blob)?);
    }
    files.insert("metrics.json".to_owned(), pretty(&json!(manifest.metrics)));
    files.insert("facts.json".to_owned(), pretty(&json!(manifest.facts)));
    Ok(files)
}

fn as_storage(error: impl std::error::Error + Send + Sync + 'static) -> Error {
    Error::storage("a result can't be written as a file").caused_by(error)
}

fn pretty(value: &serde_json::Value) -> Vec<u8> {
    format!("{value:#}\n").into_bytes()
}

fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    let written = path.parent().map_or(Ok(()), fs::create_dir_all).and_then(|()| replace_file(path, bytes));
    written.map_err(|e| Error::storage(format!("can't write {}", path.display())).caused_by(e))
}
