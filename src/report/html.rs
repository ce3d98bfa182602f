//! The small pieces that HTML is made of. Every text that comes from outside goes through [`Text`].

use std::fmt;

use crate::id::PointName;

/// A text, escaped for content and for attributes in double quotes.
pub(super) struct Text<'a>(pub(super) &'a str);

impl fmt::Display for Text<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for c in self.0.chars() {
            match c {
                '&' => f.write_str("&amp;")?,
                '<' => f.write_str("&lt;")?,
                '>' => f.write_str("&gt;")?,
                '"' => f.write_str("&quot;")?,
                '\'' => f.write_str("&#39;")?,
                // Control characters are no valid HTML; nothing of ours holds any.
                c if c.is_control() && !c.is_whitespace() => f.write_str("\u{fffd}")?,
                c => write!(f, "{c}")?,
            }
        }
        Ok(())
    }
}

/// A figure as a person reads it: four significant digits, whole numbers whole.
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

/// A round figure for an axis: as [`number`], without zeros at its end.
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
pub(super) fn name(text: &str) -> String {
    let mut out = Text(text).to_string();
    for separator in PointName::SEPARATORS {
        out = out.replace(separator, &format!("{separator}<wbr>"));
    }
    out
}

/// A duration as a person reads it.
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

/// A cell: what it shows (HTML), and what it is sorted by.
pub(super) struct Cell {
    html: String,
    sort: String,
}

impl Cell {
    pub(super) fn text(text: &str) -> Self {
        Self { html: Text(text).to_string(), sort: String::new() }
    }

    /// The name of a point.
    pub(super) fn name(text: &str) -> Self {
        Self { html: name(text), sort: text.to_owned() }
    }

    pub(super) fn number(v: Option<f64>) -> Self {
        match v {
            Some(v) => Self { html: format!("<span title=\"{v}\">{}</span>", number(v)), sort: format!("{v}") },
            None => Self { html: String::new(), sort: String::new() },
        }
    }

    /// HTML that is known to be well-formed.
    pub(super) fn html(html: String, sort: String) -> Self {
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

    /// The table, in a box that scrolls sideways where it is too wide.
    pub(super) fn render(&self, caption: &str) -> String {
        let mut out = String::from("<div class=\"wide\" tabindex=\"0\"><table class=\"sortable\">");
        if !caption.is_empty() {
            out.push_str(&format!("<caption>{}</caption>", Text(caption)));
        }
        out.push_str("<thead><tr>");
        for column in &self.head {
            let class = if column.figures { " class=\"n\"" } else { "" };
            out.push_str(&format!("<th scope=\"col\"{class}{}>{}</th>", column.data, Text(&column.title)));
        }
        out.push_str("</tr></thead><tbody>\n");
        for row in &self.rows {
            out.push_str("<tr>");
            for (at, cell) in row.iter().enumerate() {
                let class = if self.head.get(at).is_some_and(|c| c.figures) { " class=\"n\"" } else { "" };
                let sort = match cell.sort.as_str() {
                    "" => String::new(),
                    by => format!(" data-v=\"{}\"", Text(by)),
                };
                let (open, close) = if at == 0 { ("th scope=\"row\"", "th") } else { ("td", "td") };
                out.push_str(&format!("<{open}{class}{sort}>{}</{close}>", cell.html));
            }
            out.push_str("</tr>\n");
        }
        out.push_str("</tbody></table></div>\n");
        out
    }
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
    fn a_points_name_breaks_between_its_parts() {
        assert_eq!(name("<a>@b=c"), "&lt;a&gt;@<wbr>b=<wbr>c");
    }

    #[test]
    fn durations_are_short() {
        assert_eq!([0.123, 12.34, 75.0, 3725.0].map(duration).join(", "), "0.12 s, 12.3 s, 1 min 15 s, 1 h 2 min");
    }

    proptest! {
        #[test]
        fn no_text_can_leave_its_place(text in ".{0,40}") {
            let escaped = Text(&text).to_string();
            prop_assert!(!escaped.contains(['<', '>', '"', '\'']));
            let table = Table { head: vec![], rows: vec![vec![Cell::text(&text)]] }.render(&text);
            prop_assert_eq!(table.matches("<t").count(), 6);
        }

        #[test]
        fn a_figure_is_near_what_it_stands_for(v in -1e9f64..1e9) {
            let read: f64 = number(v).replace('−', "-").replace('\u{202f}', "").parse().unwrap();
            prop_assert!((read - v).abs() <= v.abs() * 5.1e-4 + 1e-12, "{v} as {read}");
        }
    }
}
