//! Tests that a training step allocates nothing once its buffers exist.
//!
//! The allocator of the test binary counts the allocations of the threads of one pool, on which the test runs its
//! steps. It also measures how many bytes each thread has allocated, for [`peak`].

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::history::PIXELS;
use super::net::Fixed;
use super::*;
use crate::model::posterior::Distribution;
use crate::model::{Decoder, DecoderShape};
use crate::rng::Streams;

thread_local! {
    /// Whether to count this thread's allocations.
    static COUNTED: Cell<bool> = const { Cell::new(false) };
    /// Bytes that this thread has allocated minus those that it has freed. Freeing another thread's memory can make it
    /// negative.
    static BYTES: Cell<isize> = const { Cell::new(0) };
    /// The maximum of [`BYTES`].
    static MOST: Cell<isize> = const { Cell::new(0) };
}

static ALLOCATIONS: AtomicUsize = AtomicUsize::new(0);

struct Counting;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn count() {
    if COUNTED.with(Cell::get) {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
    }
}

/// Records that this thread allocated bytes, or freed them if `bytes` is negative.
fn add(bytes: isize) {
    let now = BYTES.with(Cell::get).wrapping_add(bytes);
    BYTES.with(|b| b.set(now));
    MOST.with(|most| most.set(most.get().max(now)));
}

/// Runs a closure and returns the maximum of the bytes that it held on this thread at one time.
pub(crate) fn peak(run: &mut dyn FnMut()) -> u64 {
    let before = BYTES.with(Cell::get);
    MOST.with(|most| most.set(before));
    run();
    MOST.with(Cell::get).wrapping_sub(before).unsigned_abs() as u64
}

// SAFETY: each call is passed on unchanged to the system's allocator; counting allocates nothing.
#[expect(unsafe_code, reason = "an allocator that counts")]
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        add(layout.size().cast_signed());
        // SAFETY: the caller keeps the contract of `GlobalAlloc`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count();
        add(layout.size().cast_signed());
        // SAFETY: the caller keeps the contract of `GlobalAlloc`.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, place: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count();
        // The old and the new memory exist at the same time unless it grows in place.
        add(size.cast_signed());
        add(layout.size().cast_signed().wrapping_neg());
        // SAFETY: the caller keeps the contract of `GlobalAlloc`.
        unsafe { System.realloc(place, layout, size) }
    }

    unsafe fn dealloc(&self, place: *mut u8, layout: Layout) {
        add(layout.size().cast_signed().wrapping_neg());
        // SAFETY: the caller keeps the contract of `GlobalAlloc`.
        unsafe { System.dealloc(place, layout) }
    }
}

/// A learning decoder, and the two kinds of fixed ones.
struct Nets {
    learning: Decoder,
    fixed: [Fixed; 2],
}

impl Nets {
    fn new(shape: DecoderShape) -> Self {
        let decoder = || Decoder::new(shape, &Streams::new(7));
        let frozen = crate::model::Frozen::from_weights(&decoder().weights().unwrap()).unwrap();
        Self { learning: decoder(), fixed: [Fixed::Running(Box::new(frozen)), Fixed::Batch(Box::new(decoder()))] }
    }

    fn all(&mut self) -> [(&'static str, Net<'_>); 3] {
        let [running, batch] = &mut self.fixed;
        [
            ("training", Net::Learning(&mut self.learning)),
            ("fit", Net::Fixed(running)),
            ("fit with batch statistics", Net::Fixed(batch)),
        ]
    }
}

/// How many allocations each step of an epoch makes.
fn allocations(engine: &mut CpuEngine<'_>, epoch: &Epoch<'_>, losses: &mut Vec<StepLoss>) -> Vec<usize> {
    let mut counted = Vec::with_capacity(epoch.steps());
    engine.begin_epoch(epoch, 0).unwrap();
    for step in 0..epoch.steps() {
        let before = ALLOCATIONS.load(Ordering::Relaxed);
        engine.step(epoch, step).unwrap();
        engine.losses(false, losses).unwrap();
        counted.push(ALLOCATIONS.load(Ordering::Relaxed) - before);
        assert!(losses.drain(..).all(|loss| loss.squared_error.is_finite()));
    }
    counted
}

#[test]
fn step_allocates_nothing() {
    let images = Images { pixels: (0..24 * PIXELS).map(|i| (i / PIXELS * 10) as u8).collect(), count: 24 };
    let rates = Rates { batch: 10, lr: Some(1e-3), latent_lr: 1e-2, kl_weight: 0.1, noise: 1.0 };
    let mark = |_| COUNTED.with(|counted| counted.set(true));
    let pool = rayon::ThreadPoolBuilder::new().num_threads(2).start_handler(mark).build().unwrap();
    let order: Vec<usize> = (0..24).collect();
    let shape = DecoderShape { latent_dim: 20, channels: [40, 24, 20, 8] };
    let streams = Streams::new(7);
    for family in Distribution::ALL.into_iter().map(Some).chain([None]) {
        for (name, net) in Nets::new(shape).all() {
            let mut latents = Latents::start(family, (images.count, shape.latent_dim), 1.0, &streams, "test");
            let [first, second] = pool.install(|| {
                let mut engine = CpuEngine::new("test", net, &mut latents, &images, streams);
                let mut losses = Vec::new();
                [0, 1].map(|number| {
                    let epoch = Epoch { number, order: &order, rates, next: None };
                    allocations(&mut engine, &epoch, &mut losses)
                })
            });
            assert!(first.iter().sum::<usize>() > 0, "{name} {family:?}: the first epoch allocates the buffers");
            assert_eq!(second, [0, 0, 0], "{name} {family:?}");
        }
    }
}
