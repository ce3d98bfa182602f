//! A transposed convolution as a few large batched matrix products, over valid taps only.
//!
//! Input pixel `i` adds `x[i] · W[tap]` to output pixel `i · stride − padding + tap`. The samples of a pixel are
//! consecutive in memory, so neighbouring pixels of an image row form one longer product with a tap, if their output
//! pixels are also consecutive. In the image these are `stride` apart. So products and their gradients have the columns
//! of each row grouped by their remainder modulo the stride: the *product order*, [`Plan::place`]. All products of one
//! shape that write different places are one call.
//!
//! Several products may add to one place. They then write different copies of it (*slots*, which the next kernel adds
//! up while reading), or they are in different calls, of which the later ones accumulate. Slots cost memory traffic;
//! calls cost launches and leave part of the GPU idle. See [`Layer::slots`]. For kernel 4, stride 2, padding 1 and S ×
//! S input pixels:
//!
//! | | products of one tap and row | slots | calls |
//! |---|---|---|---|
//! | forward | `co × (S or S−1)·B × ci` | 4 | 2 |
//! | input gradient | `ci × (S or S−1)·B × co` | 8 | 2 |
//! | weight gradient | `co × ci × (S or S−1)·B` | 1 … S | 2 × ⌈S / slots⌉ |
//!
//! Slots are never cleared. A later product of a slot writes only places that the slot's first product wrote; otherwise
//! it gets a slot of its own. Places that no product writes keep the zeros of their allocation.

use crate::ops::plan::Geometry;

/// A transposed convolution with its numbers of channels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Layer {
    pub(super) geometry: Geometry,
    /// Input channels.
    pub(super) ci: usize,
    /// Output channels.
    pub(super) co: usize,
}

impl Layer {
    /// The number of weights, `[tap][ci][co]`.
    pub(super) fn weights(&self) -> usize {
        self.geometry.taps() * self.ci * self.co
    }

    /// The maximum number of slots of a pass; further products accumulate. Slots and accumulation move the same bytes.
    /// Slots take memory, but all their products can run at the same time. The forward pass has no limit (the decoder's
    /// layers need 4). The input gradient has 8 of the 16 products of a row, which are those of one length. The weight
    /// gradient has as many as 32 MiB hold.
    fn slots(&self, pass: Pass) -> usize {
        match pass {
            Pass::Forward => usize::MAX,
            Pass::Input => 8,
            Pass::Weights => ((32 << 20) / (4 * self.weights())).max(1),
        }
    }
}

/// The result of a pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pass {
    /// `y += x W`.
    Forward,
    /// `dx += dy Wᵀ`.
    Input,
    /// `dW += xᵀ dy`.
    Weights,
}

/// A batched product, as cuBLAS defines it: column-major `C (m × n) = A · B (+ C)`, where A and B may be transposed.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Call {
    /// Whether A and B are transposed.
    pub(super) transposed: [bool; 2],
    /// m, n and k.
    pub(super) size: [usize; 3],
    /// Leading dimensions of A, B and C.
    pub(super) leading: [usize; 3],
    /// Whether the product is added to C.
    pub(super) accumulate: bool,
    /// The index of the first number of A, B and C of each product, in their arrays.
    pub(super) products: Vec<[usize; 3]>,
}

/// The calls of one pass of a layer for one size of batch.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Calls {
    /// The number of slots of the result, which its reader adds up.
    pub(super) slots: usize,
    /// The calls, in their order.
    pub(super) calls: Vec<Call>,
}

/// Neighbouring pixels of one image row, with one tap.
#[derive(Clone, Copy, Debug)]
struct Run {
    tap: usize,
    /// The first input pixel, in plain order.
    input: usize,
    /// The first output pixel, in product order.
    output: usize,
    length: usize,
}

/// Runs that write different places. For each run: whether it is the first in its slot, and the slot.
type Round = Vec<(bool, usize, Run)>;

/// The products of a layer.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    layer: Layer,
    runs: Vec<Run>,
}

impl Plan {
    /// Lists the runs in the order of taps, then input rows.
    pub(super) fn new(layer: Layer) -> Self {
        let Geometry { kernel, input: side, .. } = layer.geometry;
        let mut runs = Vec::new();
        for tap in 0..layer.geometry.taps() {
            for iy in 0..side {
                let Some(oy) = layer.geometry.lands(iy, tap / kernel) else { continue };
                let columns: Vec<_> =
                    (0..side).filter_map(|ix| Some((ix, layer.geometry.lands(ix, tap % kernel)?))).collect();
                let Some((ix, ox)) = columns.first().copied() else { continue };
                let output = oy * layer.geometry.output() + column_place(layer.geometry, ox);
                runs.push(Run { tap, input: iy * side + ix, output, length: columns.len() });
            }
        }
        Self { layer, runs }
    }

    /// For each output pixel in product order, its index in plain order.
    pub(super) fn place(&self) -> Vec<usize> {
        let side = self.layer.geometry.output();
        let mut places = vec![0; side * side];
        for pixel in 0..side * side {
            places[pixel / side * side + column_place(self.layer.geometry, pixel % side)] = pixel;
        }
        places
    }

    /// The calls of a pass over this many samples.
    pub(super) fn calls(&self, pass: Pass, batch: usize) -> Calls {
        let (slots, rounds) = self.rounds(pass);
        let mut calls: Vec<Call> = Vec::new();
        for round in rounds {
            // Products of one shape are one call. The products of a round write different places.
            let begin = calls.len();
            for (first, slot, run) in round {
                let call = self.call(pass, run, batch, !first);
                let product = self.product(pass, slot, run, batch);
                let same = |c: &&mut Call| c.size == call.size && c.accumulate == call.accumulate;
                match calls[begin..].iter_mut().find(same) {
                    Some(c) => c.products.push(product),
                    None => calls.push(Call { products: vec![product], ..call }),
                }
            }
        }
        Calls { slots, calls }
    }

    /// The number of slots, and the rounds.
    fn rounds(&self, pass: Pass) -> (usize, Vec<Round>) {
        let mut groups: Vec<Vec<Run>> = Vec::new();
        let mut keys: Vec<usize> = Vec::new();
        for run in &self.runs {
            let key = self.destination(pass, *run);
            match keys.iter().position(|k| *k == key) {
                Some(at) => groups[at].push(*run),
                None => {
                    keys.push(key);
                    groups.push(vec![*run]);
                }
            }
        }
        // Long runs first: the later runs of a slot must lie inside the first.
        groups.iter_mut().for_each(|group| group.sort_by_key(|run| std::cmp::Reverse(run.length)));
        let most = groups.iter().map(Vec::len).max().unwrap_or(1);
        let mut slots = self.layer.slots(pass).min(most);
        if !groups.iter().all(|group| self.sound(pass, group, slots)) {
            slots = most;
        }
        let mut rounds: Vec<Round> = Vec::new();
        for group in &groups {
            for (run, (round, slot)) in group.iter().zip(turns(group, slots)) {
                rounds.resize_with(rounds.len().max(round + 1), Vec::new);
                rounds[round].push((round == 0, slot, *run));
            }
        }
        // Calls with long runs come first. The sort is stable.
        rounds.iter_mut().for_each(|round| round.sort_by_key(|(_, _, run)| std::cmp::Reverse(run.length)));
        (slots, rounds)
    }

    /// Whether the first run of each slot covers all later runs of the slot.
    fn sound(&self, pass: Pass, group: &[Run], slots: usize) -> bool {
        let begin = |run: &Run| if pass == Pass::Forward { run.output } else { run.input };
        let holds = |first: &Run, later: &Run| {
            begin(later) >= begin(first) && begin(later) + later.length <= begin(first) + first.length
        };
        let turns = turns(group, slots);
        group.iter().zip(&turns).all(|(later, (round, slot))| {
            let first = turns.iter().position(|turn| *turn == (0, *slot));
            // Each product writes the whole weight gradient of its tap.
            *round == 0 || first.is_some_and(|first| pass == Pass::Weights || holds(&group[first], later))
        })
    }

    /// What a run writes: the output columns of one row and remainder, an input row, or a tap.
    fn destination(&self, pass: Pass, run: Run) -> usize {
        let side = self.layer.geometry.output();
        match pass {
            Pass::Forward => {
                let (row, place) = (run.output / side, run.output % side);
                let geometry = self.layer.geometry;
                let group = (0..geometry.stride).take_while(|r| group_begin(geometry, *r) <= place).count();
                row * geometry.stride + group
            }
            Pass::Input => run.input / self.layer.geometry.input,
            Pass::Weights => run.tap,
        }
    }

    fn call(&self, pass: Pass, run: Run, batch: usize, accumulate: bool) -> Call {
        let Layer { ci, co, .. } = self.layer;
        let rows = run.length * batch;
        let (transposed, size, leading) = match pass {
            Pass::Forward => ([false, false], [co, rows, ci], [co, ci, co]),
            Pass::Input => ([true, false], [ci, rows, co], [co, co, ci]),
            Pass::Weights => ([false, true], [co, ci, rows], [co, ci, co]),
        };
        Call { transposed, size, leading, accumulate, products: Vec::new() }
    }

    fn product(&self, pass: Pass, slot: usize, run: Run, batch: usize) -> [usize; 3] {
        let layer = self.layer;
        let weights = run.tap * layer.ci * layer.co;
        let (x, y) = (run.input * batch * layer.ci, run.output * batch * layer.co);
        let (inputs, outputs) = (layer.geometry.inputs(), layer.geometry.outputs());
        match pass {
            Pass::Forward => [weights, x, y + slot * outputs * batch * layer.co],
            Pass::Input => [weights, y, x + slot * inputs * batch * layer.ci],
            Pass::Weights => [y, x, weights + slot * layer.weights()],
        }
    }
}

/// The round and the slot of each run of a group. Each length begins a new round, so that runs of one length share a
/// call.
fn turns(group: &[Run], slots: usize) -> Vec<(usize, usize)> {
    let mut turn = 0;
    let mut turns = Vec::new();
    for (n, run) in group.iter().enumerate() {
        if n > 0 && run.length != group[n - 1].length && group.len() > slots {
            turn = usize::next_multiple_of(turn, slots);
        }
        turns.push((turn / slots, turn % slots));
        turn += 1;
    }
    turns
}

/// The index of an output column in its row, in product order.
fn column_place(geometry: Geometry, column: usize) -> usize {
    group_begin(geometry, column % geometry.stride) + column / geometry.stride
}

/// The index of the first column with this remainder.
fn group_begin(geometry: Geometry, remainder: usize) -> usize {
    let output = geometry.output();
    (0..remainder).map(|r| (output - r.min(output)).div_ceil(geometry.stride)).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::Streams;

    fn layer(input: usize, kernel: usize, stride: usize, padding: usize) -> Layer {
        Layer { geometry: Geometry { input, kernel, stride, padding }, ci: 3, co: 2 }
    }

    /// The sizes of the decoder's layers, and others.
    fn layers() -> Vec<Layer> {
        let sizes = [(1, 2, 1, 0), (2, 4, 2, 1), (4, 4, 2, 1), (8, 4, 2, 1), (16, 1, 1, 0), (4, 5, 3, 2), (3, 3, 1, 1)];
        sizes.iter().map(|(i, k, s, p)| layer(*i, *k, *s, *p)).collect()
    }

    fn random(n: usize, purpose: &str) -> Vec<f32> {
        let mut out = vec![0.0; n];
        Streams::new(3).stream(purpose, 0, 0).normals(&mut out);
        out
    }

    /// Runs the calls twice on the same result, as steps do, and adds up the slots.
    fn run(calls: &Calls, a: &[f32], b: &[f32], size: usize) -> Vec<f32> {
        let mut c = vec![0.0; size * calls.slots];
        for _ in 0..2 {
            for call in &calls.calls {
                crate::model::cuda::product::multiply(call, a, b, &mut c);
            }
        }
        (0..size).map(|i| c.iter().skip(i).step_by(size).sum()).collect()
    }

    fn close(found: &[f32], wanted: &[f32]) {
        assert_eq!(found.len(), wanted.len());
        for (f, w) in found.iter().zip(wanted) {
            assert!((f - w).abs() < 1e-4 * (1.0 + w.abs()), "{f} {w}");
        }
    }

    #[test]
    fn calls_add_up_to_transposed_convolution_and_its_gradients() {
        let batch = 3;
        for layer in layers() {
            let plan = Plan::new(layer);
            let (inputs, outputs, place) = (layer.geometry.inputs(), layer.geometry.outputs(), plan.place());
            let x = random(inputs * batch * layer.ci, "x");
            let w = random(layer.weights(), "w");
            let dy = random(outputs * batch * layer.co, "dy");
            let (mut y, mut dx, mut dw) = (vec![0.0; dy.len()], vec![0.0; x.len()], vec![0.0; w.len()]);
            for at in 0..place.len() * inputs * layer.geometry.taps() {
                let (at, tap) = (at / layer.geometry.taps(), at % layer.geometry.taps());
                let (place_at, input) = (at / inputs, at % inputs);
                let pixel = place[place_at];
                let row = layer.geometry.lands(input / layer.geometry.input, tap / layer.geometry.kernel);
                let column = layer.geometry.lands(input % layer.geometry.input, tap % layer.geometry.kernel);
                if row != Some(pixel / layer.geometry.output()) || column != Some(pixel % layer.geometry.output()) {
                    continue;
                }
                for b in 0..batch {
                    for i in 0..layer.ci {
                        for o in 0..layer.co {
                            let (x_at, y_at) =
                                ((input * batch + b) * layer.ci + i, (place_at * batch + b) * layer.co + o);
                            let w_at = (tap * layer.ci + i) * layer.co + o;
                            y[y_at] += x[x_at] * w[w_at];
                            dx[x_at] += dy[y_at] * w[w_at];
                            dw[w_at] += x[x_at] * dy[y_at];
                        }
                    }
                }
            }
            close(&run(&plan.calls(Pass::Forward, batch), &w, &x, y.len()), &y);
            close(&run(&plan.calls(Pass::Input, batch), &w, &dy, dx.len()), &dx);
            close(&run(&plan.calls(Pass::Weights, batch), &dy, &x, dw.len()), &dw);
        }
    }

    #[test]
    fn layers_of_the_decoder_take_few_calls() {
        let shape = |layer: Layer| {
            let plan = Plan::new(layer);
            [Pass::Forward, Pass::Input, Pass::Weights].map(|pass| {
                let calls = plan.calls(pass, 16);
                (calls.calls.len(), calls.slots)
            })
        };
        let usual = |input, kernel, stride, padding, ci, co| {
            let geometry = Geometry { input, kernel, stride, padding };
            Layer { geometry, ci, co }
        };
        assert_eq!(shape(usual(1, 2, 1, 0, 128, 2048)), [(1, 2), (1, 4), (1, 1)]);
        assert_eq!(shape(usual(2, 4, 2, 1, 2048, 512)), [(2, 4), (2, 8), (4, 1)]);
        assert_eq!(shape(usual(4, 4, 2, 1, 512, 256)), [(2, 4), (2, 8), (2, 4)]);
        assert_eq!(shape(usual(8, 4, 2, 1, 256, 128)), [(2, 4), (2, 8), (2, 8)]);
        assert_eq!(shape(usual(16, 1, 1, 0, 128, 16)), [(1, 1), (1, 1), (1, 16)]);
    }

    #[test]
    fn products_of_a_call_write_different_places_and_all_are_inside() {
        let plan = Plan::new(Layer { geometry: Geometry { input: 2, kernel: 4, stride: 2, padding: 1 }, ci: 4, co: 4 });
        for pass in [Pass::Forward, Pass::Input, Pass::Weights] {
            let calls = plan.calls(pass, 1);
            let work: usize = calls.calls.iter().map(|c| c.size.iter().product::<usize>() * c.products.len()).sum();
            assert_eq!(work, 36 * 16, "36 of 64 products are inside the image");
            for call in &calls.calls {
                let mut written: Vec<usize> = call
                    .products
                    .iter()
                    .flat_map(|p| (0..call.size[1]).map(move |n| p[2] + n * call.leading[2]))
                    .collect();
                let all = written.len();
                written.sort_unstable();
                written.dedup();
                assert_eq!(written.len(), all, "{pass:?}");
            }
        }
    }
}
