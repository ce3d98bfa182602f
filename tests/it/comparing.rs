//! `diff`: what differs between runs, points and pipelines.

use serde_json::{Value, json};

use crate::answers::SWEEP;
use crate::browser;
use crate::support::{Desk, MINI, text};

fn diff(desk: &Desk, args: &[&str]) -> Value {
    let said = desk.vadpipe(["diff", "--json"].iter().chain(args));
    assert_eq!(said.code, 0, "{}", said.err);
    serde_json::from_str(&said.out).expect("JSON")
}

fn changed<'a>(found: &'a Value, name: &str) -> &'a Value {
    let pairs = found["changed"].as_array().expect("pairs");
    pairs.iter().find(|p| p["a"] == name).unwrap_or_else(|| panic!("{name} is among what changed: {found}"))
}

#[test]
fn runs_differ_in_the_values_that_were_set() {
    let desk = Desk::new(MINI);
    let first = text(&desk.run(&["ad"]).last()["run"]);
    desk.run(&["ad", "-S", "params.epochs=4"]);
    let found = diff(&desk, &[&first, "last"]);
    assert_eq!(found, diff(&desk, &["last~1", "last"]));
    assert_eq!(found["same"], json!(["data"]));
    let ad = changed(&found, "ad");
    assert_eq!(ad["parameters"], json!([{ "name": "epochs", "a": "3", "b": "4" }]));
    assert_eq!(ad["same_output"], false);
    let loss = ad["metrics"].as_array().expect("metrics").iter().find(|m| m["name"] == "loss").expect("a loss");
    assert!(loss["b"].as_f64() < loss["a"].as_f64(), "{loss}");
    assert_eq!(found["facts"].as_array().expect("facts").len(), 1, "the command line alone: {found}");
    let said = desk.vadpipe(["diff", &first, "last"]).out;
    assert!(said.contains("  epochs") && said.contains("→  4") && said.contains("(different output)"), "{said}");
    assert!(said.contains("unchanged: data"), "{said}");
    // The same run is the same.
    let same = diff(&desk, &["last", "last"]);
    assert_eq!((&same["changed"], &same["same"]), (&json!([]), &json!(["data", "ad"])));
}

#[test]
fn html_page_shows_two_points_with_their_images() {
    let desk = Desk::new(SWEEP);
    desk.run(&["ad"]);
    let points = ["p.toml", "ad@lr=0.001,latent_dim=4", "ad@lr=0.01,latent_dim=4"];
    let found = diff(&desk, &points);
    let pair = changed(&found, points[1]);
    assert_eq!(pair["parameters"], json!([{ "name": "lr", "a": "0.001", "b": "0.01" }]));
    let said = desk.vadpipe(["diff"].iter().chain(&points).chain(&["--html", "diff.html"]));
    assert_eq!(said.code, 0, "{}", said.err);
    let html = desk.read("diff.html");
    assert!(html.contains("<h3>reconstructions</h3>") && html.contains("the same in both"), "originals are shown once");
    assert_eq!(html.matches("<img").count(), 3);
    assert!(html.contains("<b>loss</b>") && !html.contains("https://"));
    match browser::load(&desk.path("diff.html")).expect("the browser runs") {
        None => eprintln!("no Chromium here: the comparison was not loaded in a browser"),
        Some(shown) => assert_eq!(shown.complaints, [""; 0]),
    }
}

#[test]
fn points_of_two_stages_are_paired_by_the_values_of_their_axes() {
    let desk = Desk::new(MINI);
    let found = diff(&desk, &["p.toml", "vad", "fit"]);
    let pairs = found["changed"].as_array().expect("pairs");
    let names: Vec<_> = pairs.iter().map(|p| (text(&p["a"]), text(&p["b"]))).collect();
    let meet = |d: &str| (format!("vad@distribution={d}"), format!("fit@distribution={d}"));
    assert_eq!(names, [meet("gaussian"), meet("uniform")]);
    assert_eq!(pairs[0]["same_output"], Value::Null, "nothing ran yet");
    let kind = &pairs[0]["parameters"].as_array().expect("parameters")[..];
    assert!(kind.contains(&json!({ "name": "kind", "a": "train-vad", "b": "fit-latents" })), "{kind:?}");
}

#[test]
fn pipelines_are_compared_before_they_run() {
    let desk = Desk::new(MINI);
    desk.write(
        "q.toml",
        &MINI
            .replace("kl_weight = 0.5", "kl_weight = 0.25")
            .replace("[stages.ad]", "[stages.aa]")
            .replace("\"ad\", ", "\"aa\", "),
    );
    let found = diff(&desk, &["p.toml", "q.toml"]);
    assert_eq!((&found["only_a"], &found["only_b"]), (&json!(["ad"]), &json!(["aa"])));
    assert_eq!(found["same"], json!(["data", "vad@distribution=uniform", "fit@distribution=uniform"]));
    let vad = changed(&found, "vad@distribution=gaussian");
    assert_eq!(vad["parameters"], json!([{ "name": "kl_weight", "a": "0.5", "b": "0.25" }]));
    // What reads it differs, too, and says why.
    let fit = changed(&found, "fit@distribution=gaussian");
    let model = "vad@distribution=gaussian";
    assert_eq!(
        fit["parameters"],
        json!([{ "name": "input model", "a": model, "b": format!("{model}, which differs") }])
    );
}

#[test]
fn wrong_comparison_is_an_error() {
    let desk = Desk::new(MINI);
    for (args, said) in [
        (&["p.toml", "last"][..], "can't compare a pipeline file with something"),
        (&["last", "last"], "there is no run"),
        (&["last~3", "last"], "there is no run `last~3`"),
        (&["p.toml", "q.toml"], "can't read the pipeline q.toml"),
        (&["p.toml", "ad", "vda"], "no stage and no point matches `vda`"),
        (&["p.toml"], "2 values required"),
    ] {
        let found = desk.vadpipe(["diff"].iter().chain(args));
        assert!(found.code == 2 && found.err.contains(said), "{args:?}: {} {}", found.code, found.err);
    }
}
