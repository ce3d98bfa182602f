//! The two scales of a chart: places across, and heights.

use super::html::round_number;

/// The drawing area, in the SVG's own units.
pub(super) const WIDTH: f64 = 480.0;
pub(super) const HEIGHT: f64 = 280.0;
pub(super) const LEFT: f64 = 62.0;
pub(super) const RIGHT: f64 = 14.0;
pub(super) const TOP: f64 = 10.0;
pub(super) const BOTTOM: f64 = 42.0;
/// From this ratio of the largest to the smallest value on, the scale is logarithmic.
const LOG_RATIO: f64 = 4.0;
/// From this ratio of the largest to the smallest value of an axis on, its scale is logarithmic.
const LOG_RATIO_ACROSS: f64 = 30.0;
/// Characters of a tick below the drawing.
const LONGEST: usize = 14;

/// Maps places to positions across the drawing.
pub(super) struct Across {
    /// What the places are.
    pub(super) quantity: String,
    /// The ends; logarithms if `log`.
    pub(super) low: f64,
    pub(super) high: f64,
    pub(super) log: bool,
    /// Marked places, with their texts.
    pub(super) ticks: Vec<(f64, String)>,
    /// Whether the places are the values of an axis, at even distances, and not numbers.
    pub(super) steps: bool,
}

impl Across {
    pub(super) fn epochs(last: usize) -> Self {
        let ticks = epoch_ticks(last).into_iter().map(|epoch| (epoch as f64, epoch.to_string())).collect();
        Self { quantity: "epoch".to_owned(), low: 1.0, high: last as f64, log: false, ticks, steps: false }
    }

    pub(super) fn fit(quantity: &str, places: impl Iterator<Item = f64>) -> Self {
        let (low, high) = ends(places);
        let ticks = round_ticks(low, high, 4.0).into_iter().map(|tick| (tick, round_number(tick))).collect();
        // Half of the last text is to the right of its tick.
        let high = high + (high - low) * 0.04;
        Self { quantity: quantity.to_owned(), low, high, log: false, ticks, steps: false }
    }

    /// The values of an axis at even distances: 0, 1, 2, …
    pub(super) fn steps(quantity: &str, values: &[String]) -> Self {
        let text = |value: &String| super::html::shortened(value, LONGEST);
        let ticks = values.iter().enumerate().map(|(at, value)| (at as f64, text(value))).collect();
        // Half of a step on both sides, so that dots and texts are inside.
        let high = values.len() as f64 - 0.5;
        Self { quantity: quantity.to_owned(), low: -0.5, high, log: false, ticks, steps: true }
    }

    /// Many numbers of an axis, to scale.
    pub(super) fn numbers(quantity: &str, places: impl Iterator<Item = f64>) -> Self {
        let (low, high) = ends(places);
        if low <= 0.0 || high / low < LOG_RATIO_ACROSS {
            let margin = (high - low) * 0.03;
            return Self { low: low - margin, ..Self::fit(quantity, [low, high].into_iter()) };
        }
        let (bottom, top) = (libm::log10(low), libm::log10(high));
        let margin = (top - bottom) * 0.03;
        let ticks = log_ticks(bottom - 1e-9, top + 1e-9).into_iter().map(|tick| (tick, round_number(tick))).collect();
        let (low, high) = (bottom - margin, top + margin);
        Self { quantity: quantity.to_owned(), low, high, log: true, ticks, steps: false }
    }

    pub(super) fn place(&self, place: f64) -> f64 {
        let place = if self.log { libm::log10(place) } else { place };
        let share = if self.high > self.low { (place - self.low) / (self.high - self.low) } else { 0.5 };
        LEFT + share * (WIDTH - LEFT - RIGHT)
    }
}

fn ends(values: impl Iterator<Item = f64>) -> (f64, f64) {
    values.fold((f64::INFINITY, f64::NEG_INFINITY), |(l, h), at| (l.min(at), h.max(at)))
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
pub(super) struct Scale {
    pub(super) log: bool,
    /// The lower end of the axis; a logarithm if `log`, as is `high`.
    pub(super) low: f64,
    pub(super) high: f64,
}

impl Scale {
    pub(super) fn fit(low: f64, high: f64) -> Self {
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

    pub(super) fn place(&self, value: f64) -> f64 {
        let value = if self.log { libm::log10(value) } else { value };
        let share = (value - self.low) / (self.high - self.low);
        HEIGHT - BOTTOM - share * (HEIGHT - BOTTOM - TOP)
    }

    pub(super) fn ticks(&self) -> Vec<f64> {
        if !self.log {
            return round_ticks(self.low, self.high, 5.0);
        }
        log_ticks(self.low, self.high)
    }
}

/// Round numbers between two others, which are given as logarithms.
fn log_ticks(low: f64, high: f64) -> Vec<f64> {
    let steps: &[f64] = match high - low {
        d if d < 1.5 => &[1.0, 2.0, 3.0, 5.0],
        d if d < 4.0 => &[1.0, 3.0],
        _ => &[1.0],
    };
    let powers = libm::floor(low) as i32..=libm::ceil(high) as i32;
    let all = powers.flat_map(|p| steps.iter().map(move |s| times_power(*s, p)));
    all.filter(|v| (low..=high).contains(&libm::log10(*v))).collect()
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
    fn learning_rates_are_on_a_log_scale_and_sizes_on_a_linear_one() {
        let rates = Across::numbers("lr", [1e-4, 1e-2, 0.1].into_iter());
        assert!(rates.log && rates.ticks.iter().any(|(_, text)| text == "0.001"), "{:?}", rates.ticks);
        assert!(!Across::numbers("d", [8.0, 16.0, 32.0].into_iter()).log);
    }
}
