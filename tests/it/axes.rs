//! Axes whose values are lists or tables, from the pipeline to the table of metrics.

use serde_json::Value;

use crate::support::{MINI, Project, json};

/// Programs with two axes of which one has tables and one has lists, and a program that gathers them.
const SWEEP: &str = r#"
[pipeline]
name = "p"

[matrix]
model = [{ name = "small", width = 64 }, { name = "wide", width = 256 }]
seed = [1, 2, 3]

[stages.net]
kind = "command"
argv = ["sh", "net.sh", "${matrix.model.width}", "${matrix.seed}", "{metrics}"]
paths = { net = "net.sh" }

[stages.ad]
kind = "train-ad"
inputs = { data = "data" }
epochs = 1
latent_dim = 4
channels = "${matrix.deep}"
matrix.deep = [[16, 12, 8, 8], [8, 8, 8, 8]]

[stages.data]
kind = "load-data"
source = "synthetic"
train = 20
test = 10

[stages.all]
kind = "command"
inputs = { nets = ["net@seed=1,model=*"], ads = ["ad@*"] }
argv = ["sh", "-c", "cat {inputs.nets}/*/values.json {inputs.ads}/*/values.json > {outputs.out}"]
outputs = { out = "out.txt" }
"#;

fn sweep() -> Project {
    let project = Project::new(SWEEP);
    project.write("net.sh", "echo '{\"loss\": '$(($1 + $2))'}' > $3\n");
    project
}

#[test]
fn points_with_lists_and_tables_are_selected_shown_and_grouped_by_label() {
    let project = sweep();
    assert_eq!(project.run(&["net@model=wide"]).executed().len(), 3);
    let all = project.run(&[]);
    assert!(all.cached().contains(&"net@model=wide,seed=2".to_owned()));
    assert!(all.executed().contains(&"ad@deep=1".to_owned()));
    let shown = json(&project.vadpipe(["metrics", "p.toml", "net", "ad", "--json", "--where", "model=wide && seed=1"]));
    assert_eq!(shown.to_string(), r#"{"net@model=wide,seed=1":{"loss":257.0}}"#);
    let shown = json(&project.vadpipe(["metrics", "p.toml", "ad", "--json", "--where", "deep=1"]));
    let names: Vec<&String> = shown.as_object().expect("points").keys().collect();
    assert_eq!(names, ["ad@deep=1"]);
    let grouped = project.vadpipe(["metrics", "p.toml", "net", "--over", "seed"]);
    insta::assert_snapshot!(grouped.stdout, @r"
    stage  model  n  loss
    net    small  3  66 ± 1
    net    wide   3  258 ± 1
    ");
    let gathered = project.vadpipe(["export", "p.toml", "all", "--to", "out"]);
    assert_eq!(gathered.code, 0, "{}", gathered.stderr);
    insta::assert_snapshot!(project.read("out/all/out.txt"), @r#"
    {
      "model": "small",
      "seed": 1
    }{
      "model": "wide",
      "seed": 1
    }{
      "deep": 0
    }{
      "deep": 1
    }
    "#);
}

#[test]
fn value_is_part_of_the_key_and_its_label_is_not() {
    let project = sweep();
    let before = project.plan(&["net"]);
    project.edit("name = \"wide\"", "name = \"broad\"");
    project.edit("width = 64", "width = 65");
    let after = project.plan(&["net"]);
    assert_eq!(before["net@model=wide,seed=1"]["key"], after["net@model=broad,seed=1"]["key"]);
    assert_ne!(before["net@model=small,seed=1"]["key"], after["net@model=small,seed=1"]["key"]);
    assert_ne!(before["net@model=small,seed=1"]["key"], Value::Null);
}

/// A program with a group, and the file that defines the group.
fn grouped(choice: &str, reference: &str) -> Project {
    let project = Project::new(&format!(
        "include = [\"models.toml\"]\n[pipeline]\nname = \"p\"\n{choice}\n[stages.net]\nkind = \"command\"\n\
         argv = [\"sh\", \"net.sh\", \"{reference}\", \"{{metrics}}\"]\n"
    ));
    project.write("models.toml", "[groups.model.small]\nwidth = 64\n[groups.model.wide]\nwidth = 256\n");
    project.write("net.sh", "echo '{\"width\": '$1'}' > $2\n");
    project
}

#[test]
fn member_of_a_group_is_chosen_in_the_file_and_on_the_command_line() {
    let project = grouped("[params]\nmodel = \"@small\"", "${params.model.width}");
    let width = |more: &[&str]| {
        project.run(more);
        json(&project.vadpipe(["metrics", "p.toml", "--json"].iter().chain(more)))["net"]["width"].as_f64()
    };
    assert_eq!(width(&[]), Some(64.0));
    assert_eq!(width(&["-S", "model=@wide"]), Some(256.0));
    assert_eq!(width(&["-S", "model=@wide", "-S", "model.width=300"]), Some(300.0));
    let output = project.vadpipe(["plan", "p.toml", "-S", "model=@wdie"]);
    assert_eq!(output.code, 2);
    assert!(output.stderr.contains("-S model=@wdie:1:7"), "{}", output.stderr);
    assert!(output.stderr.contains("did you mean `wide`?"), "{}", output.stderr);
}

#[test]
fn sweep_over_a_group_shares_results_with_a_choice() {
    let chosen = grouped("[params]\nmodel = \"@small\"", "${params.model.width}");
    let swept = grouped("[matrix]\nmodel = [\"@*\"]", "${matrix.model.width}");
    assert_eq!(chosen.plan(&[])["net"]["key"], swept.plan(&[])["net@model=small"]["key"]);
    assert_eq!(swept.run(&["-S", "model=@wide"]).executed(), ["net@model=wide"]);
    assert_eq!(swept.run(&[]).cached(), ["net@model=wide"]);
}

#[test]
fn report_shows_points_of_all_seeds_as_a_band() {
    let project = Project::new(&MINI.replace("matrix = { distribution", "matrix = { seed = [1, 2], distribution"));
    project.edit(
        "distribution = \"${matrix.distribution}\"",
        "distribution = \"${matrix.distribution}\"\nseed = \"${matrix.seed}\"",
    );
    project.run(&[]);
    let page = |project: &Project| project.read("reports/mini.report.html");
    assert!(
        page(&project).contains("<title>vad@seed=1,distribution=uniform</title>")
            && !page(&project).contains("<path class=\"band")
    );
    project.edit("kind = \"report\"", "kind = \"report\"\nover = [\"seed\"]");
    assert_eq!(project.run(&[]).executed(), ["report"]);
    assert!(page(&project).contains("<title>vad@distribution=uniform</title>"));
    assert!(page(&project).contains("<path class=\"band c0\"") && page(&project).contains(", n = 2</data>"));
    project.edit("over = [\"seed\"]", "over = [\"sed\"]");
    let run = project.try_run(&[]);
    assert_eq!(run.output.code, 2);
    assert!(run.output.stdout.contains("`over` names the axis `sed`"), "{}", run.output.stdout);
    project.edit("over = [\"sed\"]\n", "");
    assert_eq!(project.run(&[]).executed(), [""; 0], "`over` is in the key only where it is given");
}
