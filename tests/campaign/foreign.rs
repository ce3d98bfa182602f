//! Caches that the user may only read, or may not read, and caches made under different umasks.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::Path;

use crate::judge::{Fault, Judge, Verdict};
use crate::mounts::Mounted;
use crate::program::{CommandOutput, Project, RunningCommand};
use crate::scenario::{Lab, View};

/// The user and group `nobody`.
const NOBODY: u32 = 65_534;

/// Commands that only read. They must work on a cache that can be read.
pub(crate) const READING: [&str; 12] = [
    "plan p.toml --json",
    "plan p.toml -S params.ones=2 --json",
    "status p.toml --json",
    "explain p.toml ad --json",
    "show p.toml --json",
    "metrics p.toml --json",
    "log --json",
    "log last --events",
    "export p.toml --to taken --overwrite",
    "doctor -n --json",
    "gc -n --json",
    "graph p.toml",
];

/// Commands that write. They may fail, but only with exit code 5.
pub(crate) const WRITING: [&str; 4] =
    ["run p.toml -S params.ones=2 --json", "run p.toml --json", "gc --json", "doctor --json"];

/// The number of commands in [`READING`] and [`WRITING`].
pub(crate) fn commands() -> usize {
    READING.len() + WRITING.len()
}

fn words(text: &str) -> Vec<String> {
    text.split(' ').map(str::to_owned).collect()
}

/// The command of a trial, and whether it only reads.
fn command(turn: usize) -> (Vec<String>, bool) {
    match READING.iter().chain(&WRITING).nth(turn % commands()) {
        Some(text) => (words(text), turn % commands() < READING.len()),
        None => unreachable!("the index is below the length"),
    }
}

/// Checks the output of a command on a cache that can't be written or read. With `must`, the command must succeed.
fn check(judge: &mut Judge<'_>, args: &[String], output: &CommandOutput, must: bool) {
    let what = args.join(" ");
    judge.verdict.check(&what, output, false);
    match output.code {
        Some(0 | 5) if !must => {}
        Some(0) => {}
        _ if must => judge.verdict.add(Fault::Refused, format!("`{what}`: {}", output.describe())),
        _ => judge.verdict.add(Fault::Wrong, format!("`{what}`: {}", output.describe())),
    }
}

/// One command on a read-only mount.
pub(crate) fn read_only(lab: &Lab, dir: &Path, turn: usize) -> io::Result<(Verdict, String)> {
    let scenario = lab.scenario("plan");
    let project = lab.copy(scenario, dir)?;
    let mut judge = Judge::new(lab, scenario, &project);
    let mount = dir.with_extension("mount");
    let (args, reads) = command(turn);
    let mounted = Mounted::read_only(project.cache(), &mount)?;
    let output = project.with_cache(&mount).run(&args)?;
    drop(mounted);
    check(&mut judge, &args, &output, reads);
    Ok((judge.examine(turn)?, args.join(" ")))
}

/// One command as another user. In the second half of the trials only the owner may read the cache.
pub(crate) fn other_user(lab: &Lab, dir: &Path, turn: usize) -> io::Result<(Verdict, String)> {
    let scenario = lab.scenario("plan");
    let project = lab.copy(scenario, dir)?;
    let closed = turn / commands() % 2 == 1;
    // The user may write results of `export`, but nothing in the cache.
    fs::set_permissions(project.dir(), fs::Permissions::from_mode(0o777))?;
    if closed {
        fs::set_permissions(project.cache(), fs::Permissions::from_mode(0o700))?;
    }
    let mut judge = Judge::new(lab, scenario, &project);
    let (args, reads) = command(turn);
    let output = run_as_nobody(&project, &args)?;
    // `graph` needs no cache.
    check(&mut judge, &args, &output, reads && !closed);
    if closed && output.succeeded() && !args[0].starts_with("graph") {
        judge.verdict.add(Fault::Wrong, format!("`{}` succeeds on a cache that can't be read", args.join(" ")));
    }
    let place = format!("{}{}", args.join(" "), if closed { ", cache closed" } else { "" });
    Ok((judge.examine(turn)?, place))
}

fn run_as_nobody(project: &Project, args: &[String]) -> io::Result<CommandOutput> {
    let (mut command, files) = project.command(args)?;
    command.uid(NOBODY).gid(NOBODY);
    RunningCommand::from_parts(command.spawn()?, files).wait()
}

/// The umasks of the row `umask`.
pub(crate) const UMASKS: [u32; 4] = [0o022, 0o002, 0o027, 0o077];

/// A cache made under a umask. All its files must be readable by the users that the umask permits.
pub(crate) fn umask(lab: &Lab, dir: &Path, turn: usize) -> io::Result<(Verdict, String)> {
    let umask = UMASKS[turn % UMASKS.len()];
    let scenario = lab.scenario("first");
    let project = lab.copy(scenario, dir)?;
    let mut judge = Judge::new(lab, scenario, &project);
    let shell = Project::new(Path::new("/bin/sh"), dir);
    let script = "umask \"$1\"; program=$2; shift 2; exec \"$program\" \"$@\"";
    let program = lab.program.to_string_lossy().into_owned();
    for command in [View::Base.json("run"), View::Longer.json("run"), words("gc --json")] {
        let mut args = vec!["-c".to_owned(), script.to_owned(), "sh".to_owned(), format!("{umask:o}"), program.clone()];
        args.extend(command.clone());
        let output = shell.run(&args)?;
        check(&mut judge, &command, &output, true);
    }
    for path in everything(project.cache())? {
        let mode = fs::symlink_metadata(&path)?.permissions().mode() & 0o777;
        let name = path.strip_prefix(dir).unwrap_or(&path).display();
        if mode & 0o444 != 0o444 & !umask {
            judge.verdict.add(Fault::Refused, format!("{name} has mode {mode:o} under umask {umask:03o}"));
        }
        if mode & umask != 0 {
            judge.verdict.add(Fault::Wrong, format!("{name} has mode {mode:o} in spite of umask {umask:03o}"));
        }
    }
    Ok((judge.examine(turn)?, format!("umask {umask:03o}")))
}

fn everything(dir: &Path) -> io::Result<Vec<std::path::PathBuf>> {
    let mut found = vec![dir.to_owned()];
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() { found.extend(everything(&entry.path())?) } else { found.push(entry.path()) }
    }
    Ok(found)
}
