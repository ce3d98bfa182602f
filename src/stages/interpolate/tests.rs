use std::sync::Arc;

use proptest::prelude::*;

use super::*;
use crate::stages::testing::{Bench, complaint, data, given, list, parse, text};
use crate::stages::train_ad::TrainAd;

fn model() -> Arc<dyn Input> {
    let params =
        [("latent_dim", Data::Int(4)), ("channels", list([8, 6, 5, 4].map(Data::Int))), ("epochs", Data::Int(1))];
    given("ad", "train-ad", &Bench::new(&TrainAd, &params).input("data", &data(6, 2)).run().unwrap())
}

fn bench(model: &Arc<dyn Input>, params: &[(&str, Data)]) -> Bench {
    Bench::new(&Interpolate, params).input("data", &data(6, 2)).input("model", model)
}

#[test]
fn path_leads_from_first_image_of_one_class_to_first_of_another() {
    let model = model();
    let all: Vec<f32> = model.tensor("latents").unwrap().to_vec().unwrap();
    for mode in ["linear", "spherical"] {
        let made = bench(&model, &[("steps", Data::Int(5)), ("mode", text(mode))]).run().unwrap();
        let z: Vec<f32> = made.tensors["latents"].to_vec().unwrap();
        assert_eq!((&z[..4], &z[16..]), (&all[..4], &all[4..8]), "{mode}");
        assert_eq!(made.tensors["images"].shape(), [5, 28, 28]);
        assert_eq!(made.metrics["steps"], 5.0);
        let facts = ["from", "to", "from_index", "to_index", "mode"].map(|f| made.facts[f].to_string());
        assert_eq!(facts, ["\"Trouser\"", "\"Shirt\"", "0", "1", &format!("\"{mode}\"")]);
    }
}

#[test]
fn an_index_names_any_image() {
    let model = model();
    let made =
        bench(&model, &[("from", Data::Int(5)), ("to", text("trouser")), ("steps", Data::Int(2))]).run().unwrap();
    assert_eq!((made.facts["from"].as_u64(), made.facts["to_index"].as_u64()), (Some(5), Some(0)));
    let all: Vec<f32> = model.tensor("latents").unwrap().to_vec().unwrap();
    assert_eq!(made.tensors["latents"].to_vec::<f32>().unwrap(), [&all[20..], &all[..4]].concat());
}

#[test]
fn writing_out_the_defaults_changes_no_key() {
    let written =
        [("from", text("Trouser")), ("to", text("Shirt")), ("steps", Data::Int(10)), ("mode", text("linear"))];
    assert_eq!(parse(&Interpolate, &written).1, parse(&Interpolate, &[]).1);
}

#[test]
fn unknown_class_or_index_is_reported() {
    let model = model();
    let say = |from: Data| complaint(bench(&model, &[("from", from)]).run());
    insta::assert_snapshot!(say(text("Trousers")), @"`data` has no class `Trousers` → did you mean `Trouser`? The classes are Trouser, Shirt, Ankle boot");
    insta::assert_snapshot!(say(text("Hovercraft")), @"`data` has no class `Hovercraft` → the classes are Trouser, Shirt, Ankle boot");
    insta::assert_snapshot!(say(text("Ankle boot")), @"no train image of `data` is of the class `Ankle boot` → there are images of Trouser, Shirt");
    insta::assert_snapshot!(say(Data::Int(6)), @"there is no train image 6: `data` has 6 → use an index from 0 to 5");
    let other = Bench::new(&Interpolate, &[]).input("data", &data(7, 2)).input("model", &model);
    insta::assert_snapshot!(complaint(other.run()), @"`ad` was trained on 6 images, but `data` has 7 → use the data that the model was trained on");
    let (_, _, errors) = parse(&Interpolate, &[("to", Data::Int(-1)), ("from", Data::Bool(true))]);
    insta::assert_snapshot!(errors.join("\n"), @r#"
        `from` must be a class name or an index from 0, not true
        `to` must be a class name or an index from 0, not -1
    "#);
}

#[test]
fn a_great_circle_keeps_the_length_and_the_speed() {
    let z = way(&[2.0, 0.0], &[0.0, 2.0], 4, Mode::Spherical);
    for (point, degrees) in z.chunks(2).zip([0.0f64, 30.0, 60.0, 90.0]) {
        let (sin, cos) = degrees.to_radians().sin_cos();
        assert!((f64::from(point[0]) - 2.0 * cos).abs() < 1e-6 && (f64::from(point[1]) - 2.0 * sin).abs() < 1e-6);
    }
}

#[test]
fn parallel_or_opposite_latents_give_a_straight_path() {
    for b in [[2.0, 0.0], [-1.0, 0.0], [0.0, 0.0]] {
        let a = [1.0, 0.0];
        assert_eq!(way(&a, &b, 5, Mode::Spherical), way(&a, &b, 5, Mode::Linear));
    }
}

proptest! {
    #[test]
    fn path_includes_both_ends(
        a in prop::collection::vec(-3f32..3.0, 4), b in prop::collection::vec(-3f32..3.0, 4), steps in 2..12usize,
    ) {
        for mode in [Mode::Linear, Mode::Spherical] {
            let z = way(&a, &b, steps, mode);
            prop_assert_eq!(z.len(), steps * 4);
            prop_assert_eq!(&z[..4], &a[..]);
            prop_assert_eq!(&z[z.len() - 4..], &b[..]);
            prop_assert!(z.iter().all(|v| v.is_finite()));
        }
    }
}
