//! Whole steps on the emulated machine, compared with the CPU's operations. Without a C++ compiler, these tests print
//! that and pass.

use std::collections::BTreeMap;

use super::emulated::Emulated;
use super::*;
use crate::model::{Decoder, Frozen};
use crate::ops::adam::Rates;
use crate::rng::Streams;

const SHAPE: DecoderShape = DecoderShape { latent_dim: 5, channels: [20, 18, 17, 3] };
const SAMPLES: usize = 11;
const RATES: EpochRates = EpochRates { batch: 4, lr: 1e-2, latent_lr: 3e-2, kl_weight: 0.7 };

fn machine() -> Option<Box<dyn Machine>> {
    match Emulated::new() {
        Some(machine) => Some(Box::new(machine)),
        None => {
            eprintln!("skipped: there is no g++ to build the kernels with");
            None
        }
    }
}

fn images() -> Vec<u8> {
    let mut out = vec![0.0; SAMPLES * PIXELS];
    Streams::new(2).stream("images", 0, 0).uniforms(&mut out);
    out.iter().map(|v| (v * 255.0) as u8).collect()
}

fn order() -> Vec<usize> {
    let mut order: Vec<usize> = (0..SAMPLES).collect();
    Streams::new(2).stream("order", 0, 0).shuffle(&mut order);
    order
}

fn latents(distribution: Option<Distribution>) -> LatentArrays {
    let parameters = distribution.map_or(1, |d| d.parameters().len());
    let arrays = (0..parameters).map(|i| {
        let mut values = vec![0.0; SAMPLES * SHAPE.latent_dim];
        Streams::new(6).stream("latents", 0, i as u64).normals(&mut values);
        let zeros = vec![0.0; values.len()];
        [values, zeros.clone(), zeros]
    });
    LatentArrays { distribution, parameters: arrays.collect(), step: 0 }
}

/// A decoder after a few steps, so that its moments and statistics are not the initial ones.
fn decoder() -> Decoder {
    let mut decoder = Decoder::new(SHAPE, &Streams::new(1));
    let z = &latents(None).parameters[0][0];
    for _ in 0..3 {
        decoder.train_step(z, &images(), 1e-3);
    }
    decoder
}

fn close(found: &[f32], wanted: &[f32], tolerance: f32, what: &str) {
    assert_eq!(found.len(), wanted.len(), "{what}");
    let scale = wanted.iter().fold(0.0f32, |s, w| s.max(w.abs()));
    for (at, (f, w)) in found.iter().zip(wanted).enumerate() {
        assert!((f - w).abs() <= tolerance * (scale + 1e-12), "{what} at {at}: {f}, not {w} (of {scale})");
    }
}

/// The results of an epoch on the CPU.
struct Expected {
    losses: Vec<StepLoss>,
    latents: LatentArrays,
}

/// Runs an epoch with the CPU's operations. `pass` runs the network.
fn expected(
    mut latents: LatentArrays,
    noise: &[f32],
    learns: bool,
    mut pass: impl FnMut(&[f32], &[u8]) -> (f64, Vec<f32>),
) -> Expected {
    let (images, dim) = (images(), SHAPE.latent_dim);
    let mut losses = Vec::new();
    let weight = if learns { RATES.kl_weight } else { 0.0 };
    for (step, rows) in order().chunks(RATES.batch).enumerate() {
        let pixels: Vec<u8> = rows.iter().flat_map(|row| &images[row * PIXELS..(row + 1) * PIXELS]).copied().collect();
        let places: Vec<usize> = rows.iter().flat_map(|row| row * dim..(row + 1) * dim).collect();
        let value = |l: &LatentArrays, i: usize, at: usize| l.parameters.get(i).map_or(0.0, |p| f64::from(p[0][at]));
        let e = |n: usize| f64::from(noise[step * RATES.batch * dim + n]);
        let pair = |l: &LatentArrays, at: usize| [value(l, 0, at), value(l, 1, at)];
        let draw = |(n, at): (usize, &usize)| match latents.distribution {
            None => latents.parameters[0][0][*at],
            Some(d) => d.sample(pair(&latents, *at), e(n)) as f32,
        };
        let z: Vec<f32> = places.iter().enumerate().map(draw).collect();
        let kls = places.iter().map(|at| latents.distribution.map_or(0.0, |d| d.kl(pair(&latents, *at))));
        let kl = kls.sum::<f64>() / places.len() as f64;
        let (squared_error, dz) = pass(&z, &pixels);
        losses.push(StepLoss { squared_error, kl });
        let mut gradients = vec![vec![0.0; SAMPLES * dim]; latents.parameters.len()];
        for (n, at) in places.iter().enumerate() {
            let Some(d) = latents.distribution else {
                gradients[0][*at] = dz[n];
                continue;
            };
            let (by_z, by_kl) = (d.sample_gradient(pair(&latents, *at), e(n)), d.kl_gradient(pair(&latents, *at)));
            for (i, gradient) in gradients.iter_mut().enumerate() {
                gradient[*at] = (f64::from(dz[n]) * by_z[i] + weight / places.len() as f64 * by_kl[i]) as f32;
            }
        }
        latents.step += 1;
        for ([p, m, v], gradient) in latents.parameters.iter_mut().zip(&gradients) {
            Rates::new(latents.step, RATES.latent_lr).step(p, gradient, m, v);
        }
    }
    Expected { losses, latents }
}

fn noise(distribution: Option<Distribution>) -> Vec<f32> {
    let Some(distribution) = distribution else { return Vec::new() };
    let mut noise = vec![0.0; SAMPLES * SHAPE.latent_dim];
    distribution.noise(&mut Streams::new(3).stream("noise", 0, 0), &mut noise);
    noise
}

fn epoch(training: &mut CudaTraining, noise: &[f32], rates: EpochRates) -> Vec<StepLoss> {
    training.begin_epoch(&order(), 0, noise, rates).unwrap();
    (0..3).for_each(|_| training.step().unwrap());
    training.losses(0..3).unwrap()
}

fn check(found: &[StepLoss], training: &CudaTraining, expected: &Expected, tolerance: f32) {
    for (found, wanted) in found.iter().zip(&expected.losses) {
        assert!((found.squared_error / wanted.squared_error - 1.0).abs() < 1e-4, "{found:?} {wanted:?}");
        assert!((found.kl - wanted.kl).abs() < 1e-5 * (1.0 + wanted.kl.abs()), "{found:?} {wanted:?}");
    }
    let mut latents = expected.latents.clone();
    training.latents_into(&mut latents).unwrap();
    assert_eq!(latents.step, expected.latents.step);
    for (found, wanted) in latents.parameters.iter().zip(&expected.latents.parameters) {
        for (part, name) in ["values", "m", "v"].into_iter().enumerate() {
            close(&found[part], &wanted[part], tolerance, name);
        }
    }
}

fn families() -> impl Iterator<Item = Option<Distribution>> {
    Distribution::ALL.into_iter().map(Some).chain([None])
}

#[test]
fn epoch_of_training_equals_that_of_cpu() {
    for distribution in families() {
        let Some(machine) = machine() else { return };
        let mut decoder = decoder();
        let mut state = decoder.state().unwrap();
        let setting = (SHAPE, Statistics::Learning);
        let mut training = CudaTraining::on(machine, setting, &state, &latents(distribution), &images()).unwrap();
        let noise = noise(distribution);
        let losses = epoch(&mut training, &noise, RATES);
        let expected = expected(latents(distribution), &noise, true, |z, pixels| {
            let step = decoder.train_step(z, pixels, RATES.lr);
            (step.squared_error, step.latent_gradient.to_vec())
        });
        check(&losses, &training, &expected, 2e-3);
        training.decoder_into(&mut state).unwrap();
        let layout = Layout::new(SHAPE);
        let (found, wanted) = (layout.read(&state).unwrap(), layout.read(&decoder.state().unwrap()).unwrap());
        assert_eq!(found.step, wanted.step);
        close(&found.statistics, &wanted.statistics, 1e-4, "running statistics");
        // Compared by array, because the gradients of some layers are much smaller than those of others.
        let ranges = layout.weights.iter().chain(layout.norms.iter().flatten()).chain([&layout.bias, &layout.tail]);
        for range in ranges {
            for (part, tolerance) in [(1, 2e-3), (2, 4e-3)] {
                let slice = |a: &Arrays| a.parameters[part][range.clone()].to_vec();
                close(&slice(&found), &slice(&wanted), tolerance, &format!("{distribution:?} {part} {range:?}"));
            }
        }
    }
}

/// The largest deviation of a gradient after one step with all samples, relative to the scale of each parameter array.
fn worst_gradient(machine: Box<dyn Machine>, seed: i64) -> f32 {
    // If moments start at 0, the first moment after a step is a tenth of the gradient.
    let mut decoder = Decoder::new(SHAPE, &Streams::new(seed));
    let mut state = decoder.state().unwrap();
    let (start, images, order, dim) = (latents(None), images(), order(), SHAPE.latent_dim);
    let mut training = CudaTraining::on(machine, (SHAPE, Statistics::Learning), &state, &start, &images).unwrap();
    training.begin_epoch(&order, 0, &[], EpochRates { batch: SAMPLES, ..RATES }).unwrap();
    training.step().unwrap();
    let z: Vec<f32> = order.iter().flat_map(|r| start.parameters[0][0][r * dim..(r + 1) * dim].to_vec()).collect();
    let pixels: Vec<u8> = order.iter().flat_map(|r| images[r * PIXELS..(r + 1) * PIXELS].to_vec()).collect();
    let expected = decoder.train_step(&z, &pixels, RATES.lr).squared_error;
    let found = training.losses(0..1).unwrap()[0].squared_error;
    assert!((found / expected - 1.0).abs() < 1e-6, "{found} {expected}");
    training.decoder_into(&mut state).unwrap();
    let layout = Layout::new(SHAPE);
    let (found, wanted) = (layout.read(&state).unwrap(), layout.read(&decoder.state().unwrap()).unwrap());
    close(&found.statistics, &wanted.statistics, 1e-6, "running statistics");
    let parts = layout.weights.iter().chain(layout.norms.iter().flatten()).chain([&layout.bias, &layout.tail]);
    let deviation = |range: &std::ops::Range<usize>| {
        let (found, wanted) = (&found.parameters[1][range.clone()], &wanted.parameters[1][range.clone()]);
        let scale = wanted.iter().fold(0.0f32, |s, w| s.max(w.abs()));
        found.iter().zip(wanted).fold(0.0f32, |s, (f, w)| s.max((f - w).abs())) / scale
    };
    parts.map(deviation).fold(0.0, f32::max)
}

#[test]
fn gradients_of_one_step_equal_those_of_cpu() {
    // Rounding decides whether a gradient passes a ReLU whose input is nearly 0. That may happen in some decoders, not
    // in most.
    let mut worst = Vec::new();
    for seed in 10..15 {
        let Some(machine) = machine() else { return };
        worst.push(worst_gradient(machine, seed));
    }
    worst.sort_by(f32::total_cmp);
    assert!(worst[2] < 2e-5, "{worst:?}");
}

#[test]
fn fit_changes_only_the_latents() {
    for distribution in families() {
        let noise = noise(distribution);
        let rates = EpochRates { kl_weight: 0.0, ..RATES };
        let mut batch = decoder();
        let mut frozen = Frozen::from_weights(&batch.weights().unwrap()).unwrap();
        let folded = frozen.unfolded_state().unwrap();
        for (statistics, state) in [(Statistics::Batch, batch.state().unwrap()), (Statistics::Folded, folded)] {
            let Some(machine) = machine() else { return };
            let setting = (SHAPE, statistics);
            let mut training = CudaTraining::on(machine, setting, &state, &latents(distribution), &images()).unwrap();
            let losses = epoch(&mut training, &noise, rates);
            let expected = expected(latents(distribution), &noise, false, |z, pixels| {
                let step = match statistics {
                    Statistics::Folded => frozen.loss_and_gradient(z, pixels),
                    _ => batch.batch_loss_and_gradient(z, pixels),
                };
                (step.squared_error, step.latent_gradient.to_vec())
            });
            check(&losses, &training, &expected, 2e-3);
            let mut after = state.clone();
            training.decoder_into(&mut after).unwrap();
            assert_eq!(after, state, "the decoder does not change");
        }
    }
}

#[test]
fn epoch_in_two_parts_gives_the_same_bytes() {
    let Some(machine) = machine() else { return };
    let mut state = decoder().state().unwrap();
    let start = latents(Some(Distribution::Uniform));
    let noise = noise(start.distribution);
    let setting = (SHAPE, Statistics::Learning);
    let mut whole = CudaTraining::on(machine, setting, &state, &start, &images()).unwrap();
    let losses = epoch(&mut whole, &noise, RATES);

    let on = |state: &BTreeMap<String, Tensor>, latents: &LatentArrays| {
        CudaTraining::on(self::machine().unwrap(), setting, state, latents, &images()).unwrap()
    };
    let mut first = on(&state, &start);
    first.begin_epoch(&order(), 0, &noise, RATES).unwrap();
    first.step().unwrap();
    let mut latents = start.clone();
    first.decoder_into(&mut state).unwrap();
    first.latents_into(&mut latents).unwrap();
    let mut second = on(&state, &latents);
    second.begin_epoch(&order(), 1, &noise, RATES).unwrap();
    second.step().unwrap();
    second.step().unwrap();
    assert_eq!(first.losses(0..1).unwrap(), losses[..1]);
    assert_eq!(second.losses(1..3).unwrap(), losses[1..]);
    let (mut one, mut other) = (state.clone(), state);
    whole.decoder_into(&mut one).unwrap();
    second.decoder_into(&mut other).unwrap();
    assert_eq!(one, other);
}

#[test]
fn results_do_not_depend_on_order_of_threads_blocks_and_products() {
    for distribution in families() {
        let run = |backwards| {
            let mut machine = Emulated::new()?;
            machine.backwards = backwards;
            let mut state = decoder().state().unwrap();
            let mut latents = latents(distribution);
            let setting = (SHAPE, Statistics::Learning);
            let mut training = CudaTraining::on(Box::new(machine), setting, &state, &latents, &images()).unwrap();
            let losses = epoch(&mut training, &noise(distribution), RATES);
            training.decoder_into(&mut state).unwrap();
            training.latents_into(&mut latents).unwrap();
            Some((losses, state, latents))
        };
        assert!(run(false) == run(true), "{distribution:?}: a race");
    }
}

/// A process searches for the driver once, so `on_a_fake_driver` runs in a process of its own, which finds the fake.
#[test]
fn gpu_computes_the_results_of_the_emulated_machine() {
    let folder = tempfile::tempdir().unwrap();
    if !super::emulated::fake_driver(folder.path()) {
        eprintln!("skipped: there is no g++ to build the kernels with");
        return;
    }
    let name = "model::cuda::tests::on_a_fake_driver";
    let output = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--ignored", "--exact", name])
        .env("LD_LIBRARY_PATH", folder.path())
        .output()
        .unwrap();
    let printed = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success() && printed.contains("1 passed"),
        "{printed}{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

#[test]
#[ignore = "run by gpu_computes_the_results_of_the_emulated_machine"]
fn on_a_fake_driver() {
    assert_eq!(class(0).unwrap(), "cuda3-sm90x1-cublas13.1.2-nvrtc13.1");
    assert!(class(1).is_err());
    let run = |machine: Box<dyn Machine>, statistics| {
        let mut state = decoder().state().unwrap();
        let mut latents = latents(Some(Distribution::Gaussian));
        let mut training = CudaTraining::on(machine, (SHAPE, statistics), &state, &latents, &images()).unwrap();
        // Two epochs, because the second replays a recording.
        let noise = noise(latents.distribution);
        let losses = [epoch(&mut training, &noise, RATES), epoch(&mut training, &noise, RATES)];
        training.decoder_into(&mut state).unwrap();
        training.latents_into(&mut latents).unwrap();
        (losses, state, latents)
    };
    for statistics in [Statistics::Learning, Statistics::Batch, Statistics::Folded] {
        let wanted = run(self::machine().unwrap(), statistics);
        for (graph, tf32) in [(false, false), (true, false), (true, true)] {
            let gpu = Gpu::new(Options { ordinal: 0, tf32, graph }).unwrap();
            assert!(run(Box::new(gpu), statistics) == wanted, "{statistics:?} {graph} {tf32}");
        }
    }
}

#[test]
fn kernels_compile_for_gpus() {
    // NVRTC needs no GPU, but may not be installed.
    if super::opened::compiler().is_err() {
        eprintln!("skipped: there is no NVRTC");
        return;
    }
    for architecture in [(8, 0), (9, 0), (12, 0)] {
        assert!(!super::opened::compile(architecture).unwrap().is_empty(), "{architecture:?}");
    }
}
