//! What others take for the same: ninja for 10,000 edges, DVC for 100 stages.

use std::fmt::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use super::{Outcome, ROUNDS, find, say};

const EDGES: usize = 10_000;
const STAGES: usize = 100;

/// Prints a line for each peer, or that it is not installed.
pub(crate) fn measure(folder: &Path) -> Outcome {
    match find("ninja") {
        Some(ninja) => self::ninja(&ninja, &folder.join("ninja"))?,
        None => say("ninja is not installed: no figure (`pip install ninja`)"),
    }
    match find("dvc") {
        Some(dvc) => self::dvc(&dvc, &folder.join("dvc"))?,
        None => say("DVC is not installed: no figure (`pip install dvc`)"),
    }
    Ok(())
}

fn ninja(program: &Path, folder: &Path) -> Outcome {
    std::fs::create_dir_all(folder)?;
    let mut text = String::from("rule t\n command = : > $out\n");
    for i in 0..EDGES {
        let _ = writeln!(text, "build o{i}: t build.ninja");
    }
    std::fs::write(folder.join("build.ninja"), text)?;
    let first = timed(Command::new(program).current_dir(folder))?;
    let noop = median(|| timed(Command::new(program).current_dir(folder)))?;
    say(&format!("ninja, {EDGES} edges: first run {first:.2} s, no-op {noop:.3} s"));
    Ok(())
}

fn dvc(program: &Path, folder: &Path) -> Outcome {
    std::fs::create_dir_all(folder)?;
    let bin = program.parent().unwrap_or(Path::new("."));
    let path = std::env::var_os("PATH").unwrap_or_default();
    let path = std::env::join_paths([bin.to_owned()].into_iter().chain(std::env::split_paths(&path)))?;
    let run = |name: &Path, args: &[&str]| {
        timed(Command::new(name).args(args).current_dir(folder).env("PATH", &path).env("DVC_NO_ANALYTICS", "1"))
    };
    run(Path::new("git"), &["init", "-q", "."])?;
    run(program, &["init", "-q"])?;
    std::fs::write(folder.join("in.txt"), "seed\n")?;
    let values: Vec<String> = (1..=STAGES).map(|i| i.to_string()).collect();
    let text = format!(
        "stages:\n  work:\n    matrix:\n      i: [{}]\n    cmd: cp in.txt out${{item.i}}.txt\n    deps: [in.txt]\n    \
         outs: ['out${{item.i}}.txt']\n",
        values.join(",")
    );
    std::fs::write(folder.join("dvc.yaml"), text)?;
    let first = run(program, &["repro", "-q"])?;
    let noop = median(|| run(program, &["repro", "-q"]))?;
    let each = (first - noop) / STAGES as f64;
    say(&format!("DVC, {STAGES} stages: first run {first:.2} s ({each:.3} s a stage), no-op {noop:.2} s"));
    Ok(())
}

fn median(mut f: impl FnMut() -> Outcome<f64>) -> Outcome<f64> {
    let mut all = (0..ROUNDS).map(|_| f()).collect::<Outcome<Vec<f64>>>()?;
    all.sort_by(f64::total_cmp);
    Ok(all[ROUNDS / 2])
}

fn timed(command: &mut Command) -> Outcome<f64> {
    let begin = Instant::now();
    let status = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status()?;
    if !status.success() {
        return Err(format!("{command:?} ended with {status}").into());
    }
    Ok(begin.elapsed().as_secs_f64())
}
