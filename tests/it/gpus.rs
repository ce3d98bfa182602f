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

/// Trains 10 epochs in each process, which write down the order of their GPUs.
const TRAINING: &str = "[pipeline]\nname = \"p\"\n[stages.net]\nkind = \"train-command\"\ngpus = 1\n\
    argv = [\"sh\", \"net.sh\"]\nsegment_epochs = 10\nepochs = 20\n";

/// A project with that training and an `nvidia-smi` of its own, on a machine with an H100 and two A100.
fn training() -> Project {
    let project = Project::new(TRAINING);
    project.write(
        "net.sh",
        "for epoch in $(seq $((VADPIPE_FROM + 1)) $VADPIPE_TO); do\necho \"{\\\"epoch\\\": $epoch}\" >> $VADPIPE_LOG\n\
         done\necho $CUDA_DEVICE_ORDER $VADPIPE_TO > $VADPIPE_STATE_OUT/state\n",
    );
    std::fs::create_dir(project.path("bin")).expect("a folder");
    project.write(
        "bin/nvidia-smi",
        "#!/bin/sh\n[ \"$1\" = -L ] || exit 2\n\
         echo 'GPU 0: NVIDIA H100 80GB HBM3 (UUID: GPU-5d5ba0d6-d33d)'\n\
         echo 'GPU 1: NVIDIA A100-SXM4-40GB (UUID: GPU-8a2f2c3e-77aa)'\n\
         echo 'GPU 2: NVIDIA A100-SXM4-40GB (UUID: GPU-c7384736-a75d)'\n",
    );
    let executable = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(project.path("bin/nvidia-smi"), executable).expect("a file");
    project
}

/// Runs vadpipe on these GPUs of that machine.
fn with_models(project: &Project, gpus: &str, args: &[&str]) -> CommandOutput {
    let path = format!("{}:{}", project.path("bin").display(), std::env::var("PATH").unwrap_or_default());
    let mut command = project.command(args);
    CommandOutput::of(command.env("PATH", path).env("CUDA_VISIBLE_DEVICES", gpus).output().expect("vadpipe starts"))
}

fn train(project: &Project, gpus: &str, args: &[&str]) -> Vec<u64> {
    train_with_warning(project, gpus, args, "")
}

/// The epochs that a run trained. It must print the warning.
fn train_with_warning(project: &Project, gpus: &str, args: &[&str], warning: &str) -> Vec<u64> {
    let output = with_models(project, gpus, &[&["run", "p.toml", "--json"][..], args].concat());
    assert!(output.code == 0 && output.stderr.contains(warning), "{}", output.stderr);
    let events = output.stdout.lines().map(|line| serde_json::from_str(line).expect("each line is JSON")).collect();
    Run { output, events }.trained()
}

#[test]
fn training_continues_only_on_gpus_of_the_same_model_and_number() {
    let project = training();
    assert_eq!(train(&project, "0", &[]), (1..=20).collect::<Vec<_>>());
    for other in ["1", "GPU-8a2f"] {
        assert_eq!(train(&project, other, &[]), [0u64; 0], "results are shared");
    }
    let longer = ["-S", "stages.net.epochs=30"];
    let explain = |gpus| with_models(&project, gpus, &[&["explain", "p.toml", "net"][..], &longer].concat()).stdout;
    let elsewhere = "20 epochs from NVIDIA H100 80GB HBM3 can't be continued on NVIDIA A100-SXM4-40GB";
    assert!(explain("1").contains(elsewhere), "{}", explain("1"));
    assert!(explain("0").contains("20 of 30 epochs"), "{}", explain("0"));
    assert_eq!(train(&project, "1", &longer), (1..=30).collect::<Vec<_>>());
    // The other A100, by its UUID.
    assert_eq!(train(&project, "GPU-c738", &["-S", "stages.net.epochs=40"]), (31..=40).collect::<Vec<_>>());
    assert_eq!(train(&project, "0", &["-S", "stages.net.epochs=50"]), (21..=50).collect::<Vec<_>>());
    let verify = |gpus, epochs: &str| with_models(&project, gpus, &["verify", "p.toml", "net", "-S", epochs]);
    let refused = verify("1", "stages.net.epochs=50");
    let message = "`net` was trained on NVIDIA H100 80GB HBM3, this is NVIDIA A100-SXM4-40GB";
    assert!(refused.code == 2 && refused.stderr.contains(message), "{}", refused.stderr);
    project.edit("gpus = 1", "gpus = 2");
    assert_eq!(train(&project, "1,2", &["-S", "stages.net.epochs=60"]), (1..=60).collect::<Vec<_>>());
    assert_eq!(verify("2,1", "stages.net.epochs=60").code, 0);
}

#[test]
fn trainings_use_gpus_of_one_model_only() {
    let project = training();
    let warning = "trainings use only the GPUs 1, 2 (NVIDIA A100-SXM4-40GB), because others round differently";
    assert_eq!(train_with_warning(&project, "1,0,2", &[], warning).len(), 20);
    assert_eq!(train(&project, "2", &["-S", "stages.net.epochs=30"]), (21..=30).collect::<Vec<_>>());
    project.edit("gpus = 1", "gpus = 3");
    let output = with_models(&project, "1,0,2", &["run", "p.toml", "-S", "stages.net.epochs=40"]);
    assert!(output.code == 2 && output.stderr.contains("there are only 2 GPUs"), "{}", output.stderr);
}

#[test]
fn gpus_of_unknown_models_continue_each_other_and_not_the_processor() {
    let project = training();
    project.write("bin/nvidia-smi", "#!/bin/sh\necho 'NVIDIA-SMI has failed'; exit 9\n");
    project.edit("gpus = 1\n", "");
    assert_eq!(train(&project, "0", &[]).len(), 20);
    project.edit("argv =", "gpus = 1\nargv =");
    let unknown = "the models of the GPUs are unknown";
    let trained = train_with_warning(&project, "0", &["-S", "stages.net.epochs=30"], unknown);
    assert_eq!(trained, (1..=30).collect::<Vec<_>>());
    project.write("bin/nvidia-smi", "#!/bin/sh\nexit 0\n");
    assert_eq!(train(&project, "7", &["-S", "stages.net.epochs=40"]), (31..=40).collect::<Vec<_>>());
}

#[test]
fn numbers_of_gpus_are_those_of_nvidia_smi() {
    let project = training();
    train(&project, "1", &[]);
    assert_eq!(with_models(&project, "1", &["export", "p.toml", "net", "--to", "out"]).code, 0);
    let state = project.read("out/net/state/state");
    assert_eq!(state, "PCI_BUS_ID 20\n");
}

#[test]
fn workers_share_out_the_gpus() {
    let project = project(1, 5, 2);
    let run = run_with(&project, "3,GPU-8a2f", &["--on", "local:3"]);
    assert_eq!(run.output.code, 0, "{}", run.output.stderr);
    assert_eq!(seen(&project, 5), BTreeSet::from(["3 cuda:0".to_owned(), "GPU-8a2f cuda:0".to_owned()]));
    let workers = run.of_kind("stage-started").map(|event| text(&event["worker"])).collect::<BTreeSet<_>>();
    assert_eq!(workers, BTreeSet::from(["worker-1".to_owned(), "worker-2".to_owned()]), "the third has no GPU");
    project.edit("gpus = 1", "gpus = 2");
    let refused = run_with(&project, "3,GPU-8a2f", &["--on", "local:2", "-S", "stages.net.matrix.seed=[9]"]);
    assert_eq!(refused.output.code, 2);
    let message = "stage `net` needs 2 GPUs, but a worker of `--on local:2` has only 1 GPU";
    assert!(refused.output.stderr.contains(message), "{}", refused.output.stderr);
}

#[test]
fn worker_without_gpus_does_not_wait_for_a_stage_that_has_failed_elsewhere() {
    let project = project(1, 2, 1);
    project.write("net.sh", "exit 1\n");
    let run = run_with(&project, "3", &["-k", "--on", "local:2"]);
    assert_eq!(run.output.code, 1, "{}", run.output.stderr);
    assert_eq!(run.failed().len(), 2);
}
