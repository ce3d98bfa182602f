//! Sweeps: the points of each stage that has axes, as parallel coordinates and as a table of axes and metrics.
//!
//! The axes are read from the points' names, which are the labels of a list and so in the report's key.

use super::figures::metrics;
use super::item::Item;
use crate::id::PointName;
use crate::report::html::{Cell, Html, Table, html};
use crate::report::parallel::{Axis, Step, plot, ramp};
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

struct Point<'a> {
    item: &'a Item<'a>,
    values: Vec<Step>,
}

/// A plot and a table for each stage that has several points with different metrics.
pub(super) fn render(items: &[&Item<'_>]) -> Result<Html, StageError> {
    let mut sweeps: Vec<Sweep<'_>> = Vec::new();
    for item in items.iter().copied() {
        let Some((stage, coordinates)) = coordinates(item.input.label()) else { continue };
        let axes: Vec<&str> = coordinates.iter().map(|(axis, _)| *axis).collect();
        let point = Point { item, values: coordinates.iter().map(|(_, value)| Step::new(value)).collect() };
        match sweeps.iter_mut().find(|s| s.stage == stage && s.kind == item.kind() && s.axes == axes) {
            // The same point through another role.
            Some(sweep) if sweep.points.iter().any(|p| p.item.input.label() == item.input.label()) => {}
            Some(sweep) => sweep.points.push(point),
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
    Ok(sweeps.iter().filter(|s| s.points.len() > 1).map(Sweep::render).collect())
}

/// The stage and the coordinates of a point with axes.
fn coordinates(label: &str) -> Option<(&str, Vec<(&str, &str)>)> {
    let PointName { stage, coordinates } = PointName::parse(label);
    let coordinates = PointName::split_coordinates(coordinates?).map(PointName::split_coordinate);
    Some((stage, coordinates.collect::<Option<_>>()?))
}

impl Sweep<'_> {
    /// Empty if no metric differs.
    fn render(&self) -> Html {
        let metrics = metrics(self.points.iter().map(|p| p.item));
        let value = |p: &Point<'_>, name: &str| p.item.manifest().metrics.get(name).copied().filter(|v| v.is_finite());
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
            let values: Vec<Option<f64>> = self.points.iter().map(|p| value(p, name)).collect();
            axes.push(Axis::metric(&name.replace('_', " "), &values));
        }
        let points: Vec<String> = self.points.iter().map(|p| p.item.input.label().to_owned()).collect();
        let label = format!("{} points of {}: {} and metrics", points.len(), self.stage, self.axes.join(", "));
        html!(
            "<div class=\"sweep\"><h3>{} <small>{}, {} points</small></h3>\n{}{}{}</div>\n",
            self.stage,
            self.kind,
            points.len(),
            plot(&label, &axes, &points, coloured),
            ramp(&colour.replace('_', " ")),
            self.table(&metrics)
        )
    }

    fn table(&self, metrics: &[&str]) -> Html {
        let mut table = Table::default();
        table.column("point", false);
        for (at, axis) in self.axes.iter().enumerate() {
            let numeric = self.points.iter().all(|p| p.values[at].number.is_some());
            table.column_with(axis, numeric, " data-axis=\"1\"");
        }
        for metric in metrics {
            table.column_with(&metric.replace('_', " "), true, " data-colour=\"1\"");
        }
        for point in &self.points {
            let mut cells = vec![Cell::name(point.item.input.label())];
            cells.extend(point.values.iter().map(|v| Cell::html(html!("{}", v.text), v.text.clone())));
            let of = |name: &&str| point.item.manifest().metrics.get(*name).copied();
            cells.extend(metrics.iter().map(|name| Cell::number(of(name))));
            table.row(cells);
        }
        table.render("")
    }
}
