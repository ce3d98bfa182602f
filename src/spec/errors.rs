//! Reports errors: each kind of error once, at linear cost.

use std::collections::{BTreeSet, HashMap};

use crate::diagnostic::{Diagnostic, Diagnostics, MOST_SHOWN, Origin, nearest};

/// Adds an error whose help is the nearest name in `known`, or else lists some of them.
pub(super) fn suggest<'a>(
    diagnostics: &mut Diagnostics,
    place: &Origin,
    message: String,
    wrong: &str,
    known: impl Iterator<Item = &'a str> + Clone,
) {
    let late = is_late(diagnostics);
    let error = diagnostics.error(place, message);
    if late {
        return;
    }
    if let Some(near) = nearest(wrong, known.clone()) {
        error.help(format!("did you mean `{near}`?"));
        return;
    }
    let mut few: Vec<&str> = known.take(11).collect();
    if few.len() > 10 {
        few[10] = "…";
    }
    if !few.is_empty() {
        error.help(format!("known here: {}", few.join(", ")));
    }
}

/// Whether there are so many errors already that the next one will not be shown and needs no help.
pub(super) fn is_late(diagnostics: &Diagnostics) -> bool {
    diagnostics.0.len() > 2 * MOST_SHOWN
}

/// Collects the errors of a stage's points. Keeps each kind of error at each place once, with its number of points.
#[derive(Default)]
pub(super) struct PointErrors {
    errors: Vec<PointError>,
    known: HashMap<Kind, usize>,
}

/// Errors are the same if they have the same place, and the same message [`without_values`].
type Kind = (Option<(usize, usize, usize)>, String);

/// One kind of error at one place.
struct PointError {
    /// The first report.
    first: Diagnostic,
    /// Other messages that differ from the first only in the value at fault.
    others: BTreeSet<String>,
    /// The variants of the parameters that have this error.
    variants: BTreeSet<usize>,
}

impl PointErrors {
    /// Adds the errors of one variant of the parameters.
    pub(super) fn add(&mut self, variant: usize, found: Vec<Diagnostic>) {
        for diagnostic in found {
            let kind = (diagnostic.place(), without_values(&diagnostic.message));
            let index = *self.known.entry(kind).or_insert(self.errors.len());
            match self.errors.get_mut(index) {
                Some(known) => {
                    known.variants.insert(variant);
                    if diagnostic.message != known.first.message {
                        known.others.insert(diagnostic.message);
                    }
                }
                None => {
                    let variants = BTreeSet::from([variant]);
                    self.errors.push(PointError { first: diagnostic, others: BTreeSet::new(), variants });
                }
            }
        }
    }

    /// The number of different errors.
    pub(super) fn len(&self) -> usize {
        self.errors.len()
    }

    /// Reports the errors. `points[v]` is the number of points with variant `v`.
    pub(super) fn report(self, points: &[usize], diagnostics: &mut Diagnostics) {
        let all: usize = points.iter().sum();
        for PointError { mut first, others, variants } in self.errors {
            let count: usize = variants.iter().filter_map(|v| points.get(*v)).sum();
            if !others.is_empty() {
                let values = if others.len() == 1 { "value" } else { "values" };
                first.message.push_str(&format!(" (the same for {} other {values})", others.len()));
            }
            let by_value = count < all || !others.is_empty();
            if by_value && count > 1 {
                let label = first.label.take().map_or_else(String::new, |label| format!("{label}, "));
                first.label = Some(format!("{label}in {count} points"));
            }
            diagnostics.0.push(first);
        }
    }
}

/// A message without its values, so that the same error about two values gives the same text. Drops digits, text in
/// double quotes, and everything from the last ", not " on. Keeps names in backticks.
fn without_values(message: &str) -> String {
    let message = message.rsplit_once(", not ").map_or(message, |(before, _)| before);
    let (mut name, mut quoted) = (false, false);
    let keep = |c: &char| {
        match c {
            '`' if !quoted => name = !name,
            '"' if !name => quoted = !quoted,
            _ => {}
        }
        name || !(quoted || c.is_ascii_digit() || matches!(c, '.' | '-'))
    };
    message.chars().filter(keep).collect()
}

/// Whether a name is valid for a pipeline, a stage, a role or an axis: `[A-Za-z0-9_-]+`.
pub(super) fn is_name(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-'))
}

/// Reports an invalid name.
pub(super) fn check_name(what: &str, name: &str, place: &Origin, diagnostics: &mut Diagnostics) -> bool {
    let fine = is_name(name);
    if !fine {
        let error = diagnostics.error(place, format!("{name:?} can't be the name of {what}"));
        error.help("use letters, digits, `_` and `-`");
    }
    fine
}
