//! How fast the decoder trains and fits, beside the speed of a plain matrix product measured in the same moment.
//!
//! `cargo bench --bench train [-- SECONDS]`: each line is measured for that long (3 s). "Of floor" is the share of the floor's
//! GFLOP/s at which a step does its useful 0.57 GFLOP a sample (two thirds of that for fitting); noise moves both alike.
#![expect(clippy::print_stdout, reason = "a benchmark prints")]

use std::time::{Duration, Instant};

use vadpipe::model::{Decoder, DecoderShape, Frozen};
use vadpipe::ops::adam::Rates;
use vadpipe::ops::block::{Block, zeroed};
use vadpipe::ops::kernel::{Run, accumulate};
use vadpipe::ops::transposed::{BlockMoments, Convolution, Geometry, Given};
use vadpipe::rng::Streams;

const BATCHES: [usize; 3] = [16, 64, 128];
const SHAPE: DecoderShape = DecoderShape { latent_dim: 128, channels: [2048, 512, 256, 128] };
/// Multiply-adds of a sample's forward pass inside the image, times two.
const FORWARD_GFLOP: f64 = 2.0
    * (128.0 * 8192.0 + 36.0 * 2048.0 * 512.0 + 196.0 * 512.0 * 256.0 + 900.0 * 256.0 * 128.0 + 256.0 * 16.0 * 128.0)
    / 1e9;

/// Seconds of one call: the fastest by the clock, and the mean of what the process's threads spent computing. On a busy
/// machine only the second says much.
#[derive(Clone, Copy)]
struct Cost {
    clock: f64,
    computing: f64,
}

/// What a call costs, measured for about `limit`.
fn cost(limit: Duration, mut call: impl FnMut()) -> Cost {
    call();
    let (start, spent, mut clock, mut calls) = (Instant::now(), computing(), f64::INFINITY, 0.0);
    while start.elapsed() < limit {
        let at = Instant::now();
        call();
        clock = clock.min(at.elapsed().as_secs_f64());
        calls += 1.0;
    }
    Cost { clock, computing: (computing() - spent) / calls }
}

/// Seconds that all threads of this process have been running (Linux; elsewhere 0).
fn computing() -> f64 {
    let tasks = std::fs::read_dir("/proc/self/task").into_iter().flatten().flatten();
    let nanoseconds = tasks.filter_map(|task| {
        let text = std::fs::read_to_string(task.path().join("schedstat")).ok()?;
        text.split_whitespace().next()?.parse::<f64>().ok()
    });
    nanoseconds.sum::<f64>() / 1e9
}

/// GFLOP of a 2048³ product.
const FLOOR_GFLOP: f64 = 2.0 * 2048.0 * 2048.0 * 2048.0 / 1e9;

/// A 2048³ product by the `gemm` crate on all of rayon's threads.
fn floor(limit: Duration) -> Cost {
    let n = 2048;
    let (a, b, mut c) = (vec![1.0f32; n * n], vec![1.0f32; n * n], vec![0.0f32; n * n]);
    let threads = match rayon::current_num_threads() {
        1 => gemm::Parallelism::None,
        n => gemm::Parallelism::Rayon(n),
    };
    cost(limit, || {
        let stride = n as isize;
        // SAFETY: three n × n row-major matrices, c apart from the others.
        #[expect(unsafe_code, reason = "gemm's only interface")]
        unsafe {
            gemm::gemm(
                n,
                n,
                n,
                c.as_mut_ptr(),
                1,
                stride,
                false,
                a.as_ptr(),
                1,
                stride,
                b.as_ptr(),
                1,
                stride,
                0.0,
                1.0,
                false,
                false,
                false,
                threads,
            );
        }
    })
}

/// GFLOP/s of one core's multiply-adds when all operands are in its first-level cache: the kernel's own ceiling.
fn ceiling(limit: Duration) -> f64 {
    let (a, b) = (vec![Block([[0.5; 16]; 16]); 8], vec![Block([[0.25; 16]; 16]); 8]);
    let mut acc = Block::ZERO;
    let run = Run { blocks: 8, scalars: 1, vectors: 1 };
    let cost = cost(limit, || {
        for _ in 0..1000 {
            accumulate::<true>(&mut acc, &a, &b, (0..4).map(|_| (0, 0)), run);
        }
    });
    2.0 * 4096.0 * 8.0 * 4.0 * 1000.0 / cost.clock / 1e9
}

/// Each layer's products, by themselves: percent of their sum, and GFLOP/s per core while computing.
fn layers(limit: Duration, batch: usize) {
    let chunks = batch.div_ceil(16);
    let up = |input| Geometry { input, kernel: 4, stride: 2, padding: 1 };
    let full = Geometry { input: 1, kernel: 2, stride: 1, padding: 0 };
    let taps = Geometry { input: 16, kernel: 1, stride: 1, padding: 0 };
    let shapes = [(full, 128, 2048), (up(2), 2048, 512), (up(4), 512, 256), (up(8), 256, 128), (taps, 128, 16)];
    let mut lines = Vec::new();
    for (geometry, ci, co) in shapes {
        let mut c = Convolution::new(geometry, ci, co);
        let mut moments = BlockMoments::of(&c);
        let (x, mut y) = (zeroed(c.ci * c.plan.inputs() * chunks), zeroed(c.co * c.plan.outputs() * chunks));
        let (mut dx, rows) = (x.clone(), y.clone());
        let products: usize = c.plan.by_tap.iter().map(Vec::len).sum();
        let gflop = 2.0 * (products * ci * co * batch) as f64 / 1e9;
        let forward = cost(limit, || c.forward(&x, &mut y, chunks)).computing;
        let input = cost(limit, || c.input_gradient(&y, &mut dx, chunks)).computing;
        let given = Given { x: &x, dy: &y, rows: &rows };
        let rates = Rates::new(1, 1e-3);
        let backward = cost(limit, || c.backward_and_update(&mut moments, given, &mut dx, chunks, rates)).computing;
        lines.push((ci, co, [(forward, gflop), (input, gflop), (backward - input, gflop)]));
    }
    let total: f64 = lines.iter().flat_map(|(_, _, parts)| parts).map(|p| p.0).sum();
    println!("batch {batch:3}      forward           input gradient    weight gradient and Adam");
    for (ci, co, parts) in lines {
        let parts = parts.map(|(s, gflop)| format!("{:4.1} % {:4.0} GFLOP/s", 100.0 * s / total, gflop / s));
        println!("{ci:5} → {co:4}  {}", parts.join("  "));
    }
}

fn main() {
    let seconds = std::env::args().filter_map(|a| a.parse().ok()).next().unwrap_or(3.0);
    let limit = Duration::from_secs_f64(seconds);
    let streams = Streams::new(0);
    let mut decoder = Decoder::new(SHAPE, &streams);
    let mut frozen = decoder.weights().and_then(|w| Frozen::from_weights(&w)).ok();
    println!("        by the clock                    computing, per core (floor: 2048³ by gemm)");
    println!("  batch samples/s  GFLOP/s  of floor  samples/s  GFLOP/s  of floor");
    for batch in BATCHES {
        let mut z = vec![0.0; batch * SHAPE.latent_dim];
        streams.stream("z", 0, 0).normals(&mut z);
        let images: Vec<u8> = (0..batch * 784).map(|i| (i * 7919 % 256) as u8).collect();
        let floor = floor(limit / 4);
        let line = |what: &str, cost: Cost, passes: f64| {
            let part = |seconds: f64, floor: f64| {
                let gflops = FORWARD_GFLOP * passes * batch as f64 / seconds;
                let floor = FLOOR_GFLOP / floor;
                format!("{:9.0} {gflops:8.0} {:4.0} % of {floor:3.0}", batch as f64 / seconds, 100.0 * gflops / floor)
            };
            let (clock, computing) = (part(cost.clock, floor.clock), part(cost.computing, floor.computing));
            println!("{what:5} {batch:3} {clock} {computing}");
        };
        line(
            "train",
            cost(limit, || {
                decoder.train_step(&z, &images, 1e-3);
            }),
            3.0,
        );
        if let Some(frozen) = &mut frozen {
            line(
                "fit",
                cost(limit, || {
                    frozen.loss_and_gradient(&z, &images);
                }),
                2.0,
            );
        }
    }
    println!("one core's multiply-adds in cache: {:.0} GFLOP/s", ceiling(limit / 4));
    for batch in BATCHES {
        layers(limit / 10, batch);
    }
}
