//! Embeddings as scatters coloured by class, with one legend for all that have the same classes.

use std::collections::BTreeMap;

use super::item::Item;
use crate::artifact::ElementType;
use crate::report::html::{Html, html, name, number};
use crate::report::scatter::{Point, legend, plot};
use crate::stage::StageError;

const NOTE: &str = "<p class=\"note\">Only distances mean something, so the axes carry no figures. <b>knn purity</b>: how \
    many of a point’s ten nearest neighbours in the plane share its class. <b>knn recall</b>: how many of its ten nearest \
    neighbours in latent space are still among them. Choose a class in the legend to see it alone.</p>\n";

pub(super) fn render(items: &[&Item<'_>]) -> Result<Html, StageError> {
    let mut groups: BTreeMap<Vec<String>, Vec<&Item<'_>>> = BTreeMap::new();
    for item in items {
        groups.entry(item.classes()).or_default().push(item);
    }
    let mut out = Html::default();
    for (classes, members) in groups {
        let mut plots = Html::default();
        let mut most = 0;
        for item in members {
            let points = points(item)?;
            most = points.iter().map(|p| p.class + 1).max().unwrap_or(0).max(most);
            plots.push(figure(item, &points, &classes));
        }
        out.push(html!(
            "<div class=\"embedding\">{}<div class=\"multiples\">\n{}</div></div>\n",
            legend(&classes, most),
            plots
        ));
    }
    if !out.is_empty() {
        out.push(Html::constant(NOTE));
    }
    Ok(out)
}

fn figure(item: &Item<'_>, points: &[Point], classes: &[String]) -> Html {
    let split = item.fact("split").map(|s| format!("{s} split, ")).unwrap_or_default();
    let figures: Vec<String> = ["kl", "knn_purity", "knn_recall"]
        .into_iter()
        .filter_map(|m| Some(format!("{} {}", m.replace('_', " "), number(*item.manifest().metrics.get(m)?))))
        .collect();
    let count = number(points.len() as f64);
    let caption = html!("<b>{}</b> <small>{}{} points</small>", name(&item.name), split, count);
    let label = format!("embedding of {}", item.name);
    html!(
        "<figure class=\"chart\"><figcaption>{}</figcaption>\n{}\n<p class=\"under\">{}</p></figure>\n",
        caption,
        plot(&label, points, classes),
        figures.join(" · ")
    )
}

fn points(item: &Item<'_>) -> Result<Vec<Point>, StageError> {
    let flat = item.floats("embedding")?;
    let labels: Vec<usize> = if item.has("labels") {
        let tensor = item.input.tensor("labels")?;
        match tensor.element() {
            ElementType::U32 => tensor.to_vec::<u32>()?.into_iter().map(|l| l as usize).collect(),
            _ => tensor.to_vec::<u8>()?.into_iter().map(usize::from).collect(),
        }
    } else {
        vec![0; flat.len() / 2]
    };
    if item.manifest().tensors.get("embedding").is_none_or(|t| t.shape != [labels.len(), 2]) {
        return Err(StageError::failed(format!("{} has no point in the plane for each label", item.name)));
    }
    // More classes than this would only make the file large.
    let class = |label: usize| label.min(255);
    Ok(flat.chunks_exact(2).zip(labels).map(|(p, l)| Point { x: p[0], y: p[1], class: class(l) }).collect())
}
