//! The differences of two runs, points or pipelines that `vadpipe diff` found, as data and as a self-contained HTML
//! page.

use serde::Serialize;

use super::chart::{Caption, Series, lines};
use super::colours::Painting;
use super::html::{Cell, Html, Table, html, name, number};
use super::image::data_uri;
use super::{closing, opening};
use crate::key::Key;

/// What two runs, points or pipelines have in common, and what differs.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Comparison {
    /// The name of the first.
    pub a: String,
    /// The name of the second.
    pub b: String,
    /// Differences that concern no single point: seeds, command lines, devices.
    pub facts: Vec<Change>,
    /// Points that only the first has.
    pub only_a: Vec<String>,
    /// Points that only the second has.
    pub only_b: Vec<String>,
    /// Points without differences.
    pub same: Vec<String>,
    /// Points that differ.
    pub changed: Vec<Pair>,
}

/// A value that differs; `None` if it is not set.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Change {
    /// Its name.
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
    /// Whether it describes the results, and a difference would mean nothing.
    #[serde(skip)]
    pub is_fact: bool,
}

impl Figure {
    /// Whether the two results differ. NaN does not differ from itself.
    pub fn differs(&self) -> bool {
        self.a.map(f64::to_bits) != self.b.map(f64::to_bits)
    }

    /// The second value minus the first, if there are both and it is not a fact.
    pub fn difference(&self) -> Option<f64> {
        self.a.zip(self.b).filter(|_| !self.is_fact).map(|(a, b)| b - a)
    }
}

/// Two points beside each other.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Pair {
    /// The first's name.
    pub a: String,
    /// The second's.
    pub b: String,
    /// The keys, if they are known.
    pub keys: [Option<Key>; 2],
    /// Parameters and inputs that differ.
    pub parameters: Vec<Change>,
    /// Metrics that either has, equal ones included.
    pub metrics: Vec<Figure>,
    /// Whether the results have the same bytes; `None` if one is not in the cache.
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
    /// The measure.
    pub name: String,
    /// Values by epoch; empty if there is no curve.
    pub values: [Vec<f64>; 2],
}

impl Comparison {
    /// The title of the comparison.
    pub fn title(&self) -> String {
        format!("{} ↔ {}", self.a, self.b)
    }
}

impl Pair {
    /// The title of the pair.
    pub fn title(&self) -> String {
        if self.a == self.b { self.a.clone() } else { format!("{} ↔ {}", self.a, self.b) }
    }
}

/// The comparison as a self-contained page.
pub fn comparison(found: &Comparison) -> String {
    let mut out = html!("{}<main>\n", opening(&found.title()));
    if !found.facts.is_empty() {
        out.push(changes("Overall", found, &found.facts));
    }
    for (what, points) in [
        (format!("Only in {}", found.a), &found.only_a),
        (format!("Only in {}", found.b), &found.only_b),
        ("The same in both".to_owned(), &found.same),
    ] {
        if !points.is_empty() {
            let points = points.iter().map(|point| name(point));
            out.push(html!("<p class=\"note\"><b>{}:</b> {}</p>\n", what, Html::join(points, ", ")));
        }
    }
    let pairs: Html = found.changed.iter().map(|pair| section(found, pair)).collect();
    html!("{}{}{}", out, pairs, closing()).into_string()
}

fn section(found: &Comparison, pair: &Pair) -> Html {
    let mut out = Html::constant("<section>");
    // A comparison of two points has one pair, whose title is the title of the page.
    if pair.title() != found.title() {
        out.push(html!("<h2>{}</h2>\n", name(&pair.title())));
    }
    if let Some(true) = pair.same_output {
        out.push(Html::constant("<p class=\"note\">Both have the same bytes.</p>\n"));
    }
    if !pair.parameters.is_empty() {
        out.push(changes("Parameters and inputs", found, &pair.parameters));
    }
    if !pair.metrics.is_empty() {
        out.push(figures(found, &pair.metrics));
    }
    let titles = sides(found, pair);
    if !pair.curves.is_empty() {
        let chart = |curve: &Curve| {
            let series = titles.iter().zip(&curve.values);
            let series = series.map(|(title, values)| Series::single(title.clone(), values.clone()));
            lines(&Caption::of(&curve.name), &series.collect::<Vec<_>>(), &Painting::plain(&titles))
        };
        out.push(html!("<div class=\"multiples\">\n{}</div>\n", pair.curves.iter().map(chart).collect::<Html>()));
    }
    // One level below the heading of the pair, or of the page.
    let heading = if pair.title() == found.title() { "h2" } else { "h3" };
    let pictures: Html = pair.pictures.iter().map(|picture| beside(&titles, picture, heading)).collect();
    html!("{}{}</section>\n", out, pictures)
}

/// The titles of the two sides of a pair: their own names if these differ, else the names of what is compared.
fn sides(found: &Comparison, pair: &Pair) -> [String; 2] {
    if pair.a == pair.b { [found.a.clone(), found.b.clone()] } else { [pair.a.clone(), pair.b.clone()] }
}

fn changes(title: &str, found: &Comparison, changes: &[Change]) -> Html {
    let mut table = Table::default();
    table.column("name", false).column(&found.a, false).column(&found.b, false);
    let cell = |value: &Option<String>| Cell::text(value.as_deref().unwrap_or("–"));
    for change in changes {
        table.row(vec![Cell::text(&change.name), cell(&change.a), cell(&change.b)]);
    }
    table.render(title)
}

fn figures(found: &Comparison, figures: &[Figure]) -> Html {
    let mut table = Table::default();
    table.column("metric", false).column(&found.a, true).column(&found.b, true).column("difference", true);
    for figure in figures {
        let by = figure.difference();
        let sign = if by.is_some_and(|by| by > 0.0) { "+" } else { "" };
        let shown = by.map(|by| format!("{sign}{}", number(by))).unwrap_or_default();
        let sort = by.map(|by| by.to_string()).unwrap_or_default();
        let cells = vec![Cell::text(&figure.name), Cell::number(figure.a), Cell::number(figure.b)];
        table.row(cells.into_iter().chain([Cell::html(html!("{}", shown), sort)]).collect());
    }
    table.render("Metrics")
}

fn beside(titles: &[String; 2], picture: &Picture, heading: &'static str) -> Html {
    let image = |title: &str, png: &[u8]| {
        html!(
            "<figure class=\"picture\"><img alt=\"{}: {}\" src=\"{}\"><figcaption>{}</figcaption></figure>",
            picture.name,
            title,
            data_uri(png),
            name(title)
        )
    };
    let side = |(title, png): (&String, &Option<Vec<u8>>)| match png {
        Some(png) => image(title, png),
        None => html!("<p class=\"note\">{} has none</p>", name(title)),
    };
    let images = match (&picture.a, &picture.b) {
        (Some(a), Some(b)) if a == b => image("the same in both", a),
        (a, b) => titles.iter().zip([a, b]).map(side).collect(),
    };
    let heading = Html::constant(heading);
    html!("<{0}>{1}</{0}>\n<div class=\"beside\">{2}</div>\n", heading, picture.name, images)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_escaped_and_equal_images_are_shown_once() {
        let change = |name: &str| Change { name: name.to_owned(), a: Some("<i>".to_owned()), b: None };
        let picture =
            |a: &[u8], b: &[u8]| Picture { name: "im<g>".to_owned(), a: Some(a.to_vec()), b: Some(b.to_vec()) };
        let pair = Pair {
            a: "ad".to_owned(),
            b: "ad".to_owned(),
            parameters: vec![change("l<r")],
            metrics: vec![Figure { name: "loss".to_owned(), a: Some(0.5), b: Some(0.25), is_fact: false }],
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
