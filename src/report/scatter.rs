//! Scatter plots as inline SVG: one path per class, so that ten thousand points stay light and need no script.
//!
//! A point is `M x y h0`, a line of no length whose round ends make the dot. Both axes have one scale and no ticks:
//! neighbours mean something in an embedding, coordinates don't. The attribute `data-classes` has the class of each
//! point in the order of the data set, so that the script finds the image of a point.

use super::html::{Html, html};

const SIZE: f64 = 1000.0;
const MARGIN: f64 = 24.0;

/// One point and its class.
pub(super) struct Point {
    pub(super) x: f64,
    pub(super) y: f64,
    pub(super) class: usize,
}

/// The plot of these points; those that are not finite are left out.
///
/// `split` is the part of the data set that they are.
pub(super) fn plot(label: &str, split: &str, points: &[Point], classes: &[String]) -> Html {
    let order =
        points.iter().map(|p| if p.x.is_finite() && p.y.is_finite() { p.class.to_string() } else { String::new() });
    let order = order.collect::<Vec<_>>().join(" ");
    let points: Vec<&Point> = points.iter().filter(|p| p.x.is_finite() && p.y.is_finite()).collect();
    let range = |of: fn(&Point) -> f64| {
        let values = points.iter().map(|p| of(p));
        values.fold((f64::INFINITY, f64::NEG_INFINITY), |(l, h), v| (l.min(v), h.max(v)))
    };
    let ((left, right), (low, high)) = (range(|p| p.x), range(|p| p.y));
    let extent = (right - left).max(high - low);
    let scale = if extent > 0.0 { (SIZE - 2.0 * MARGIN) / extent } else { 1.0 };
    // The shorter axis is centred.
    let place = |v: f64, from: f64, to: f64| SIZE / 2.0 + (v - (from + to) / 2.0) * scale;
    let dot = if points.is_empty() { 1.0 } else { (360.0 / (points.len() as f64).sqrt()).clamp(5.0, 16.0) };
    let mut out = html!(
        "<svg class=\"scatter\" viewBox=\"0 0 {0} {0}\" role=\"img\" aria-label=\"{1}\" stroke-width=\"{2:.1}\" \
         data-split=\"{3}\" data-classes=\"{4}\">",
        SIZE,
        label,
        dot,
        split,
        order
    );
    let most = points.iter().map(|p| p.class).max().map_or(0, |c| c + 1);
    for class in 0..most {
        let mut path = String::new();
        for p in points.iter().filter(|p| p.class == class) {
            // Up is up: SVG's y grows downwards.
            path.push_str(&format!("M{:.0} {:.0}h0", place(p.x, left, right), SIZE - place(p.y, low, high)));
        }
        if !path.is_empty() {
            let name = class_name(classes, class);
            out.push(html!("<path class=\"c{}\" data-k=\"{}\" d=\"{}\">", class % 10, class, path));
            out.push(html!("<title>{}</title></path>", name));
        }
    }
    out.push(Html::constant("</svg>"));
    out
}

/// The legend of classes, which the script makes clickable.
pub(super) fn legend(classes: &[String], count: usize) -> Html {
    let item = |class: usize| {
        html!(
            "<li data-k=\"{}\"><svg viewBox=\"0 0 8 8\" aria-hidden=\"true\"><path class=\"c{}\" d=\"M4 4h0\"/></svg>{}</li>",
            class,
            class % 10,
            class_name(classes, class)
        )
    };
    html!("<ul class=\"legend classes\">{}</ul>", (0..count).map(item).collect::<Html>())
}

fn class_name(classes: &[String], class: usize) -> String {
    classes.get(class).cloned().unwrap_or_else(|| format!("class {class}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_scale_for_both_axes_and_up_is_up() {
        let at = |x, y, class| Point { x, y, class };
        let classes = ["flat".to_owned(), "tall".to_owned()];
        let plot = plot("p", "", &[at(0.0, 0.0, 0), at(4.0, 0.0, 0), at(2.0, 1.0, 1), at(f64::NAN, 0.0, 1)], &classes);
        assert!(plot.contains("d=\"M24 619h0M976 619h0\"><title>flat"), "{plot:?}");
        assert!(plot.contains("d=\"M500 381h0\"><title>tall"), "{plot:?}");
    }

    #[test]
    fn plot_of_ten_thousand_points_is_small() {
        let points: Vec<Point> = (0..10_000)
            .map(|i| Point { x: f64::from(i % 100), y: f64::from(i / 100), class: i as usize % 10 })
            .collect();
        assert!(plot("p", "", &points, &[]).len() < 150_000);
    }

    #[test]
    fn a_single_point_and_none_are_drawn_too() {
        assert!(plot("p", "", &[Point { x: 3.0, y: 3.0, class: 2 }], &[]).contains("M500 500h0\"><title>class 2"));
        assert!(!plot("p", "", &[], &[]).contains("NaN"));
    }
}
