//! Trainings are chains: no epoch is trained twice.

use crate::support::{MINI, Project};

#[test]
fn extended_training_continues_and_equals_an_uninterrupted_one() {
    let (extended, at_once) = (Project::new(MINI), Project::new(MINI));
    extended.run(&[]);
    let plan = extended.plan(&["-S", "params.epochs=6"]);
    assert_eq!(plan["ad"]["reason"]["text"], "epochs 3 → 6");
    assert_eq!(plan["ad"]["epochs"], serde_json::json!({ "cached": 3, "total": 6 }));
    extended.edit("epochs = 3", "epochs = 6");
    at_once.edit("epochs = 3", "epochs = 6");
    let run = extended.run(&[]);
    let epochs: Vec<_> = run.of_kind("epoch").filter(|e| e["stage"] == "ad").collect();
    assert_eq!(epochs.len(), 3, "only the new epochs are trained");
    assert!(epochs.iter().all(|e| e["resumed_at"] == 3));
    at_once.run(&[]);
    assert_eq!(extended.digests(), at_once.digests());
}

#[test]
fn points_that_branch_late_share_the_epochs_before() {
    let pipeline = MINI.replace(
        "epochs = \"${params.epochs}\"\nlatent_dim = 6\nchannels = [16, 12, 8, 8]\n\n[stages.vad]",
        "matrix = { late = [1e-3, 1e-4] }\nsegments = [{ epochs = 4 }, { epochs = 2, lr = \"${matrix.late}\" }]\n\
         latent_dim = 6\nchannels = [16, 12, 8, 8]\n\n[stages.vad]",
    );
    let pipeline = pipeline.replace("\"ad\", \"vad@*\"", "\"ad@*\", \"vad@*\"");
    let project = Project::new(&pipeline);
    let run = project.run(&["ad"]);
    assert_eq!(run.of_kind("epoch").count(), 6 + 2, "four epochs are shared");
    assert_eq!((&run.last()["epochs_trained"], &run.last()["epochs_cached"]), (&8.into(), &4.into()));
    let again = project.vadpipe(["run", "p.toml", "ad"]);
    assert!(again.stderr.contains("; 12 of 12 epochs were cached"), "{}", again.stderr);
    // A run of one point alone gives the same bytes.
    for point in ["ad@late=0.001", "ad@late=0.0001"] {
        let alone = Project::new(&pipeline);
        alone.run(&[point]);
        assert_eq!(alone.outputs(&[point]), project.outputs(&[point]));
    }
}

#[test]
fn training_can_be_shortened_to_a_kept_state() {
    let keeping = MINI.replacen("latent_dim = 6", "keep = [2]\nlatent_dim = 6", 1);
    let project = Project::new(&keeping);
    project.run(&["ad"]);
    let cut = project.run(&["ad", "-S", "params.epochs=2"]);
    assert_eq!(cut.of_kind("epoch").count(), 0, "state 2 was kept");
    assert_eq!(cut.executed(), ["ad"]);
    let short = Project::new(&MINI.replace("epochs = 3", "epochs = 2"));
    short.run(&["ad"]);
    assert_eq!(project.outputs(&["ad", "-S", "params.epochs=2"]), short.outputs(&["ad"]));
}

#[test]
fn keep_every_keeps_states_and_plan_counts_their_epochs() {
    let project = Project::new(&MINI.replacen("latent_dim = 6", "keep_every = 2\nlatent_dim = 6", 1));
    project.edit("checkpoint_seconds = 0", "checkpoint_seconds = 1000");
    project.run(&["ad", "-S", "params.epochs=5"]);
    let trained = |epochs: u64| {
        let plan = project.plan(&["ad", "-S", &format!("params.epochs={epochs}")]);
        plan["ad"]["epochs"]["cached"].as_u64()
    };
    // States 2, 4 and the last are kept. Epoch 3 is one epoch after state 2.
    assert_eq!([1, 2, 3, 4, 6].map(trained), [Some(0), Some(2), Some(2), Some(4), Some(5)]);
    let output = project.vadpipe(["plan", "p.toml", "ad", "-S", "params.epochs=6"]).stdout;
    assert!(output.contains("5 of 6 epochs cached"), "{output}");
    assert_eq!(project.run(&["ad", "-S", "params.epochs=3"]).of_kind("epoch").count(), 1);
}

#[test]
fn checkpoint_replaces_the_one_before_also_in_the_first_epoch() {
    let project = Project::new(MINI);
    project.edit("checkpoint_seconds = 0", "checkpoint_seconds = 1e-9");
    // So many steps that several checkpoints fit into an epoch, however slow the disk is.
    let run = project.run(&["ad", "-S", "stages.data.train=2000", "-S", "params.epochs=1"]);
    let in_first_epoch = run.of_kind("state-saved").filter(|event| event["epoch"] == 0).count();
    assert!(in_first_epoch > 1, "{in_first_epoch} states in the first epoch");
    let doctor = project.vadpipe(["doctor"]);
    assert!(doctor.stdout.contains("results and 1 state,"), "{}", doctor.stdout);
}

#[test]
fn checkpoints_and_kept_states_do_not_change_results() {
    let (often, never) = (Project::new(MINI), Project::new(MINI));
    never.edit("checkpoint_seconds = 0", "checkpoint_seconds = 1000");
    never.edit("latent_dim = 6", "keep_every = 1\nlatent_dim = 6");
    often.run(&["ad", "vad"]);
    never.run(&["ad", "vad"]);
    let key = |project: &Project| project.plan(&["ad"])["ad"]["key"].clone();
    assert_eq!(key(&often), key(&never));
    assert_eq!(often.outputs(&["ad", "vad"]), never.outputs(&["ad", "vad"]));
}
