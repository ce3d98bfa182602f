//! How much of a metric's variance each parameter explains by itself.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::model::Model;
use super::point::Point;
use crate::filter::Cell;

/// Groups of points that a parameter with many numbers is cut into.
const MOST_GROUPS: usize = 8;

/// The share of the variance of a metric that each axis and each parameter explains, the largest first. 1 means that
/// the parameter decides the metric, 0 that it says nothing about it.
pub(super) fn importance(model: &Model, points: &[usize], metric: &str) -> Value {
    let points = points.iter().filter_map(|number| model.points.get(*number));
    let known: Vec<(&Point, f64)> =
        points.filter_map(|p| Some((p, p.metric(metric).filter(|value| value.is_finite())?))).collect();
    let mut columns: BTreeMap<&str, Vec<(&Cell, f64)>> = BTreeMap::new();
    for (point, value) in &known {
        let axes = point.axes.iter().map(|(name, coordinate)| (name.as_str(), &coordinate.cell));
        let parameters = point.result.iter().flat_map(|r| &r.parameters).map(|(name, cell)| (name.as_str(), cell));
        let mut all: BTreeMap<&str, &Cell> = parameters.collect();
        all.extend(axes);
        all.into_iter().for_each(|(name, cell)| columns.entry(name).or_default().push((cell, *value)));
    }
    let shares = columns.into_iter().filter_map(|(name, values)| Some((name, share(values)?)));
    let mut shares: Vec<(&str, f64)> = shares.collect();
    shares.sort_by(|(a, x), (b, y)| y.total_cmp(x).then(a.cmp(b)));
    let shares: Vec<Value> = shares.iter().map(|(name, share)| json!({ "name": name, "share": share })).collect();
    json!({ "metric": metric, "points": known.len(), "parameters": shares })
}

/// ε²: the share of the variance between groups of equal values, without what groups of this number explain by chance.
/// `None` if all values are the same.
fn share(mut values: Vec<(&Cell, f64)>) -> Option<f64> {
    values.sort_by(|(a, _), (b, _)| a.order(b));
    let mut groups: Vec<(&Cell, Vec<f64>)> = Vec::new();
    for (cell, value) in &values {
        match groups.last_mut().filter(|(known, _)| known == cell) {
            Some((_, group)) => group.push(*value),
            None => groups.push((cell, vec![*value])),
        }
    }
    if groups.len() < 2 {
        return None;
    }
    let mut groups: Vec<Vec<f64>> = groups.into_iter().map(|(_, group)| group).collect();
    if groups.len() > MOST_GROUPS {
        let size = groups.len().div_ceil(MOST_GROUPS);
        groups = groups.chunks(size).map(<[Vec<f64>]>::concat).collect();
    }
    let count = values.len();
    let mean = |values: &[f64]| values.iter().sum::<f64>() / values.len() as f64;
    let squares = |values: &[f64]| {
        let mean = mean(values);
        values.iter().map(|value| (value - mean).powi(2)).sum::<f64>()
    };
    let all: Vec<f64> = values.iter().map(|(_, value)| *value).collect();
    let (total, within) = (squares(&all), groups.iter().map(|group| squares(group)).sum::<f64>());
    let free = count.checked_sub(groups.len()).filter(|free| *free > 0)?;
    if total <= 0.0 {
        return Some(0.0);
    }
    let noise = within / free as f64;
    Some((1.0 - noise * (count - 1) as f64 / total).max(0.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameter_that_decides_a_metric_explains_all_of_it() {
        let (low, high) = (Cell::Number(0.1), Cell::Number(0.2));
        let decides = vec![(&low, 1.0), (&high, 5.0), (&low, 1.0), (&high, 5.0)];
        assert_eq!(share(decides), Some(1.0));
        let says_nothing = vec![(&low, 1.0), (&high, 1.0), (&low, 5.0), (&high, 5.0)];
        assert_eq!(share(says_nothing), Some(0.0));
        assert_eq!(share(vec![(&low, 1.0), (&low, 2.0)]), None, "it does not vary");
        assert_eq!(share(vec![(&low, 1.0), (&high, 2.0)]), None, "one point for each value shows nothing");
    }
}
