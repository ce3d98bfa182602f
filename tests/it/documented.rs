//! The training programs and pipelines in docs/training-programs.md run as they are written there. `python/tests` runs
//! those of README.md and docs/python.md, which need the Python module.

use crate::support::{Project, Run, json};

const DOCS: &str = include_str!("../../docs/training-programs.md");

/// The code below the comment `<!-- NAME -->`.
fn block(text: &'static str, name: &str) -> &'static str {
    let (_, below) = text.split_once(&format!("<!-- {name} -->\n```")).unwrap_or_else(|| panic!("no code of {name}"));
    let (_, code) = below.split_once('\n').expect("a line with the language");
    code.split_once("```").expect("the end of the code").0
}

/// Whether Python can import these modules.
#[expect(clippy::print_stderr, reason = "it says why a test did nothing")]
fn can_import(modules: &str) -> bool {
    let command = std::process::Command::new("python3").args(["-c", &format!("import {modules}")]).output();
    let can = command.is_ok_and(|output| output.status.success());
    if !can {
        eprintln!("python3 with {modules} is not installed: its programs were not run");
    }
    can
}

/// The epochs that a point trained in a run, in order.
fn trained(run: &Run, point: &str) -> Vec<u64> {
    let of_point = run.of_kind("epoch").filter(|event| event["stage"] == point);
    of_point.map(|event| event["epoch"].as_u64().expect("a number")).collect()
}

#[test]
fn whole_program_of_the_docs_runs_as_written() {
    if !can_import("json") {
        return;
    }
    let files = || {
        let project = Project::new(block(DOCS, "mine.toml"));
        project.write("mine.toml", block(DOCS, "mine.toml"));
        project.write("train.py", block(DOCS, "train.py"));
        project
    };
    let project = files();
    let commands: Vec<Vec<&str>> = block(DOCS, "its commands")
        .lines()
        .map(|line| line.split('#').next().expect("a command").split_whitespace().skip(1).collect())
        .collect();
    let [first, longer, verify] = commands.as_slice() else { panic!("{commands:?}") };
    for (command, epochs) in [(first, 1..=100), (longer, 101..=200)] {
        let run = Run::of(project.vadpipe(command.iter().chain(&["--json"])));
        for point in ["net@lr=0.01", "net@lr=0.001"] {
            assert_eq!(trained(&run, point), epochs.clone().collect::<Vec<_>>(), "{}", run.output.stderr);
        }
    }
    let verified = project.vadpipe(verify);
    assert_eq!(verified.code, 0, "{}", verified.stderr);
    assert_eq!(verified.stdout.matches("same").count(), 2, "{}", verified.stdout);
    assert_eq!(verified.stderr, "", "it finds the program reproducible and the state complete");
    let in_one_go = files();
    assert_eq!(in_one_go.vadpipe(longer).code, 0);
    let digests = |project: &Project| json(&project.vadpipe(["show", longer[1], longer[2], longer[3], "--json"]));
    for point in ["net@lr=0.01", "net@lr=0.001"] {
        assert_eq!(digests(&project)[point]["digest"], digests(&in_one_go)[point]["digest"]);
    }
}

/// The pipeline of the docs with what it refers to.
fn pipeline() -> String {
    let head = "[pipeline]\nname = \"docs\"\n[matrix]\nlr = [0.1, 0.01]\n\
                [stages.data]\nkind = \"load-data\"\nsource = \"synthetic\"\ntrain = 20\ntest = 10\n";
    format!("{head}{}", block(DOCS, "the pipeline"))
}

#[test]
fn python_of_the_docs_runs_as_written() {
    if !can_import("json") {
        return;
    }
    let project = Project::new(&pipeline());
    project.edit("segment_epochs = 10", "keep_every = 20\nsegment_epochs = 10");
    project.write("helpers.py", include_str!("documented/helpers.py"));
    project.write("train.py", &format!("from helpers import *\n{}", block(DOCS, "in Python")));
    let run = project.run(&[]);
    assert_eq!(trained(&run, "net@lr=0.01"), (1..=100).collect::<Vec<_>>());
    let metrics = json(&project.vadpipe(["metrics", "p.toml", "--json"]));
    assert_eq!(metrics["net@lr=0.01"]["best_epoch"], 100.0, "{metrics}");
    assert_eq!(metrics["net@lr=0.01"]["val_accuracy_best"], metrics["net@lr=0.01"]["val_accuracy"]);
    let shown = project.vadpipe(["show", "p.toml", "net@lr=0.01"]).stdout;
    assert!(shown.contains("tensor    classes  f64 [1]"), "the program wrote its output: {shown}");
    let verified = project.vadpipe(["verify", "p.toml", "net"]);
    assert_eq!((verified.code, verified.stderr.as_str()), (0, ""), "{}", verified.stdout);
    // The branch, whose comment says what it trains.
    project.write("p.toml", &format!("{}\n{}", project.read("p.toml"), block(DOCS, "a branch")));
    let branch = project.run(&[]);
    assert_eq!(trained(&branch, "net@lr=0.01"), (81..=100).collect::<Vec<_>>());
    assert_eq!(trained(&branch, "net@lr=0.1"), [0u64; 0]);
}

#[test]
fn shell_program_of_the_docs_runs_as_written() {
    let project = Project::new(
        "[pipeline]\nname = \"docs\"\n[stages.net]\nkind = \"train-command\"\nargv = [\"sh\", \"train.sh\"]\n\
         segment_epochs = 10\nepochs = 25\noutputs = { last = \"last.txt\" }\n",
    );
    project.write("train.sh", block(DOCS, "in a shell"));
    assert_eq!(trained(&project.run(&[]), "net"), (1..=25).collect::<Vec<_>>());
    project.edit("epochs = 25", "epochs = 40");
    assert_eq!(trained(&project.run(&[]), "net"), (21..=40).collect::<Vec<_>>());
    assert_eq!(project.vadpipe(["export", "p.toml", "--to", "out"]).code, 0);
    assert_eq!(project.read("out/net/last.txt"), format!("{}\n", (1..=40).sum::<u32>()));
    assert_eq!(json(&project.vadpipe(["metrics", "p.toml", "--json"]))["net"]["sum"], 820.0);
}
