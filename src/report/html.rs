//! The small pieces that HTML is made of. The macro `html!` makes [`Html`], and escapes every text that goes into it.

use std::fmt;
use std::ops::Deref;

use crate::id::PointName;

/// HTML. All texts in it are escaped; only constants of this crate are added unchanged.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Html(String);

/// Makes [`Html`] as `format!` makes a `String`. Values are arguments, never names in braces, and each is escaped
/// unless it is HTML or a number.
macro_rules! html {
    ($format:literal $(, $value:expr)* $(,)?) => {
        // A format string that another macro made can't capture variables, which would not be escaped.
        $crate::report::html::Html::from_escaped(format_args!(
            concat!($format)
            $(, $crate::report::html::Escaped(&$value))*
        ))
    };
}
pub(super) use html;

impl Html {
    /// For `html!`, which escapes the arguments.
    pub(super) fn from_escaped(markup: fmt::Arguments<'_>) -> Self {
        Self(markup.to_string())
    }

    /// A constant of this crate.
    pub(super) fn constant(markup: &'static str) -> Self {
        Self(markup.to_owned())
    }

    /// Appends.
    pub(super) fn push(&mut self, more: Self) {
        self.0.push_str(&more.0);
    }

    /// All of these with a separator between them.
    pub(super) fn join(parts: impl IntoIterator<Item = Self>, separator: &'static str) -> Self {
        Self(parts.into_iter().map(|part| part.0).collect::<Vec<_>>().join(separator))
    }

    pub(super) fn into_string(self) -> String {
        self.0
    }
}

impl Deref for Html {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

impl FromIterator<Html> for Html {
    fn from_iter<T: IntoIterator<Item = Self>>(parts: T) -> Self {
        Self::join(parts, "")
    }
}

impl From<&str> for Html {
    fn from(text: &str) -> Self {
        html!("{}", text)
    }
}

/// A value in HTML.
pub(super) trait Value {
    fn write(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result;
}

/// Writes a value as HTML.
pub(super) struct Escaped<'a, T: ?Sized>(pub(super) &'a T);

impl<T: Value + ?Sized> fmt::Display for Escaped<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.write(f)
    }
}

impl Value for Html {
    fn write(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A text, escaped for content and for attributes in double quotes.
impl Value for str {
    fn write(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut written = 0;
        for (at, c) in self.char_indices() {
            let escaped = match c {
                '&' => "&amp;",
                '<' => "&lt;",
                '>' => "&gt;",
                '"' => "&quot;",
                '\'' => "&#39;",
                // Control characters are not valid in HTML.
                c if c.is_control() && !c.is_whitespace() => "\u{fffd}",
                _ => continue,
            };
            f.write_str(&self[written..at])?;
            f.write_str(escaped)?;
            written = at + c.len_utf8();
        }
        f.write_str(&self[written..])
    }
}

impl Value for String {
    fn write(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.as_str().write(f)
    }
}

impl<T: Value + ?Sized> Value for &T {
    fn write(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).write(f)
    }
}

macro_rules! numbers {
    ($($number:ty),*) => {
        $(impl Value for $number {
            fn write(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        })*
    };
}
numbers!(f64, usize, u8);

/// A figure for people: four significant digits, integers in full.
pub(super) fn number(v: f64) -> String {
    if !v.is_finite() {
        return "–".to_owned();
    }
    let size = v.abs();
    let text = if v == 0.0 {
        "0".to_owned()
    } else if v.fract() == 0.0 && size < 1e9 {
        grouped(&format!("{size:.0}"))
    } else if (1e-4..1e6).contains(&size) {
        // Digits left of the point: 1 for 1.5, 0 for 0.15, −1 for 0.015.
        let whole = libm::floor(libm::log10(size)) as i32 + 1;
        format!("{size:.*}", usize::try_from((4 - whole).clamp(0, 8)).unwrap_or(0))
    } else {
        format!("{size:.3e}")
    };
    if v < 0.0 { format!("−{text}") } else { text }
}

/// A round figure for an axis: like [`number`], without trailing zeros.
pub(super) fn round_number(v: f64) -> String {
    let text = number(v);
    if !text.contains('.') || text.contains('e') {
        return text;
    }
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// Whole digits in groups of three, from five digits on.
fn grouped(digits: &str) -> String {
    if digits.len() < 5 {
        return digits.to_owned();
    }
    let mut out = String::new();
    for (i, c) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            // A narrow space that does not break.
            out.push('\u{202f}');
        }
        out.push(c);
    }
    out
}

/// The name of a point, with places where a line may break.
pub(super) fn name(text: &str) -> Html {
    text.split_inclusive(PointName::SEPARATORS)
        .map(|part| {
            let breaks = if part.ends_with(PointName::SEPARATORS) { "<wbr>" } else { "" };
            html!("{}{}", part, Html::constant(breaks))
        })
        .collect()
}

/// The text, cut to at most `most` characters.
pub(super) fn shortened(text: &str, most: usize) -> String {
    if text.chars().count() <= most {
        return text.to_owned();
    }
    text.chars().take(most - 1).chain(['…']).collect()
}

/// A duration for people.
pub(super) fn duration(seconds: f64) -> String {
    if seconds < 60.0 {
        let digits = if seconds < 10.0 { 2 } else { 1 };
        return format!("{seconds:.digits$} s");
    }
    let whole = seconds.round() as u64;
    match (whole / 3600, whole / 60 % 60, whole % 60) {
        (0, minutes, seconds) => format!("{minutes} min {seconds} s"),
        (hours, minutes, _) => format!("{hours} h {minutes} min"),
    }
}

/// A table with more rows scrolls.
const MOST_ROWS: usize = 60;

/// A table that can be sorted. The first column holds names.
#[derive(Default)]
pub(super) struct Table {
    head: Vec<Column>,
    rows: Vec<Vec<Cell>>,
}

struct Column {
    title: String,
    figures: bool,
    /// Attributes for the script.
    data: &'static str,
}

/// A cell: its content, and the value that it is sorted by.
pub(super) struct Cell {
    html: Html,
    sort: String,
}

impl Cell {
    pub(super) fn text(text: &str) -> Self {
        Self { html: text.into(), sort: String::new() }
    }

    /// The name of a point.
    pub(super) fn name(text: &str) -> Self {
        Self { html: name(text), sort: text.to_owned() }
    }

    pub(super) fn number(v: Option<f64>) -> Self {
        match v {
            Some(v) if !v.is_finite() => Self { html: html!("{}", v), sort: v.to_string() },
            Some(v) => Self { html: html!("<span title=\"{}\">{}</span>", v, number(v)), sort: v.to_string() },
            None => Self { html: Html::default(), sort: String::new() },
        }
    }

    pub(super) fn html(html: Html, sort: String) -> Self {
        Self { html, sort }
    }
}

impl Table {
    /// Adds a column of words or, aligned to the right, of figures.
    pub(super) fn column(&mut self, title: &str, figures: bool) -> &mut Self {
        self.column_with(title, figures, "")
    }

    /// A column whose head has an attribute such as ` data-axis="1"`.
    pub(super) fn column_with(&mut self, title: &str, figures: bool, data: &'static str) -> &mut Self {
        self.head.push(Column { title: title.to_owned(), figures, data });
        self
    }

    pub(super) fn row(&mut self, cells: Vec<Cell>) -> &mut Self {
        self.rows.push(cells);
        self
    }

    /// The table, in a box that scrolls sideways if the table is too wide, and downwards if it has many rows.
    pub(super) fn render(&self, caption: &str) -> Html {
        let label = if caption.is_empty() { "table" } else { caption };
        self.boxed(label, if caption.is_empty() { Html::default() } else { html!("<caption>{}</caption>", caption) })
    }

    /// The table without a caption. Screen readers announce its box by this label.
    pub(super) fn render_as(&self, label: &str) -> Html {
        self.boxed(label, Html::default())
    }

    fn boxed(&self, label: &str, caption: Html) -> Html {
        let head: Html = self.head.iter().map(Column::render).collect();
        let rows: Html = self.rows.iter().map(|row| self.row_html(row)).collect();
        let long = Html::constant(if self.rows.len() > MOST_ROWS { " long" } else { "" });
        html!(
            "<div class=\"wide{}\" tabindex=\"0\" role=\"region\" aria-label=\"{}\"><table class=\"sortable\">{}<thead>\
             <tr>{}</tr></thead><tbody>\n{}</tbody></table></div>\n",
            long,
            label,
            caption,
            head,
            rows
        )
    }

    fn row_html(&self, row: &[Cell]) -> Html {
        let cell = |(at, cell): (usize, &Cell)| {
            let class = class_of(self.head.get(at).is_some_and(|column| column.figures));
            let sort = if cell.sort.is_empty() { Html::default() } else { html!(" data-v=\"{}\"", cell.sort) };
            match at {
                0 => html!("<th scope=\"row\"{}{}>{}</th>", class, sort, cell.html),
                _ => html!("<td{}{}>{}</td>", class, sort, cell.html),
            }
        };
        html!("<tr>{}</tr>\n", row.iter().enumerate().map(cell).collect::<Html>())
    }
}

impl Column {
    fn render(&self) -> Html {
        let (class, data) = (class_of(self.figures), Html::constant(self.data));
        html!("<th scope=\"col\"{}{}>{}</th>", class, data, self.title)
    }
}

/// The attribute of a column of figures.
fn class_of(figures: bool) -> Html {
    Html::constant(if figures { " class=\"n\"" } else { "" })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn figures_have_four_digits() {
        let shown =
            [0.0609, 0.19713, 1.0, 12345.0, 1000.0, 17.94321, 0.00012345, 3e-7, -2.5, 1e12, f64::NAN, 1234567.8];
        insta::assert_snapshot!(shown.map(number).join("  "), @"0.06090  0.1971  1  12 345  1000  17.94  0.0001234  3.000e-7  −2.500  1.000e12  –  1.235e6");
    }

    #[test]
    fn axes_have_no_needless_zeros() {
        assert_eq!([0.5, 0.03, 100.0, 0.0, 2.5, -0.2].map(round_number).join(" "), "0.5 0.03 100 0 2.5 −0.2");
    }

    #[test]
    fn name_of_point_breaks_between_its_parts() {
        assert_eq!(&*name("<a>@b=c"), "&lt;a&gt;@<wbr>b=<wbr>c");
    }

    #[test]
    fn durations_are_short() {
        assert_eq!([0.123, 12.34, 75.0, 3725.0].map(duration).join(", "), "0.12 s, 12.3 s, 1 min 15 s, 1 h 2 min");
    }

    proptest! {
        #[test]
        fn text_stays_text(text in ".{0,40}") {
            let escaped = Html::from(text.as_str());
            prop_assert!(!escaped.contains(['<', '>', '"', '\'']));
            let table = Table { head: vec![], rows: vec![vec![Cell::text(&text)]] }.render(&text);
            prop_assert_eq!(table.matches("<t").count(), 6);
        }

        #[test]
        fn figure_is_near_its_value(v in -1e9f64..1e9) {
            let read: f64 = number(v).replace('−', "-").replace('\u{202f}', "").parse().unwrap();
            prop_assert!((read - v).abs() <= v.abs() * 5.1e-4 + 1e-12, "{v} as {read}");
        }
    }
}
