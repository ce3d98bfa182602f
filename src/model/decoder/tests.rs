use super::*;
use crate::artifact::Tensor;
use crate::model::GraphDecoder;
use crate::ops::tail::PIXELS;
use candle_core::Device;
use rayon::ThreadPoolBuilder;

const TINY: DecoderShape = DecoderShape { latent_dim: 3, channels: [8, 6, 5, 4] };
/// Each size is more than one panel, and not a multiple of it.
const ODD: DecoderShape = DecoderShape { latent_dim: 18, channels: [35, 33, 20, 17] };

fn batch_of(samples: usize, shape: DecoderShape) -> (Vec<f32>, Vec<u8>) {
    let streams = Streams::new(7);
    let mut z = vec![0.0; samples * shape.latent_dim];
    streams.stream("z", 0, 0).normals(&mut z);
    let mut stream = streams.stream("images", 0, 0);
    let images = (0..samples * PIXELS).map(|_| stream.below(256) as u8).collect();
    (z, images)
}

/// The largest difference, relative to the largest expected number.
fn difference(found: &[f32], expected: &[f32]) -> f32 {
    assert_eq!(found.len(), expected.len());
    let largest = expected.iter().fold(0.0f32, |a, v| a.max(v.abs()));
    let apart = found.iter().zip(expected).fold(0.0f32, |a, (f, e)| a.max((f - e).abs()));
    apart / largest.max(f32::MIN_POSITIVE)
}

fn assert_weights_agree(found: &BTreeMap<String, Tensor>, expected: &BTreeMap<String, Tensor>, tolerance: f32) {
    assert_eq!(found.keys().collect::<Vec<_>>(), expected.keys().collect::<Vec<_>>());
    for (name, tensor) in found {
        assert_eq!(tensor.shape(), expected[name].shape(), "{name}");
        let apart = difference(&tensor.to_vec().unwrap(), &expected[name].to_vec().unwrap());
        assert!(apart < tolerance, "{name} differs by {apart}");
    }
}

#[test]
fn training_lowers_the_loss_of_a_batch() {
    let (mut z, images) = batch_of(5, TINY);
    let mut decoder = Decoder::new(TINY, &Streams::new(1));
    let first = decoder.train_step(&z, &images, 1e-2).loss;
    for _ in 0..50 {
        let step = decoder.train_step(&z, &images, 1e-2);
        z.iter_mut().zip(step.latent_gradient).for_each(|(z, g)| *z -= 10.0 * g);
    }
    let last = decoder.train_step(&z, &images, 1e-2).loss;
    assert!(last < 0.95 * first, "{first} {last}");
}

#[test]
fn training_equals_autograd_of_candle() {
    for (shape, samples) in [(TINY, 5), (TINY, 1), (ODD, 21)] {
        let (z, images) = batch_of(samples, shape);
        let mut decoder = Decoder::new(shape, &Streams::new(1));
        let mut graph = GraphDecoder::from_weights(&decoder.weights().unwrap(), &Device::Cpu).unwrap();
        for step in 0..4 {
            let expected = graph.train_step(&z, &images, 1e-3).unwrap();
            let found = decoder.train_step(&z, &images, 1e-3);
            assert!((found.loss / expected.loss - 1.0).abs() < 1e-5, "{} {}", found.loss, expected.loss);
            assert!((found.squared_error / expected.squared_error - 1.0).abs() < 1e-5);
            let apart = difference(found.latent_gradient, &expected.latent_gradient);
            assert!(apart < 1e-3, "step {step} of {shape:?}: latent gradients differ by {apart}");
        }
        // Adam divides by the size of the gradient. Where that is only rounding, weights may differ by a step.
        assert_weights_agree(&decoder.weights().unwrap(), &graph.weights().unwrap(), 0.02);
    }
}

#[test]
fn moments_of_first_step_are_gradients_of_candle() {
    let (z, images) = batch_of(21, ODD);
    let mut decoder = Decoder::new(ODD, &Streams::new(1));
    let mut graph = GraphDecoder::from_weights(&decoder.weights().unwrap(), &Device::Cpu).unwrap();
    decoder.train_step(&z, &images, 1e-3);
    graph.train_step(&z, &images, 1e-3).unwrap();
    // Moments replace the weights, to use the conversion of weights.
    for (c, moments) in decoder.convolutions.iter_mut().zip(&decoder.moments) {
        c.change_weights(|weights| weights.copy_from_slice(&moments.m));
    }
    for small in decoder.norms.iter_mut().flat_map(|n| [&mut n.gamma, &mut n.beta]) {
        small.w.clone_from(&small.m);
    }
    decoder.bias.w.clone_from(&decoder.bias.m);
    decoder.tail.w.clone_from(&decoder.tail.m);
    let found = decoder.weights().unwrap();
    for (name, expected) in graph.first_moments().unwrap() {
        let apart = difference(&found[&name].to_vec().unwrap(), &expected);
        assert!(apart < 1e-4, "{name} differs by {apart}");
    }
}

#[test]
fn latent_gradient_is_the_slope_of_the_loss() {
    let (z, images) = batch_of(4, TINY);
    let state = Decoder::new(TINY, &Streams::new(3)).state().unwrap();
    let fresh = || Decoder::from_state(TINY, &state).unwrap();
    let mut decoder = fresh();
    let step = decoder.train_step(&z, &images, 1e-3);
    let largest = step.latent_gradient.iter().fold(0.0f32, |a, v| a.max(v.abs()));
    for i in 0..z.len() {
        let at = |by: f32| {
            let mut moved = z.clone();
            moved[i] += by;
            fresh().train_step(&moved, &images, 1e-3).loss
        };
        let h = 1e-3; // Small, so that few ReLUs change sides. The loss is a mean, so its rounding is small.
        let slope = (at(h) - at(-h)) / f64::from(2.0 * h);
        let apart = (slope - f64::from(step.latent_gradient[i])).abs() / f64::from(largest);
        assert!(apart < 0.03, "latent {i}: {slope} {}", step.latent_gradient[i]);
    }
}

/// A decoder whose moments, steps and running statistics are not the initial ones.
fn trained(shape: DecoderShape) -> Decoder {
    let (z, images) = batch_of(9, shape);
    let mut decoder = Decoder::new(shape, &Streams::new(3));
    for _ in 0..5 {
        decoder.train_step(&z, &images, 1e-2);
    }
    decoder
}

#[test]
fn step_without_update_has_same_results_and_changes_nothing() {
    for (shape, samples) in [(TINY, 5), (TINY, 1), (ODD, 21)] {
        let (z, images) = batch_of(samples, shape);
        let mut decoder = trained(shape);
        let before = decoder.state().unwrap();
        decoder.decode_batch(&z);
        let still = decoder.batch_loss_and_gradient(&z, &images);
        let (loss, gradient) = (still.loss, still.latent_gradient.to_vec());
        assert!(decoder.state().unwrap() == before, "parameters, moments and statistics do not change");
        let step = decoder.train_step(&z, &images, 1e-2);
        assert_eq!((loss, &gradient[..]), (step.loss, step.latent_gradient));
        assert!(decoder.state().unwrap() != before);
    }
}

#[test]
fn gradient_without_update_is_the_slope_of_the_decoded_loss() {
    let (z, images) = batch_of(4, TINY);
    let mut decoder = trained(TINY);
    let gradient = decoder.batch_loss_and_gradient(&z, &images).latent_gradient.to_vec();
    let largest = gradient.iter().fold(0.0f32, |a, v| a.max(v.abs()));
    for i in 0..z.len() {
        let mut at = |by: f32| {
            let mut moved = z.clone();
            moved[i] += by;
            let decoded = decoder.decode_batch(&moved);
            let squares = decoded.iter().zip(&images).map(|(a, b)| (f64::from(*a) - f64::from(*b)).powi(2));
            squares.sum::<f64>().sqrt() / images.len() as f64
        };
        let h = 1e-3;
        let slope = (at(h) - at(-h)) / f64::from(2.0 * h);
        let apart = (slope - f64::from(gradient[i])).abs() / f64::from(largest);
        assert!(apart < 0.03, "latent {i}: {slope} {}", gradient[i]);
    }
}

#[test]
fn decoder_from_weights_has_zero_moments() {
    for shape in [TINY, ODD] {
        let (z, images) = batch_of(7, shape);
        let mut decoder = trained(shape);
        let weights = decoder.weights().unwrap();
        let mut again = Decoder::from_weights(&weights).unwrap();
        assert_eq!(again.shape(), shape);
        assert_eq!(again.weights().unwrap(), weights);
        assert_eq!(again.decode_batch(&z), decoder.decode_batch(&z));
        assert_eq!(again.batch_loss_and_gradient(&z, &images), decoder.batch_loss_and_gradient(&z, &images));
        for (name, tensor) in again.state().unwrap().iter().filter(|(n, _)| n.ends_with(".m") || n.ends_with(".v")) {
            assert!(tensor.to_vec::<f32>().unwrap().iter().all(|v| *v == 0.0), "{name}");
        }
    }
    let mut weights = trained(TINY).weights().unwrap();
    weights.insert("net.4.running_var".to_owned(), Tensor::vector(&[0f32; 4]));
    let error = Decoder::from_weights(&weights).unwrap_err().to_string();
    insta::assert_snapshot!(error, @"tensor `net.4.running_var` of shape [4] does not fit the decoder");
}

#[test]
fn frozen_decoder_equals_candle_in_evaluation_mode() {
    for (shape, samples) in [(TINY, 3), (ODD, 17)] {
        let (z, images) = batch_of(samples, shape);
        let mut decoder = Decoder::new(shape, &Streams::new(1));
        for _ in 0..10 {
            decoder.train_step(&z, &images, 1e-2);
        }
        let weights = decoder.weights().unwrap();
        let graph = GraphDecoder::from_weights(&weights, &Device::Cpu).unwrap();
        let mut frozen = Frozen::from_weights(&weights).unwrap();
        assert_eq!(frozen.shape(), shape);
        assert!(difference(frozen.decode(&z), &graph.decode(&z).unwrap()) < 1e-5);
        let expected = graph.loss_and_gradient(&z, &images).unwrap();
        let found = frozen.loss_and_gradient(&z, &images);
        assert!((found.loss / expected.loss - 1.0).abs() < 1e-5);
        assert!(difference(found.latent_gradient, &expected.latent_gradient) < 1e-4);
    }
}

#[test]
fn decoder_from_state_continues_with_same_bits() {
    let (z, images) = batch_of(18, TINY);
    let mut decoder = Decoder::new(TINY, &Streams::new(1));
    for samples in [18, 5] {
        decoder.train_step(&z[..samples * 3], &images[..samples * PIXELS], 1e-3);
    }
    let mut again = Decoder::from_state(TINY, &decoder.state().unwrap()).unwrap();
    for samples in [5, 18, 1] {
        let (z, images) = (&z[..samples * 3], &images[..samples * PIXELS]);
        assert_eq!(decoder.train_step(z, images, 1e-3), again.train_step(z, images, 1e-3));
    }
    assert_eq!(decoder.state().unwrap(), again.state().unwrap());
}

#[test]
fn number_of_threads_does_not_change_the_bytes() {
    let (z, images) = batch_of(40, ODD);
    let train = |threads| {
        ThreadPoolBuilder::new().num_threads(threads).build().unwrap().install(|| {
            let mut decoder = Decoder::new(ODD, &Streams::new(1));
            let losses: Vec<u64> = (0..3).map(|_| decoder.train_step(&z, &images, 1e-3).loss.to_bits()).collect();
            let mut frozen = Frozen::from_weights(&decoder.weights().unwrap()).unwrap();
            let fit = frozen.loss_and_gradient(&z, &images).latent_gradient.to_vec();
            (losses, fit, decoder.state().unwrap())
        })
    };
    let one = train(1);
    assert!(one == train(2) && one == train(3));
}

#[test]
fn smaller_batch_ignores_leftovers_in_shared_buffers() {
    let (z, images) = batch_of(33, TINY);
    let mut fresh = Decoder::new(TINY, &Streams::new(1));
    let mut used = Decoder::new(TINY, &Streams::new(1));
    // Fills the buffers that the smaller batch shares, without keeping the step.
    let state = used.state().unwrap();
    used.train_step(&z[..32 * 3], &images[..32 * PIXELS], 1e-3);
    let buffers = std::mem::take(&mut used.work);
    let mut used = Decoder::from_state(TINY, &state).unwrap();
    used.work = buffers;
    let (z, images) = (&z[..19 * 3], &images[..19 * PIXELS]);
    assert_eq!(fresh.train_step(z, images, 1e-3), used.train_step(z, images, 1e-3));
    assert_eq!(fresh.state().unwrap(), used.state().unwrap());
}

#[test]
fn padded_weights_stay_zero() {
    let (z, images) = batch_of(5, TINY);
    let mut decoder = Decoder::new(TINY, &Streams::new(1));
    for _ in 0..3 {
        decoder.train_step(&z, &images, 1e-2);
    }
    let non_zero =
        |c: &Convolution| bytemuck::cast_slice::<Block, f32>(c.weights()).iter().filter(|w| **w != 0.0).count();
    assert_eq!(
        decoder.convolutions.iter().map(non_zero).collect::<Vec<_>>(),
        [3 * 8 * 4, 8 * 6 * 16, 6 * 5 * 16, 5 * 4 * 16, 4 * 16]
    );
}

#[test]
fn weights_have_the_places_that_their_module_describes() {
    for shape in [TINY, ODD, DecoderShape { latent_dim: 16, channels: [32, 16, 32, 16] }] {
        let mut weights = Decoder::new(shape, &Streams::new(1)).weights().unwrap();
        // Different numbers, so that no two can be exchanged unnoticed.
        for tensor in weights.values_mut() {
            let numbers: Vec<f32> = (1..=tensor.len()).map(|n| n as f32).collect();
            *tensor = Tensor::new(tensor.shape(), &numbers).unwrap();
        }
        let decoder = Decoder::from_weights(&weights).unwrap();
        assert_eq!(decoder.weights().unwrap(), weights);
        for (l, c) in decoder.convolutions.iter().enumerate() {
            let ((ci, co), taps) = (layers::channels(shape)[l], c.geometry.taps());
            for (i, o, tap) in (0..ci).flat_map(|i| (0..co).flat_map(move |o| (0..taps).map(move |tap| (i, o, tap)))) {
                let theirs = if l == 0 { (o * taps + tap) * ci + i } else { (i * co + o) * taps + tap };
                let block = &c.weights()[i / LANES * taps * c.co + tap * c.co + o / LANES];
                assert_eq!(block.0[i % LANES][o % LANES], (theirs + 1) as f32, "layer {l}, {i} to {o}, tap {tap}");
            }
        }
    }
}

#[test]
fn initial_weights_have_bounds_of_pytorch_and_depend_on_seed() {
    let weights = Decoder::new(ODD, &Streams::new(1)).weights().unwrap();
    for (name, fan_in) in [("fc.weight", 18), ("fc.bias", 18), ("net.0.weight", 33 * 16), ("net.9.weight", 16)] {
        let bound = 1.0 / (fan_in as f32).sqrt();
        let values = weights[name].to_vec::<f32>().unwrap();
        let largest = values.iter().fold(0.0f32, |a, v| a.max(v.abs()));
        assert!(largest <= bound && largest > 0.9 * bound, "{name}: {largest} {bound}");
    }
    assert_eq!(weights["net.1.running_var"].to_vec::<f32>().unwrap(), vec![1.0; 33]);
    assert_eq!(weights, Decoder::new(ODD, &Streams::new(1)).weights().unwrap());
    assert_ne!(weights, Decoder::new(ODD, &Streams::new(2)).weights().unwrap());
}

#[test]
fn gradient_of_zero_loss_is_zero() {
    let (z, _) = batch_of(2, TINY);
    let mut weights = Decoder::new(TINY, &Streams::new(1)).weights().unwrap();
    weights.insert("net.10.bias".to_owned(), Tensor::vector(&[-200f32]));
    let mut frozen = Frozen::from_weights(&weights).unwrap();
    let step = frozen.loss_and_gradient(&z, &[0; 2 * PIXELS]);
    assert_eq!((step.loss, step.squared_error), (0.0, 0.0));
    assert!(step.latent_gradient.iter().all(|g| *g == 0.0));
}

#[test]
fn error_names_tensor_that_does_not_fit() {
    let mut weights = Decoder::new(TINY, &Streams::new(1)).weights().unwrap();
    weights.insert("net.4.bias".to_owned(), Tensor::vector(&[0f32; 4]));
    let error = Frozen::from_weights(&weights).unwrap_err().to_string();
    insta::assert_snapshot!(error, @"tensor `net.4.bias` of shape [4] does not fit the decoder");
    weights.remove("net.0.weight");
    let error = Frozen::from_weights(&weights).unwrap_err().to_string();
    insta::assert_snapshot!(error, @"the decoder's tensor `net.0.weight` is missing");
    let state = Decoder::new(TINY, &Streams::new(1)).state().unwrap();
    assert!(Decoder::from_state(ODD, &state).is_err());
}

#[test]
fn no_latents_decode_to_no_images() {
    let weights = Decoder::new(TINY, &Streams::new(1)).weights().unwrap();
    assert!(Frozen::from_weights(&weights).unwrap().decode(&[]).is_empty());
}

#[test]
fn image_depends_only_on_its_own_latent() {
    let (z, _) = batch_of(70, ODD);
    let mut frozen = Frozen::from_weights(&Decoder::new(ODD, &Streams::new(1)).weights().unwrap()).unwrap();
    let together = frozen.decode(&z).to_vec();
    let alone: Vec<f32> = z.chunks(ODD.latent_dim).flat_map(|z| frozen.decode(z).to_vec()).collect();
    assert_eq!(together, alone);
}
