//! Trainings and fits with the GPU's engine on the emulated machine, compared with the CPU's. Without a C++ compiler,
//! these tests print that and pass.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::artifact::{Artifact, Tensor};
use crate::model::cuda::{EMULATED, emulates};
use crate::stage::{Device, Input, Precision, StageError, StageKind};
use crate::stages::fit_latents::FitLatents;
use crate::stages::testing::{Bench, MemoryChain, complaint, data, given, list, text};
use crate::stages::train_ad::TrainAd;
use crate::stages::train_vad::TrainVad;
use crate::value::Data;

type Given = Vec<(&'static str, Data)>;

/// The 24 images are two batches of 10 and one of 4.
fn small(family: Option<&'static str>) -> Given {
    let mut given = vec![
        ("latent_dim", Data::Int(4)),
        ("channels", list([8, 6, 5, 4].map(Data::Int))),
        ("epochs", Data::Int(3)),
        ("batch", Data::Int(10)),
        ("lr", Data::Float(1e-3)),
        ("latent_lr", Data::Float(1e-3)),
    ];
    given.extend(family.map(|family| ("distribution", text(family))));
    given
}

fn models() -> Vec<(&'static str, &'static dyn StageKind, Given)> {
    let vad = |family| (family, &TrainVad as &dyn StageKind, small(Some(family)));
    let ad = ("ad", &TrainAd as &dyn StageKind, small(None));
    ["gaussian", "exponential", "uniform"].into_iter().map(vad).chain([ad]).collect()
}

fn on(mut bench: Bench) -> Bench {
    bench.device = Device::Cuda { ordinal: EMULATED, graph: true };
    bench
}

fn train(kind: &dyn StageKind, params: &Given) -> Bench {
    Bench::new(kind, params).input("data", &data(24, 12))
}

/// Whether there is an emulated machine. Prints a line if not.
fn emulated() -> bool {
    let found = emulates();
    if !found {
        eprintln!("skipped: there is no g++ to build the kernels with");
    }
    found
}

fn shapes(tensors: &BTreeMap<String, Tensor>) -> Vec<(String, Vec<usize>)> {
    tensors.iter().map(|(name, tensor)| (name.clone(), tensor.shape().to_vec())).collect()
}

fn assert_close(name: &str, found: &Artifact, wanted: &Artifact) {
    assert_eq!(shapes(&found.tensors), shapes(&wanted.tensors), "{name}");
    assert_eq!(found.facts, wanted.facts, "{name}");
    for (metric, wanted) in &wanted.metrics {
        let found = found.metrics[metric];
        assert!((found - wanted).abs() < 1e-3 * wanted.abs(), "{name}: {metric} {found}, not {wanted}");
    }
    let pictures = |artifact: &Artifact| artifact.tensors["reconstructions"].to_vec::<u8>().unwrap();
    let (found, wanted) = (pictures(found), pictures(wanted));
    assert!(found.iter().zip(wanted).all(|(a, b)| a.abs_diff(b) <= 1), "{name}: other reconstructions");
}

#[test]
fn training_gives_the_figures_of_cpu() {
    if !emulated() {
        return;
    }
    for (name, kind, params) in models() {
        let (cpu, gpu) = (train(kind, &params).run().unwrap(), on(train(kind, &params)).run().unwrap());
        assert_close(name, &gpu, &cpu);
        assert!(gpu != cpu, "{name}: the CPU computed it");
    }
}

#[test]
fn fit_gives_the_figures_of_cpu() {
    if !emulated() {
        return;
    }
    for (name, kind, params) in models() {
        let model: Arc<dyn Input> = given("model", kind.name(), &train(kind, &params).run().unwrap());
        for statistics in ["running", "batch"] {
            let params = [("epochs", Data::Int(3)), ("batch", Data::Int(5)), ("statistics", text(statistics))];
            let fit = || Bench::new(&FitLatents, &params).input("data", &data(24, 12)).input("model", &model);
            assert_close(&format!("{name} {statistics}"), &on(fit()).run().unwrap(), &fit().run().unwrap());
        }
    }
}

#[test]
fn interrupted_training_ends_with_the_same_bytes() {
    if !emulated() {
        return;
    }
    for (name, kind, params) in models() {
        let whole = MemoryChain::keeping(&[1, 3]);
        let wanted = on(train(kind, &params)).run_on(&whole).unwrap();
        for (epoch, step) in [(0, 1), (1, 0), (1, 2), (2, 1)] {
            let chain = MemoryChain::stopping_at(epoch, step);
            let stopped = on(train(kind, &params)).run_on(&chain);
            assert!(matches!(stopped, Err(StageError::Interrupted)), "{name}: {}", complaint(stopped));
            assert_eq!(chain.positions(), [(epoch, step)]);
            let chain = chain.reopened();
            let found = on(train(kind, &params)).run_on(&chain).unwrap();
            assert!(found == wanted, "{name} at {epoch}.{step}");
        }
        let cpu = MemoryChain::keeping(&[1, 3]);
        train(kind, &params).run_on(&cpu).unwrap();
        let (gpu, cpu) = (whole.saved.lock().unwrap(), cpu.saved.lock().unwrap());
        assert!(gpu.keys().eq(cpu.keys()));
        for (gpu, cpu) in gpu.values().zip(cpu.values()) {
            assert_eq!(shapes(gpu), shapes(cpu), "{name}: a state has the names and shapes of the CPU");
        }
    }
}

#[test]
fn training_that_diverges_names_the_epoch() {
    if !emulated() {
        return;
    }
    let mut params = small(Some("gaussian"));
    params.retain(|(name, _)| *name != "latent_lr");
    params.push(("latent_lr", Data::Float(1e30)));
    let bench = train(&TrainVad, &params);
    let cpu = complaint(bench.run());
    assert!(cpu.starts_with("the training diverged in epoch"), "{cpu}");
    assert_eq!(complaint(on(bench).run()), cpu);
}

#[test]
fn unsupported_precision_is_refused() {
    if !emulated() {
        return;
    }
    let mut bench = on(train(&TrainAd, &small(None)));
    bench.precision = Precision::Bf16;
    insta::assert_snapshot!(complaint(bench.run()), @r#"a GPU does not support the precision bf16 → set `precision = "f32"` in `[pipeline]`"#);
    bench.precision = Precision::Tf32;
    assert!(bench.run().is_ok());
}
