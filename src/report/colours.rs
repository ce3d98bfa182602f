//! The colour of each point. A value of an axis has the same colour in all figures of a page.
//!
//! The values of an axis of numbers have the colours of viridis in their order, which colour-blind readers see as light
//! and dark. Other values have one of ten colours of Petroff's palette. Stages without axes are drawn in ink. The
//! stylesheet has a class for each colour.

use super::step::{Step, coordinates};
use crate::id::PointName;

/// Colours of the palette.
const PALETTE: usize = 10;
/// Steps of viridis.
pub(super) const RAMP: usize = 10;
/// An axis with at least this many numbers is a ramp.
const FEWEST_OF_RAMP: usize = 3;
/// With more values than this, the key of a chart is a ramp and not a list.
const MOST_IN_KEY: usize = 10;
/// Dash patterns, including the solid line.
const DASHES: usize = 3;

/// The axes of a page, most frequent first.
#[derive(Debug, Default)]
pub(super) struct Colours {
    axes: Vec<Axis>,
}

#[derive(Debug)]
struct Axis {
    name: String,
    values: Vec<Step>,
    /// The number of points that have this axis.
    points: usize,
}

/// How a line is drawn: the class of its colour, and the number of its dash pattern.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Style {
    pub(super) colour: String,
    pub(super) dash: usize,
}

/// The styles of the lines of a chart, and what they mean.
#[derive(Clone, Debug, Default)]
pub(super) struct Painting {
    /// One for each line.
    pub(super) styles: Vec<Style>,
    pub(super) key: Key,
}

/// The key of a chart.
#[derive(Clone, Debug, Default)]
pub(super) struct Key {
    /// The axis whose values have colours.
    pub(super) axis: Option<String>,
    /// The lowest and the highest value of the axis, if the key is a ramp.
    pub(super) ramp: Option<[String; 2]>,
    pub(super) entries: Vec<Entry>,
}

/// An entry of a key: some lines that have the same style.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) style: Style,
    pub(super) label: String,
    /// The numbers of the lines.
    pub(super) lines: Vec<usize>,
}

impl Style {
    /// The classes of a line.
    pub(super) fn class(&self) -> String {
        format!("{} d{}", self.colour, self.dash)
    }

    /// The n-th colour of the palette, first solid, then in two dash patterns.
    fn nth(index: usize) -> Self {
        Self { colour: format!("c{}", index % PALETTE), dash: index / PALETTE % DASHES }
    }

    /// The n-th style of stages that have no axis.
    fn ink(index: usize) -> Self {
        Self { colour: format!("n{}", index % 3), dash: index / 3 % DASHES }
    }
}

/// The class of a colour of the ramp for a share from 0 to 1.
pub(super) fn ramp_class(share: f64) -> String {
    format!("v{}", libm::floor(share * RAMP as f64).clamp(0.0, RAMP as f64 - 1.0) as usize)
}

impl Painting {
    /// A colour of its own for each of these lines.
    pub(super) fn plain(names: &[String]) -> Self {
        let styles: Vec<Style> = (0..names.len()).map(Style::nth).collect();
        let entry =
            |(at, label): (usize, &String)| Entry { style: Style::nth(at), label: label.clone(), lines: vec![at] };
        let entries = names.iter().enumerate().map(entry).collect();
        Self { styles, key: Key { entries, ..Key::default() } }
    }
}

impl Colours {
    /// The colours for these points.
    pub(super) fn of<'a>(names: impl Iterator<Item = &'a str>) -> Self {
        let mut axes: Vec<Axis> = Vec::new();
        for (axis, value) in names.flat_map(coordinates) {
            let value = Step::new(value);
            match axes.iter_mut().find(|known| known.name == axis) {
                None => axes.push(Axis { name: axis.to_owned(), values: vec![value], points: 1 }),
                Some(known) => {
                    known.points += 1;
                    if !known.values.contains(&value) {
                        known.values.push(value);
                    }
                }
            }
        }
        axes.retain(|axis| axis.values.len() > 1);
        for axis in axes.iter_mut().filter(|axis| axis.is_numeric()) {
            axis.values.sort_by(Step::order);
        }
        // The first axis of the names stays first among equals.
        axes.sort_by_key(|axis| std::cmp::Reverse(axis.points));
        Self { axes }
    }

    /// The styles of these lines. Their colours are the values of one axis on which the lines differ.
    pub(super) fn paint(&self, names: &[&str]) -> Painting {
        let value = |axis: &Axis, name: &str| axis.place(name);
        let differ = |axis: &&Axis| {
            let mut values: Vec<usize> = names.iter().filter_map(|name| value(axis, name)).collect();
            values.sort_unstable();
            values.dedup();
            values.len() > 1
        };
        let has = |axis: &&Axis| names.iter().any(|name| axis.place(name).is_some());
        match self.axes.iter().find(differ).or_else(|| self.axes.iter().find(has)) {
            Some(axis) => axis.paint(names),
            None if names.len() > 2 => {
                Painting::plain(&names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>())
            }
            None => in_ink(names),
        }
    }
}

/// Lines without axes.
fn in_ink(names: &[&str]) -> Painting {
    let styles: Vec<Style> = (0..names.len()).map(Style::ink).collect();
    let entries = names.iter().zip(&styles).enumerate();
    let entry = |(at, (name, style)): (usize, (&&str, &Style))| Entry {
        style: style.clone(),
        label: (*name).to_owned(),
        lines: vec![at],
    };
    let key = Key { entries: entries.map(entry).collect(), ..Key::default() };
    Painting { styles, key }
}

impl Axis {
    fn is_numeric(&self) -> bool {
        self.values.iter().all(|value| value.number.is_some())
    }

    fn is_ramp(&self) -> bool {
        self.is_numeric() && self.values.len() >= FEWEST_OF_RAMP
    }

    /// The place of a point's value among the values of this axis.
    fn place(&self, name: &str) -> Option<usize> {
        let (_, value) = coordinates(name).into_iter().find(|(axis, _)| *axis == self.name)?;
        self.values.iter().position(|known| known.text == value)
    }

    fn style(&self, place: usize, dash: usize) -> Style {
        match self.is_ramp() {
            true => Style { colour: self.ramp_class(place), dash },
            false => Style { dash: dash.max(place / PALETTE % DASHES), ..Style::nth(place) },
        }
    }

    fn ramp_class(&self, place: usize) -> String {
        let last = self.values.len() - 1;
        format!("v{}", (place * (RAMP - 1) + last / 2) / last)
    }

    fn paint(&self, names: &[&str]) -> Painting {
        let places: Vec<Option<usize>> = names.iter().map(|name| self.place(name)).collect();
        let mut rests: Vec<String> = Vec::new();
        for name in names.iter().zip(&places).filter(|(_, place)| place.is_some()).map(|(name, _)| name) {
            let rest = without(name, &self.name);
            if !rests.contains(&rest) {
                rests.push(rest);
            }
            if rests.len() > DASHES {
                break;
            }
        }
        let is_dashed = (2..=DASHES).contains(&rests.len());
        let mut alone = 0;
        let style = |(name, place): (&&str, &Option<usize>)| match place {
            Some(place) => {
                let rest = || rests.iter().position(|rest| *rest == without(name, &self.name)).unwrap_or(0);
                self.style(*place, if is_dashed { rest() } else { 0 })
            }
            None => {
                alone += 1;
                Style::ink(alone - 1)
            }
        };
        let styles: Vec<Style> = names.iter().zip(&places).map(style).collect();
        let key = self.key(names, &places, &styles, if is_dashed { &rests } else { &[] });
        Painting { styles, key }
    }

    fn key(&self, names: &[&str], places: &[Option<usize>], styles: &[Style], rests: &[String]) -> Key {
        let with = |place: usize| (0..names.len()).filter(|at| places[*at] == Some(place)).collect::<Vec<_>>();
        let mut entries = Vec::new();
        let shown: Vec<usize> = (0..self.values.len()).filter(|place| places.contains(&Some(*place))).collect();
        let ramp = (self.is_ramp() && shown.len() > MOST_IN_KEY)
            .then(|| [shown[0], shown[shown.len() - 1]].map(|place| self.values[place].text.clone()));
        if ramp.is_none() {
            entries.extend(shown.iter().map(|place| Entry {
                style: self.style(*place, 0),
                label: self.values[*place].text.clone(),
                lines: with(*place),
            }));
        }
        for (dash, rest) in rests.iter().enumerate() {
            let is_of = |at: &usize| places[*at].is_some() && without(names[*at], &self.name) == *rest;
            let style = Style { colour: "n1".to_owned(), dash };
            entries.push(Entry { style, label: rest.clone(), lines: (0..names.len()).filter(is_of).collect() });
        }
        let alone = (0..names.len()).filter(|at| places[*at].is_none());
        let entry = |at: usize| Entry { style: styles[at].clone(), label: names[at].to_owned(), lines: vec![at] };
        entries.extend(alone.map(entry));
        Key { axis: Some(self.name.clone()), ramp, entries }
    }
}

/// The name of a point without an axis.
pub(super) fn without(name: &str, axis: &str) -> String {
    let rest = coordinates(name).into_iter().filter(|(other, _)| *other != axis);
    PointName::write(PointName::parse(name).stage, rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn classes(painting: &Painting) -> Vec<String> {
        painting.styles.iter().map(Style::class).collect()
    }

    fn labels(painting: &Painting) -> Vec<&str> {
        painting.key.entries.iter().map(|entry| entry.label.as_str()).collect()
    }

    #[test]
    fn value_has_its_colour_in_every_chart() {
        let all =
            ["fit-ad", "fit-vad@kind=gauss", "fit-vad@kind=exp", "vad@kind=gauss", "vad@kind=exp", "vad@kind=uni"];
        let colours = Colours::of(all.into_iter());
        let training = colours.paint(&["vad@kind=exp", "vad@kind=gauss", "vad@kind=uni"]);
        let fitting = colours.paint(&["fit-ad", "fit-vad@kind=gauss", "fit-vad@kind=exp"]);
        assert_eq!(classes(&training), ["c1 d0", "c0 d0", "c2 d0"]);
        assert_eq!(classes(&fitting), ["n0 d0", "c0 d0", "c1 d0"]);
        assert_eq!(labels(&fitting), ["gauss", "exp", "fit-ad"]);
        // A single line keeps the colour of its value.
        assert_eq!(classes(&colours.paint(&["vad@kind=exp"])), ["c1 d0"]);
    }

    #[test]
    fn numbers_have_a_ramp_in_their_order() {
        let names: Vec<String> = (0..20).map(|i| format!("ad@d={}", 40 - i * 2)).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let painting = Colours::of(names.iter().copied()).paint(&names);
        assert_eq!((painting.styles[0].colour.as_str(), painting.styles[19].colour.as_str()), ("v9", "v0"));
        assert_eq!(painting.key.ramp, Some(["2".to_owned(), "40".to_owned()]));
        assert!(painting.key.entries.is_empty(), "twenty entries would be a list and not a key");
        let few = Colours::of(names[..4].iter().copied()).paint(&names[..4]);
        assert_eq!(labels(&few), ["34", "36", "38", "40"]);
    }

    #[test]
    fn second_axis_is_dashes_if_it_has_few_values() {
        let names = ["ad@lr=1,d=8", "ad@lr=1,d=9", "ad@lr=2,d=8", "ad@lr=2,d=9"];
        let painting = Colours::of(names.into_iter()).paint(&names);
        assert_eq!(classes(&painting), ["c0 d0", "c0 d1", "c1 d0", "c1 d1"]);
        assert_eq!(labels(&painting), ["1", "2", "ad@d=8", "ad@d=9"]);
        assert_eq!(painting.key.entries[1].lines, [2, 3]);
    }

    #[test]
    fn stages_without_axes_are_drawn_in_ink() {
        let names = ["fit", "fit-batch"];
        assert_eq!(classes(&Colours::of(names.into_iter()).paint(&names)), ["n0 d0", "n1 d0"]);
        let many = ["a", "b", "c"];
        assert_eq!(classes(&Colours::of(many.into_iter()).paint(&many)), ["c0 d0", "c1 d0", "c2 d0"]);
    }
}
