//! Sweeps: the points of each stage that has axes, as parallel coordinates and as a table of axes and metrics.
//!
//! The axes are read from the points' names, which are the labels of a list and so in the report's key.

use super::figures::metrics;
use super::groups::{self, is_over};
use super::item::Item;
use crate::id::PointName;
use crate::report::html::{Cell, Html, Table, html};
use crate::report::parallel::{Axis, Step, plot, ramp};
use crate::report::summary::Summary;
use crate::stage::StageError;

/// The maximum number of metrics; more make the plot too wide to read.
const MOST_METRICS: usize = 6;

/// The points of one stage.
struct Sweep<'a> {
    stage: &'a str,
    kind: &'a str,
    axes: Vec<&'a str>,
    points: Vec<Point<'a>>,
}

/// A point, or several that differ only in axes of `over`.
struct Point<'a> {
    name: String,
    items: Vec<&'a Item<'a>>,
    values: Vec<Step>,
}

impl Point<'_> {
    /// Whether it contains the same point through another role.
    fn has(&self, label: &str) -> bool {
        self.items.iter().any(|item| item.input.label() == label)
    }
}

/// A plot and a table for each stage that has several points with different metrics.
pub(super) fn render(items: &[&Item<'_>], over: &[String]) -> Result<Html, StageError> {
    let mut sweeps: Vec<Sweep<'_>> = Vec::new();
    for item in items.iter().copied() {
        let label = item.input.label();
        let Some((stage, mut coordinates)) = coordinates(label) else { continue };
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
    for sweep in &mut sweeps {
        // Labels are sorted as text, so that 16 comes before 8.
        sweep.points.sort_by(|a, b| {
            let orders = a.values.iter().zip(&b.values).map(|(a, b)| a.order(b));
            orders.fold(std::cmp::Ordering::Equal, std::cmp::Ordering::then)
        });
    }
    Ok(sweeps.iter().filter(|s| s.points.len() > 1).map(|s| s.render(over)).collect())
}

/// The stage and the coordinates of a point with axes.
fn coordinates(label: &str) -> Option<(&str, Vec<(&str, &str)>)> {
    let PointName { stage, coordinates } = PointName::parse(label);
    let coordinates = PointName::split_coordinates(coordinates?).map(PointName::split_coordinate);
    Some((stage, coordinates.collect::<Option<_>>()?))
}

impl Sweep<'_> {
    /// Empty if no metric differs.
    fn render(&self, over: &[String]) -> Html {
        let metrics = metrics(self.points.iter().flat_map(|p| p.items.iter().copied()));
        let summary = |p: &Point<'_>, name: &str| groups::metric(&p.items, name).filter(|s| s.mean.is_finite());
        let value = |p: &Point<'_>, name: &str| summary(p, name).map(|s| s.mean);
        let differs = |name: &&str| self.points.iter().any(|p| value(p, name) != value(&self.points[0], name));
        let drawn: Vec<&str> = metrics.iter().copied().filter(differs).collect();
        // The first loss only if no other metric differs.
        let Some(colour) = drawn.iter().copied().find(|n| *n != "loss_first").or(drawn.first().copied()) else {
            return Html::default();
        };
        let mut axes = Vec::new();
        for (at, title) in self.axes.iter().enumerate() {
            let values: Vec<Step> = self.points.iter().map(|p| p.values[at].clone()).collect();
            if values.iter().any(|v| *v != values[0]) {
                axes.push(Axis::swept(title, &values));
            }
        }
        let mut coloured = 0;
        for name in drawn.iter().take(MOST_METRICS) {
            if *name == colour {
                coloured = axes.len();
            }
            let values: Vec<Option<Summary>> = self.points.iter().map(|p| summary(p, name)).collect();
            axes.push(Axis::summaries(&name.replace('_', " "), &values));
        }
        let points: Vec<String> = self.points.iter().map(|p| p.name.clone()).collect();
        let label = format!("{} points of {}: {} and metrics", points.len(), self.stage, self.axes.join(", "));
        html!(
            "<div class=\"sweep\"><h3>{} <small>{}, {} points</small></h3>\n{}{}{}{}</div>\n",
            self.stage,
            self.kind,
            self.points.iter().map(|p| p.items.len()).sum::<usize>(),
            groups::note(over),
            plot(&label, &axes, &points, coloured),
            ramp(&colour.replace('_', " ")),
            self.table(&metrics, over)
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
        table.render("")
    }
}
