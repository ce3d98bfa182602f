//! Commands that show pipelines, results and runs: `metrics`, `log`, `graph`, `explain`, `status`, `plan`, `diff`.

use std::io::Write as _;
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::support::{MINI, Project, json, text};

/// A sweep of four short trainings.
pub(crate) const SWEEP: &str = r#"
[pipeline]
name = "sweep"
seed = 7
checkpoint_seconds = 1000

[params]
epochs = 2

[matrix]
lr = [1e-3, 1e-2]
latent_dim = [4, 6]

[stages.data]
kind = "load-data"
source = "synthetic"
train = 24
test = 12

[stages.ad]
kind = "train-ad"
inputs = { data = "data" }
epochs = "${params.epochs}"
lr = "${matrix.lr}"
latent_dim = "${matrix.latent_dim}"
channels = [8, 8, 8, 8]

[stages.report]
kind = "report"
inputs = { shown = ["ad@*"] }
"#;

/// A stage that fails and its input.
const FAILING: &str = r#"
[pipeline]
name = "failing"

[stages.fine]
kind = "command"
argv = ["cp", "/dev/null", "{outputs.nothing}"]
outputs = { nothing = "nothing" }

[stages.bad]
kind = "command"
inputs = { fine = "fine" }
argv = ["false"]
outputs = { never = "never" }
"#;

/// Runs a program with this standard input. Returns whether it succeeded, its standard output and its standard error.
/// `None` if it can't be started.
pub(crate) fn pipe(program: &str, args: &[&str], input: &str) -> Option<(bool, String, String)> {
    let mut child = Command::new(program)
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .ok()?;
    child.stdin.take().expect("a pipe").write_all(input.as_bytes()).expect("it reads");
    let output = child.wait_with_output().expect("it ends");
    let [out, err] = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    Some((output.status.success(), out, err))
}

#[test]
fn metrics_of_a_sweep_can_be_sorted_and_filtered() {
    let project = Project::new(SWEEP);
    project.run(&["ad"]);
    let csv = |more: &[&str]| {
        let output = project.vadpipe(["metrics", "p.toml", "--csv"].iter().chain(more));
        assert_eq!(output.code, 0, "{}", output.stderr);
        output.stdout.lines().map(str::to_owned).collect::<Vec<_>>()
    };
    let all = csv(&["ad"]);
    let header: Vec<&str> = all[0].split(',').collect();
    assert_eq!(header[..3], ["stage", "lr", "latent_dim"]);
    let loss = header.iter().position(|name| *name == "loss").expect("a loss");
    let axes = |lines: &[String]| -> Vec<String> {
        lines[1..].iter().map(|l| l.split(',').take(3).collect::<Vec<_>>().join(" ")).collect()
    };
    assert_eq!(axes(&all), ["ad 0.001 4", "ad 0.001 6", "ad 0.01 4", "ad 0.01 6"]);
    let losses = |lines: &[String]| -> Vec<f64> {
        lines[1..].iter().map(|l| l.split(',').nth(loss).expect("a loss").parse().expect("a number")).collect()
    };
    let mut sorted = losses(&all);
    sorted.sort_by(f64::total_cmp);
    assert_eq!(losses(&csv(&["ad", "--sort", "loss"])), sorted);
    sorted.reverse();
    assert_eq!(losses(&csv(&["ad", "--sort", "-loss"])), sorted);
    // Points without a loss are last in both orders, and CSV has all digits.
    assert!(csv(&["--sort", "-loss"]).last().expect("a line").starts_with("data,"));
    let json = json(&project.vadpipe(["metrics", "p.toml", "ad", "--json", "--sort", "loss"]));
    assert_eq!(json.as_object().expect("points").len(), 4);
    assert!(json.as_object().expect("points").values().any(|p| p["loss"].as_f64() == Some(sorted[0])));
    assert_eq!(axes(&csv(&["ad", "--where", "lr<0.005 && latent_dim=6"])), ["ad 0.001 6"]);
    assert_eq!(axes(&csv(&["--where", "lr=1e-2", "--where", "latent_dim!=6"])), ["ad 0.01 4"]);
    let bound = format!("loss<{}", sorted[1]);
    assert_eq!(losses(&csv(&["--where", &bound, "--sort", "loss"])).len(), 2, "{bound}");
    let markdown = project.vadpipe(["metrics", "p.toml", "ad", "--md", "--where", "lr=0.01"]).stdout;
    let lines: Vec<&str> = markdown.lines().collect();
    assert_eq!(lines[0], format!("| {} |", header.join(" | ")));
    assert_eq!(lines[1], format!("| ---{} |", " | ---:".repeat(header.len() - 1)));
    assert!(lines.len() == 4 && lines[2].starts_with("| ad | 0.01 | 4 | "), "{markdown}");
}

#[test]
fn invalid_metrics_filter_or_sort_is_explained() {
    let project = Project::new(SWEEP);
    project.run(&["data"]);
    let wrong = |args: &[&str]| {
        let output = project.vadpipe(["metrics", "p.toml"].iter().chain(args));
        assert_eq!(output.code, 2, "{}", output.stderr);
        output.stderr
    };
    let output = wrong(&["--where", "tran<3"]);
    assert!(
        output.contains("there is no axis or metric `tran`") && output.contains("did you mean `train`?"),
        "{output}"
    );
    assert!(wrong(&["--sort", "-tran"]).contains("did you mean `train`?"));
    assert!(wrong(&["--where", "train"]).contains("it has no comparison operator"));
    let empty = wrong(&["--where", "loss<1", "--cache", "empty"]);
    assert!(empty.contains("no cached result has a metric"), "{empty}");
}

#[test]
fn axis_and_metric_of_the_same_name_are_two_columns() {
    let pipeline = r#"
[pipeline]
name = "both"

[matrix]
kl = [1, 2, 3]
shape = ["round", "square"]

[stages.m]
kind = "command"
shell = true
argv = ["echo '{\"kl\": '$((10 - ${matrix.kl}))'}' > {metrics}; echo ${matrix.shape} > {outputs.out}"]
outputs = { out = "out" }
"#;
    let project = Project::new(pipeline);
    project.run(&[]);
    let csv = |more: &[&str]| {
        let output = project.vadpipe(["metrics", "p.toml", "--csv"].iter().chain(more));
        assert_eq!(output.code, 0, "{}", output.stderr);
        output.stdout
    };
    let round = ["--where", "shape=round"];
    let sorted = |by: &str| csv(&[&round[..], &["--sort", by]].concat());
    let up = "stage,kl,shape,metric.kl\nm,1,round,9\nm,2,round,8\nm,3,round,7\n";
    let down = "stage,kl,shape,metric.kl\nm,3,round,7\nm,2,round,8\nm,1,round,9\n";
    assert_eq!((sorted("axis.kl").trim_end(), sorted("metric.kl").trim_end()), (up.trim_end(), down.trim_end()));
    let one = csv(&["--where", "metric.kl>=8 && axis.kl>1", "--where", "axis.shape=round"]);
    assert_eq!(one.trim_end(), "stage,kl,shape,metric.kl\nm,2,round,8");
    for args in [["--sort", "-kl"], ["--where", "kl<3"]] {
        let output = project.vadpipe(["metrics", "p.toml"].iter().chain(&args));
        assert_eq!(output.code, 2, "{}", output.stderr);
        assert!(output.stderr.contains("`kl` is both an axis and a metric"), "{}", output.stderr);
        assert!(output.stderr.contains("write `axis.kl` or `metric.kl`"), "{}", output.stderr);
    }
    let output = project.vadpipe(["metrics", "p.toml", "--where", "shape<3"]);
    assert!(output.code == 2 && output.stderr.contains("`shape` is a string"), "{}", output.stderr);
}

#[test]
fn pending_stages_of_a_killed_run_are_not_listed_as_cached() {
    let project = Project::new(MINI);
    project.run(&["data"]);
    let mut child = project.start(&["run", "p.toml", "ad", "--json", "-S", "params.epochs=1000000"]);
    let out = std::io::BufReader::new(child.stdout.take().expect("a pipe"));
    let trains = std::io::BufRead::lines(out).map_while(Result::ok).any(|line| line.contains("\"stage-started\""));
    child.kill().expect("killed");
    child.wait().expect("it ends");
    assert!(trains, "the training started");
    let listed = json(&project.vadpipe(["log", "--run", "last", "--json"]));
    let outcomes: Vec<&Value> =
        listed["stages"].as_array().expect("stages").iter().map(|s| &s["stage"]["outcome"]).collect();
    assert_eq!(outcomes, ["pending", "pending"]);
    let cached = json(&project.vadpipe(["log", "--status", "cached", "--json"]));
    assert_eq!(cached["stages"], serde_json::json!([]), "{listed}");
}

#[test]
fn log_shows_failures_with_their_causes() {
    let project = Project::new(FAILING);
    assert_eq!(project.vadpipe(["run", "p.toml"]).code, 1);
    assert_eq!(project.vadpipe(["run", "p.toml"]).code, 1);
    let last = project.vadpipe(["log", "last"]).stdout;
    assert!(last.contains("FAILED bad: ") && last.contains("exit"), "{last}");
    assert!(last.contains("bad.log"), "{last}");
    let object = json(&project.vadpipe(["log", "last", "--json"]));
    assert!(text(&object["failures"]["bad"]["error"]).contains("exit"), "{object}");
    let stages = |more: &[&str]| {
        let listed = json(&project.vadpipe(["log", "--json"].iter().chain(more)));
        let stages = listed["stages"].as_array().expect("stages").iter();
        stages.map(|s| format!("{} {}", text(&s["stage"]["name"]), text(&s["stage"]["outcome"]))).collect::<Vec<_>>()
    };
    assert_eq!(stages(&["--status", "failed"]), ["bad failed", "bad failed"]);
    assert_eq!(stages(&["--stage", "f*"]), ["fine executed", "fine cached"]);
    assert_eq!(stages(&["--status", "executed"]), ["fine executed"]);
    assert_eq!(stages(&["--run", "last"]), ["fine cached", "bad failed"]);
    assert_eq!(stages(&["--status", "failed", "--limit", "1"]), ["bad failed"]);
    // The limit counts the runs of which a stage is listed.
    assert_eq!(stages(&["--stage", "*", "--limit", "1"]), ["fine cached", "bad failed"]);
    assert_eq!(stages(&["--status", "executed", "--limit", "1"]), ["fine executed"]);
    assert_eq!(stages(&["--stage", "*", "--limit", "0"]), [""; 0]);
    let output = project.vadpipe(["log", "--run", "nothing"]);
    assert!(output.code == 2 && output.stderr.contains("there is no run `nothing`"), "{}", output.stderr);
    assert!(output.stderr.contains("`vadpipe log` lists the runs"), "{}", output.stderr);
    let output = project.vadpipe(["log", "--run", "last", "--cache", "empty"]);
    assert!(output.code == 2 && output.stderr.contains("there is no run yet"), "{}", output.stderr);
    assert_eq!(stages(&["--status", "failed", "--since", "2d"]).len(), 2);
    assert_eq!(stages(&["--status", "failed", "--since", "2999-01-01"]), [""; 0]);
    let runs = |more: &[&str]| {
        let listed = json(&project.vadpipe(["log", "--json"].iter().chain(more)));
        listed["runs"].as_array().expect("runs").len()
    };
    assert_eq!((runs(&[]), runs(&["--limit", "1"]), runs(&["--status", "ok"]), runs(&["--since", "1h"])), (2, 1, 0, 2));
    let output = project.vadpipe(["log", "--since", "yesterday"]);
    assert!(output.code == 2 && output.stderr.contains("write `2d`"), "{}", output.stderr);
    assert_eq!(project.vadpipe(["log", "--stage", "a{"]).code, 2);
}

#[test]
fn graphviz_reads_the_dot_output() {
    let project = Project::new(SWEEP);
    let output = project.vadpipe(["graph", "p.toml", "--dot"]);
    assert_eq!(output.code, 0, "{}", output.stderr);
    let Some((succeeded, plain, errors)) = pipe("dot", &["-Tplain"], &output.stdout) else {
        eprintln!("graphviz is not installed: the output of `graph --dot` was not checked");
        return;
    };
    assert!(succeeded && errors.is_empty(), "{errors}");
    assert_eq!(plain.lines().filter(|l| l.starts_with("node ")).count(), 6, "{plain}");
    assert_eq!(plain.lines().filter(|l| l.starts_with("edge ")).count(), 8, "{plain}");
    assert!(plain.contains("ad@lr=0.001,latent_dim=4\\ntrain-ad"), "{plain}");
}

#[test]
fn mermaid_output_escapes_names() {
    let project = Project::new(SWEEP);
    let output = project.vadpipe(["graph", "p.toml", "ad@lr=0.001,latent_dim=4", "--mermaid"]);
    insta::assert_snapshot!(output.stdout, @r#"
    flowchart LR
      n0["data<br/>load-data"]
      n1["ad@lr=0.001,latent#95;dim=4<br/>train-ad"]
      n0 --> n1
    "#);
}

#[test]
fn explain_shows_all_components_changes_and_the_nearest_state() {
    let project = Project::new(MINI);
    let run = project.run(&["ad"]);
    let run = text(&run.last()["run"]);
    let output = project.vadpipe(["explain", "p.toml", "ad", "-S", "params.epochs=5", "-S", "pipeline.seed=7"]).stdout;
    for part in [
        "ad: miss\n",
        "because     epochs 3 → 5\n",
        &format!("by run {run}"),
        &format!("cached      3 of 5 epochs, from the state of mini/ad (run {run})"),
        "kind        train-ad, version ",
        "parameter   latent_dim = 6\n",
        "epochs      5 with batch = 16, ",
        "seed        7\n",
        "precision   f32\n",
        "input       data from data = ",
    ] {
        assert!(output.contains(part), "{part} is not in:\n{output}");
    }
    let object = json(&project.vadpipe(["explain", "p.toml", "ad", "-S", "params.epochs=5", "--json"]));
    let ad = &object["stages"][0];
    assert_eq!(ad["nearest_state"]["epoch"], 3);
    assert_eq!(ad["nearest_state"]["of"], serde_json::json!({ "pipeline": "mini", "point": "ad", "run": run }));
    assert_eq!(text(&ad["newest"]["run"]), run);
    // The learning rate differs from the start, so no state can be continued.
    let other = project.vadpipe(["explain", "p.toml", "ad", "-S", "stages.ad.lr=0.5"]).stdout;
    assert!(other.contains("cached      none of 3 epochs\n"), "{other}");
    // The key of a point below a point that will run is unknown. Everything else is known.
    let below = project.vadpipe(["explain", "p.toml", "fit@distribution=uniform"]).stdout;
    assert!(
        below.contains("key         not known") && below.contains("vad@distribution=uniform, not known"),
        "{below}"
    );
    let hit = project.vadpipe(["explain", "p.toml", "ad"]).stdout;
    assert!(hit.contains("ad: hit") && hit.contains("made        by run") && hit.contains("output "), "{hit}");
}

#[test]
fn status_shows_cached_points_and_the_size_of_training_states() {
    let project = Project::new(&MINI.replacen("latent_dim = 6", "keep_every = 1\nlatent_dim = 6", 1));
    project.run(&["ad"]);
    let status = json(&project.vadpipe(["status", "p.toml", "--json", "-S", "params.epochs=6"]));
    let points = status["stages"].as_array().expect("stages");
    let of = |name: &str| points.iter().find(|p| p["name"] == name).expect("a point");
    assert_eq!(of("data")["state"], "hit");
    assert_eq!(of("data")["epochs"], Value::Null);
    assert_eq!(of("ad")["epochs"], serde_json::json!({ "cached": 3, "total": 6 }));
    assert_eq!(of("ad")["running"], Value::Null);
    assert_eq!(of("vad@distribution=uniform")["epochs"], serde_json::json!({ "cached": 0, "total": 6 }));
    let states = &of("ad")["states"];
    assert_eq!(states["epochs"], serde_json::json!([1, 2, 3]));
    assert_eq!(status["disk"]["states"], 3);
    assert_eq!(status["disk"]["states_bytes"], states["bytes"]);
    assert!(status["disk"]["bytes"].as_u64() > states["bytes"].as_u64());
    let output = project.vadpipe(["status", "p.toml"]).stdout;
    assert!(output.contains(" for 3 states of trainings\n") && output.contains("after epochs 1, 2, 3\n"), "{output}");
}

#[test]
fn gc_frees_the_states_of_a_long_training() {
    let keeping = MINI.replacen("latent_dim = 6", "keep_every = 1\nlatent_dim = 6", 1);
    let project = Project::new(&keeping.replace("channels = [16, 12, 8, 8]", "channels = [128, 64, 32, 16]"));
    project.run(&["ad", "-S", "params.epochs=8"]);
    let disk =
        |more: &[&str]| json(&project.vadpipe(["status", "p.toml", "--json"].iter().chain(more)))["disk"].clone();
    let long = disk(&[]);
    assert_eq!(long["states"], 8);
    // Another training replaces it. Only the last run counts for `gc`.
    project.run(&["ad", "-S", "params.epochs=1", "-S", "pipeline.seed=8"]);
    let planned = json(&project.vadpipe(["gc", "-n", "--keep-runs", "1", "--json"]));
    assert_eq!((&planned["states_removed"], &planned["states_kept"]), (&8.into(), &1.into()));
    let removed = planned["states_bytes_removed"].as_u64().expect("bytes");
    assert!(removed * 10 > long["states_bytes"].as_u64().expect("bytes") * 9, "nearly all: {planned}");
    let output = project.vadpipe(["gc", "-n", "--keep-runs", "1"]).stdout;
    assert!(output.contains("8 states (") && output.contains("MB)"), "{output}");
    let freed = json(&project.vadpipe(["gc", "--keep-runs", "1", "--json"]));
    let short = disk(&[]);
    assert_eq!(short["states"], 1);
    let (before, after) = (long["bytes"].as_u64().expect("bytes"), short["bytes"].as_u64().expect("bytes"));
    let of_states = long["states_bytes"].as_u64().expect("bytes");
    assert!(before - after > of_states / 2, "{before} → {after}, {of_states} of states");
    assert!(freed["freed_bytes"].as_u64() > Some(of_states / 2), "{freed}");
}

#[test]
fn plan_estimates_times_from_earlier_runs() {
    let project = Project::new(SWEEP);
    let before = json(&project.vadpipe(["plan", "p.toml", "--json"]));
    assert_eq!(before["estimate_seconds"], Value::Null, "nothing ran yet");
    project.run(&["ad@lr=0.001,latent_dim=4"]);
    let estimate = |more: &[&str]| json(&project.vadpipe(["plan", "p.toml", "--json"].iter().chain(more)));
    let points = |plan: &Value| -> std::collections::BTreeMap<String, Value> {
        let stages = plan["stages"].as_array().expect("stages").iter();
        stages.map(|s| (text(&s["name"]), s["estimate_seconds"].clone())).collect()
    };
    let ad = "ad@lr=0.001,latent_dim=4";
    let seconds = |epochs: u64, more: &str| {
        let plan = estimate(&[ad, "-S", &format!("params.epochs={epochs}"), "-S", more]);
        let seconds = points(&plan)[ad].as_f64();
        assert_eq!(plan["estimate_seconds"].as_f64(), seconds, "no other stage will run");
        seconds.expect("an estimate")
    };
    // Two epochs are cached, so the number of remaining epochs doubles. Another learning rate changes nothing.
    let (a, b) = (seconds(102, "pipeline.seed=7"), seconds(202, "pipeline.seed=7"));
    assert!((b / a - 2.0).abs() < 1e-9, "{a} {b}");
    let points = points(&estimate(&[]));
    assert!(points["ad@lr=0.01,latent_dim=4"].as_f64().is_some(), "the same shape: {points:?}");
    assert_eq!(points["ad@lr=0.001,latent_dim=6"], Value::Null, "another shape: {points:?}");
    assert_eq!(points["report"], Value::Null);
    let output = project.vadpipe(["plan", "p.toml", ad, "-S", "params.epochs=1000000"]);
    assert!(output.stderr.contains("1 to run; about "), "{}", output.stderr);
    let whole = project.vadpipe(["plan", "p.toml", "-S", "params.epochs=1000000"]);
    assert!(whole.stderr.contains("stages without an estimate"), "{}", whole.stderr);
}

#[test]
fn status_shows_the_process_that_runs_a_point() {
    let project = Project::new(MINI);
    let more = ["-S", "params.epochs=1000000", "-S", "pipeline.checkpoint_seconds=1000"];
    let args: Vec<&str> = ["run", "p.toml", "ad"].iter().chain(&more).copied().collect();
    let mut child = project.start(&args);
    let running = loop {
        let status = json(&project.vadpipe(["status", "p.toml", "ad", "--json"].iter().chain(&more)));
        let stages = status["stages"].as_array().expect("stages");
        let ad = stages.iter().find(|s| s["name"] == "ad").expect("a point").clone();
        if !ad["running"].is_null() {
            break ad["running"].clone();
        }
        assert!(child.try_wait().expect("a child").is_none(), "the run continues");
        std::thread::sleep(std::time::Duration::from_millis(50));
    };
    let output = project.vadpipe(["status", "p.toml", "ad"].iter().chain(&more)).stdout;
    child.kill().expect("killed");
    child.wait().expect("it ends");
    assert_eq!(running["pid"], child.id());
    assert!(text(&running["since"]).ends_with(" UTC"), "{running}");
    assert!(output.contains(&format!("[running: process {} on ", child.id())), "{output}");
}

#[test]
fn diff_compares_both_points_that_share_a_result() {
    let twins = r#"
[pipeline]
name = "twins"

[params]
train = 24

[stages.one]
kind = "load-data"
source = "synthetic"
train = "${params.train}"
test = 12

[stages.two]
kind = "load-data"
source = "synthetic"
train = "${params.train}"
test = 12
"#;
    let project = Project::new(twins);
    project.run(&[]);
    project.run(&["-S", "params.train=30"]);
    let found = json(&project.vadpipe(["diff", "last~1", "last", "--json"]));
    let changed = found["changed"].as_array().expect("pairs");
    assert_eq!(changed.len(), 2, "{found}");
    for pair in changed {
        let train = serde_json::json!([{ "name": "train", "a": "24", "b": "30" }]);
        assert_eq!(pair["parameters"], train, "{pair}");
        assert_eq!(pair["same_output"], false);
    }
}
