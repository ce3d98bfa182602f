//! The values of an axis: a list, a range or samples.
//!
//! | written | values |
//! |---|---|
//! | `[a, b, c]` | a, b and c (see `listed`) |
//! | `{ from = a, to = b, steps = n }` | n at equal distances, including both ends |
//! | `{ from = a, to = b, steps = n, scale = "log" }` | n at equal ratios, including both ends, which must be above 0 |
//! | `{ uniform = [a, b], samples = n, seed = s }` | n drawn uniformly between a and b |
//! | `{ log_uniform = [a, b], samples = n, seed = s }` | n whose logarithm is drawn uniformly |
//! | `{ choice = [a, b, c], samples = n, seed = s }` | n drawn from a, b and c |
//!
//! Draws have no state: draw i of an axis depends only on the stream (seed, "axis NAME", i). Raising `samples`
//! therefore keeps the first values, and other axes do not change them. A value that is drawn twice counts once, and
//! a warning says so. Sampled axes multiply like all others, unless they share a `together = "…"`. Then draw i of each
//! of them forms one combination, as in a random search.
//!
//! Values appear in point names, which users type as targets. Computed values are therefore rounded to short decimals.
//! On a logarithmic scale they get five significant digits. On a linear scale they get as many decimals as five
//! significant digits of the distance between two steps need (for samples: of the width of the interval). The ends of a
//! range stay as written. The rounded number is the value itself, so the name, the parameter and the key agree.
//!
//! Integers: a range between integers gives integers if all its values are whole (`{ from = 8, to = 64, steps = 4,
//! scale = "log" }` gives 8, 16, 32, 64), and floats otherwise. With `integer = true` all values are integers, and the
//! ends must be whole. A range is then rounded. With `uniform`, each integer from a to b has the same probability. With
//! `log_uniform`, the integer n has the probability of [n, n + 1).

use std::collections::BTreeMap;

use super::axis::{Asked, Axis, AxisValue, MAX_POINTS, Together};
use super::listed::list;
use crate::diagnostic::{Diagnostics, Origin};
use crate::rng::Streams;
use crate::stage::{Bound, Params};
use crate::value::{Data, Node, Table};

/// The largest magnitude of an end. Differences and ratios of larger numbers overflow.
const FAR: f64 = 1e300;
/// The number of digits of a computed value.
const DIGITS: i32 = 5;

/// The values of an axis, as read.
#[derive(Debug, Default)]
pub(super) struct Values {
    /// The values without duplicates, in the order in which they are written or first drawn.
    pub(super) values: Vec<AxisValue>,
    /// Set for samples that are drawn together with those of other axes.
    pub(super) together: Option<Together>,
    /// Set for ranges and samples.
    pub(super) asked: Option<Asked>,
}

/// Reads the values of an axis.
pub(super) fn values(name: &str, node: &Node, diagnostics: &mut Diagnostics) -> Values {
    match &node.data {
        Data::List(items) => Values { values: list(name, items, &node.origin, diagnostics), ..Values::default() },
        Data::Table(table) => Values { asked: asked(table), ..computed(name, table, &node.origin, diagnostics) },
        other => {
            let message = format!("axis `{name}` must be a list of values, not {}", other.describe());
            diagnostics.error(&node.origin, message).help(format!("{name} = [value, value]"));
            Values::default()
        }
    }
}

fn asked(table: &Table) -> Option<Asked> {
    let number = |field| match table.get(field)? {
        Node { data: Data::Int(count), origin } => {
            Some(Asked { count: usize::try_from(*count).ok()?, field, origin: origin.clone() })
        }
        _ => None,
    };
    ["steps", "samples"].into_iter().find_map(number)
}

/// An axis whose values are computed.
struct Reading<'a, 'b> {
    name: &'a str,
    params: Params<'b>,
}

fn computed(name: &str, table: &Table, place: &Origin, diagnostics: &mut Diagnostics) -> Values {
    let before = diagnostics.0.len();
    let mut reading = Reading { name, params: Params::new(table, place.clone(), &[], diagnostics) };
    let given = |field: &str| table.get(field).is_some();
    let drawn = if given("from") || given("to") {
        let values = reading.range(table);
        reading.params.finish();
        return Values { values: numbers(values, place).0, ..Values::default() };
    } else if let Some(choice) = reading.params.node("choice") {
        let draws = reading.draws();
        let together = reading.together();
        reading.params.finish();
        let Data::List(items) = &choice.data else {
            let message = format!("`choice` must be a list of values, not {}", choice.data.describe());
            diagnostics.error(&choice.origin, message).help("choice = [value, value]");
            return Values::default();
        };
        let of = list(name, items, &choice.origin, diagnostics);
        if diagnostics.0.len() > before {
            return Values::default();
        }
        let count = of.len() as u64;
        let picks = (0..draws.count).map(|i| draws.stream(i).below(count) as usize).collect();
        (chosen(&of, picks), together)
    } else {
        let numbers = reading.samples();
        let together = reading.together();
        reading.params.finish();
        (self::numbers(numbers, place), together)
    };
    let ((values, draws), together) = drawn;
    let together = together.map(|(name, origin)| Together { name, origin, draws });
    Values { values, together, asked: None }
}

/// The stream of each draw of an axis.
struct Draws {
    streams: Streams,
    purpose: String,
    count: u64,
}

impl Draws {
    fn stream(&self, draw: u64) -> crate::rng::Stream {
        self.streams.stream(&self.purpose, 0, draw)
    }

    /// A uniform number in [0, 1).
    fn share(&self, draw: u64) -> f64 {
        const STEPS: u64 = 1 << f64::MANTISSA_DIGITS;
        self.stream(draw).below(STEPS) as f64 / STEPS as f64
    }
}

impl Reading<'_, '_> {
    fn draws(&mut self) -> Draws {
        let count = self.params.int("samples", 1, 1..=MAX_POINTS as i64) as u64;
        let seed = self.params.int("seed", 0, i64::MIN..=i64::MAX);
        if !self.params.is_given("samples") {
            let message = format!("axis `{}` has no `samples`", self.name);
            self.params.error("samples", message, "set the number of values to draw: samples = 20");
        }
        Draws { streams: Streams::new(seed), purpose: format!("axis {}", self.name), count }
    }

    fn together(&mut self) -> Option<(String, Origin)> {
        Some((self.params.text("together")?, self.params.node("together")?.origin))
    }

    /// The values of a range. Empty after an error.
    fn range(&mut self, table: &Table) -> Vec<Data> {
        const SCALES: &[(&str, bool)] = &[("linear", false), ("log", true)];
        let bound = Bound::Between(-FAR, FAR);
        let ends = ["from", "to"].map(|end| self.params.float(end, f64::NAN, bound));
        let steps = self.params.int("steps", 0, 2..=MAX_POINTS as i64);
        let log = self.params.choice("scale", "linear", SCALES);
        let integer = self.params.bool("integer", false);
        for field in ["from", "to", "steps"] {
            if !self.params.is_given(field) {
                let message = format!("axis `{}` has no `{field}`", self.name);
                self.params.error(field, message, "a range is { from = a, to = b, steps = n }");
            }
        }
        if !self.ends_are_fine(["from", "to"], ends, log) || steps < 2 {
            return vec![];
        }
        if let (true, Some(end)) = (integer, (0..2).find(|i| whole(ends[*i]).is_none())) {
            let message = "with `integer`, both ends of a range must be whole numbers";
            self.params.error(["from", "to"][end], message, "{ from = 1, to = 10, steps = 4, integer = true }");
            return vec![];
        }
        let values = (0..steps).map(|i| between(ends, i, steps - 1, log));
        let written = |end: &str| matches!(table.get(end), Some(Node { data: Data::Int(_), .. }));
        let all_whole: Option<Vec<i64>> = values.clone().map(whole).collect();
        match all_whole.filter(|_| written("from") && written("to")) {
            Some(integers) => integers.into_iter().map(Data::Int).collect(),
            None if integer => values.map(|v| Data::Int(v.round() as i64)).collect(),
            None => {
                let step = (ends[1] - ends[0]).abs() / (steps - 1) as f64;
                let inner = |(i, v): (i64, f64)| match i {
                    0 => ends[0],
                    i if i == steps - 1 => ends[1],
                    _ => short(v, if log { v } else { step }),
                };
                (0..steps).zip(values).map(inner).map(Data::Float).collect()
            }
        }
    }

    /// The values of `uniform` or `log_uniform`. Empty after an error.
    fn samples(&mut self) -> Vec<Data> {
        let forms = [("uniform", false), ("log_uniform", true)];
        let Some((form, log)) = forms.into_iter().find(|(form, _)| self.params.is_given(form)) else {
            let message = format!("axis `{}` is neither a range nor samples", self.name);
            let place = self.params.place().clone();
            let help = "write [a, b, c], { from = a, to = b, steps = n }, or { uniform = [a, b], samples = n } \
                        (or log_uniform, or choice)";
            // Marks these fields as known, so that each is not reported again.
            ["from", "to", "steps", "scale", "integer", "samples", "seed", "together"].into_iter().for_each(|field| {
                self.params.node(field);
            });
            self.params.error_at(&place, message, help);
            return vec![];
        };
        let draws = self.draws();
        let integer = self.params.bool("integer", false);
        let Some([low, high]) = self.interval(form) else { return vec![] };
        if !self.ends_are_fine([form, form], [low, high], log) {
            return vec![];
        }
        if integer {
            let (Some(first), Some(last)) = (whole(low), whole(high)) else {
                let message = format!("with `integer`, the ends of `{form}` must be whole numbers");
                self.params.error(form, message, format!("{form} = [1, 10]"));
                return vec![];
            };
            let count = (last - first) as u64 + 1;
            let draw = |i| match log {
                false => first + draws.stream(i).below(count) as i64,
                true => (at([low, high + 1.0], draws.share(i), true).floor() as i64).clamp(first, last),
            };
            return (0..draws.count).map(draw).map(Data::Int).collect();
        }
        let draw = |i| {
            let v = at([low, high], draws.share(i), log);
            short(v, if log { v } else { high - low }).clamp(low, high)
        };
        (0..draws.count).map(draw).map(Data::Float).collect()
    }

    fn interval(&mut self, form: &'static str) -> Option<[f64; 2]> {
        let node = self.params.node(form)?;
        let number = |n: &Node| match n.data {
            Data::Int(v) => Some(v as f64),
            Data::Float(v) => Some(v),
            _ => None,
        };
        if let Data::List(ends) = &node.data
            && let [low, high] = ends.as_slice()
            && let (Some(low), Some(high)) = (number(low), number(high))
            && low < high
            && low.abs().max(high.abs()) <= FAR
        {
            return Some([low, high]);
        }
        let help = format!("{form} = [1e-4, 1e-2]");
        self.params.error(form, format!("`{form}` must be two numbers, the smaller one first"), help);
        None
    }

    /// Checks that two ends differ, suit the scale and are finite. An end that is not a number was reported before.
    fn ends_are_fine(&mut self, fields: [&str; 2], ends: [f64; 2], log: bool) -> bool {
        if ends[0] == ends[1] {
            self.params.error(fields[0], "both ends are the same", "for a single value, write a list: [value]");
        } else if log && let Some(end) = ends.iter().position(|e| *e <= 0.0) {
            let help = "start at a small number, such as 1e-4";
            self.params.error(fields[end], "a logarithmic scale needs ends above 0", help);
        } else {
            return ends.iter().all(|e| e.is_finite());
        }
        false
    }
}

/// The value after step `i` of `n` from one end to the other.
fn between(ends: [f64; 2], i: i64, n: i64, log: bool) -> f64 {
    match i {
        0 => ends[0],
        i if i == n => ends[1],
        _ => at(ends, i as f64 / n as f64, log),
    }
}

/// The number at this fraction of the way.
fn at([from, to]: [f64; 2], share: f64, log: bool) -> f64 {
    match log {
        false => from + (to - from) * share,
        true => libm::exp(libm::log(from) + (libm::log(to) - libm::log(from)) * share),
    }
}

/// This number as an integer, if it is one apart from rounding errors.
fn whole(v: f64) -> Option<i64> {
    // A float can't represent every integer above this.
    const MOST: f64 = 9e15;
    let near = v.round();
    ((v - near).abs() <= 1e-9 * v.abs().max(1.0) && near.abs() < MOST).then_some(near as i64)
}

/// Rounds to [`DIGITS`] significant digits of `scale`, but not to the left of the decimal point.
fn short(v: f64, scale: f64) -> f64 {
    // Formatting gives the exact exponent. A logarithm would not.
    let exponent = |v: f64| format!("{v:e}").rsplit('e').next().and_then(|e| e.parse::<i32>().ok()).unwrap_or(0);
    let places = (DIGITS - 1 - exponent(scale)).max(0) as usize;
    // Adding zero turns `-0.0` into `0.0`.
    format!("{v:.places$}").parse().unwrap_or(v) + 0.0
}

/// The distinct values of these numbers, and for each number the index of its value.
fn numbers(data: Vec<Data>, place: &Origin) -> (Vec<AxisValue>, Vec<u32>) {
    let of: Vec<AxisValue> = data
        .into_iter()
        .map(|data| {
            let text = data.as_text().unwrap_or_default();
            AxisValue { text, name: None, node: Node { data, origin: place.clone() } }
        })
        .collect();
    let all = (0..of.len()).collect();
    chosen(&of, all)
}

/// The distinct values among the picks, in the order of the first pick, and for each pick the index of its value.
fn chosen(of: &[AxisValue], picks: Vec<usize>) -> (Vec<AxisValue>, Vec<u32>) {
    let mut places: BTreeMap<&str, u32> = BTreeMap::new();
    let mut values = Vec::new();
    let indices = picks.into_iter().filter_map(|pick| {
        let value = of.get(pick)?;
        Some(*places.entry(&value.text).or_insert_with(|| {
            values.push(value.clone());
            values.len() as u32 - 1
        }))
    });
    let indices = indices.collect();
    (values, indices)
}

/// Reports axes that are drawn together but have different numbers of samples.
pub(super) fn check_together(axes: &[Axis], diagnostics: &mut Diagnostics) {
    let mut first: BTreeMap<&str, &Axis> = BTreeMap::new();
    for axis in axes {
        let Some(together) = &axis.together else { continue };
        let other = *first.entry(&together.name).or_insert(axis);
        let (here, there) = (together.draws.len(), other.together.as_ref().map_or(0, |t| t.draws.len()));
        if here != there && here > 0 && there > 0 {
            let message = format!("axis `{}` has {here} samples, `{}` has {there}", axis.name, other.name);
            diagnostics
                .error(&together.origin, message)
                .help("axes that are drawn together need the same number of samples");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn computed_values_are_short() {
        assert_eq!(short(0.000_316_227_766, 0.000_316_227_766), 0.000_316_23);
        assert_eq!(short(0.300_000_000_000_000_04, 0.1), 0.3);
        assert_eq!(short(1_166.666_666, 166.67), 1_166.67);
        assert_eq!(short(123_456_789.4, 1e7), 123_456_789.0);
        assert_eq!(short(-1e-9, 1.0).to_string(), "0");
    }

    proptest! {
        #[test]
        fn short_value_is_near_and_parses_to_itself(v in -1e12f64..1e12, scale in 1e-6f64..1e6) {
            let rounded = short(v, scale);
            prop_assert!((rounded - v).abs() <= scale.max(1.0) * 0.5 && (rounded - v).abs() <= 0.5f64.max(scale * 1e-4));
            prop_assert_eq!(format!("{rounded:?}").parse::<f64>().unwrap(), rounded);
            prop_assert_eq!(short(rounded, scale), rounded);
        }

        #[test]
        fn interpolated_value_is_between_ends(a in 1e-9f64..1e9, b in 1e-9f64..1e9, share in 0.0f64..1.0, log: bool) {
            let v = at([a, b], share, log);
            prop_assert!(v >= a.min(b) * (1.0 - 1e-9) && v <= a.max(b) * (1.0 + 1e-9));
        }
    }
}
