//! What a report shows besides its inputs.

/// The parameters of a report.
#[derive(Clone, Debug, Default)]
pub struct Spec {
    /// Its title.
    pub title: String,
    /// Figures from elsewhere, to compare with ours.
    pub reference: Vec<Reference>,
    /// Axes such as a seed. Points that differ only in these are shown by their mean and deviation.
    pub over: Vec<String>,
}

/// A figure from elsewhere.
#[derive(Clone, Debug, PartialEq)]
pub struct Reference {
    /// What it is.
    pub label: String,
    /// Ours: `NAME.METRIC`, with a name as shown in the report.
    pub ours: Option<String>,
    /// Theirs, as published.
    pub seed: String,
    /// A remark.
    pub note: String,
}
