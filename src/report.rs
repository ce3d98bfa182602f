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
//! A value of an axis has one colour in all figures. Curves, scatters and tables are complete without the script, which
//! adds values below the pointer, scales, keys that can be clicked, and the figures as SVG files.
//!
//! With `over = ["seed"]`, points that differ only in their seed are shown together: a line is their mean, a band the
//! standard deviation.
//!
//! The bytes of a page are those of an artifact: if they change for inputs that were possible before, raise the version
//! of the kind `report`. HTML is made by the macro `html!`, which escapes texts.

mod chart;
mod colours;
mod comparison;
mod csv_table;
mod dag;
mod heat;
mod html;
pub mod image;
mod overlay;
mod parallel;
mod picture;
mod request;
mod run;
mod scale;
mod scatter;
mod sections;
mod step;
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

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::stage::{Cancel, Inputs, StageError};
use html::{Html, html};
use overlay::{MAIN, MARKER};

const STYLE: &str = include_str!("report/style.css");
const FIGURES: &str = include_str!("report/figures.css");
const SCRIPTS: [&str; 3] =
    [include_str!("report/script.js"), include_str!("report/charts.js"), include_str!("report/sweeps.js")];
/// Source Sans 3, its Latin letters in all weights. Its licence is `report/font/OFL.txt`.
const FONT: &[u8] = include_bytes!("report/font/source-sans-3.woff2");
/// Everything is inline; nothing may be fetched.
const POLICY: &str =
    "default-src 'none'; img-src data:; font-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'";

/// The colours of a report, light and dark, as custom properties: the beginning of its style.
pub(crate) fn palette() -> &'static str {
    STYLE.split("\n* {").next().unwrap_or_default()
}

/// A page up to its heading.
fn opening(title: &str) -> Html {
    html!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta http-equiv=\"Content-Security-Policy\" content=\"{0}\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta name=\"color-scheme\" content=\"light dark\">\n\
         <title>{1}</title>\n<link rel=\"icon\" href=\"data:,\">\n<style>\n\
         @font-face {{ font-family: \"Source Sans 3\"; font-weight: 200 900; font-display: block; \
         src: url(data:font/woff2;base64,{2}) format(\"woff2\"); }}\n{3}{4}</style>\n</head>\n<body>\n\
         <header><h1>{1}</h1></header>\n",
        Html::constant(POLICY),
        title,
        STANDARD.encode(FONT),
        Html::constant(STYLE),
        Html::constant(FIGURES)
    )
}

/// A page from the end of its content on.
fn closing() -> Html {
    let scripts: Html = SCRIPTS.iter().map(|script| Html::constant(script)).collect();
    html!("</main>\n<script>\n\"use strict\";\n{}</script>\n</body>\n</html>\n", scripts)
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
    let page = html!(
        "{}<nav aria-label=\"Contents\"><ol>\n{}<li class=\"of-run\"><a href=\"#run\">The run</a></li>\n\
         </ol></nav>\n{}{}{}\n{}",
        opening(&spec.title),
        contents.collect::<Html>(),
        Html::constant(MAIN),
        bodies.collect::<Html>(),
        Html::constant(MARKER),
        closing()
    );
    Ok(page.into_string())
}
