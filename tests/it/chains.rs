//! Trainings are chains: no epoch is trained twice.

use crate::support::{Desk, MINI};

#[test]
fn raising_the_epochs_continues_and_gives_the_bytes_of_one_go() {
    let (extended, at_once) = (Desk::new(MINI), Desk::new(MINI));
    extended.run(&[]);
    let plan = extended.plan(&["-S", "params.epochs=6"]);
    assert_eq!(plan["ad"]["reason"]["text"], "epochs 3 → 6");
    assert_eq!(plan["ad"]["epochs"], serde_json::json!({ "cached": 3, "total": 6 }));
    extended.edit("epochs = 3", "epochs = 6");
    at_once.edit("epochs = 3", "epochs = 6");
    let ran = extended.run(&[]);
    let epochs: Vec<_> = ran.of_kind("epoch").filter(|e| e["stage"] == "ad").collect();
    assert_eq!(epochs.len(), 3, "only the new epochs are trained");
    assert!(epochs.iter().all(|e| e["resumed_at"] == 3));
    at_once.run(&[]);
    assert_eq!(extended.digests(), at_once.digests());
}

#[test]
fn two_points_that_part_late_share_what_comes_before() {
    let pipeline = MINI.replace(
        "epochs = \"${params.epochs}\"\nlatent_dim = 6\nchannels = [16, 12, 8, 8]\n\n[stages.vad]",
        "matrix = { late = [1e-3, 1e-4] }\nsegments = [{ epochs = 4 }, { epochs = 2, lr = \"${matrix.late}\" }]\n\
         latent_dim = 6\nchannels = [16, 12, 8, 8]\n\n[stages.vad]",
    );
    let pipeline = pipeline.replace("\"ad\", \"vad@*\"", "\"ad@*\", \"vad@*\"");
    let desk = Desk::new(&pipeline);
    let ran = desk.run(&["ad"]);
    assert_eq!(ran.of_kind("epoch").count(), 6 + 2, "four epochs are shared");
    // Each by itself has the same bytes.
    for point in ["ad@late=0.001", "ad@late=0.0001"] {
        let alone = Desk::new(&pipeline);
        alone.run(&[point]);
        assert_eq!(alone.outputs(&[point]), desk.outputs(&[point]));
    }
}

#[test]
fn a_kept_state_lets_a_training_be_cut_back() {
    let keeping = MINI.replacen("latent_dim = 6", "keep = [2]\nlatent_dim = 6", 1);
    let desk = Desk::new(&keeping);
    desk.run(&["ad"]);
    let cut = desk.run(&["ad", "-S", "params.epochs=2"]);
    assert_eq!(cut.of_kind("epoch").count(), 0, "state 2 was kept");
    assert_eq!(cut.executed(), ["ad"]);
    let short = Desk::new(&MINI.replace("epochs = 3", "epochs = 2"));
    short.run(&["ad"]);
    assert_eq!(desk.outputs(&["ad", "-S", "params.epochs=2"]), short.outputs(&["ad"]));
}

#[test]
fn every_second_state_is_kept_and_the_plan_says_what_of_a_chain_is_there() {
    let desk = Desk::new(&MINI.replacen("latent_dim = 6", "keep_every = 2\nlatent_dim = 6", 1));
    desk.edit("checkpoint_seconds = 0", "checkpoint_seconds = 1000");
    desk.run(&["ad", "-S", "params.epochs=5"]);
    let trained = |epochs: u64| {
        let plan = desk.plan(&["ad", "-S", &format!("params.epochs={epochs}")]);
        plan["ad"]["epochs"]["cached"].as_u64()
    };
    // States 2, 4 and the last stay; from 2 on, 3 is an epoch away.
    assert_eq!([1, 2, 3, 4, 6].map(trained), [Some(0), Some(2), Some(2), Some(4), Some(5)]);
    let said = desk.vadpipe(["plan", "p.toml", "ad", "-S", "params.epochs=6"]).out;
    assert!(said.contains("5 of 6 epochs cached"), "{said}");
    assert_eq!(desk.run(&["ad", "-S", "params.epochs=3"]).of_kind("epoch").count(), 1);
}

#[test]
fn checkpoints_and_kept_states_never_change_a_result() {
    let (often, never) = (Desk::new(MINI), Desk::new(MINI));
    never.edit("checkpoint_seconds = 0", "checkpoint_seconds = 1000");
    never.edit("latent_dim = 6", "keep_every = 1\nlatent_dim = 6");
    often.run(&["ad", "vad"]);
    never.run(&["ad", "vad"]);
    let key = |desk: &Desk| desk.plan(&["ad"])["ad"]["key"].clone();
    assert_eq!(key(&often), key(&never));
    assert_eq!(often.outputs(&["ad", "vad"]), never.outputs(&["ad", "vad"]));
}
