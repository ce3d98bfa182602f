//! The store against a plain file, and how long a no-op's look-ups take. `cargo bench --bench store`.
//!
//! Each line is one measurement; the ratios stand beside what they compare with, measured in the same run.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::time::Instant;

use vadpipe::artifact::{Artifact, Tensor};
use vadpipe::key::{Components, Key, Segment};
use vadpipe::store::{NewResult, Options, Provenance, StatePosition, Store};

type Outcome<T = ()> = Result<T, Box<dyn std::error::Error>>;

/// Megabytes of a state: 20.5 M parameters with their two moments.
const STATE_MB: usize = 246;

fn main() -> Outcome {
    let folder =
        tempfile::tempdir_in(std::env::args().nth(1).filter(|a| !a.starts_with('-')).unwrap_or(".".to_owned()))?;
    states(&folder.path().join("states"), &folder.path().join("plain"))?;
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

fn state(seed: u64) -> Outcome<BTreeMap<String, Tensor>> {
    let mut bytes = vec![0; STATE_MB << 20];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut bytes);
    let parts = bytes.chunks(STATE_MB << 18).enumerate();
    Ok(parts.map(|(i, part)| (format!("part {i}"), Tensor::vector(part))).collect())
}

fn states(dir: &std::path::Path, plain: &std::path::Path) -> Outcome {
    let keys = chain(0, 8).states();
    let store = Store::open(dir, Options::default())?;
    let mb = STATE_MB as f64;
    let mut before = None;
    for epoch in 0..keys.len() {
        let tensors = state(epoch as u64)?;
        let ((), file) = timed(|| {
            let mut file = File::create(plain)?;
            tensors.values().try_for_each(|t| file.write_all(t.bytes()))?;
            Ok(file.sync_all()?)
        })?;
        let position = StatePosition { epoch: epoch as u64, step: 0 };
        let (record, put) = timed(|| Ok(store.put_state(&keys, position, "cpu", false, &tensors)?))?;
        let (_, removed) = timed(|| match before.replace(record.clone()) {
            Some(old) => Ok(store.remove_superseded(&old, &record)?),
            None => Ok(false),
        })?;
        store.close();
        let (back, read) = timed(|| Ok(store.read_state(&record)?))?;
        assert_eq!(back, tensors);
        let on_disk = store.disk_bytes() >> 20;
        say(&format!(
            "state {epoch}: plain file {:.0} MB/s, put {:.0} MB/s ({:.1}× the time), remove {removed:.2} s, \
             open and verified read {:.0} MB/s, {on_disk} MB on disk",
            mb / file,
            mb / put,
            put / file,
            mb / read
        ));
    }
    Ok(())
}

fn chain(name: i64, epochs: u64) -> Components {
    Components {
        kind: "bench".to_owned(),
        version: 1,
        params: (0..12).map(|i| (format!("parameter {i}"), (name * i).into())).collect(),
        seed: Some(name),
        precision: None,
        inputs: BTreeMap::new(),
        contents: BTreeMap::new(),
        segments: Some(vec![Segment { epochs, params: BTreeMap::from([("lr".to_owned(), 1e-3.into())]) }]),
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
    let chains: Vec<_> = (10_000..10_100).map(|i| chain(i, 100).states()).collect();
    let (_, longest) = timed(|| Ok(chains.iter().try_for_each(|c| store.longest_state(c, "cpu").map(drop))?))?;
    say(&format!(
        "look for a state on a chain of 100 epochs without any: {:.2} ms",
        longest * 1e3 / chains.len() as f64
    ));
    Ok(())
}
