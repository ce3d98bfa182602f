//! The peak performance of the machine, measured in the run that is compared with it.

use std::time::{Duration, Instant};

use rayon::prelude::*;

/// The number of rows and columns of the multiplied matrices.
const SIDE: usize = 2048;
/// GFLOP of such a product.
const PRODUCT_GFLOP: f64 = 2.0 * (SIDE * SIDE * SIDE) as f64 / 1e9;
/// Numbers in each of the triad's two arrays: 128 MiB each, 256 in all, far more than any cache.
const STREAM: usize = 32 << 20;

/// The cost of one call in seconds: the shortest wall time, and the mean CPU time of the process. On a busy machine
/// only the CPU time is meaningful.
#[derive(Clone, Copy)]
pub(crate) struct Cost {
    pub(crate) clock: f64,
    pub(crate) computing: f64,
}

/// Measures a call for about `limit`, after one unmeasured call.
pub(crate) fn cost(limit: Duration, mut call: impl FnMut()) -> Cost {
    call();
    let (start, spent, mut clock, mut calls) = (Instant::now(), computing(), f64::INFINITY, 0.0);
    while calls == 0.0 || start.elapsed() < limit {
        let at = Instant::now();
        call();
        clock = clock.min(at.elapsed().as_secs_f64());
        calls += 1.0;
    }
    Cost { clock, computing: (computing() - spent) / calls }
}

/// The CPU time of all threads of this process in seconds. 0 on systems other than Linux.
pub(crate) fn computing() -> f64 {
    let tasks = std::fs::read_dir("/proc/self/task").into_iter().flatten().flatten();
    let nanoseconds = tasks.filter_map(|task| {
        let text = std::fs::read_to_string(task.path().join("schedstat")).ok()?;
        text.split_whitespace().next()?.parse::<f64>().ok()
    });
    nanoseconds.sum::<f64>() / 1e9
}

/// The best measurements so far.
pub(crate) struct Floor {
    matrices: [Vec<f32>; 3],
    streams: [Vec<f32>; 2],
    /// GFLOP/s of the `gemm` crate's product of 2048 × 2048 matrices, by wall time, with all threads.
    pub(crate) gflops: f64,
    /// The same per second of CPU time.
    pub(crate) gflops_per_core: f64,
    /// GB/s of memory: `a = a + s·b` over 256 MiB by all threads. Each number takes three transfers of 4 bytes. There
    /// is no hidden fourth transfer, because `a` is read before it is written. Adam has the same kind of traffic.
    pub(crate) gbytes: f64,
}

impl Floor {
    pub(crate) fn new() -> Self {
        let matrices = [1.0, 1.0, 0.0].map(|v| vec![v; SIDE * SIDE]);
        let streams = [1.0, 2.0].map(|v| vec![v; STREAM]);
        Self { matrices, streams, gflops: 0.0, gflops_per_core: 0.0, gbytes: 0.0 }
    }

    /// Measures again, for about `limit`.
    pub(crate) fn measure(&mut self, limit: Duration) {
        let [a, b, c] = &mut self.matrices;
        let product = cost(limit / 2, || multiply(a, b, c));
        self.gflops = self.gflops.max(PRODUCT_GFLOP / product.clock);
        self.gflops_per_core = self.gflops_per_core.max(PRODUCT_GFLOP / product.computing);
        let [a, b] = &mut self.streams;
        let triad = cost(limit / 2, || {
            let parts = a.par_chunks_mut(1 << 16).zip(b.par_chunks(1 << 16));
            parts.for_each(|(a, b)| a.iter_mut().zip(b).for_each(|(a, b)| *a += 1e-9 * b));
        });
        self.gbytes = self.gbytes.max(12.0 * STREAM as f64 / triad.clock / 1e9);
    }
}

/// c = a·b by the `gemm` crate on all of rayon's threads.
fn multiply(a: &[f32], b: &[f32], c: &mut [f32]) {
    let threads = match rayon::current_num_threads() {
        1 => gemm::Parallelism::None,
        n => gemm::Parallelism::Rayon(n),
    };
    let (n, stride) = (SIDE, SIDE as isize);
    assert!([a.len(), b.len(), c.len()] == [n * n; 3]);
    // SAFETY: three n × n row-major matrices, and c does not overlap the others.
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
}
