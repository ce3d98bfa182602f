//! t-SNE beside openTSNE's, in turn, on the same points. `cargo bench --bench tsne [-- 1000 5000 10000 --rounds N --quick]`
//!
//! The points are the 50 principal components of the first images of Fashion-MNIST (from `VADPIPE_DATA_DIR`, or
//! `../shared/data/fashion-mnist`), or of drawn ones where there are none; without Python a random projection of them. Both
//! maps are scored by the same exact divergence (perplexity 30, all pairs) and by the share of the 10 nearest neighbours that
//! is kept. What each number means is in `benches/README.md`.
#![expect(clippy::print_stdout, reason = "a benchmark prints")]

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

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
use stats::{Options, median, timed};

type Outcome<T = ()> = Result<T, Box<dyn std::error::Error>>;

/// The settings of both: openTSNE's defaults.
const SETTINGS: Settings = Settings { perplexity: 30.0, iterations: 750, exaggeration: 12.0 };
/// Numbers of points.
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
    let mut peer = Peer::start_if_there("opentsne.py");
    let (source, pixels) = images(sizes.iter().copied().max().unwrap_or(0))?;
    let peer_name = peer.as_ref().map_or("no peer", |peer| peer.name.as_str());
    println!("t-SNE of {source}, {} threads, {rounds} rounds in turn; peer: {peer_name}", rayon::current_num_threads());
    println!("  points     seconds (median)      ratio     exact KL            10-NN recall");
    println!("              ours      peer   peer/ours    ours    peer       ours    peer");
    for n in sizes {
        let points = points(&pixels[..n * PIXELS], *n, &mut peer, folder.path())?;
        println!("{}", compare(&points, &mut peer, folder.path(), rounds)?);
    }
    Ok(())
}

/// The first `n` train images, and where they come from.
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
    Ok(("drawn images (VADPIPE_DATA_DIR names no Fashion-MNIST)".to_owned(), drawn))
}

/// n × 50: principal components by the peer, or a random projection, which keeps distances roughly.
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

/// A line of the table.
fn compare(points: &[f32], peer: &mut Option<Peer>, folder: &Path, rounds: usize) -> Outcome<String> {
    let n = points.len() / DIMENSIONS;
    let (mut ours, mut theirs) = (vec![], vec![]);
    let (mut our_map, mut their_map) = (vec![], None);
    let (given, made) = (folder.join("points"), folder.join("map"));
    for _ in 0..rounds {
        let go_on = &mut |_, _| ControlFlow::Continue(());
        let (map, seconds) = timed(|| embed(points, n, DIMENSIONS, &SETTINGS, Streams::new(0), go_on));
        our_map = map.ok_or("the embedding broke off")?.coordinates;
        ours.push(seconds);
        let Some(peer) = peer else { continue };
        let threads = rayon::current_num_threads();
        theirs.push(
            peer.seconds(&json!({ "command": "embed", "points": given, "n": n, "threads": threads, "out": made }))?,
        );
        their_map = Some(read(&made, 2 * n)?.as_chunks().0.to_vec());
    }
    let exact = Exact::new(points, DIMENSIONS, SETTINGS.perplexity);
    let before = nearest(points, DIMENSIONS)?;
    let score = |map: &Vec<[f32; 2]>| -> Outcome<(f64, f64)> {
        Ok((exact.divergence(map), recall(&before, &nearest(map.as_flattened(), 2)?, NEAREST)))
    };
    let (our_kl, our_recall) = score(&our_map)?;
    let seconds = median(&ours);
    Ok(match their_map.as_ref().map(score).transpose()? {
        Some((kl, recall)) => {
            let (peer, ratio) = (median(&theirs), median(&theirs) / seconds);
            format!("{n:8} {seconds:9.2} {peer:9.2} {ratio:9.2} × {our_kl:9.3} {kl:7.3} {our_recall:10.3} {recall:7.3}")
        }
        None => {
            format!("{n:8} {seconds:9.2} {:>9} {:>9}   {our_kl:9.3} {:>7} {our_recall:10.3} {:>7}", "-", "-", "-", "-")
        }
    })
}

/// The nearest neighbours of all points.
fn nearest(points: &[f32], d: usize) -> Outcome<Neighbours> {
    let found = neighbours(points, points.len() / d, d, NEAREST, &mut || ControlFlow::Continue(()));
    found.ok_or_else(|| "the search broke off".into())
}
