//! The identities of points, stages and axes: positions in the pipeline file, each with a type of its own.

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
    /// An axis: first those of `[matrix]`, then those of the stages, in the order of the file.
    AxisId
}
