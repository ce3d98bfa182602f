//! The files of the page, which are part of the program.

/// A file of the page.
pub(super) struct Asset {
    /// Its name below `/assets/`.
    pub(super) name: &'static str,
    pub(super) media_type: &'static str,
    pub(super) text: &'static str,
}

/// The media type and the text of a file of the page.
pub(super) fn find(name: &str) -> Option<(&'static str, &'static str)> {
    if name == PALETTE {
        return Some((STYLE, crate::report::palette()));
    }
    ASSETS.iter().find(|asset| asset.name == name).map(|asset| (asset.media_type, asset.text))
}

/// The colours of the report, which are those of the page.
const PALETTE: &str = "palette.css";

/// The page itself.
pub(super) const PAGE: &str = include_str!("assets/index.html");

const SCRIPT: &str = "text/javascript; charset=utf-8";
const STYLE: &str = "text/css; charset=utf-8";

macro_rules! assets {
    ($($name:literal: $media_type:expr,)+) => {
        /// All files that the page loads.
        pub(super) const ASSETS: &[Asset] =
            &[$(Asset { name: $name, media_type: $media_type, text: include_str!(concat!("assets/", $name)) },)+];
    };
}

assets! {
    "page.css": STYLE,
    "app.js": SCRIPT,
    "api.js": SCRIPT,
    "dom.js": SCRIPT,
    "table.js": SCRIPT,
    "curves.js": SCRIPT,
    "parallel.js": SCRIPT,
    "chain.js": SCRIPT,
    "pipeline.js": SCRIPT,
    "point.js": SCRIPT,
    "graph.js": SCRIPT,
    "notes.js": SCRIPT,
    "runs.js": SCRIPT,
    "uplot.js": SCRIPT,
    "uplot.css": STYLE,
    "uplot-license.txt": "text/plain; charset=utf-8",
}
