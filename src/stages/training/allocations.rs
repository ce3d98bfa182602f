//! Shows that a step of a training allocates nothing: buffers are made once.
//!
//! The test binary's allocator counts what threads ask for that say so; the threads of one pool do, and the steps run on them.
//! It also measures the bytes that a thread has allocated, for [`peak`].

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::fixed::Fixed;
use super::*;
use crate::model::DecoderShape;
use crate::model::posterior::Distribution;
use crate::rng::Streams;

thread_local! {
    static COUNTED: Cell<bool> = const { Cell::new(false) };
    /// Bytes that this thread has allocated and not freed. Memory that another thread allocated can make it negative.
    static BYTES: Cell<isize> = const { Cell::new(0) };
    /// The most that [`BYTES`] has been.
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

/// Notes that this thread allocated so many bytes, or freed them.
fn add(bytes: isize) {
    let now = BYTES.with(Cell::get).wrapping_add(bytes);
    BYTES.with(|b| b.set(now));
    MOST.with(|most| most.set(most.get().max(now)));
}

/// Runs a closure and returns the most bytes that it had allocated on this thread at any one time.
pub(crate) fn peak(run: &mut dyn FnMut()) -> u64 {
    let before = BYTES.with(Cell::get);
    MOST.with(|most| most.set(before));
    run();
    MOST.with(Cell::get).wrapping_sub(before).unsigned_abs() as u64
}

// SAFETY: everything is handed to the system's allocator as it came; counting allocates nothing.
#[expect(unsafe_code, reason = "an allocator that counts")]
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        add(layout.size().cast_signed());
        // SAFETY: the caller's promise.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count();
        add(layout.size().cast_signed());
        // SAFETY: the caller's promise.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, place: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count();
        // The old and the new memory exist at the same time unless it grows in place.
        add(size.cast_signed());
        add(layout.size().cast_signed().wrapping_neg());
        // SAFETY: the caller's promise.
        unsafe { System.realloc(place, layout, size) }
    }

    unsafe fn dealloc(&self, place: *mut u8, layout: Layout) {
        add(layout.size().cast_signed().wrapping_neg());
        // SAFETY: the caller's promise.
        unsafe { System.dealloc(place, layout) }
    }
}

/// Every training and fit there is, on 24 images of one grey level each.
fn trainings<'a>(images: &'a Images, schedule: &'a Schedule) -> Vec<(String, Training<'a>)> {
    let shape = DecoderShape { latent_dim: 20, channels: [40, 24, 20, 8] };
    let streams = Streams::new(7);
    let families = Distribution::ALL.into_iter().map(Some).chain([None]);
    let each = families.flat_map(|family| {
        let decoder = || Box::new(Decoder::new(shape, &streams));
        let weights = decoder().weights().unwrap();
        let frozen = Fixed::Running(Box::new(crate::model::Frozen::from_weights(&weights).unwrap()));
        let nets = [
            ("learning", Net::Learning(decoder())),
            ("fit", Net::Fixed(frozen)),
            ("fit, batch statistics", Net::Fixed(Fixed::Batch(decoder()))),
        ];
        nets.map(|(name, net)| {
            let latents = Latents::start(family, (images.count, shape.latent_dim), 1.0, &streams, "test");
            (format!("{name} {family:?}"), Training::new("test", net, latents, images, schedule))
        })
    });
    each.collect()
}

#[test]
fn a_step_allocates_nothing() {
    let images = Images { pixels: (0..24 * PIXELS).map(|i| (i / PIXELS * 10) as u8).collect(), count: 24 };
    let rates = Rates { batch: 10, lr: Some(1e-3), latent_lr: 1e-2, kl_weight: 0.1, noise: 1.0 };
    let schedule = Schedule(vec![(2, rates)]);
    let mark = |_| COUNTED.with(|counted| counted.set(true));
    let pool = rayon::ThreadPoolBuilder::new().num_threads(2).start_handler(mark).build().unwrap();
    let rows: Vec<usize> = (0..24).collect();
    for (name, mut training) in trainings(&images, &schedule) {
        let mut epoch = |epoch: u64| {
            let mut counted = Vec::new();
            training.latents.begin_epoch(3, rates.batch);
            for (step, rows) in (0..).zip(rows.chunks(rates.batch)) {
                let at = Position { epoch, step };
                let before = ALLOCATIONS.load(Ordering::Relaxed);
                let figures = training.step(&Streams::new(7), at, rows, rates);
                counted.push(ALLOCATIONS.load(Ordering::Relaxed) - before);
                assert!(figures.loss.is_finite());
            }
            counted
        };
        let (first, second) = pool.install(|| (epoch(0), epoch(1)));
        assert!(first.iter().sum::<usize>() > 0, "{name}: the buffers of the first epoch are counted");
        assert_eq!(second, [0, 0, 0], "{name}");
    }
}
