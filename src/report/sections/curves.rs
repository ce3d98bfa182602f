//! Curves: how trainings and fits went, a chart per measure with a line per stage.

use std::collections::BTreeSet;

use super::Item;
use crate::report::chart::{Series, lines};
use crate::report::html::Text;
use crate::stage::StageError;

const PREFIX: &str = "history.";
/// Measures in the order of reading, with their captions; others follow by name.
const MEASURES: [(&str, &str); 5] = [
    ("loss", "Loss"),
    ("reconstruction", "Reconstruction loss"),
    ("kl", "KL per latent dimension"),
    ("rmse", "RMSE, grey levels"),
    ("psnr", "PSNR, dB"),
];

/// Everything with a history that is no fit.
pub(super) fn trainings(items: &[Item<'_>]) -> Result<String, StageError> {
    let with_history = |i: &&Item<'_>| i.kind() != "fit-latents" && !measures(i).is_empty();
    let kinds: BTreeSet<&str> = items.iter().filter(with_history).map(Item::kind).collect();
    let mut out = String::new();
    for kind in kinds {
        let title = match kind {
            "train-ad" => "Auto-decoders",
            "train-vad" => "Variational auto-decoders",
            other => other,
        };
        let members: Vec<&Item<'_>> = items.iter().filter(with_history).filter(|i| i.kind() == kind).collect();
        out.push_str(&format!("<h3>{}</h3>\n{}", Text(title), charts(&members)?));
    }
    Ok(out)
}

/// Fitted latents, a row of charts per split.
pub(super) fn fits(items: &[Item<'_>]) -> Result<String, StageError> {
    let fits = || items.iter().filter(|i| i.kind() == "fit-latents" && !measures(i).is_empty());
    let splits: BTreeSet<String> = fits().map(|i| i.fact("split").unwrap_or_default()).collect();
    let mut out = String::new();
    for split in splits {
        let members: Vec<&Item<'_>> = fits().filter(|i| i.fact("split").unwrap_or_default() == split).collect();
        if !split.is_empty() {
            out.push_str(&format!("<h3>The {} split</h3>\n", Text(&split)));
        }
        out.push_str(&charts(&members)?);
    }
    Ok(out)
}

fn measures(item: &Item<'_>) -> BTreeSet<String> {
    let histories = item.manifest().tensors.iter().filter(|(_, t)| t.shape.len() == 1);
    histories.filter_map(|(name, _)| name.strip_prefix(PREFIX)).map(str::to_owned).collect()
}

fn charts(items: &[&Item<'_>]) -> Result<String, StageError> {
    let all: BTreeSet<String> = items.iter().flat_map(|i| measures(i)).collect();
    let known =
        MEASURES.iter().filter(|(name, _)| all.contains(*name)).map(|(n, c)| ((*n).to_owned(), (*c).to_owned()));
    let others = all.iter().filter(|name| MEASURES.iter().all(|(n, _)| n != name)).map(|n| (n.clone(), n.clone()));
    let mut out = String::from("<div class=\"multiples\">\n");
    for (measure, caption) in known.chain(others) {
        let tensor = format!("{PREFIX}{measure}");
        let mut series = Vec::new();
        for (colour, item) in items.iter().enumerate().filter(|(_, i)| i.has(&tensor)) {
            series.push(Series { name: item.name.clone(), colour, values: item.floats(&tensor)? });
        }
        out.push_str(&lines(&caption, &series));
    }
    out.push_str("</div>\n");
    Ok(out)
}
