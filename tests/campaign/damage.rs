//! Damage to the cache's files: flipped bits, truncations, deletions, zeroed blocks.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::judge::{Fault, Verdict, compare_export, compare_records};
use crate::program::{CommandOutput, Project, copy_folder, files_below, remove_folder};
use crate::random::Random;
use crate::scenario::{Lab, View};

/// A row of the table that damages files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// One bit of a file.
    Flip,
    /// A file's end is missing.
    Truncate,
    /// A file or a folder is missing.
    Delete,
    /// A block of 4 KB, or the whole of a smaller file, is zero.
    Zero,
}

/// The damage to one file or folder.
#[derive(Clone, Debug)]
pub(crate) enum Damage {
    Flip { file: PathBuf, at: u64, bit: u8 },
    Truncate { file: PathBuf, len: u64 },
    Delete { path: PathBuf },
    Zero { file: PathBuf, at: u64, len: u64 },
}

const BLOCK: u64 = 4096;

impl Damage {
    /// Chooses `count` places to damage in this way, spread over the files of a cache. Paths are relative to the cache.
    pub(crate) fn choose(kind: Kind, cache: &Path, count: usize, random: &mut Random) -> io::Result<Vec<Self>> {
        let relative = |p: &Path| p.strip_prefix(cache).unwrap_or(p).to_owned();
        let files = files_below(cache)?;
        let filled: Vec<(PathBuf, Vec<u8>)> =
            files.iter().map(|f| Ok((relative(f), fs::read(f)?))).collect::<io::Result<_>>()?;
        let filled: Vec<(PathBuf, Vec<u8>)> = filled.into_iter().filter(|(_, bytes)| !bytes.is_empty()).collect();
        let mut chosen = Vec::new();
        match kind {
            Kind::Flip | Kind::Zero => {
                while chosen.len() < count {
                    for (file, bytes) in &filled {
                        chosen.push(Self::inside(kind, file, bytes, random));
                    }
                }
            }
            Kind::Truncate => {
                while chosen.len() < count {
                    for (file, bytes) in &filled {
                        let all = bytes.len() as u64;
                        let lens = [0, all / 2, all - 1, random.below(all)];
                        chosen.extend(lens.map(|len| Self::Truncate { file: file.clone(), len }));
                    }
                }
            }
            Kind::Delete => {
                chosen.extend(files.iter().map(|f| Self::Delete { path: relative(f) }));
                chosen.extend(folders(cache)?.iter().map(|f| Self::Delete { path: relative(f) }));
            }
        }
        random.shuffle(&mut chosen);
        chosen.truncate(count);
        Ok(chosen)
    }

    /// A flip or a zeroed block at a byte that is not zero, because the files of a database are mostly empty.
    fn inside(kind: Kind, file: &Path, bytes: &[u8], random: &mut Random) -> Self {
        let len = bytes.len() as u64;
        let start = random.below(len) as usize;
        let used = bytes[start..].iter().position(|b| *b != 0).map(|i| start + i);
        let at = used.or_else(|| bytes.iter().rposition(|b| *b != 0)).unwrap_or(start) as u64;
        let file = file.to_owned();
        if kind == Kind::Flip {
            return Self::Flip { file, at, bit: random.below(8) as u8 };
        }
        let at = at / BLOCK * BLOCK;
        Self::Zero { file, at, len: BLOCK.min(len - at) }
    }

    fn apply(&self, cache: &Path) -> io::Result<()> {
        match self {
            Self::Flip { file, at, bit } => edit(&cache.join(file), |bytes| bytes[*at as usize] ^= 1 << bit),
            Self::Zero { file, at, len } => {
                edit(&cache.join(file), |bytes| bytes[*at as usize..(*at + *len) as usize].fill(0))
            }
            Self::Truncate { file, len } => fs::OpenOptions::new().write(true).open(cache.join(file))?.set_len(*len),
            Self::Delete { path } => {
                let path = cache.join(path);
                if path.is_dir() { remove_folder(&path) } else { fs::remove_file(path) }
            }
        }
    }

    fn hits_format(&self) -> bool {
        match self {
            Self::Flip { file, .. } | Self::Truncate { file, .. } | Self::Zero { file, .. } => file == "FORMAT",
            Self::Delete { path } => path == "FORMAT",
        }
    }

    /// Whether it deletes a folder with a journal. The records are stored only there.
    fn deletes_journal(&self, base: &Path) -> bool {
        matches!(self, Self::Delete { path } if base.join(path).join("journal").exists())
    }

    fn deletes_runs(&self) -> bool {
        matches!(self, Self::Delete { path } if path.starts_with("runs"))
    }

    fn describe(&self) -> String {
        match self {
            Self::Flip { file, at, bit } => format!("bit {bit} of byte {at} of {}", file.display()),
            Self::Zero { file, at, len } => format!("{len} zeroes at {at} of {}", file.display()),
            Self::Truncate { file, len } => format!("{} cut to {len}", file.display()),
            Self::Delete { path } => format!("{} deleted", path.display()),
        }
    }
}

/// Changes a file in place, so that hard links to it change, too.
fn edit(path: &Path, change: impl FnOnce(&mut [u8])) -> io::Result<()> {
    let mut bytes = fs::read(path)?;
    change(&mut bytes);
    use std::io::Write as _;
    fs::OpenOptions::new().write(true).open(path)?.write_all(&bytes)
}

fn folders(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            found.push(entry.path());
            found.extend(folders(&entry.path())?);
        }
    }
    found.sort();
    Ok(found)
}

/// One trial on the prepared cache of the scenario `plan`. Also returns a description of the damage.
pub(crate) fn trial(lab: &Lab, dir: &Path, damage: &Damage, turn: usize) -> io::Result<(Verdict, String)> {
    let project = lab.copy(lab.scenario("plan"), dir)?;
    let base = lab.scenario("plan").base.join("cache");
    damage.apply(project.cache())?;
    let mut refusal = Verdict::default();
    let refused = damage.hits_format() && refuses(&project, &mut refusal)?;
    if refused {
        // Restoring the file must restore everything.
        fs::copy(base.join("FORMAT"), project.cache().join("FORMAT"))?;
    }
    let affected = affected(&project)?;
    let mut trial =
        Trial { lab, project: &project, affected, may_lose_all: damage.deletes_journal(&base), verdict: refusal };
    let mut first: &[&str] = [
        &["run", "p.toml", "--json"][..],
        &["plan", "p.toml", "--json"],
        &["run", "p.toml", "-S", "params.ones=2", "--json"],
        &["gc"],
        &["run", "p.toml", "-R", "ones", "--json"],
        &["doctor"],
    ][turn % 6];
    if damage.deletes_runs() && first == ["gc"] {
        // `gc` keeps what the recorded runs need. The record of a deleted run is gone.
        first = &["doctor"];
    }
    trial.command(first)?;
    for view in [View::Base, View::More, View::Seed] {
        trial.run(view)?;
    }
    trial.bytes()?;
    Ok((trial.verdict, format!("{}, then `{}`", damage.describe(), first.join(" "))))
}

struct Trial<'a> {
    lab: &'a Lab,
    project: &'a Project,
    /// The points that `doctor -n` reported as affected, before any other command.
    affected: BTreeSet<String>,
    may_lose_all: bool,
    verdict: Verdict,
}

/// Whether the program refuses a cache with a damaged `FORMAT`. It can't detect the damage, because a later version may
/// have written the file, or the folder may not be a cache.
fn refuses(project: &Project, verdict: &mut Verdict) -> io::Result<bool> {
    for args in [&["run", "p.toml", "--json"][..], &["gc"], &["doctor"]] {
        let output = project.run(args)?;
        verdict.check(&args.join(" "), &output, true);
        if output.succeeded() {
            return Ok(false);
        }
        if !matches!(output.code, Some(2 | 5)) || !output.stderr.to_lowercase().contains("format") {
            verdict.add(Fault::Wrong, format!("`{}` with another FORMAT: {}", args.join(" "), output.describe()));
        }
    }
    Ok(true)
}

/// The results (`PIPELINE/POINT`) and states that `doctor -n` reports as affected, run on a copy.
fn affected(project: &Project) -> io::Result<BTreeSet<String>> {
    let copy = project.dir().with_extension("doctor");
    copy_folder(project.dir(), &copy)?;
    let program = project.moved(&copy);
    let output = program.run(&["doctor", "-n", "--json"])?;
    remove_folder(&copy)?;
    let report = output.json().unwrap_or_default();
    let names = report["affected"].as_array().cloned().unwrap_or_default();
    Ok(names.iter().filter_map(|n| n.as_str()).map(str::to_owned).collect())
}

impl Trial<'_> {
    /// Runs a command that must succeed in spite of the damage.
    fn command<A: AsRef<std::ffi::OsStr> + AsRef<str>>(&mut self, args: &[A]) -> io::Result<CommandOutput> {
        let what = args.iter().map(AsRef::<str>::as_ref).collect::<Vec<_>>().join(" ");
        let output = self.project.run(args)?;
        self.verdict.check(&what, &output, true);
        if !output.succeeded() {
            self.verdict.add(Fault::Wrong, format!("`{what}` failed: {}", output.describe()));
        }
        self.check_executed(&what, &output);
        Ok(output)
    }

    /// Checks that only points affected by the damage run again.
    fn check_executed(&mut self, what: &str, output: &CommandOutput) {
        let events = output.events();
        let kept = &self.lab.scenario("plan").kept;
        let forced = |stage: &str| what.contains(&format!("-R {stage}"));
        let started = events.iter().filter(|e| e["event"] == "stage-started");
        let known = started.filter(|e| e["key"].as_str().is_some_and(|key| kept.contains(key)));
        let again: Vec<&str> = known.filter_map(|e| e["stage"].as_str()).filter(|s| !forced(s)).collect();
        let unaffected: Vec<&str> =
            again.into_iter().filter(|s| !self.affected.contains(&format!("campaign/{s}"))).collect();
        if !unaffected.is_empty() && !self.may_lose_all {
            let text = format!("`{what}` makes {} again; affected: {:?}", unaffected.join(", "), self.affected);
            self.verdict.add(Fault::Lost, text);
        }
    }

    /// Checks that a run succeeds and that its results are right without a second run.
    fn run(&mut self, view: View) -> io::Result<()> {
        self.command(&view.json("run"))?;
        let shown = self.project.run(&view.json("show"))?;
        self.verdict.check("show", &shown, true);
        if shown.succeeded() {
            compare_records(self.lab, view, &shown, &mut self.verdict);
        } else {
            self.verdict.add(Fault::Wrong, format!("`show` failed after `run` of {view:?}: {}", shown.describe()));
        }
        Ok(())
    }

    /// Checks that all bytes are right, at the latest after `doctor` and one more run.
    fn bytes(&mut self) -> io::Result<()> {
        if !compare_export(self.lab, self.project, &mut self.verdict)? {
            self.command(&View::Base.json("run"))?;
            if !compare_export(self.lab, self.project, &mut self.verdict)? {
                self.verdict.add(Fault::Wrong, "`export` fails after two runs");
            }
        }
        self.command(&["doctor"])?;
        self.command(&View::Base.json("run"))?;
        let after = self.project.run(&["doctor", "-n", "--json"])?;
        if !after.succeeded() {
            self.verdict.add(Fault::Wrong, format!("the cache is damaged after `doctor`: {}", after.describe()));
        }
        Ok(())
    }
}
