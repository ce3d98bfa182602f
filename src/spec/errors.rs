//! Saying what is wrong, without drowning anybody in it and without quadratic cost.

use std::collections::BTreeSet;

use crate::diagnostic::{Diagnostics, Origin, Sources, nearest};
use crate::error::Error;

/// As many errors as anybody reads at once; every one quotes its line, which takes a walk through the text.
const SHOWN: usize = 50;

/// Adds an error whose help is the nearest name among `known`, or else a few of them.
pub(super) fn suggest<'a>(
    diagnostics: &mut Diagnostics,
    place: &Origin,
    message: String,
    wrong: &str,
    known: impl Iterator<Item = &'a str> + Clone,
) {
    let late = diagnostics.0.len() > 2 * SHOWN;
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

/// `Ok` if nothing is wrong, else everything in one error (exit code 2), in order of place and nothing twice.
pub(super) fn finish(mut diagnostics: Diagnostics, sources: &Sources) -> Result<(), Error> {
    if diagnostics.is_empty() {
        return Ok(());
    }
    let mut seen = BTreeSet::new();
    diagnostics.0.retain(|d| {
        let place = d.origin.as_ref().map(|o| (o.source, o.span.start, o.span.end));
        seen.insert((place, d.message.clone()))
    });
    diagnostics.0.sort_by_key(|d| d.origin.as_ref().map(|o| (o.source, o.span.start)));
    let more = diagnostics.0.len().saturating_sub(SHOWN);
    diagnostics.0.truncate(SHOWN);
    match diagnostics.into_result(sources) {
        Err(mut error) if more > 0 => {
            error.message.push_str(&format!(", and {more} more"));
            Err(error)
        }
        other => other,
    }
}

/// Whether a name is safe everywhere a pipeline's or a stage's name goes: `[A-Za-z0-9_-]+`.
pub(super) fn is_name(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-'))
}

/// Reports a name that is none.
pub(super) fn check_name(what: &str, name: &str, place: &Origin, diagnostics: &mut Diagnostics) -> bool {
    let fine = is_name(name);
    if !fine {
        let error = diagnostics.error(place, format!("{name:?} can't be the name of {what}"));
        error.help("letters, digits, `_` and `-` make a name");
    }
    fine
}
