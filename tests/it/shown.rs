//! What commands show to people: help texts, kinds, logs of stages, facts and numbers.

use crate::support::{CommandOutput, MINI, Project, text};

/// The help of a command at this width, from the examples on.
fn examples(project: &Project, command: &str, columns: &str) -> Vec<String> {
    let args: Vec<&str> = command.split_whitespace().chain(["--help"]).collect();
    let output = project.command(args).env("COLUMNS", columns).output().expect("vadpipe starts");
    let help = CommandOutput::of(output).stdout;
    let lines = help.lines().skip_while(|line| *line != "Examples:").take_while(|line| !line.is_empty());
    lines.map(str::to_owned).collect()
}

#[test]
fn examples_in_help_are_not_wrapped_at_80_columns() {
    let project = Project::new(MINI);
    let help = project.vadpipe(["--help"]).stdout;
    let commands = help.lines().skip_while(|line| *line != "Commands:").skip(1).take_while(|line| !line.is_empty());
    let commands: Vec<&str> = commands.filter_map(|line| line.strip_prefix("  ")?.split(' ').next()).collect();
    let commands: Vec<&str> = commands.into_iter().filter(|name| !["", "help"].contains(name)).collect();
    assert!(commands.len() > 12, "{commands:?}");
    for command in commands.into_iter().chain([""]) {
        let narrow = examples(&project, command, "80");
        assert!(narrow.len() > 1, "{command} has examples");
        assert_eq!(narrow, examples(&project, command, "200"), "{command}");
    }
}

#[test]
fn kinds_describe_the_type_default_and_choices_of_each_parameter() {
    let project = Project::new(MINI);
    let output = project.vadpipe(["kinds", "train-vad"]);
    insta::assert_snapshot!(output.stdout, @r#"
    train-vad: train a variational auto-decoder: a decoder and one posterior for each train image
      provides    decoder, latents, history, reconstructions
      input       data: needs images

      distribution  the family of the posteriors and of the prior
                    one of gaussian, exponential, uniform [default: "gaussian"]
      latent_dim    the length of a latent vector
                    an integer from 1 to 4096 [default: 128]
      channels      four widths of the decoder, from the latent vector to the image
                    a list of integers from 1 to 8192 [default: [2048, 512, 256, 128]]
      init_std      the standard deviation of the latents at the start
                    a number that is 0 or more [default: 1.0]
      segments      parameters that change during the training, instead of `epochs`
                    a list of tables, each with `epochs` [optional]
      epochs        the number of epochs
                    an integer from 0 to 1000000 [default: 100] [also in segments]
      keep          epochs whose states are kept, so that other trainings can start there
                    a list of epochs [optional]
      keep_every    keep the state after every so many epochs; 0 keeps none
                    an integer from 0 to 1000000 [default: 0]
      batch         the number of images in a step
                    an integer from 1 to 65536 [default: 16] [also in segments]
      lr            the learning rate of the decoder
                    a number that is 0 or more [default: 0.001] [also in segments]
      latent_lr     the learning rate of the latents
                    a number that is 0 or more [default: 0.01] [also in segments]
      kl_weight     the weight of the KL divergence
                    a number that is 0 or more [default: 1.0] [also in segments]
      noise         scales the distance of z from the posterior's mean
                    a number from 0 to 4 [default: 1.0] [also in segments]
    "#);
    let short = project.vadpipe(["kinds"]).stdout;
    assert!(short.contains("  parameter   kl_weight = 1.0\n") && !short.contains("[default"), "{short}");
    let object = crate::support::json(&project.vadpipe(["kinds", "train-command", "--json"]));
    let fields = object["kinds"][0]["fields"].as_array().expect("fields");
    let field = |name: &str| fields.iter().find(|field| field["name"] == name).expect("a field");
    let described = |name: &str| (field(name)["required"].clone(), field(name)["type"].clone());
    assert_eq!(described("segment_epochs"), (true.into(), "an integer from 1 to 1000000".into()));
    assert_eq!(described("argv"), (false.into(), "a list of strings or numbers".into()), "or `python`");
    assert_eq!(described("python"), (false.into(), "a string, or a list of strings or numbers".into()));
    assert_eq!((&field("shell")["required"], &field("shell")["default"]), (&false.into(), &"false".into()));
    assert_eq!(object["kinds"][0]["parameters"]["shell"], "false", "as before");
}

/// Two points that print a line each.
const SAYING: &str = r#"
[pipeline]
name = "saying"

[matrix]
lr = [0.5, 1.0]

[stages.say]
kind = "command"
shell = true
argv = ["echo rate ${matrix.lr}; echo '{\"loss\": ${matrix.lr}}' > {metrics}; echo x > {outputs.out}"]
outputs = { out = "out" }
"#;

#[test]
fn log_of_a_cached_stage_names_the_run_that_made_its_result() {
    let project = Project::new(SAYING);
    let first = text(&project.run(&[]).last()["run"]);
    let second = text(&project.run(&[]).last()["run"]);
    let output = project.vadpipe(["log", "last", "--stage", "say@lr=0.5"]);
    assert_eq!((output.code, output.stdout.as_str()), (2, ""));
    let message = format!("`say@lr=0.5` was cached in run {second}; run {first} made its result");
    let command = format!("vadpipe log {first} --stage 'say@lr=0.5'");
    assert!(output.stderr.contains(&message) && output.stderr.contains(&command), "{}", output.stderr);
    assert_eq!(project.vadpipe(["log", &first, "--stage", "say@lr=0.5"]).stdout, "rate 0.5\n");
}

#[test]
fn pattern_prints_the_logs_of_all_points_of_a_run() {
    let project = Project::new(SAYING);
    project.run(&[]);
    let both = "say@lr=0.5:\nrate 0.5\nsay@lr=1.0:\nrate 1.0\n";
    for pattern in ["say@*", "say", "s*"] {
        assert_eq!(project.vadpipe(["log", "last", "--stage", pattern]).stdout, both, "{pattern}");
    }
    // A point that was cached is a note, and the log of the other is printed.
    project.run(&["-R", "say@lr=1.0"]);
    let output = project.vadpipe(["log", "last", "--stage", "say@*"]);
    assert_eq!((output.code, output.stdout.as_str()), (0, "say@lr=1.0:\nrate 1.0\n"));
    assert!(output.stderr.contains("`say@lr=0.5` was cached in run "), "{}", output.stderr);
    let unknown = project.vadpipe(["log", "last", "--stage", "sya@*"]);
    assert!(unknown.code == 2 && unknown.stderr.contains("has no stage `sya@*`"), "{}", unknown.stderr);
}

#[test]
fn axis_values_are_shown_as_in_the_names_of_points() {
    let project = Project::new(SAYING);
    project.run(&[]);
    let shown = |more: &[&str]| project.vadpipe(["metrics", "p.toml"].iter().chain(more)).stdout;
    assert_eq!(shown(&[]), "stage  lr   loss\nsay    0.5  0.5000\nsay    1.0  1\n");
    assert_eq!(shown(&["--csv"]), "stage,lr,loss\nsay,0.5,0.5\nsay,1.0,1\n");
    assert_eq!(shown(&["--group-by", "lr", "--where", "lr=1"]), "stage  lr   n  loss\nsay    1.0  1  1\n");
}

#[test]
fn numbers_that_describe_a_result_are_facts_and_not_metrics() {
    let project = Project::new(MINI);
    project.run(&["data", "ad"]);
    let table = project.vadpipe(["metrics", "p.toml", "data", "ad"]).stdout;
    let lines: Vec<&str> = table.lines().collect();
    assert!(lines[0].ends_with("  facts") && !lines[0].contains("classes"), "{table}");
    assert!(lines[1].starts_with("data ") && lines[1].ends_with("classes 10, test 20, train 40"), "{table}");
    let data = project.vadpipe(["show", "p.toml", "data"]).stdout;
    assert!(data.contains("  fact      train = 40\n") && !data.contains("  metric "), "{data}");
    // Programs find them where they were, and conditions can use them.
    let json = crate::support::json(&project.vadpipe(["metrics", "p.toml", "data", "--json"]));
    assert_eq!(json["data"], serde_json::json!({ "classes": 10.0, "test": 20.0, "train": 40.0 }));
    let csv = project.vadpipe(["metrics", "p.toml", "data", "--csv"]).stdout;
    assert_eq!(csv, "stage,classes,test,train\ndata,10,20,40\n");
    let filtered = project.vadpipe(["metrics", "p.toml", "data", "ad", "--where", "classes=10"]).stdout;
    assert_eq!(filtered.lines().count(), 2, "{filtered}");
    // The difference of two numbers of images means nothing.
    project.run(&["data", "-S", "stages.data.train=30"]);
    let diff = project.vadpipe(["diff", "last~1", "last"]).stdout;
    assert!(diff.contains("  train  40  →  30\n") && !diff.contains("(-10)"), "{diff}");
}

#[test]
fn many_cached_points_are_one_line_unless_every_one_is_asked_for() {
    let project = Project::new(
        "[pipeline]\nname = \"many\"\n[stages.a]\nkind = \"command\"\nmatrix = { n = [1, 2, 3, 4, 5, 6] }\n\
         argv = [\"sh\", \"-c\", \"echo $0 > $1\", \"${matrix.n}\", \"{outputs.x}\"]\noutputs = { x = \"x.txt\" }\n",
    );
    project.run(&[]);
    let again = project.vadpipe(["run", "p.toml"]).stderr;
    let cached = |text: &str| text.lines().filter(|line| line.trim_start().starts_with("cached ")).count();
    assert!(again.contains("cached 6 points: a@n=1, a@n=2, a@n=3 and 3 more"), "{again}");
    assert_eq!(cached(&again), 1, "{again}");
    assert_eq!(cached(&project.vadpipe(["run", "p.toml", "-v"]).stderr), 6);
    project.edit("[1, 2,", "[1, 7,");
    let one_ran = project.vadpipe(["run", "p.toml"]).stderr;
    assert!(one_ran.contains("5 cached in ") && one_ran.contains("done a@n=7"), "{one_ran}");
}
