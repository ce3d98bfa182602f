//! Groups of points that differ only in some axes, such as a seed: means and standard deviations.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value, json};

use super::row::Row;
use crate::cli::ui::figure;
use crate::error::{Error, Result};
use crate::filter::{Cell, Column, Coordinate, Names};
use crate::report::Summary;

/// The axes that the points of a group have in common.
pub(super) struct Grouping {
    axes: BTreeSet<String>,
}

/// Points of one stage that agree on the axes of the grouping.
pub(super) struct Group {
    pub(super) stage: String,
    pub(super) axes: BTreeMap<String, Coordinate>,
    /// Number of points.
    pub(super) points: usize,
    pub(super) metrics: BTreeMap<String, Summary>,
}

impl Grouping {
    /// The grouping that `--group-by` and `--over` describe. `None` if neither is given.
    ///
    /// # Errors
    /// If a name is not an axis, or if both are given and do not cover all axes exactly once.
    pub(super) fn new(by: &[String], over: &[String], names: &Names) -> Result<Option<Self>> {
        let axes = |list: &[String]| list.iter().map(|name| axis(name, names)).collect::<Result<BTreeSet<String>>>();
        let (by, over) = (axes(by)?, axes(over)?);
        let rest = || names.axes.iter().filter(|name| !over.contains(*name)).cloned();
        if let Some(both) = by.intersection(&over).next() {
            let error = Error::bad_input(format!("`{both}` is in both --group-by and --over"));
            return Err(error.hint("give only one of them"));
        }
        match (by.is_empty(), over.is_empty()) {
            (true, true) => Ok(None),
            (true, false) => Ok(Some(Self { axes: rest().collect() })),
            (false, true) => Ok(Some(Self { axes: by })),
            (false, false) => match rest().find(|name| !by.contains(name)) {
                Some(neither) => {
                    let error = Error::bad_input(format!("`{neither}` is in neither --group-by nor --over"));
                    Err(error.hint("add it to one of them, or give only one of them"))
                }
                None => Ok(Some(Self { axes: by })),
            },
        }
    }

    /// The groups, in the order of their first points.
    pub(super) fn group(&self, rows: &[Row]) -> Vec<Group> {
        let mut places = BTreeMap::new();
        let mut members: Vec<Vec<&Row>> = Vec::new();
        for row in rows.iter().filter(|row| !row.metrics.is_empty()) {
            let values: Vec<_> = self.axes.iter().map(|axis| row.axes.get(axis).map(|c| c.text.as_str())).collect();
            let place = *places.entry((&row.stage, values)).or_insert(members.len());
            if place == members.len() {
                members.push(Vec::new());
            }
            members[place].push(row);
        }
        members.into_iter().map(|rows| self.of(&rows)).collect()
    }

    fn of(&self, rows: &[&Row]) -> Group {
        let mut axes = rows[0].axes.clone();
        axes.retain(|axis, _| self.axes.contains(axis));
        let mut values: BTreeMap<&str, Vec<f64>> = BTreeMap::new();
        for (metric, value) in rows.iter().flat_map(|row| &row.metrics) {
            values.entry(metric).or_default().push(*value);
        }
        let metrics = values.into_iter().map(|(metric, values)| (metric.to_owned(), Summary::of(&values))).collect();
        Group { stage: rows[0].stage.clone(), axes, points: rows.len(), metrics }
    }
}

fn axis(name: &str, names: &Names) -> Result<String> {
    match names.find(name)? {
        Column::Axis(axis) => Ok(axis),
        Column::Stage | Column::Metric(_) => {
            let hint = match names.axes.is_empty() {
                true => "these stages have no axes".to_owned(),
                false => format!("the axes are: {}", names.axes.join(", ")),
            };
            Err(Error::bad_input(format!("`{name}` is not an axis")).hint(hint))
        }
    }
}

impl Group {
    /// The value of a column; of a metric, its mean.
    pub(super) fn get(&self, column: &Column) -> Option<Cell> {
        match column {
            Column::Stage => Some(Cell::Text(self.stage.clone())),
            Column::Axis(name) => self.axes.get(name).map(|coordinate| coordinate.cell.clone()),
            Column::Metric(name) => self.metrics.get(name).map(|summary| Cell::Number(summary.mean)),
        }
    }

    /// The text of a column that is not a metric.
    pub(super) fn text(&self, column: &Column) -> String {
        match column {
            Column::Stage => self.stage.clone(),
            Column::Axis(name) => self.axes.get(name).map(|coordinate| coordinate.text.clone()).unwrap_or_default(),
            Column::Metric(_) => String::new(),
        }
    }

    /// `{"stage": …, "axes": {…}, "points": n, "metrics": {"loss": {"mean": …, "std": …, "n": n}}}`.
    pub(super) fn json(&self) -> Value {
        let axis = |cell: &Cell| match cell {
            Cell::Number(number) => json!(number),
            Cell::Text(text) => json!(text),
            Cell::Set(all) => json!(all),
        };
        let axes: Map<String, Value> = self.axes.iter().map(|(name, c)| (name.clone(), axis(&c.cell))).collect();
        let summary = |s: &Summary| json!({ "mean": s.mean, "std": s.deviation, "n": s.count });
        let metrics: Map<String, Value> = self.metrics.iter().map(|(name, s)| (name.clone(), summary(s))).collect();
        json!({ "stage": self.stage, "axes": axes, "points": self.points, "metrics": metrics })
    }

    /// `0.3142 ± 0.0012`.
    pub(super) fn cell(&self, metric: &str) -> String {
        let Some(summary) = self.metrics.get(metric) else { return String::new() };
        let deviation = summary.deviation.map(|deviation| format!(" ± {}", figure(deviation)));
        figure(summary.mean) + &deviation.unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(value: f64) -> Coordinate {
        Coordinate { cell: Cell::Number(value), text: value.to_string() }
    }

    fn row(stage: &str, axes: &[(&str, f64)], loss: f64) -> Row {
        Row {
            name: stage.to_owned(),
            stage: stage.to_owned(),
            axes: axes.iter().map(|(name, value)| ((*name).to_owned(), at(*value))).collect(),
            metrics: BTreeMap::from([("loss".to_owned(), loss)]),
            facts: BTreeMap::new(),
            pruned: None,
        }
    }

    fn names() -> Names {
        let metrics = BTreeSet::from(["loss".to_owned()]);
        Names { axes: vec!["lr".to_owned(), "seed".to_owned()], metrics }
    }

    fn grouping(by: &[&str], over: &[&str]) -> Result<Option<Grouping>> {
        let owned = |list: &[&str]| list.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        Grouping::new(&owned(by), &owned(over), &names())
    }

    #[test]
    fn points_that_differ_only_in_the_seed_are_one_group() {
        let rows = [
            row("a", &[("lr", 0.1), ("seed", 1.0)], 1.0),
            row("a", &[("lr", 0.2), ("seed", 1.0)], 7.0),
            row("a", &[("lr", 0.1), ("seed", 2.0)], 2.0),
            row("a", &[("lr", 0.1), ("seed", 3.0)], 3.0),
            row("b", &[("lr", 0.1)], 5.0),
        ];
        for grouping in [grouping(&[], &["seed"]), grouping(&["lr"], &["seed"]), grouping(&["lr"], &[])] {
            let groups = grouping.unwrap().unwrap().group(&rows);
            let found: Vec<_> = groups.iter().map(|g| (g.stage.as_str(), g.points, g.cell("loss"))).collect();
            assert_eq!(found, [("a", 3, "2 ± 1".to_owned()), ("a", 1, "7".to_owned()), ("b", 1, "5".to_owned())]);
            assert_eq!(groups[0].axes, BTreeMap::from([("lr".to_owned(), at(0.1))]));
        }
    }

    #[test]
    fn wrong_axes_are_explained() {
        let error = |by: &[&str], over: &[&str]| grouping(by, over).err().unwrap().message;
        assert_eq!(error(&["loss"], &[]), "`loss` is not an axis");
        assert_eq!(error(&["sed"], &[]), "there is no axis or metric `sed`");
        assert_eq!(error(&["lr", "seed"], &["seed"]), "`seed` is in both --group-by and --over");
        let three = Names { axes: ["lr", "seed", "width"].map(str::to_owned).to_vec(), ..names() };
        let neither = Grouping::new(&["lr".to_owned()], &["seed".to_owned()], &three).err().unwrap();
        assert_eq!(neither.message, "`width` is in neither --group-by nor --over");
        assert!(grouping(&[], &[]).unwrap().is_none());
    }
}
