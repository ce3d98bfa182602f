//! Line charts as inline SVG: a line for each stage or point. The key has the last value of each. A line that is the
//! mean of several has a band of one standard deviation on both sides.
//!
//! The script reads the values from the paths and the scales from `data-x` and `data-y`, so a page holds them once.

use super::colours::{Entry, Key, Painting, RAMP, Style};
use super::html::{Html, html, name, number, round_number};
use super::scale::{Across, BOTTOM, HEIGHT, LEFT, RIGHT, Scale, TOP, WIDTH};
use super::summary::Summary;
use crate::artifact::NOT_LOGGED;

/// The maximum number of points of a line; more can't be seen at this size.
const MOST_POINTS: usize = 400;
/// The minimum of that number in a chart of many lines.
const FEWEST_POINTS: usize = 40;
/// The maximum number of points of a chart with many lines.
const MOST_IN_CHART: usize = 24_000;
/// A chart with more lines is drawn with thin ones.
const MANY_LINES: usize = 30;

/// What a chart shows.
pub(super) struct Caption {
    pub(super) title: String,
    /// The quantity of the vertical axis, with its unit.
    pub(super) y: String,
}

impl Caption {
    /// The quantity is the title.
    pub(super) fn of(title: &str) -> Self {
        Self { title: title.to_owned(), y: title.to_owned() }
    }
}

/// One line: a value per epoch, from epoch 1 on, or at places of its own.
#[derive(Default)]
pub(super) struct Series {
    /// Its name.
    pub(super) name: String,
    /// The place of each value. Empty if there is a value for each epoch.
    pub(super) at: Vec<f64>,
    /// Its values; one that is not finite leaves a gap.
    pub(super) values: Vec<f64>,
    /// The standard deviation of each value, if it is a mean. Otherwise empty.
    pub(super) deviations: Vec<f64>,
    /// The number of curves that it is the mean of; 1 for a single curve.
    pub(super) count: usize,
    /// What is drawn.
    pub(super) marks: Marks,
}

/// What is drawn of a series.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Marks {
    #[default]
    Line,
    /// A line with a dot at each value.
    LineAndDots,
    Dots,
}

impl Series {
    /// A single curve.
    pub(super) fn single(name: String, values: Vec<f64>) -> Self {
        Self { name, values, count: 1, ..Self::default() }
    }

    /// The mean of several curves, up to the end of the shortest. A single curve stays as it is.
    pub(super) fn mean(name: String, mut curves: Vec<Vec<f64>>) -> Self {
        let count = curves.len();
        if count == 1 {
            return Self::single(name, curves.remove(0));
        }
        let epochs = curves.iter().map(Vec::len).min().unwrap_or(0);
        let at = |epoch: usize| Summary::of(&curves.iter().map(|curve| curve[epoch]).collect::<Vec<_>>());
        let all: Vec<Summary> = (0..epochs).map(at).collect();
        let deviations = all.iter().map(|s| s.deviation.unwrap_or_default()).collect();
        let values = all.iter().map(|s| s.mean).collect();
        Self { name, values, deviations, count, ..Self::default() }
    }

    /// As [`Series::mean`], without the places where a curve has no value: see [`NOT_LOGGED`]. So a line connects the
    /// values of a metric that was logged in some epochs only. `at` are the places; empty for epochs.
    pub(super) fn logged(name: String, at: &[f64], curves: Vec<Vec<f64>>) -> Self {
        let has = |curve: &Vec<f64>, place| curve.get(place).is_none_or(|v: &f64| v.to_bits() != NOT_LOGGED);
        let length = curves.iter().map(Vec::len).max().unwrap_or(0);
        let logged: Vec<usize> = (0..length).filter(|place| curves.iter().all(|c| has(c, *place))).collect();
        if logged.len() == length {
            return Self { at: at.to_vec(), ..Self::mean(name, curves) };
        }
        let kept = |curve: &Vec<f64>| logged.iter().filter_map(|place| curve.get(*place).copied()).collect();
        let curves = curves.iter().map(kept).collect();
        let at = logged.iter().map(|place| at.get(*place).copied().unwrap_or(*place as f64 + 1.0)).collect();
        Self { at, ..Self::mean(name, curves) }
    }

    /// The place of a value.
    fn place(&self, index: usize) -> f64 {
        self.at.get(index).copied().unwrap_or(index as f64 + 1.0)
    }

    /// The places of all values.
    fn places(&self) -> impl Iterator<Item = f64> {
        (0..self.values.len()).map(|index| self.place(index))
    }

    /// The ends of the band around each value. Empty without a band.
    fn band(&self) -> impl Iterator<Item = [f64; 2]> {
        self.values.iter().zip(&self.deviations).map(|(value, deviation)| [value - deviation, value + deviation])
    }
}

/// A chart of several series over epochs with its caption and its key. Empty without finite values.
pub(super) fn lines(caption: &Caption, series: &[Series], painting: &Painting) -> Html {
    let last = series.iter().flat_map(Series::places).fold(0.0, f64::max);
    draw(caption, &Across::epochs(last as usize), series, painting)
}

/// A chart of several series over a quantity of this name.
pub(super) fn lines_over(caption: &Caption, quantity: &str, series: &[Series], painting: &Painting) -> Html {
    draw(caption, &Across::fit(quantity, series.iter().flat_map(Series::places)), series, painting)
}

/// A chart of several series over this quantity.
pub(super) fn draw(caption: &Caption, x: &Across, series: &[Series], painting: &Painting) -> Html {
    let finite = || series.iter().flat_map(|s| &s.values).copied().filter(|v| v.is_finite());
    let (low, high) = finite().fold((f64::INFINITY, f64::NEG_INFINITY), |(l, h), v| (l.min(v), h.max(v)));
    // A band that reaches 0 or less doesn't decide the scale of positive values. It ends at the edge of the drawing.
    let ends = series.iter().flat_map(Series::band).flatten().filter(|v| v.is_finite() && (*v > 0.0 || low <= 0.0));
    let (low, high) = ends.fold((low, high), |(l, h), v| (l.min(v), h.max(v)));
    if low > high {
        return Html::default();
    }
    let y = Scale::fit(low, high);
    let styled = || series.iter().zip(&painting.styles).enumerate();
    let most = (MOST_IN_CHART / series.len()).clamp(FEWEST_POINTS, MOST_POINTS);
    let bands = styled().map(|(at, (s, style))| band(at, s, style, &y, x));
    let drawn: Html = bands.chain(styled().map(|(at, (s, style))| line((at, most), s, style, &y, x))).collect();
    let label = format!("{} over {}: {}", caption.title, x.quantity, described(series));
    let many = Html::constant(if series.len() > MANY_LINES { " many" } else { "" });
    let mut out = html!(
        "<figure class=\"chart\"><figcaption><b>{}</b></figcaption>\n<svg class=\"lines{}\" viewBox=\"0 0 {} {}\" \
         role=\"img\" aria-label=\"{}\"",
        caption.title,
        many,
        WIDTH,
        HEIGHT,
        label
    );
    out.push(data(x, &y));
    out.push(html!(">{}{}</svg>\n{}</figure>\n", axes(&caption.y, &y, x), drawn, key(&painting.key, series)));
    out
}

/// For a reader who can't see the chart.
fn described(series: &[Series]) -> String {
    const MOST: usize = 6;
    let last = |s: &Series| format!("{} ends at {}", s.name, s.values.last().map(|v| number(*v)).unwrap_or_default());
    let mut texts: Vec<String> = series.iter().take(MOST).map(last).collect();
    if series.len() > MOST {
        texts.push(format!("{} more lines", series.len() - MOST));
    }
    texts.join(", ")
}

/// The scales, for the script.
fn data(x: &Across, y: &Scale) -> Html {
    let kind = match () {
        () if x.steps => "steps",
        () if x.quantity == "epoch" => "whole",
        () => "number",
    };
    let steps: Vec<&str> = x.ticks.iter().filter(|_| x.steps).map(|(_, text)| text.as_str()).collect();
    html!(
        " data-box=\"{} {} {} {}\" data-x=\"{} {} {} {}\" data-quantity=\"{}\" data-steps=\"{}\" data-y=\"{} {} {}\"",
        LEFT,
        TOP,
        WIDTH - RIGHT,
        HEIGHT - BOTTOM,
        x.low,
        x.high,
        usize::from(x.log),
        kind,
        x.quantity,
        steps.join(","),
        y.low,
        y.high,
        usize::from(y.log)
    )
}

fn key(key: &Key, series: &[Series]) -> Html {
    let entry = |Entry { style, label, lines }: &Entry| {
        let last = match lines[..] {
            [only] => series.get(only).map(last_value).unwrap_or_default(),
            _ => format!("{} lines", lines.len()),
        };
        let numbers = lines.iter().map(usize::to_string).collect::<Vec<_>>().join(" ");
        html!(
            "<li data-lines=\"{}\"><svg viewBox=\"0 0 22 8\" aria-hidden=\"true\"><path class=\"{}\" d=\"M1 4H21\"/>\
             </svg><span>{}</span> <data>{}</data></li>",
            numbers,
            style.class(),
            name(label),
            last
        )
    };
    if key.ramp.is_none() && key.entries.is_empty() {
        return Html::default();
    }
    let axis = key.axis.as_ref().map(|axis| html!("<li class=\"of\">{}</li>", axis)).unwrap_or_default();
    let ramp = key.ramp.as_ref().map(ramp).unwrap_or_default();
    html!("<ul class=\"legend\">{}{}{}</ul>", axis, ramp, key.entries.iter().map(entry).collect::<Html>())
}

fn ramp([low, high]: &[String; 2]) -> Html {
    let steps: Html = (0..RAMP).map(|step| html!("<i class=\"v{}\"></i>", step)).collect();
    html!("<li class=\"ramp\"><span>{}</span><span class=\"steps\">{}</span><span>{}</span></li>", low, steps, high)
}

fn last_value(series: &Series) -> String {
    let mut last = series.values.last().map(|v| number(*v)).unwrap_or_default();
    if series.values.len() > 1 && series.marks != Marks::Line {
        // The last of the values of an axis says nothing about the others.
        return String::new();
    }
    if let Some(deviation) = series.deviations.last() {
        last.push_str(&format!(" ± {}, n = {}", number(*deviation), series.count));
    }
    last
}

fn line((at, most): (usize, usize), series: &Series, style: &Style, y: &Scale, x: &Across) -> Html {
    let count = series.values.len();
    let stride = count.div_ceil(most).max(1);
    let (mut path, mut dots) = (String::new(), String::new());
    let mut pen_down = false;
    let mut drawn = 0;
    for (at, value) in series.values.iter().enumerate() {
        if !value.is_finite() {
            pen_down = false;
            continue;
        }
        if at % stride != 0 && at + 1 != count {
            continue;
        }
        let place = format!("{:.1} {:.2}", x.place(series.place(at)), y.place(*value));
        path.push_str(&format!("{}{place}", if pen_down { 'L' } else { 'M' }));
        dots.push_str(&format!("M{place}h0"));
        pen_down = true;
        drawn += 1;
    }
    let has_dots = drawn == 1 || series.marks != Marks::Line;
    let has_line = drawn > 1 && series.marks != Marks::Dots;
    let mut out = Html::default();
    for (class, path) in [has_line.then_some(("l", path)), has_dots.then_some(("o", dots))].into_iter().flatten() {
        let (class, title) = (format!("{class} {}", style.class()), &series.name);
        out.push(html!("<path class=\"{}\" data-l=\"{}\" d=\"{}\"><title>{}</title></path>", class, at, path, title));
    }
    out
}

/// The band around a line; one area for each part without gaps.
fn band(at: usize, series: &Series, style: &Style, y: &Scale, x: &Across) -> Html {
    let ends: Vec<[f64; 2]> = series.band().collect();
    let stride = ends.len().div_ceil(MOST_POINTS).max(1);
    let point = |at: usize, value: f64| {
        let height = y.place(value);
        // Below the drawing, also for values without a logarithm.
        let height = if height.is_finite() { height.clamp(TOP, HEIGHT - BOTTOM) } else { HEIGHT - BOTTOM };
        format!("{:.1} {height:.2}", x.place(series.place(at)))
    };
    let shown = ends.iter().enumerate().filter(|(at, _)| at % stride == 0 || at + 1 == ends.len());
    let shown: Vec<(usize, &[f64; 2])> = shown.collect();
    let mut path = String::new();
    for part in shown.split(|(_, ends)| !ends.iter().all(|end| end.is_finite())).filter(|part| part.len() > 1) {
        let upper = part.iter().map(|(at, [_, high])| point(*at, *high));
        let lower = part.iter().rev().map(|(at, [low, _])| point(*at, *low));
        path.push_str(&format!("M{}Z", upper.chain(lower).collect::<Vec<_>>().join("L")));
    }
    match path.is_empty() {
        true => Html::default(),
        false => html!("<path class=\"band {}\" data-l=\"{}\" d=\"{}\"/>", style.colour, at, path),
    }
}

fn axes(quantity: &str, y: &Scale, x: &Across) -> Html {
    let (left, right, bottom) = (LEFT, WIDTH - RIGHT, HEIGHT - BOTTOM);
    let mut out = Html::constant("<g class=\"y\">");
    for tick in y.ticks() {
        let (at, text) = (y.place(tick), round_number(tick));
        out.push(html!("<path class=\"grid\" d=\"M{} {:.1}H{}\"/>", left, at, right));
        out.push(html!("<text x=\"{}\" y=\"{:.1}\">{}</text>", left - 7.0, at + 4.0, text));
    }
    out.push(Html::constant("</g><g class=\"x\">"));
    out.push(html!("<path class=\"grid\" d=\"M{} {:.1}H{}\"/>", left, bottom, right));
    for (tick, text) in &x.ticks {
        let at = x.place(*tick);
        out.push(html!("<path class=\"grid\" d=\"M{:.1} {}v4\"/>", at, bottom));
        out.push(html!("<text x=\"{:.1}\" y=\"{}\">{}</text>", at, bottom + 18.0, text));
    }
    let (middle, height) = ((left + right) / 2.0, (TOP + bottom) / 2.0);
    out.push(html!("<text class=\"quantity\" x=\"{:.1}\" y=\"{}\">{}</text>", middle, HEIGHT - 6.0, x.quantity));
    out.push(html!(
        "<text class=\"quantity\" transform=\"translate(13 {}) rotate(-90)\">{}</text></g>",
        height,
        quantity
    ));
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn drawn(series: Series) -> Html {
        let painting = Painting::plain(std::slice::from_ref(&series.name));
        lines(&Caption::of("loss"), &[series], &painting)
    }

    #[test]
    fn chart_without_values_is_empty() {
        assert_eq!(&*lines(&Caption::of("loss"), &[], &Painting::default()), "");
        assert_eq!(&*drawn(Series::single("a".into(), vec![f64::NAN])), "");
    }

    #[test]
    fn line_connects_the_epochs_in_which_a_metric_was_logged() {
        let gap = f64::from_bits(NOT_LOGGED);
        let every_second = vec![gap, 0.5, gap, 0.4, gap];
        let path = |series: Series| {
            let chart = drawn(series);
            let line = chart.split("<path class=\"l c0 d0").nth(1).unwrap();
            line.split(" d=\"").nth(1).unwrap().split('"').next().unwrap().to_owned()
        };
        // Without a line, nothing would be drawn.
        assert_eq!(path(Series::single("a".into(), every_second.clone())).matches('L').count(), 0);
        let series = Series::logged("a".into(), &[], vec![every_second]);
        assert_eq!((&*series.at, &*series.values), (&[2.0, 4.0][..], &[0.5, 0.4][..]));
        assert_eq!(path(series).matches('L').count(), 1);
        let all = Series::logged("a".into(), &[], vec![vec![1.0, f64::NAN, 3.0]]);
        assert!(all.at.is_empty() && all.values.len() == 3, "a NaN that was logged stays a gap");
    }

    #[test]
    fn both_axes_have_names_and_round_ticks() {
        let series = Series { at: vec![0.0, 250.0, 1000.0], ..Series::single("a".into(), vec![3.0, 2.0, 1.0]) };
        let caption = Caption { title: "Error".to_owned(), y: "rmse, grey levels".to_owned() };
        let chart = lines_over(&caption, "step", &[series], &Painting::plain(&["a".to_owned()]));
        assert!(chart.contains(">step</text>") && chart.contains(">500</text>"), "{chart:?}");
        assert!(chart.contains(">rmse, grey levels</text>"), "{chart:?}");
        assert!(chart.contains("d=\"M62.0 ") && chart.contains("L159.1 ") && chart.contains("L450.5 "), "{chart:?}");
    }

    #[test]
    fn thousand_lines_are_a_small_chart() {
        let names: Vec<String> = (0..1000).map(|i| format!("ad@lr={i}")).collect();
        let curve = |name: &String| Series::single(name.clone(), (1..=500).map(|e| 1.0 / f64::from(e)).collect());
        let series: Vec<Series> = names.iter().map(curve).collect();
        let chart = lines(&Caption::of("loss"), &series, &Painting::plain(&names));
        assert!(chart.len() < 1_000_000, "{} bytes", chart.len());
    }

    #[test]
    fn names_are_escaped() {
        let series = Series::single("<script>".into(), vec![1.0]);
        let chart = lines(&Caption::of("a<b"), &[series], &Painting::plain(&["<script>".to_owned()]));
        assert!(!chart.contains("<script>") && chart.contains("a&lt;b"), "{chart:?}");
    }

    proptest! {
        #[test]
        fn every_line_stays_in_the_drawing(values in prop::collection::vec(-1e6f64..1e6, 1..900)) {
            let chart = drawn(Series::single("a".into(), values.clone()));
            let path = chart.split(" d=\"M").last().unwrap();
            prop_assert!(!path.contains("NaN") && !path.contains("inf"));
            let (low, high) = values.iter().fold((f64::MAX, f64::MIN), |(l, h), v| (l.min(*v), h.max(*v)));
            let y = Scale::fit(low, high);
            for v in values {
                prop_assert!((0.0..=HEIGHT).contains(&y.place(v)), "{v} at {}", y.place(v));
            }
            prop_assert!(y.ticks().len() <= 20);
        }
    }
}
