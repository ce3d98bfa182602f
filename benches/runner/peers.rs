//! Similar measurements of other programs: ninja with 10,000 edges, DVC with 100 stages.

use std::fmt::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use super::{Outcome, ROUNDS, find, say};

const EDGES: usize = 10_000;
const STAGES: usize = 100;

/// Seconds of a first run and of a no-op run of each peer that is installed.
pub(crate) struct Peers {
    ninja: Option<[f64; 2]>,
    dvc: Option<[f64; 2]>,
}

impl Peers {
    /// Measures the peers that are installed, and prints which are not.
    pub(crate) fn measure(folder: &Path) -> Outcome<Self> {
        let ninja = find("ninja").map(|ninja| self::ninja(&ninja, &folder.join("ninja"))).transpose()?;
        let dvc = find("dvc").map(|dvc| self::dvc(&dvc, &folder.join("dvc"))).transpose()?;
        for (name, _) in [("ninja", ninja), ("dvc", dvc)].iter().filter(|(_, figures)| figures.is_none()) {
            say(&format!("{name} is not installed: no figure (`pip install {name}`)"));
        }
        Ok(Self { ninja, dvc })
    }

    /// Seconds of a no-op run.
    pub(crate) fn noop(&self) -> String {
        let ninja = self.ninja.map(|[_, noop]| format!("ninja {noop:.3} s ({EDGES} edges)"));
        let dvc = self.dvc.map(|[_, noop]| format!("DVC {noop:.2} s ({STAGES} stages)"));
        joined(ninja, dvc)
    }

    /// Time per stage of a first run.
    pub(crate) fn each(&self) -> String {
        let each = |[first, noop]: [f64; 2], count: usize| (first - noop) / count as f64;
        let ninja = self.ninja.map(|took| format!("ninja {:.1} ms", 1e3 * each(took, EDGES)));
        let dvc = self.dvc.map(|took| format!("DVC {:.2} s", each(took, STAGES)));
        joined(ninja, dvc)
    }
}

fn joined(ninja: Option<String>, dvc: Option<String>) -> String {
    [ninja, dvc].into_iter().flatten().collect::<Vec<_>>().join(", ")
}

fn ninja(program: &Path, folder: &Path) -> Outcome<[f64; 2]> {
    std::fs::create_dir_all(folder)?;
    let mut text = String::from("rule t\n command = : > $out\n");
    for i in 0..EDGES {
        let _ = writeln!(text, "build o{i}: t build.ninja");
    }
    std::fs::write(folder.join("build.ninja"), text)?;
    let first = timed(Command::new(program).current_dir(folder))?;
    let noop = median(|| timed(Command::new(program).current_dir(folder)))?;
    Ok([first, noop])
}

fn dvc(program: &Path, folder: &Path) -> Outcome<[f64; 2]> {
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
    Ok([first, noop])
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
