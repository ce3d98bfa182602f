//! What was found, for the first screen: the best figures beside the baseline, and three pictures.

use super::curves;
use super::dataset::DataSets;
use super::figures::{find, step};
use super::images::{beside_originals, is_held_out};
use super::item::Item;
use super::scatters::embeddings;
use super::sweeps::{self, Sweep};
use crate::artifact::Capability;
use crate::report::colours::Colours;
use crate::report::html::{Cell, Html, Table, html, name, number};
use crate::report::request::{Reference, Spec};
use crate::stage::StageError;

/// The maximum number of figures at the top.
const MOST_FIGURES: usize = 6;
/// Reconstructions at the top, and those in a row.
const IMAGES: usize = 10;
const IMAGES_ACROSS: usize = 5;
/// Metrics of which more is better, by a part of their names.
const MORE_IS_BETTER: [&str; 12] =
    ["acc", "psnr", "purity", "recall", "precision", "f1", "auc", "score", "iou", "bleu", "reward", "r2"];
/// The metric that a stage without axes is known by.
const MAIN: [&str; 3] = ["loss", "knn_purity", "rmse"];

/// All inputs of a report.
pub(super) struct Found<'a> {
    pub(super) spec: &'a Spec,
    pub(super) all: &'a [Item<'a>],
    pub(super) colours: &'a Colours,
    pub(super) data: &'a DataSets,
    /// A picture that a program wrote.
    pub(super) cover: Option<&'a Html>,
}

/// One of the figures at the top.
struct Figure {
    label: Html,
    value: String,
    detail: Html,
}

impl Found<'_> {
    pub(super) fn render(&self, items: &[&Item<'_>]) -> Result<Html, StageError> {
        let sweeps = sweeps::collect(items, &self.spec.over);
        let mut figures = self.beside_baseline()?;
        if figures.is_empty() {
            let of_sweeps = sweeps.iter().filter_map(|sweep| Some((step(sweep.example()), best_point(sweep)?)));
            let is_alone = |item: &&&Item<'_>| !item.input.label().contains('@');
            let alone = items.iter().filter(is_alone).filter_map(|item| Some((step(item), main_metric(item)?)));
            let mut all: Vec<(usize, Figure)> = alone.chain(of_sweeps).collect();
            all.sort_by_key(|(step, _)| *step);
            figures.extend(all.into_iter().map(|(_, figure)| figure).take(MOST_FIGURES));
        }
        let tile = |figure: &Figure| {
            html!("<div><dt>{}</dt><dd><b>{}</b> {}</dd></div>\n", figure.label, figure.value, figure.detail)
        };
        let tiles = match figures.is_empty() {
            true => Html::default(),
            false => html!("<dl class=\"findings\">\n{}</dl>\n", figures.iter().map(tile).collect::<Html>()),
        };
        let mut pictures = vec![self.curve(items, &sweeps)?, self.images(items)?, self.scatter(items)?];
        if pictures.iter().any(|picture| picture.is_empty()) {
            pictures.extend(self.cover.cloned());
        }
        let pictures = match pictures.iter().all(|picture| picture.is_empty()) {
            true => Html::default(),
            false => html!("<div class=\"three\">\n{}</div>\n", Html::from_iter(pictures)),
        };
        Ok(html!("{}{}{}", tiles, pictures, self.table()?))
    }

    /// Our figures that have a baseline.
    fn beside_baseline(&self) -> Result<Vec<Figure>, StageError> {
        let mut figures = Vec::new();
        for Reference { label, ours, seed, .. } in &self.spec.reference {
            let (Some(ours), false) = (ours, seed.is_empty()) else { continue };
            let ours = find(ours, self.all)?;
            let difference = seed.parse::<f64>().ok().filter(|seed| *seed != 0.0).map(|seed| ours / seed - 1.0);
            let difference = difference.map(|share| format!(" ({}%)", signed(share * 100.0))).unwrap_or_default();
            let detail = html!("baseline {}{}", seed, difference);
            figures.push(Figure { label: html!("{}", label), value: number(ours), detail });
        }
        // Exact baselines say more than such as "about 0.9".
        figures.sort_by_key(|figure| !figure.detail.contains('%'));
        figures.truncate(MOST_FIGURES);
        Ok(figures)
    }

    /// The whole comparison with the baseline.
    fn table(&self) -> Result<Html, StageError> {
        if self.spec.reference.is_empty() {
            return Ok(Html::default());
        }
        let mut table = Table::default();
        table.column("figure", false).column("ours", true).column("baseline", true).column("note", false);
        for figure in &self.spec.reference {
            let ours = figure.ours.as_deref().map(|name| find(name, self.all)).transpose()?;
            let title = figure.ours.as_deref().unwrap_or_default();
            let shown = ours.map(number).unwrap_or_default();
            let exact = ours.map(|v| v.to_string()).unwrap_or_default();
            let html = html!("<span title=\"{} = {}\">{}</span>", title, exact, shown);
            let ours = if figure.ours.is_some() { Cell::html(html, exact) } else { Cell::text("") };
            table.row(vec![Cell::text(&figure.label), ours, Cell::text(&figure.seed), Cell::text(&figure.note)]);
        }
        Ok(table.render("Ours beside the baseline"))
    }

    /// The metric of the largest sweep against its first axis, or the curves of the first trainings.
    fn curve(&self, items: &[&Item<'_>], sweeps: &[Sweep<'_>]) -> Result<Html, StageError> {
        let size = |sweep: &&Sweep<'_>| (sweep.points.len(), std::cmp::Reverse(step(sweep.example())));
        let largest = sweeps.iter().filter(|sweep| sweep.points.len() > 3).max_by_key(size);
        if let Some(chart) = largest.and_then(|sweep| sweep.first_chart(self.colours)) {
            return Ok(chart);
        }
        let trainings =
            |item: &&&Item<'_>| item.shows(Capability::HISTORY) && !item.provides(Capability::FITTED_LATENTS);
        let trainings: Vec<&Item<'_>> = items.iter().filter(trainings).copied().collect();
        let measures = curves::measures_of(&trainings);
        match measures.iter().find(|measure| *measure == "loss").or(measures.first()) {
            Some(measure) => curves::chart(&trainings, measure, &self.spec.over, self.colours),
            None => Ok(Html::default()),
        }
    }

    /// Reconstructions of the best model, of images that it was not trained on if there are some.
    fn images(&self, items: &[&Item<'_>]) -> Result<Html, StageError> {
        let shown = |item: &&&Item<'_>| item.shows(Capability::RECONSTRUCTIONS) && item.has("originals");
        let shown: Vec<&Item<'_>> = items.iter().filter(shown).copied().collect();
        let held_out: Vec<&Item<'_>> = shown.iter().copied().filter(|item| is_held_out(item)).collect();
        let (from, what) = match held_out.is_empty() {
            true => (shown, "Training images"),
            false => (held_out, "Images held out"),
        };
        let error = |item: &&Item<'_>| item.metric("rmse").or_else(|| item.metric("loss")).unwrap_or(f64::INFINITY);
        let Some(best) = from.into_iter().min_by(|a, b| error(a).total_cmp(&error(b))) else {
            return Ok(Html::default());
        };
        let originals = best.images("originals")?;
        let caption = html!(
            "<b>{}</b> <small>and, below each row, their reconstructions by {}, which has the lowest error</small>",
            what,
            name(&best.name)
        );
        let mut rows = Html::default();
        for first in (0..originals.count.min(IMAGES)).step_by(IMAGES_ACROSS) {
            rows.push(beside_originals(&[best], &originals, (first, IMAGES_ACROSS), self.data)?);
        }
        Ok(html!("<figure class=\"chart\"><figcaption>{}</figcaption>\n{}</figure>\n", caption, rows))
    }

    /// The embedding with the highest purity.
    fn scatter(&self, items: &[&Item<'_>]) -> Result<Html, StageError> {
        let shown = items.iter().copied().filter(|item| item.provides(Capability::EMBEDDING));
        let purity = |item: &&Item<'_>| item.metric("knn_purity").unwrap_or(f64::NEG_INFINITY);
        match shown.max_by(|a, b| purity(a).total_cmp(&purity(b))) {
            Some(best) => embeddings(&[best]),
            None => Ok(Html::default()),
        }
    }
}

/// The best point of a sweep.
fn best_point(sweep: &Sweep<'_>) -> Option<Figure> {
    let metric = sweep.headline()?;
    let value = |sign: f64| {
        let points = sweep.points.iter().filter_map(|point| Some((point, point.value(metric)?)));
        points.min_by(|(_, a), (_, b)| (sign * a).total_cmp(&(sign * b)))
    };
    let sign = if more_is_better(metric) { -1.0 } else { 1.0 };
    let ((best, figure), (_, worst)) = (value(sign)?, value(-sign)?);
    let shown = best.name.split_once('@').map_or(best.name.as_str(), |(_, coordinates)| coordinates);
    Some(Figure {
        label: html!("{}: best {} of {}", sweep.stage, metric.replace('_', " "), sweep.points.len()),
        value: number(figure),
        detail: html!("{}; worst {}", name(shown), number(worst)),
    })
}

/// The figure of a stage without axes.
fn main_metric(item: &Item<'_>) -> Option<Figure> {
    let known = MAIN.iter().find_map(|metric| Some((*metric, item.metric(metric)?)));
    let others = item.manifest().metrics.keys().filter(|metric| more_is_better(metric));
    let other = others.into_iter().find_map(|metric| Some((metric.as_str(), item.metric(metric)?)));
    let (metric, value) = known.or(other)?;
    let rmse = item.metric("rmse").filter(|_| metric != "rmse").map(|v| format!("rmse {}", number(v)));
    let label = html!("{}: {}", item.name, metric.replace('_', " "));
    Some(Figure { label, value: number(value), detail: html!("{}", rmse.unwrap_or_default()) })
}

fn more_is_better(metric: &str) -> bool {
    MORE_IS_BETTER.iter().any(|part| metric.contains(part))
}

/// A number with a sign, and with one digit below 10.
fn signed(value: f64) -> String {
    let digits = usize::from(value.abs() < 10.0);
    let text = format!("{:.digits$}", value.abs());
    if value < 0.0 { format!("−{text}") } else { format!("+{text}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accuracy_is_better_if_higher_and_loss_if_lower() {
        let better = ["val_accuracy", "psnr", "knn_purity", "loss", "rmse", "kl"].map(more_is_better);
        assert_eq!(better, [true, true, true, false, false, false]);
    }

    #[test]
    fn differences_have_a_sign() {
        assert_eq!([1.54, -23.4, 0.0].map(signed).join(" "), "+1.5 −23 +0.0");
    }
}
