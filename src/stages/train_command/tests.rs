use std::collections::BTreeMap;

use proptest::prelude::*;

use super::Kind;
use super::curves::Curves;
use crate::report::testing::parse_stage;

fn line(metrics: &[(&str, f64)]) -> BTreeMap<String, f64> {
    metrics.iter().map(|(name, value)| ((*name).to_owned(), *value)).collect()
}

#[test]
fn metric_that_is_missing_in_the_last_epoch_is_no_metric_of_the_result() {
    let mut curves = Curves::default();
    curves.push(&line(&[("loss", 2.0)]));
    curves.push(&line(&[("loss", 1.0), ("accuracy", 0.5)]));
    assert_eq!(curves.last(), line(&[("loss", 1.0), ("accuracy", 0.5)]));
    curves.push(&line(&[("loss", f64::NAN)]));
    assert!(curves.last()["loss"].is_nan());
    assert_eq!(curves.last().len(), 1);
    assert_eq!(curves.best("accuracy", true), Some((0.5, 2)));
    assert_eq!(curves.best("loss", false), Some((1.0, 2)));
    assert_eq!(curves.best("none", false), None);
}

proptest! {
    #[test]
    fn curves_survive_a_state(
        epochs in prop::collection::vec(prop::collection::btree_map("[ab]", prop::num::f64::ANY, 0..3), 0..6),
    ) {
        let mut curves = Curves::default();
        epochs.iter().for_each(|epoch| curves.push(epoch));
        let read = Curves::from_tensors(&curves.to_tensors(), epochs.len() as u64).unwrap();
        prop_assert_eq!(read.to_tensors(), curves.to_tensors());
        if !epochs.is_empty() && !curves.to_tensors().is_empty() {
            prop_assert!(Curves::from_tensors(&curves.to_tensors(), epochs.len() as u64 + 1).is_err());
        }
    }
}

#[test]
fn outputs_and_values_of_epochs_do_not_enter_the_first_state() {
    let text = "argv = [\"x\"]\nsegment_epochs = 5\nepochs = 12\nstart = { width = 3 }\nepoch = { lr = 0.1 }\n";
    let more = format!("{text}outputs = {{ o = \"o.txt\" }}\nselect = {{ metric = \"loss\" }}\n");
    let (plain, params) = parse_stage(&Kind, text).unwrap();
    let (with_outputs, same) = parse_stage(&Kind, &more).unwrap();
    assert_eq!(params, same);
    assert!(!params.contains_key("epoch") && !params.contains_key("epochs") && params.contains_key("segment_epochs"));
    assert!(plain.result_params().is_empty());
    assert_eq!(with_outputs.result_params().into_keys().collect::<Vec<_>>(), ["outputs", "select"]);
    let epochs = plain.epochs().unwrap();
    assert_eq!((epochs.total(), epochs.every, &*epochs.keep), (12, 5, &[10][..]));
}
