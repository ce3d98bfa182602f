//! Kills at random moments, several of them on the same cache.

use std::io;
use std::path::Path;

use crate::judge::{Judge, Promises, Verdict};
use crate::random::Random;
use crate::scenario::{Lab, View};

/// The commands that are killed. `gc` keeps what the last ten runs need, so it removes nothing here.
const COMMANDS: [(&str, &[&str]); 5] = [
    ("new", &["run", "p.toml", "-S", "params.ones=2", "--json"]),
    ("extend", &["run", "p.toml", "-S", "params.epochs=4", "--json"]),
    ("doctor", &["doctor", "--json"]),
    ("gc", &["gc", "--json"]),
    ("plan", &["plan", "p.toml", "--json"]),
];

/// One trial: one to four kills, then the verdict.
pub(crate) fn trial(lab: &Lab, dir: &Path, random: &mut Random, turn: usize) -> io::Result<(Verdict, String, usize)> {
    let scenario = lab.scenario("extend");
    let project = lab.copy(scenario, dir)?;
    let mut judge = Judge::new(lab, scenario, &project);
    let kills = 1 + random.below(4) as usize;
    let mut places = Vec::new();
    for _ in 0..kills {
        let (name, args) = random.pick(&COMMANDS);
        let takes = lab.scenario(name).takes.as_micros() as u64;
        let moment = std::time::Duration::from_micros(random.below(takes * 6 / 5 + 1));
        let started = project.start(args)?;
        std::thread::sleep(moment);
        started.kill();
        let output = started.wait()?;
        judge.verdict.check(&args.join(" "), &output, false);
        if *name == "gc" {
            // `gc` may remove results of an unfinished run.
            judge.promises = Promises::default();
        } else {
            let promises = Promises::of(&output);
            judge.promises.keys.extend(promises.keys);
            judge.promises.epoch = judge.promises.epoch.max(promises.epoch);
        }
        places.push(format!("{name} after {moment:?}"));
    }
    debug_assert!(scenario.views.contains(&View::Longer));
    Ok((judge.examine(turn)?, places.join(", "), kills))
}
