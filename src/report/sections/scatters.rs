//! Embeddings as scatters coloured by class, with one legend for all that have the same classes.

use std::collections::{BTreeMap, BTreeSet};

use super::dataset::{DataSets, Split};
use super::item::Item;
use crate::report::html::{Html, html, name, number};
use crate::report::image::data_uri;
use crate::report::scatter::{Point, legend, plot};
use crate::stage::StageError;

/// The maximum number of scatters; the others are left out.
const MOST: usize = 24;
/// Images of this many points are shown in full size, of more points in half their size.
const MOST_IN_FULL: usize = 600;
/// Images of more points are not shown.
const MOST_IMAGES: usize = 4000;
/// Images in a row of the picture that holds them.
const ACROSS: usize = 40;

const NOTE: &str = "<p class=\"note\">Points that are close in the plane were close in latent space. The size of a cluster and \
    the distance between clusters say little, so the axes carry no figures. <b>knn purity</b>: how many of a point’s ten \
    nearest neighbours in the plane share its class. <b>knn recall</b>: how many of its ten nearest neighbours in latent \
    space are still among them. Choose a class in the legend to see it alone.</p>\n";

pub(super) fn render(items: &[&Item<'_>], data: &DataSets) -> Result<Html, StageError> {
    let mut groups: BTreeMap<Vec<String>, Vec<&Item<'_>>> = BTreeMap::new();
    for item in items.iter().take(MOST) {
        groups.entry(item.classes()).or_default().push(item);
    }
    let mut out = Html::default();
    let mut pictures = BTreeSet::new();
    for members in groups.values() {
        let mut splits = Vec::new();
        for item in members {
            if item.has("labels") {
                splits.extend(data.with_labels(&split(item), &item.indices("labels")?));
            }
        }
        for split in splits {
            if pictures.insert(split.name) {
                out.push(sprites(split)?);
            }
        }
        out.push(embeddings(members)?);
    }
    if !out.is_empty() {
        if items.len() > MOST {
            out.push(html!("<p class=\"note\">{} of {} are shown: the first ones.</p>\n", MOST, items.len()));
        }
        out.push(Html::constant(NOTE));
    }
    Ok(out)
}

/// Scatters with one legend.
pub(super) fn embeddings(items: &[&Item<'_>]) -> Result<Html, StageError> {
    let classes = items.first().map(|item| item.classes()).unwrap_or_default();
    let mut plots = Html::default();
    let mut most = 0;
    for item in items {
        let points = points(item)?;
        most = points.iter().map(|p| p.class + 1).max().unwrap_or(0).max(most);
        plots.push(figure(item, &points, &classes));
    }
    Ok(html!("<div class=\"embedding\">{}<div class=\"multiples\">\n{}</div></div>\n", legend(&classes, most), plots))
}

/// All images of a split in one picture. The script shows that of the point below the pointer.
fn sprites(split: &Split) -> Result<Html, StageError> {
    let count = split.images.count;
    if count > MOST_IMAGES {
        return Ok(Html::default());
    }
    let halved = (count > MOST_IN_FULL).then(|| split.images.halved());
    let images = halved.as_ref().unwrap_or(&split.images);
    let png = images.grid(0, count, ACROSS, 1)?;
    Ok(html!(
        "<i hidden class=\"sprites\" data-split=\"{}\" data-across=\"{}\" data-size=\"{} {}\" data-png=\"{}\"></i>\n",
        split.name,
        ACROSS,
        images.width,
        images.height,
        data_uri(&png)
    ))
}

fn split(item: &Item<'_>) -> String {
    item.fact("split").unwrap_or_default()
}

fn figure(item: &Item<'_>, points: &[Point], classes: &[String]) -> Html {
    let of_split = item.fact("split").map(|s| format!("{s} split, ")).unwrap_or_default();
    let figures: Vec<String> = ["kl", "knn_purity", "knn_recall"]
        .into_iter()
        .filter_map(|m| Some(format!("{} {}", m.replace('_', " "), number(*item.manifest().metrics.get(m)?))))
        .collect();
    let count = number(points.len() as f64);
    let caption = html!("<b>{}</b> <small>{}{} points</small>", name(&item.name), of_split, count);
    let label = format!("embedding of {}", item.name);
    html!(
        "<figure class=\"chart\"><figcaption>{}</figcaption>\n{}\n<p class=\"under\">{}</p></figure>\n",
        caption,
        plot(&label, &split(item), points, classes),
        figures.join(" · ")
    )
}

fn points(item: &Item<'_>) -> Result<Vec<Point>, StageError> {
    let flat = item.floats("embedding")?;
    let labels = if item.has("labels") { item.indices("labels")? } else { vec![0; flat.len() / 2] };
    if item.manifest().tensors.get("embedding").is_none_or(|t| t.shape != [labels.len(), 2]) {
        return Err(StageError::failed(format!("{} has no point in the plane for each label", item.name)));
    }
    // More classes than this would only make the file large.
    let class = |label: usize| label.min(255);
    Ok(flat.chunks_exact(2).zip(labels).map(|(p, l)| Point { x: p[0], y: p[1], class: class(l) }).collect())
}
