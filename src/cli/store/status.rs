//! `vadpipe store status`.

use clap::Args;
use serde_json::json;

use crate::cli::shared::{StoreArgs, print_warnings};
use crate::cli::store::voices::{dissent, object};
use crate::cli::ui::{Ui, bytes, count};
use crate::error::Result;

/// Arguments of `store status`.
#[derive(Args)]
#[command(after_help = "Examples:
  vadpipe store status                        that of the configuration
  vadpipe store status --store s3://team/x    another one

Lists the results that several machines made differently. Those programs are not reproducible.")]
pub(super) struct StatusArgs {
    #[command(flatten)]
    store: StoreArgs,
}

/// Counts the objects of the store, and lists results that machines made differently.
pub(super) fn status(args: &StatusArgs, ui: &Ui) -> Result<()> {
    let shared = args.store.required(Some(false))?;
    let (counts, disputed) = (shared.counts()?, shared.disputed()?);
    print_warnings(&shared, ui);
    if ui.json {
        return ui.object(&json!({
            "store": shared.address().to_string(), "results": counts.results, "states": counts.states,
            "blobs": counts.blobs, "words": counts.words, "bytes": counts.bytes,
            "disputed": disputed.iter().map(object).collect::<Vec<_>>(),
        }));
    }
    let mut lines = vec![format!(
        "{}: {}, {}, {} of {}",
        shared.address(),
        count(counts.results, "result"),
        count(counts.states, "state"),
        count(counts.blobs, "blob"),
        bytes(counts.bytes),
    )];
    lines.extend(disputed.iter().map(dissent));
    ui.text(&lines.join("\n"));
    Ok(())
}
