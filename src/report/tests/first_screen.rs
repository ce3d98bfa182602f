//! What a reader sees first, and images beside the data that they were made from.

use super::*;

/// A data set, a training and a fit on it, an interpolation between two of its images, and its embedding.
fn with_data() -> Inputs {
    let labels: Vec<u8> = (0..20).map(|i| i / 2).collect();
    let data = artifact(
        vec![
            ("examples", images(10, 1, 0.0)),
            ("train.images", images(20, 2, 0.0)),
            ("train.labels", Tensor::vector(&labels)),
            ("test.images", images(20, 2, 3.0)),
            ("test.labels", Tensor::vector(&labels)),
        ],
        &[("train", 20.0)],
        json!({"classes": CLASSES, "source": "synthetic"}),
    );
    let facts = json!({"from": "Trouser", "to": "Shirt", "mode": "linear", "from_index": 2, "to_index": 12});
    let strip = artifact(vec![("images", images(10, 1, 9.0))], &[("steps", 10.0)], facts);
    let points: Vec<f32> = (0..40).map(|i| (i * 7 % 41) as f32).collect();
    let map = artifact(
        vec![("embedding", Tensor::new([20, 2], &points).unwrap()), ("labels", Tensor::vector(&labels))],
        &[("knn_purity", 0.5)],
        json!({"classes": CLASSES, "split": "test"}),
    );
    Inputs(BTreeMap::from([
        ("ad".to_owned(), vec![training("train-ad", "ad", 0.06, None)]),
        ("between".to_owned(), vec![FakeInput::shared("between", "interpolate", strip)]),
        ("data".to_owned(), vec![FakeInput::shared("data", "load-data", data)]),
        ("fit".to_owned(), vec![fit("fit", "test", 0.2)]),
        ("map".to_owned(), vec![FakeInput::shared("map", "tsne", map)]),
    ]))
}

pub(super) fn page_with_data() -> String {
    build(&Spec::default(), &with_data(), &Cancel::default()).unwrap()
}

pub(super) fn section<'a>(page: &'a str, id: &str) -> &'a str {
    page.split(&format!("<section id=\"{id}\">")).nth(1).unwrap().split("</section>").next().unwrap()
}

#[test]
fn first_screen_has_our_figures_beside_the_baseline_and_three_pictures() {
    let page = html();
    let findings = section(&page, "findings");
    let tiles: Vec<&str> = findings.split("<dt>").skip(1).map(|tile| tile.split("</dd>").next().unwrap()).collect();
    assert_eq!(tiles[0], "AD, test latents</dt><dd><b>0.1970</b> baseline 0.16 (+23%)");
    assert_eq!(tiles.len(), 3, "a figure of theirs without one of ours is only in the table");
    let (chart, images) =
        (findings.find("svg class=\"lines").unwrap(), findings.find("<b>Images held out</b>").unwrap());
    assert!(chart < images && images < findings.find("svg class=\"scatter\"").unwrap());
    assert!(page.find("id=\"findings\"") < page.find("id=\"training\""));
}

#[test]
fn first_screen_without_baseline_names_the_best_point_of_a_sweep() {
    let page = build(&spec_of_sweep(), &sweep(), &Cancel::default()).unwrap();
    let tile = section(&page, "findings").split("<dt>").nth(1).unwrap().split("</dd>").next().unwrap();
    assert!(tile.starts_with("ad: best loss of 12</dt>"), "{tile}");
    assert!(tile.contains("lr=<wbr>0.003,<wbr>latent_dim=<wbr>128; worst"), "{tile}");
    assert!(page.contains("<b>loss against lr</b>"));
}

#[test]
fn points_are_in_the_order_of_their_numbers_everywhere() {
    let names = names(&sweep());
    assert_eq!(names[..4], [8, 16, 64, 128].map(|dim| format!("ad@lr=0.0003,latent_dim={dim}")));
}

#[test]
fn originals_have_their_classes_above_them() {
    let page = page_with_data();
    let part = section(&page, "reconstructions");
    let heads = part.split("class=\"heads\"").nth(1).unwrap().split("</div>").next().unwrap();
    assert_eq!(heads.matches("<span>Trouser</span>").count(), 2);
    // Images of another data set have no known classes.
    let mut inputs = with_data();
    inputs.0.remove("data");
    let page = build(&Spec::default(), &inputs, &Cancel::default()).unwrap();
    assert!(!section(&page, "reconstructions").contains("class=\"heads\""));
}

#[test]
fn interpolation_is_shown_between_its_originals() {
    let page = page_with_data();
    let part = section(&page, "interpolations");
    let alts: Vec<&str> = part.split("alt=\"").skip(1).map(|alt| alt.split('"').next().unwrap()).collect();
    assert_eq!(alts, ["original: Trouser", "between: Trouser → Shirt, linear", "original: Shirt"]);
}

#[test]
fn thousand_points_are_a_page_below_three_megabytes() {
    let point = |i: usize| {
        let name = format!("ad@lr=0.{:03},d={},batch={}", i / 100 + 1, i / 10 % 10, i % 10);
        training("train-ad", &name, 0.05 + 0.001 * (i * 7 % 100) as f64, None)
    };
    let inputs = Inputs(BTreeMap::from([("ad".to_owned(), (0..1000).map(point).collect())]));
    let page = build(&spec_of_sweep(), &inputs, &Cancel::default()).unwrap();
    assert!(page.len() < 3_000_000, "{} bytes", page.len());
    assert!(section(&page, "reconstructions").contains("12 of 1000 are shown: those with the lowest rmse."));
    // Means instead of a hundred lines.
    let chart = section(&page, "sweeps").split("<b>loss against lr, mean over batch</b>").nth(1).unwrap();
    assert_eq!(chart.split("</figure>").next().unwrap().matches("<path class=\"l ").count(), 10);
}
