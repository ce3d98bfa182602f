//! `diff` compares runs, points and pipelines.

use serde_json::{Value, json};

use crate::answers::SWEEP;
use crate::browser;
use crate::support::{MINI, Project, text};

fn diff(project: &Project, args: &[&str]) -> Value {
    let output = project.vadpipe(["diff", "--json"].iter().chain(args));
    assert_eq!(output.code, 0, "{}", output.stderr);
    serde_json::from_str(&output.stdout).expect("JSON")
}

fn changed<'a>(found: &'a Value, name: &str) -> &'a Value {
    let pairs = found["changed"].as_array().expect("pairs");
    pairs.iter().find(|p| p["a"] == name).unwrap_or_else(|| panic!("{name} did not change: {found}"))
}

#[test]
fn diff_of_two_runs_shows_the_changed_parameters() {
    let project = Project::new(MINI);
    let first = text(&project.run(&["ad"]).last()["run"]);
    project.run(&["ad", "-S", "params.epochs=4"]);
    let found = diff(&project, &[&first, "last"]);
    assert_eq!(found, diff(&project, &["last~1", "last"]));
    assert_eq!(found["same"], json!(["data"]));
    let ad = changed(&found, "ad");
    assert_eq!(ad["parameters"], json!([{ "name": "epochs", "a": "3", "b": "4" }]));
    assert_eq!(ad["same_output"], false);
    let loss = ad["metrics"].as_array().expect("metrics").iter().find(|m| m["name"] == "loss").expect("a loss");
    assert!(loss["b"].as_f64() < loss["a"].as_f64(), "{loss}");
    assert_eq!(found["facts"].as_array().expect("facts").len(), 1, "only the command line differs: {found}");
    let output = project.vadpipe(["diff", &first, "last"]).stdout;
    assert!(
        output.contains("  epochs") && output.contains("→  4") && output.contains("(different output)"),
        "{output}"
    );
    assert!(output.contains("unchanged: data"), "{output}");
    // A run does not differ from itself.
    let same = diff(&project, &["last", "last"]);
    assert_eq!((&same["changed"], &same["same"]), (&json!([]), &json!(["data", "ad"])));
}

#[test]
fn diff_of_two_points_shows_their_images_side_by_side() {
    let project = Project::new(SWEEP);
    project.run(&["ad"]);
    let points = ["p.toml", "ad@lr=0.001,latent_dim=4", "ad@lr=0.01,latent_dim=4"];
    let found = diff(&project, &points);
    let pair = changed(&found, points[1]);
    assert_eq!(pair["parameters"], json!([{ "name": "lr", "a": "0.001", "b": "0.01" }]));
    let output = project.vadpipe(["diff"].iter().chain(&points).chain(&["--html", "diff.html"]));
    assert_eq!(output.code, 0, "{}", output.stderr);
    let html = project.read("diff.html");
    assert!(html.contains("<h2>reconstructions</h2>") && html.contains("the same in both"), "originals are shown once");
    assert_eq!(html.matches("<img").count(), 3);
    assert!(html.contains("<b>loss</b>") && !html.contains("https://"));
    match browser::load(&project.path("diff.html")).expect("the browser runs") {
        None => eprintln!("Chromium is not installed: the comparison was not loaded in a browser"),
        Some(page) => assert_eq!(page.complaints, [""; 0]),
    }
}

#[test]
fn diff_of_two_stages_pairs_points_with_the_same_axis_values() {
    let project = Project::new(MINI);
    let found = diff(&project, &["p.toml", "vad", "fit"]);
    let pairs = found["changed"].as_array().expect("pairs");
    let names: Vec<_> = pairs.iter().map(|p| (text(&p["a"]), text(&p["b"]))).collect();
    let pair = |d: &str| (format!("vad@distribution={d}"), format!("fit@distribution={d}"));
    assert_eq!(names, [pair("gaussian"), pair("uniform")]);
    assert_eq!(pairs[0]["same_output"], Value::Null, "nothing ran yet");
    let kind = &pairs[0]["parameters"].as_array().expect("parameters")[..];
    assert!(kind.contains(&json!({ "name": "kind", "a": "train-vad", "b": "fit-latents" })), "{kind:?}");
}

#[test]
fn diff_of_two_pipelines_needs_no_run() {
    let project = Project::new(MINI);
    project.write(
        "q.toml",
        &MINI
            .replace("kl_weight = 0.5", "kl_weight = 0.25")
            .replace("[stages.ad]", "[stages.aa]")
            .replace("\"ad\", ", "\"aa\", "),
    );
    let found = diff(&project, &["p.toml", "q.toml"]);
    assert_eq!((&found["only_a"], &found["only_b"]), (&json!(["ad"]), &json!(["aa"])));
    assert_eq!(found["same"], json!(["data", "vad@distribution=uniform", "fit@distribution=uniform"]));
    let vad = changed(&found, "vad@distribution=gaussian");
    assert_eq!(vad["parameters"], json!([{ "name": "kl_weight", "a": "0.5", "b": "0.25" }]));
    // A point that reads it differs, too, and the cause is shown.
    let fit = changed(&found, "fit@distribution=gaussian");
    let model = "vad@distribution=gaussian";
    assert_eq!(
        fit["parameters"],
        json!([{ "name": "input model", "a": model, "b": format!("{model}, which differs") }])
    );
}

#[test]
fn invalid_comparison_is_refused() {
    let project = Project::new(MINI);
    for (args, message) in [
        (&["p.toml", "last"][..], "can't compare a pipeline file with something"),
        (&["last", "last"], "there is no run"),
        (&["last~3", "last"], "there is no run `last~3`"),
        (&["p.toml", "q.toml"], "can't read the pipeline q.toml"),
        (&["p.toml", "ad", "vda"], "no stage and no point matches `vda`"),
        (&["p.toml"], "`diff` compares two things"),
        (&["last", "last", "last", "last"], "`diff` compares two things"),
        (&["last", "--before"], "--run and --before need a pipeline file"),
    ] {
        let found = project.vadpipe(["diff"].iter().chain(args));
        assert!(found.code == 2 && found.stderr.contains(message), "{args:?}: {} {}", found.code, found.stderr);
    }
}
