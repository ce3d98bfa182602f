//! What runs again, and what does not.

use serde_json::json;

use crate::support::{Desk, MINI, text};

const ALL: [&str; 7] = [
    "data",
    "ad",
    "vad@distribution=gaussian",
    "vad@distribution=uniform",
    "fit@distribution=gaussian",
    "fit@distribution=uniform",
    "report",
];

#[test]
fn the_first_run_makes_everything_and_the_second_nothing() {
    let desk = Desk::new(MINI);
    let mut first = desk.run(&[]).executed();
    first.sort();
    let mut all = ALL.map(str::to_owned).to_vec();
    all.sort();
    assert_eq!(first, all);
    let second = desk.run(&[]);
    assert_eq!(second.executed(), [""; 0]);
    assert_eq!(second.cached().len(), ALL.len());
    assert_eq!(second.of_kind("stage-cached").count(), ALL.len(), "each is told once");
    assert!(desk.read("reports/mini.report.html").contains("<html"));
}

#[test]
fn editing_one_point_reruns_it_and_what_hangs_on_it_alone() {
    let desk = Desk::new(MINI);
    desk.run(&[]);
    desk.edit("kl_weight = 0.5", "kl_weight = 0.25");
    let plan = desk.plan(&[]);
    let vad = &plan["vad@distribution=gaussian"];
    assert_eq!(vad["state"], "miss");
    assert_eq!(vad["reason"]["code"], "parameter");
    assert_eq!(vad["reason"]["text"], "kl_weight 0.5 → 0.25");
    assert_eq!(plan["fit@distribution=gaussian"]["state"], "maybe");
    assert_eq!(plan["fit@distribution=uniform"]["state"], "hit");
    let again = desk.run(&[]);
    assert_eq!(again.executed(), ["vad@distribution=gaussian", "fit@distribution=gaussian", "report"]);
    assert_eq!(again.cached().len(), 4);
}

#[test]
fn going_back_to_old_values_finds_the_old_results() {
    let desk = Desk::new(MINI);
    desk.run(&[]);
    let before = desk.digests();
    desk.run(&["-S", "stages.vad.at.\"distribution=gaussian\".kl_weight=0.25"]);
    let back = desk.run(&[]);
    assert_eq!(back.executed(), [""; 0]);
    assert_eq!(desk.digests(), before);
}

#[test]
fn reformatting_reruns_nothing() {
    let desk = Desk::new(MINI);
    desk.run(&[]);
    // Another order of stages and fields, comments, white space, other spellings of the same numbers.
    let (head, stages) = MINI.split_once("[stages.data]").expect("a stage");
    let (data, rest) = stages.split_once("[stages.ad]").expect("a stage");
    let rest =
        rest.replace("kl_weight = 0.5", "kl_weight = 5e-1 # half").replace("latent_dim = 6", "latent_dim    =   0b110");
    let text = format!("# a comment\n{head}\n\n[stages.ad]{rest}\n[stages.data] # the data\n{data}");
    desk.write("p.toml", &text.replace("train = 40\ntest = 20", "test = 2_0\ntrain = 4_0"));
    assert_eq!(desk.run(&[]).executed(), [""; 0]);
}

/// `sorted` reads a script; `counted` reads what it makes.
const SCRIPTS: &str = r#"
[pipeline]
name = "scripts"

[stages.sorted]
kind = "command"
argv = ["sh", "sort.sh", "{outputs.lines}"]
outputs = { lines = "lines.txt" }

[stages.counted]
kind = "command"
inputs = { lines = "sorted" }
argv = ["sh", "-c", "wc -l < \"$1/lines.txt\" > \"$2\"", "count", "{inputs.lines}", "{outputs.count}"]
outputs = { count = "count.txt" }
"#;

#[test]
fn an_input_that_came_out_the_same_stops_the_wave() {
    let desk = Desk::new(SCRIPTS);
    desk.write("sort.sh", "printf 'b\\na\\n' | sort > \"$1\"\n");
    assert_eq!(desk.run(&[]).executed(), ["sorted", "counted"]);
    desk.write("sort.sh", "# tidied up\nprintf 'a\\nb\\n' > \"$1\"\n");
    let plan = desk.plan(&[]);
    assert_eq!(plan["sorted"]["reason"]["code"], "file");
    assert_eq!(plan["counted"]["state"], "maybe");
    let again = desk.run(&[]);
    assert_eq!((again.executed(), again.cached()), (vec!["sorted".into()], vec!["counted".into()]));
    desk.write("sort.sh", "printf 'a\\nb\\nc\\n' > \"$1\"\n");
    assert_eq!(desk.run(&[]).executed(), ["sorted", "counted"]);
}

#[test]
fn targets_run_what_they_need_and_no_more() {
    let desk = Desk::new(MINI);
    assert_eq!(
        desk.run(&["fit@distribution=uniform"]).executed(),
        ["data", "vad@distribution=uniform", "fit@distribution=uniform"]
    );
    assert_eq!(desk.run(&["fit@*"]).executed(), ["vad@distribution=gaussian", "fit@distribution=gaussian"]);
}

#[test]
fn force_and_rerun_make_results_again_with_the_same_bytes() {
    let desk = Desk::new(MINI);
    desk.run(&["ad"]);
    let before = desk.plan(&["ad"])["ad"]["key"].clone();
    let forced = desk.run(&["ad", "-f"]);
    assert_eq!((forced.executed(), forced.cached()), (vec!["ad".into()], vec!["data".into()]));
    assert_eq!(forced.of_kind("resumed").count(), 0, "a forced training starts at the beginning");
    let rerun = desk.run(&["ad", "-R", "data"]);
    assert_eq!((rerun.executed(), rerun.cached()), (vec!["data".into()], vec!["ad".into()]));
    assert_eq!(desk.plan(&["ad"])["ad"]["key"], before);
}

#[test]
fn a_dry_run_says_what_the_run_then_does() {
    let desk = Desk::new(MINI);
    desk.run(&["ad"]);
    desk.edit(
        "latent_dim = 6\nchannels = [16, 12, 8, 8]\n\n[stages.vad]",
        "latent_dim = 5\nchannels = [16, 12, 8, 8]\n\n[stages.vad]",
    );
    let dry = desk.vadpipe(["run", "p.toml", "-n", "--json"]);
    let plan = desk.vadpipe(["plan", "p.toml", "--json"]);
    assert_eq!(dry.out, plan.out);
    let planned: Vec<_> = desk.plan(&[]).into_iter().filter(|(_, s)| s["state"] != "hit").map(|(n, _)| n).collect();
    let mut executed = desk.run(&[]).executed();
    executed.sort();
    assert_eq!(executed, planned);
}

#[test]
fn plan_check_tells_a_script_whether_anything_would_run() {
    let desk = Desk::new(MINI);
    assert_eq!(desk.vadpipe(["plan", "p.toml", "data", "--check"]).code, 10);
    desk.run(&["data"]);
    assert_eq!(desk.vadpipe(["plan", "p.toml", "data", "--check"]).code, 0);
}

#[test]
fn the_cache_is_shared_by_content_between_pipelines() {
    let desk = Desk::new(MINI);
    desk.run(&["ad"]);
    desk.write(
        "other.toml",
        &MINI
            .replace("name = \"mini\"", "name = \"other\"")
            .replace("stages.ad", "stages.renamed")
            .replace("\"ad\"", "\"renamed\""),
    );
    let said = desk.vadpipe(["plan", "other.toml", "renamed", "--json"]);
    let plan: serde_json::Value = serde_json::from_str(&said.out).expect("JSON");
    assert!(plan["stages"].as_array().expect("stages").iter().all(|s| s["state"] == "hit"), "{plan}");
}

#[test]
fn a_point_of_a_sweep_is_a_plain_stage_elsewhere() {
    let desk = Desk::new(MINI);
    desk.run(&["vad@distribution=uniform"]);
    let swept = desk.outputs(&["vad@distribution=uniform"]);
    let plain = MINI
        .replace("matrix = { distribution = [\"gaussian\", \"uniform\"] }\n", "")
        .replace("\"${matrix.distribution}\"", "\"uniform\"")
        .replace("[stages.vad.at.\"distribution=gaussian\"]\nkl_weight = 0.5\n", "")
        .replace("\"vad@*\", \"fit@*\"", "\"vad\", \"fit\"");
    desk.write("p.toml", &plain.replace("name = \"mini\"", "name = \"plain\""));
    assert_eq!(desk.run(&["vad"]).executed(), [""; 0]);
    assert_eq!(desk.outputs(&["vad"]).into_values().collect::<Vec<_>>(), swept.into_values().collect::<Vec<_>>());
    let longer = desk.run(&["vad", "-S", "params.epochs=5"]);
    assert_eq!(longer.of_kind("epoch").count(), 2, "the other pipeline's epochs count");
}

#[test]
fn small_trainings_run_side_by_side_and_a_large_one_alone() {
    let sweep =
        MINI.replace("epochs = 3", "epochs = 200").replace("checkpoint_seconds = 0", "checkpoint_seconds = 1000");
    // Where the second begins, and where the first comes to its last epoch.
    let order = |pipeline: &str| {
        let ran = Desk::new(pipeline).run(&["vad", "--threads", "2", "-j", "2"]);
        let vads = |event: &str, stage: &str| {
            let wanted = |e: &serde_json::Value| {
                e["event"] == event && e["stage"].as_str().is_some_and(|name| name.starts_with(stage))
            };
            ran.events.iter().enumerate().filter(|(_, e)| wanted(e)).map(|(at, _)| at).collect::<Vec<_>>()
        };
        let started = vads("stage-started", "vad");
        let first = text(&ran.events[started[0]]["stage"]);
        (started[1], *vads("epoch", &first).last().expect("an epoch"))
    };
    let (second, end) = order(&sweep);
    assert!(second < end, "both run: {second} {end}");
    // 2²⁸ multiply-adds a step are where two threads pay.
    let large = sweep.replace("[16, 12, 8, 8]", "[512, 512, 64, 8]").replace("epochs = 200", "epochs = 1");
    let large = large.replace("train = 40", "train = 64").replace("latent_dim", "batch = 64\nlatent_dim");
    let (second, end) = order(&large);
    assert!(second > end, "one after the other: {second} {end}");
}

#[test]
fn no_input_may_be_anything_but_content() {
    // The same pipeline in another folder, at another time, with another cache: the same keys and bytes.
    let (a, b) = (Desk::new(MINI), Desk::new(MINI));
    a.run(&["ad", "vad"]);
    b.run(&["ad", "vad", "-j", "1", "--threads", "1"]);
    let keys =
        |desk: &Desk| desk.plan(&["ad", "vad"]).into_iter().map(|(n, s)| (n, text(&s["key"]))).collect::<Vec<_>>();
    assert_eq!(keys(&a), keys(&b));
}

#[test]
fn one_and_two_threads_give_the_same_bytes() {
    let (one, two) = (Desk::new(MINI), Desk::new(MINI));
    one.run(&["--threads", "1", "-j", "1"]);
    two.run(&["--threads", "2"]);
    assert_eq!(one.digests(), two.digests());
}

#[test]
fn metrics_hold_figures_and_nothing_else() {
    let desk = Desk::new(MINI);
    desk.edit("epochs = 3", "epochs = 12");
    desk.run(&["ad"]);
    let said = desk.vadpipe(["metrics", "p.toml", "ad", "data", "--json"]);
    let metrics: serde_json::Value = serde_json::from_str(&said.out).expect("JSON");
    assert_eq!(metrics["data"], json!({ "classes": 10.0, "test": 20.0, "train": 40.0 }));
    let (first, last) = (metrics["ad"]["loss_first"].as_f64(), metrics["ad"]["loss"].as_f64());
    assert!(last < first, "{metrics}");
}

#[test]
fn two_stages_with_one_key_run_once() {
    let desk = Desk::new(
        "[pipeline]\nname = \"p\"\n[stages.a]\nkind = \"load-data\"\nsource = \"synthetic\"\n\
         [stages.b]\nkind = \"load-data\"\nsource = \"synthetic\"\n",
    );
    let ran = desk.run(&["-j", "2", "--no-wait"]);
    assert_eq!((ran.executed(), ran.cached()), (vec!["a".into()], vec!["b".into()]));
}
