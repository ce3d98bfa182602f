//! Compares t-SNE with openTSNE, in alternating rounds, on the same points.
//!
//! `cargo bench --bench tsne [-- 1000 5000 10000 --rounds N --quick]`
//!
//! The points are the 50 principal components of the first images of Fashion-MNIST (from `VADPIPE_DATA_DIR`, or
//! `../shared/data/fashion-mnist`), or of random images without it. Without Python a random projection replaces the
//! principal components. Both maps are scored by the exact divergence (perplexity 30, all pairs) and by the share of
//! the 10 nearest neighbours that is kept. `benches/README.md` explains the figures.
#![expect(clippy::print_stdout, reason = "a benchmark prints")]

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::Instant;

use serde_json::json;
use vadpipe::ops::tsne::{Exact, Neighbours, Settings, embed, neighbours, recall};
use vadpipe::rng::Streams;
use vadpipe::stages::load_data::{idx, synthetic};

#[path = "common/peer.rs"]
mod peer;
#[path = "common/reply.rs"]
mod reply;
#[path = "common/stats.rs"]
mod stats;

use peer::Peer;
use stats::{Options, median};

type Outcome<T = ()> = Result<T, Box<dyn std::error::Error>>;

/// The settings of both: openTSNE's defaults.
const SETTINGS: Settings = Settings { perplexity: 30.0, iterations: 750, exaggeration: 12.0 };
/// The default numbers of points.
const SIZES: [&str; 3] = ["1000", "5000", "10000"];
/// Neighbours whose recall is measured.
const NEAREST: usize = 10;
/// Pixels of an image.
const PIXELS: usize = 784;
/// Dimensions of a point.
const DIMENSIONS: usize = 50;

fn main() -> Outcome {
    let options = Options::parse(std::env::args().skip(1), &[], &SIZES)?;
    let rounds = options.rounds.unwrap_or(if options.quick { 1 } else { 3 });
    let sizes: Vec<usize> =
        SIZES.iter().filter(|size| options.wants(size)).filter_map(|size| size.parse().ok()).collect();
    let sizes = if options.quick && options.parts.is_empty() { &sizes[..1] } else { &sizes[..] };
    let folder = tempfile::tempdir()?;
    let mut peer = Peer::start_if_installed("opentsne.py");
    let (source, pixels) = images(sizes.iter().copied().max().unwrap_or(0))?;
    let peer_name = peer.as_ref().map_or("no peer", |peer| peer.name.as_str());
    println!("t-SNE of {source}, {} threads, {rounds} rounds in turn; peer: {peer_name}", rayon::current_num_threads());
    println!("  points     seconds               ratio     exact KL            10-NN recall      (medians)");
    println!("              ours      peer   peer/ours    ours    peer       ours    peer");
    for n in sizes {
        let points = points(&pixels[..n * PIXELS], *n, &mut peer, folder.path())?;
        println!("{}", compare(&points, &mut peer, folder.path(), rounds)?);
    }
    Ok(())
}

/// The first `n` training images and their source.
fn images(n: usize) -> Outcome<(String, Vec<u8>)> {
    let given = std::env::var_os("VADPIPE_DATA_DIR").map(PathBuf::from);
    let beside = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/data/fashion-mnist");
    let found = given.into_iter().chain([beside]).find_map(|folder| idx::find(&folder, "train-images-idx3-ubyte"));
    if let Some(path) = found {
        let mut pixels = idx::open(&path, idx::Form::Images)?.data;
        pixels.truncate(n * PIXELS);
        return Ok(("Fashion-MNIST".to_owned(), pixels));
    }
    let drawn = (0..n).flat_map(|i| synthetic::image(Streams::new(0), "train", i)).collect();
    Ok(("random images (VADPIPE_DATA_DIR names no Fashion-MNIST)".to_owned(), drawn))
}

/// n × 50 numbers: principal components by the peer, or a random projection, which roughly preserves distances.
fn points(pixels: &[u8], n: usize, peer: &mut Option<Peer>, folder: &Path) -> Outcome<Vec<f32>> {
    if let Some(peer) = peer {
        let (given, made) = (folder.join("pixels"), folder.join("points"));
        std::fs::write(&given, pixels)?;
        peer.ask(&json!({ "command": "pca", "pixels": given, "n": n, "out": made }))?;
        return read(&made, n * DIMENSIONS);
    }
    let mut matrix = vec![0.0f32; DIMENSIONS * PIXELS];
    Streams::new(0).stream("bench projection", 0, 0).normals(&mut matrix);
    let project = |image: &[u8]| -> Vec<f32> {
        let along = |axis: &[f32]| image.iter().zip(axis).map(|(p, a)| f32::from(*p) / 255.0 * a).sum::<f32>();
        matrix.chunks_exact(PIXELS).map(|axis| along(axis) / (DIMENSIONS as f32).sqrt()).collect()
    };
    Ok(pixels.chunks_exact(PIXELS).flat_map(project).collect())
}

/// Little-endian floats of a file that the peer wrote.
fn read(path: &Path, count: usize) -> Outcome<Vec<f32>> {
    let bytes = std::fs::read(path)?;
    let floats: Vec<f32> = bytes.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
    if floats.len() == count { Ok(floats) } else { Err(format!("the peer wrote {} numbers", floats.len()).into()) }
}

/// The figures of one side: seconds, divergence and recall of each round.
#[derive(Default)]
struct Side([Vec<f64>; 3]);

impl Side {
    fn add(&mut self, figures: [f64; 3]) {
        self.0.iter_mut().zip(figures).for_each(|(list, figure)| list.push(figure));
    }

    fn medians(&self) -> [f64; 3] {
        [0, 1, 2].map(|i| median(&self.0[i]))
    }
}

/// A line of the table. Each round has its own seed, which is the same on both sides.
fn compare(points: &[f32], peer: &mut Option<Peer>, folder: &Path, rounds: usize) -> Outcome<String> {
    let n = points.len() / DIMENSIONS;
    let (given, made) = (folder.join("points"), folder.join("map"));
    let exact = Exact::new(points, DIMENSIONS, SETTINGS.perplexity);
    let before = nearest(points, DIMENSIONS)?;
    let score = |seconds: f64, map: &[[f32; 2]]| -> Outcome<[f64; 3]> {
        Ok([seconds, exact.divergence(map), recall(&before, &nearest(map.as_flattened(), 2)?, NEAREST)])
    };
    let (mut ours, mut theirs) = (Side::default(), Side::default());
    for seed in 0..rounds {
        let go_on = &mut |_, _| ControlFlow::Continue(());
        let streams = Streams::new(seed as i64);
        let begin = Instant::now();
        let map = embed(points, n, DIMENSIONS, &SETTINGS, streams, go_on).ok_or("the embedding was cancelled")?;
        let seconds = begin.elapsed().as_secs_f64();
        ours.add(score(seconds, &map.coordinates)?);
        let Some(peer) = peer else { continue };
        let threads = rayon::current_num_threads();
        let request = json!({
            "command": "embed", "points": given, "n": n, "threads": threads, "seed": seed, "out": made,
        });
        let seconds = peer.seconds(&request)?;
        theirs.add(score(seconds, read(&made, 2 * n)?.as_chunks().0)?);
    }
    let [seconds, kl, kept] = ours.medians();
    if peer.is_none() {
        return Ok(format!("{n:8} {seconds:9.2} {:>9} {:>9}   {kl:9.3} {:>7} {kept:10.3} {:>7}", "-", "-", "-", "-"));
    }
    let [peer_seconds, peer_kl, peer_kept] = theirs.medians();
    let ratio = peer_seconds / seconds;
    Ok(format!(
        "{n:8} {seconds:9.2} {peer_seconds:9.2} {ratio:9.2} × {kl:9.3} {peer_kl:7.3} {kept:10.3} {peer_kept:7.3}"
    ))
}

/// The nearest neighbours of all points.
fn nearest(points: &[f32], d: usize) -> Outcome<Neighbours> {
    let found = neighbours(points, points.len() / d, d, NEAREST, &mut || ControlFlow::Continue(()));
    found.ok_or_else(|| "the search was cancelled".into())
}
