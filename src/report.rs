//! The report: artifacts → one self-contained HTML file. Pure functions over data.
//!
//! [`build`] makes the artifact from its inputs alone, so that it can be cached. [`overlay()`] adds the data of a run
//! (states, timings, parameters, device) when the file is written. The file refers to nothing outside itself; its
//! content security policy enforces that.
//!
//! A section shows the inputs that provide a [`crate::artifact::Capability`], whatever kind made them. A stage that is
//! alone in its role is shown under the role's name, because names of stages are not in the key; members of a list are
//! shown under their labels, which are.
//!
//! Pictures and tables that programs wrote are shown if [`Spec::outputs`] is set. It depends on the version in the key
//! of the report, so a report that was cached before has another key.
//!
//! With `over = ["seed"]`, points that differ only in their seed are shown together: a line is their mean, a band the
//! standard deviation.
//!
//! The bytes of a page are those of an artifact: if they change for inputs that were possible before, raise the version
//! of the kind `report`. HTML is made by the macro `html!`, which escapes texts.

mod chart;
mod comparison;
mod csv_table;
mod dag;
mod html;
pub mod image;
mod overlay;
mod parallel;
mod picture;
mod request;
mod run;
mod scatter;
mod sections;
mod summary;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;

pub use comparison::{Change, Comparison, Curve, Figure, Pair, Picture, comparison};
pub use overlay::overlay;
pub(crate) use picture::{is_picture, media_type};
pub use request::{Reference, Spec};
pub use run::{RunOverlay, StageOverlay};
pub use sections::names;
pub use summary::Summary;

use crate::stage::{Cancel, Inputs, StageError};
use html::{Html, html};
use overlay::{MAIN, MARKER};

const STYLE: &str = include_str!("report/style.css");
/// Added to [`STYLE`] in a report with `over`.
const BANDS: &str = include_str!("report/bands.css");
/// Added to [`STYLE`] in a report with pictures or tables of programs.
const OUTPUTS: &str = include_str!("report/outputs.css");
const SCRIPT: &str = include_str!("report/script.js");
/// Everything is inline; nothing may be fetched.
const POLICY: &str = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'";

/// The colours of a report, light and dark, as custom properties: the beginning of its style.
pub(crate) fn palette() -> &'static str {
    STYLE.split("\n* {").next().unwrap_or_default()
}

/// Whether a report shows an output with this path: a picture, a table, or a folder, which may contain some.
pub fn shows(path: &str) -> bool {
    path.ends_with('/') || picture::is_picture(path) || csv_table::is_table(path)
}

/// A page up to its heading.
fn opening(title: &str) -> Html {
    html!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta http-equiv=\"Content-Security-Policy\" content=\"{0}\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta name=\"color-scheme\" content=\"light dark\">\n\
         <title>{1}</title>\n<link rel=\"icon\" href=\"data:,\">\n<style>\n{2}</style>\n</head>\n<body>\n\
         <header><h1>{1}</h1></header>\n",
        Html::constant(POLICY),
        title,
        Html::constant(STYLE)
    )
}

/// A page from the end of its content on.
fn closing() -> Html {
    html!("</main>\n<script>\n{}</script>\n</body>\n</html>\n", Html::constant(SCRIPT))
}

/// The whole report, without the section of the run: see [`overlay()`].
///
/// # Errors
/// If a reference names a figure that no input has, if an input is damaged or malformed, or if cancelled.
pub fn build(spec: &Spec, inputs: &Inputs, cancel: &Cancel) -> Result<String, StageError> {
    let sections = sections::all(spec, inputs, cancel)?;
    let contents = sections.iter().map(|s| html!("<li><a href=\"#{}\">{}</a></li>\n", s.id, s.title));
    let bodies =
        sections.iter().map(|s| html!("<section id=\"{}\"><h2>{}</h2>\n{}</section>\n", s.id, s.title, s.html));
    let style = |css, is_needed| match is_needed {
        true => html!("<style>\n{}</style>\n", Html::constant(css)),
        false => Html::default(),
    };
    let has_outputs = sections.iter().any(|s| s.id == "outputs");
    let styles: Html = [style(BANDS, !spec.over.is_empty()), style(OUTPUTS, has_outputs)].into_iter().collect();
    let page = html!(
        "{}{}<nav aria-label=\"Contents\"><ol>\n{}<li class=\"of-run\"><a href=\"#run\">The run</a></li>\n\
         </ol></nav>\n{}{}{}\n{}",
        opening(&spec.title),
        styles,
        contents.collect::<Html>(),
        Html::constant(MAIN),
        bodies.collect::<Html>(),
        Html::constant(MARKER),
        closing()
    );
    Ok(page.into_string())
}
