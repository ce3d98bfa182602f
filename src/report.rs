//! The report: artifacts → one self-contained HTML file. Pure functions over data.
//!
//! [`build`] makes the artifact: a function of the inputs' contents and of nothing else, so that it can be cached. What
//! belongs to a run (states, timings, parameters, device) comes with [`overlay()`] when the file is written. The file
//! refers to nothing outside itself, and says so to the browser in a content security policy.
//!
//! A stage that stands alone in its role is shown under the role's name, since names of stages are not in the key;
//! members of a list are shown under their labels, which are.

mod chart;
mod comparison;
mod dag;
mod html;
pub mod image;
mod overlay;
mod parallel;
mod scatter;
mod sections;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;

pub use comparison::{Change, Comparison, Curve, Figure, Pair, Picture, comparison};
pub use overlay::{RunOverlay, StageOverlay, overlay};

// The earlier name.
pub use crate::status::StageStatus as StageState;
pub use sections::names;

use crate::stage::{Cancel, Inputs, StageError};
use html::Text;
use overlay::MARKER;

const STYLE: &str = include_str!("report/style.css");
const SCRIPT: &str = include_str!("report/script.js");
/// Nothing is ever fetched; what is needed is inline.
const POLICY: &str = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'";

/// What a report shows besides its inputs.
#[derive(Clone, Debug, Default)]
pub struct Spec {
    /// Its title.
    pub title: String,
    /// Figures from elsewhere, to stand beside ours.
    pub reference: Vec<Reference>,
}

/// A figure from elsewhere.
#[derive(Clone, Debug, PartialEq)]
pub struct Reference {
    /// What it is.
    pub label: String,
    /// Ours: `NAME.METRIC`, a name as the report shows it. None if there is nothing to compare.
    pub ours: Option<String>,
    /// Theirs, as it was published.
    pub seed: String,
    /// A remark.
    pub note: String,
}

/// A page up to its heading. It refers to nothing outside itself.
fn opening(title: &str) -> String {
    let title = Text(title);
    format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta http-equiv=\"Content-Security-Policy\" content=\"{POLICY}\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta name=\"color-scheme\" content=\"light dark\">\n\
         <title>{title}</title>\n<link rel=\"icon\" href=\"data:,\">\n<style>\n{STYLE}</style>\n</head>\n<body>\n\
         <header><h1>{title}</h1></header>\n"
    )
}

/// The whole report, with the place for [`overlay()`] still empty.
///
/// # Errors
/// If a reference names a figure that no input has, if an input is damaged or not what its kind makes, or if cancelled.
pub fn build(spec: &Spec, inputs: &Inputs, cancel: &Cancel) -> Result<String, StageError> {
    let sections = sections::all(spec, inputs, cancel)?;
    let mut out = opening(&spec.title);
    out.push_str("<nav aria-label=\"Contents\"><ol>\n");
    for section in &sections {
        out.push_str(&format!("<li><a href=\"#{}\">{}</a></li>\n", section.id, Text(section.title)));
    }
    out.push_str("<li class=\"of-run\"><a href=\"#run\">The run</a></li>\n</ol></nav>\n<main>\n");
    for section in &sections {
        let title = Text(section.title);
        out.push_str(&format!("<section id=\"{}\"><h2>{title}</h2>\n{}</section>\n", section.id, section.html));
    }
    out.push_str(&format!("{MARKER}\n</main>\n<script>\n{SCRIPT}</script>\n</body>\n</html>\n"));
    Ok(out)
}
