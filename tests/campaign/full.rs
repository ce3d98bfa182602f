//! Full disks: small file systems with little space left.

use std::fs::File;
use std::io::{self, Write as _};
use std::path::Path;

use crate::judge::{Fault, Judge, Promises, Verdict};
use crate::mounts::{FileSystem, Mounted};
use crate::program::{CommandOutput, copy_dense};
use crate::random::Random;
use crate::scenario::{Lab, View};

/// Sizes of the file systems in KB.
const SIZES: [u64; 3] = [20 << 10, 32 << 10, 64 << 10];
/// The remaining space in KB.
const LEFT: [u64; 5] = [0, 4, 8, 64, 512];

/// The commands for a full disk, and whether each must succeed there.
fn commands() -> Vec<(Vec<String>, bool)> {
    let words = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
    vec![
        (View::More.json("run"), false),
        (View::Longer.json("run"), false),
        (words("doctor --json"), false),
        (words("gc --json"), true),
        (words("gc --keep-runs 1 --json"), true),
        (View::Base.json("plan"), true),
        (View::Base.json("show"), true),
        (words("doctor -n --json"), true),
        (words("export p.toml --to full --overwrite"), true),
    ]
}

/// One trial: two to four commands on a full disk, then the verdict with free space. Also returns the number of
/// commands.
pub(crate) fn trial(
    lab: &Lab,
    dir: &Path,
    kind: FileSystem,
    random: &mut Random,
    turn: usize,
) -> io::Result<(Verdict, String, usize)> {
    let scenario = lab.scenario("gc");
    let project = lab.copy(scenario, dir)?;
    let (size, left) = (SIZES[turn / LEFT.len() % SIZES.len()], LEFT[turn % LEFT.len()]);
    let mount = dir.with_extension("mount");
    let _mounted = Mounted::new(kind, size, &mount)?;
    let cache = mount.join("cache");
    copy_dense(project.cache(), &cache)?;
    let project = project.with_cache(&cache);
    let filler = mount.join("filler");
    fill(&mount, &filler, left << 10)?;
    let mut judge = Judge::new(lab, scenario, &project);
    let commands = commands();
    let count = 2 + random.below(3) as usize;
    let mut names = Vec::new();
    for _ in 0..count {
        let (mut args, must) = random.pick(&commands).clone();
        if args[0] == "gc" && names.iter().any(|n: &String| n.starts_with("run")) {
            // With `--keep-runs 1`, `gc` would keep only what this run needs. The verdict requires more.
            args = vec!["gc".to_owned(), "--json".to_owned()];
        }
        let output = project.run(&args)?;
        check(&mut judge, &args, &output, must);
        names.push(args.join(" "));
    }
    std::fs::remove_file(&filler)?;
    let place = format!("{kind:?} of {size} KB, {left} KB left: {}", names.join("; "));
    Ok((judge.examine(turn)?, place, count))
}

fn check(judge: &mut Judge<'_>, args: &[String], output: &CommandOutput, must: bool) {
    let what = args.join(" ");
    judge.verdict.check(&what, output, false);
    match output.code {
        Some(0) => {}
        Some(1 | 5) if !must => {}
        _ if must => judge.verdict.add(Fault::Refused, format!("`{what}` on a full disk: {}", output.describe())),
        _ => judge.verdict.add(Fault::Wrong, format!("`{what}` on a full disk: {}", output.describe())),
    }
    if what.starts_with("gc") {
        // `gc` may remove results of an unfinished run.
        judge.promises = Promises::default();
    } else {
        let promises = Promises::of(output);
        judge.promises.keys.extend(promises.keys);
        judge.promises.epoch = judge.promises.epoch.max(promises.epoch);
    }
}

/// Writes a file until only this many bytes are free.
fn fill(mount: &Path, filler: &Path, left: u64) -> io::Result<()> {
    let mut file = File::create(filler)?;
    let block = vec![0x55; 4096];
    loop {
        let space = rustix::fs::statvfs(mount)?;
        let free = space.f_bavail * space.f_frsize;
        if free <= left {
            break;
        }
        // Single blocks near the end, because the file system also needs space for itself.
        let blocks = if free - left > 256 << 10 { 32 } else { 1 };
        if (0..blocks).try_for_each(|_| file.write_all(&block)).is_err() {
            break;
        }
        // Without a sync, delayed allocation would count the blocks later.
        file.sync_data()?;
    }
    Ok(())
}
