//! Eight processes on one cache, including `gc`, `doctor` and `plan`. In every second trial some are killed.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::time::Duration;

use crate::judge::{Fault, Judge, Promises, Verdict};
use crate::program::RunningCommand;
use crate::random::Random;
use crate::scenario::{Lab, View};

const PROCESSES: usize = 8;

fn commands(random: &mut Random) -> Vec<Vec<String>> {
    let words = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
    let mut commands = vec![
        View::More.json("run"),
        View::Longer.json("run"),
        View::More.json("run"),
        View::Longer.json("run"),
        words("gc --keep-runs 50 --json"),
        words("doctor -n --json"),
    ];
    let more = [View::Base.json("plan"), View::Base.json("run"), words("doctor --json"), View::Seed.json("plan")];
    while commands.len() < PROCESSES {
        commands.push(random.pick(&more).clone());
    }
    random.shuffle(&mut commands);
    commands
}

/// One trial of eight processes.
pub(crate) fn trial(lab: &Lab, dir: &Path, random: &mut Random, turn: usize) -> io::Result<(Verdict, String)> {
    let scenario = lab.scenario("extend");
    let project = lab.copy(scenario, dir)?;
    let mut judge = Judge::new(lab, scenario, &project);
    let commands = commands(random);
    let kills = turn % 2 == 1;
    let mut started: Vec<Option<RunningCommand>> = Vec::new();
    for args in &commands {
        started.push(Some(project.start(args)?));
        std::thread::sleep(Duration::from_micros(random.below(15_000)));
    }
    let mut outputs = Vec::new();
    if kills {
        for _ in 0..1 + random.below(4) {
            let victim = random.below(PROCESSES as u64) as usize;
            std::thread::sleep(Duration::from_micros(random.below(60_000)));
            if let Some(process) = started[victim].take() {
                process.kill();
                outputs.push((victim, process.wait()?, true));
            }
        }
    }
    for (i, process) in started.into_iter().enumerate() {
        if let Some(process) = process {
            outputs.push((i, process.wait()?, false));
        }
    }
    let mut finished: BTreeMap<String, usize> = BTreeMap::new();
    for (i, output, killed) in &outputs {
        let what = commands[*i].join(" ");
        judge.verdict.check(&what, output, false);
        if !killed && !output.succeeded() {
            judge.verdict.add(Fault::Wrong, format!("`{what}` among others: {}", output.describe()));
        }
        for event in output.events().iter().filter(|e| e["event"] == "stage-finished") {
            *finished.entry(event["stage"].to_string() + &event["key"].to_string()).or_default() += 1;
        }
        // A concurrent `gc` may remove results of a killed run.
        if !kills {
            judge.promises.keys.extend(Promises::of(output).keys);
        }
    }
    let twice: Vec<&String> = finished.iter().filter(|(_, n)| **n > 1).map(|(name, _)| name).collect();
    if !twice.is_empty() && !kills {
        judge.verdict.add(Fault::Lost, format!("made twice: {twice:?}"));
    }
    let place = format!("trial {turn}, {}", if kills { "some killed" } else { "none killed" });
    Ok((judge.examine(turn)?, place))
}
