//! Compares the store with a plain file and with the machine, and measures the look-ups of a no-op run.
//!
//! `cargo bench --bench store [-- shared] [FOLDER]`. The folder chooses the disk. `shared` measures and attacks the
//! shared store instead: see `store/shared.rs`.
//!
//! The store and the plain file take turns in the same folder, each time with new bytes. Medians are printed. The plain
//! file is written and synced, then read while its BLAKE3 digest is computed. Like the store, the bench keeps the old
//! file until the new one is durable. On a virtual machine, the page cache is several times slower if the host must
//! provide its memory first, so the bench touches and frees as much memory before each write.
//!
//! The floor of a write is the plain file, because the same bytes must reach the same disk. The floor of a verified
//! read is one copy of the bytes and one BLAKE3 digest, each by all threads at its measured rate.

#[path = "store/shared.rs"]
mod shared;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Instant;

use vadpipe::artifact::{Artifact, Tensor};
use vadpipe::key::{Components, Key, Position, Segment};
use vadpipe::store::{GcPolicy, NewResult, NewState, Options, Provenance, StateQuery, StateRecord, Store};

type Outcome<T = ()> = Result<T, Box<dyn std::error::Error>>;
type State = BTreeMap<String, Tensor>;

/// Mebibytes of a state: 20.5 M parameters, each with two moments.
const STATE_MB: usize = 246;
/// Tensors of a state.
const PARTS: usize = 4;
/// Measurements of each kind.
const ROUNDS: u64 = 7;
/// Checkpoints that replace each other.
const REPLACED: u64 = 20;

fn main() -> ExitCode {
    if std::env::args().nth(1).is_some_and(|arg| arg == "--vadpipe") {
        return shared::vadpipe(std::env::args_os().enumerate().filter(|(i, _)| *i != 1).map(|(_, arg)| arg));
    }
    match bench() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say(&format!("failed: {error}"));
            ExitCode::FAILURE
        }
    }
}

fn bench() -> Outcome {
    let words: Vec<String> = std::env::args().skip(1).filter(|arg| !arg.starts_with('-')).collect();
    let base = words.iter().find(|word| *word != "shared").map_or(".", String::as_str);
    let folder = tempfile::tempdir_in(base)?;
    if words.iter().any(|word| word == "shared") {
        return shared::run(folder.path());
    }
    states(&folder.path().join("states"), &folder.path().join("plain"))?;
    growth(&folder.path().join("growth"))?;
    lookups(&folder.path().join("lookups"))
}

fn timed<T>(f: impl FnOnce() -> Outcome<T>) -> Outcome<(T, f64)> {
    let begin = Instant::now();
    Ok((f()?, begin.elapsed().as_secs_f64()))
}

#[expect(clippy::print_stdout, reason = "a benchmark prints")]
fn say(line: &str) {
    println!("{line}");
}

/// Makes a virtual machine's host provide the memory that the page cache will use for a write.
fn warm() {
    drop(std::hint::black_box(vec![1_u8; (2 * STATE_MB) << 20]));
}

fn median(mut seconds: Vec<f64>) -> f64 {
    seconds.sort_by(f64::total_cmp);
    seconds[seconds.len() / 2]
}

/// GB/s (10⁹ bytes) for a state that took this long.
fn rate(seconds: f64) -> f64 {
    (STATE_MB << 20) as f64 / 1e9 / seconds
}

/// A state with new tensors, except for the first `shared` ones, which are the same in all states.
fn state(seed: u64, shared: usize) -> State {
    let part = |i: usize| {
        let mut bytes = vec![0; (STATE_MB << 20) / PARTS];
        let seed = if i < shared { i as u64 } else { 1000 + seed };
        blake3::Hasher::new().update(&[seed, i as u64].map(u64::to_le_bytes).concat()).finalize_xof().fill(&mut bytes);
        (format!("part {i}"), Tensor::vector(&bytes))
    };
    (0..PARTS).map(part).collect()
}

/// Seconds to write and sync a state as a plain file. The time to replace the previous file is not included.
fn write_plain(path: &Path, tensors: &State) -> Outcome<f64> {
    let new = path.with_extension("new");
    let write = || {
        let mut file = File::create(&new)?;
        tensors.values().try_for_each(|t| file.write_all(t.bytes()))?;
        Ok(file.sync_all()?)
    };
    warm();
    let ((), seconds) = timed(write)?;
    fs::rename(new, path)?;
    Ok(seconds)
}

fn states(dir: &Path, plain: &Path) -> Outcome {
    let keys = chain(0, 2 * ROUNDS + 2).chain().keys().to_vec();
    let store = Store::open(dir, Options::default())?;
    let mut before: Option<StateRecord> = None;
    let mut epoch = 0;
    for shared in [0, PARTS / 2] {
        let (mut plains, mut puts, mut removals, mut reads, mut plain_reads) = (vec![], vec![], vec![], vec![], vec![]);
        // The first round creates the databases and the shared tensors. It is not measured.
        for round in 0..=ROUNDS {
            let tensors = state(epoch, shared);
            let file = write_plain(plain, &tensors)?;
            let position = Position { epoch, step: 0 };
            warm();
            let (record, put) = timed(|| Ok(store.put_state(&keys, NewState::new(position, "cpu", false, &tensors))?))?;
            let (_, removal) = timed(|| match before.replace(record.clone()) {
                Some(old) => Ok(store.remove_superseded(&old, &record)?),
                None => Ok(false),
            })?;
            store.close();
            let (back, read) = timed(|| Ok(store.read_state(&record)?))?;
            assert!(back == tensors, "the stored state is read back");
            let (_, plain_read) = timed(|| Ok(std::hint::black_box(blake3::hash(&fs::read(plain)?))))?;
            epoch += 1;
            if round > 0 {
                plains.push(file);
                puts.push(put);
                removals.push(removal);
                reads.push(read);
                plain_reads.push(plain_read);
            }
        }
        let best = |seconds: &[f64]| seconds.iter().copied().fold(f64::INFINITY, f64::min);
        let (best_file, best_put) = (best(&plains), best(&puts));
        let (file, put, removal) = (median(plains), median(puts), median(removals));
        let what = format!("state of {STATE_MB} MiB, {shared} of its {PARTS} tensors stored before");
        say(&format!(
            "write of a {what}: {:.2} GB/s; plain file + fsync {:.2} GB/s; {:.2} × the plain file (floor), medians of \
             {ROUNDS}; the fastest {:.2} and {:.2} GB/s, {:.2} ×; and {:.0} ms to remove the one before it",
            rate(put),
            rate(file),
            file / put,
            rate(best_put),
            rate(best_file),
            best_file / best_put,
            removal * 1e3
        ));
        if shared == 0 {
            say_read(median(reads), median(plain_reads), &state(0, 0));
            let on_disk = store.disk_bytes() as f64 / (STATE_MB << 20) as f64;
            say(&format!("bytes on disk per byte stored: {on_disk:.3}"));
        }
    }
    Ok(())
}

fn say_read(read: f64, plain: f64, tensors: &State) {
    let parts: Vec<&[u8]> = tensors.values().map(Tensor::bytes).collect();
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let on_threads = |work: &(dyn Fn(&[u8], &mut [u8]) + Sync)| {
        let mut target = vec![1_u8; STATE_MB << 20];
        let runs = (0..3).map(|_| {
            let begin = Instant::now();
            for (from, to) in parts.iter().zip(target.chunks_mut((STATE_MB << 20) / PARTS)) {
                let share = from.len().div_ceil(threads);
                std::thread::scope(|scope| {
                    let shares = from.chunks(share).zip(to.chunks_mut(share));
                    shares.for_each(|(from, to)| drop(scope.spawn(move || work(from, to))));
                });
            }
            begin.elapsed().as_secs_f64()
        });
        median(runs.collect())
    };
    let copy = on_threads(&|from, to| to.copy_from_slice(from));
    let hash = on_threads(&|from, _| {
        std::hint::black_box(blake3::hash(from));
    });
    let floor = copy + hash;
    say(&format!(
        "open and verified read from the page cache: {:.2} GB/s; plain read + BLAKE3 {:.2} GB/s ({:.2} ×); floor {:.2} \
         GB/s (copy {:.2}, BLAKE3 {:.2}, {threads} threads): {:.2} × its time",
        rate(read),
        rate(plain),
        plain / read,
        rate(floor),
        rate(copy),
        rate(hash),
        read / floor
    ));
}

/// Checkpoints that replace each other. A quarter of each does not change.
fn growth(dir: &Path) -> Outcome {
    let all = chain(1, REPLACED);
    let keys = all.chain().keys().to_vec();
    let store = Store::open(dir, Options::default())?;
    let size = |store: &Store| store.disk_bytes() as f64 / (STATE_MB << 20) as f64;
    let mut before: Option<StateRecord> = None;
    let mut sizes = Vec::new();
    for epoch in 0..=REPLACED {
        let tensors = state(epoch, 1);
        let record = store.put_state(&keys, NewState::new(Position { epoch, step: 0 }, "cpu", false, &tensors))?;
        before.replace(record.clone()).map_or(Ok(false), |old| store.remove_superseded(&old, &record))?;
        sizes.push(size(&store));
    }
    let artifact = Artifact::default();
    store.commit(NewResult {
        pipeline: "p",
        point: "x",
        components: &all,
        artifact: &artifact,
        provenance: Provenance::default(),
    })?;
    store.close();
    let (found, open) = timed(|| Ok(store.longest_state(&keys, &StateQuery::new("cpu"))?))?;
    let found = found.ok_or("the last state is missing")?;
    let (_, gc) = timed(|| Ok(store.gc(&GcPolicy { keep_runs: 1, named: vec![], dry_run: false })?))?;
    store.close();
    assert!(store.read_state(&found)? == state(REPLACED, 1), "`gc` keeps the last state");
    say(&format!(
        "disk over {REPLACED} replaced states, in states: {:.2} after the first, {:.2} at most, {:.2} after the last, \
         {:.2} after gc (which took {:.0} ms); then the index opens and finds the last in {:.1} ms",
        sizes[0],
        sizes.iter().copied().fold(0.0, f64::max),
        sizes[sizes.len() - 1],
        size(&store),
        gc * 1e3,
        open * 1e3
    ));
    Ok(())
}

fn chain(name: i64, epochs: u64) -> Components {
    Components {
        kind: "bench".to_owned(),
        version: 1,
        params: Arc::new((0..12).map(|i| (format!("parameter {i}"), (name * i).into())).collect()),
        seed: Some(name),
        precision: None,
        inputs: BTreeMap::new(),
        contents: BTreeMap::new(),
        files_read: BTreeMap::new(),
        segments: Some(vec![Segment { epochs, params: BTreeMap::from([("lr".to_owned(), 1e-3.into())]) }]),
        ..Components::default()
    }
}

fn lookups(dir: &std::path::Path) -> Outcome {
    let store = Store::open(dir, Options::default())?;
    let all: Vec<Components> = (0..2000).map(|i| chain(i, 100)).collect();
    let keys: Vec<Key> = all.iter().map(Components::key).collect();
    let ((), put) = timed(|| {
        for (i, components) in all.iter().enumerate() {
            let mut artifact = Artifact::default();
            artifact.tensors.insert("t".to_owned(), Tensor::vector(&[i as u32; 100]));
            artifact.metrics.insert("loss".to_owned(), i as f64);
            let (point, provenance) = (format!("point-{i}"), Provenance::default());
            store.commit(NewResult { pipeline: "p", point: &point, components, artifact: &artifact, provenance })?;
        }
        Ok(())
    })?;
    say(&format!("commit of a small result: {:.2} ms", put * 1e3 / all.len() as f64));
    store.close();
    let (_, one) = timed(|| Ok(store.result(&keys[0])?))?;
    say(&format!("open the index and find one of {} results: {:.1} ms", all.len(), one * 1e3));
    let (found, many) = timed(|| Ok(store.results(&keys)?))?;
    assert!(found.iter().all(Option::is_some));
    say(&format!("find all of them: {:.1} ms", many * 1e3));
    let found: Vec<_> = found.iter().flatten().collect();
    let (_, present) = timed(|| Ok(store.are_present(&found)?))?;
    say(&format!("ask whether they are present: {:.2} ms", present * 1e3));
    let chains: Vec<_> = (10_000..10_100).map(|i| chain(i, 100).chain().keys().to_vec()).collect();
    let (_, longest) =
        timed(|| Ok(chains.iter().try_for_each(|c| store.longest_state(c, &StateQuery::new("cpu")).map(drop))?))?;
    say(&format!(
        "look for a state on a chain of 100 epochs without any: {:.2} ms",
        longest * 1e3 / chains.len() as f64
    ));
    Ok(())
}
