//! How fast the decoder trains and fits, beside the speed of a plain matrix product measured in the same moment.
//!
//! `cargo bench --bench train [-- SECONDS]`: each line is measured for that long (3 s). The machine's noise moves the floor
//! and the step alike, so judge by "of floor": the share of the floor's GFLOP/s at which a step does its useful 0.57 GFLOP
//! a sample (two thirds of that for fitting).
#![expect(clippy::print_stdout, reason = "a benchmark prints")]

use std::time::{Duration, Instant};

use vadpipe::model::{Decoder, DecoderShape, Frozen};
use vadpipe::rng::Streams;

const SHAPE: DecoderShape = DecoderShape { latent_dim: 128, channels: [2048, 512, 256, 128] };
/// Multiply-adds of a sample's forward pass inside the image, times two.
const FORWARD_GFLOP: f64 = 2.0
    * (128.0 * 8192.0 + 36.0 * 2048.0 * 512.0 + 196.0 * 512.0 * 256.0 + 900.0 * 256.0 * 128.0 + 256.0 * 16.0 * 128.0)
    / 1e9;

/// The seconds of the fastest call of those made in about `limit`: what the machine can do when nobody disturbs.
fn best(limit: Duration, mut call: impl FnMut()) -> f64 {
    call();
    let (start, mut best) = (Instant::now(), f64::INFINITY);
    while start.elapsed() < limit {
        let at = Instant::now();
        call();
        best = best.min(at.elapsed().as_secs_f64());
    }
    best
}

/// GFLOP/s of a 2048³ product by the `gemm` crate on all of rayon's threads.
fn floor(limit: Duration) -> f64 {
    let n = 2048;
    let (a, b, mut c) = (vec![1.0f32; n * n], vec![1.0f32; n * n], vec![0.0f32; n * n]);
    let threads = gemm::Parallelism::Rayon(rayon::current_num_threads());
    let seconds = best(limit, || {
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
    });
    2.0 * (n as f64).powi(3) / seconds / 1e9
}

fn main() {
    let seconds = std::env::args().filter_map(|a| a.parse().ok()).next().unwrap_or(3.0);
    let limit = Duration::from_secs_f64(seconds);
    let streams = Streams::new(0);
    let mut decoder = Decoder::new(SHAPE, &streams);
    let mut frozen = decoder.weights().and_then(|w| Frozen::from_weights(&w)).ok();
    println!("what   batch  samples/s  GFLOP/s  of floor (2048³ by gemm)");
    for batch in [16, 64, 128] {
        let mut z = vec![0.0; batch * SHAPE.latent_dim];
        streams.stream("z", 0, 0).normals(&mut z);
        let images: Vec<u8> = (0..batch * 784).map(|i| (i * 7919 % 256) as u8).collect();
        let line = |what: &str, seconds: f64, passes: f64, floor: f64| {
            let rate = batch as f64 / seconds;
            let gflops = rate * FORWARD_GFLOP * passes;
            println!("{what:6} {batch:5} {rate:10.0} {gflops:8.0} {:7.0} % of {floor:.0}", 100.0 * gflops / floor);
        };
        let before = floor(limit / 4);
        let train = best(limit, || {
            decoder.train_step(&z, &images, 1e-3);
        });
        line("train", train, 3.0, before);
        if let Some(frozen) = &mut frozen {
            let fit = best(limit, || {
                frozen.loss_and_gradient(&z, &images);
            });
            line("fit", fit, 2.0, before);
        }
    }
}
