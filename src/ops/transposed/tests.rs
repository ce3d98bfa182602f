//! Transposed convolutions against candle's, forward and backward.

use candle_core::{Device, Tensor, Var};

use super::*;
use crate::ops::block::{Batch, LANES, Row};
use crate::rng::Streams;

fn random(n: usize, purpose: &str) -> Vec<f32> {
    let mut out = vec![0.0; n];
    Streams::new(5).stream(purpose, 0, 0).normals(&mut out);
    out
}

/// Calls `f` with each index of candle's `[batch][channel][pixel]`, and its block, row and lane in activations.
fn each(channels: usize, pixels: usize, batch: Batch, mut f: impl FnMut(usize, (usize, usize, usize))) {
    for b in 0..batch.samples {
        for c in 0..channels {
            for p in 0..pixels {
                let block = (c / LANES * pixels + p) * batch.chunks + b / LANES;
                f((b * channels + c) * pixels + p, (block, c % LANES, b % LANES));
            }
        }
    }
}

fn pack(from: &[f32], channels: usize, pixels: usize, batch: Batch) -> Vec<Block> {
    let mut to = zeroed(panels(channels) * pixels * batch.chunks);
    each(channels, pixels, batch, |at, (block, row, lane)| to[block].0[row][lane] = from[at]);
    to
}

/// Compares relative to the largest number, because the rounding of a long sum remains even if the sum nearly cancels.
fn assert_close(found: &[f32], expected: &Tensor) {
    let expected = expected.flatten_all().unwrap().to_vec1::<f32>().unwrap();
    assert_eq!(found.len(), expected.len());
    let largest = expected.iter().fold(0.0f32, |a, v| a.max(v.abs()));
    for (f, e) in found.iter().zip(&expected) {
        assert!((f - e).abs() < 1e-5 * largest, "{f} {e} of at most {largest}");
    }
}

/// Weights or moments as `[ci][co][tap]`.
fn unpack_weights(c: &Convolution, blocks: &[Block], ci: usize, co: usize) -> Vec<f32> {
    let taps = c.geometry.taps();
    let at = |i: usize, o: usize, t: usize| blocks[(i / LANES * taps + t) * c.co + o / LANES].0[i % LANES][o % LANES];
    (0..ci * co * taps).map(|n| at(n / taps / co, n / taps % co, n % taps)).collect()
}

fn against_candle(geometry: Geometry, ci: usize, co: usize, samples: usize) {
    let (batch, side) = (Batch::new(samples), geometry.input);
    let mut c = Convolution::new(geometry, ci, co);
    let (inputs, outputs, taps) = (geometry.inputs(), geometry.outputs(), geometry.taps());
    let (x, w) = (random(samples * ci * inputs, "x"), random(ci * co * taps, "w"));
    let dy = random(samples * co * outputs, "dy");
    let var = |v: &[f32], shape: (usize, usize, usize, usize)| {
        Var::from_tensor(&Tensor::from_slice(v, shape, &Device::Cpu).unwrap()).unwrap()
    };
    let (cx, cw) = (var(&x, (samples, ci, side, side)), var(&w, (ci, co, geometry.kernel, geometry.kernel)));
    let cy = cx.conv_transpose2d(&cw, geometry.padding, 0, geometry.stride, 1).unwrap();
    let cdy = Tensor::from_slice(&dy, cy.shape(), &Device::Cpu).unwrap();
    let gradients = (&cy * cdy).unwrap().sum_all().unwrap().backward().unwrap();

    let panels = c.co;
    c.change_weights(|weights| {
        for (n, value) in w.iter().enumerate() {
            let (i, o, t) = (n / taps / co, n / taps % co, n % taps);
            weights[(i / LANES * taps + t) * panels + o / LANES].0[i % LANES][o % LANES] = *value;
        }
    });
    let (x, dy) = (pack(&x, ci, inputs, batch), pack(&dy, co, outputs, batch));
    let mut y = zeroed(dy.len());
    let mut buffers = Buffers::new::<true>(&c, batch.chunks);
    c.forward(&x, &mut y, &mut buffers, batch.chunks);
    let mut found = vec![0.0; samples * co * outputs];
    each(co, outputs, batch, |at, (block, row, lane)| found[at] = y[block].0[row][lane]);
    assert_close(&found, &cy);

    let (mut dx, mut again) = (zeroed(x.len()), zeroed(x.len()));
    c.input_gradient(&dy, &mut again, &mut Buffers::new::<false>(&c, batch.chunks), batch.chunks);
    let mut moments = BlockMoments::of(&c);
    let before = c.weights.clone();
    let input = BackwardInput { x: &x, dy: &dy };
    c.backward_and_update(&mut moments, input, &mut dx, &mut buffers, batch.chunks, Rates::new(1, 1e-3));
    assert!(dx == again, "the fused pass computes the input gradient with the old weights");
    let mut found = vec![0.0; samples * ci * inputs];
    each(ci, inputs, batch, |at, (block, row, lane)| found[at] = dx[block].0[row][lane]);
    assert_close(&found, gradients.get(&cx).unwrap());

    // The first moment of a first step is a tenth of the gradient.
    let first = unpack_weights(&c, &moments.m, ci, co).iter().map(|m| m * 10.0).collect::<Vec<_>>();
    assert_close(&first, gradients.get(&cw).unwrap());
    let (mut y, mut fresh) = (zeroed(dy.len()), zeroed(dy.len()));
    let mut again = c.clone();
    again.change_weights(|_| ());
    c.forward(&x, &mut y, &mut buffers, batch.chunks);
    again.forward(&x, &mut fresh, &mut Buffers::new::<false>(&again, batch.chunks), batch.chunks);
    assert!(y == fresh, "after an update, the forms are those of the new weights");
    let moved = c.weights.iter().zip(&before).filter(|(a, b)| a != b).count();
    assert_eq!(moved, before.len(), "every block of weights has changed");
}

#[test]
fn equals_transposed_convolution_and_autograd_of_candle() {
    let direct = [(2, 4, 2, 1), (1, 2, 1, 0), (3, 3, 1, 1), (5, 3, 2, 0), (4, 5, 3, 2), (3, 1, 1, 0)];
    // With minimal filtering: one window, one with single pixels, two; other strides; edges cropped or not.
    let minimal = [(4, 4, 2, 1), (5, 4, 2, 0), (6, 4, 2, 3), (8, 4, 2, 1), (4, 2, 1, 0), (5, 6, 3, 2)];
    for (input, kernel, stride, padding) in direct.into_iter().chain(minimal) {
        let geometry = Geometry { input, kernel, stride, padding };
        against_candle(geometry, 5, 3, 2);
        against_candle(geometry, 33, 18, 17);
    }
}

#[test]
fn long_sums_in_several_runs_are_complete() {
    // 40 panels, more than the 16 of a run; then so many pixels that runs are as short as possible.
    against_candle(Geometry { input: 2, kernel: 4, stride: 2, padding: 1 }, 640, 20, 3);
    against_candle(Geometry { input: 8, kernel: 4, stride: 2, padding: 1 }, 90, 100, 33);
}

#[test]
fn size_of_panel_groups_does_not_change_the_bytes() {
    // 7 panels: groups of 3, 3 and 1 for one thread, of 1 for four.
    let (geometry, chunks) = (Geometry { input: 4, kernel: 4, stride: 2, padding: 1 }, 2);
    let step = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| {
            let mut c = Convolution::new(geometry, 7 * LANES, 20);
            let blocks = |n: usize, purpose: &str| -> Vec<Block> {
                let numbers = random(n * LANES * LANES, purpose);
                bytemuck::cast_slice(&numbers).iter().map(|rows: &[Row; LANES]| Block(*rows)).collect()
            };
            let w = blocks(c.weights.len(), "w");
            c.change_weights(|weights| weights.copy_from_slice(&w));
            let (x, dy) = (blocks(7 * 16 * chunks, "x"), blocks(2 * 64 * chunks, "dy"));
            let (mut y, mut dx) = (dy.clone(), x.clone());
            let (mut buffers, mut moments) = (Buffers::new::<true>(&c, chunks), BlockMoments::of(&c));
            c.input_gradient(&dy, &mut dx, &mut buffers, chunks);
            let alone = dx.clone();
            c.forward(&x, &mut y, &mut buffers, chunks);
            let input = BackwardInput { x: &x, dy: &dy };
            c.backward_and_update(&mut moments, input, &mut dx, &mut buffers, chunks, Rates::new(1, 1e-3));
            assert!(alone == dx);
            c.forward(&x, &mut y, &mut buffers, chunks);
            (group_of(c.ci), (y, dx, c.weights, moments.m, moments.v))
        })
    };
    let (one, four) = (step(1), step(4));
    assert_eq!((one.0, four.0), (3, 1));
    assert!(one.1 == four.1);
}
