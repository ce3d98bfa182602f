//! Attacks the real program: kills, full and failing disks, damaged files, many processes, foreign caches.
//!
//! `cargo test` does not run it; `cargo test --release --test campaign -- --short` does. `README.md` beside this file
//! says what each row of the table means.

#![expect(clippy::expect_used, reason = "a failed expectation ends the campaign with its message")]
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a test tool prints")]

mod attack;
mod crowd;
mod damage;
mod foreign;
mod full;
mod inject;
mod judge;
mod kills;
mod mounts;
mod program;
mod random;
mod scenario;
mod table;

use std::io;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use attack::{ATTACKS, Campaign};
use clap::Parser;
use scenario::Lab;

/// Attacks vadpipe's cache and prints one table: trials, lost, wrong, false alarms, panics, hangs, refused.
#[derive(Parser)]
#[command(name = "campaign")]
pub(crate) struct Args {
    /// Attacks (see --list) [default: all]
    #[arg(value_name = "ATTACK")]
    attacks: Vec<String>,
    /// Two minutes: a sample of each attack (the default)
    #[arg(long, conflicts_with = "full")]
    short: bool,
    /// Every point of each attack, without a time limit
    #[arg(long)]
    full: bool,
    /// At most this many trials of each attack, without a time limit
    #[arg(long, value_name = "N")]
    trials: Option<usize>,
    /// The seed of the sample and of the random moments
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
    /// Concurrent trials [default: number of cores]
    #[arg(long, value_name = "N")]
    jobs: Option<usize>,
    /// For attacks at system calls: only this scenario, or only one of its calls (`extend` or `extend:812`)
    #[arg(long, value_name = "SCENARIO[:N]")]
    point: Option<String>,
    /// Attack this program instead of the one that cargo built
    #[arg(long, value_name = "FILE")]
    program: Option<PathBuf>,
    /// Prepare the caches with this program, such as an older version
    #[arg(long, value_name = "FILE")]
    prepared_by: Option<PathBuf>,
    /// Print all failures instead of the first ones of each attack
    #[arg(long, short)]
    verbose: bool,
    /// List the attacks
    #[arg(long)]
    list: bool,
}

/// Failures of each attack that are printed without `--verbose`.
const SHOWN: usize = 12;

fn main() -> ExitCode {
    mounts::enter_namespace();
    let args = Args::parse();
    if args.list {
        ATTACKS.iter().for_each(|a| println!("{:14} {}", a.name, a.about));
        return ExitCode::SUCCESS;
    }
    match campaign(&args) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::from(2)
        }
    }
}

/// Runs the chosen attacks. Returns whether there was no fault.
fn campaign(args: &Args) -> io::Result<bool> {
    let unknown = args.attacks.iter().find(|name| ATTACKS.iter().all(|a| a.name != **name));
    if let Some(name) = unknown {
        return Err(io::Error::other(format!("unknown attack `{name}`; --list lists the attacks")));
    }
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o022));
    let program = args.program.clone().unwrap_or_else(|| env!("CARGO_BIN_EXE_vadpipe").into());
    let lab = Lab::new(&program, args.prepared_by.as_deref())?;
    let campaign = Campaign::new(args, &lab);
    let mut rows = Vec::new();
    for attack in ATTACKS.iter().filter(|a| args.attacks.is_empty() || args.attacks.iter().any(|name| name == a.name)) {
        let begun = Instant::now();
        let row = campaign.run(attack)?;
        let seconds = begun.elapsed().as_secs_f64();
        eprintln!("{}: {} trials in {seconds:.1} s, of {} possible", row.name, row.trials, row.planned);
        rows.push(row);
    }
    println!("\n{}", table::render(&rows));
    let all: Vec<&str> = rows.iter().flat_map(|r| r.failures.iter().map(|f| f.text.as_str())).collect();
    if !all.is_empty() {
        let file = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("campaign-failures.txt");
        std::fs::write(&file, all.join("\n") + "\n")?;
        println!("all {} failures are in {}", all.len(), file.display());
    }
    Ok(rows.iter().all(table::Row::is_clean))
}

/// Prints the failures of a row from index `from` on. Without `verbose`, prints only the first of each kind in a trial,
/// and at most [`SHOWN`] per row.
pub(crate) fn print_failures(row: &table::Row, from: usize, verbose: bool) {
    let before = row.failures[..from].iter().filter(|f| f.is_first).count();
    let wanted = row.failures[from..].iter().filter(|f| verbose || f.is_first);
    let room = if verbose { usize::MAX } else { SHOWN.saturating_sub(before) };
    wanted.take(room).for_each(|f| println!("{}", f.text));
}
