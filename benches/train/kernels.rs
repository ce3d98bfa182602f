//! The time of a training step in detail: the bare step, the products of each layer, and the peak of one core.

use std::time::Duration;

use vadpipe::exec::choose;
use vadpipe::model::{Decoder, Frozen};
use vadpipe::ops::adam::Rates;
use vadpipe::ops::block::{Block, zeroed};
use vadpipe::ops::kernel::{Run, accumulate};
use vadpipe::ops::plan::Geometry;
use vadpipe::ops::transposed::{BackwardInput, BlockMoments, Buffers, Convolution};
use vadpipe::rng::Streams;
use vadpipe::spec::{DeviceChoice, Precision};

use crate::SHAPE;
use crate::floor::{Cost, Floor, cost};

/// The sizes of a layer: geometry, input channels and output channels.
fn shapes() -> [(Geometry, usize, usize); 5] {
    let up = |input| Geometry { input, kernel: 4, stride: 2, padding: 1 };
    let full = Geometry { input: 1, kernel: 2, stride: 1, padding: 0 };
    let taps = Geometry { input: 16, kernel: 1, stride: 1, padding: 0 };
    let [c0, c1, c2, c3] = SHAPE.channels;
    [(full, SHAPE.latent_dim, c0), (up(2), c0, c1), (up(4), c1, c2), (up(8), c2, c3), (taps, c3, 16)]
}

/// GFLOP of the products in a forward pass of one sample. Minimal filtering needs fewer than direct products.
pub(crate) fn made_gflop() -> f64 {
    let of_layer = |(geometry, ci, co)| 2.0 * (Convolution::new(geometry, ci, co).products() * ci * co) as f64 / 1e9;
    shapes().map(of_layer).iter().sum()
}

/// The bare steps, without the rest of a training: samples/s and GFLOP/s by wall time and by CPU time, compared with a
/// plain product.
pub(crate) fn steps(limit: Duration, floor: &mut Floor, made_gflop: f64, batches: &[usize]) {
    let streams = Streams::new(0);
    let mut decoder = Decoder::new(SHAPE, &streams);
    let mut frozen = decoder.weights().and_then(|w| Frozen::from_weights(&w)).ok();
    println!("bare steps        by the clock                    computing, per core (of: 2048³ by gemm)");
    println!("  batch samples/s  GFLOP/s  of gemm   samples/s  GFLOP/s  of gemm");
    for batch in batches.iter().copied() {
        let mut z = vec![0.0; batch * SHAPE.latent_dim];
        streams.stream("z", 0, 0).normals(&mut z);
        let images: Vec<u8> = (0..batch * 784).map(|i| (i * 7919 % 256) as u8).collect();
        floor.measure(limit / 2);
        let line = |what: &str, cost: Cost, passes: f64| {
            let part = |seconds: f64, gemm: f64| {
                let gflops = made_gflop * passes * batch as f64 / seconds;
                format!("{:9.0} {gflops:8.0} {:4.0} % of {gemm:3.0}", batch as f64 / seconds, 100.0 * gflops / gemm)
            };
            let (clock, core) = (part(cost.clock, floor.gflops), part(cost.computing, floor.gflops_per_core));
            println!("{what:5} {batch:3} {clock} {core}");
        };
        let train = cost(limit, || {
            decoder.train_step(&z, &images, 1e-3);
        });
        line("train", train, 3.0);
        if let Some(frozen) = &mut frozen {
            let fit = cost(limit, || {
                frozen.loss_and_gradient(&z, &images);
            });
            line("fit", fit, 2.0);
        }
    }
}

/// GFLOP/s of multiply-adds on one core if all operands are in its first-level cache: the peak of the kernel.
pub(crate) fn ceiling(limit: Duration) -> f64 {
    let (a, b) = (vec![Block([[0.5; 16]; 16]); 8], vec![Block([[0.25; 16]; 16]); 8]);
    let mut acc = Block::ZERO;
    let run = Run { blocks: 8, scalars: 1, vectors: 1, fresh: false };
    let cost = cost(limit, || {
        for _ in 0..1000 {
            accumulate::<true>(std::slice::from_mut(&mut acc), &a, &b, (0..4).map(|_| (0, 0)), std::iter::empty(), run);
        }
    });
    let gflops = 2.0 * 4096.0 * 8.0 * 4.0 * 1000.0 / cost.clock / 1e9;
    // The CPU supports f32, so there is a class.
    let class = choose(DeviceChoice::Cpu, Precision::F32).map(|compute| compute.numerics).unwrap_or_default();
    println!("one core's multiply-adds in cache: {gflops:.0} GFLOP/s ({class})");
    gflops
}

/// The products of each layer, measured separately: their share of the sum, GFLOP/s per second of CPU time, and these
/// as a part of `peak`.
pub(crate) fn layers(limit: Duration, batch: usize, peak: f64) {
    let chunks = batch.div_ceil(16);
    let mut lines = Vec::new();
    for (geometry, ci, co) in shapes() {
        let mut c = Convolution::new(geometry, ci, co);
        let mut moments = BlockMoments::of(&c);
        let (x, mut y) = (zeroed(c.ci * geometry.inputs() * chunks), zeroed(c.co * geometry.outputs() * chunks));
        let mut dx = x.clone();
        let mut buffers = Buffers::new::<true>(&c, chunks);
        let gflop = 2.0 * (c.products() * ci * co * batch) as f64 / 1e9;
        let forward = cost(limit, || c.forward(&x, &mut y, &mut buffers, chunks)).computing;
        let input = cost(limit, || c.input_gradient(&y, &mut dx, &mut buffers, chunks)).computing;
        c.forward(&x, &mut y, &mut buffers, chunks);
        let given = BackwardInput { x: &x, dy: &y };
        let rates = Rates::new(1, 1e-3);
        let backward = cost(limit, || c.backward_and_update(&mut moments, given, &mut dx, &mut buffers, chunks, rates));
        let backward = backward.computing;
        lines.push((ci, co, [(forward, gflop), (input, gflop), (backward - input, gflop)]));
    }
    let total: f64 = lines.iter().flat_map(|(_, _, parts)| parts).map(|p| p.0).sum();
    println!("batch {batch:3}      forward                  input gradient           weight gradient and Adam");
    for (ci, co, parts) in lines {
        let parts = parts.map(|(s, gflop)| {
            format!("{:4.1} % {:4.0} GFLOP/s {:3.0} %", 100.0 * s / total, gflop / s, 100.0 * gflop / s / peak)
        });
        println!("{ci:5} → {co:4}  {}", parts.join("  "));
    }
}
