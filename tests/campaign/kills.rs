//! Kills at random moments, several on one cache.

use std::io;
use std::path::Path;

use crate::judge::{Judge, Promises, Verdict};
use crate::random::Random;
use crate::scenario::{Lab, View};

/// What a chain of kills may hit. `gc` keeps what ten runs need, so that it removes nothing here.
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
    let desk = lab.copy(scenario, dir)?;
    let mut judge = Judge::new(lab, scenario, &desk);
    let kills = 1 + random.below(4) as usize;
    let mut places = Vec::new();
    for _ in 0..kills {
        let (name, args) = random.pick(&COMMANDS);
        let takes = lab.scenario(name).takes.as_micros() as u64;
        let moment = std::time::Duration::from_micros(random.below(takes * 6 / 5 + 1));
        let started = desk.start(args)?;
        std::thread::sleep(moment);
        started.kill();
        let answer = started.wait()?;
        judge.verdict.look_at(&args.join(" "), &answer, false);
        if *name == "gc" {
            // A collection may drop what an unfinished run made.
            judge.promises = Promises::default();
        } else {
            let promises = Promises::of(&answer);
            judge.promises.keys.extend(promises.keys);
            judge.promises.epoch = judge.promises.epoch.max(promises.epoch);
        }
        places.push(format!("{name} after {moment:?}"));
    }
    debug_assert!(scenario.views.contains(&View::Longer));
    Ok((judge.examine(turn)?, places.join(", "), kills))
}
