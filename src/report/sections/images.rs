//! Images: examples of the data, reconstructions below their originals, samples, interpolations.

use std::collections::BTreeMap;

use super::dataset::DataSets;
use super::item::Item;
use crate::artifact::Capability;
use crate::key::Digest;
use crate::report::html::{Html, html, name, number, round_number};
use crate::report::image::{Stack, data_uri};
use crate::stage::StageError;

/// Images in a row of a strip.
const ACROSS: usize = 10;
/// The maximum number of images of an input; the others are left out.
const MOST: usize = 100;

/// The maximum number of inputs below the same originals: the best ones.
const MOST_MODELS: usize = 12;
/// The maximum number of strips below a heading.
const MOST_STRIPS: usize = 24;

/// An `<img>` of some images of a stack, at twice their size.
fn picture(stack: &Stack, first: usize, count: usize, columns: usize, alt: &str) -> Result<Html, StageError> {
    let png = stack.grid(first, count, columns, 1)?;
    let columns = columns.min(count).max(1);
    let width = (columns * (stack.width + 1) - 1) * 2;
    let height = (count.div_ceil(columns) * (stack.height + 1) - 1) * 2;
    let source = data_uri(&png);
    Ok(html!("<img width=\"{}\" height=\"{}\" alt=\"{}\" src=\"{}\">", width, height, alt, source))
}

/// A line of images with its title before it.
fn strip(title: &str, detail: &str, picture: Html) -> Html {
    let detail = if detail.is_empty() { Html::default() } else { html!(" <small>{}</small>", detail) };
    html!("<div class=\"strip\"><div class=\"name\">{}{}</div>{}</div>\n", name(title), detail, picture)
}

fn strips(strips: Html) -> Html {
    html!("<div class=\"strips\">{}</div>\n", strips)
}

fn cut_short(stack: &Stack) -> String {
    if stack.count > MOST { format!("the first {MOST} of {}", stack.count) } else { String::new() }
}

/// Examples of each data set, a line per class if they are ordered by class.
pub(super) fn data(items: &[&Item<'_>]) -> Result<Html, StageError> {
    let mut out = Html::default();
    for item in items {
        let stack = item.images("examples")?;
        if stack.count == 0 {
            continue;
        }
        let classes = item.classes();
        let source = item.fact("source").map(|s| html!(" <small>{}</small>", s)).unwrap_or_default();
        out.push(html!("<h3>{}{}</h3>\n", item.name, source));
        let per_class = item.fact("examples_per_class").and_then(|n| n.parse::<usize>().ok()).unwrap_or(0);
        if per_class > 0 && classes.len() * per_class == stack.count {
            let line = |(at, class): (usize, &String)| {
                let alt = format!("examples of {class}");
                Ok(strip(class, "", picture(&stack, at * per_class, per_class, per_class, &alt)?))
            };
            let lines = classes.iter().enumerate().map(line).collect::<Result<Html, StageError>>()?;
            out.push(html!("<div class=\"strips classes\">{}</div>\n", lines));
        } else {
            let shown = stack.count.min(MOST);
            let picture = picture(&stack, 0, shown, ACROSS, "examples of the data")?;
            out.push(strip("examples", &cut_short(&stack), picture));
        }
    }
    Ok(out)
}

/// Reconstructions below their originals, by model.
pub(super) fn reconstructions(items: &[&Item<'_>], data: &DataSets) -> Result<Html, StageError> {
    let mut groups: BTreeMap<(bool, Digest), Vec<&Item<'_>>> = BTreeMap::new();
    for item in items {
        if let Some(originals) = item.manifest().tensors.get("originals") {
            groups.entry((is_held_out(item), originals.blob.digest)).or_default().push(item);
        }
    }
    // Sorted by name for the reader, not by digest.
    let mut groups: Vec<((bool, Digest), Vec<&Item<'_>>)> = groups.into_iter().collect();
    groups.sort_by(|a, b| (a.0.0, &a.1[0].name).cmp(&(b.0.0, &b.1[0].name)));
    let mut out = Html::default();
    for ((held_out, _), members) in groups {
        let originals = members[0].images("originals")?;
        let title = if held_out { "Images held out" } else { "Training images" };
        let shown = best(&members);
        out.push(html!("<h3>{}</h3>\n{}", title, left_out(members.len(), shown.len(), "those with the lowest rmse")));
        for first in (0..originals.count.min(MOST)).step_by(ACROSS) {
            out.push(beside_originals(&shown, &originals, (first, ACROSS), data)?);
        }
    }
    Ok(out)
}

/// The inputs with the lowest error, in their order.
fn best<'a>(members: &[&'a Item<'a>]) -> Vec<&'a Item<'a>> {
    let error = |item: &Item<'_>| item.metric("rmse").or_else(|| item.metric("loss")).unwrap_or(f64::INFINITY);
    let mut errors: Vec<f64> = members.iter().map(|item| error(item)).collect();
    errors.sort_by(f64::total_cmp);
    let limit = errors.get(MOST_MODELS - 1).copied().unwrap_or(f64::INFINITY);
    members.iter().copied().filter(|item| error(item) <= limit).take(MOST_MODELS).collect()
}

/// How many of all are shown. Empty if that is all.
fn left_out(all: usize, shown: usize, which: &str) -> Html {
    if all <= shown {
        return Html::default();
    }
    html!("<p class=\"note\">{} of {} are shown: {}.</p>\n", shown, all, which)
}

/// Some originals, with their classes above and the reconstructions of these inputs below.
pub(super) fn beside_originals(
    items: &[&Item<'_>],
    originals: &Stack,
    (first, across): (usize, usize),
    data: &DataSets,
) -> Result<Html, StageError> {
    let count = across.min(originals.count.saturating_sub(first));
    let class = |split: &super::dataset::Split| {
        let classes = (first..first + count).map(|index| split.class(index).unwrap_or_default());
        heads(&classes.collect::<Vec<_>>(), originals.width)
    };
    let mut lines = data.beginning_with(originals).map(class).unwrap_or_default();
    lines.push(strip("original", "", picture(originals, first, count, across, "originals")?));
    for item in items {
        let stack = item.images("reconstructions")?;
        let here = count.min(stack.count.saturating_sub(first));
        if here == 0 {
            continue;
        }
        let rmse = item.metric("rmse").map(|v| format!("rmse {}", number(v)));
        let alt = format!("reconstructions by {}", item.name);
        let picture = picture(&stack, first, here, across, &alt)?;
        lines.push(strip(&item.name, &rmse.unwrap_or_default(), picture));
    }
    Ok(strips(lines))
}

/// The classes above the images of a strip.
fn heads(classes: &[&str], width: usize) -> Html {
    if classes.iter().all(|class| class.is_empty()) {
        return Html::default();
    }
    let all: Html = classes.iter().map(|class| html!("<span>{}</span>", *class)).collect();
    let width = classes.len() * (width + 1) * 2;
    html!(
        "<div class=\"strip\"><div class=\"name\"></div>\
         <div class=\"heads\" style=\"max-width:{}px;grid-template-columns:repeat({},minmax(0,1fr))\">{}</div></div>\n",
        width,
        classes.len(),
        all
    )
}

pub(super) fn is_held_out(item: &Item<'_>) -> bool {
    item.provides(Capability::FITTED_LATENTS) && item.fact("split").as_deref() != Some("train")
}

/// Decoded latents: first samples of the prior, then chosen ones, by scale.
pub(super) fn samples(items: &[&Item<'_>]) -> Result<Html, StageError> {
    const WHAT: [(&str, &str); 4] = [
        ("prior", "Samples of the prior"),
        ("ones", "All ones"),
        ("zeros", "All zeros"),
        ("latents", "Given latents, scaled"),
    ];
    let mut out = Html::default();
    for (what, title) in WHAT.into_iter().chain([("", "Others")]) {
        let is_what = |i: &Item<'_>| match i.fact("what") {
            Some(fact) if WHAT.iter().any(|(w, _)| *w == fact) => fact == what,
            _ => what.is_empty(),
        };
        let mut members: Vec<&Item<'_>> = items.iter().copied().filter(|i| is_what(i)).collect();
        let scale = |i: &Item<'_>| i.fact("scale").and_then(|s| s.parse::<f64>().ok()).unwrap_or(1.0);
        members.sort_by(|a, b| scale(a).total_cmp(&scale(b)));
        if members.is_empty() {
            continue;
        }
        let mut lines = left_out(members.len(), MOST_STRIPS, "the first ones");
        for item in members.into_iter().take(MOST_STRIPS) {
            let stack = item.images("images")?;
            let detail = match (what, scale(item)) {
                ("zeros", _) | (_, 1.0) if what != "latents" => cut_short(&stack),
                (_, scale) => format!("× {} {}", round_number(scale), cut_short(&stack)),
            };
            let shown = stack.count.min(MOST);
            let picture = picture(&stack, 0, shown, ACROSS, &format!("images decoded by {}", item.name))?;
            lines.push(strip(&item.name, detail.trim(), picture));
        }
        out.push(html!("<h3>{}</h3>\n{}", title, strips(lines)));
    }
    Ok(out)
}

/// Interpolations, a strip each, between the two images that they start from.
pub(super) fn interpolations(items: &[&Item<'_>], data: &DataSets) -> Result<Html, StageError> {
    let mut lines = left_out(items.len(), MOST_STRIPS, "the first ones");
    for item in items.iter().take(MOST_STRIPS) {
        let stack = item.images("images")?;
        let fact = |name: &str| item.fact(name).unwrap_or_else(|| "?".to_owned());
        let detail = format!("{} → {}, {}", fact("from"), fact("to"), fact("mode"));
        let shown = stack.count.min(MOST);
        let columns = ACROSS.max(stack.count.min(16));
        let steps = picture(&stack, 0, shown, columns, &format!("{}: {detail}", item.name))?;
        lines.push(strip(&item.name, &detail, between(item, steps, columns, data)?));
    }
    if lines.is_empty() { Ok(lines) } else { Ok(strips(lines)) }
}

/// Steps between their two originals, if the data set is known.
fn between(item: &Item<'_>, steps: Html, columns: usize, data: &DataSets) -> Result<Html, StageError> {
    let index = |name: &str| item.fact(name).and_then(|index| index.parse::<usize>().ok());
    let Some(((from, to), split)) = index("from_index").zip(index("to_index")).zip(data.train()) else {
        return Ok(steps);
    };
    if from.max(to) >= split.images.count {
        return Ok(steps);
    }
    let original = |at: usize| {
        let alt = format!("original: {}", split.class(at).unwrap_or("a train image"));
        Ok(html!("<figure>{}<figcaption>original</figcaption></figure>", picture(&split.images, at, 1, 1, &alt)?))
    };
    let [from, to]: [Result<Html, StageError>; 2] = [original(from), original(to)];
    let width = (columns + 2) * (split.images.width + 1) * 2 + 24;
    Ok(html!(
        "<div class=\"between\" style=\"max-width:{}px;grid-template-columns:minmax(0,1fr) minmax(0,{}fr) minmax(0,1fr)\">\
         {}<figure>{}<figcaption>decoded</figcaption></figure>{}</div>",
        width,
        columns,
        from?,
        steps,
        to?
    ))
}
