//! The attacks, and the workers that run their trials.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::damage::Damage;
use crate::inject::{self, Counted};
use crate::judge::Verdict;
use crate::mounts::{self, FileSystem};
use crate::program::remove_folder;
use crate::random::Random;
use crate::scenario::Lab;
use crate::table::Row;
use crate::{Args, crowd, damage, foreign, full, kills};

/// The kind of an attack.
#[derive(Clone, Copy)]
enum Kind {
    Inject(inject::Kind),
    Kills,
    Damage(damage::Kind),
    Crowd,
    Full(FileSystem),
    ReadOnly,
    OtherUser,
    Umask,
}

/// A row of the table.
pub(crate) struct Attack {
    pub(crate) name: &'static str,
    pub(crate) about: &'static str,
    kind: Kind,
    /// Seconds in the short form of the campaign.
    seconds: u64,
    /// Trials in the full form. Injections try every point instead.
    trials: usize,
}

const fn attack(name: &'static str, about: &'static str, kind: Kind, seconds: u64, trials: usize) -> Attack {
    Attack { name, about, kind, seconds, trials }
}

/// All attacks, in the order of the table.
pub(crate) const ATTACKS: [Attack; 17] = [
    attack("kill-after", "SIGKILL after a system call on the cache", Kind::Inject(inject::Kind::KillAfter), 14, 0),
    attack(
        "kill-before",
        "SIGKILL before a system call that changes the cache",
        Kind::Inject(inject::Kind::KillBefore),
        6,
        0,
    ),
    attack("torn-write", "half of a write, then SIGKILL", Kind::Inject(inject::Kind::Tear), 6, 0),
    attack("no-space-once", "one call fails with ENOSPC", Kind::Inject(inject::Kind::NoSpaceOnce), 8, 0),
    attack("no-space-from", "from one call on, all fail with ENOSPC", Kind::Inject(inject::Kind::NoSpaceFrom), 8, 0),
    attack("io-error", "one reading or syncing call fails with EIO", Kind::Inject(inject::Kind::IoError), 6, 0),
    attack("kills", "SIGKILL at random moments", Kind::Kills, 10, 400),
    attack("flips", "one flipped bit", Kind::Damage(damage::Kind::Flip), 10, 600),
    attack("truncations", "a file cut short", Kind::Damage(damage::Kind::Truncate), 6, 200),
    attack("deletions", "a file or folder missing", Kind::Damage(damage::Kind::Delete), 5, 100),
    attack("zeroes", "a block of zeroes", Kind::Damage(damage::Kind::Zero), 5, 200),
    attack("crowd", "eight processes on one cache", Kind::Crowd, 10, 60),
    attack("full-tmpfs", "commands on a full tmpfs", Kind::Full(FileSystem::Tmpfs), 8, 100),
    attack("full-ext4", "commands on a full ext4", Kind::Full(FileSystem::Ext4), 8, 100),
    attack("read-only", "commands on a read-only mount", Kind::ReadOnly, 3, 48),
    attack("other-user", "commands of another user", Kind::OtherUser, 3, 64),
    attack("umask", "caches made under different umasks", Kind::Umask, 2, 8),
];

/// One campaign.
pub(crate) struct Campaign<'a> {
    args: &'a Args,
    lab: &'a Lab,
    counted: Counted,
}

/// A trial. Takes a folder and the number of the trial. Returns the verdict, the place of the attack, and the number of
/// trials that it counts as.
type Trial<'t> = Box<dyn Fn(&Path, usize) -> io::Result<(Verdict, String, usize)> + Sync + 't>;

impl<'a> Campaign<'a> {
    pub(crate) fn new(args: &'a Args, lab: &'a Lab) -> Self {
        Self { args, lab, counted: Counted::default() }
    }

    /// Runs one attack.
    pub(crate) fn run(&self, attack: &Attack) -> io::Result<Row> {
        let mut row = Row::new(attack.name);
        row.skipped = self.unavailable(attack.kind);
        if row.skipped.is_some() {
            return Ok(row);
        }
        let (trial, count) = self.trials(attack)?;
        row.planned = count;
        let count = self.args.trials.unwrap_or(count).min(count);
        let by_time = !self.args.full && self.args.trials.is_none();
        self.work(&mut row, &trial, count, by_time.then(|| Duration::from_secs(attack.seconds)))?;
        Ok(row)
    }

    fn unavailable(&self, kind: Kind) -> Option<String> {
        use inject::Kind::{KillAfter, KillBefore};
        let root = || rustix::process::geteuid().is_root();
        match kind {
            Kind::Inject(KillAfter | KillBefore) => None,
            Kind::Inject(_) if !inject::CAN_FAIL => Some("failing calls need x86-64".to_owned()),
            Kind::Full(_) | Kind::ReadOnly => mounts::unavailable().map(str::to_owned),
            Kind::OtherUser if !root() => Some("another user needs root".to_owned()),
            _ => None,
        }
    }

    /// The trial of an attack, and the number of trials.
    fn trials<'t>(&'t self, attack: &'t Attack) -> io::Result<(Trial<'t>, usize)> {
        let (lab, seed, name) = (self.lab, self.args.seed, attack.name);
        // A time limit ends the short form.
        let count = self.args.trials.unwrap_or(if self.args.full { attack.trials } else { 1000 });
        Ok(match attack.kind {
            Kind::Inject(kind) => {
                let points = self.points(kind, name)?;
                let count = points.len();
                let trial = move |dir: &Path, n: usize| {
                    let (scenario, call) = points[n];
                    let (verdict, place) = inject::trial(lab, dir, kind, lab.scenario(scenario), call)?;
                    Ok((verdict, place, 1))
                };
                (Box::new(trial), count)
            }
            Kind::Kills => (Box::new(move |dir, n| kills::trial(lab, dir, &mut Random::new(seed, name, n), n)), count),
            Kind::Damage(kind) => {
                let cache = lab.scenario("plan").base.join("cache");
                let damages = Damage::choose(kind, &cache, count, &mut Random::new(seed, name, 0))?;
                let count = damages.len();
                let trial = move |dir: &Path, n: usize| {
                    let (verdict, place) = damage::trial(lab, dir, &damages[n], n)?;
                    Ok((verdict, place, 1))
                };
                (Box::new(trial), count)
            }
            Kind::Crowd => (one(move |dir, n| crowd::trial(lab, dir, &mut Random::new(seed, name, n), n)), count),
            Kind::Full(kind) => {
                (Box::new(move |dir, n| full::trial(lab, dir, kind, &mut Random::new(seed, name, n), n)), count)
            }
            Kind::ReadOnly => (one(move |dir, n| foreign::read_only(lab, dir, n)), count.min(foreign::commands() * 3)),
            Kind::OtherUser => {
                (one(move |dir, n| foreign::other_user(lab, dir, n)), count.min(foreign::commands() * 4))
            }
            Kind::Umask => (one(move |dir, n| foreign::umask(lab, dir, n)), count.min(foreign::UMASKS.len() * 2)),
        })
    }

    /// The points of an injection, in random order, so that a sample covers all scenarios.
    fn points(&self, kind: inject::Kind, name: &str) -> io::Result<Vec<(&'static str, usize)>> {
        let every = self.args.full || self.args.point.is_some();
        let mut points = self.counted.points(self.lab, kind, every)?;
        if let Some(point) = &self.args.point {
            let (scenario, call) = point.split_once(':').unwrap_or((point, ""));
            points.retain(|(s, n)| *s == scenario && (call.is_empty() || n.to_string() == call));
        }
        Random::new(self.args.seed, name, 0).shuffle(&mut points);
        Ok(points)
    }

    /// Runs trials on all cores until all are done or the time is over.
    fn work(&self, row: &mut Row, trial: &Trial<'_>, count: usize, limit: Option<Duration>) -> io::Result<()> {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let jobs = self.args.jobs.unwrap_or(cores).clamp(1, count.max(1));
        let (next, begun) = (AtomicUsize::new(0), Instant::now());
        let row = Mutex::new(row);
        let job = |job: usize| -> io::Result<()> {
            let dir: PathBuf = self.lab.path(&format!("job-{job}"));
            loop {
                let n = next.fetch_add(1, Ordering::Relaxed);
                if n >= count || limit.is_some_and(|limit| begun.elapsed() > limit) {
                    return remove_folder(&dir);
                }
                let (verdict, place, trials) = trial(&dir, n)?;
                let mut row = row.lock().expect("no job panics");
                let shown = row.failures.len();
                row.add(&place, &verdict, trials);
                crate::print_failures(&row, shown, self.args.verbose);
            }
        };
        let ended: Vec<io::Result<()>> = std::thread::scope(|scope| {
            let workers: Vec<_> = (0..jobs).map(|n| scope.spawn(move || job(n))).collect();
            workers.into_iter().map(|w| w.join().expect("no job panics")).collect()
        });
        ended.into_iter().collect()
    }
}

/// A trial that counts once.
fn one<'t>(trial: impl Fn(&Path, usize) -> io::Result<(Verdict, String)> + Sync + 't) -> Trial<'t> {
    Box::new(move |dir, n| trial(dir, n).map(|(verdict, place)| (verdict, place, 1)))
}
