//! Line charts as inline SVG: one curve for each stage. The legend has the last value of each. A curve that is the mean
//! of several has a band of one standard deviation on both sides.

use super::html::{Html, html, name, number, round_number};
use super::summary::Summary;
use crate::artifact::NOT_LOGGED;

/// The drawing area, in the SVG's own units.
const WIDTH: f64 = 350.0;
const HEIGHT: f64 = 210.0;
const LEFT: f64 = 44.0;
const RIGHT: f64 = 12.0;
const TOP: f64 = 10.0;
const BOTTOM: f64 = 36.0;
/// The maximum number of points of a line; more can't be seen at this size.
const MOST_POINTS: usize = 400;
/// From this ratio of the largest to the smallest value on, the scale is logarithmic.
const LOG_RATIO: f64 = 4.0;

/// One line: a value per epoch, from epoch 1 on, or at places of its own.
pub(super) struct Series {
    /// Its name.
    pub(super) name: String,
    /// The number of its colour, so that a stage has the same colour in all charts.
    pub(super) colour: usize,
    /// The place of each value. Empty if there is a value for each epoch.
    pub(super) at: Vec<f64>,
    /// Its values; one that is not finite leaves a gap.
    pub(super) values: Vec<f64>,
    /// The standard deviation of each value, if it is a mean. Otherwise empty.
    pub(super) deviations: Vec<f64>,
    /// The number of curves that it is the mean of; 1 for a single curve.
    pub(super) count: usize,
}

impl Series {
    /// A single curve.
    pub(super) fn single(name: String, colour: usize, values: Vec<f64>) -> Self {
        Self { name, colour, at: Vec::new(), values, deviations: Vec::new(), count: 1 }
    }

    /// The mean of several curves, up to the end of the shortest. A single curve stays as it is.
    pub(super) fn mean(name: String, colour: usize, mut curves: Vec<Vec<f64>>) -> Self {
        let count = curves.len();
        if count == 1 {
            return Self::single(name, colour, curves.remove(0));
        }
        let epochs = curves.iter().map(Vec::len).min().unwrap_or(0);
        let at = |epoch: usize| Summary::of(&curves.iter().map(|curve| curve[epoch]).collect::<Vec<_>>());
        let all: Vec<Summary> = (0..epochs).map(at).collect();
        let deviations = all.iter().map(|s| s.deviation.unwrap_or_default()).collect();
        let values = all.iter().map(|s| s.mean).collect();
        Self { name, colour, at: Vec::new(), values, deviations, count }
    }

    /// As [`Series::mean`], without the places where a curve has no value: see [`NOT_LOGGED`]. So a line connects the
    /// values of a metric that was logged in some epochs only. `at` are the places; empty for epochs.
    pub(super) fn logged(name: String, colour: usize, at: &[f64], curves: Vec<Vec<f64>>) -> Self {
        let has = |curve: &Vec<f64>, place| curve.get(place).is_none_or(|v: &f64| v.to_bits() != NOT_LOGGED);
        let length = curves.iter().map(Vec::len).max().unwrap_or(0);
        let logged: Vec<usize> = (0..length).filter(|place| curves.iter().all(|c| has(c, *place))).collect();
        if logged.len() == length {
            return Self { at: at.to_vec(), ..Self::mean(name, colour, curves) };
        }
        let kept = |curve: &Vec<f64>| logged.iter().filter_map(|place| curve.get(*place).copied()).collect();
        let curves = curves.iter().map(kept).collect();
        let at = logged.iter().map(|place| at.get(*place).copied().unwrap_or(*place as f64 + 1.0)).collect();
        Self { at, ..Self::mean(name, colour, curves) }
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

/// A chart of several series over epochs with its caption and its legend. Empty without finite values.
pub(super) fn lines(caption: &str, series: &[Series]) -> Html {
    let last = series.iter().flat_map(Series::places).fold(0.0, f64::max);
    lines_across(caption, &Across::epochs(last as usize), series)
}

/// A chart of several series over a quantity of this name.
pub(super) fn lines_over(caption: &str, quantity: &str, series: &[Series]) -> Html {
    lines_across(caption, &Across::fit(quantity, series), series)
}

fn lines_across(caption: &str, x: &Across, series: &[Series]) -> Html {
    let finite = || series.iter().flat_map(|s| &s.values).copied().filter(|v| v.is_finite());
    let (low, high) = finite().fold((f64::INFINITY, f64::NEG_INFINITY), |(l, h), v| (l.min(v), h.max(v)));
    // A band that reaches 0 or less doesn't decide the scale of positive values. It ends at the edge of the drawing.
    let ends = series.iter().flat_map(Series::band).flatten().filter(|v| v.is_finite() && (*v > 0.0 || low <= 0.0));
    let (low, high) = ends.fold((low, high), |(l, h), v| (l.min(v), h.max(v)));
    if low > high {
        return Html::default();
    }
    let y = Scale::fit(low, high);
    let kind = Html::constant(if y.log { " <small>log scale</small>" } else { "" });
    let bands = series.iter().map(|s| band(s, &y, x));
    let lines: Html = bands.chain(series.iter().map(|s| line(s, &y, x))).collect();
    let mut out = html!("<figure class=\"chart\"><figcaption><b>{}</b>{}</figcaption>\n", caption, kind);
    out.push(html!("<svg viewBox=\"0 0 {} {}\" role=\"img\" aria-label=\"{}\">", WIDTH, HEIGHT, caption));
    out.push(html!("{}{}</svg>\n{}</figure>\n", axes(&y, x), lines, legend(series)));
    out
}

/// The class of the n-th line: ten colours, first solid, then in two dash patterns.
fn class(index: usize) -> String {
    format!("s{} d{}", index % 10, index / 10 % 3)
}

fn legend(series: &[Series]) -> Html {
    let item = |s: &Series| {
        let mut last = s.values.last().map(|v| number(*v)).unwrap_or_default();
        if let Some(deviation) = s.deviations.last() {
            last.push_str(&format!(" ± {}, n = {}", number(*deviation), s.count));
        }
        html!(
            "<li><svg viewBox=\"0 0 22 8\" aria-hidden=\"true\"><path class=\"{}\" d=\"M1 4H21\"/></svg>\
             <span>{}</span> <data>{}</data></li>",
            class(s.colour),
            name(&s.name),
            last
        )
    };
    html!("<ul class=\"legend\">{}</ul>", series.iter().map(item).collect::<Html>())
}

fn line(series: &Series, y: &Scale, x: &Across) -> Html {
    let count = series.values.len();
    let stride = count.div_ceil(MOST_POINTS).max(1);
    let mut path = String::new();
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
        let command = if pen_down { 'L' } else { 'M' };
        path.push_str(&format!("{command}{:.1} {:.1}", x.place(series.place(at)), y.place(*value)));
        pen_down = true;
        drawn += 1;
    }
    if drawn == 1 {
        // A line of no length with round ends is a dot.
        path.push_str("h0");
    }
    let dot = if drawn == 1 { " dot" } else { "" };
    let (class, title) = (class(series.colour), &series.name);
    html!("<path class=\"{}{}\" d=\"{}\"><title>{}</title></path>", class, dot, path, title)
}

/// The band around a line; one area for each part without gaps.
fn band(series: &Series, y: &Scale, x: &Across) -> Html {
    let ends: Vec<[f64; 2]> = series.band().collect();
    let stride = ends.len().div_ceil(MOST_POINTS).max(1);
    let point = |at: usize, value: f64| {
        let height = y.place(value);
        // Below the drawing, also for values without a logarithm.
        let height = if height.is_finite() { height.clamp(TOP, HEIGHT - BOTTOM) } else { HEIGHT - BOTTOM };
        format!("{:.1} {height:.1}", x.place(series.place(at)))
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
        false => html!("<path class=\"band f{}\" d=\"{}\"/>", series.colour % 10, path),
    }
}

fn axes(y: &Scale, x: &Across) -> Html {
    let (left, right, bottom) = (LEFT, WIDTH - RIGHT, HEIGHT - BOTTOM);
    let mut out = Html::default();
    for tick in y.ticks() {
        let (at, text) = (y.place(tick), round_number(tick));
        out.push(html!("<path class=\"grid\" d=\"M{} {:.1}H{}\"/>", left, at, right));
        out.push(html!("<text class=\"y\" x=\"{}\" y=\"{:.1}\">{}</text>", left - 6.0, at + 4.0, text));
    }
    for (tick, text) in &x.ticks {
        let at = x.place(*tick);
        out.push(html!("<path class=\"grid\" d=\"M{:.1} {}v4\"/>", at, bottom));
        out.push(html!("<text class=\"x\" x=\"{:.1}\" y=\"{}\">{}</text>", at, bottom + 17.0, text));
    }
    let middle = (left + right) / 2.0;
    out.push(html!("<text class=\"x\" x=\"{:.1}\" y=\"{}\">{}</text>", middle, HEIGHT - 4.0, x.quantity));
    out
}

/// Maps places to positions across the drawing.
struct Across {
    /// What the places are.
    quantity: String,
    low: f64,
    high: f64,
    /// Marked places, with their texts.
    ticks: Vec<(f64, String)>,
}

impl Across {
    fn epochs(last: usize) -> Self {
        let ticks = epoch_ticks(last).into_iter().map(|epoch| (epoch as f64, epoch.to_string())).collect();
        Self { quantity: "epoch".to_owned(), low: 1.0, high: last as f64, ticks }
    }

    fn fit(quantity: &str, series: &[Series]) -> Self {
        let places = series.iter().flat_map(Series::places);
        let (low, high) = places.fold((f64::INFINITY, f64::NEG_INFINITY), |(l, h), at| (l.min(at), h.max(at)));
        let ticks = round_ticks(low, high, 4.0).into_iter().map(|tick| (tick, round_number(tick))).collect();
        // Half of the last text is to the right of its tick.
        Self { quantity: quantity.to_owned(), low, high: high + (high - low) * 0.04, ticks }
    }

    fn place(&self, place: f64) -> f64 {
        let share = if self.high > self.low { (place - self.low) / (self.high - self.low) } else { 0.5 };
        LEFT + share * (WIDTH - LEFT - RIGHT)
    }
}

/// Epoch 1, the last, and round ones between.
fn epoch_ticks(epochs: usize) -> Vec<usize> {
    let step = nice_step(epochs as f64 / 5.0).max(1.0) as usize;
    let between = (step..epochs).step_by(step).filter(|e| *e > 1 && epochs - e >= step.div_ceil(2));
    let mut ticks: Vec<usize> = [1].into_iter().chain(between).chain([epochs]).collect();
    ticks.dedup();
    ticks
}

/// The smallest of 1, 2, 5 × 10ᵏ that is at least `least`.
fn nice_step(least: f64) -> f64 {
    let power = libm::pow(10.0, libm::floor(libm::log10(least)));
    [1.0, 2.0, 5.0, 10.0].map(|m| m * power).into_iter().find(|s| *s >= least * (1.0 - 1e-9)).unwrap_or(10.0 * power)
}

/// Maps values to heights.
struct Scale {
    log: bool,
    /// The lower end of the axis; a logarithm if `log`, as is `high`.
    low: f64,
    high: f64,
}

impl Scale {
    fn fit(low: f64, high: f64) -> Self {
        if low > 0.0 && high / low >= LOG_RATIO {
            let (low, high) = (libm::log10(low), libm::log10(high));
            let margin = (high - low) * 0.04;
            return Self { log: true, low: low - margin, high: high + margin };
        }
        let low = if low > 0.0 && low < high * 0.5 { 0.0 } else { low };
        // A flat line lies in the middle.
        let margin = if high > low { (high - low) * 0.05 } else { (high.abs() * 0.1).max(1e-6) };
        let bottom = if low == 0.0 && high > 0.0 { 0.0 } else { low - margin };
        Self { log: false, low: bottom, high: high + margin }
    }

    fn place(&self, value: f64) -> f64 {
        let value = if self.log { libm::log10(value) } else { value };
        let share = (value - self.low) / (self.high - self.low);
        HEIGHT - BOTTOM - share * (HEIGHT - BOTTOM - TOP)
    }

    fn ticks(&self) -> Vec<f64> {
        if !self.log {
            return round_ticks(self.low, self.high, 5.0);
        }
        let decades = self.high - self.low;
        let steps: &[f64] = match decades {
            d if d < 1.5 => &[1.0, 2.0, 3.0, 5.0],
            d if d < 4.0 => &[1.0, 3.0],
            _ => &[1.0],
        };
        let powers = libm::floor(self.low) as i32..=libm::ceil(self.high) as i32;
        let all = powers.flat_map(|p| steps.iter().map(move |s| times_power(*s, p)));
        all.filter(|v| (self.low..=self.high).contains(&libm::log10(*v))).collect()
    }
}

/// Round places between two others, about `count` of them.
fn round_ticks(low: f64, high: f64, count: f64) -> Vec<f64> {
    let step = nice_step((high - low) / count);
    let first = libm::ceil(low / step - 1e-9) as i64;
    let last = libm::floor(high / step + 1e-9) as i64;
    (first..=last).take(20).map(|i| round_to_step(i, step)).collect()
}

/// `i · step`, without the noise that the product would have: 0.3, not 0.30000000000000004.
fn round_to_step(i: i64, step: f64) -> f64 {
    let digits = (-libm::floor(libm::log10(step))).max(0.0) as usize;
    format!("{:.*}", digits, i as f64 * step).parse().unwrap_or(i as f64 * step)
}

fn times_power(digit: f64, power: i32) -> f64 {
    format!("{digit}e{power}").parse().unwrap_or(digit)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_loss_that_falls_far_is_drawn_on_a_log_scale() {
        let falling = Scale::fit(0.06, 0.9);
        assert!(falling.log);
        assert_eq!(falling.ticks(), [0.1, 0.2, 0.3, 0.5, 1.0]);
        let flat = Scale::fit(17.0, 24.0);
        assert!(!flat.log);
        assert_eq!(flat.ticks(), [18.0, 20.0, 22.0, 24.0]);
    }

    #[test]
    fn epochs_are_marked_at_round_numbers_and_both_ends() {
        assert_eq!(epoch_ticks(1), [1]);
        assert_eq!(epoch_ticks(2), [1, 2]);
        assert_eq!(epoch_ticks(100), [1, 20, 40, 60, 80, 100]);
        assert_eq!(epoch_ticks(7), [1, 2, 4, 6, 7]);
    }

    #[test]
    fn chart_without_values_is_empty() {
        assert_eq!(&*lines("loss", &[]), "");
        assert_eq!(&*lines("loss", &[Series::single("a".into(), 0, vec![f64::NAN])]), "");
    }

    #[test]
    fn line_connects_the_epochs_in_which_a_metric_was_logged() {
        let gap = f64::from_bits(NOT_LOGGED);
        let every_second = vec![gap, 0.5, gap, 0.4, gap];
        let path = |series: Series| {
            let chart = lines("accuracy", &[series]);
            let line = chart.split("<path class=\"s0 d0").nth(1).unwrap();
            line.split(" d=\"").nth(1).unwrap().split('"').next().unwrap().to_owned()
        };
        // Without a line, nothing would be drawn.
        assert_eq!(path(Series::single("a".into(), 0, every_second.clone())).matches('L').count(), 0);
        let series = Series::logged("a".into(), 0, &[], vec![every_second]);
        assert_eq!((&*series.at, &*series.values), (&[2.0, 4.0][..], &[0.5, 0.4][..]));
        assert_eq!(path(series).matches('L').count(), 1);
        let all = Series::logged("a".into(), 0, &[], vec![vec![1.0, f64::NAN, 3.0]]);
        assert!(all.at.is_empty() && all.values.len() == 3, "a NaN that was logged stays a gap");
    }

    #[test]
    fn quantity_across_has_round_ticks() {
        let series = Series { at: vec![0.0, 250.0, 1000.0], ..Series::single("a".into(), 0, vec![3.0, 2.0, 1.0]) };
        let chart = lines_over("loss", "step", &[series]);
        assert!(chart.contains(">step</text>") && chart.contains(">500</text>"), "{chart:?}");
        assert!(chart.contains("d=\"M44.0 ") && chart.contains("L114.7 ") && chart.contains("L326.7 "), "{chart:?}");
    }

    #[test]
    fn names_are_escaped() {
        let chart = lines("a<b", &[Series::single("<script>".into(), 0, vec![1.0])]);
        assert!(!chart.contains("<script>") && chart.contains("a&lt;b"), "{chart:?}");
    }

    proptest! {
        #[test]
        fn every_line_stays_in_the_drawing(values in prop::collection::vec(-1e6f64..1e6, 1..900)) {
            let chart = lines("x", &[Series::single("a".into(), 0, values.clone())]);
            let path = chart.split(" d=\"M").nth(1).unwrap();
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
