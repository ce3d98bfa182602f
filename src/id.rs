//! Ids of points, stages and axes, which are positions in the pipeline, and names of points.

use std::fmt;

use serde::{Deserialize, Serialize};

macro_rules! id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(usize);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl $name {
            /// The id with this index.
            pub const fn new(index: usize) -> Self {
                Self(index)
            }

            /// The index.
            pub const fn index(self) -> usize {
                self.0
            }

            /// The first `count` ids, ascending.
            pub fn first(count: usize) -> impl ExactSizeIterator<Item = Self> + DoubleEndedIterator + Clone {
                (0..count).map(Self)
            }
        }
    };
}

id! {
    /// A point: its index in [`crate::spec::Spec::points`].
    PointId
}

id! {
    /// A stage: its index in [`crate::spec::Spec::stages`].
    StageId
}

id! {
    /// An axis: its index among the axes of `[matrix]`, followed by those of the stages, in the order of the file.
    AxisId
}

/// A point's name, split into its parts: `stage`, or `stage@axis=value,axis=value`. Inputs in a pipeline file and
/// targets on the command line have the same form, and may have `*` or a glob in place of a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PointName<'a> {
    /// The name of the stage.
    pub stage: &'a str,
    /// The coordinates: `axis=value,axis=value`. A stage without axes has none.
    pub coordinates: Option<&'a str>,
}

impl<'a> PointName<'a> {
    /// The characters between the parts. Names of stages and axes, and values, never contain them.
    pub const SEPARATORS: [char; 3] = ['@', '=', ','];

    /// Splits a name.
    pub fn parse(name: &'a str) -> Self {
        let (stage, coordinates) = name.split_once('@').map_or((name, None), |(stage, rest)| (stage, Some(rest)));
        Self { stage, coordinates }
    }

    /// The name of the point of `stage` that has these values on these axes.
    pub fn write<'c>(stage: &str, coordinates: impl Iterator<Item = (&'c str, &'c str)>) -> String {
        let mut name = stage.to_owned();
        let mut separator = '@';
        for (axis, value) in coordinates {
            name.push(separator);
            name.push_str(axis);
            name.push('=');
            name.push_str(value);
            separator = ',';
        }
        name
    }

    /// Splits `axis=value,axis=value` at the commas.
    pub fn split_coordinates(coordinates: &'a str) -> impl Iterator<Item = &'a str> {
        coordinates.split(',')
    }

    /// Splits `axis=value`. `None` without an equals sign.
    pub fn split_coordinate(coordinate: &'a str) -> Option<(&'a str, &'a str)> {
        coordinate.split_once('=')
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn written_name_is_parsed_into_the_same_parts() {
        let name = PointName::write("fit", [("lr", "0.1"), ("d", "a")].into_iter());
        assert_eq!(name, "fit@lr=0.1,d=a");
        let PointName { stage, coordinates } = PointName::parse(&name);
        let parts: Vec<_> =
            PointName::split_coordinates(coordinates.unwrap()).map(PointName::split_coordinate).collect();
        assert_eq!((stage, parts), ("fit", vec![Some(("lr", "0.1")), Some(("d", "a"))]));
    }

    #[test]
    fn point_of_a_stage_without_axes_has_the_name_of_the_stage() {
        assert_eq!(PointName::write("data", std::iter::empty()), "data");
        assert_eq!(PointName::parse("data"), PointName { stage: "data", coordinates: None });
    }
}
