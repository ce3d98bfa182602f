//! `python = "train.py"`: the interpreter that is found beside the pipeline, and what it changes in the key.

use std::os::unix::fs::PermissionsExt as _;
use std::process::Command;

use crate::support::{CommandOutput, Project, Run, has, has_python, json, text, wait_for};

const COMMAND: &str = "[pipeline]\nname = \"p\"\n[stages.work]\nkind = \"command\"\npython = \"work.py\"\n\
                       outputs = { out = \"out.txt\" }\n";

/// Writes the prefix of the interpreter and the python3 in PATH.
const WORK: &str = "import shutil, sys\nopen('out.txt', 'w').write(f\"{sys.prefix} {shutil.which('python3')}\")\n";

/// A uv that lists its calls in `uv.log`, and provides the python3 in PATH.
const UV: &str = r#"#!/bin/sh
echo "$@ (dep-file: ${VADPIPE_DEPFILE:-none})" >> "$(dirname "$0")/../uv.log"
echo "a message of uv" >&2
case "$1" in
run) while [ "$1" != -- ]; do shift; done; shift; exec "$@" ;;
python) command -v python3 ;;
esac
"#;

/// A project with a stage `work` that runs `work.py`. `None` without Python.
fn project(pipeline: &str, script: &str) -> Option<Project> {
    has_python().then(|| {
        let project = Project::new(pipeline);
        project.write("work.py", script);
        project
    })
}

/// Makes an environment without packages, which is quick.
fn make_venv(project: &Project) {
    let made = Command::new("python3").args(["-m", "venv", "--without-pip"]).arg(project.path(".venv")).status();
    assert!(made.expect("Python starts").success());
}

fn write_program(project: &Project, name: &str, text: &str) {
    project.write(name, text);
    let executable = std::fs::Permissions::from_mode(0o755);
    std::fs::set_permissions(project.path(name), executable).expect("permissions");
}

/// Runs `vadpipe` with the programs in the folder `bin` of the project.
fn with_bin(project: &Project, args: &[&str]) -> CommandOutput {
    let path = std::env::var("PATH").unwrap_or_default();
    let mut command = project.command(args);
    command.env("PATH", format!("{}:{path}", project.path("bin").display()));
    CommandOutput::of(command.output().expect("vadpipe starts"))
}

/// Runs the pipeline with the programs in `bin`, and returns the stages that ran.
fn executed(project: &Project) -> Vec<String> {
    let run = Run::of(with_bin(project, &["run", "p.toml", "--json"]));
    assert_eq!(run.output.code, 0, "{}\n{}", run.output.stdout, run.output.stderr);
    run.executed()
}

/// What uv was asked since the last call of this function.
fn uv_calls(project: &Project) -> String {
    let calls = std::fs::read_to_string(project.path("uv.log")).unwrap_or_default();
    project.write("uv.log", "");
    let base = project.path("").canonicalize().expect("a folder");
    calls.replace(base.to_str().expect("a path").trim_end_matches('/'), "BASE")
}

fn output(project: &Project) -> String {
    assert_eq!(project.vadpipe(["export", "p.toml", "work", "--to", "out", "--overwrite"]).code, 0);
    project.read("out/work/out.txt")
}

fn key(project: &Project) -> String {
    text(&project.plan(&[])["work"]["key"])
}

#[test]
fn environment_beside_the_pipeline_runs_the_script_and_is_in_no_key() {
    let Some(project) = project(COMMAND, WORK) else { return };
    let without = key(&project);
    make_venv(&project);
    assert_eq!(key(&project), without);
    project.run(&[]);
    let venv = project.path(".venv").canonicalize().expect("a folder");
    assert_eq!(output(&project), format!("{0} {0}/bin/python3", venv.display()), "it is active");
    let shown = json(&project.vadpipe(["show", "p.toml", "work", "--json"]));
    let program = text(&shown["work"]["provenance"]["program"]);
    assert!(program.starts_with(".venv/bin/python3 → /"), "{program}");
    std::fs::remove_dir_all(venv).expect("it is removed");
    assert_eq!(project.run(&[]).executed(), [""; 0], "the result counts without the environment");
    assert!(project.vadpipe(["explain", "p.toml", "work"]).stdout.contains("  program     was .venv/bin/python3 → /"));
    let elsewhere = Project::new(COMMAND);
    elsewhere.write("work.py", WORK);
    assert_eq!(key(&elsewhere), without, "in another folder");
    elsewhere.run(&[]);
    assert!(!output(&elsewhere).contains(".venv"));
}

#[test]
fn files_of_the_environment_do_not_count_as_read() {
    let script = "import pathlib\nhere = pathlib.Path(__file__).parent\n\
                  open('out.txt', 'w').write((here / '.venv/note').read_text() + (here / 'note').read_text())\n";
    let Some(project) = project(COMMAND, script) else { return };
    make_venv(&project);
    project.write(".venv/note", "1");
    project.write("note", "1");
    project.run(&[]);
    project.write(".venv/note", "2");
    assert_eq!(project.run(&[]).executed(), [""; 0]);
    project.write("note", "2");
    assert_eq!(project.plan(&[])["work"]["reason"]["text"], "file note changed");
}

#[test]
fn arguments_and_placeholders_follow_the_script() {
    let pipeline = COMMAND.replace("\"work.py\"", "[\"work.py\", \"--rate\", 0.5, \"{outputs.out}\", \"data.txt\"]");
    let script = "import sys\nopen(sys.argv[3], 'w').write(' '.join(sys.argv[1:3]) + open(sys.argv[4]).read())\n";
    let Some(project) = project(&pipeline, script) else { return };
    project.write("data.txt", " data");
    project.run(&[]);
    assert_eq!(output(&project), "--rate 0.5 data");
    project.write("data.txt", " more");
    assert_eq!(project.plan(&[])["work"]["reason"]["text"], "file data.txt changed");
    project.write("work.py", &format!("{script}# edited\n"));
    project.write("data.txt", " data");
    assert_eq!(project.plan(&[])["work"]["reason"]["text"], "file work.py changed");
    let explained = project.vadpipe(["explain", "p.toml", "work"]).stdout;
    let parameter = "  parameter   python = [\"work.py\", \"--rate\", \"0.5\", \"{outputs.out}\", \"data.txt\"]\n";
    assert!(explained.contains(parameter), "{explained}");
}

#[test]
fn string_is_a_list_with_the_script_and_at_may_replace_argv() {
    let pipeline = COMMAND.replace("[stages.work]", "[stages.work]\nmatrix = { m = [1, 2] }")
        + "[stages.work.at.\"m=2\"]\nargv = [\"sh\", \"-c\", \"echo > out.txt\", \"${matrix.m}\"]\n";
    let Some(project) = project(&pipeline, WORK) else { return };
    let keys = || project.plan(&[]).into_iter().map(|(name, stage)| (name, text(&stage["key"]))).collect::<Vec<_>>();
    let before = keys();
    assert_eq!(project.run(&[]).executed(), ["work@m=1", "work@m=2"]);
    project.edit("python = \"work.py\"", "python = [\"work.py\"]");
    assert_eq!(keys(), before);
}

#[test]
fn uv_provides_the_packages_of_a_project_and_its_lock_file_is_in_the_key() {
    let Some(project) = project(COMMAND, WORK) else { return };
    write_program(&project, "bin/uv", UV);
    let before = key(&project);
    project.write("uv.lock", "version = 1\n");
    let locked = key(&project);
    assert_ne!(locked, before);
    assert_eq!(executed(&project), ["work"]);
    let call = "run --locked --project BASE -- python3 -c import sys; print(sys.executable) (dep-file: none)\n";
    assert_eq!(uv_calls(&project), call);
    let log = project.vadpipe(["log", "last", "--stage", "work"]).stdout;
    assert!(log.contains("a message of uv") && !log.contains("/bin/python"), "{log}");
    make_venv(&project);
    assert_eq!(key(&project), locked, "the environment that uv makes is in no key");
    assert_eq!(executed(&project), [""; 0]);
    project.write("uv.lock", "version = 2\n");
    assert_eq!(project.plan(&[])["work"]["reason"]["text"], "file uv.lock changed");
    assert_eq!(executed(&project), ["work"]);
    project.write("uv.lock", "version = 1\n");
    assert_eq!(executed(&project), [""; 0], "the first result was kept");
}

#[test]
fn uv_provides_the_packages_that_a_script_declares() {
    let script = format!("# /// script\n# dependencies = []\n# ///\n{WORK}");
    let Some(project) = project(&COMMAND.replace("work.py", "src/work.py"), "") else { return };
    write_program(&project, "bin/uv", UV);
    project.write("src/work.py", &script);
    let before = key(&project);
    project.write("uv.lock", "version = 1\n");
    assert_eq!(key(&project), before, "the script does not use the packages of the project");
    assert_eq!(executed(&project), ["work"]);
    insta::assert_snapshot!(uv_calls(&project), @r"
    sync --script BASE/src/work.py (dep-file: none)
    python find --script BASE/src/work.py (dep-file: none)
    ");
    project.write("src/work.py.lock", "version = 1\n");
    assert_eq!(project.plan(&[])["work"]["reason"]["text"], "file src/work.py.lock changed");
    assert_eq!(executed(&project), ["work"]);
    assert!(uv_calls(&project).starts_with("sync --locked --script BASE/src/work.py"));
}

#[test]
fn lock_file_that_changes_while_the_program_runs_costs_the_result() {
    let script = "import pathlib, time\nhere = pathlib.Path(__file__).parent / 'signals'\n(here / 'started').touch()\n\
                  while not (here / 'go').exists(): time.sleep(0.01)\nopen('out.txt', 'w').write('')\n";
    let Some(project) = project(&format!("{COMMAND}sources = [\"uv.lock\"]\n"), script) else { return };
    write_program(&project, "bin/uv", UV);
    project.write("signals/note", "");
    project.write("uv.lock", "version = 1\n");
    let path = format!("{}:{}", project.path("bin").display(), std::env::var("PATH").unwrap_or_default());
    let run = project.command(["run", "p.toml", "--json"]).env("PATH", path).spawn().expect("it starts");
    wait_for(&project.path("signals/started"));
    project.write("uv.lock", "version = 2\n");
    project.write("signals/go", "");
    let run = Run::of(CommandOutput::of(run.wait_with_output().expect("it ends")));
    assert_eq!((run.output.code, run.failed()), (2, vec!["work".to_owned()]));
    assert!(run.output.stdout.contains("file uv.lock changed while the stage ran"), "{}", run.output.stdout);
}

#[test]
fn training_with_uv_asks_it_before_each_process() {
    let script = "import json, os\nstart, end = (int(os.environ['VADPIPE_' + name]) for name in ('FROM', 'TO'))\n\
                  for epoch in range(start, end):\n    \
                  line = json.dumps({'epoch': epoch + 1, 'loss': 1 / (epoch + 1)})\n    \
                  open(os.environ['VADPIPE_LOG'], 'a').write(line + '\\n')\n\
                  open(os.environ['VADPIPE_STATE_OUT'] + '/n', 'w').write(str(end))\n";
    let pipeline = "[pipeline]\nname = \"p\"\n[stages.work]\nkind = \"train-command\"\npython = \"work.py\"\n\
                    segment_epochs = 2\nepochs = 4\n";
    let Some(project) = project(pipeline, script) else { return };
    write_program(&project, "bin/uv", UV);
    project.write("uv.lock", "version = 1\n");
    assert_eq!(executed(&project), ["work"]);
    assert_eq!(uv_calls(&project).lines().count(), 2);
    project.write("uv.lock", "version = 2\n");
    let run = Run::of(with_bin(&project, &["run", "p.toml", "--json", "-S", "stages.work.epochs=6"]));
    assert_eq!(run.trained(), [1, 2, 3, 4, 5, 6], "other packages train from the beginning");
}

#[test]
fn mistakes_are_reported_with_their_place() {
    let error = |more: &str| {
        let project = Project::new(&COMMAND.replace("python = \"work.py\"", more));
        let output = project.vadpipe(["plan", "p.toml"]);
        assert_eq!(output.code, 2, "{}", output.stdout);
        output.stderr.replace(&*project.path("").to_string_lossy(), "")
    };
    insta::assert_snapshot!(error("argv = [\"true\"]\npython = \"work.py\""), @r#"
    error: the stage has both `argv` and `python`
     --> p.toml:6:10
      |
    6 | python = "work.py"
      |          ^^^^^^^^^
      |
      = help: give one of the two

    1 error in the pipeline
    "#);
    insta::assert_snapshot!(error(""), @r#"
    error: `argv` or `python` is missing
     --> p.toml:3:9
      |
    3 | [stages.work]
      |         ^^^^
      |
      = help: give the program and its arguments: argv = ["julia", …], or a script: python = "train.py"

    1 error in the pipeline
    "#);
    insta::assert_snapshot!(error("python = \"work.py\""), @r"
    error: stage `work`: `python` names the script `work.py`, which does not exist
     --> p.toml:3:9
      |
    3 | [stages.work]
      |         ^^^^
      |
      = help: looked for work.py

    1 error in the pipeline
    ");
    insta::assert_snapshot!(error("python = [\"-m\", \"work\"]"), @r#"
    error: `python` begins with an option, not with a script
     --> p.toml:5:10
      |
    5 | python = ["-m", "work"]
      |          ^^^^^^^^^^^^^^
      |
      = help: for options of Python, write argv = ["python3", "-m", …]

    1 error in the pipeline
    "#);
    insta::assert_snapshot!(error("python = 3"), @r"
    error: `python` must be a string, or a list of strings or numbers, not 3
     --> p.toml:5:10
      |
    5 | python = 3
      |          ^

    1 error in the pipeline
    ");
    insta::assert_snapshot!(error("python = [\"work.py\", \"{metric}\"]"), @r#"
    error: `python` contains `{metric}`, which is not a placeholder
     --> p.toml:5:10
      |
    5 | python = ["work.py", "{metric}"]
      |          ^^^^^^^^^^^^^^^^^^^^^^^
      |
      = help: did you mean `{metrics}`?

    1 error in the pipeline
    "#);
    insta::assert_snapshot!(error("python = []\nshell = true"), @r"
    error: `python` is empty, begins with an empty word or contains a NUL
     --> p.toml:5:10
      |
    5 | python = []
      |          ^^
      |
      = help: its first word is the script

    error: `shell` does not go with `python`
     --> p.toml:6:9
      |
    6 | shell = true
      |         ^^^^
      |
      = help: `argv` has the script for /bin/sh

    2 errors in the pipeline
    ");
}

#[test]
fn missing_uv_and_a_broken_environment_fail_when_the_stage_starts() {
    let Some(project) = project(COMMAND, WORK) else { return };
    // A folder with python3 and without uv.
    let python = Command::new("python3").args(["-c", "import sys; print(sys.executable)"]).output().expect("it starts");
    let python = String::from_utf8(python.stdout).expect("a path");
    std::fs::create_dir(project.path("bin")).expect("a folder");
    std::os::unix::fs::symlink(python.trim(), project.path("bin/python3")).expect("a link");
    let run = || {
        let output = project.command(["run", "p.toml", "-q"]).env("PATH", project.path("bin")).output();
        let output = CommandOutput::of(output.expect("it starts"));
        assert_eq!(output.code, 2, "{}", output.stdout);
        let base = project.path("").canonicalize().expect("a folder");
        let message = output.stderr.replace(base.to_str().expect("a path"), "").replace(" /", " ");
        message.lines().take(2).collect::<Vec<_>>().join("\n")
    };
    project.write("uv.lock", "version = 1\n");
    insta::assert_snapshot!(run(), @r"
      FAILED work: uv.lock exists, so uv provides its packages, but `uv` is not in PATH
             hint: install it: pip install uv
    ");
    assert_eq!(project.plan(&[])["work"]["state"], "miss", "plan needs no uv");
    std::fs::remove_file(project.path("uv.lock")).expect("it is removed");
    std::fs::create_dir(project.path(".venv")).expect("a folder");
    insta::assert_snapshot!(run(), @r"
      FAILED work: the environment .venv has no `bin/python3`
             hint: make it again, or remove it to use `python3` in PATH
    ");
}

/// A training that logs the number in the module `mypkg` for each epoch. The process for epoch 2 waits for the file
/// `go` before it imports the module.
const LOGS_RATE: &str = r#"
import json, os, pathlib, time
start, end = (int(os.environ["VADPIPE_" + name]) for name in ("FROM", "TO"))
signals = pathlib.Path(os.environ["SIGNALS"])
if start == 1:
    (signals / "started").touch()
    while not (signals / "go").exists():
        time.sleep(0.01)
import mypkg
for epoch in range(start, end):
    with open(os.environ["VADPIPE_LOG"], "a") as log:
        log.write(json.dumps({"epoch": epoch + 1, "rate": mypkg.RATE}) + "\n")
open(os.environ["VADPIPE_STATE_OUT"] + "/n", "w").write(str(end))
"#;

/// Trains with a module that `.venv` has as editable, and edits it between two segments.
fn edit_editable_module_between_segments(folder: &str, sources: &str) {
    let pipeline = format!(
        "[pipeline]\nname = \"p\"\n[stages.net]\nkind = \"train-command\"\npython = \"scripts/train.py\"\n\
         pass_env = [\"SIGNALS\"]\nsegment_epochs = 1\nepochs = 1\n{sources}"
    );
    let Some(project) = project(&pipeline, "") else { return };
    make_venv(&project);
    let lib = std::fs::read_dir(project.path(".venv/lib")).expect("a folder").next().expect("one").expect("a folder");
    let packages = lib.path().join("site-packages/mypkg.pth");
    std::fs::write(packages, project.path(folder).display().to_string()).expect("written");
    project.write("scripts/train.py", LOGS_RATE);
    let module = format!("{folder}mypkg.py");
    project.write(&module, "RATE = 1\n");
    project.write("signals/note", "");
    let command = || {
        let mut command = project.command(["run", "p.toml", "--json"]);
        command.env("SIGNALS", project.path("signals"));
        command
    };
    let trained = || {
        let run = Run::of(CommandOutput::of(command().output().expect("it starts")));
        assert_eq!(run.output.code, 0, "{}", run.output.stderr);
        run.trained()
    };
    // From the second run on, the mirror has copies of files that the program read.
    assert_eq!(trained(), [1]);
    project.edit("\nepochs = 1\n", "\nepochs = 3\n");
    let run = command().stdout(std::process::Stdio::piped()).spawn().expect("it starts");
    wait_for(&project.path("signals/started"));
    project.write(&module, "RATE = 22\n");
    project.write("signals/go", "");
    let run = Run::of(CommandOutput::of(run.wait_with_output().expect("it ends")));
    assert_eq!(run.output.code, 0, "{}", run.output.stdout);
    let warning = format!("{module} changed while `net` ran, so its result won't be reused");
    assert!(run.of_kind("warning").any(|event| event["message"] == warning), "{}", run.output.stdout);
    project.write(&module, "RATE = 1\n");
    assert_eq!(trained(), [2, 3], "epochs of the edited module don't count");
    let metrics = json(&project.vadpipe(["metrics", "p.toml", "--json"]));
    assert_eq!(metrics["net"]["rate"], 1.0);
    assert_eq!(trained(), [0u64; 0], "the module did not change in the last run");
}

#[test]
fn named_module_that_is_imported_in_place_and_edited_during_a_training_does_not_count_as_its_copy() {
    edit_editable_module_between_segments("src/", "sources = [\"src\"]\n");
}

#[test]
fn module_that_is_imported_in_place_and_edited_during_a_training_does_not_count_as_its_copy() {
    edit_editable_module_between_segments("", "");
}

#[test]
fn lock_file_and_environment_are_found_above_the_pipeline_up_to_the_repository() {
    let Some(project) = project(COMMAND, WORK) else { return };
    for folder in ["repo/.git", "repo/sub/pipelines"] {
        std::fs::create_dir_all(project.path(folder)).expect("a folder");
    }
    let read = "import shutil, sys, mine\nopen('out.txt', 'w').write(sys.prefix + mine.TEXT)\n";
    for (name, text) in [("p.toml", COMMAND), ("work.py", read)] {
        project.write(&format!("repo/sub/pipelines/{name}"), text);
    }
    let inner = project.path("repo/sub/pipelines").canonicalize().expect("a folder");
    let plan = || {
        let plan = project.command(["plan", "p.toml", "--json"]).current_dir(&inner).output().expect("it starts");
        json(&CommandOutput::of(plan))["stages"][0].clone()
    };
    let without = plan()["key"].clone();
    project.write("uv.lock", "version = 0\n");
    assert_eq!(plan()["key"], without, "above the repository");
    let repo = Command::new("python3").args(["-m", "venv", "--without-pip"]).arg(project.path("repo/.venv")).status();
    assert!(repo.expect("Python starts").success());
    let lib = std::fs::read_dir(project.path("repo/.venv/lib")).expect("a folder").next().expect("one").expect("one");
    let source = project.path("repo/src").canonicalize().unwrap_or_else(|_| project.path("repo/src"));
    std::fs::write(lib.path().join("site-packages/mine.pth"), source.display().to_string()).expect("written");
    project.write("repo/src/mine.py", "TEXT = 'one'\n");
    assert_eq!(plan()["key"], without, "the environment is in no key");
    let run = || {
        let path = format!("{}:{}", project.path("bin").display(), std::env::var("PATH").unwrap_or_default());
        let run = project.command(["run", "p.toml", "--json"]).current_dir(&inner).env("PATH", path).output();
        let run = Run::of(CommandOutput::of(run.expect("it starts")));
        assert_eq!(run.output.code, 0, "{}", run.output.stdout);
        run.executed()
    };
    assert_eq!(run(), ["work"]);
    project.write("repo/src/mine.py", "TEXT = 'two'\n");
    assert_eq!(plan()["reason"]["text"], "file ../../src/mine.py changed", "the environment's folder is the project");
    // A uv that provides the environment.
    let uv = UV.replace("exec \"$@\"", "shift; exec \"$(dirname \"$0\")/../repo/.venv/bin/python3\" \"$@\"");
    write_program(&project, "bin/uv", &uv);
    project.write("repo/uv.lock", "version = 1\n");
    assert_ne!(plan()["key"], without);
    assert_eq!(run(), ["work"]);
    assert!(uv_calls(&project).starts_with("run --locked --project BASE/repo/sub/pipelines -- python3"));
    project.write("repo/uv.lock", "version = 2\n");
    let above = plan();
    assert_eq!(above["reason"]["text"], "file uv.lock changed");
    std::fs::rename(project.path("repo/uv.lock"), inner.join("uv.lock")).expect("it is moved");
    assert_eq!(plan()["key"], above["key"], "wherever the lock file lies");
}

#[test]
fn uv_ends_at_the_time_limit_of_the_stage_and_an_old_one_is_named() {
    let Some(project) = project(&format!("{COMMAND}timeout_seconds = 1\n"), WORK) else { return };
    project.write("uv.lock", "version = 1\n");
    let failure = |uv: &str| {
        write_program(&project, "bin/uv", uv);
        let run = with_bin(&project, &["run", "p.toml", "-q"]);
        (run.code, run.stderr)
    };
    let (code, message) = failure("#!/bin/sh\ntest \"$1\" = --version || sleep 60\n");
    assert!(code == 1 && message.contains("`uv` took longer than 1 s and was ended"), "{message}");
    let old = "#!/bin/sh\ntest \"$1\" = --version && echo 'uv 0.6.9 (abc 2025-03-20)' && exit\n\
               echo \"error: unexpected argument '--script' found\" >&2\nexit 2\n";
    let (code, message) = failure(old);
    assert_eq!(code, 2, "{message}");
    assert!(message.contains("unexpected argument '--script' found"), "{message}");
    assert!(message.contains("hint: uv 0.6.9 is too old: `python` needs uv 0.6.10 or later"), "{message}");
    let (code, message) = failure(&old.replace("0.6.9", "0.10.0"));
    assert!(code == 1 && !message.contains("too old"), "{message}");
}

#[test]
fn real_uv_runs_a_project_and_a_script_from_their_lock_files() {
    if !has("uv") {
        eprintln!("uv is not installed: its environments were not made");
        return;
    }
    let Some(project) = project(COMMAND, "import mine\nopen('out.txt', 'w').write(mine.__file__)\n") else { return };
    project.write(
        "pyproject.toml",
        "[project]\nname = \"mine\"\nversion = \"0.1.0\"\nrequires-python = \">=3.8\"\n\
         [build-system]\nrequires = [\"uv_build\"]\nbuild-backend = \"uv_build\"\n",
    );
    project.write("src/mine/__init__.py", "");
    let uv = |args: &[&str]| {
        let mut uv = Command::new("uv");
        uv.args(args)
            .current_dir(project.path(""))
            .env("UV_OFFLINE", "1")
            .env("UV_CACHE_DIR", project.path("uv-cache"));
        assert!(uv.output().expect("uv starts").status.success(), "{args:?}");
    };
    let run = || {
        let mut run = project.command(["run", "p.toml", "--json"]);
        run.env("UV_OFFLINE", "1").env("UV_CACHE_DIR", project.path("uv-cache"));
        Run::of(CommandOutput::of(run.output().expect("it starts")))
    };
    uv(&["lock"]);
    assert_eq!(run().executed(), ["work"]);
    assert!(project.path(".venv/bin/python3").is_file(), "uv made the environment of the project");
    assert!(output(&project).ends_with("src/mine/__init__.py"), "{}", output(&project));
    project.write("src/mine/__init__.py", "# edited\n");
    assert_eq!(project.plan(&[])["work"]["reason"]["text"], "file src/mine/__init__.py changed");
    project.write("pyproject.toml", &(project.read("pyproject.toml") + "[dependency-groups]\nx = [\"mine\"]\n"));
    let stale = run();
    assert_eq!(stale.output.code, 1);
    assert!(stale.output.stdout.contains("--locked"), "it asks for a new lock: {}", stale.output.stdout);
    // A script with its own packages.
    let script = format!("# /// script\n# requires-python = \">=3.8\"\n# dependencies = []\n# ///\n{WORK}");
    project.write("work.py", &script);
    assert_eq!(run().executed(), ["work"]);
    assert!(output(&project).contains("uv-cache"), "{}", output(&project));
    assert!(!project.path("work.py.lock").exists());
    uv(&["lock", "--script", "work.py"]);
    assert_eq!(project.plan(&[])["work"]["reason"]["text"], "file work.py.lock changed");
    let lock = project.read("work.py.lock");
    assert_eq!(run().executed(), ["work"]);
    assert_eq!(project.read("work.py.lock"), lock);
}
