//! `vadpipe export`.

mod layout;

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use clap::Args;
use serde_json::json;

use self::layout::{Content, ExportFile};
use super::args::{Global, PipelineArgs};
use super::results::{self, EarlierArgs};
use super::ui::Ui;
use crate::artifact::TensorFile;
use crate::error::{Error, Result};
use crate::file;
use crate::report::image;
use crate::store::Store;

/// Arguments of `export`.
#[derive(Args)]
#[command(after_help = "Examples:
  vadpipe export full.toml ad --to out
  vadpipe export full.toml 'vad@*' fit-ad --to out --overwrite
  vadpipe export full.toml --to old --run 20261122-10   an earlier run's results

A tensor `decoder.fc.weight` is written to decoder.safetensors as `fc.weight`, so that PyTorch's load_state_dict accepts \
the file. Tensors without a dot in their name go to tensors.safetensors. A stack of images is also written as a PNG file. \
The last state of a training program goes to state/. \
If two files would have the same name, the second gets a number: with a file plot.png, images `plot` go to plot-2.png.")]
pub(super) struct ExportArgs {
    #[command(flatten)]
    pipeline: PipelineArgs,
    #[command(flatten)]
    earlier: EarlierArgs,
    /// The folder to write to; each point gets its own folder in it
    #[arg(long, value_name = "DIR")]
    to: PathBuf,
    /// Replace existing files
    #[arg(long)]
    overwrite: bool,
}

/// Writes results to files.
pub(super) fn export(args: &ExportArgs, global: &Global, ui: &Ui) -> Result<()> {
    let (project, results) = results::open(&args.pipeline, &args.earlier, global, ui)?;
    let results = results.into_stored(ui)?;
    let planned = results.iter().map(|(name, record)| {
        let files = layout::files(&record.manifest).map_err(|fault| {
            let message = format!("`{name}` can't be exported: {fault}");
            Error::bad_input(message).hint("nothing was written")
        })?;
        Ok((args.to.join(name), files))
    });
    let planned: Vec<(PathBuf, Vec<ExportFile<'_>>)> = planned.collect::<Result<_>>()?;
    let paths = planned.iter().flat_map(|(folder, files)| files.iter().map(|f| folder.join(&f.name)));
    let existing: Vec<PathBuf> = paths.filter(|p| p.symlink_metadata().is_ok()).collect();
    if let (Some(first), false) = (existing.first(), args.overwrite) {
        let others = existing.len() - 1;
        let more = if others > 0 { format!(" (and {others} more files)") } else { String::new() };
        let message = format!("{} exists{more}: nothing was written", first.display());
        return Err(Error::bad_input(message).hint("use another folder or --overwrite"));
    }
    let mut written = Vec::new();
    for (folder, files) in &planned {
        for file in files {
            let path = folder.join(&file.name);
            write(&project.store, &path, &file.content)?;
            let instead = file.instead_of.as_ref().map(|name| format!(" ({name} is another file)")).unwrap_or_default();
            ui.note(&format!("wrote {}{instead}", path.display()));
            written.push(path);
        }
    }
    if ui.json {
        ui.object(&json!({ "written": written }))?;
    }
    Ok(())
}

/// Writes a file, piece by piece: a result may be larger than the memory.
fn write(store: &Store, path: &Path, content: &Content<'_>) -> Result<()> {
    let failed = |e| Error::storage(format!("can't write {}", path.display())).caused_by(e);
    let folder = path.parent().unwrap_or(Path::new("."));
    let mut file = fs::create_dir_all(folder).and_then(|()| file::temporary(folder)).map_err(failed)?;
    match content {
        Content::Json(value) => writeln!(file, "{value:#}").map_err(failed)?,
        Content::File(blob) => store.write_blob(blob, file.as_file_mut(), path)?,
        Content::TensorFile(tensors) => store.write_tensor_file(tensors, file.as_file_mut(), path)?,
        Content::Tensors(entries) => {
            let tensors = entries.iter().map(|(name, entry)| ((*name).to_owned(), (*entry).clone())).collect();
            let tensors = TensorFile { tensors, ..TensorFile::default() };
            store.write_tensor_file(&tensors, file.as_file_mut(), path)?;
        }
        Content::Picture(entry) => {
            let tensor = store.read_tensor(entry)?;
            let count = tensor.shape().first().copied().unwrap_or_default();
            let picture = image::grid(&tensor, layout::columns(count), layout::SCALE).map_err(as_storage)?;
            file.write_all(&picture).map_err(failed)?;
        }
    }
    file.persist(path).map(drop).map_err(|e| failed(e.error))
}

fn as_storage(error: impl std::error::Error + Send + Sync + 'static) -> Error {
    Error::storage("a result can't be written as a file").caused_by(error)
}
