//! Heat maps as inline SVG: a metric for each pair of values of two axes.

use super::colours::{RAMP, ramp_class};
use super::html::{Html, html, number, round_number, shortened};
use super::scale::{HEIGHT, RIGHT, TOP, WIDTH};

const LEFT: f64 = 86.0;
const BOTTOM: f64 = 44.0;
/// Characters of a value at the side.
const LONGEST: usize = 10;
/// Figures are written into cells that are at least this wide and high.
const WIDE_ENOUGH: f64 = 40.0;
const HIGH_ENOUGH: f64 = 15.0;

/// What a heat map shows.
pub(super) struct HeatMap<'a> {
    pub(super) title: &'a str,
    pub(super) metric: &'a str,
    /// The axes across and down, with their values.
    pub(super) across: (&'a str, &'a [String]),
    pub(super) down: (&'a str, &'a [String]),
    /// A row for each value of `down`.
    pub(super) cells: &'a [Vec<Option<f64>>],
}

impl HeatMap<'_> {
    pub(super) fn draw(&self) -> Html {
        let (columns, rows) = (self.across.1.len().max(1), self.down.1.len().max(1));
        let width = (WIDTH - RIGHT - LEFT) / columns as f64;
        let height = (HEIGHT - BOTTOM - TOP) / rows as f64;
        let known = || self.cells.iter().flatten().flatten().copied();
        let (low, high) = known().fold((f64::INFINITY, f64::NEG_INFINITY), |(l, h), v| (l.min(v), h.max(v)));
        let share = |v: f64| if high > low { (v - low) / (high - low) } else { 0.5 };
        let label = format!("{}: {} by {} and {}", self.title, self.metric, self.across.0, self.down.0);
        let mut out = html!(
            "<figure class=\"chart\"><figcaption><b>{}</b></figcaption>\n\
             <svg class=\"heat\" viewBox=\"0 0 {} {}\" role=\"img\" aria-label=\"{}\">",
            self.title,
            WIDTH,
            HEIGHT,
            label
        );
        for (row, values) in self.cells.iter().enumerate() {
            for (column, value) in values.iter().enumerate() {
                let Some(value) = value else { continue };
                let (x, y) = (LEFT + column as f64 * width, TOP + row as f64 * height);
                let class = ramp_class(share(*value));
                let here =
                    format!("{} = {}, {} = {}", self.down.0, self.down.1[row], self.across.0, self.across.1[column]);
                out.push(html!(
                    "<rect class=\"{}\" x=\"{:.1}\" y=\"{:.1}\" width=\"{:.1}\" height=\"{:.1}\"><title>{}: {} {}</title></rect>",
                    class,
                    x,
                    y,
                    width - 1.0,
                    height - 1.0,
                    here,
                    self.metric,
                    number(*value)
                ));
                if width >= WIDE_ENOUGH && height >= HIGH_ENOUGH {
                    let (x, y) = (x + width / 2.0, y + height / 2.0 + 4.0);
                    out.push(html!(
                        "<text class=\"on {}\" x=\"{:.1}\" y=\"{:.1}\">{}</text>",
                        class,
                        x,
                        y,
                        number(*value)
                    ));
                }
            }
        }
        out.push(self.axes(width, height));
        html!("{}</svg>\n{}</figure>\n", out, ramp(self.metric, low, high))
    }

    fn axes(&self, width: f64, height: f64) -> Html {
        let bottom = HEIGHT - BOTTOM;
        // Every n-th value, so that the texts don't overlap.
        let every = |count: usize, most: f64| (count as f64 / most).ceil().max(1.0) as usize;
        let mut out = Html::constant("<g class=\"x\">");
        for (at, value) in self.across.1.iter().enumerate().step_by(every(self.across.1.len(), 8.0)) {
            let x = LEFT + (at as f64 + 0.5) * width;
            out.push(html!("<text x=\"{:.1}\" y=\"{}\">{}</text>", x, bottom + 16.0, shortened(value, LONGEST)));
        }
        let middle = (LEFT + WIDTH - RIGHT) / 2.0;
        let name = "<text class=\"quantity\"";
        let name = Html::constant(name);
        out.push(html!("{} x=\"{:.1}\" y=\"{}\">{}</text>", name, middle, HEIGHT - 8.0, self.across.0));
        let middle = (TOP + bottom) / 2.0;
        out.push(html!("{} transform=\"translate(13 {}) rotate(-90)\">{}</text></g>", name, middle, self.down.0));
        out.push(Html::constant("<g class=\"y\">"));
        for (at, value) in self.down.1.iter().enumerate().step_by(every(self.down.1.len(), 14.0)) {
            let y = TOP + (at as f64 + 0.5) * height + 4.0;
            out.push(html!("<text x=\"{}\" y=\"{:.1}\">{}</text>", LEFT - 7.0, y, shortened(value, LONGEST)));
        }
        out.push(Html::constant("</g>"));
        out
    }
}

/// The colours of a metric, from its lowest to its highest value.
pub(super) fn ramp(metric: &str, low: f64, high: f64) -> Html {
    let steps: Html = (0..RAMP).map(|step| html!("<i class=\"v{}\"></i>", step)).collect();
    html!(
        "<p class=\"ramp\"><b>{}</b> <span>{}</span><span class=\"steps\">{}</span><span>{}</span></p>\n",
        metric,
        round_number(low),
        steps,
        round_number(high)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_have_colours_by_value_and_missing_ones_none() {
        let texts = ["<a>", "b"].map(str::to_owned);
        let cells = [vec![Some(1.0), Some(2.0)], vec![None, Some(3.0)]];
        let map = HeatMap { title: "t", metric: "loss", across: ("x", &texts), down: ("y", &texts), cells: &cells };
        let svg = map.draw();
        assert_eq!(svg.matches("<rect").count(), 3);
        assert!(
            svg.contains("<rect class=\"v0\"")
                && svg.contains("<rect class=\"v5\"")
                && svg.contains("<rect class=\"v9\"")
        );
        assert!(svg.contains("<title>y = &lt;a&gt;, x = b: loss 2</title>"), "{svg:?}");
    }
}
