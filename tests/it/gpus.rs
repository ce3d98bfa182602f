//! Stages with `gpus`: their programs get GPUs of their own. No GPU is needed: the programs write down what they see.

use std::collections::BTreeSet;

use crate::support::{CommandOutput, Project, Run, text};

/// Each point of `net` writes the variable, then waits until as many points have started as `together` says. All points
/// write to the folder `seen`.
fn project(gpus: usize, points: usize, together: usize) -> Project {
    let seeds: Vec<String> = (0..points).map(|seed| seed.to_string()).collect();
    let project = Project::new(&format!(
        "[pipeline]\nname = \"p\"\n[stages.net]\nkind = \"command\"\nmatrix = {{ seed = [{}] }}\ngpus = {gpus}\n\
         argv = [\"sh\", \"net.sh\", \"${{matrix.seed}}\", \"{{device}}\", \"{{outputs.out}}\"]\n\
         outputs = {{ out = \"out.txt\" }}\n",
        seeds.join(", ")
    ));
    std::fs::create_dir(project.path("seen")).expect("a folder");
    project.write(
        "net.sh",
        &format!(
            "seen=$(dirname \"$0\")/seen\necho \"$CUDA_VISIBLE_DEVICES $2\" > $seen/$1\ntouch $seen/on-$CUDA_VISIBLE_DEVICES\n\
             tries=0\nwhile [ $(ls $seen | grep -c '^on-') -lt {together} ]; do\n\
             sleep 0.02; tries=$((tries + 1)); [ $tries -lt 500 ] || exit 1\ndone\n\
             mkdir $seen/lock-$CUDA_VISIBLE_DEVICES || exit 1\nsleep 0.1\nrmdir $seen/lock-$CUDA_VISIBLE_DEVICES\necho $1 > $3\n"
        ),
    );
    project
}

/// Runs with this value of CUDA_VISIBLE_DEVICES.
fn run_with(project: &Project, gpus: &str, args: &[&str]) -> Run {
    let mut command = project.command(["run", "p.toml", "--json"].iter().chain(args));
    let output = CommandOutput::of(command.env("CUDA_VISIBLE_DEVICES", gpus).output().expect("vadpipe starts"));
    let events = output.stdout.lines().map(|line| serde_json::from_str(line).expect("each line is JSON")).collect();
    Run { output, events }
}

/// What the points saw: the variable and `{device}`.
fn seen(project: &Project, points: usize) -> BTreeSet<String> {
    (0..points).map(|point| project.read(&format!("seen/{point}")).trim().to_owned()).collect()
}

#[test]
fn two_programs_run_at_once_on_different_gpus_even_with_one_job() {
    for isolate in [&["-j", "1"][..], &["-j", "1", "--isolate"]] {
        let project = project(1, 5, 2);
        let run = run_with(&project, "3,GPU-8a2f", isolate);
        assert_eq!(run.output.code, 0, "{}", run.output.stderr);
        let both = BTreeSet::from(["3 cuda:0".to_owned(), "GPU-8a2f cuda:0".to_owned()]);
        assert_eq!(seen(&project, 5), both);
        let started = run.of_kind("stage-started").map(|event| text(&event["gpus"][0]));
        assert_eq!(started.collect::<BTreeSet<_>>(), BTreeSet::from(["3".to_owned(), "GPU-8a2f".to_owned()]));
    }
}

#[test]
fn program_gets_several_gpus_and_the_number_is_not_in_the_key() {
    let project = project(2, 1, 1);
    assert_eq!(run_with(&project, "0,1,2", &[]).output.code, 0);
    assert_eq!(seen(&project, 1), BTreeSet::from(["0,1 cuda:0".to_owned()]));
    project.edit("gpus = 2", "gpus = 1");
    assert_eq!(run_with(&project, "7", &[]).executed(), [""; 0]);
    project.edit("gpus = 1\n", "");
    assert_eq!(project.run(&[]).executed(), [""; 0]);
    project.edit("outputs = {", "pass_env = [\"CUDA_VISIBLE_DEVICES\"]\noutputs = {");
    assert_eq!(run_with(&project, "7", &["-f"]).output.code, 0);
    assert_eq!(
        seen(&project, 1),
        BTreeSet::from(["7 cpu".to_owned()]),
        "without `gpus` the program gets what it asks for"
    );
}

#[test]
fn stage_that_needs_more_gpus_than_there_are_is_refused_before_the_run() {
    let project = project(2, 2, 1);
    for args in [&["plan", "p.toml"][..], &["run", "p.toml", "-n"], &["run", "p.toml", "-k"]] {
        let output = project.command(args).env("CUDA_VISIBLE_DEVICES", "1").output().expect("vadpipe starts");
        let output = CommandOutput::of(output);
        assert_eq!(output.code, 2, "{args:?}");
        let message = output.stderr.replace(project.path("").to_str().expect("a path"), "");
        let message = message.replace("new cache: cache\n", "");
        insta::allow_duplicates! {
            insta::assert_snapshot!(message, @"
            error: stage `net` needs 2 GPUs, but there is only 1 GPU
             --> p.toml:3:9
              |
            3 | [stages.net]
              |         ^^^
              |
              = help: list the GPUs to use, such as `CUDA_VISIBLE_DEVICES=0,1`, or lower `gpus`

            1 error in the pipeline
            ");
        }
    }
    let none = project.command(["plan", "p.toml"]).env("CUDA_VISIBLE_DEVICES", "").output().expect("vadpipe starts");
    let none = CommandOutput::of(none);
    assert!(none.stderr.contains("stage `net` needs 2 GPUs, but none was found"), "{}", none.stderr);
    assert_eq!(run_with(&project, "0,1", &[]).output.code, 0);
    for command in ["plan", "show", "status"] {
        let output = project.command([command, "p.toml"]).env("CUDA_VISIBLE_DEVICES", "").output();
        let output = CommandOutput::of(output.expect("vadpipe starts"));
        assert_eq!(output.code, 0, "cached results need no GPU: {}", output.stderr);
    }
}

#[test]
fn variable_that_gpus_sets_cannot_be_handed_through_as_well() {
    let project = project(1, 1, 1);
    project.edit("outputs = {", "pass_env = [\"CUDA_VISIBLE_DEVICES\"]\noutputs = {");
    let output = project.vadpipe(["plan", "p.toml"]);
    assert_eq!(output.code, 2);
    let message = "`gpus` sets the variable `CUDA_VISIBLE_DEVICES`, so `pass_env` can't hand it through";
    assert!(output.stderr.contains(message) && output.stderr.contains("p.toml:8:12"), "{}", output.stderr);
    project.edit("gpus = 1", "gpus = -1");
    let output = project.vadpipe(["plan", "p.toml"]);
    assert!(output.stderr.contains("`gpus` must be an integer from 0 to 1024, not -1"), "{}", output.stderr);
}

#[test]
fn program_with_gpus_is_verified_on_a_gpu() {
    let project = project(1, 1, 1);
    assert_eq!(run_with(&project, "4,5", &[]).output.code, 0);
    project.write("seen/0", "");
    let mut command = project.command(["verify", "p.toml"]);
    let output = CommandOutput::of(command.env("CUDA_VISIBLE_DEVICES", "5").output().expect("vadpipe starts"));
    assert_eq!((output.code, seen(&project, 1)), (0, BTreeSet::from(["5 cuda:0".to_owned()])), "{}", output.stderr);
    let mut command = project.command(["verify", "p.toml"]);
    let output = CommandOutput::of(command.env("CUDA_VISIBLE_DEVICES", "").output().expect("vadpipe starts"));
    assert_eq!(output.code, 2, "{}", output.stderr);
}
