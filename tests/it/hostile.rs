//! Special files, damaged files and hidden characters: no command hangs, and the message names the problem.

use std::io::Write as _;
use std::os::unix::fs::FileTypeExt as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use vadpipe::artifact::{Tensor, from_safetensors, to_safetensors};

use crate::support::{CommandOutput, Project, json};

/// Runs `vadpipe`. Fails if it does not end within 30 seconds.
pub(crate) fn ends(project: &Project, args: &[&str]) -> CommandOutput {
    let mut child = project.start(args);
    let start = Instant::now();
    while child.try_wait().expect("a process").is_none() {
        if start.elapsed() > Duration::from_secs(30) {
            child.kill().expect("killed");
            panic!("{args:?} hangs");
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    CommandOutput::of(child.wait_with_output().expect("output"))
}

fn make_fifo(path: &Path) {
    assert!(Command::new("mkfifo").arg(path).status().expect("mkfifo").success());
}

/// A pipeline of one command that runs `script`.
fn pipeline_of(script: &str, more: &str) -> String {
    format!(
        "[pipeline]\nname = \"p\"\n[stages.it]\nkind = \"command\"\nshell = true\nargv = ['''{script}''']\n{more}\n"
    )
}

#[test]
fn pipeline_file_that_is_a_fifo_socket_folder_or_device_is_refused() {
    let project = Project::new("");
    make_fifo(&project.path("fifo.toml"));
    let _socket = std::os::unix::net::UnixListener::bind(project.path("socket.toml")).expect("a socket");
    std::fs::create_dir(project.path("folder.toml")).expect("a folder");
    std::os::unix::fs::symlink("fifo.toml", project.path("link.toml")).expect("a link");
    for (file, what) in [
        ("fifo.toml", "a FIFO"),
        ("link.toml", "a FIFO"),
        ("socket.toml", "a socket"),
        ("folder.toml", "a directory"),
        ("/dev/zero", "a device"),
    ] {
        for command in ["plan", "run", "metrics"] {
            let output = ends(&project, &[command, file]);
            assert_eq!(output.code, 2, "{file}: {}", output.stderr);
            let wanted = format!("can't read the pipeline {file}\n  caused by: it is {what}, not a regular file");
            assert!(output.stderr.contains(&wanted), "{}", output.stderr);
        }
    }
}

#[test]
fn pipeline_file_over_64_mb_is_refused() {
    let project = Project::new("");
    std::fs::File::create(project.path("p.toml")).and_then(|f| f.set_len(1 << 40)).expect("a sparse file");
    let output = ends(&project, &["plan", "p.toml"]);
    assert_eq!(output.code, 2, "{}", output.stderr);
    assert!(output.stderr.contains("it has more than 67108864 bytes"), "{}", output.stderr);
}

#[test]
fn fifo_among_data_or_sources_is_refused() {
    let project = Project::new(
        "[pipeline]\nname = \"p\"\n[stages.data]\nkind = \"load-data\"\nsource = \"idx\"\npath = \"d\"\ntest = 0\n\
         [stages.it]\nkind = \"command\"\nargv = [\"true\"]\nsources = [\"scripts\"]\n",
    );
    project.write("d/train-images-idx3-ubyte", "");
    make_fifo(&project.path("d/train-labels-idx1-ubyte.gz"));
    project.write("scripts/a.py", "");
    make_fifo(&project.path("scripts/b.py"));
    for command in ["plan", "run"] {
        let output = ends(&project, &[command, "p.toml", "data"]);
        assert_eq!(output.code, 2, "{}", output.stderr);
        assert!(
            output.stderr.contains("train-labels-idx1-ubyte.gz: can't be read: it is a FIFO, not a regular file"),
            "{}",
            output.stderr
        );
        let output = ends(&project, &[command, "p.toml", "it"]);
        assert_eq!(output.code, 2, "{}", output.stderr);
        assert!(output.stderr.contains("the source `scripts/b.py` is a FIFO"), "{}", output.stderr);
    }
    let fifo = std::fs::metadata(project.path("scripts/b.py")).expect("still there");
    assert!(fifo.file_type().is_fifo());
}

#[test]
fn output_that_is_a_fifo_or_too_large_fails_its_stage() {
    for (script, what) in [
        ("mkfifo out", "is not a plain file: it is a FIFO"),
        ("ln -s /dev/zero out", "is a link or is behind one"),
        ("truncate -s 10T out", "has 10995116277760 bytes, but the file system of the cache has room for "),
        ("touch out; truncate -s 1T {metrics}", "the metrics file has more than 16777216 bytes, the limit"),
        ("touch out; mkfifo {metrics}", "the metrics file is not a plain file: it is a FIFO"),
    ] {
        let project = Project::new(&pipeline_of(script, "outputs = { o = \"out\" }"));
        let output = ends(&project, &["run", "p.toml"]);
        assert_eq!(output.code, 1, "{script}: {}", output.stderr);
        assert!(output.stderr.contains(what), "{script}: {}", output.stderr);
    }
}

#[test]
fn reading_an_output_named_like_its_stage_fails_with_the_reason() {
    let project = Project::new(&pipeline_of(
        "echo mine > {outputs.o}",
        "outputs = { o = \"it\" }\n[stages.reads]\nkind = \"command\"\ninputs = { x = \"it\" }\nargv = [\"true\"]",
    ));
    let output = project.vadpipe(["run", "p.toml"]);
    assert_eq!(output.code, 2, "{}", output.stderr);
    assert!(
        output.stderr.contains("`it` has a file `it`") && output.stderr.contains("another file name"),
        "{}",
        output.stderr
    );
}

#[test]
fn too_few_file_handles_give_no_hint_to_remove_a_data_file() {
    let project = Project::new("[pipeline]\nname = \"p\"\n[stages.data]\nkind = \"load-data\"\ntest = 0\n");
    for name in ["train-images-idx3-ubyte", "train-labels-idx1-ubyte"] {
        project.write(&format!("d/{name}"), "these bytes have the wrong digest");
    }
    let mut short = 0;
    for handles in 6..40 {
        let script = format!("ulimit -n {handles}; exec \"$0\" run p.toml --data-dir d --cache c{handles}");
        let output = Command::new("sh")
            .args(["-c", &script, env!("CARGO_BIN_EXE_vadpipe")])
            .current_dir(project.path(""))
            .stdin(Stdio::null())
            .output()
            .expect("sh");
        let output = CommandOutput::of(output);
        assert_ne!(output.code, 0);
        if output.stderr.contains("train-images") && output.stderr.contains("Too many open files") {
            short += 1;
            assert!(!output.stderr.contains("remove the file"), "{handles}: {}", output.stderr);
        }
        if output.stderr.contains("not an IDX file") {
            assert!(output.stderr.contains("remove the file"), "{handles}: {}", output.stderr);
        }
    }
    assert!(short > 0, "no limit made only the data file fail");
}

/// Control characters, characters that reorder text, and invisible characters.
const HIDDEN: [char; 6] = ['\u{202e}', '\u{2066}', '\u{200b}', '\u{feff}', '\u{1b}', '\u{9b}'];

fn assert_nothing_hidden(text: &str) {
    assert!(!text.contains(HIDDEN), "{text:?}");
}

#[test]
fn hidden_characters_in_names_are_escaped_in_output() {
    let project = Project::new(
        "[pipeline]\nname = \"p\"\n[matrix]\nw = [\"a\u{202e}b\", \"c\u{200b}\"]\n[stages.it]\nkind = \"command\"\n\
         argv = [\"sh\", \"-c\", \"true\", \"${matrix.w}\"]\n",
    );
    for args in [&["plan", "p.toml"][..], &["run", "p.toml"], &["log", "last"], &["graph", "p.toml"]] {
        let output = project.vadpipe(args);
        assert_eq!(output.code, 0, "{}", output.stderr);
        let both = output.stdout + &output.stderr;
        assert_nothing_hidden(&both);
        assert!(both.contains(r"it@w=a\u{202e}b") && both.contains(r"it@w=c\u{200b}"), "{args:?}: {both}");
    }
    let names = json(&project.vadpipe(["plan", "p.toml", "--json"]));
    assert_eq!(names["stages"][0]["name"], "it@w=a\u{202e}b", "JSON is exact");
    project.write("p.toml", "[pipeline]\nname = \"p\"\n[stages.\"a\u{202e}b\"]\nkind = \"lo\u{2066}ad\"\n");
    let output = project.vadpipe(["plan", "p.toml"]);
    assert_eq!(output.code, 2);
    assert_nothing_hidden(&output.stderr);
    assert!(output.stderr.contains(r"a\u{202e}b") && output.stderr.contains(r"lo\u{2066}ad"), "{}", output.stderr);
}

#[test]
fn hidden_characters_in_program_messages_and_metrics_are_escaped_in_output() {
    let script = r#"printf '\342\200\256oops \033[2J\r' >&2; printf '{"m\342\200\256": 1}' > {metrics}"#;
    let project = Project::new(&pipeline_of(&format!("{script}; exit $(cat {{base}}/code)"), ""));
    project.write("code", "1");
    let output = project.vadpipe(["run", "p.toml"]);
    assert_eq!(output.code, 1, "{}", output.stderr);
    assert_nothing_hidden(&output.stderr);
    assert!(output.stderr.contains(r"\u{202e}oops \u{1b}[2J"), "{}", output.stderr);
    let log = project.vadpipe(["log", "last", "--stage", "it"]);
    assert_nothing_hidden(&log.stdout);
    assert!(log.stdout.contains(r"\u{202e}oops \u{1b}[2J\r"), "{}", log.stdout);
    let events = project.try_run(&[]);
    let failure = events.of_kind("stage-failed").next().expect("a failure");
    assert!(failure["error"].as_str().expect("text").contains("\u{202e}oops \u{1b}[2J"), "JSON is exact: {failure}");

    project.write("code", "0");
    assert_eq!(project.vadpipe(["run", "p.toml"]).code, 0);
    let table = project.vadpipe(["metrics", "p.toml"]).stdout;
    assert!(table.contains(r"m\u{202e}"), "{table}");
    assert_nothing_hidden(&table);
    assert!(project.vadpipe(["metrics", "p.toml", "--csv"]).stdout.contains("m\u{202e}"), "CSV in a pipe is exact");
    assert_eq!(json(&project.vadpipe(["metrics", "p.toml", "--json"]))["it"]["m\u{202e}"], 1.0);
}

#[test]
fn damaged_safetensors_output_fails_with_the_problem_and_its_place() {
    let script = "cp {base}/t.safetensors out.safetensors";
    let project =
        Project::new(&pipeline_of(script, "outputs = { o = \"out.safetensors\" }\nsources = [\"t.safetensors\"]"));
    let whole = to_safetensors([("x", &Tensor::vector(&[1f32, 2.0]))]).expect("a file");
    let text = |from: &str, to: &str| {
        let at = whole.windows(from.len()).position(|w| w == from.as_bytes()).expect("it is there");
        let mut bytes = whole.clone();
        bytes[at..at + to.len()].copy_from_slice(to.as_bytes());
        bytes
    };
    for (bytes, what) in [
        (whole[..whole.len() - 1].to_vec(), "tensor `x` has the data offsets [0, 8], but the file has 7 bytes of data"),
        (whole[..20].to_vec(), "its first 8 bytes give a header of 56 bytes, but only 12 follow"),
        (text("F32", "F99"), "tensor `x` has the unknown dtype `F99`"),
        (text("[2]", "[3]"), "tensor `x` of type F32 and shape [3] takes 12 bytes, but its data offsets hold 8"),
        (text("{\"x\"", "}\"x\""), "its header is not JSON: expected value at line 1 column 1"),
    ] {
        std::fs::File::create(project.path("t.safetensors")).and_then(|mut f| f.write_all(&bytes)).expect("a file");
        let output = project.vadpipe(["run", "p.toml"]);
        assert_eq!(output.code, 1, "{}", output.stderr);
        assert!(output.stderr.contains(&format!("not a safetensors file: {what}")), "{what}: {}", output.stderr);
    }
}

#[test]
fn export_keeps_tensors_and_files_of_the_same_name_apart() {
    let images = Tensor::new([2, 3, 3], &[7u8; 18]).expect("a tensor");
    let (one, two) = (Tensor::vector(&[1f32]), Tensor::vector(&[2f32]));
    let bytes = to_safetensors([("a", &images), ("tensors.x", &two), ("x", &one)]).expect("a file");
    let project = Project::new(&pipeline_of(
        "cp {base}/t.safetensors {outputs.t}; echo mine > a.png",
        "outputs = { t = \"own.safetensors\", p = \"a.png\" }\nsources = [\"t.safetensors\"]",
    ));
    std::fs::write(project.path("t.safetensors"), bytes).expect("a file");
    let output = project.vadpipe(["run", "p.toml"]);
    assert_eq!(output.code, 0, "{}", output.stderr);
    let output = project.vadpipe(["export", "p.toml", "--to", "out"]);
    assert_eq!(output.code, 0, "{}", output.stderr);
    let exported = std::fs::read(project.path("out/it/tensors.safetensors")).expect("tensors");
    let tensors = from_safetensors(&exported).expect("a safetensors file");
    assert_eq!(tensors.keys().collect::<Vec<_>>(), ["a", "tensors.x", "x"]);
    assert_eq!((&tensors["x"], &tensors["tensors.x"]), (&one, &two));
    assert_eq!(project.read("out/it/a.png"), "mine\n");
    assert!(std::fs::read(project.path("out/it/a-2.png")).expect("a picture").starts_with(b"\x89PNG"));
    assert!(output.stderr.contains("wrote out/it/a-2.png (a.png is another file)"), "{}", output.stderr);
    assert_eq!(project.vadpipe(["export", "p.toml", "--to", "out"]).code, 2, "existing files are not overwritten");
}
