//! Compares training with PyTorch, in alternating rounds, and with the floor of the machine.
//!
//! ```sh
//! cargo bench --bench train -- ad fit vad memory kernels --batch N --rounds N --peer-images N --peer-settings --quick
//! ```
//!
//! Our side runs the stage kinds as a pipeline does, in whole epochs of 1,000 images. The peer is
//! `peers/torch_train.py`. `benches/README.md` explains the figures and the computation of the floor.
#![expect(clippy::print_stdout, reason = "a benchmark prints")]

use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};
use vadpipe::model::DecoderShape;

#[path = "common/floor.rs"]
mod floor;
#[path = "train/kernels.rs"]
mod kernels;
#[path = "train/ours.rs"]
mod ours;
#[path = "common/peer.rs"]
mod peer;
#[path = "common/reply.rs"]
mod reply;
#[path = "common/stats.rs"]
mod stats;

use floor::{Floor, computing};
use ours::{Ours, Work};
use peer::Peer;
use stats::{Options, median};

type Outcome<T = ()> = Result<T, Box<dyn std::error::Error>>;

/// The decoder of the experiment, the default of `channels`.
const SHAPE: DecoderShape = DecoderShape { latent_dim: 128, channels: [2048, 512, 256, 128] };
/// Two operations for each multiply-add of the forward pass of one sample by direct products, without those outside the
/// image.
const DIRECT_GFLOP: f64 = 2.0
    * (128.0 * 8192.0 + 36.0 * 2048.0 * 512.0 + 196.0 * 512.0 * 256.0 + 900.0 * 256.0 * 128.0 + 256.0 * 16.0 * 128.0)
    / 1e9;
/// The parameters that Adam updates: weights and biases of the layers, scale and shift of the batch norms.
const PARAMETERS: usize =
    (128 + 1) * 8192 + 16 * (2048 * 512 + 512 * 256 + 256 * 128 + 128) + 1 + 2 + 2 * (512 + 256 + 128);
/// Bytes of a weight and its two moments, read and written.
const ADAM_BYTES: f64 = 2.0 * 3.0 * 4.0;
/// Images of an epoch.
const IMAGES: usize = 1000;

/// Settings of PyTorch. All use the fused Adam, because the other is always slower.
#[derive(Clone, Copy)]
struct Setting {
    name: &'static str,
    channels_last: bool,
    compiled: bool,
}
const SETTINGS: [Setting; 4] = [
    Setting { name: "eager", channels_last: false, compiled: false },
    Setting { name: "channels_last", channels_last: true, compiled: false },
    Setting { name: "compiled", channels_last: false, compiled: true },
    Setting { name: "compiled channels_last", channels_last: true, compiled: true },
];

/// The best of [`SETTINGS`] at each batch size, as `--peer-settings` found it on the machine of `benches/README.md`.
const USUAL: Setting = SETTINGS[0];

/// A run of the bench.
struct Bench {
    options: Options,
    rounds: usize,
    peer_images: usize,
    floor: Floor,
    /// Two operations for each multiply-add that a forward pass of one sample really makes.
    made_gflop: f64,
    peer: Option<Peer>,
}

fn main() -> Outcome {
    let known = [("--batch", true), ("--peer-images", true), ("--peer-settings", false), ("--alone", true)];
    let options = Options::parse(std::env::args().skip(1), &known, &["ad", "fit", "vad", "memory", "kernels"])?;
    if let Some(batch) = numbers(&options, "--alone").first() {
        return alone(*batch);
    }
    let quick = options.quick;
    let peer_images = numbers(&options, "--peer-images").first().copied();
    let mut bench = Bench {
        rounds: options.rounds.unwrap_or(if quick { 1 } else { 5 }),
        peer_images: peer_images.unwrap_or(if quick { 256 } else { IMAGES }),
        floor: Floor::new(),
        made_gflop: kernels::made_gflop(),
        peer: ["ad", "fit"].iter().any(|part| options.wants(part)).then(|| Peer::start_if_installed(SCRIPT)).flatten(),
        options,
    };
    println!("{} rounds in turn on {} threads; {}", bench.rounds, rayon::current_num_threads(), bench.peer_line());
    if bench.options.wants("ad") {
        bench.against_peer(&AD)?;
    }
    if bench.options.wants("fit") {
        bench.against_peer(&FIT)?;
    }
    bench.peer = None;
    if bench.options.wants("vad") {
        bench.vad()?;
    }
    if bench.options.wants("memory") {
        bench.memory()?;
    }
    if bench.options.wants("kernels") {
        let limit = Duration::from_secs_f64(if quick { 0.5 } else { 3.0 });
        let batches = bench.batches(&[16, 64, 128]);
        kernels::steps(limit, &mut bench.floor, bench.made_gflop, &batches);
        let peak = kernels::ceiling(limit / 4);
        batches.iter().for_each(|batch| kernels::layers(limit / 10, *batch, peak));
    }
    Ok(())
}

const SCRIPT: &str = "torch_train.py";

/// A part that is compared with PyTorch and with the floor.
struct Part {
    title: &'static str,
    kind: &'static str,
    /// Its name in the peer.
    mode: &'static str,
    batches: &'static [usize],
    /// Passes over the products: forward, input gradient, weight gradient.
    passes: f64,
    /// Whether Adam updates the decoder.
    adam: bool,
}
const AD: Part =
    Part { title: "AD training", kind: "train-ad", mode: "ad", batches: &[16, 64, 128], passes: 3.0, adam: true };
const FIT: Part =
    Part { title: "latent fitting", kind: "fit-latents", mode: "fit", batches: &[16, 64], passes: 2.0, adam: false };

impl Bench {
    fn peer_line(&self) -> String {
        let images = self.peer_images;
        let say = |peer: &Peer| format!("peer: {}, fused Adam, {images} images a round; ours {IMAGES}", peer.name);
        self.peer.as_ref().map_or_else(|| format!("no peer; {IMAGES} images a round"), say)
    }

    /// The batch sizes of `--batch`. `usual` if there are none.
    fn batches(&self, usual: &[usize]) -> Vec<usize> {
        let asked = numbers(&self.options, "--batch");
        if asked.is_empty() { usual.to_vec() } else { asked }
    }

    /// Compares our training with PyTorch in alternating rounds, at each batch size.
    fn against_peer(&mut self, part: &Part) -> Outcome {
        println!("\n{:<15} samples/s (median)           floor                     ours / floor", part.title);
        println!("  batch cores    ours    peer   ratio   samples/s  GFLOP/s   GB/s  seconds  direct   peer's setting");
        for batch in self.batches(part.batches) {
            let setting = self.open_peer(part, batch)?;
            let mut inputs = vec![("data", ours::data()?)];
            if !part.adam {
                inputs.push(("model", ours::model()?));
            }
            let work = Work { kind: part.kind, distribution: None, batch, epochs: 1_000_000, inputs };
            let mut training = Ours::begin(&work)?;
            let (mut our_seconds, mut their_seconds, mut cores) = (vec![], vec![], vec![]);
            for _ in 0..self.rounds {
                let before = computing();
                let seconds = training.epoch()?;
                our_seconds.push(seconds);
                cores.push((computing() - before) / seconds);
                if let Some(peer) = &mut self.peer {
                    let round = json!({ "command": "round", "name": part.mode, "images": self.peer_images });
                    their_seconds.push(peer.seconds(&round)?);
                }
                self.floor.measure(Duration::from_millis(500));
            }
            if let Some(peer) = &mut self.peer {
                peer.ask(&json!({ "command": "close", "name": part.mode }))?;
            }
            let seconds = median(&our_seconds);
            let ours = IMAGES as f64 / seconds;
            let theirs = self.peer_images as f64 / median(&their_seconds);
            let floor = self.floor_seconds(part, batch);
            let (gflops, gbytes) = (self.floor.gflops, self.floor.gbytes);
            let peer = match setting {
                Some(_) => format!("{theirs:7.1} {:5.2} ×", ours / theirs),
                None => format!("{:>7} {:>7}", "-", "-"),
            };
            println!(
                "{batch:7} {:5.2} {ours:7.1} {peer} {:11.1} {gflops:8.0} {gbytes:6.1} {:6.2} × {:5.2} ×   {}",
                median(&cores),
                IMAGES as f64 / floor,
                seconds / floor,
                seconds / (floor + IMAGES as f64 * (DIRECT_GFLOP - self.made_gflop) * part.passes / gflops),
                setting.map_or("-", |s| s.name)
            );
        }
        Ok(())
    }

    /// Seconds of an epoch that consists only of the matrix products that are really made and of Adam's memory traffic.
    fn floor_seconds(&self, part: &Part, batch: usize) -> f64 {
        let products = IMAGES as f64 * self.made_gflop * part.passes / self.floor.gflops;
        let steps = if part.adam { IMAGES.div_ceil(batch) } else { 0 };
        products + steps as f64 * PARAMETERS as f64 * ADAM_BYTES / 1e9 / self.floor.gbytes
    }

    /// Starts the peer's training with its best setting. `None` without a peer.
    fn open_peer(&mut self, part: &Part, batch: usize) -> Outcome<Option<Setting>> {
        let sweep = self.options.others.iter().any(|(name, _)| name == "--peer-settings");
        let Some(peer) = &mut self.peer else { return Ok(None) };
        let mut best = (USUAL, f64::INFINITY);
        for setting in SETTINGS.iter().filter(|_| sweep) {
            // A setting that fails here is skipped.
            let measured = open(peer, part, batch, *setting).and_then(|begin| {
                let images = (2 * batch).max(128);
                let round = json!({ "command": "round", "name": part.mode, "images": images });
                Ok((begin, peer.seconds(&round)? / images as f64))
            });
            match measured {
                Ok((begin, seconds)) => {
                    println!("  setting {:24} {:7.1} samples/s, started in {begin:.0} s", setting.name, 1.0 / seconds);
                    best = if seconds < best.1 { (*setting, seconds) } else { best };
                }
                Err(why) => println!("  setting {:24} {why}", setting.name),
            }
        }
        open(peer, part, batch, best.0)?;
        Ok(Some(best.0))
    }

    /// Compares each family of posteriors with plain latents, in alternating rounds.
    fn vad(&self) -> Outcome {
        const FAMILIES: [&str; 3] = ["gaussian", "exponential", "uniform"];
        println!("\nVAD training     samples/s (median), and the time as a multiple of AD's");
        println!("  batch      AD         {}", FAMILIES.map(|f| format!("{f:18}")).join(""));
        for batch in self.batches(&[16, 64]) {
            let data = ours::data()?;
            let begin = |distribution: Option<&'static str>| {
                let kind = if distribution.is_some() { "train-vad" } else { "train-ad" };
                let inputs = vec![("data", data.clone())];
                Ours::begin(&Work { kind, distribution, batch, epochs: 1_000_000, inputs })
            };
            let families = FAMILIES.map(Some);
            let mut all = [None].into_iter().chain(families).map(begin).collect::<Outcome<Vec<_>>>()?;
            let mut seconds = vec![vec![]; all.len()];
            for _ in 0..self.rounds {
                for (training, seconds) in all.iter_mut().zip(&mut seconds) {
                    seconds.push(training.epoch()?);
                }
            }
            let medians: Vec<f64> = seconds.iter().map(|s| median(s)).collect();
            let column = |s: &f64| format!("{:7.1} {:6.3} ×  ", IMAGES as f64 / s, s / medians[0]);
            println!("{batch:7} {}", medians.iter().map(column).collect::<String>());
        }
        Ok(())
    }

    /// The peak memory of each side, measured in separate processes.
    fn memory(&self) -> Outcome {
        println!("\npeak memory, MB     ours            peer");
        println!("  batch     training   stage   training   imports");
        for batch in self.batches(&[16, 64, 128]) {
            let child = Command::new(std::env::current_exe()?).args(["--alone", &batch.to_string()]).output()?;
            let ours = reply::parse(&String::from_utf8(child.stdout)?)?;
            let ours = ["training", "stage"].map(|key| megabytes(ours.get(key)));
            let theirs = match Peer::start_if_installed(SCRIPT) {
                Some(mut peer) => {
                    let imports = peer.ask(&json!({ "command": "peak" }))?;
                    open(&mut peer, &AD, batch, USUAL)?;
                    let training = peer.ask(&json!({ "command": "peak" }))?;
                    [training, imports].map(|reply| megabytes(reply.get("bytes")))
                }
                None => ["-", "-"].map(str::to_owned),
            };
            println!("{batch:7} {:>12} {:>7} {:>10} {:>9}", ours[0], ours[1], theirs[0], theirs[1]);
        }
        Ok(())
    }
}

/// Starts a training of the peer and warms it up. Returns the seconds that this took.
fn open(peer: &mut Peer, part: &Part, batch: usize, setting: Setting) -> Result<f64, String> {
    let Setting { channels_last, compiled, .. } = setting;
    peer.seconds(&json!({
        "command": "open", "name": part.mode, "mode": part.mode, "batch": batch, "n": IMAGES, "fused": true,
        "channels_last": channels_last, "compiled": compiled, "threads": rayon::current_num_threads(),
    }))
}

/// The values of an option of this bench, in order. Values below 1 become 1.
fn numbers(options: &Options, name: &str) -> Vec<usize> {
    options
        .others
        .iter()
        .filter(|(other, _)| other == name)
        .filter_map(|(_, number)| Some((*number)?.max(1.0) as usize))
        .collect()
}

fn megabytes(bytes: Option<&Value>) -> String {
    bytes.and_then(Value::as_f64).map_or_else(|| "-".to_owned(), |bytes| format!("{:.0}", bytes / 1e6))
}

/// The child process of the part `memory`: trains an epoch and prints its peak memory up to the end of the epoch, and
/// with the artifact.
fn alone(batch: usize) -> Outcome {
    let work = Work { kind: "train-ad", distribution: None, batch, epochs: 1, inputs: vec![("data", ours::data()?)] };
    let training = Ours::begin(&work)?;
    let during = peak();
    training.finish()?;
    println!("{}", json!({ "training": during, "stage": peak() }));
    Ok(())
}

/// The peak memory of this process in bytes. `None` on systems other than Linux.
fn peak() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    Some(line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? * 1024)
}
