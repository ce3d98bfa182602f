//! Winograd's minimal filtering: fewer products for a transposed convolution whose output pixels have two taps on each
//! axis.
//!
//! With kernel = 2 · stride, the output pixels of one residue modulo the stride are a convolution with two taps:
//! `s[j] = d[j] g₀ + d[j+1] g₁`, where `d` are neighbouring input pixels. F(3, 2) computes three of them with four
//! products instead of six:
//!
//! ```text
//! m₀ = (d₀ − d₂) g₀    m₁ = (d₁ + d₂) (g₀ + g₁)/2    m₂ = (d₂ − d₁) (g₀ − g₁)/2    m₃ = (d₃ − d₁) g₁
//! s₀ = m₀ + m₁ + m₂    s₁ = m₁ − m₂                  s₂ = m₁ + m₂ + m₃
//! ```
//! Sources: Winograd, "Arithmetic Complexity of Computations", 1980; for networks, Lavin and Gray, "Fast Algorithms for
//! Convolutional Neural Networks", 2016.
//!
//! The products of an image are all pairs of the products of its axes, so a window of 3 × 3 output pixels needs 16
//! products, not 36. Output pixels that do not fill a window, and those at the edge with one tap, are computed
//! directly. With kernel 4, stride 2 and padding 1 there are 100 products instead of 196 on 4 × 4 pixels, and 484
//! instead of 900 on 8 × 8 pixels.
//!
//! The factors are linear combinations of pixels (*signals*) and of taps (*forms*). The products add up to *sums*, and
//! the outputs are linear combinations of these. All coefficients are ± 1, ± ½ or, on both axes together, ± ¼. The
//! gradients use the transposed maps: `dsums = outputsᵀ dy`, `dx = signalsᵀ dsignals`, `dW = formsᵀ dforms`. So the
//! only additional rounding is that of a few additions.

use rayon::prelude::*;

use super::block::{Block, LANES, Row};
use super::kernel::vectorised;
use super::plan::{Axis, Geometry, Plan, Product};

/// A linear combination: indices with their coefficients.
type Form = Vec<(usize, f32)>;

/// A linear map from one list of blocks to another.
#[derive(Clone, Debug)]
pub struct Transform {
    from: usize,
    forms: Vec<Form>,
}

/// The rows that are summed at a time: with AVX2 they are 8 of 16 registers.
const ROWS: usize = 4;

impl Transform {
    /// The map that applies these combinations of `side` numbers on both axes.
    fn on_both_axes(forms: &[Form], side: usize) -> Self {
        let pairs = forms.iter().flat_map(|row| forms.iter().map(move |column| (row, column)));
        let both = |(row, column): (&Form, &Form)| {
            let terms = row.iter().flat_map(|(r, a)| column.iter().map(move |(c, b)| (r * side + c, a * b)));
            terms.collect()
        };
        Self { from: side * side, forms: pairs.map(both).collect() }
    }

    /// The transposed map: inputs and outputs exchanged.
    fn transposed(&self) -> Self {
        let mut forms = vec![Vec::new(); self.from];
        for (to, form) in self.forms.iter().enumerate() {
            for (from, coefficient) in form {
                forms[*from].push((to, *coefficient));
            }
        }
        Self { from: self.forms.len(), forms }
    }

    /// The number of inputs.
    pub fn inputs(&self) -> usize {
        self.from
    }

    /// The number of outputs.
    fn outputs(&self) -> usize {
        self.forms.len()
    }

    /// Computes one output. `from` returns the inputs.
    #[inline(always)]
    pub fn one<'a>(&self, output: usize, from: impl Fn(usize) -> &'a Block) -> Block {
        let mut all = Block::ZERO;
        for (part, rows) in all.0.as_chunks_mut::<ROWS>().0.iter_mut().enumerate() {
            let mut sum: [Row; ROWS] = [[0.0; LANES]; ROWS];
            for (at, coefficient) in &self.forms[output] {
                let from = &from(*at).0.as_chunks::<ROWS>().0[part];
                for (sum, v) in sum.as_flattened_mut().iter_mut().zip(from.as_flattened()) {
                    *sum += *coefficient * v;
                }
            }
            *rows = sum;
        }
        all
    }

    /// Computes all outputs: `[input][each]` blocks to `[output][each]` blocks. Blocks behind them are padding.
    ///
    /// # Panics
    /// If a slice is too short.
    pub fn all(&self, from: &[Block], to: &mut [Block], each: usize) {
        let (from, to) = (&from[..self.from * each], &mut to[..self.outputs() * each]);
        vectorised(
            #[inline(always)]
            || {
                for (at, to) in to.iter_mut().enumerate() {
                    *to = self.one(at / each, |input| &from[input * each + at % each]);
                }
            },
        );
    }

    /// [`Transform::all`] for each of these panels, `[panel][input][each]`, which also writes each block transposed to
    /// `rows`. Only `rows` has no padding.
    ///
    /// # Panics
    /// If a slice is too short.
    pub fn panels_and_rows(&self, from: &[Block], to: &mut [Block], rows: &mut [Block], panels: usize, each: usize) {
        let (from, to) = (from.par_chunks(from.len() / panels), to.par_chunks_mut(to.len() / panels));
        to.zip_eq(rows.par_chunks_mut(self.outputs() * each)).zip_eq(from).for_each(|((to, rows), from)| {
            let to = &mut to[..rows.len()];
            vectorised(
                #[inline(always)]
                || {
                    for (at, (to, row)) in to.iter_mut().zip(rows).enumerate() {
                        *to = self.one(at / each, |input| &from[input * each + at % each]);
                        *row = to.transposed();
                    }
                },
            );
        });
    }

    /// [`Transform::all`] for each of these panels, `[panel][input][each]`, on this thread.
    pub fn each_panel(&self, from: &[Block], to: &mut [Block], panels: usize, each: usize) {
        let both = from.chunks(from.len() / panels).zip(to.chunks_mut(to.len() / panels));
        both.for_each(|(from, to)| self.all(from, to, each));
    }

    /// [`Transform::all`] for each of these panels, `[panel][input][each]`.
    pub fn panels(&self, from: &[Block], to: &mut [Block], panels: usize, each: usize) {
        let both = from.par_chunks(from.len() / panels).zip_eq(to.par_chunks_mut(to.len() / panels));
        both.for_each(|(from, to)| self.all(from, to, each));
    }
}

/// A transposed convolution by minimal filtering.
#[derive(Clone, Debug)]
pub struct Minimal {
    /// The products: forms for taps, signals for input pixels, sums for output pixels.
    pub plan: Plan,
    /// Computes signals from input pixels.
    pub signals: Transform,
    /// Computes forms from taps.
    pub forms: Transform,
    /// Computes output pixels from sums.
    pub outputs: Transform,
    /// Computes the gradients of input pixels from those of signals.
    pub input_gradients: Transform,
    /// Computes the gradients of taps from those of forms.
    pub tap_gradients: Transform,
    /// Computes the gradients of sums from those of output pixels.
    pub sum_gradients: Transform,
}

/// The numbers of signals, forms and sums.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sizes {
    /// Signals of an image.
    pub signals: usize,
    /// Forms of a kernel.
    pub forms: usize,
    /// Sums of an image.
    pub sums: usize,
}

impl Minimal {
    /// The sizes of [`Minimal::new`], without computing its maps.
    pub fn sizes(geometry: Geometry) -> Option<Sizes> {
        let axis = Builder::filter(geometry)?.axis();
        let square = |n: usize| n * n;
        Some(Sizes { signals: square(axis.inputs), forms: square(axis.taps), sums: square(axis.outputs) })
    }

    /// The algorithm for these sizes; `None` if it saves no products.
    pub fn new(geometry: Geometry) -> Option<Self> {
        let builder = Builder::filter(geometry)?;
        let signals = Transform::on_both_axes(&builder.signals, geometry.input);
        let forms = Transform::on_both_axes(&builder.forms, geometry.kernel);
        let axis = builder.axis();
        let outputs = Transform::on_both_axes(&builder.outputs, axis.outputs);
        Some(Self {
            plan: Plan::new(&axis),
            input_gradients: signals.transposed(),
            tap_gradients: forms.transposed(),
            sum_gradients: outputs.transposed(),
            signals,
            forms,
            outputs,
        })
    }
}

/// Builds the algorithm of one axis.
struct Builder {
    signals: Vec<Form>,
    forms: Vec<Form>,
    /// Each output as a combination of sums.
    outputs: Vec<Form>,
    /// `tap`, `input` and `output` are indices of forms, signals and sums.
    products: Vec<Product>,
    sums: usize,
}

/// The number of outputs of a window.
const WINDOW: usize = 3;

impl Builder {
    /// `None` if output pixels do not have two taps, or no window is complete.
    fn filter(geometry: Geometry) -> Option<Self> {
        let Geometry { input: pixels, kernel, stride, .. } = geometry;
        if kernel != 2 * stride {
            return None;
        }
        let mut builder = Self {
            signals: Vec::new(),
            forms: Vec::new(),
            outputs: vec![Vec::new(); geometry.output()],
            products: Vec::new(),
            sums: 0,
        };
        let mut windows = 0;
        for residue in 0..stride {
            let taps = [residue + stride, residue];
            // The output pixel to which pixel `at` adds `taps[0]` and the next pixel `taps[1]`.
            let pair = |at: usize| geometry.lands(at, taps[0]).filter(|_| at + 1 < pixels);
            let mut at = 0;
            while at < pixels {
                let window = (0..WINDOW).map(|n| pair(at + n)).collect::<Option<Vec<_>>>();
                if let Some(outputs) = window {
                    builder.window(at, taps, &outputs);
                    (at, windows) = (at + WINDOW, windows + 1);
                } else {
                    if let Some(output) = geometry.lands(at, taps[0]) {
                        let next = (at + 1 < pixels).then_some((at + 1, taps[1]));
                        builder.plain(output, [Some((at, taps[0])), next]);
                    }
                    at += 1;
                }
            }
            if let Some(output) = geometry.lands(0, taps[1]) {
                builder.plain(output, [Some((0, taps[1])), None]);
            }
        }
        builder.order_sums();
        (windows > 0).then_some(builder)
    }

    /// Adds three outputs with F(3, 2), from pixel `at` on.
    fn window(&mut self, at: usize, taps: [usize; 2], outputs: &[usize]) {
        let [g0, g1] = taps;
        let products = [
            (vec![(at, 1.0), (at + 2, -1.0)], vec![(g0, 1.0)]),
            (vec![(at + 1, 1.0), (at + 2, 1.0)], vec![(g0, 0.5), (g1, 0.5)]),
            (vec![(at + 1, -1.0), (at + 2, 1.0)], vec![(g0, 0.5), (g1, -0.5)]),
            (vec![(at + 1, -1.0), (at + 3, 1.0)], vec![(g1, 1.0)]),
        ];
        let [m0, m1, m2, m3] = products.map(|(signal, form)| {
            self.sums += 1;
            self.product(signal, form, self.sums - 1);
            self.sums - 1
        });
        self.outputs[outputs[0]] = vec![(m0, 1.0), (m1, 1.0), (m2, 1.0)];
        self.outputs[outputs[1]] = vec![(m1, 1.0), (m2, -1.0)];
        self.outputs[outputs[2]] = vec![(m1, 1.0), (m2, 1.0), (m3, 1.0)];
    }

    /// Adds one output directly, from up to two (pixel, tap).
    fn plain(&mut self, output: usize, terms: [Option<(usize, usize)>; 2]) {
        for (pixel, tap) in terms.into_iter().flatten() {
            self.product(vec![(pixel, 1.0)], vec![(tap, 1.0)], self.sums);
        }
        self.outputs[output] = vec![(self.sums, 1.0)];
        self.sums += 1;
    }

    fn product(&mut self, signal: Form, form: Form, output: usize) {
        let input = place(&mut self.signals, signal);
        let tap = place(&mut self.forms, form);
        self.products.push(Product { tap, input, output });
    }

    /// Orders the sums by signal, so that consecutive sums read the same signal from the cache.
    fn order_sums(&mut self) {
        let mut order: Vec<usize> = (0..self.sums).collect();
        order.sort_by_key(|sum| self.products.iter().find(|p| p.output == *sum).map(|p| p.input));
        let mut place = vec![0; self.sums];
        order.iter().enumerate().for_each(|(to, sum)| place[*sum] = to);
        self.products.iter_mut().for_each(|p| p.output = place[p.output]);
        self.outputs.iter_mut().flatten().for_each(|(sum, _)| *sum = place[*sum]);
    }

    fn axis(&self) -> Axis {
        Axis { taps: self.forms.len(), inputs: self.signals.len(), outputs: self.sums, products: self.products.clone() }
    }
}

/// The index of a form. Adds it if it is new.
fn place(forms: &mut Vec<Form>, form: Form) -> usize {
    forms.iter().position(|f| *f == form).unwrap_or_else(|| {
        forms.push(form);
        forms.len() - 1
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn minimal(input: usize, kernel: usize, stride: usize, padding: usize) -> Option<Minimal> {
        Minimal::new(Geometry { input, kernel, stride, padding })
    }

    #[test]
    fn number_of_products_is_that_of_the_documentation() {
        let products = |input| minimal(input, 4, 2, 1).map(|m| m.plan.products());
        assert_eq!((products(2), products(4), products(8)), (None, Some(100), Some(484)));
        let m = minimal(8, 4, 2, 1).unwrap();
        let sizes = Sizes { signals: m.plan.inputs(), forms: m.plan.taps(), sums: m.plan.outputs() };
        let geometry = Geometry { input: 8, kernel: 4, stride: 2, padding: 1 };
        assert_eq!(Minimal::sizes(geometry), Some(sizes));
    }

    #[test]
    fn other_kernels_are_not_supported() {
        assert!(minimal(8, 3, 2, 1).is_none() && minimal(8, 4, 1, 1).is_none() && minimal(3, 4, 2, 1).is_none());
    }

    /// A block for each of n pixels or taps, filled with one number.
    fn numbers(n: usize, seed: f32) -> Vec<Block> {
        (0..n).map(|i| Block([[(seed * (i + 1) as f32).sin(); LANES]; LANES])).collect()
    }

    #[test]
    fn outputs_equal_the_direct_ones_and_coefficients_are_powers_of_two() {
        for (input, kernel, stride, padding) in [(4, 4, 2, 1), (8, 4, 2, 1), (7, 2, 1, 0), (6, 6, 3, 2)] {
            let geometry = Geometry { input, kernel, stride, padding };
            let minimal = Minimal::new(geometry).unwrap();
            let (x, w) = (numbers(geometry.inputs(), 1.7), numbers(geometry.taps(), 0.9));
            let through = |map: &Transform, from: &[Block]| {
                let mut to = vec![Block::ZERO; map.outputs()];
                map.all(from, &mut to, 1);
                to
            };
            let (signals, forms) = (through(&minimal.signals, &x), through(&minimal.forms, &w));
            let sum = |plan: &Plan, w: &[Block], x: &[Block], output: usize| -> f32 {
                plan.by_output[output].iter().map(|(tap, input)| w[*tap].0[0][0] * x[*input].0[0][0]).sum()
            };
            let sums: Vec<Block> = (0..minimal.plan.outputs())
                .map(|output| Block([[sum(&minimal.plan, &forms, &signals, output); LANES]; LANES]))
                .collect();
            let direct = Plan::new(&Axis::direct(geometry));
            for (output, found) in through(&minimal.outputs, &sums).iter().enumerate() {
                let expected = sum(&direct, &w, &x, output);
                assert!((found.0[3][5] - expected).abs() < 1e-5, "output {output} of {geometry:?}");
            }
            let maps = [&minimal.signals, &minimal.forms, &minimal.outputs];
            let coefficients = maps.into_iter().flat_map(|map| map.forms.iter().flatten().map(|(_, c)| c.abs()));
            assert!(coefficients.into_iter().all(|c| [1.0, 0.5, 0.25].contains(&c)));
        }
    }
}
