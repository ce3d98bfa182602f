//! Trainings and fits on a chain in memory.

use std::sync::Arc;

use super::saving::{self, Unsaved};
use crate::artifact::Artifact;
use crate::stage::{Input, Position, Precision, StageError, StageKind};
use crate::stages::fit_latents::FitLatents;
use crate::stages::testing::{Bench, MemoryChain, complaint, data, given, list, parse, text};
use crate::stages::train_ad::TrainAd;
use crate::stages::train_vad::TrainVad;
use crate::value::Data;

const FAMILIES: [&str; 3] = ["gaussian", "exponential", "uniform"];

type Given = Vec<(&'static str, Data)>;

/// A small model. The 24 images are two batches of 10 and one of 4.
fn small(epochs: i64) -> Given {
    vec![
        ("latent_dim", Data::Int(4)),
        ("channels", list([8, 6, 5, 4].map(Data::Int))),
        ("epochs", Data::Int(epochs)),
        ("batch", Data::Int(10)),
        ("lr", Data::Float(1e-2)),
        ("latent_lr", Data::Float(5e-2)),
    ]
}

/// `given` with another value for a name.
fn with(mut given: Given, name: &'static str, data: Data) -> Given {
    given.retain(|(n, _)| *n != name);
    given.push((name, data));
    given
}

/// The parameters with `segments` instead of `epochs`.
fn in_segments(given: Given, segments: &[Given]) -> Given {
    let mut given = with(given, "epochs", Data::Int(0));
    given.retain(|(name, _)| *name != "epochs");
    given.push(("segments", list(segments.iter().map(|s| Data::Table(crate::stages::testing::table(s))))));
    given
}

/// All trainings: an AD, and a VAD of each family.
fn trainings(epochs: i64) -> Vec<(String, &'static dyn StageKind, Given)> {
    let vad = |family: &'static str| {
        (family.to_owned(), &TrainVad as &dyn StageKind, with(small(epochs), "distribution", text(family)))
    };
    let ad = ("ad".to_owned(), &TrainAd as &dyn StageKind, small(epochs));
    FAMILIES.into_iter().map(vad).chain([ad]).collect()
}

fn train(kind: &dyn StageKind, params: &Given) -> Bench {
    Bench::new(kind, params).input("data", &data(24, 12))
}

/// A model of each training, after a few epochs.
fn models() -> Vec<(String, Arc<dyn Input>)> {
    let made = |(name, kind, params): (String, &'static dyn StageKind, Given)| {
        let artifact = train(kind, &params).run().unwrap();
        (name, given("model", kind.name(), &artifact))
    };
    trainings(3).into_iter().map(made).collect()
}

fn fit(model: &Arc<dyn Input>, params: &Given) -> Bench {
    Bench::new(&FitLatents, params).input("data", &data(24, 12)).input("model", model)
}

fn fit_params(epochs: i64) -> Given {
    vec![("epochs", Data::Int(epochs)), ("batch", Data::Int(5)), ("latent_lr", Data::Float(5e-2))]
}

/// Asserts that all bytes of two artifacts are equal, and names the first tensor that differs.
fn assert_same(name: &str, found: &Artifact, wanted: &Artifact) {
    for (tensor, bytes) in &wanted.tensors {
        assert!(found.tensors.get(tensor) == Some(bytes), "{name}: `{tensor}` differs");
    }
    assert!(found == wanted, "{name}: metrics or facts differ: {:?} {:?}", found.metrics, wanted.metrics);
}

#[test]
fn training_lowers_the_loss() {
    for (name, kind, mut params) in trainings(15) {
        if name != "ad" {
            // With the full weight, the KL of so small a model outweighs the reconstruction.
            params = with(params, "kl_weight", Data::Float(1e-3));
        }
        let made = train(kind, &params).run().unwrap();
        let curve: Vec<f64> = made.tensors["history.rmse"].to_vec().unwrap();
        assert!(made.metrics["loss"] < made.metrics["loss_first"], "{name}: {:?}", made.metrics);
        let factor = if name == "ad" { 0.8 } else { 0.93 };
        assert!(curve[14] < factor * curve[0], "{name}: {curve:?}");
        assert_eq!(curve[14], made.metrics["rmse"]);
        assert!(made.metrics.values().all(|m| m.is_finite()));
    }
}

#[test]
fn kl_weight_pulls_posterior_to_prior() {
    for family in FAMILIES {
        let kl = |weight| {
            let params = with(with(small(8), "distribution", text(family)), "kl_weight", Data::Float(weight));
            train(&TrainVad, &params).run().unwrap().metrics["kl"]
        };
        let (free, held) = (kl(0.0), kl(10.0));
        assert!(held < 0.8 * free, "{family}: {free} without the weight, {held} with it");
    }
}

#[test]
fn posterior_without_noise_is_its_mean() {
    for family in FAMILIES {
        let curve = |noise| {
            // Nothing learns, and a batch has all samples, so the epochs differ only by their noise.
            let params = with(with(small(2), "distribution", text(family)), "noise", Data::Float(noise));
            let params = with(with(params, "lr", Data::Float(0.0)), "latent_lr", Data::Float(0.0));
            let made = train(&TrainVad, &with(params, "batch", Data::Int(24))).run().unwrap();
            made.tensors["history.rmse"].to_vec::<f64>().unwrap()
        };
        let (none, some) = (curve(0.0), curve(0.5));
        assert!((none[0] / none[1] - 1.0).abs() < 1e-5, "{family}: {none:?}");
        assert!((some[0] / some[1] - 1.0).abs() > 1e-5, "{family}: {some:?}");
    }
}

#[test]
fn artifact_has_tensors_metrics_and_facts_of_its_readers() {
    for (name, kind, params) in trainings(2) {
        let made = train(kind, &params).run().unwrap();
        let shape = |tensor: &str| made.tensors[tensor].shape().to_vec();
        assert_eq!(shape("latents"), [24, 4]);
        assert_eq!(shape("history.loss"), [2]);
        assert_eq!(shape("originals"), [20, 28, 28]);
        assert_eq!(shape("reconstructions"), [20, 28, 28]);
        assert!(made.tensors.keys().any(|name| name.starts_with("decoder.")));
        assert_eq!(made.facts["split"], "train");
        assert_eq!(made.facts["latent_dim"], 4);
        let metrics: Vec<&str> = made.metrics.keys().map(String::as_str).collect();
        if name == "ad" {
            assert_eq!(metrics, ["evaluated_loss", "evaluated_rmse", "loss", "loss_first", "psnr", "rmse"]);
            assert!(!made.facts.contains_key("distribution"));
        } else {
            let all =
                ["evaluated_loss", "evaluated_rmse", "kl", "loss", "loss_first", "psnr", "reconstruction", "rmse"];
            assert_eq!(metrics, all);
            assert_eq!(made.facts["distribution"], name.as_str());
            assert_eq!(shape("history.kl"), [2]);
            let [loss, reconstruction, kl] = ["loss", "reconstruction", "kl"].map(|m| made.metrics[m]);
            assert!((loss - reconstruction - kl).abs() < 1e-12, "the parts add up");
        }
    }
}

#[test]
fn three_epochs_and_three_more_equal_six() {
    for (name, kind, params) in trainings(6) {
        let whole = train(kind, &params).run().unwrap();
        let chain = MemoryChain::keeping(&[3]);
        train(kind, &with(params.clone(), "epochs", Data::Int(3))).run_on(&chain).unwrap();
        let chain = chain.reopened();
        assert_eq!(chain.positions(), [(3, 0)]);
        let longer = train(kind, &params);
        assert_same(&name, &longer.run_on(&chain).unwrap(), &whole);
        assert_eq!(*longer.told.lines.lock().unwrap(), ["continuing after epoch 3, step 0"]);
    }
}

#[test]
fn training_interrupted_in_mid_epoch_ends_with_same_bytes() {
    for (name, kind, params) in trainings(3) {
        let whole = train(kind, &params).run().unwrap();
        let mut chain = MemoryChain::stopping_at(1, 2);
        let stopped = train(kind, &params).run_on(&chain);
        assert!(matches!(stopped, Err(StageError::Interrupted)));
        assert_eq!(chain.positions(), [(1, 2)]);
        chain = MemoryChain { stop_at: Some(Position { epoch: 2, step: 0 }), ..chain.reopened() };
        assert!(matches!(train(kind, &params).run_on(&chain), Err(StageError::Interrupted)));
        assert_eq!(chain.positions(), [(1, 2), (2, 0)]);
        assert_same(&name, &train(kind, &params).run_on(&chain.reopened()).unwrap(), &whole);
    }
}

#[test]
fn training_interrupted_near_change_of_segment_ends_with_same_bytes() {
    let first: Given = vec![("epochs", Data::Int(1)), ("batch", Data::Int(7))];
    let second: Given = vec![("epochs", Data::Int(2)), ("batch", Data::Int(12)), ("latent_lr", Data::Float(0.0))];
    let params = in_segments(small(0), &[first, second]);
    let whole = train(&TrainAd, &params).run().unwrap();
    for (epoch, step) in [(0, 3), (1, 0), (1, 1), (2, 1), (3, 0)] {
        let chain = MemoryChain::stopping_at(epoch, step);
        assert!(train(&TrainAd, &params).run_on(&chain).is_err());
        assert_same("ad", &train(&TrainAd, &params).run_on(&chain.reopened()).unwrap(), &whole);
    }
}

#[test]
fn number_of_threads_does_not_change_the_bytes() {
    let on = |threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| train(&TrainVad, &small(2)).run().unwrap())
    };
    assert_same("gaussian", &on(3), &on(1));
}

#[test]
fn equal_segments_equal_one_longer_segment() {
    let part: Given = vec![("epochs", Data::Int(2))];
    let parts = train(&TrainAd, &in_segments(small(0), &[part.clone(), part])).run().unwrap();
    assert_same("ad", &parts, &train(&TrainAd, &small(4)).run().unwrap());
}

#[test]
fn training_of_no_epochs_returns_the_start() {
    for (name, kind, params) in trainings(0) {
        let chain = MemoryChain::keeping(&[0]);
        let made = train(kind, &params).run_on(&chain).unwrap();
        assert_eq!(chain.positions(), [(0, 0)]);
        assert_eq!(made.tensors["history.loss"].shape(), [0]);
        assert_eq!(made.metrics.keys().collect::<Vec<_>>(), ["evaluated_loss", "evaluated_rmse"], "{name}");
        // The result must not depend on parameters of epochs that are not trained, because they are in no key.
        let other = with(with(params, "batch", Data::Int(3)), "lr", Data::Float(9.0));
        assert_same(&name, &train(kind, &other).run().unwrap(), &made);
    }
}

#[test]
fn progress_has_the_figures_of_each_epoch() {
    let bench = train(&TrainVad, &small(3));
    let made = bench.run().unwrap();
    let told = bench.told.updates.lock().unwrap();
    let ends: Vec<_> = told.iter().filter(|u| u.epoch_end).collect();
    assert_eq!(ends.iter().map(|u| (u.done, u.total, u.unit)).collect::<Vec<_>>(), [1, 2, 3].map(|e| (e, 3, "epochs")));
    let names: Vec<_> = ends[2].figures.iter().map(|(name, _)| &**name).collect();
    assert_eq!(names, ["loss", "rmse", "reconstruction", "kl"]);
    assert_eq!(ends[2].figures[0].1, made.metrics["loss"]);
    assert!(ends[2].rate.is_some_and(|rate| rate > 0.0));
}

#[test]
fn training_that_diverges_names_the_epoch_and_keeps_the_last_good_state() {
    let calm: Given = vec![("epochs", Data::Int(1))];
    let wild: Given = vec![("epochs", Data::Int(4)), ("lr", Data::Float(1e38)), ("latent_lr", Data::Float(1e38))];
    let params = in_segments(small(0), &[calm, wild]);
    let chain = MemoryChain::keeping(&[1, 2, 3, 4, 5]);
    let said = complaint(train(&TrainAd, &params).run_on(&chain));
    assert!(said.starts_with("the training diverged in epoch 2: "), "{said}");
    assert!(said.contains("the good state after epoch 1 is kept"), "{said}");
    assert!(said.ends_with("try a smaller `lr` (now 1e38) or `latent_lr` (now 1e38)"), "{said}");
    assert_eq!(chain.positions(), [(1, 0)]);
    let state = &chain.saved.lock().unwrap()[&Position { epoch: 1, step: 0 }];
    assert!(saving::check(state).is_ok());
}

#[test]
fn training_goes_on_while_a_checkpoint_is_saved_and_skips_others() {
    let there = Position { epoch: 2, step: 1 };
    let chain = MemoryChain { saves_until: Some(there), ..MemoryChain::keeping(&[3]) };
    let made = train(&TrainAd, &small(3)).run_on(&chain).unwrap();
    let positions = chain.positions();
    assert_eq!((positions[0], positions.last()), ((0, 1), Some(&(3, 0))));
    assert!(positions[1] >= (there.epoch, there.step), "{positions:?}");
    assert!(made == train(&TrainAd, &small(3)).run().unwrap(), "a state is a copy, and changes nothing");
}

#[test]
fn training_fails_if_its_state_cannot_be_saved() {
    let chain = MemoryChain { is_full: true, ..MemoryChain::keeping(&[1]) };
    let error = train(&TrainAd, &small(3)).run_on(&chain).unwrap_err();
    assert_eq!(error.to_string(), "the disk is full");
}

#[test]
fn state_that_is_not_finite_is_found() {
    let state =
        |v: f32| std::collections::BTreeMap::from([("z".to_owned(), crate::artifact::Tensor::vector(&[1.0, v]))]);
    assert!(saving::check(&state(f32::MAX)).is_ok());
    for value in [f32::INFINITY, f32::NAN] {
        assert!(matches!(saving::check(&state(value)), Err(Unsaved::NotFinite(name)) if name == "z"));
    }
}

#[test]
fn fit_lowers_the_loss() {
    for (name, model) in models() {
        for split in ["train", "test"] {
            let params = |epochs| with(fit_params(epochs), "split", text(split));
            let (start, made) = (fit(&model, &params(0)).run().unwrap(), fit(&model, &params(10)).run().unwrap());
            let (before, after) = (start.metrics["loss"], made.metrics["loss"]);
            assert!(after < before, "{name} {split}: {before} → {after}");
            assert_eq!(made.facts["split"], split);
            assert_eq!(made.tensors["latents"].shape(), [if split == "train" { 24 } else { 12 }, 4]);
            assert_eq!(made.tensors["history.loss"].shape(), [10]);
            assert_eq!(made.metrics.contains_key("loss_sampled"), name != "ad");
            assert_eq!(made.facts.get("distribution").map_or("ad", |d| d.as_str().unwrap()), name);
        }
    }
}

#[test]
fn epoch_takes_each_sample_once_with_new_noise() {
    for (name, model) in models() {
        // Nothing learns, so the epochs differ only by their order and their noise.
        let params = with(with(fit_params(2), "split", text("train")), "latent_lr", Data::Float(0.0));
        let made = fit(&model, &params).run().unwrap();
        let curve: Vec<f64> = made.tensors["history.rmse"].to_vec().unwrap();
        if name == "ad" {
            let wanted = made.metrics["rmse"];
            assert!(curve.iter().all(|rmse| (rmse / wanted - 1.0).abs() < 1e-6), "{curve:?}, not {wanted}");
        } else {
            assert!((curve[0] - curve[1]).abs() > 1e-6, "{name}: {curve:?}");
        }
        assert_eq!(made.tensors.keys().find(|name| name.starts_with("decoder.")), None);
    }
}

#[test]
fn fit_interrupted_in_mid_epoch_ends_with_same_bytes() {
    for (name, model) in models() {
        let whole = fit(&model, &fit_params(3)).run().unwrap();
        let chain = MemoryChain::stopping_at(1, 1);
        assert!(matches!(fit(&model, &fit_params(3)).run_on(&chain), Err(StageError::Interrupted)));
        assert_eq!(chain.positions(), [(1, 1)]);
        assert_same(&name, &fit(&model, &fit_params(3)).run_on(&chain.reopened()).unwrap(), &whole);
    }
}

#[test]
fn fit_with_batch_statistics_lowers_its_loss_and_resumes_with_same_bytes() {
    let params = |epochs| with(fit_params(epochs), "statistics", text("batch"));
    for (name, model) in models() {
        let (start, whole) = (fit(&model, &params(0)).run().unwrap(), fit(&model, &params(10)).run().unwrap());
        let (before, after) = (start.metrics["loss"], whole.metrics["loss"]);
        assert!(after < before, "{name}: {before} → {after}");
        assert_eq!(whole.facts["statistics"], "batch");
        for (epoch, step) in [(0, 1), (4, 0), (7, 2)] {
            let chain = MemoryChain::stopping_at(epoch, step);
            assert!(matches!(fit(&model, &params(10)).run_on(&chain), Err(StageError::Interrupted)));
            assert_same(&name, &fit(&model, &params(10)).run_on(&chain.reopened()).unwrap(), &whole);
        }
    }
}

#[test]
fn statistics_change_every_figure_of_a_fit() {
    for (name, model) in models() {
        let [running, batch] = ["running", "batch"].map(|word| {
            let made = fit(&model, &with(fit_params(2), "statistics", text(word))).run().unwrap();
            assert!(made.tensors.keys().all(|name| !name.starts_with("decoder.")));
            made
        });
        assert_same(&name, &fit(&model, &fit_params(2)).run().unwrap(), &running);
        assert!(!running.facts.contains_key("statistics"), "older results have no such fact");
        for metric in running.metrics.keys() {
            assert_ne!(running.metrics[metric], batch.metrics[metric], "{name}: {metric}");
        }
        for tensor in ["latents", "history.loss", "reconstructions"] {
            assert!(running.tensors[tensor] != batch.tensors[tensor], "{name}: {tensor}");
        }
    }
}

#[test]
fn fit_can_start_at_the_latents_of_the_training() {
    for (name, model) in models() {
        let params = with(with(fit_params(0), "split", text("train")), "init", text("trained"));
        let made = fit(&model, &params).run().unwrap();
        assert_eq!(made.tensors["latents"], model.tensor("latents").unwrap(), "{name}");
        assert_eq!(made.metrics["loss"], model.manifest().metrics["evaluated_loss"], "{name}");
        assert_eq!(made.metrics["rmse"], model.manifest().metrics["evaluated_rmse"], "{name}");
    }
}

#[test]
fn fit_that_starts_at_the_training_needs_its_images() {
    let (_, _, errors) = parse(&FitLatents, &[("init", text("trained"))]);
    assert_eq!(errors, ["`init = \"trained\"` needs `split = \"train\"`"]);

    let params = with(with(fit_params(1), "split", text("train")), "init", text("trained"));
    let model = &models()[0].1;
    let other = Bench::new(&FitLatents, &params).input("data", &data(23, 12)).input("model", model);
    insta::assert_snapshot!(complaint(other.run()), @"`model` was trained on 24 images, but `data` has 23 → use the data that the model was trained on");
}

#[test]
fn wrong_inputs_are_refused_with_what_was_found() {
    let empty = Bench::new(&TrainAd, &small(1)).input("data", &data(0, 3));
    insta::assert_snapshot!(complaint(empty.run()), @"`data` has no train images → give it `train = 1` or more");
    let strange = Bench::new(&TrainAd, &small(1)).input("data", &given("fit", "fit-latents", &Artifact::default()));
    insta::assert_snapshot!(complaint(strange.run()), @"`fit` (a `fit-latents`) has no tensor `train.images` → it has none");
    let mut coarse = train(&TrainAd, &small(1));
    coarse.precision = Precision::Tf32;
    insta::assert_snapshot!(complaint(coarse.run()), @r#"the CPU does not support the precision tf32 → set `precision = "f32"` in `[pipeline]`"#);
    let no_model = fit(&data(1, 1), &fit_params(1));
    insta::assert_snapshot!(complaint(no_model.run()), @"`data` (a `load-data`) has no tensor `decoder.*` → use a stage that provides `decoder` for the role `model`");
}

#[test]
fn parameters_of_start_and_epochs_are_separate() {
    let (stage, start, _) = parse(&TrainVad, &small(5));
    let names = |values: &crate::value::Values| values.keys().cloned().collect::<Vec<_>>().join(" ");
    assert_eq!(names(&start), "channels distribution init_std latent_dim");
    let epochs = stage.epochs().unwrap();
    assert_eq!(epochs.total(), 5);
    assert_eq!(names(&epochs.segments[0].params), "batch kl_weight latent_lr lr");

    assert_eq!(parse(&TrainVad, &with(small(5), "noise", Data::Float(1.0))).0.epochs(), Some(epochs));
    let quiet = parse(&TrainVad, &with(small(5), "noise", Data::Float(0.5))).0.epochs().unwrap();
    assert_eq!(names(&quiet.segments[0].params), "batch kl_weight latent_lr lr noise");

    let written_out = with(small(5), "channels", list([2048, 512, 256, 128].map(Data::Int)));
    let left_out: Given = small(5).into_iter().filter(|(name, _)| *name != "channels").collect();
    assert_eq!(
        parse(&TrainAd, &written_out).1,
        parse(&TrainAd, &left_out).1,
        "a default that is written out does not change the key"
    );

    let (_, _, errors) = parse(&TrainAd, &[("kl_weight", Data::Float(1.0)), ("channels", list([1, 2].map(Data::Int)))]);
    assert_eq!(errors, ["`channels` must be four integers, not 2", "unknown field `kl_weight`"]);
    let (stage, start, _) = parse(&FitLatents, &fit_params(2));
    assert_eq!(names(&start), "init split statistics");
    assert_eq!(names(&stage.epochs().unwrap().segments[0].params), "batch latent_lr");
}
