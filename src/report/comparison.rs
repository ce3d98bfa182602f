//! Two runs, points or pipelines beside each other: what `vadpipe diff` found, and as one self-contained HTML file.

use serde::Serialize;

use super::chart::{Series, lines};
use super::html::{Cell, Table, Text, name, number};
use super::image::data_uri;
use super::{SCRIPT, opening};
use crate::key::Key;

/// What two things have in common and what not.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Comparison {
    /// What the first is called.
    pub a: String,
    /// What the second is called.
    pub b: String,
    /// What differs in the whole: seeds, command lines, devices.
    pub facts: Vec<Change>,
    /// Points that only the first has.
    pub only_a: Vec<String>,
    /// Points that only the second has.
    pub only_b: Vec<String>,
    /// Points of which nothing differs.
    pub same: Vec<String>,
    /// Points that differ.
    pub changed: Vec<Pair>,
}

/// A value that differs; none where it is not set.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Change {
    /// What it is.
    pub name: String,
    /// In the first.
    pub a: Option<String>,
    /// In the second.
    pub b: Option<String>,
}

/// A metric of two results.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Figure {
    /// Its name.
    pub name: String,
    /// Of the first result.
    pub a: Option<f64>,
    /// Of the second.
    pub b: Option<f64>,
}

/// Two points beside each other.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Pair {
    /// The first's name.
    pub a: String,
    /// The second's.
    pub b: String,
    /// The keys, as far as they are known.
    pub keys: [Option<Key>; 2],
    /// Parameters and inputs that differ.
    pub parameters: Vec<Change>,
    /// Metrics that either has, equal ones included.
    pub metrics: Vec<Figure>,
    /// Whether the results have the same bytes; none where one is not in the cache.
    pub same_output: Option<bool>,
    /// Images, for the HTML page.
    #[serde(skip)]
    pub pictures: Vec<Picture>,
    /// Curves, for the HTML page.
    #[serde(skip)]
    pub curves: Vec<Curve>,
}

/// An image of two results, as PNG.
#[derive(Clone, Debug, Default)]
pub struct Picture {
    /// What it shows.
    pub name: String,
    /// Of the first.
    pub a: Option<Vec<u8>>,
    /// Of the second; equal ones are shown once.
    pub b: Option<Vec<u8>>,
}

/// A measure over the epochs of two trainings.
#[derive(Clone, Debug, Default)]
pub struct Curve {
    /// What is measured.
    pub name: String,
    /// By epoch; empty where there is none.
    pub values: [Vec<f64>; 2],
}

impl Comparison {
    /// What the comparison is called.
    pub fn title(&self) -> String {
        format!("{} ↔ {}", self.a, self.b)
    }
}

impl Pair {
    /// What the pair is called.
    pub fn title(&self) -> String {
        if self.a == self.b { self.a.clone() } else { format!("{} ↔ {}", self.a, self.b) }
    }
}

/// The comparison as a page that refers to nothing outside itself.
pub fn comparison(found: &Comparison) -> String {
    let mut out = opening(&found.title());
    out.push_str("<main>\n");
    if !found.facts.is_empty() {
        out.push_str(&changes("In the whole", found, &found.facts));
    }
    for (what, points) in [
        (format!("Only in {}", found.a), &found.only_a),
        (format!("Only in {}", found.b), &found.only_b),
        ("The same in both".to_owned(), &found.same),
    ] {
        if !points.is_empty() {
            let points: Vec<String> = points.iter().map(|p| name(p)).collect();
            out.push_str(&format!("<p class=\"note\"><b>{}:</b> {}</p>\n", Text(&what), points.join(", ")));
        }
    }
    for pair in &found.changed {
        out.push_str(&section(found, pair));
    }
    out.push_str(&format!("</main>\n<script>\n{SCRIPT}</script>\n</body>\n</html>\n"));
    out
}

fn section(found: &Comparison, pair: &Pair) -> String {
    let mut out = String::from("<section>");
    // Of two points there is one pair, and the page bears its name.
    if pair.title() != found.title() {
        out.push_str(&format!("<h2>{}</h2>\n", name(&pair.title())));
    }
    if let Some(true) = pair.same_output {
        out.push_str("<p class=\"note\">Both have the same bytes.</p>\n");
    }
    if !pair.parameters.is_empty() {
        out.push_str(&changes("Parameters and inputs", found, &pair.parameters));
    }
    if !pair.metrics.is_empty() {
        out.push_str(&figures(found, &pair.metrics));
    }
    let titles = sides(found, pair);
    if !pair.curves.is_empty() {
        out.push_str("<div class=\"multiples\">\n");
        for curve in &pair.curves {
            let series = titles.iter().zip(&curve.values).enumerate().filter(|(_, (_, v))| !v.is_empty());
            let series =
                series.map(|(colour, (title, values))| Series { name: title.clone(), colour, values: values.clone() });
            out.push_str(&lines(&curve.name, &series.collect::<Vec<_>>()));
        }
        out.push_str("</div>\n");
    }
    for picture in &pair.pictures {
        out.push_str(&beside(&titles, picture));
    }
    out.push_str("</section>\n");
    out
}

/// What the two sides of a pair are called: by their own names if these differ, else by what is compared.
fn sides(found: &Comparison, pair: &Pair) -> [String; 2] {
    if pair.a == pair.b { [found.a.clone(), found.b.clone()] } else { [pair.a.clone(), pair.b.clone()] }
}

fn changes(title: &str, found: &Comparison, changes: &[Change]) -> String {
    let mut table = Table::default();
    table.column("", false).column(&found.a, false).column(&found.b, false);
    let cell = |value: &Option<String>| Cell::text(value.as_deref().unwrap_or("–"));
    for change in changes {
        table.row(vec![Cell::text(&change.name), cell(&change.a), cell(&change.b)]);
    }
    table.render(title)
}

fn figures(found: &Comparison, figures: &[Figure]) -> String {
    let mut table = Table::default();
    table.column("metric", false).column(&found.a, true).column(&found.b, true).column("difference", true);
    for figure in figures {
        let by = figure.a.zip(figure.b).map(|(a, b)| b - a);
        let sign = if by.is_some_and(|by| by > 0.0) { "+" } else { "" };
        let shown = by.map(|by| format!("{sign}{}", number(by))).unwrap_or_default();
        let sort = by.map(|by| by.to_string()).unwrap_or_default();
        let cells = vec![Cell::text(&figure.name), Cell::number(figure.a), Cell::number(figure.b)];
        table.row(cells.into_iter().chain([Cell::html(shown, sort)]).collect());
    }
    table.render("Metrics")
}

fn beside(titles: &[String; 2], picture: &Picture) -> String {
    let image = |title: &str, png: &[u8]| {
        let alt = format!("{}: {title}", picture.name);
        format!(
            "<figure class=\"picture\"><img alt=\"{}\" src=\"{}\"><figcaption>{}</figcaption></figure>",
            Text(&alt),
            data_uri(png),
            name(title)
        )
    };
    let mut out = format!("<h3>{}</h3>\n<div class=\"beside\">", Text(&picture.name));
    match (&picture.a, &picture.b) {
        (Some(a), Some(b)) if a == b => out.push_str(&image("the same in both", a)),
        (a, b) => {
            for (title, png) in titles.iter().zip([a, b]) {
                match png {
                    Some(png) => out.push_str(&image(title, png)),
                    None => out.push_str(&format!("<p class=\"note\">{} has none</p>", name(title))),
                }
            }
        }
    }
    out.push_str("</div>\n");
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_from_outside_is_escaped_and_equal_images_are_shown_once() {
        let change = |name: &str| Change { name: name.to_owned(), a: Some("<i>".to_owned()), b: None };
        let picture =
            |a: &[u8], b: &[u8]| Picture { name: "im<g>".to_owned(), a: Some(a.to_vec()), b: Some(b.to_vec()) };
        let pair = Pair {
            a: "ad".to_owned(),
            b: "ad".to_owned(),
            parameters: vec![change("l<r")],
            metrics: vec![Figure { name: "loss".to_owned(), a: Some(0.5), b: Some(0.25) }],
            pictures: vec![picture(b"1", b"1"), picture(b"1", b"2")],
            curves: vec![Curve { name: "loss".to_owned(), values: [vec![1.0, 0.5], vec![0.9]] }],
            ..Pair::default()
        };
        let found = Comparison {
            a: "run <1>".to_owned(),
            b: "run 2".to_owned(),
            only_b: vec!["vad@x=1".to_owned()],
            changed: vec![pair],
            ..Comparison::default()
        };
        let html = comparison(&found);
        for raw in ["<i>", "<1>", "l<r", "im<g>"] {
            assert!(!html.contains(raw), "{raw} is there as it is");
        }
        assert_eq!(html.matches("<img").count(), 3);
        assert!(html.contains("−0.2500") && html.contains("Only in run 2:"));
        assert!(!html.contains("http://") && !html.contains("https://"));
    }
}
