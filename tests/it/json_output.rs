//! What commands print with `--json` is what the schemas in `docs/schema` describe.
//!
//! `Project::vadpipe` checks each output in all tests. The stories here take care that each command is asked in its
//! situations.

use std::collections::BTreeSet;
use std::process::Command;

use rustix::process::Signal;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use vadpipe::event::Event;
use vadpipe::plan::{Cause, Reason};
use vadpipe::store::{ResultRecord, RunRecord, Verdict};

use crate::support::schemas::{fault, fault_as_published, folder, names};
use crate::support::{CommandOutput, MINI, Project, json, signal, text, wait_for};

/// Commands whose output is the same with `--json`.
const WITHOUT_JSON: [&str; 2] = ["completions", "help"];

/// Runs a command with `--json`, which must succeed.
fn object(project: &Project, args: &[&str]) -> Value {
    json(&project.vadpipe(args.iter().chain(&["--json"])))
}

/// The entries of a list that have this value in a field.
fn having<'a>(list: &'a Value, field: &str, value: &str) -> Vec<&'a Value> {
    list.as_array().expect("a list").iter().filter(|entry| entry[field] == value).collect()
}

fn schema(name: &str) -> Value {
    let text = std::fs::read_to_string(folder().join(format!("{name}.json"))).expect("a schema");
    serde_json::from_str(&text).expect("JSON")
}

#[test]
fn every_command_with_json_has_a_schema_and_every_schema_has_a_command() {
    let of_store =
        subcommands(&["store"]).into_iter().filter(|name| name != "help").map(|name| format!("store-{name}"));
    // A worker prints the events of `run`.
    let own = subcommands(&[]).into_iter().filter(|name| !["store", "worker"].contains(&name.as_str()));
    let commands: BTreeSet<String> = own.chain(of_store).collect();
    let schemas: BTreeSet<String> = names().into_iter().filter(|name| name != "common").collect();
    let described: BTreeSet<String> = schemas.into_iter().chain(WITHOUT_JSON.map(str::to_owned)).collect();
    assert_eq!(commands, described);
}

/// The names of commands in a help text.
fn subcommands(command: &[&str]) -> Vec<String> {
    let help =
        Command::new(env!("CARGO_BIN_EXE_vadpipe")).args(command).arg("--help").output().expect("vadpipe starts");
    let help = CommandOutput::of(help).stdout;
    let (_, commands) = help.split_once("Commands:\n").expect("commands");
    let commands = commands.lines().take_while(|line| !line.is_empty()).filter(|line| !line.starts_with("   "));
    commands.filter_map(|line| line.split_whitespace().next()).map(str::to_owned).collect()
}

/// Calls `check` with each schema in a schema, and where it is.
fn visit(schema: &Value, place: &str, check: &mut dyn FnMut(&Map<String, Value>, &str)) {
    match schema {
        Value::Object(fields) => {
            check(fields, place);
            for (name, field) in fields.iter().filter(|(name, _)| *name != "const" && *name != "enum") {
                let place = format!("{place}/{name}");
                match (name.as_str(), field) {
                    // Names of properties are not keywords.
                    ("properties" | "$defs", Value::Object(named)) => {
                        named.iter().for_each(|(name, schema)| visit(schema, &format!("{place}/{name}"), check));
                    }
                    _ => visit(field, &place, check),
                }
            }
        }
        Value::Array(members) => members.iter().for_each(|member| visit(member, place, check)),
        _ => {}
    }
}

#[test]
fn schemas_are_open_and_describe_every_property() {
    let mut faults = Vec::new();
    for name in names() {
        visit(&schema(&name), &name, &mut |schema, place| {
            if schema.get("additionalProperties") == Some(&false.into()) {
                faults.push(format!("{place} forbids the properties of later versions"));
            }
            if schema.contains_key("properties") && schema.get("type").is_none_or(|kind| kind != "object") {
                faults.push(format!("{place} has properties, but its type is not `object`"));
            }
            let Some(Value::Object(properties)) = schema.get("properties") else { return };
            let required: Vec<String> =
                schema.get("required").into_iter().flat_map(Value::as_array).flatten().map(text).collect();
            for (property, schema) in properties {
                let description = schema["description"].as_str().unwrap_or_default();
                if description.is_empty() {
                    faults.push(format!("{place}/{property} has no description"));
                }
                if required.contains(property) == description.contains("Absent") {
                    faults.push(format!("{place}/{property}: only optional properties say when they are absent"));
                }
            }
        });
    }
    assert_eq!(faults, [""; 0]);
}

/// A value that matches a schema of the file `name`, with the optional properties or without them.
fn sample(schema: &Value, name: &str, optional: bool) -> Value {
    let of = |schema: &Value| sample(schema, name, optional);
    if let Some(reference) = schema["$ref"].as_str() {
        let (file, place) = reference.split_once('#').expect("a place in a file");
        let file = if file.is_empty() { name } else { file.strip_suffix(".json").expect("a schema") };
        return sample(self::schema(file).pointer(place).expect("a definition"), file, optional);
    }
    let chosen = ["const", "/enum/0", "/examples/0"].map(|place| schema.pointer(place).or(schema.get(place)));
    if let Some(value) = chosen.into_iter().flatten().next() {
        return value.clone();
    }
    if let Some(first) = schema.pointer("/anyOf/0").or(schema.pointer("/oneOf/0")) {
        return of(first);
    }
    let kind = if schema["type"].is_array() { &schema["type"][0] } else { &schema["type"] };
    match kind.as_str() {
        Some("string") if schema["pattern"].is_string() => "0".repeat(64).into(),
        Some("string") => "text".into(),
        Some("integer") => 1.into(),
        Some("number") => 0.5.into(),
        Some("boolean") => true.into(),
        Some("array") => vec![of(&schema["items"])].into(),
        Some("object") => match schema["properties"].as_object() {
            None => Value::Object(Map::from_iter([("name".to_owned(), of(&schema["additionalProperties"]))])),
            Some(properties) => {
                let required = schema["required"].as_array().expect("a list");
                let taken =
                    properties.iter().filter(|(name, _)| optional || required.contains(&Value::from(name.as_str())));
                Value::Object(taken.map(|(name, schema)| (name.clone(), of(schema))).collect())
            }
        },
        _ => Value::Null,
    }
}

/// Samples of a schema survive a round trip through its type, so both have the same fields.
fn assert_describes<T: Serialize + DeserializeOwned>(schema: &Value, name: &str) {
    for optional in [true, false] {
        let value = sample(schema, name, optional);
        let read: T = serde_json::from_value(value.clone()).unwrap_or_else(|error| panic!("{error}: {value:#}"));
        assert_eq!(serde_json::to_value(read).expect("JSON"), value);
    }
}

#[test]
fn schemas_have_the_fields_of_all_events_reasons_and_records() {
    let events = schema("run")["oneOf"].as_array().expect("a list").clone();
    events.iter().for_each(|event| assert_describes::<Event>(event, "run"));
    let common = schema("common")["$defs"].clone();
    let causes = common["cause"]["oneOf"].as_array().expect("a list");
    causes.iter().for_each(|cause| assert_describes::<Cause>(cause, "common"));
    assert_describes::<Reason>(&common["reason"], "common");
    assert_describes::<Verdict>(&common["verdict"], "common");
    assert_describes::<RunRecord>(&common["run_record"], "common");
    assert_describes::<ResultRecord>(&schema("show")["$defs"]["result"], "show");
    let values = common["value"]["oneOf"].as_array().expect("a list");
    values.iter().for_each(|value| assert_describes::<vadpipe::value::Value>(value, "common"));
}

#[test]
fn output_that_loses_a_field_does_not_match_and_one_that_gains_a_field_matches_outside_of_tests() {
    let project = Project::new(MINI);
    let plan = object(&project, &["plan", "p.toml"]);
    let stage = plan["stages"][1].as_object().expect("an object").clone();
    let with = |stage: Map<String, Value>| {
        let mut plan = plan.clone();
        plan["stages"][1] = Value::Object(stage);
        plan
    };
    assert_eq!(fault("plan", &plan), None);
    for field in stage.keys() {
        let mut less = stage.clone();
        less.remove(field);
        assert!(fault("plan", &with(less)).is_some(), "without {field}");
    }
    let mut more = stage.clone();
    more.insert("new".to_owned(), Value::Null);
    let more = with(more);
    assert!(fault("plan", &more).is_some());
    assert_eq!(fault_as_published("plan", &more), None, "of a later version");
    let mut event = project.run(&["data"]).last().clone();
    assert_eq!(fault("run", &event), None);
    event["new"] = Value::Null;
    assert!(fault("run", &event).is_some());
    assert_eq!(fault_as_published("run", &event), None);
    // A run without points that ran is not a list of points, too.
    let run = object(&project, &["log", "last"]);
    let mut without_points = run.clone();
    without_points["stages"] = Value::Array(vec![]);
    for run in [run, without_points] {
        assert_eq!(fault_as_published("log", &run), None);
    }
}

#[test]
fn outputs_about_trainings_match_in_all_situations() {
    let project = Project::new(MINI);
    let stages = |plan: &Value, state: &str| having(&plan["stages"], "state", state).len();
    let plan = object(&project, &["plan", "p.toml"]);
    assert_eq!(stages(&plan, "miss"), plan["stages"].as_array().expect("stages").len());
    assert_eq!(object(&project, &["run", "p.toml", "-n"]), plan);
    assert_eq!(object(&project, &["status", "p.toml"])["last_run"], Value::Null);
    assert_eq!(object(&project, &["log"])["runs"], Value::Array(vec![]));
    assert_eq!(project.vadpipe(["run", "p.toml", "--json", "--name", "first", "--note", "a note"]).code, 0);
    assert_eq!(stages(&object(&project, &["plan", "p.toml"]), "miss"), 0);
    let changed =
        ["-S", "pipeline.seed=8", "-S", "params.epochs=5", "-S", "stages.ad.segments=[{epochs=2},{epochs=1,lr=0.1}]"];
    for command in ["plan", "status", "explain"] {
        let all = object(&project, &[&[command, "p.toml"], &changed[..4]].concat());
        assert!(stages(&all, "miss") > 0, "{all}");
    }
    let longer = object(&project, &["plan", "p.toml", "-S", "params.epochs=5"]);
    assert!(stages(&longer, "maybe") + stages(&longer, "miss") > 3, "{longer}");
    let ad = having(&longer["stages"], "name", "ad")[0];
    assert_eq!(ad["reason"]["code"], "epochs");
    project.run(&["ad", "-S", "params.epochs=5"]);
    project.run(&["-f", "data"]);
    for args in
        [&["show"][..], &["graph"], &["metrics"], &["explain"], &["status"], &["export", "--to", "out"], &["verify"]]
    {
        object(&project, &[&args[..1], &["p.toml"], &args[1..]].concat());
    }
    let sampled = object(&project, &["verify", "p.toml", "ad", "--sample", "1"]);
    assert_eq!(sampled["stages"][0]["sampled"]["stretches"].as_array().map(Vec::len), Some(1));
    assert_eq!(
        having(&object(&project, &["explain", "p.toml"])["stages"], "name", "ad")[0]["verdict"]["finding"],
        "exact"
    );
    let groups = object(&project, &["metrics", "p.toml", "vad", "--over", "distribution"]);
    assert_eq!(groups["groups"][0]["points"], 2);
    project.write("q.toml", &project.read("p.toml").replace("kl_weight = 0.5", "kl_weight = 0.7"));
    let files = object(&project, &["diff", "p.toml", "q.toml"]);
    assert_eq!(files["changed"][0]["parameters"].as_array().map(Vec::len), Some(1), "{files}");
    object(&project, &["diff", "p.toml", "vad@distribution=gaussian", "vad@distribution=uniform"]);
    object(&project, &["diff", "first", "last"]);
    for args in
        [&["log"][..], &["log", "first"], &["log", "--stage", "vad@*"], &["gc", "-n"], &["gc"], &["doctor"], &["kinds"]]
    {
        object(&project, args);
    }
    assert_eq!(project.vadpipe(["log", "first", "--events"]).code, 0);
    assert_eq!(object(&project, &["log", "first"])["label"]["note"], "a note");
}

#[test]
fn outputs_about_a_damaged_cache_match() {
    let project = Project::new(MINI);
    project.run(&["data"]);
    for pack in std::fs::read_dir(project.path("cache/chunks-0/packs")).expect("packs") {
        let pack = pack.expect("a pack").path();
        let length = std::fs::metadata(&pack).expect("a file").len();
        std::fs::write(&pack, vec![0; usize::try_from(length).expect("a length")]).expect("written");
    }
    let only_looks = project.vadpipe(["doctor", "-n", "--json"]);
    let found: Value = serde_json::from_str(&only_looks.stdout).expect("JSON");
    assert_eq!((only_looks.code, &found["healthy"], &found["repaired"]), (5, &false.into(), &false.into()), "{found}");
    let repaired = object(&project, &["doctor"]);
    assert_eq!((&repaired["repaired"], &repaired["affected"]), (&true.into(), &found["affected"]), "{repaired}");
}

/// `a` fails for 2 at first. `b` reads it, and `all` gathers what there is.
const FAILING: &str = r#"
[pipeline]
name = "p"

[stages.a]
kind = "command"
matrix = { n = [1, 2] }
argv = ["sh", "a.sh", "${matrix.n}", "{metrics}"]
outputs = { out = "out.txt" }

[stages.b]
kind = "command"
inputs = { a = "a" }
argv = ["true"]

[stages.all]
kind = "command"
inputs = { b = { from = ["b@*"], missing = "skip" } }
argv = ["true"]
"#;

const FAILS_FOR_2: &str =
    "echo some output; test $1 = 1 && echo '{\"loss\": NaN, \"size\": 1}' > $2 && echo > out.txt\n";

#[test]
fn outputs_about_failed_and_edited_programs_match() {
    let project = Project::new(FAILING);
    project.write("a.sh", FAILS_FOR_2);
    let failed = project.try_run(&["-k"]);
    assert_eq!(
        (failed.output.code, failed.failed(), failed.skipped()),
        (1, vec!["a@n=2".into()], vec!["b@n=2".into()])
    );
    assert_eq!(failed.of_kind("inputs-missing").count(), 1);
    for command in ["plan", "status"] {
        let stages = object(&project, &[command, "p.toml"])["stages"].clone();
        assert!(having(&stages, "name", "a@n=2")[0]["failed_in"].is_string(), "{stages}");
    }
    assert!(object(&project, &["log", "last"])["failures"]["a@n=2"]["error"].is_string());
    assert!(object(&project, &["log", "--status", "failed"])["stages"][0]["failure"]["log"].is_string());
    let metrics = object(&project, &["metrics", "p.toml", "a@n=1"]);
    assert_eq!(metrics["nonfinite"]["a@n=1"]["loss"], "nan");
    object(&project, &["show", "p.toml", "a@n=1"]);
    project.write("a.sh", "echo > out.txt\n");
    assert_eq!(object(&project, &["accept", "p.toml", "a@n=1"])["accepted"][0]["files"][0], "a.sh");
    let result = object(&project, &["show", "p.toml", "a@n=1"]);
    assert!(result["a@n=1"]["provenance"]["accepted"]["of"].is_string(), "{result}");
    project.run(&[]);
    project.edit("argv = [\"true\"]", "argv = [\"true\", \"x\"]");
    let plan = object(&project, &["plan", "p.toml"]);
    assert_eq!(having(&plan["stages"], "name", "b@n=1")[0]["reason"]["code"], "parameter");
}

#[test]
fn outputs_while_a_program_runs_and_after_an_interruption_match() {
    let project = Project::new(
        "[pipeline]\nname = \"p\"\n[stages.slow]\nkind = \"command\"\n\
         argv = [\"sh\", \"slow.sh\", \"{checkpoint}\"]\n[stages.next]\nkind = \"command\"\n\
         inputs = { slow = \"slow\" }\nargv = [\"true\"]\n",
    );
    project.write("slow.sh", "touch $1/x $(dirname $0)/signals/started\nsleep 60\n");
    project.write("signals/note", "");
    for found in [0, 1] {
        let _ = std::fs::remove_file(project.path("signals/started"));
        let child = project.start(&["run", "p.toml", "--json"]);
        wait_for(&project.path("signals/started"));
        let status = object(&project, &["status", "p.toml"]);
        assert_eq!(having(&status["stages"], "name", "slow")[0]["running"]["pid"], child.id());
        assert_eq!(status["last_run"]["finished_at"], Value::Null);
        signal(&child, Signal::INT);
        let output = CommandOutput::of(child.wait_with_output().expect("it ends"));
        assert_eq!(output.code, 130);
        let events: Vec<Value> = output.stdout.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
        events.iter().for_each(|event| assert_eq!(fault("run", event), None));
        let of_kind = |kind: &str| events.iter().filter(|event| event["event"] == kind).count();
        assert_eq!((of_kind("stage-interrupted"), of_kind("checkpoint-found")), (1, found));
    }
    let run = object(&project, &["log", "last"]);
    assert_eq!((&run["status"], &run["stages"][0]["outcome"]), (&"interrupted".into(), &"interrupted".into()));
}

#[test]
fn outputs_about_a_pruned_sweep_match() {
    let pipeline = MINI
        .replace("[stages.data]", "[matrix]\nlr = [0.001, 0.1, 0.01]\n[matrix.prune]\nmetric = \"ad.loss\"\nrungs = [1]\nreduction = 3\n[stages.data]")
        .replacen("latent_dim = 6", "latent_dim = 6\nlr = \"${matrix.lr}\"", 1)
        .replace("\"ad\", ", "\"ad@*\", ");
    let project = Project::new(&pipeline);
    let run = project.run(&["ad"]);
    assert!(run.of_kind("stage-pruned").count() > 0 && run.of_kind("rung-reached").count() > 0);
    let plan = object(&project, &["plan", "p.toml", "ad"]);
    assert_eq!(having(&plan["stages"], "state", "pruned").len(), run.of_kind("stage-pruned").count());
    let explained = object(&project, &["explain", "p.toml", "ad"]);
    let rungs = |stage: &Value| stage["rungs"].as_array().map_or(0, Vec::len);
    assert!(explained["stages"].as_array().expect("stages").iter().any(|stage| rungs(stage) == 1));
    assert!(object(&project, &["metrics", "p.toml", "ad"])["pruned"].is_object());
    object(&project, &["status", "p.toml"]);
}

#[test]
fn outputs_about_a_training_program_match() {
    let pipeline = "[pipeline]\nname = \"p\"\n[stages.net]\nkind = \"train-command\"\nargv = [\"python3\", \"train.py\"]\n\
                    segment_epochs = 10\nepochs = 25\nkeep_every = 10\noutputs = { weights = \"weights.txt\" }\n\
                    select = { metric = \"loss\" }\n[stages.net.start]\nwidth = 4\n[stages.net.epoch]\nlr = 0.05\n";
    let Some(project) = Project::with_script(pipeline, include_str!("training/train.py")) else { return };
    project.run(&[]);
    let shown = object(&project, &["show", "p.toml", "net"]);
    let state = &shown["net"]["manifest"]["state"];
    assert!(state["files"].is_object() && state["tensor_files"]["model.safetensors"]["metadata"].is_object());
    let longer = object(&project, &["plan", "p.toml", "-S", "stages.net.epochs=40"]);
    assert_eq!(longer["stages"][0]["trained_again"]["from"], 20);
    let explained = object(&project, &["explain", "p.toml", "-S", "stages.net.epochs=40"]);
    assert_eq!(explained["stages"][0]["nearest_state"]["epoch"], 20);
    // A generator that is not restored.
    project.write("train.py", &project.read("train.py").replace("    generator.setstate(", "    str("));
    assert_eq!(project.run(&[]).trained().len(), 25);
    let verified = object(&project, &["verify", "p.toml", "net"]);
    assert_eq!(verified["stages"][0]["finding"], "state-incomplete");
    object(&project, &["verify", "p.toml", "net", "--sample", "all"]);
    for command in ["plan", "status", "explain"] {
        let stage = object(&project, &[command, "p.toml"])["stages"][0].clone();
        assert_eq!(stage["verdict"]["finding"], "state-incomplete", "{command}");
    }
}
