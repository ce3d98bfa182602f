//! Sweeps: the points of each stage that has axes. Metrics are plotted against axes; many points also have parallel
//! coordinates and a table of axes and metrics.
//!
//! The axes are read from the points' names, which are the labels of a list and so in the report's key.

use std::collections::{BTreeMap, BTreeSet};

use super::figures::metrics;
use super::groups::{self, is_over};
use super::item::Item;
use crate::id::PointName;
use crate::report::chart::{Caption, Marks, Series, draw};
use crate::report::colours::{Colours, Key, without};
use crate::report::heat::{HeatMap, ramp};
use crate::report::html::{Cell, Html, Table, html};
use crate::report::parallel::{Axis, plot};
use crate::report::scale::Across;
use crate::report::step::{Step, coordinates};
use crate::report::summary::Summary;

/// The maximum number of metrics in a plot of parallel coordinates; more make it too wide to read.
const MOST_METRICS: usize = 6;
/// The maximum number of charts of a metric or an axis.
const MOST_CHARTS: usize = 4;
/// With fewer points, the table of all metrics says the same as parallel coordinates.
const FEWEST_IN_PLOT: usize = 8;
/// A chart with more lines shows means.
const MOST_LINES: usize = 30;
/// The charts of no more points than this are small.
const FEW: usize = 5;
/// The maximum number of evenly spaced numbers; more are drawn to scale.
const MOST_STEPS: usize = 12;
/// The maximum number of rows and of columns of a heat map.
const MOST_CELLS: usize = 30;
/// Metrics that say more than others of the same stage.
const HEADLINES: [&str; 2] = ["loss", "knn_purity"];
/// Metrics whose correlation is at least this are shown once.
const SAME: f64 = 0.999;
/// The same for the order in which two metrics put many points.
const SAME_ORDER: f64 = 0.98;
/// Fewer points may have the same order by chance.
const FEWEST_IN_ORDER: usize = 8;

/// The places of a line, in their order, and the points at each.
type Places<'p> = BTreeMap<u64, (f64, Vec<&'p Point<'p>>)>;

/// The points of one stage.
pub(super) struct Sweep<'a> {
    pub(super) stage: &'a str,
    kind: &'a str,
    axes: Vec<&'a str>,
    pub(super) points: Vec<Point<'a>>,
}

/// A point, or several that differ only in axes of `over`.
pub(super) struct Point<'a> {
    pub(super) name: String,
    items: Vec<&'a Item<'a>>,
    values: Vec<Step>,
}

impl Point<'_> {
    /// Whether it contains the same point through another role.
    fn has(&self, label: &str) -> bool {
        self.items.iter().any(|item| item.input.label() == label)
    }

    /// Its value of a metric.
    pub(super) fn value(&self, metric: &str) -> Option<f64> {
        self.summary(metric).map(|summary| summary.mean)
    }

    fn summary(&self, metric: &str) -> Option<Summary> {
        groups::metric(&self.items, metric).filter(|summary| summary.mean.is_finite())
    }
}

/// The stages that have several points.
pub(super) fn collect<'a>(items: &[&'a Item<'a>], over: &[String]) -> Vec<Sweep<'a>> {
    let mut sweeps: Vec<Sweep<'_>> = Vec::new();
    for item in items.iter().copied() {
        let label = item.input.label();
        let mut coordinates = coordinates(label);
        if coordinates.is_empty() {
            continue;
        }
        let stage = PointName::parse(label).stage;
        coordinates.retain(|(axis, _)| !is_over(axis, over));
        let axes: Vec<&str> = coordinates.iter().map(|(axis, _)| *axis).collect();
        let values = coordinates.iter().map(|(_, value)| Step::new(value)).collect();
        let point = Point { name: PointName::write(stage, coordinates.into_iter()), items: vec![item], values };
        match sweeps.iter_mut().find(|s| s.stage == stage && s.kind == item.kind() && s.axes == axes) {
            Some(sweep) if sweep.points.iter().any(|p| p.has(label)) => {}
            Some(sweep) => match sweep.points.iter_mut().find(|p| p.name == point.name) {
                Some(known) => known.items.push(item),
                None => sweep.points.push(point),
            },
            None => sweeps.push(Sweep { stage, kind: item.kind(), axes, points: vec![point] }),
        }
    }
    sweeps.retain(|sweep| sweep.points.len() > 1);
    sweeps
}

/// The plots of each stage that has several points with different metrics.
pub(super) fn render(items: &[&Item<'_>], over: &[String], colours: &Colours) -> Html {
    collect(items, over).iter().map(|sweep| sweep.render(over, colours)).collect()
}

/// The names of the points that have a table in this section.
pub(super) fn in_tables(items: &[&Item<'_>], over: &[String]) -> BTreeSet<String> {
    let sweeps = collect(items, over);
    let large = sweeps.iter().filter(|sweep| sweep.is_large());
    large.flat_map(|sweep| sweep.points.iter().flat_map(|p| &p.items)).map(|item| item.name.clone()).collect()
}

impl Sweep<'_> {
    fn metrics(&self) -> Vec<&str> {
        metrics(self.points.iter().flat_map(|p| p.items.iter().copied()))
    }

    /// The metrics that differ, without those that say the same as one before.
    fn telling(&self) -> Vec<&str> {
        let values = |name: &str| self.points.iter().map(|p| p.value(name)).collect::<Vec<_>>();
        let mut kept: Vec<(&str, Vec<Option<f64>>)> = Vec::new();
        for name in self.metrics() {
            let values = values(name);
            let differs = values.iter().any(|value| *value != values[0]);
            if differs && !kept.iter().any(|(_, known)| say_the_same(known, &values)) {
                kept.push((name, values));
            }
        }
        // The first loss only if no other metric differs.
        kept.sort_by_key(|(name, _)| *name == "loss_first");
        kept.into_iter().map(|(name, _)| name).collect()
    }

    /// The metric by which points are compared.
    pub(super) fn metric(&self) -> Option<&str> {
        self.telling().first().copied()
    }

    /// One of its inputs.
    pub(super) fn example(&self) -> &Item<'_> {
        self.points[0].items[0]
    }

    /// The metric by which it is known to readers.
    pub(super) fn headline(&self) -> Option<&str> {
        let telling = self.telling();
        let known = |name: &&str| HEADLINES.contains(name);
        telling.iter().copied().find(known).or_else(|| telling.first().copied())
    }

    /// The first metric against the first axis.
    pub(super) fn first_chart(&self, colours: &Colours) -> Option<Html> {
        Some(self.against(*self.varying().first()?, self.metric()?, colours))
    }

    /// Whether it has parallel coordinates and a table.
    fn is_large(&self) -> bool {
        self.points.len() >= FEWEST_IN_PLOT && self.metric().is_some()
    }

    /// The numbers of the axes on which the points differ.
    fn varying(&self) -> Vec<usize> {
        let differs = |at: &usize| self.points.iter().any(|p| p.values[*at] != self.points[0].values[*at]);
        (0..self.axes.len()).filter(differs).collect()
    }

    /// The values of an axis in their order: numbers by value, others in the order of the points.
    fn steps(&self, axis: usize) -> Vec<Step> {
        let mut steps: Vec<Step> = Vec::new();
        for point in &self.points {
            if !steps.contains(&point.values[axis]) {
                steps.push(point.values[axis].clone());
            }
        }
        if steps.iter().all(|step| step.number.is_some()) {
            steps.sort_by(Step::order);
        }
        steps
    }

    /// Empty if no metric differs.
    fn render(&self, over: &[String], colours: &Colours) -> Html {
        let telling = self.telling();
        let Some(metric) = telling.first() else { return Html::default() };
        let others: Html = match self.varying().len() {
            0 | 1 => Html::default(),
            _ => telling[1..].iter().take(MOST_CHARTS).map(|metric| self.charts(&[metric], colours)).collect(),
        };
        let charts = match self.varying().len() {
            0 | 1 => self.charts(&telling[..telling.len().min(MOST_CHARTS)], colours),
            _ => self.charts(&[metric], colours),
        };
        let others = match others.is_empty() {
            true => others,
            false => html!("<details class=\"values\"><summary>Other metrics</summary>\n{}</details>\n", others),
        };
        let all = if self.is_large() { self.parallel(&telling, over) } else { Html::default() };
        html!(
            "<div class=\"sweep\"><h3>{} <small>{}, {} points</small></h3>\n{}{}{}{}</div>\n",
            self.stage,
            self.kind,
            self.points.iter().map(|p| p.items.len()).sum::<usize>(),
            groups::note(over),
            charts,
            others,
            all
        )
    }

    /// Each of these metrics against each axis, and the map of the first two axes.
    fn charts(&self, metrics: &[&str], colours: &Colours) -> Html {
        let varying = self.varying();
        let mut out = Html::default();
        for metric in metrics {
            out.push(varying.iter().take(MOST_CHARTS).map(|axis| self.against(*axis, metric, colours)).collect());
            if let [down, across, ..] = varying[..] {
                out.push(self.map(across, down, metric));
            }
        }
        let small = Html::constant(if self.points.len() <= FEW { " small" } else { "" });
        html!("<div class=\"multiples{}\">\n{}</div>\n", small, out)
    }

    /// A metric against an axis. Points that differ only on this axis are one line.
    fn against(&self, axis: usize, metric: &str, colours: &Colours) -> Html {
        let steps = self.steps(axis);
        let numeric = steps.iter().all(|step| step.number.is_some());
        let is_to_scale = numeric && steps.len() > MOST_STEPS;
        let place = |point: &Point<'_>| match point.values[axis].number {
            Some(number) if is_to_scale => number,
            _ => steps.iter().position(|known| *known == point.values[axis]).unwrap_or(0) as f64,
        };
        let (names, mean_over) = self.lines(axis, numeric);
        let mut lines: Vec<(&str, Places<'_>)> = Vec::new();
        for (point, name) in self.points.iter().zip(&names).filter(|(point, _)| point.value(metric).is_some()) {
            let at = place(point);
            let line = match lines.iter().position(|(known, _)| known == name) {
                Some(line) => line,
                None => {
                    lines.push((name, BTreeMap::new()));
                    lines.len() - 1
                }
            };
            lines[line].1.entry(order(at)).or_insert_with(|| (at, Vec::new())).1.push(point);
        }
        let marks = if numeric { Marks::LineAndDots } else { Marks::Dots };
        let series: Vec<Series> =
            lines.into_iter().map(|(name, places)| series(name, marks, metric, &places)).collect();
        let title = self.axes[axis];
        let texts: Vec<String> = steps.iter().map(|step| step.text.clone()).collect();
        let x = match is_to_scale {
            true => Across::numbers(title, series.iter().flat_map(|s| s.at.iter().copied())),
            false => Across::steps(title, &texts),
        };
        let names: Vec<&str> = series.iter().map(|series| series.name.as_str()).collect();
        let mut painting = colours.paint(&names);
        if painting.key.axis.as_deref() == Some(title) {
            // The ticks say what the key would.
            painting.key = Key::default();
        }
        let metric = metric.replace('_', " ");
        let mean = mean_over.map(|axes| format!(", mean over {axes}")).unwrap_or_default();
        draw(&Caption { title: format!("{metric} against {title}{mean}"), y: metric }, &x, &series, &painting)
    }

    /// The line of each point in a chart against an axis, and the axes that the lines are means over.
    fn lines(&self, axis: usize, numeric: bool) -> (Vec<String>, Option<String>) {
        let varying = self.varying();
        if varying.len() == 1 && !numeric {
            // Words in no order are dots, and have the colours that they have elsewhere.
            return (self.points.iter().map(|point| point.name.clone()).collect(), None);
        }
        let rests: Vec<String> = self.points.iter().map(|point| without(&point.name, self.axes[axis])).collect();
        if rests.iter().collect::<BTreeSet<_>>().len() <= MOST_LINES {
            return (rests, None);
        }
        // A line for each value of one other axis, if it has few.
        let kept = varying.iter().copied().find(|other| *other != axis && self.steps(*other).len() <= MOST_LINES);
        let name = |point: &Point<'_>| {
            let kept = kept.map(|kept| (self.axes[kept], point.values[kept].text.as_str()));
            PointName::write(self.stage, kept.into_iter())
        };
        let others = varying.iter().filter(|other| **other != axis && Some(**other) != kept);
        let others: Vec<&str> = others.map(|other| self.axes[*other]).collect();
        (self.points.iter().map(name).collect(), Some(others.join(" and ")))
    }

    /// The mean of a metric for each pair of values of two axes. Empty if there are too many.
    fn map(&self, across: usize, down: usize, metric: &str) -> Html {
        let (columns, rows) = (self.steps(across), self.steps(down));
        if columns.len().max(rows.len()) > MOST_CELLS {
            return Html::default();
        }
        let cell = |row: &Step, column: &Step| {
            let here = self.points.iter().filter(|p| p.values[down] == *row && p.values[across] == *column);
            let values: Vec<f64> = here.filter_map(|p| p.value(metric)).collect();
            (!values.is_empty()).then(|| Summary::of(&values).mean)
        };
        let row = |row: &Step| columns.iter().map(|column| cell(row, column)).collect();
        let cells: Vec<Vec<Option<f64>>> = rows.iter().map(row).collect();
        let texts = |steps: &[Step]| steps.iter().map(|step| step.text.clone()).collect::<Vec<_>>();
        let metric = metric.replace('_', " ");
        let mean = if self.varying().len() > 2 { ", mean over the other axes" } else { "" };
        let title = format!("{metric} by {} and {}{mean}", self.axes[down], self.axes[across]);
        let (columns, rows) = (texts(&columns), texts(&rows));
        let (across, down) = ((self.axes[across], &*columns), (self.axes[down], &*rows));
        HeatMap { title: &title, metric: &metric, across, down, cells: &cells }.draw()
    }

    /// All points across all axes and metrics, and their table.
    fn parallel(&self, telling: &[&str], over: &[String]) -> Html {
        let mut axes = Vec::new();
        for at in self.varying() {
            let values: Vec<Step> = self.points.iter().map(|p| p.values[at].clone()).collect();
            axes.push(Axis::swept(self.axes[at], &values));
        }
        let coloured = axes.len();
        for name in telling.iter().take(MOST_METRICS) {
            let values: Vec<Option<Summary>> = self.points.iter().map(|p| p.summary(name)).collect();
            axes.push(Axis::summaries(&name.replace('_', " "), &values));
        }
        let points: Vec<String> = self.points.iter().map(|p| p.name.clone()).collect();
        let label = format!("{} points of {}: {} and metrics", points.len(), self.stage, self.axes.join(", "));
        let colour = telling[0];
        let values = || self.points.iter().filter_map(|p| p.value(colour));
        let (low, high) = values().fold((f64::INFINITY, f64::NEG_INFINITY), |(l, h), v| (l.min(v), h.max(v)));
        html!(
            "<h4>All points</h4>\n{}<div class=\"parallel-key\">{}</div>{}",
            plot(&label, &axes, &points, coloured),
            ramp(&colour.replace('_', " "), low, high),
            self.table(&self.metrics(), over)
        )
    }

    fn table(&self, metrics: &[&str], over: &[String]) -> Html {
        let mut table = Table::default();
        table.column("point", false);
        for (at, axis) in self.axes.iter().enumerate() {
            let numeric = self.points.iter().all(|p| p.values[at].number.is_some());
            table.column_with(axis, numeric, " data-axis=\"1\"");
        }
        if !over.is_empty() {
            table.column("n", true);
        }
        for metric in metrics {
            table.column_with(&metric.replace('_', " "), true, " data-colour=\"1\"");
        }
        for point in &self.points {
            let mut cells = vec![Cell::name(&point.name)];
            cells.extend(point.values.iter().map(|v| Cell::html(html!("{}", v.text), v.text.clone())));
            if !over.is_empty() {
                cells.push(Cell::number(Some(point.items.len() as f64)));
            }
            cells.extend(metrics.iter().map(|name| groups::cell(groups::metric(&point.items, name))));
            table.row(cells);
        }
        table.render_as(&format!("points of {}", self.stage))
    }
}

/// A number that orders places as their values.
fn order(place: f64) -> u64 {
    let bits = place.to_bits();
    if place.is_sign_negative() { !bits } else { bits | 1 << 63 }
}

/// A line with the mean of the points at each place. Its band is the deviation over axes of `over`.
fn series(name: &str, marks: Marks, metric: &str, places: &Places<'_>) -> Series {
    let mut series = Series { name: name.to_owned(), marks, ..Series::default() };
    for (at, points) in places.values() {
        let summaries: Vec<Summary> = points.iter().filter_map(|point| point.summary(metric)).collect();
        let means: Vec<f64> = summaries.iter().map(|summary| summary.mean).collect();
        series.at.push(*at);
        series.values.push(Summary::of(&means).mean);
        match summaries[..] {
            [Summary { deviation: Some(deviation), count, .. }] => {
                series.deviations.push(deviation);
                series.count = count;
            }
            _ => series.deviations.clear(),
        }
    }
    if series.deviations.len() < series.values.len() {
        series.deviations.clear();
    }
    series
}

/// Whether one metric is a line of the other, or orders many points as the other does.
fn say_the_same(a: &[Option<f64>], b: &[Option<f64>]) -> bool {
    if a.iter().zip(b).any(|(a, b)| a.is_some() != b.is_some()) {
        return false;
    }
    let [a, b]: [Vec<f64>; 2] = [a, b].map(|values| values.iter().flatten().copied().collect());
    let in_order = || a.len() >= FEWEST_IN_ORDER && correlation(&ranks(&a), &ranks(&b)).abs() >= SAME_ORDER;
    correlation(&a, &b).abs() >= SAME || in_order()
}

/// The place of each value among all of them.
fn ranks(values: &[f64]) -> Vec<f64> {
    values.iter().map(|value| values.iter().filter(|other| *other < value).count() as f64).collect()
}

/// Pearson's correlation.
fn correlation(a: &[f64], b: &[f64]) -> f64 {
    let mean = |values: &[f64]| values.iter().sum::<f64>() / values.len() as f64;
    let (mean_a, mean_b) = (mean(a), mean(b));
    let sum = |of: fn(f64, f64) -> f64| a.iter().zip(b).map(|(a, b)| of(a - mean_a, b - mean_b)).sum::<f64>();
    let (both, squares_a, squares_b) = (sum(|a, b| a * b), sum(|a, _| a * a), sum(|_, b| b * b));
    if squares_a > 0.0 && squares_b > 0.0 { both / (squares_a * squares_b).sqrt() } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metrics_that_say_the_same_are_found() {
        let some = |values: &[f64]| values.iter().map(|v| Some(*v)).collect::<Vec<_>>();
        let loss = some(&[0.1, 0.2, 0.4, 0.3, 0.5, 0.6, 0.9, 0.7]);
        let of = |f: fn(f64) -> f64| loss.iter().map(|v| v.map(f)).collect::<Vec<_>>();
        assert!(say_the_same(&loss, &of(|v| 111.7 * v)), "rmse");
        assert!(say_the_same(&loss, &of(|v| -20.0 * libm::log10(v))), "psnr");
        assert!(!say_the_same(&loss, &of(|v| (v - 0.5) * (v - 0.5))));
        assert!(!say_the_same(&loss[..3], &of(|v| 1.0 / v)[..3]), "three points in one order may be chance");
        assert!(!say_the_same(&[Some(1.0), None, Some(2.0)], &some(&[1.0, 2.0, 3.0])));
    }
}
