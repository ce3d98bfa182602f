use std::collections::BTreeMap;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::Kind;
use crate::artifact::{Artifact, Tensor, from_safetensors, to_safetensors};
use crate::error::{Category, Error};
use crate::key::Digest;
use crate::report::testing::{Bench, FakeInput, parse_stage};
use crate::stage::{Files, Input, Inputs, Stage, StageError};
use crate::stages::program;
use crate::value::{Value, Values};

fn parse(text: &str) -> Result<(Arc<dyn Stage>, Values), String> {
    parse_stage(&Kind, text)
}

/// A stage that runs a shell script, with more TOML behind it.
fn script(script: &str, more: &str) -> Arc<dyn Stage> {
    parse(&format!("argv = ['''{script}''']\nshell = true\n{more}")).unwrap().0
}

fn run(bench: &Bench, stage: &Arc<dyn Stage>) -> Result<Artifact, Error> {
    stage.run(&bench.context(Inputs::default())).map_err(Error::from)
}

fn failure(bench: &Bench, stage: &Arc<dyn Stage>) -> String {
    let error = run(bench, stage).unwrap_err();
    assert_eq!(error.category, Category::StageFailed, "{error}");
    error.message
}

fn digits() -> Arc<dyn Input> {
    digits_named("data")
}

fn digits_named(label: &str) -> Arc<dyn Input> {
    let mut artifact = Artifact::default();
    artifact.tensors.insert("labels".into(), Tensor::vector(&[3u8, 1, 4]));
    artifact.tensors.insert("weights".into(), Tensor::new([2, 1], &[0.5f32, 2.0]).unwrap());
    artifact.files.insert("notes.txt".into(), b"as they came".to_vec());
    artifact.metrics.insert("train".into(), 3.0);
    artifact.facts.insert("classes".into(), serde_json::json!(["a", "b"]));
    FakeInput::shared(label, "load-data", artifact)
}

struct Disk(PathBuf);

impl Files for Disk {
    fn digest(&self, path: &Path) -> io::Result<Digest> {
        std::fs::read(path).map(|bytes| Digest::of(&bytes))
    }
    fn resolve(&self, path: &str) -> PathBuf {
        self.0.join(path)
    }
}

fn contents(bench: &Bench, stage: &Arc<dyn Stage>) -> BTreeMap<String, Digest> {
    stage.contents(&Disk(bench.base().to_owned())).unwrap()
}

#[test]
fn inputs_are_written_as_files_and_outputs_are_read() {
    let bench = Bench::new();
    let text = r#"
        argv = ["sh", "-c", "cat $0/notes.txt $0/metrics.json $0/facts.json > $1; cp $0/artifact.safetensors $2", "{inputs.data}", "{outputs.text}", "{outputs.copy}"]
        outputs = { text = "deep/er/text.txt", copy = "copy.safetensors" }
    "#;
    let (stage, _) = parse(text).unwrap();
    let inputs = Inputs(BTreeMap::from([("data".to_owned(), vec![digits()])]));
    let artifact = stage.run(&bench.context(inputs)).unwrap();
    let text = String::from_utf8(artifact.files["text.txt"].clone()).unwrap();
    insta::assert_snapshot!(text, @r#"
    as they came{
      "train": 3.0
    }{
      "classes": [
        "a",
        "b"
      ]
    }
    "#);
    let (name, weights) = artifact.tensors.last_key_value().unwrap();
    assert_eq!((name.as_str(), weights), ("weights", &Tensor::new([2, 1], &[0.5f32, 2.0]).unwrap()));
    assert!(artifact.metrics.is_empty());
}

#[test]
fn members_of_a_list_are_in_folders_by_label_and_a_single_input_is_in_both_places() {
    let bench = Bench::new();
    let find = "cd {inputs.all}; find . -name notes.txt | sort > {outputs.names}";
    let stage = script(find, "outputs = { names = 'names' }");
    let seen = |bench: &Bench, members| {
        let inputs = Inputs(BTreeMap::from([("all".to_owned(), members)]));
        String::from_utf8(stage.run(&bench.context(inputs)).unwrap().files["names"].clone()).unwrap()
    };
    let two = seen(&bench, vec![digits_named("fit@lr=0.1"), digits_named("fit@lr=1.0")]);
    assert_eq!(two, "./fit@lr=0.1/notes.txt\n./fit@lr=1.0/notes.txt\n");
    assert_eq!(seen(&Bench::new(), vec![digits_named("fit")]), "./fit/notes.txt\n./notes.txt\n");
}

#[test]
fn tensors_of_several_outputs_are_named_by_role() {
    let bench = Bench::new();
    let bytes = to_safetensors([("x", &Tensor::vector(&[1.0f32]))]).unwrap();
    let again = Bench::new();
    for bench in [&bench, &again] {
        std::fs::write(bench.base().join("t.safetensors"), &bytes).unwrap();
    }
    let one = script("cp {base}/t.safetensors a.safetensors", "outputs = { a = 'a.safetensors' }");
    assert_eq!(run(&bench, &one).unwrap().tensors.into_keys().collect::<Vec<_>>(), ["x"]);
    let two = script(
        "cp {base}/t.safetensors a.safetensors; cp a.safetensors b.safetensors",
        "outputs = { a = 'a.safetensors', b = 'b.safetensors' }",
    );
    assert_eq!(run(&again, &two).unwrap().tensors.into_keys().collect::<Vec<_>>(), ["a.x", "b.x"]);
    let none = script("echo hello > a.safetensors", "outputs = { a = 'a.safetensors' }");
    let message = failure(&Bench::new(), &none);
    let why = "it has 6 bytes, but the length of its header alone takes 8";
    assert_eq!(message, format!("the output `a` (a.safetensors) can't be used: not a safetensors file: {why}"));
    assert!(from_safetensors(b"hello").is_err());
}

#[test]
fn metrics_must_be_a_json_object_of_numbers() {
    let written = |json: &str| {
        let stage = script(&format!("echo '{json}' > $VADPIPE_METRICS"), "");
        run(&Bench::new(), &stage).map(|a| a.metrics).map_err(|e| e.message)
    };
    let fine = written(r#"{"loss": 0.25, "n": 3}"#).unwrap();
    assert_eq!(fine, BTreeMap::from([("loss".to_owned(), 0.25), ("n".to_owned(), 3.0)]));
    let wrong = [r#"{"a": "1"}"#, r#"{"a": {"b": 1}}"#, "[1]", r#"{"a": nan}"#, r#"{"a": true}"#, ""];
    let messages: Vec<String> = wrong.iter().map(|json| written(json).unwrap_err()).collect();
    insta::assert_snapshot!(messages.join("\n"), @r#"
    the metrics file must be a JSON object of numbers: `a` is "1"
    the metrics file must be a JSON object of numbers: `a` is an object
    the metrics file must be a JSON object of numbers: it is not a JSON object
    the metrics file must be a JSON object of numbers: expected ident at line 1 column 8
    the metrics file must be a JSON object of numbers: `a` is true
    the metrics file must be a JSON object of numbers: EOF while parsing a value at line 2 column 0
    "#);
    let by_placeholder = script("echo '{\"x\": 1}' > {metrics}", "");
    assert_eq!(run(&Bench::new(), &by_placeholder).unwrap().metrics["x"], 1.0);
}

#[test]
fn failure_has_the_exit_code_and_the_end_of_the_output() {
    let bench = Bench::new();
    let message = failure(&bench, &script("seq 1 20; echo oh no >&2; exit 3", ""));
    insta::assert_snapshot!(message, @r"
    `/bin/sh` exited with code 3; the end of its output:
      10
      11
      12
      13
      14
      15
      16
      17
      18
      19
      20
      oh no
    ");
    assert!(bench.log().starts_with("1\n2\n"), "the whole log is kept");
    insta::assert_snapshot!(failure(&Bench::new(), &script("kill -9 $$", "")), @"`/bin/sh` was ended by signal 9 (SIGKILL), as when memory runs out, without any output");
}

#[test]
fn failure_does_not_quote_the_output_of_an_earlier_attempt() {
    let bench = Bench::new();
    failure(&bench, &script("echo first; exit 1", ""));
    let message = failure(&bench, &script("echo second; exit 1", ""));
    assert!(message.contains("second") && !message.contains("first"), "{message}");
    assert_eq!(bench.log(), "first\nsecond\n");
}

#[test]
fn missing_program_is_bad_input() {
    let (stage, _) = parse("argv = ['no-such-program-anywhere']").unwrap();
    let error = run(&Bench::new(), &stage).unwrap_err();
    assert_eq!(error.category, Category::BadInput);
    assert!(error.hint.unwrap().contains("PATH"));
}

#[test]
fn environment_contains_only_declared_variables() {
    let stage = parse("argv = ['env']\nenv = ['VADPI_NOT_SET', 'PATH']").unwrap().0;
    let bench = Bench::new();
    run(&bench, &stage).unwrap();
    let log = bench.log();
    let mut names: Vec<&str> = log.lines().filter_map(|l| l.split_once('=')).map(|(name, _)| name).collect();
    names.sort_unstable();
    insta::assert_snapshot!(names.join(" "), @"HOME PATH TMPDIR VADPIPE_INPUTS VADPIPE_METRICS VADPIPE_OUTPUTS VADPIPE_SCRATCH");
}

#[test]
fn values_of_declared_variables_are_in_the_key() {
    // CARGO_MANIFEST_DIR is set while tests run; the other is not.
    let stage = script("true", "env = ['CARGO_MANIFEST_DIR', 'VADPI_NOT_SET']");
    let bench = Bench::new();
    let contents = contents(&bench, &stage);
    let names: Vec<&str> = contents.keys().map(String::as_str).collect();
    assert_eq!(names, ["env CARGO_MANIFEST_DIR", "env VADPI_NOT_SET"]);
    assert_ne!(contents["env CARGO_MANIFEST_DIR"], contents["env VADPI_NOT_SET"]);
}

#[test]
fn contents_of_sources_and_of_files_in_argv_are_in_the_key() {
    let bench = Bench::new();
    for name in ["run.sh", "settings.toml", "lib/a.sh", "lib/__pycache__/a.pyc", "lib/.hidden", "echo"] {
        let path = bench.base().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, name).unwrap();
    }
    let text = "argv = ['echo', './run.sh', '--with=settings.toml', 'none.txt']\nsources = ['lib/']";
    let (stage, values) = parse(text).unwrap();
    let before = contents(&bench, &stage);
    let names: Vec<&str> = before.keys().map(String::as_str).collect();
    // Not `echo`, which is looked for in PATH.
    assert_eq!(names, ["file ./run.sh", "file lib/a.sh", "file settings.toml"]);
    std::fs::write(bench.base().join("lib/a.sh"), "other").unwrap();
    let after = contents(&bench, &stage);
    assert_ne!(before["file lib/a.sh"], after["file lib/a.sh"]);
    assert_eq!(before["file ./run.sh"], after["file ./run.sh"]);
    assert_eq!(values["argv"], Value::from(vec!["echo", "./run.sh", "--with=settings.toml", "none.txt"]));
    let missing = parse("argv = ['true']\nsources = ['nowhere.py']").unwrap().0;
    let error = missing.contents(&Disk(bench.base().to_owned())).unwrap_err();
    assert!(matches!(error, StageError::BadInput { .. }), "{error}");
}

#[test]
fn files_next_to_the_pipeline_are_found_from_the_folder_of_the_command() {
    let bench = Bench::new();
    let base = bench.base();
    std::fs::create_dir(base.join("tools")).unwrap();
    std::fs::write(base.join("tools/greet.sh"), "#!/bin/sh\necho hello $1 > out.txt\n").unwrap();
    std::fs::set_permissions(base.join("tools/greet.sh"), PermissionsExt::from_mode(0o755)).unwrap();
    for argv in [
        "argv = ['tools/greet.sh', 'you']",
        "argv = ['sh', 'tools/greet.sh', 'you']",
        "argv = ['X=you; tools/greet.sh $X']\nshell = true",
        "argv = ['tools/greet.sh \"$1\"', 'you']\nshell = true",
    ] {
        let text = format!("{argv}\noutputs = {{ out = 'out.txt' }}");
        let stage = parse(&text).unwrap().0;
        assert_eq!(contents(&bench, &stage).into_keys().collect::<Vec<_>>(), ["file tools/greet.sh"]);
        let _ = std::fs::remove_dir_all(bench.outside().join("scratch/outputs"));
        assert_eq!(run(&bench, &stage).unwrap().files["out.txt"], b"hello you\n", "{argv}");
    }
}

#[test]
fn paths_with_special_characters_are_quoted_for_the_shell() {
    let bench = Bench::new();
    let name = "it's 100 % {ours}, é.txt";
    std::fs::write(bench.base().join(name), "text").unwrap();
    let quoted = program::words::quoted(bench.base().join(name));
    let stage = script(&format!("cp {} o", quoted.into_string().unwrap()), "outputs = { o = 'o' }");
    assert_eq!(run(&bench, &stage).unwrap().files["o"], b"text");
    assert_eq!(program::words::quoted("/a/b-c.txt".into()), "/a/b-c.txt");
}

#[test]
fn braces_without_a_placeholder_are_not_changed() {
    let stage = script("printf '%s' '{inputs} {x.y} {} {\"a\": 1}' > o", "outputs = { o = 'o' }");
    assert_eq!(run(&Bench::new(), &stage).unwrap().files["o"], br#"{inputs} {x.y} {} {"a": 1}"#);
}

#[test]
fn missing_output_is_named() {
    let message = failure(&Bench::new(), &script("true", "outputs = { plot = 'plot.png' }"));
    insta::assert_snapshot!(message, @"the command did not write its output `plot`; write it to {outputs.plot}, or to `plot.png` in the folder that the command starts in");
}

#[test]
fn output_that_is_not_a_regular_file_is_an_error() {
    let bench = Bench::new();
    std::fs::write(bench.base().join("secret"), "s").unwrap();
    let linked = script("ln -s {base}/secret out", "outputs = { o = 'out' }");
    assert_eq!(failure(&bench, &linked), "the output `o` (out) is a link or is behind one");
    let behind = script("rmdir d; ln -s {base} d", "outputs = { o = 'd/secret' }");
    assert_eq!(failure(&Bench::new(), &behind), "the output `o` (d/secret) is a link or is behind one");
    let folder = script("mkdir out", "outputs = { o = 'out' }");
    assert_eq!(failure(&Bench::new(), &folder), "the output `o` (out) is not a plain file: it is a directory");
    let pipe = script("mkfifo out", "outputs = { o = 'out' }");
    assert_eq!(failure(&Bench::new(), &pipe), "the output `o` (out) is not a plain file: it is a FIFO");
}

#[test]
fn undeclared_files_are_logged_and_dropped() {
    let bench = Bench::new();
    let artifact = run(&bench, &script("mkdir d; touch d/b a kept", "outputs = { k = 'kept' }")).unwrap();
    assert_eq!(artifact.files.into_keys().collect::<Vec<_>>(), ["kept"]);
    assert_eq!(bench.notes(), ["not kept, because `outputs` does not declare it: a, d/b"]);
}

/// Whether a process is there and runs.
fn runs(pid: &str) -> bool {
    let state = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    !state.is_empty() && !state.contains(") Z ")
}

#[test]
fn timeout_ends_the_whole_group_even_if_it_ignores_sigterm() {
    let bench = Bench::new();
    let pids = bench.outside().join("pids");
    let deaf = format!("(trap '' TERM; echo $$ > {0}; while :; do sleep 0.05; done) & wait; sleep 60", pids.display());
    // $$ in a subshell is the script's own process, so ask the shell below for its own number.
    let deaf = deaf.replace("echo $$", "sh -c 'echo $PPID'");
    let start = Instant::now();
    let message = failure(&bench, &script(&deaf, "timeout_seconds = 1"));
    assert_eq!(message, "`/bin/sh` took longer than 1 s and was ended, without any output");
    let pid = std::fs::read_to_string(pids).unwrap();
    assert!(!runs(pid.trim()), "{pid} still runs");
    assert!(start.elapsed() < Duration::from_secs(30));
}

#[test]
fn processes_left_running_after_success_are_ended() {
    let bench = Bench::new();
    let stage = script("sleep 60 & echo $! > pid", "outputs = { pid = 'pid' }");
    let artifact = run(&bench, &stage).unwrap();
    let pid = String::from_utf8(artifact.files["pid"].clone()).unwrap();
    assert!(!runs(pid.trim()), "{pid} still runs");
    assert_eq!(bench.notes(), ["`/bin/sh` left processes running; they were ended"]);
}

#[test]
fn interruption_ends_the_command() {
    let bench = Bench::new();
    let cancel = bench.cancel.clone();
    let stopper = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(200));
        cancel.cancel();
    });
    let error = run(&bench, &script("sleep 60", "")).unwrap_err();
    stopper.join().unwrap();
    assert_eq!(error.category, Category::Interrupted);
}

#[test]
fn wrong_parameters_have_clear_errors() {
    let errors = [
        "",
        "argv = []",
        "argv = ['x', '{outputs.plto}']\noutputs = { plot = 'p.png' }",
        "argv = ['x']\noutputs = { a = '/etc/passwd', b = '../b', c = 'd/', d = 3, 'e f' = 'e', g = 'metrics.json' }",
        "argv = ['x']\noutputs = { a = 'x/f', b = 'y/f' }",
        "argv = ['x']\noutputs = { a = 'Plot.png', b = 'plot.PNG', c = 'Metrics.json' }",
        "argv = ['x']\noutputs = 'a'",
        "argv = ['x']\nenv = ['A=B', 'VADPIPE_INPUTS']",
        "argv = ['x']\ntimeout = 3",
    ]
    .map(|text| parse(text).err().unwrap_or_else(|| format!("accepted: {text}")));
    insta::assert_snapshot!(errors.join("\n--\n"), @r#"
    `argv` or `python` is missing (give the program and its arguments: argv = ["julia", …], or a script: python = "train.py")
    --
    `argv` is empty, begins with an empty word or contains a NUL (its first word is the program)
    --
    `argv` contains `{outputs.plto}`, but the stage has no such output (did you mean `{outputs.plot}`?)
    --
    the output `/etc/passwd` is absolute (an output is a path below the output folder of the stage)
    the output `../b` contains `..` (an output is a path below the output folder of the stage)
    an output must be a string, not an integer (write `outputs = { plot = "plot.png" }`: a name, and a path below the output folder; the path of a folder ends with `/`)
    `e f` is not a valid name for an output (a name consists of A–Z, a–z, 0–9, `_` and `-`)
    the output `metrics.json` has a reserved name (an output is a path below the output folder of the stage)
    --
    two outputs have the file name `f` (the files of an artifact need different names)
    --
    the outputs `Plot.png` and `plot.PNG` differ only in case (some file systems ignore case)
    the output `Metrics.json` has a reserved name (an output is a path below the output folder of the stage)
    --
    `outputs` must be a table, not a string (write `outputs = { plot = "plot.png" }`: a name, and a path below the output folder; the path of a folder ends with `/`)
    --
    the program can't get the variable `A=B` (`env` lists the names of variables; names that begin with VADPIPE_ are reserved)
    the program can't get the variable `VADPIPE_INPUTS` (`env` lists the names of variables; names that begin with VADPIPE_ are reserved)
    --
    unknown field `timeout` (did you mean `timeout_seconds`?)
    "#);
}

#[test]
fn missing_input_in_argv_is_bad_input() {
    let error = run(&Bench::new(), &script("cat {inputs.dat}/notes.txt", "")).unwrap_err();
    assert_eq!(
        (error.category, error.message.as_str()),
        (Category::BadInput, "`argv` contains `{inputs.dat}`, but the stage has no such input")
    );
}

#[test]
fn missing_input_in_argv_is_found_before_the_run() {
    let read = |inputs: &str| {
        let text = format!(
            "pipeline.name = \"p\"\n[stages.data]\nkind = \"load-data\"\n[stages.c]\nkind = \"command\"\n{inputs}\n\
             argv = [\"cat\", \"{{inputs.data}}/notes.txt\"]\n"
        );
        let read = crate::spec::load(&text, "p.toml", Path::new("."), &[], &crate::stages::builtin());
        read.map(|_| ()).map_err(|e| e.message)
    };
    assert_eq!(read("inputs = { data = \"data\" }"), Ok(()));
    assert_eq!(read("inputs = { data = [\"data\"] }"), Ok(()));
    insta::assert_snapshot!(read("inputs = { dat = \"data\" }").unwrap_err(), @r#"
    error: `argv` contains `{inputs.data}`, but the stage has no such input
     --> p.toml:7:8
      |
    7 | argv = ["cat", "{inputs.data}/notes.txt"]
      |        ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
      |
      = help: add it: `inputs = { data = "STAGE" }` or `paths = { data = "FILE" }`

    1 error in the pipeline
    "#);
}

#[test]
fn timeout_is_not_in_the_key() {
    let (_, short) = parse("argv = ['x']\ntimeout_seconds = 1").unwrap();
    let (_, long) = parse("argv = ['x']\ntimeout_seconds = 9").unwrap();
    assert_eq!(short, long);
    let names: Vec<String> =
        parse("argv = ['x']\noutputs = {}\nsources = []\nenv = []").unwrap().1.into_keys().collect();
    assert_eq!(names, ["argv", "env", "outputs", "shell", "sources"]);
}
