//! Results of earlier runs stay readable: `--run` and `--before`.

use std::io::{BufRead as _, BufReader};

use serde_json::{Value, json};

use crate::answers::SWEEP;
use crate::support::{MINI, Project, json as parsed, text};

/// A project whose sweep ran, was edited and ran again; and the id of the first run, its `show` and its `metrics`.
fn edited() -> (Project, String, [Value; 2]) {
    let project = Project::new(SWEEP);
    let first = text(&project.run(&["ad"]).last()["run"]);
    let before = ["show", "metrics"].map(|command| parsed(&project.vadpipe([command, "p.toml", "ad", "--json"])));
    project.edit("epochs = 2", "epochs = 3");
    project.edit("lr = [1e-3, 1e-2]", "lr = [1e-3, 2e-2]");
    (project, first, before)
}

#[test]
fn results_of_an_earlier_run_are_shown_as_they_were() {
    let (project, first, [shown, metrics]) = edited();
    // Nothing of the edited pipeline has run.
    let now = project.vadpipe(["show", "p.toml", "ad"]);
    assert!(now.code == 2 && now.stderr.contains("`--run last` reads"), "{}", now.stderr);
    assert_eq!(parsed(&project.vadpipe(["show", "p.toml", "ad", "--run", "last", "--json"])), shown);
    project.run(&["ad"]);
    for id in [first.as_str(), "last~1"] {
        assert_eq!(parsed(&project.vadpipe(["show", "p.toml", "ad", "--json", "--run", id])), shown, "{id}");
        assert_eq!(parsed(&project.vadpipe(["metrics", "p.toml", "ad", "--json", "--run", id])), metrics, "{id}");
    }
    let last = parsed(&project.vadpipe(["metrics", "p.toml", "ad", "--json", "--run", "last"]));
    assert_eq!(last, parsed(&project.vadpipe(["metrics", "p.toml", "ad", "--json"])));
    assert_ne!(last, metrics);
    // A point that is no longer in the file can be read, sorted, filtered and exported.
    let gone = "ad@lr=0.01,latent_dim=4";
    let table = project.vadpipe(["metrics", "p.toml", gone, "--run", &first, "--csv", "--where", "lr<0.02"]).stdout;
    assert!(table.starts_with("stage,lr,latent_dim,") && table.contains("\nad,0.01,4,"), "{table}");
    assert_eq!(project.vadpipe(["export", "p.toml", gone, "--run", &first, "--to", "old"]).code, 0);
    let exported: Value = serde_json::from_str(&project.read(&format!("old/{gone}/metrics.json"))).expect("JSON");
    assert_eq!(exported, metrics[gone]);
}

#[test]
fn before_shows_the_result_before_the_newest() {
    let (project, first, [_, metrics]) = edited();
    let early = project.vadpipe(["show", "p.toml", "ad", "--before"]);
    assert!(early.code == 2 && early.stderr.contains("no result before the newest one: ad@"), "{}", early.stderr);
    project.run(&["ad"]);
    // A run in which everything was cached changes nothing.
    project.run(&["ad"]);
    let output = project.vadpipe(["metrics", "p.toml", "ad", "--before", "--json"]);
    let (kept, all) = (parsed(&output), metrics.as_object().expect("points"));
    assert_eq!(kept.as_object().expect("points").len(), 2);
    for name in ["ad@lr=0.001,latent_dim=4", "ad@lr=0.001,latent_dim=6"] {
        assert_eq!(kept[name], all[name], "{name}");
    }
    assert!(output.stderr.contains("2 of 4 stages have no result before the newest one"), "{}", output.stderr);
    let shown = project.vadpipe(["show", "p.toml", "ad@lr=0.001,latent_dim=4", "--before"]).stdout;
    assert!(shown.contains(&format!("by run {first} ")), "{shown}");
    let path = "old/ad@lr=0.001,latent_dim=6/metrics.json";
    assert_eq!(project.vadpipe(["export", "p.toml", "ad", "--before", "--to", "old"]).code, 0);
    assert!(project.path(path).exists() && !project.path("old/ad@lr=0.02,latent_dim=6").exists());
}

#[test]
fn diff_compares_a_pipeline_with_an_earlier_run() {
    let (project, first, _) = edited();
    let point = "ad@lr=0.001,latent_dim=4";
    let epochs = json!([{ "name": "epochs", "a": "2", "b": "3" }]);
    let changed = |found: &Value| -> Vec<String> {
        let pairs = found["changed"].as_array().expect("pairs").iter();
        pairs.map(|pair| format!("{} {}", text(&pair["a"]), pair["parameters"] == epochs)).collect()
    };
    let same = ["ad@lr=0.001,latent_dim=4 true", "ad@lr=0.001,latent_dim=6 true"];
    // The parameters can be compared before the edited pipeline runs, the metrics after that.
    let planned = parsed(&project.vadpipe(["diff", "p.toml", "ad", "--run", &first, "--json"]));
    assert_eq!(
        (changed(&planned), &planned["changed"][0]["same_output"]),
        (same.map(str::to_owned).to_vec(), &Value::Null)
    );
    project.run(&["ad"]);
    let found = parsed(&project.vadpipe(["diff", "p.toml", "ad", "--run", &first, "--json"]));
    assert_eq!(
        (changed(&found), &found["changed"][0]["same_output"]),
        (same.map(str::to_owned).to_vec(), &json!(false))
    );
    assert_eq!(found["only_a"], json!(["ad@lr=0.01,latent_dim=4", "ad@lr=0.01,latent_dim=6"]));
    assert_eq!(found["only_b"], json!(["ad@lr=0.02,latent_dim=4", "ad@lr=0.02,latent_dim=6"]));
    let before = parsed(&project.vadpipe(["diff", "p.toml", point, "--before", "--json"]));
    assert_eq!((changed(&before), &before["only_b"]), (vec![same[0].to_owned()], &json!([])));
    let output = project.vadpipe(["diff", "p.toml", point, "--before"]).stdout;
    assert!(output.contains("before ↔ newest") && output.contains("  epochs") && output.contains("loss"), "{output}");
    let data = parsed(&project.vadpipe(["diff", "p.toml", "data", "--run", &first, "--json"]));
    assert_eq!((&data["same"], &data["changed"]), (&json!(["data"]), &json!([])));
}

#[test]
fn wrong_choice_of_an_earlier_run_is_explained() {
    let (project, first, _) = edited();
    project.write("q.toml", &MINI.replace("name = \"mini\"", "name = \"other\""));
    assert_eq!(project.vadpipe(["run", "q.toml", "data", "-q"]).code, 0);
    let error = |args: &[&str]| {
        let output = project.vadpipe(args);
        assert_eq!((output.code, output.stdout.as_str()), (2, ""), "{args:?}");
        output.stderr
    };
    let other = error(&["show", "q.toml", "--run", &first]);
    assert!(other.contains(&format!("run {first} is a run of the pipeline `sweep`, not of `other`")), "{other}");
    // `last` is the last run of the pipeline, not of the cache.
    assert_eq!(project.vadpipe(["show", "p.toml", "ad", "--run", "last"]).code, 0);
    assert!(error(&["metrics", "p.toml", "--run", "nothing"]).contains("there is no run `nothing`"));
    assert!(error(&["metrics", "p.toml", "--run", "last~7"]).contains("there is no run `last~7`"));
    let target = error(&["show", "p.toml", "report", "--run", &first]);
    assert!(target.contains(&format!("no stage and no point matches `report` in run {first}")), "{target}");
    assert!(error(&["show", "p.toml", "--run", "last", "--before"]).contains("cannot be used with"));
}

#[test]
fn plan_of_an_interrupted_training_shows_its_epochs_and_the_time_left() {
    let project = Project::new(MINI);
    // The time per epoch is known from another training.
    project.run(&["ad"]);
    let more = ["ad", "-S", "params.epochs=100000", "-S", "pipeline.seed=8"];
    let mut child = project.start(&[&["run", "p.toml", "--json"], &more[..]].concat());
    let lines = BufReader::new(child.stdout.take().expect("a pipe")).lines().map_while(Result::ok);
    let saved = lines.filter(|line| line.contains("\"state-saved\"")).take(2).count();
    child.kill().expect("killed");
    child.wait().expect("it ends");
    assert_eq!(saved, 2);
    for command in ["plan", "status", "explain"] {
        let output = project.vadpipe([command, "p.toml"].iter().chain(&more)).stdout;
        assert!(output.contains(" of 100000 epochs") && !output.contains("never run"), "{command}: {output}");
    }
    let plan = project.vadpipe(["plan", "p.toml"].iter().chain(&more)).stdout;
    let line = plan.lines().find(|line| line.starts_with("miss ")).expect("the training");
    assert!(line.contains(" epochs cached  about ") && line.ends_with(" left"), "{line}");
    // Without a cached epoch it never ran.
    let other = project.vadpipe(["plan", "p.toml", "vad"]).stdout;
    assert!(other.contains("never run") && !other.contains(" left"), "{other}");
}
