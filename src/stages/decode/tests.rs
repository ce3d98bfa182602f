use std::sync::Arc;

use super::*;
use crate::stage::Input;
use crate::stages::testing::{Bench, complaint, data, given, list, parse, text};
use crate::stages::train_ad::TrainAd;
use crate::stages::train_vad::TrainVad;
use crate::value::Data;

fn model(distribution: Option<&str>) -> Arc<dyn Input> {
    let mut params =
        vec![("latent_dim", Data::Int(4)), ("channels", list([8, 6, 5, 4].map(Data::Int))), ("epochs", Data::Int(1))];
    let kind: &dyn StageKind = if distribution.is_some() { &TrainVad } else { &TrainAd };
    params.extend(distribution.map(|d| ("distribution", text(d))));
    given("model", kind.name(), &Bench::new(kind, &params).input("data", &data(6, 2)).run().unwrap())
}

fn decode(model: &Arc<dyn Input>, what: &str, scale: f64) -> Bench {
    let params = [("what", text(what)), ("scale", Data::Float(scale)), ("count", Data::Int(5))];
    Bench::new(&Decode, &params).input("model", model)
}

fn latents(made: &Artifact) -> Vec<f32> {
    made.tensors["latents"].to_vec().unwrap()
}

#[test]
fn ones_and_zeros_are_scaled() {
    let model = model(None);
    let ones = decode(&model, "ones", 1.5).run().unwrap();
    assert_eq!(latents(&ones), [1.5; 20]);
    assert_eq!(ones.tensors["images"].shape(), [5, 28, 28]);
    assert_eq!(ones.metrics["count"], 5.0);
    assert_eq!((ones.facts["what"].as_str(), ones.facts["scale"].as_f64()), (Some("ones"), Some(1.5)));
    assert_eq!(latents(&decode(&model, "zeros", 2.0).run().unwrap()), [0.0; 20]);
}

#[test]
fn samples_come_from_the_models_own_prior() {
    for (distribution, low, high) in [
        (None, f32::MIN, f32::MAX),
        (Some("gaussian"), f32::MIN, f32::MAX),
        (Some("exponential"), 0.0, f32::MAX),
        (Some("uniform"), -1.7321, 1.7321),
    ] {
        let model = model(distribution);
        let z = latents(&decode(&model, "prior", 1.0).run().unwrap());
        assert!(z.iter().all(|z| (low..=high).contains(z)), "{distribution:?}: {z:?}");
        assert!(low >= 0.0 || z.iter().any(|z| *z < 0.0), "{distribution:?}: {z:?}");
        assert_eq!(
            latents(&decode(&model, "prior", 2.0).run().unwrap()),
            z.iter().map(|z| z * 2.0).collect::<Vec<_>>()
        );
    }
}

#[test]
fn given_latents_are_the_first_of_the_input() {
    let model = model(None);
    let made = decode(&model, "latents", 0.5).input("latents", &model).run().unwrap();
    let all: Vec<f32> = model.tensor("latents").unwrap().to_vec().unwrap();
    assert_eq!(latents(&made), all[..20].iter().map(|z| z * 0.5).collect::<Vec<_>>());
}

#[test]
fn only_samples_of_the_prior_read_the_seed() {
    for (what, seed) in [("prior", true), ("ones", false), ("zeros", false), ("latents", false)] {
        let (stage, _, errors) = parse(&Decode, &[("what", text(what))]);
        assert_eq!((stage.reads().seed, errors), (seed, vec![]));
    }
}

#[test]
fn missing_too_few_or_wrong_latents_are_refused() {
    let model = model(None);
    insta::assert_snapshot!(complaint(decode(&model, "latents", 1.0).run()), @r#"`what = "latents"` needs the input `latents` → add a stage with latents to `inputs`, such as `latents = "fit"`"#);
    let mut few = Artifact::default();
    few.tensors.insert("latents".to_owned(), Tensor::new([2, 4], &[0f32; 8]).unwrap());
    let few = given("fit", "fit-latents", &few);
    insta::assert_snapshot!(complaint(decode(&model, "latents", 1.0).input("latents", &few).run()), @"`count` is 5, but `fit` has 2 latents → set `count` to 2 or less");
    let mut other = Artifact::default();
    other.tensors.insert("latents".to_owned(), Tensor::new([9, 3], &[0f32; 27]).unwrap());
    let other = given("fit", "fit-latents", &other);
    insta::assert_snapshot!(complaint(decode(&model, "latents", 1.0).input("latents", &other).run()), @"the latents of `fit` have 3 numbers, the decoder takes 4 → use latents that were fitted with the same model");
}

#[test]
fn missing_or_unused_latents_are_reported_before_the_run() {
    let complaints = |what: &str, inputs: &str| {
        let text = format!(
            "pipeline.name = \"p\"\n[stages.data]\nkind = \"load-data\"\n[stages.ad]\nkind = \"train-ad\"\n\
             inputs = {{ data = \"data\" }}\n[stages.d]\nkind = \"decode\"\n{inputs}\nwhat = \"{what}\"\n"
        );
        let read = crate::spec::load(&text, "p.toml", std::path::Path::new("."), &[], &crate::stages::builtin());
        read.map(|_| ()).map_err(|e| e.message)
    };
    let (without, with) = ("inputs = { model = \"ad\" }", "inputs = { model = \"ad\", latents = \"ad\" }");
    for what in ["prior", "ones", "zeros"] {
        assert_eq!(complaints(what, without), Ok(()));
    }
    assert_eq!(complaints("latents", with), Ok(()));
    insta::assert_snapshot!(complaints("latents", without).unwrap_err(), @r#"
    error: `what = "latents"` needs the input `latents`
      --> p.toml:10:8
       |
    10 | what = "latents"
       |        ^^^^^^^^^
       |
       = help: add a stage with latents to `inputs`, such as `latents = "fit"`

    1 error in the pipeline
    "#);
    insta::assert_snapshot!(complaints("prior", with).unwrap_err(), @r#"
    error: `what = "prior"` does not read the input `latents`
     --> p.toml:9:26
      |
    9 | inputs = { model = "ad", latents = "ad" }
      |                          ^^^^^^^
      |
      = help: write `what = "latents"`, or leave the input out

    1 error in the pipeline
    "#);
}
