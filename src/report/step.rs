//! Values of the axes of a sweep, and their order.

use std::cmp::Ordering;

use crate::id::PointName;

/// A value of an axis: its text, and its number if it is one.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Step {
    pub(super) text: String,
    pub(super) number: Option<f64>,
}

impl Step {
    /// A value as written in a point's name.
    pub(super) fn new(text: &str) -> Self {
        Self { text: text.to_owned(), number: text.parse().ok().filter(|n: &f64| n.is_finite()) }
    }

    /// Numbers by value, before other values by text.
    pub(super) fn order(&self, other: &Self) -> Ordering {
        match (self.number, other.number) {
            (Some(a), Some(b)) => a.total_cmp(&b),
            (a, b) => b.is_some().cmp(&a.is_some()).then_with(|| self.text.cmp(&other.text)),
        }
    }
}

/// The axes of a point and its values, in the order of its name.
pub(super) fn coordinates(name: &str) -> Vec<(&str, &str)> {
    let all = PointName::parse(name).coordinates.into_iter().flat_map(PointName::split_coordinates);
    all.filter_map(PointName::split_coordinate).collect()
}

/// The order of two points of a stage by their values, so that 8 comes before 16.
pub(super) fn by_values(a: &str, b: &str) -> Ordering {
    let (a, b) = (coordinates(a), coordinates(b));
    let orders = a.iter().zip(&b).map(|((_, a), (_, b))| Step::new(a).order(&Step::new(b)));
    orders.fold(Ordering::Equal, Ordering::then)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn points_are_in_the_order_of_their_numbers() {
        let mut names = ["ad@d=16,kind=b", "ad@d=8,kind=b", "ad@d=8,kind=a", "ad@d=1e1,kind=b"];
        names.sort_by(|a, b| by_values(a, b));
        assert_eq!(names, ["ad@d=8,kind=a", "ad@d=8,kind=b", "ad@d=1e1,kind=b", "ad@d=16,kind=b"]);
    }
}
