//! The shared store: transfer rates beside the library that moves the bytes, and attacks. `-- shared`.
//!
//! This program is also a `vadpipe` with the additional stage kind `noise`: after `--vadpipe` it accepts the command
//! line of `vadpipe`.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use futures_util::{StreamExt as _, TryStreamExt as _};
use object_store::local::LocalFileSystem;
use object_store::{ObjectStore, ObjectStoreExt as _, WriteMultipart};
use vadpipe::artifact::{Artifact, Tensor};
use vadpipe::key::{Components, InputDigest, Key};
use vadpipe::shared::{Address, Asked, GRACE, SharedGcPolicy, SharedStore, Transfer, Trust};
use vadpipe::stage::{About, Bound, Context, Params, Registry, Roles, Stage, StageError, StageKind};
use vadpipe::store::{FilesRead, Import, NewResult, Options, Provenance, ResultRecord, Store};

use super::{Outcome, median, say, timed};

/// Mebibytes of the results whose transfer is timed, and of each of their tensors.
const BIG_MB: usize = 512;
const TENSOR_MB: usize = 64;
/// Measurements of each kind.
const ROUNDS: usize = 5;
/// Points of the no-op run.
const POINTS: usize = 10_000;
/// Pushes that are killed, and bits that are flipped.
const ATTACKS: usize = 1_000;
/// Objects that are removed.
const REMOVALS: usize = 200;
/// Machines that push at the same time, and how often all of them do.
const WRITERS: usize = 8;
const TURNS: usize = 100;

/// A stage kind whose result is a tensor of bytes.
struct Noise;

impl StageKind for Noise {
    fn about(&self) -> About {
        About { roles: Roles::Any, ..About::new("noise", 1, "bytes") }
    }
    fn parse(&self, params: &mut Params<'_>) -> Arc<dyn Stage> {
        let seed = params.float("n", 0.0, Bound::Finite);
        Arc::new(NoiseOf { seed, kilobytes: params.float("kilobytes", 1.0, Bound::Finite) })
    }
}

struct NoiseOf {
    seed: f64,
    kilobytes: f64,
}

impl Stage for NoiseOf {
    fn run(&self, _: &Context<'_>) -> Result<Artifact, StageError> {
        Ok(artifact(self.seed as u64, 1, (self.kilobytes * 1000.0) as usize))
    }
}

/// `vadpipe` with the kind `noise`.
pub(super) fn vadpipe(args: impl Iterator<Item = OsString>) -> ExitCode {
    let mut registry: Registry = vadpipe::stages::builtin();
    registry.register(Noise);
    vadpipe::cli::main_with(registry, args)
}

fn noise(seed: u64, bytes: usize) -> Vec<u8> {
    let mut noise = vec![0; bytes];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut noise);
    noise
}

fn artifact(seed: u64, tensors: usize, bytes: usize) -> Artifact {
    let tensor = |i: usize| (format!("t{i}"), Tensor::vector(&noise(seed * 1000 + i as u64, bytes)));
    Artifact { tensors: (0..tensors).map(tensor).collect(), ..Artifact::default() }
}

fn components(number: u64) -> Components {
    let params = BTreeMap::from([("n".to_owned(), i64::try_from(number).unwrap_or(0).into())]);
    let inputs = BTreeMap::<String, InputDigest>::new();
    Components { kind: "noise".to_owned(), version: 1, params: params.into(), inputs, ..Components::default() }
}

fn cache(folder: &Path) -> Outcome<Store> {
    Ok(Store::open(folder, Options::default())?)
}

fn commit(store: &Store, number: u64, artifact: &Artifact) -> Outcome<ResultRecord> {
    let (components, point) = (components(number), format!("p{number}"));
    let provenance = Provenance { host: "bench".to_owned(), ..Provenance::default() };
    Ok(store.commit(NewResult { pipeline: "bench", point: &point, components: &components, artifact, provenance })?)
}

fn shared(folder: &Path) -> Outcome<SharedStore> {
    let address = Address::parse(&folder.display().to_string(), Path::new(""))?;
    Ok(SharedStore::open(address, BTreeMap::new(), Trust::default(), true)?)
}

fn import(results: Vec<ResultRecord>) -> Import {
    Import { results, ..Import::default() }
}

/// Copies the results of these keys to a cache. Returns the warnings.
fn pull(store: &Path, cache: &Store, keys: &[Key]) -> Outcome<Vec<String>> {
    let shared = shared(store)?;
    let asked: Vec<Asked> = keys.iter().map(|key| Asked { declared: *key, reads_files: false }).collect();
    shared.pull_results(cache, &asked, &|_: &FilesRead| true, &Transfer::default())?;
    Ok(shared.warnings())
}

/// Runs all parts.
pub(super) fn run(folder: &Path) -> Outcome {
    rates(&folder.join("rates"))?;
    no_op(&folder.join("no-op"))?;
    kills(&folder.join("kills"))?;
    damage(&folder.join("damage"))?;
    collection(&folder.join("collection"))
}

fn megabytes_a_second(seconds: f64) -> f64 {
    (BIG_MB << 20) as f64 / 1e6 / seconds
}

/// Push and pull of large results, and the same bytes moved by the library alone: from files that are read to files
/// that are synced.
fn rates(folder: &Path) -> Outcome {
    let made = cache(&folder.join("made"))?;
    let record = commit(&made, 1, &artifact(1, BIG_MB / TENSOR_MB, TENSOR_MB << 20))?;
    made.close();
    let (mut pushes, mut pulls, mut moves) = (vec![], vec![], vec![]);
    for round in 0..=ROUNDS {
        let (store, copy) = (folder.join("store"), folder.join("copy"));
        let pushing = shared(&store)?;
        let (pushed, push) = timed(|| Ok(pushing.push(&made, import(vec![record.clone()]), &Transfer::default())?))?;
        assert_eq!(pushed.results, 1);
        let second = cache(&folder.join("second"))?;
        let (warnings, pull) = timed(|| pull(&store, &second, &[record.key]))?;
        assert!(warnings.is_empty() && second.result(&record.key)?.is_some());
        second.close();
        let ((), moved) = timed(|| copy_objects(&store.join("blob"), &copy))?;
        if round > 0 {
            pushes.push(push);
            pulls.push(pull);
            moves.push(moved);
        }
        for path in [store, copy, folder.join("second")] {
            fs::remove_dir_all(path)?;
        }
    }
    let [push, pull, moved] = [pushes, pulls, moves].map(median);
    let line = |what: &str, seconds: f64| {
        say(&format!("{what:<38} {:6.0} MB/s  {:3.0} % of it", megabytes_a_second(seconds), 100.0 * moved / seconds));
    };
    say(&format!("{BIG_MB} MiB in tensors of {TENSOR_MB} MiB, through a folder:"));
    line("object_store alone, to synced files", moved);
    line("pull into a cache, verified and synced", pull);
    line("push from a cache, verified and synced", push);
    Ok(())
}

/// Moves objects from a folder to another, in ranges and parts, as fast as the library does it.
fn copy_objects(from: &Path, to: &Path) -> Outcome {
    fs::create_dir_all(to)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let (from, to) = (LocalFileSystem::new_with_prefix(from)?, LocalFileSystem::new_with_prefix(to)?.with_fsync(true));
    let copy = |object: object_store::Result<object_store::ObjectMeta>| async {
        let path = object?.location;
        let mut bytes = from.get(&path).await?.into_stream();
        let mut upload = WriteMultipart::new_with_chunk_size(to.put_multipart(&path).await?, 8 << 20);
        while let Some(chunk) = bytes.next().await {
            upload.wait_for_capacity(8).await?;
            upload.put(chunk?);
        }
        upload.finish().await.map(drop)
    };
    runtime.block_on(from.list(None).map(copy).buffer_unordered(4).try_collect::<()>())?;
    Ok(())
}

/// This program as `vadpipe`.
fn own_vadpipe(project: &Path, args: &[&str]) -> Outcome<Command> {
    let mut command = Command::new(std::env::current_exe()?);
    command.arg("--vadpipe").args(args).current_dir(project).env("HOME", project).env_remove("VADPIPE_STORE");
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    Ok(command)
}

fn succeeds(mut command: Command) -> Outcome<String> {
    let output = command.output()?;
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    match output.status.success() {
        true => Ok(String::from_utf8_lossy(&output.stdout).into_owned()),
        false => Err(format!("{command:?}: {text}").into()),
    }
}

fn pipeline(points: usize, kilobytes: f64) -> String {
    let values: Vec<String> = (0..points).map(|n| n.to_string()).collect();
    format!(
        "[pipeline]\nname = \"bench\"\n[stages.a]\nkind = \"noise\"\nmatrix = {{ n = [{}] }}\nn = \"${{matrix.n}}\"\n\
         kilobytes = {kilobytes:?}\n",
        values.join(", ")
    )
}

/// A run in which everything is cached, with a store that does not exist: a single request would fail.
fn no_op(folder: &Path) -> Outcome {
    fs::create_dir_all(folder)?;
    fs::write(folder.join("p.toml"), pipeline(POINTS, 0.01))?;
    succeeds(own_vadpipe(folder, &["run", "p.toml", "-q"])?)?;
    let (mut with, mut without) = (vec![], vec![]);
    for _ in 0..ROUNDS {
        let run = |args: &[&str]| timed(|| succeeds(own_vadpipe(folder, &[&["run", "p.toml", "-q"], args].concat())?));
        with.push(run(&["--store", "nowhere"])?.1);
        without.push(run(&["--no-store"])?.1);
    }
    let (with, without) = (median(with), median(without));
    say(&format!(
        "no-op of {POINTS} points: {with:.3} s with a store, {without:.3} s without ({:.2} ×), no request",
        with / without
    ));
    Ok(())
}

/// All files of a folder.
fn files(folder: &Path) -> Outcome<Vec<PathBuf>> {
    let (mut found, mut open) = (Vec::new(), vec![folder.to_owned()]);
    while let Some(folder) = open.pop() {
        for entry in fs::read_dir(folder)? {
            let path = entry?.path();
            if path.is_dir() { open.push(path) } else { found.push(path) }
        }
    }
    found.sort();
    Ok(found)
}

/// Numbers that look random.
struct Dice(u64);

impl Dice {
    fn below(&mut self, end: usize) -> usize {
        self.0 += 1;
        let bytes = blake3::hash(&self.0.to_le_bytes());
        let number = u64::from_le_bytes(bytes.as_bytes()[..8].try_into().unwrap_or_default());
        (number % end.max(1) as u64) as usize
    }
}

/// Kills pushes at random moments. After each, every blob must have its digest, and every record its blobs.
fn kills(folder: &Path) -> Outcome {
    let (store, points) = (folder.join("store"), 12);
    fs::create_dir_all(&store)?;
    fs::write(folder.join("p.toml"), pipeline(points, 3000.0))?;
    succeeds(own_vadpipe(folder, &["run", "p.toml", "-q"])?)?;
    let push = || own_vadpipe(folder, &["push", "p.toml", "-q", "--store", "store"]);
    let ((), whole) = timed(|| succeeds(push()?).map(drop))?;
    let (mut dice, mut interrupted) = (Dice(1), 0);
    for _ in 0..ATTACKS {
        for path in files(&store)? {
            if dice.below(2) == 0 {
                fs::remove_file(path)?;
            }
        }
        let mut child = push()?.spawn()?;
        std::thread::sleep(Duration::from_secs_f64(whole * dice.below(1000) as f64 / 1000.0));
        interrupted += usize::from(child.try_wait()?.is_none());
        child.kill()?;
        child.wait()?;
        for path in files(&store)? {
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            let is_blob = path.parent().is_some_and(|folder| folder.ends_with("blob")) && !name.contains('#');
            assert!(!is_blob || blake3::hash(&fs::read(&path)?).to_hex().as_str() == name, "{}", path.display());
        }
    }
    succeeds(push()?)?;
    let doctor = succeeds(own_vadpipe(folder, &["store", "doctor", "-n", "--blobs", "--store", "store"])?)?;
    assert!(doctor.contains("no problems"), "{doctor}");
    let second = folder.join("second");
    fs::create_dir_all(&second)?;
    fs::write(second.join("p.toml"), pipeline(points, 3000.0))?;
    let run = succeeds(own_vadpipe(&second, &["run", "p.toml", "--json", "--store", "../store"])?)?;
    let last = run.lines().last().unwrap_or_default();
    assert!(last.contains("\"executed\":[]"), "{last}");
    say(&format!(
        "{ATTACKS} pushes killed, {interrupted} before their end: 0 wrong bytes; then a second machine runs 0 stages"
    ));
    Ok(())
}

/// Flips bits and removes objects. No pull may fail or store wrong bytes, and each damage must be reported.
fn damage(folder: &Path) -> Outcome {
    let (store, made) = (folder.join("store"), cache(&folder.join("made"))?);
    let records: Vec<ResultRecord> =
        (0..12).map(|n| commit(&made, n, &artifact(n, 2, 70_000))).collect::<Outcome<_>>()?;
    shared(&store)?.push(&made, import(records.clone()), &Transfer::default())?;
    let keys: Vec<Key> = records.iter().map(|record| record.key).collect();
    let all = files(&store)?;
    let (mut dice, mut refused) = (Dice(2), 0);
    for attack in 0..ATTACKS + REMOVALS {
        let path = &all[dice.below(all.len())];
        let intact = fs::read(path)?;
        let is_record = path.components().any(|part| part.as_os_str() == "result");
        let is_reported = if attack < ATTACKS {
            let mut bytes = intact.clone();
            let bit = dice.below(8 * bytes.len());
            bytes[bit / 8] ^= 1 << (bit % 8);
            fs::write(path, bytes)?;
            true
        } else {
            fs::remove_file(path)?;
            // A record that does not exist is an ordinary miss, and a marker may be missing.
            path.components().any(|part| part.as_os_str() == "blob")
        };
        let second = cache(&folder.join("second"))?;
        let warnings = pull(&store, &second, &keys)?;
        assert_eq!(!warnings.is_empty(), is_reported, "{}: {warnings:?}", path.display());
        let (mut missing, pulled) = (0, second.results(&keys)?);
        for (record, pulled) in records.iter().zip(pulled) {
            let Some(pulled) = pulled else {
                missing += 1;
                continue;
            };
            assert_eq!(pulled.digest, record.digest);
            for (name, entry) in &pulled.manifest.tensors {
                assert!(second.read_tensor(entry)? == made.read_tensor(&record.manifest.tensors[name])?);
            }
        }
        refused += missing;
        assert!(missing <= if is_record { 1 } else { 2 });
        second.close();
        fs::remove_dir_all(folder.join("second"))?;
        fs::write(path, intact)?;
    }
    say(&format!(
        "{ATTACKS} flipped bits and {REMOVALS} removed objects: 0 wrong bytes, 0 failed pulls, {refused} results were \
         misses, each damage of bytes reported"
    ));
    Ok(())
}

/// Makes all objects older than the grace period.
fn age(store: &Path) -> Outcome {
    let old = SystemTime::now() - 2 * GRACE;
    for path in files(store)? {
        // A collection may have removed it.
        if let Ok(file) = File::options().write(true).open(path) {
            file.set_modified(old)?;
        }
    }
    Ok(())
}

/// Machines push results that need old blobs, while a collection removes what no record needs.
fn collection(folder: &Path) -> Outcome {
    let store = folder.join("store");
    let writers: Vec<Store> = (0..WRITERS).map(|n| cache(&folder.join(format!("w{n}")))).collect::<Outcome<_>>()?;
    let policy = SharedGcPolicy { keep_runs: 1, grace: GRACE, dry_run: false, force: false };
    let (mut removed, mut pushed) = (0, 0);
    for turn in 0..TURNS as u64 {
        // All results of a turn share their blobs. The first is pushed, and its record is removed.
        let bytes = artifact(1_000_000 + turn, 8, 60_000);
        let first = commit(&writers[0], turn * 100, &bytes)?;
        shared(&store)?.push(&writers[0], import(vec![first]), &Transfer::default())?;
        let _ = fs::remove_dir_all(store.join("result"));
        age(&store)?;
        let stop = AtomicBool::new(false);
        let records: Vec<ResultRecord> = std::thread::scope(|scope| -> Outcome<_> {
            let collecting = scope.spawn(|| {
                let mut blobs = 0;
                while !stop.load(Ordering::Relaxed) {
                    let collector = shared(&store).map_err(|e| e.to_string())?;
                    blobs += collector.gc(&policy).map_err(|e| e.to_string())?.blobs_removed;
                }
                Ok::<usize, String>(blobs)
            });
            let (store, bytes) = (&store, &bytes);
            let push = |(n, cache): (usize, &Store)| {
                let record = commit(cache, turn * 100 + 1 + n as u64, bytes).map_err(|e| e.to_string())?;
                let shared = shared(store).map_err(|e| e.to_string())?;
                let pushed = shared.push(cache, import(vec![record.clone()]), &Transfer::default());
                pushed.map(|_| record).map_err(|e| e.to_string())
            };
            let pushing: Vec<_> = writers.iter().enumerate().map(|writer| scope.spawn(move || push(writer))).collect();
            let records = pushing.into_iter().map(|thread| thread.join().unwrap_or(Err("panicked".to_owned())));
            let records = records.collect::<Result<Vec<_>, String>>();
            stop.store(true, Ordering::Relaxed);
            removed += collecting.join().unwrap_or(Err("panicked".to_owned()))?;
            Ok(records?)
        })?;
        let keys: Vec<Key> = records.iter().map(|record| record.key).collect();
        let second = cache(&folder.join("second"))?;
        let warnings = pull(&store, &second, &keys)?;
        assert_eq!(warnings, [""; 0]);
        assert!(second.results(&keys)?.iter().all(Option::is_some), "a result was lost in turn {turn}");
        pushed += keys.len();
        second.close();
        fs::remove_dir_all(folder.join("second"))?;
    }
    say(&format!("collections beside {WRITERS} writers: {pushed} results pushed, {removed} blobs removed, 0 lost"));
    Ok(())
}
