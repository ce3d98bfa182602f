//! `vadpipe show`.

use clap::Args;
use serde_json::json;

use super::explain;
use super::results::{self, EarlierArgs};
use super::ui::{Ui, bytes, figure, seconds, shorten, when};
use super::{Global, PipelineArgs};
use crate::artifact::{BlobEntry, TensorEntry};
use crate::error::Result;
use crate::stage::STATE_FOLDER;
use crate::store::ResultRecord;

/// Arguments of `show`.
#[derive(Args)]
#[command(after_help = "Examples:
  vadpipe show full.toml ad
  vadpipe show full.toml 'vad@*' --json
  vadpipe show full.toml ad --before      the result before the newest one")]
pub(super) struct ShowArgs {
    #[command(flatten)]
    pipeline: PipelineArgs,
    #[command(flatten)]
    earlier: EarlierArgs,
}

/// Prints the contents of cached results.
pub(super) fn show(args: &ShowArgs, global: &Global, ui: &Ui) -> Result<()> {
    let (_, results) = results::open(&args.pipeline, &args.earlier, global, ui)?;
    let mut results = results.into_stored(ui)?;
    let kinds = &global.kinds.0;
    for (_, record) in &mut results {
        // Records of earlier versions don't hold it.
        let of_kind = kinds.get(&record.manifest.kind).map_or(&[][..], |kind| kind.provides());
        record.provides = Some(record.provides(of_kind));
    }
    if ui.json {
        let all: serde_json::Map<_, _> = results.iter().map(|(name, record)| (name.clone(), json!(record))).collect();
        return ui.object(&all);
    }
    let text = |(name, record): &(String, ResultRecord)| text(name, record, kinds.facts(&record.manifest.kind));
    let texts: Vec<_> = results.iter().map(text).collect();
    ui.text(&texts.join("\n\n"));
    Ok(())
}

/// The content of a result. `facts` are the metrics that are shown as facts.
fn text(name: &str, record: &ResultRecord, facts: &[&str]) -> String {
    let manifest = &record.manifest;
    let made = &record.provenance;
    let is_elsewhere = made.pulled || made.host.contains('/');
    let place = if is_elsewhere { format!(" on {}", made.host) } else { String::new() };
    let mut lines = vec![
        format!("{name} ({})", manifest.kind),
        format!("  key       {}", record.key),
        format!("  output    {}", record.digest),
        format!(
            "  made      {} by run {}{place} in {}, vadpipe {}, {} ({}), {} threads{}",
            when(made.finished_at),
            made.run,
            seconds(made.seconds),
            made.version,
            made.device,
            made.class,
            made.threads,
            explain::accepted(record)
        ),
    ];
    if let Some(provides) = record.provides.as_ref().filter(|provides| !provides.is_empty()) {
        let names: Vec<&str> = provides.iter().map(String::as_str).collect();
        lines.push(format!("  provides  {}", shorten(&names.join(", "))));
    }
    let (facts, metrics): (Vec<_>, Vec<_>) = manifest.metrics.iter().partition(|(name, _)| facts.contains(&&***name));
    lines.extend(metrics.iter().map(|(name, value)| format!("  metric    {} = {}", shorten(name), figure(**value))));
    // A fact of the same name says more, such as the names of the classes.
    let counts = facts.iter().filter(|(name, _)| !manifest.facts.contains_key(*name));
    lines.extend(counts.map(|(name, value)| format!("  fact      {} = {}", shorten(name), figure(**value))));
    lines.extend(
        manifest
            .facts
            .iter()
            .map(|(name, value)| format!("  fact      {} = {}", shorten(name), shorten(&value.to_string()))),
    );
    let tensor = |name: &str, t: &TensorEntry| {
        let shape: Vec<_> = t.shape.iter().map(ToString::to_string).collect();
        let element = format!("{:?}", t.element).to_lowercase();
        format!("  tensor    {}  {element} [{}]  {}", shorten(name), shape.join(", "), bytes(t.blob.size))
    };
    let file = |name: &str, blob: &BlobEntry| format!("  file      {}  {}", shorten(name), bytes(blob.size));
    lines.extend(manifest.tensors.iter().map(|(name, t)| tensor(name, t)));
    lines.extend(manifest.files.iter().map(|(name, blob)| file(name, blob)));
    for (name, tensors) in &manifest.state.tensor_files {
        let in_file = |part: &String| format!("{STATE_FOLDER}/{name}: {part}");
        lines.extend(tensors.tensors.iter().map(|(part, t)| tensor(&in_file(part), t)));
    }
    lines.extend(manifest.state.files.iter().map(|(name, blob)| file(&format!("{STATE_FOLDER}/{name}"), blob)));
    lines.join("\n")
}
