//! The page of `vadpipe ui` on large caches: `cargo bench --bench page`.
//!
//! Two caches are written: 1,000 trainings of 1,000 epochs with 5 metrics, and 10,000 points without curves. Then the
//! real program serves each of them, and the time of its answers and its memory are measured. All times are the best of
//! five, in milliseconds, over a socket of this machine.

#![expect(clippy::print_stdout, clippy::expect_used, reason = "a bench prints its results, and ends at an error")]

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Ipv4Addr, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use vadpipe::artifact::{Artifact, Tensor};
use vadpipe::key::{Components, Segment};
use vadpipe::store::{NewResult, Options, Provenance, Store};

const METRICS: [&str; 5] = ["loss", "accuracy", "val_loss", "val_accuracy", "grad_norm"];
/// Results that are committed together.
const TOGETHER: usize = 250;

fn main() {
    let dir = tempfile::tempdir().expect("a folder");
    for (title, points, epochs) in [("1,000 × 1,000 epochs × 5 metrics", 1_000, 1_000), ("10,000 points", 10_000, 0)]
    {
        let cache = dir.path().join(points.to_string());
        let begun = Instant::now();
        write(&cache, points, epochs);
        println!("{title}: written in {:.1} s", begun.elapsed().as_secs_f64());
        let begun = Instant::now();
        let page = Page::start(&cache);
        println!("  address printed        {:8.1} ms", begun.elapsed().as_secs_f64() * 1e3);
        page.time("table", "/api/points");
        page.time("filter, 10 % are left", "/api/points?ids=true&where=lr%3C0.001%20%26%26%20loss%3C0.5");
        if epochs > 0 {
            page.time("metrics with curves", "/api/curves");
            page.time("curves of one metric", "/api/curves?metric=loss");
            page.time("chain", "/api/chain?pipeline=bench");
            page.time("importance", "/api/importance?metric=loss");
        }
        page.time("a point", "/api/points/7");
        println!("  memory                 {:8.1} MB", page.memory());
    }
}

/// The n-th of numbers between 0 and 1 that look random.
fn noise(n: usize) -> f64 {
    let digest = blake3::hash(&n.to_le_bytes());
    f64::from(u32::from_le_bytes([digest.as_bytes()[0], digest.as_bytes()[1], digest.as_bytes()[2], 0]))
        / f64::from(1 << 24)
}

fn write(cache: &Path, points: usize, epochs: u64) {
    let store = Store::open(cache, Options::default()).expect("a cache");
    let all: Vec<_> = (0..points).map(|n| result(n, epochs)).collect();
    for part in all.chunks(TOGETHER) {
        let new = part.iter().map(|(point, components, artifact)| NewResult {
            pipeline: "bench",
            point,
            components,
            artifact,
            provenance: Provenance { seconds: 60.0, ..Provenance::default() },
        });
        store.commit_all(new.collect()).expect("results");
    }
}

fn result(n: usize, epochs: u64) -> (String, Components, Artifact) {
    let lr = 10f64.powf(-4.0 + 2.0 * noise(n));
    let batch = [16, 32, 64, 128][n % 4];
    let (depth, seed) = (2 + n / 4 % 5, n);
    let params =
        BTreeMap::from([("batch".to_owned(), i64::from(batch).into()), ("depth".to_owned(), (depth as i64).into())]);
    let segment = Segment { epochs, params: BTreeMap::from([("lr".to_owned(), lr.into())]) };
    let segments = (epochs > 0).then(|| vec![segment]);
    let components = Components {
        kind: "train-command".to_owned(),
        version: 1,
        params: params.into(),
        segments,
        seed: Some(seed as i64),
        ..Components::default()
    };
    let mut artifact = Artifact::default();
    for (m, name) in METRICS.iter().enumerate() {
        let value = |epoch: u64| {
            lr.ln().abs() / (1.0 + epoch as f64).sqrt() + 0.05 * noise(n * 7_919 + m * 104_729 + epoch as usize)
        };
        artifact.metrics.insert((*name).to_owned(), value(epochs));
        if epochs > 0 {
            let curve: Vec<f64> = (0..epochs).map(value).collect();
            artifact.tensors.insert(format!("history.{name}"), Tensor::vector(&curve));
        }
    }
    (format!("net@lr={lr},batch={batch},depth={depth},seed={seed}"), components, artifact)
}

struct Page {
    child: Child,
    port: u16,
    token: String,
}

impl Page {
    fn start(cache: &Path) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_vadpipe"));
        let mut child =
            command.arg("ui").arg("--cache").arg(cache).stdout(Stdio::piped()).spawn().expect("vadpipe starts");
        let mut url = String::new();
        BufReader::new(child.stdout.as_mut().expect("a pipe")).read_line(&mut url).expect("a line");
        let (port, token) = url
            .trim()
            .strip_prefix("http://127.0.0.1:")
            .and_then(|url| url.split_once("/?token="))
            .expect("an address");
        Self { port: port.parse().expect("a port"), token: token.to_owned(), child }
    }

    /// The bytes of an answer.
    fn get(&self, path: &str) -> usize {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)).expect("a connection");
        write!(
            stream,
            "GET {path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {}\r\nConnection: close\r\n\r\n",
            self.token
        )
        .expect("a request");
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).expect("an answer");
        assert!(answer.starts_with(b"HTTP/1.1 200"), "{path}: {}", String::from_utf8_lossy(&answer[..200]));
        answer.len()
    }

    fn time(&self, what: &str, path: &str) {
        let mut times = Vec::new();
        let mut size = 0;
        for _ in 0..5 {
            let begun = Instant::now();
            size = self.get(path);
            times.push(begun.elapsed().as_secs_f64() * 1e3);
        }
        let best = times.iter().copied().fold(f64::INFINITY, f64::min);
        println!("  {what:22} {best:8.1} ms, the first {:.1} ms, {:.1} MB", times[0], size as f64 / 1e6);
    }

    /// The most memory that the server has had, in megabytes.
    fn memory(&self) -> f64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap_or_default();
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        peak.and_then(|peak| peak.trim().trim_end_matches(" kB").parse::<f64>().ok()).unwrap_or(0.0) / 1024.0
    }
}

impl Drop for Page {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
