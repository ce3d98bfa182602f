//! Parallel coordinates as inline SVG: a vertical axis for each swept value and each metric, a line for each point.
//!
//! The values of a swept axis are placed in order and at even distances, unless there are too many numbers. A metric is
//! drawn to scale. The colour of a line is its value of one metric. A line that is the mean of several
//! points has a band, which is one standard deviation wide on both sides of the metrics.

use super::colours::ramp_class;
use super::html::{Html, html, round_number, shortened};
use super::step::Step;
use super::summary::Summary;

const HEIGHT: f64 = 280.0;
const TOP: f64 = 34.0;
const BOTTOM: f64 = 12.0;
const LEFT: f64 = 72.0;
const RIGHT: f64 = 44.0;
const SPACING: f64 = 114.0;
/// The maximum number of evenly spaced numbers; more are drawn to scale.
const MOST_STEPS: usize = 12;
/// From this ratio of the largest to the smallest number on, the scale is logarithmic.
const LOG_RATIO: f64 = 50.0;
/// Characters of a label.
const LONGEST: usize = 16;
/// A plot with more lines is drawn with thin ones.
const MANY_LINES: usize = 60;

/// One vertical axis.
pub(super) struct Axis {
    title: String,
    scale: Scale,
    /// The place of each point: 0 at the bottom, 1 at the top.
    places: Vec<Option<f64>>,
    /// The ends of the band around each place, if the places are means.
    bands: Vec<Option<[f64; 2]>>,
}

enum Scale {
    /// Values at even distances.
    Steps(Vec<String>),
    Numbers {
        low: f64,
        high: f64,
        log: bool,
    },
}

impl Axis {
    /// An axis of a sweep. `values` has one for each point.
    pub(super) fn swept(title: &str, values: &[Step]) -> Self {
        let mut steps: Vec<&Step> = values.iter().collect();
        let numeric = steps.iter().all(|s| s.number.is_some());
        steps.sort_by(|a, b| match (a.number, b.number) {
            (Some(a), Some(b)) if numeric => a.total_cmp(&b),
            // Values that are not all numbers keep the order of the points.
            _ => std::cmp::Ordering::Equal,
        });
        let mut texts: Vec<String> = Vec::new();
        for step in steps {
            if !texts.contains(&step.text) {
                texts.push(step.text.clone());
            }
        }
        if numeric && texts.len() > MOST_STEPS {
            return Self::metric(title, &values.iter().map(|v| v.number).collect::<Vec<_>>());
        }
        let last = texts.len().saturating_sub(1).max(1) as f64;
        let place = |v: &Step| texts.iter().position(|t| *t == v.text).map(|at| at as f64 / last);
        let places = values.iter().map(place).collect();
        Self { title: title.to_owned(), scale: Scale::Steps(texts), places, bands: Vec::new() }
    }

    /// An axis of numbers, drawn to scale.
    pub(super) fn metric(title: &str, values: &[Option<f64>]) -> Self {
        Self::numbers(title, values, &[])
    }

    /// An axis of means, drawn to scale with their deviations.
    pub(super) fn summaries(title: &str, values: &[Option<Summary>]) -> Self {
        let means: Vec<Option<f64>> = values.iter().map(|v| v.map(|s| s.mean)).collect();
        let end = |s: &Summary| s.deviation.map(|d| [s.mean - d, s.mean + d]).filter(|ends| ends[0].is_finite());
        Self::numbers(title, &means, &values.iter().map(|v| v.as_ref().and_then(end)).collect::<Vec<_>>())
    }

    fn numbers(title: &str, values: &[Option<f64>], bands: &[Option<[f64; 2]>]) -> Self {
        let positive = values.iter().flatten().all(|v| *v > 0.0);
        // The band of positive values may reach 0 or less. It then ends at the edge of the drawing.
        let ends = || bands.iter().flatten().flatten().copied().filter(|v| *v > 0.0 || !positive);
        let finite = || values.iter().flatten().copied().chain(ends()).filter(|v| v.is_finite());
        let (low, high) = finite().fold((f64::INFINITY, f64::NEG_INFINITY), |(l, h), v| (l.min(v), h.max(v)));
        let log = low > 0.0 && high / low >= LOG_RATIO;
        let scaled = |v: f64| if log { libm::log10(v) } else { v };
        let (bottom, top) = (scaled(low), scaled(high));
        let share = |v: f64| if top > bottom { (scaled(v) - bottom) / (top - bottom) } else { 0.5 };
        let places = values.iter().map(|v| v.filter(|v| v.is_finite()).map(share)).collect();
        let edge = |v: f64| if log && v <= 0.0 { 0.0 } else { share(v).clamp(0.0, 1.0) };
        let bands = bands.iter().map(|band| band.map(|ends| ends.map(edge))).collect();
        Self { title: title.to_owned(), scale: Scale::Numbers { low, high, log }, places, bands }
    }

    /// The class of the colour of each point, by its place.
    fn colours(&self) -> Vec<Option<String>> {
        self.places.iter().map(|place| place.map(ramp_class)).collect()
    }

    /// Places and labels of ticks.
    fn ticks(&self) -> Vec<(f64, String)> {
        match &self.scale {
            Scale::Steps(texts) => {
                let last = texts.len().saturating_sub(1).max(1) as f64;
                texts.iter().enumerate().map(|(at, text)| (at as f64 / last, shortened(text, LONGEST))).collect()
            }
            Scale::Numbers { low, high, .. } if low >= high => vec![(0.5, round_number(*low))],
            Scale::Numbers { low, high, log } => {
                let at = |share: f64| match log {
                    true => libm::pow(10.0, libm::log10(*low) + share * (libm::log10(*high) - libm::log10(*low))),
                    false => low + share * (high - low),
                };
                [0.0, 0.25, 0.5, 0.75, 1.0].into_iter().map(|share| (share, round_number(at(share)))).collect()
            }
        }
    }
}

/// The plot. `names` has one for each point; the lines have the colours of the axis `coloured`.
pub(super) fn plot(label: &str, axes: &[Axis], names: &[String], coloured: usize) -> Html {
    let width = LEFT + RIGHT + SPACING * axes.len().saturating_sub(1) as f64;
    let x = |axis: usize| LEFT + SPACING * axis as f64;
    let y = |share: f64| HEIGHT - BOTTOM - share * (HEIGHT - BOTTOM - TOP);
    let many = Html::constant(if names.len() > MANY_LINES { " many" } else { "" });
    let mut out = html!(
        "<div class=\"wide\" tabindex=\"0\" role=\"region\" aria-label=\"{2}\"><svg class=\"parallel{3}\" \
         viewBox=\"0 0 {0} {1}\" style=\"min-width:{4}px;max-width:{5}px\" role=\"img\" aria-label=\"{2}\">\n",
        width,
        HEIGHT,
        label,
        many,
        width * 0.9,
        width * 1.15
    );
    for (at, axis) in axes.iter().enumerate() {
        let (here, title) = (x(at), shortened(&axis.title, LONGEST));
        out.push(html!("<path class=\"axis\" d=\"M{} {}V{}\"/>", here, TOP, HEIGHT - BOTTOM));
        out.push(html!("<text class=\"title\" x=\"{}\" y=\"14\">{}</text>\n", here, title));
    }
    // Drawn first, so that the labels of the axes are above the lines.
    out.push(Html::constant("<g>\n"));
    let colours = axes.get(coloured).map(Axis::colours).unwrap_or_default();
    for (point, name) in names.iter().enumerate() {
        let mut path = String::new();
        let mut pen_down = false;
        for (at, axis) in axes.iter().enumerate() {
            match axis.places.get(point).copied().flatten() {
                None => pen_down = false,
                Some(share) => {
                    let command = if pen_down { 'L' } else { 'M' };
                    path.push_str(&format!("{command}{} {:.1}", x(at), y(share)));
                    pen_down = true;
                }
            }
        }
        let colour = colours.get(point).cloned().flatten().map(|class| format!(" {class}")).unwrap_or_default();
        let mut line = html!("<path class=\"line{}\" data-p=\"{}\" d=\"{}\">", colour, point, path);
        line.push(html!("<title>{}</title></path>\n", name));
        out.push(match band(axes, point, &x, &y) {
            Some(band) => html!("<g><path class=\"band\" d=\"{}\"/>\n{}</g>\n", band, line),
            None => line,
        });
    }
    out.push(Html::constant("</g>\n"));
    for (at, axis) in axes.iter().enumerate() {
        for (share, text) in axis.ticks() {
            let (here, there) = (x(at), y(share));
            out.push(html!("<path class=\"tick\" d=\"M{} {:.1}h4\"/>", here - 4.0, there));
            out.push(html!("<text x=\"{}\" y=\"{:.1}\">{}</text>", here - 7.0, there + 4.0, text));
        }
        out.push(Html::constant("\n"));
    }
    out.push(Html::constant("</svg></div>\n"));
    out
}

/// The area around the line of a point, if any of its places is a mean. A part of the line without gaps is one area.
fn band(axes: &[Axis], point: usize, x: &impl Fn(usize) -> f64, y: &impl Fn(f64) -> f64) -> Option<String> {
    let ends = |axis: &Axis| {
        let place = axis.places.get(point).copied().flatten()?;
        Some(axis.bands.get(point).copied().flatten().unwrap_or([place, place]))
    };
    axes.iter().any(|axis| axis.bands.get(point).is_some_and(Option::is_some)).then_some(())?;
    let all: Vec<(usize, Option<[f64; 2]>)> = axes.iter().map(ends).enumerate().collect();
    let mut path = String::new();
    for part in all.split(|(_, ends)| ends.is_none()).filter(|part| part.len() > 1) {
        let part = part.iter().filter_map(|(at, ends)| Some((*at, (*ends)?)));
        let upper = part.clone().map(|(at, [_, high])| format!("{} {:.1}", x(at), y(high)));
        let lower = part.rev().map(|(at, [low, _])| format!("{} {:.1}", x(at), y(low)));
        path.push_str(&format!("M{}Z", upper.chain(lower).collect::<Vec<_>>().join("L")));
    }
    Some(path)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn steps(texts: &[&str]) -> Vec<Step> {
        texts.iter().map(|t| Step::new(t)).collect()
    }

    #[test]
    fn swept_values_are_evenly_spaced_in_order() {
        let axis = Axis::swept("lr", &steps(&["0.1", "0.001", "0.01", "0.001"]));
        assert_eq!(axis.places, [Some(1.0), Some(0.0), Some(0.5), Some(0.0)]);
        let words = Axis::swept("distribution", &steps(&["uniform", "gaussian", "uniform"]));
        assert_eq!(words.ticks(), [(0.0, "uniform".to_owned()), (1.0, "gaussian".to_owned())]);
        let one = Axis::swept("x", &steps(&["1", "1"]));
        assert_eq!(one.places, [Some(0.0), Some(0.0)]);
    }

    #[test]
    fn many_numbers_are_drawn_to_scale_and_wide_ranges_on_a_log_scale() {
        let texts: Vec<String> = (0..20).map(|i| format!("{}", i + 1)).collect();
        let axis = Axis::swept("x", &texts.iter().map(|t| Step::new(t)).collect::<Vec<_>>());
        assert!(matches!(axis.scale, Scale::Numbers { log: false, .. }));
        let far = Axis::metric("x", &[Some(1e-4), Some(1e-2), Some(1.0), None]);
        assert_eq!(far.places, [Some(0.0), Some(0.5), Some(1.0), None]);
    }

    #[test]
    fn names_are_escaped() {
        let axes = [Axis::metric("<m>", &[Some(1.0)])];
        let plot = plot("a \"b\"", &axes, &["<script>".to_owned()], 0);
        assert!(!plot.contains("<script>") && !plot.contains("<m>") && plot.contains("a &quot;b&quot;"));
    }

    proptest! {
        #[test]
        fn every_line_stays_in_the_drawing(values in prop::collection::vec(prop::option::of(-1e6f64..1e6), 1..40)) {
            let axis = Axis::metric("x", &values);
            for place in axis.places.iter().flatten() {
                prop_assert!((0.0..=1.0).contains(place), "{place}");
            }
            let names: Vec<String> = values.iter().map(|v| format!("{v:?}")).collect();
            let plot = plot("p", &[axis], &names, 0);
            prop_assert!(!plot.contains("NaN") && !plot.contains("inf\""));
            prop_assert_eq!(plot.matches("class=\"line").count(), values.len());
        }
    }
}
