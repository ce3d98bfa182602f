use super::*;

const TINY: DecoderShape = DecoderShape { latent_dim: 3, channels: [8, 6, 5, 4] };

fn batch_of(samples: usize, shape: DecoderShape) -> (Vec<f32>, Vec<u8>) {
    let streams = Streams::new(7);
    let mut z = vec![0.0; samples * shape.latent_dim];
    streams.stream("z", 0, 0).normals(&mut z);
    let mut stream = streams.stream("images", 0, 0);
    let images = (0..samples * PIXELS).map(|_| stream.below(256) as u8).collect();
    (z, images)
}

#[test]
fn a_decoder_learns_a_batch() {
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
