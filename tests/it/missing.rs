//! Lists with `missing = "skip"`: they gather the points that have a result, although others failed.

use serde_json::{Value, json};

use crate::support::{Project, Run, json as parsed, text};

/// `net` fails for the rates in the file `bad`; `fit` reads `net`; `table` and `report` gather what there is.
const PIPELINE: &str = r#"
[pipeline]
name = "p"

[stages.net]
kind = "command"
matrix = { lr = [1, 2, 3] }
argv = ["sh", "net.sh", "${matrix.lr}", "{outputs.net}"]
outputs = { net = "net.txt" }

[stages.fit]
kind = "command"
inputs = { net = "net" }
argv = ["sh", "-c", "cat $0/net.txt > $1", "{inputs.net}", "{outputs.fit}"]
outputs = { fit = "fit.txt" }

[stages.table]
kind = "command"
inputs = { fits = { from = ["fit@*"], missing = "skip" } }
argv = ["sh", "-c", "cat $0/*/fit.txt > $1", "{inputs.fits}", "{outputs.table}"]
outputs = { table = "table.txt" }

[stages.report]
kind = "report"
inputs = { shown = { from = ["fit@*", "table"], missing = "skip" } }
"#;

/// The rates in `bad` fail.
fn project(bad: &str) -> Project {
    let project = Project::new(PIPELINE);
    project.write("net.sh", &script(bad));
    project
}

fn script(bad: &str) -> String {
    format!("case $1 in [{bad}]) echo diverged; exit 1;; esac\necho net $1 > \"$2\"\n")
}

fn table(project: &Project) -> String {
    let output = project.vadpipe(["export", "p.toml", "table", "--to", "out", "--overwrite"]);
    assert_eq!(output.code, 0, "{}", output.stderr);
    project.read("out/table/table.txt")
}

fn missing(run: &Run) -> Vec<(String, Value)> {
    run.of_kind("inputs-missing").map(|event| (text(&event["stage"]), event["missing"].clone())).collect()
}

#[test]
fn list_gathers_the_points_that_succeeded_until_the_others_are_repaired() {
    let project = project("2");
    let run = project.try_run(&["-k"]);
    assert_eq!(run.output.code, 1, "{}", run.output.stderr);
    assert_eq!((run.failed(), run.skipped()), (vec!["net@lr=2".to_owned()], vec!["fit@lr=2".to_owned()]));
    let without = json!(["fit@lr=2"]);
    assert_eq!(missing(&run), [("table".to_owned(), without.clone()), ("report".to_owned(), without)]);
    assert_eq!(table(&project), "net 1\nnet 3\n");

    let again = project.try_run(&["-k"]);
    assert_eq!((again.executed(), again.failed()), (vec![], vec!["net@lr=2".to_owned()]), "a failure is tried again");
    assert_eq!(missing(&again).len(), 2, "a cached result is partial, too");

    project.write("net.sh", &script("9"));
    let repaired = project.run(&["-k"]);
    assert!(repaired.executed().contains(&"table".to_owned()));
    let started = repaired.of_kind("stage-started").find(|event| event["stage"] == "table").expect("it started");
    assert_eq!(started["reason"]["text"], "input fits changed (fit@lr=2)");
    assert_eq!((missing(&repaired).len(), table(&project)), (0, "net 1\nnet 2\nnet 3\n".to_owned()));

    project.write("net.sh", &script("2"));
    let undone = project.try_run(&["-k"]);
    assert_eq!(undone.executed(), [""; 0], "the results without the failed point are still there");
    assert_eq!(undone.cached(), ["net@lr=1", "net@lr=3", "fit@lr=1", "fit@lr=3", "table", "report"]);
    assert_eq!(table(&project), "net 1\nnet 3\n");
}

#[test]
fn plan_status_and_explain_name_the_missing_points_and_the_run_in_which_they_failed() {
    let project = project("2");
    let failed = text(&project.try_run(&["-k"]).last()["run"]);
    let plan = project.plan(&[]);
    assert_eq!(plan["table"]["state"], "maybe");
    assert_eq!(plan["table"]["reason"]["causes"], json!([{ "code": "missing", "stages": ["fit@lr=2"] }]));
    assert_eq!(plan["net@lr=2"]["failed_in"], failed.as_str());
    let shown = |args: &[&str]| project.vadpipe(args).stdout.replace(&failed, "RUN");
    let plan = shown(&["plan", "p.toml"]);
    let without_keys = |line: &str| match line.starts_with("hit") {
        true => line.rsplit_once(' ').map_or(line, |(line, _)| line).trim_end().to_owned(),
        false => line.to_owned(),
    };
    insta::assert_snapshot!(plan.lines().map(without_keys).collect::<Vec<_>>().join("\n"), @r"
    hit   net@lr=1
    miss  net@lr=2  failed in run RUN
    hit   net@lr=3
    hit   fit@lr=1
    maybe fit@lr=2  never run; after net@lr=2
    hit   fit@lr=3
    maybe table     cached without fit@lr=2
    maybe report    cached without fit@lr=2
    ");
    assert!(shown(&["status", "p.toml"]).contains("  table: cached without fit@lr=2\n"));
    let explained = shown(&["explain", "p.toml", "table", "net@lr=2"]);
    assert!(explained.contains("  because     cached without fit@lr=2\n"), "{explained}");
    assert!(explained.contains("  input       fits from fit@lr=2, left out of the cached result\n"), "{explained}");
    assert!(explained.contains("  because     failed in run RUN\n"), "{explained}");
    assert!(!explained.contains("never run"), "{explained}");
}

#[test]
fn results_without_missing_points_are_shown_exported_and_verified_with_a_note() {
    let project = project("13");
    assert_eq!(project.try_run(&["-k"]).output.code, 1);
    let shown = project.vadpipe(["show", "p.toml", "table", "--json"]);
    assert_eq!(parsed(&shown)["table"]["components"]["inputs"]["fits"].as_object().map(|m| m.len()), Some(1));
    assert!(shown.stderr.contains("table was made without fit@lr=1, fit@lr=3"), "{}", shown.stderr);
    let verified = project.vadpipe(["verify", "p.toml", "table", "report"]);
    assert_eq!(verified.code, 0, "{}", verified.stderr);
    let page = project.read("reports/p.report.html");
    let notice = "Not in this report:</strong> fit@lr=1 <span class=\"state skipped\">skipped</span>, \
                  fit@lr=3 <span class=\"state skipped\">skipped</span></p>";
    assert!(page.contains(notice));
}

#[test]
fn stage_whose_whole_list_is_missing_is_skipped() {
    let project = project("123");
    project.edit("from = [\"fit@*\", \"table\"]", "from = [\"fit@*\"]");
    let run = project.try_run(&["-k"]);
    assert_eq!(run.output.code, 1);
    assert_eq!(run.skipped(), ["fit@lr=1", "fit@lr=2", "fit@lr=3", "table", "report"]);
    let because = run.of_kind("stage-skipped").find(|event| event["stage"] == "table").expect("it is skipped");
    assert_eq!(because["because"], "net@lr=1");
}

#[test]
fn without_keep_going_nothing_is_gathered_after_a_failure() {
    let project = project("2");
    let run = project.try_run(&["-j", "1"]);
    assert_eq!((run.output.code, run.executed()), (1, vec!["net@lr=1".to_owned()]));
    assert!(run.skipped().contains(&"table".to_owned()));
    assert!(run.of_kind("stage-skipped").all(|event| event["stage"] != "table"), "it does not need the failed point");
    assert!(
        run.output.stderr.contains("with `-k`, lists with `missing = \"skip\"` leave out"),
        "{}",
        run.output.stderr
    );
}

#[test]
fn list_without_the_option_needs_all_its_points() {
    let project = project("2");
    let plain = project.plan(&[])["report"].clone();
    project.edit("{ from = [\"fit@*\", \"table\"], missing = \"skip\" }", "[\"fit@*\", \"table\"]");
    assert_eq!(project.plan(&[])["report"]["inputs"], plain["inputs"]);
    let run = project.try_run(&["-k"]);
    assert_eq!(run.skipped(), ["fit@lr=2", "report"]);
    assert!(run.executed().contains(&"table".to_owned()));
}
