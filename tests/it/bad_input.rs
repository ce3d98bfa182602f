//! Invalid input is rejected with a clear message before anything runs, and no result is lost.

use crate::support::{MINI, Project};

#[test]
fn all_mistakes_in_a_file_are_reported_together_with_their_places() {
    let project = Project::new(
        "[pipeline]\nname = \"p\"\n\n[stages.data]\nkind = \"load-dta\"\n\n[stages.ad]\nkind = \"train-ad\"\n\
         inputs = { data = \"dat\" }\nepoch = 3\nlr = \"fast\"\n",
    );
    let output = project.vadpipe(["plan", "p.toml"]);
    assert_eq!(output.code, 2);
    for wanted in ["p.toml:5:8", "p.toml:9:", "p.toml:10:1", "p.toml:11:6", "`load-data`", "did you mean `epochs`?"] {
        assert!(output.stderr.contains(wanted), "{wanted} in {}", output.stderr);
    }
}

#[test]
fn error_of_invalid_toml_has_a_line_and_a_column() {
    let project = Project::new("[pipeline]\nname = \"p\"\n[stages.data\n");
    let output = project.vadpipe(["run", "p.toml"]);
    assert_eq!(output.code, 2);
    assert!(output.stderr.contains("p.toml:3:"), "{}", output.stderr);
}

#[test]
fn error_of_a_file_that_is_not_utf8_has_a_line_and_a_column() {
    let project = Project::new(MINI);
    std::fs::write(project.path("p.toml"), b"[pipeline]\nname = \"\xe9\"\n").expect("a file");
    let output = project.vadpipe(["plan", "p.toml"]);
    assert_eq!(output.code, 2);
    assert!(output.stderr.contains("p.toml:2:9"), "{}", output.stderr);
}

#[test]
fn missing_source_stops_the_run_or_with_keep_going_only_its_point() {
    let project = Project::new(&FAILING.replace(
        "argv = [\"sh\", \"-c\", \"echo this",
        "sources = [\"gone.py\"]\nargv = [\"sh\", \"-c\", \"echo this",
    ));
    let output = project.vadpipe(["run", "p.toml"]);
    assert_eq!(output.code, 2);
    assert!(output.stderr.contains("gone.py") && output.stderr.contains("p.toml:5:"), "{}", output.stderr);
    let run = project.try_run(&["-k"]);
    assert_eq!(run.output.code, 2, "{}{}", run.output.stdout, run.output.stderr);
    assert_eq!(
        (run.failed(), run.skipped(), run.executed()),
        (vec!["bad".into()], vec!["below".into()], vec!["beside".into()])
    );
}

#[test]
fn missing_file_and_misspelled_target_are_bad_input() {
    let project = Project::new(MINI);
    assert_eq!(project.vadpipe(["run", "q.toml"]).code, 2);
    let output = project.vadpipe(["run", "p.toml", "reprot"]);
    assert_eq!(output.code, 2);
    assert!(output.stderr.contains("did you mean `report`?"), "{}", output.stderr);
    assert_eq!(project.vadpipe(["export", "p.toml", "ad", "--to", "out"]).code, 2, "nothing is cached yet");
}

#[test]
fn diverging_training_fails_with_its_epoch_and_a_hint() {
    let project = Project::new(MINI);
    let run = project.try_run(&["ad", "-S", "stages.ad.lr=1e30", "-S", "stages.ad.latent_lr=1e30"]);
    assert_eq!(run.output.code, 1, "{}{}", run.output.stdout, run.output.stderr);
    assert_eq!((run.failed(), run.executed()), (vec!["ad".into()], vec!["data".into()]));
    let failure = run.of_kind("stage-failed").next().expect("a failure");
    assert!(failure["error"].to_string().contains("epoch"), "{failure}");
    assert!(
        std::path::Path::new(failure["log"].as_str().expect("a path")).is_absolute()
            || project.path(failure["log"].as_str().expect("a path")).is_file()
    );
}

const FAILING: &str = r#"
[pipeline]
name = "failing"

[stages.bad]
kind = "command"
argv = ["sh", "-c", "echo this is why >&2; exit 7"]

[stages.below]
kind = "command"
inputs = { x = "bad" }
argv = ["true"]

[stages.beside]
kind = "command"
inputs = {}
argv = ["sh", "-c", "echo x > \"$0\"", "{outputs.x}"]
outputs = { x = "x.txt" }
"#;

#[test]
fn failure_shows_its_cause_and_log_and_keep_going_runs_the_rest() {
    let project = Project::new(FAILING);
    let run = project.try_run(&["-k"]);
    assert_eq!(run.output.code, 1);
    assert_eq!(
        (run.failed(), run.skipped(), run.executed()),
        (vec!["bad".into()], vec!["below".into()], vec!["beside".into()])
    );
    let failure = run.of_kind("stage-failed").next().expect("a failure");
    assert!(
        failure["error"].to_string().contains('7') && failure["error"].to_string().contains("this is why"),
        "{failure}"
    );
    let log = failure["log"].as_str().expect("a path");
    assert!(
        project.read(log).contains("this is why") && project.read(log).contains("failed: "),
        "{}",
        project.read(log)
    );
    let output = project.vadpipe(["log", "last", "--stage", "bad"]);
    assert!(output.stdout.contains("this is why"), "{}{}", output.stdout, output.stderr);
}

#[test]
fn cache_of_a_newer_format_is_not_changed() {
    let project = Project::new(MINI);
    project.run(&["data"]);
    // A later version may also change the format of the journal.
    project.write("cache/index/journal", "of a later version");
    project.write("cache/FORMAT", "999\n");
    let output = project.vadpipe(["run", "p.toml"]);
    assert_eq!(output.code, 5, "{}", output.stderr);
    assert!(output.stderr.contains("999"), "{}", output.stderr);
    assert_eq!(project.read("cache/FORMAT"), "999\n");
}

#[test]
fn cache_that_can_not_be_created_is_an_error() {
    let project = Project::new(MINI);
    project.write("file", "not a folder");
    let output = project.vadpipe(["run", "p.toml", "data", "--cache", "file/cache"]);
    assert_eq!(output.code, 2, "{}", output.stderr);
    assert!(output.stderr.contains("file/cache is not a cache"), "{}", output.stderr);
}

#[test]
fn full_disk_is_a_clear_error_and_finished_results_stay() {
    let project = Project::new(MINI);
    let disk = project.path("disk");
    std::fs::create_dir(&disk).expect("a folder");
    let mounted = std::process::Command::new("mount")
        .args(["-t", "tmpfs", "-o", "size=3m", "tmpfs"])
        .arg(&disk)
        .stderr(std::process::Stdio::null())
        .status();
    if !mounted.is_ok_and(|s| s.success()) {
        eprintln!("a small disk can't be mounted here: the test of a full disk was not run");
        return;
    }
    let cache = disk.join("cache").display().to_string();
    let output = project.vadpipe(["run", "p.toml", "data", "--cache", &cache]);
    let full = project.vadpipe(["run", "p.toml", "data", "--cache", &cache, "-S", "stages.data.train=9000"]);
    let again = project.vadpipe(["plan", "p.toml", "data", "--cache", &cache, "--check"]);
    std::process::Command::new("umount").arg("-l").arg(&disk).status().expect("unmounted");
    assert_eq!(output.code, 0, "{}", output.stderr);
    assert_eq!(full.code, 5, "{}{}", full.stdout, full.stderr);
    assert!(full.stderr.contains("full"), "{}", full.stderr);
    assert_eq!(again.code, 0, "finished results are still cached: {}", again.stderr);
}

#[test]
fn names_that_leave_their_folder_are_refused() {
    for name in ["../x", "a/b", "..", "a b"] {
        let project = Project::new(&MINI.replace("[stages.ad]", &format!("[stages.{name:?}]")));
        let output = project.vadpipe(["plan", "p.toml"]);
        assert_eq!(output.code, 2, "{name}: {}", output.stderr);
    }
    let project =
        Project::new("[pipeline]\nname = \"../x\"\n[stages.data]\nkind = \"load-data\"\nsource = \"synthetic\"\n");
    assert_eq!(project.vadpipe(["plan", "p.toml"]).code, 2);
}

#[test]
fn missing_data_error_names_the_folder() {
    let project = Project::new(
        "[pipeline]\nname = \"p\"\n[stages.data]\nkind = \"load-data\"\nsource = \"idx\"\npath = \"nowhere\"\n",
    );
    let output = project.vadpipe(["run", "p.toml"]);
    assert_eq!(output.code, 2, "{}", output.stderr);
    assert!(output.stderr.contains("nowhere"), "{}", output.stderr);
}

#[test]
fn help_has_examples_for_every_command() {
    let project = Project::new("");
    let help = project.vadpipe(["--help"]).stdout;
    let commands = help.split("Commands:").nth(1).expect("commands").split("Options:").next().expect("options");
    let names: Vec<&str> = commands
        .lines()
        .filter(|l| l.starts_with("  ") && !l.starts_with("   "))
        .filter_map(|l| l.split_whitespace().next())
        .collect();
    assert!(names.len() > 12, "{names:?}");
    for name in names.into_iter().filter(|n| *n != "help") {
        let output = project.vadpipe([name, "--help"]);
        assert!(output.stdout.contains("Example"), "{name}: {}", output.stdout);
    }
}

#[test]
fn file_that_changes_while_its_stage_runs_fails_the_stage() {
    let project = Project::new(
        "[pipeline]\nname = \"p\"\n[stages.reads]\nkind = \"command\"\nsources = [\"data.txt\"]\n\
         argv = [\"sh\", \"-c\", \"cat $0/data.txt; date +%N >> $0/data.txt\", \"{base}\"]\n",
    );
    project.write("data.txt", "1\n");
    let run = project.try_run(&[]);
    assert_eq!(run.output.code, 2, "{}{}", run.output.stdout, run.output.stderr);
    let failure = run.of_kind("stage-failed").next().expect("a failure");
    assert!(failure["error"].to_string().contains("data.txt changed while the stage ran"), "{failure}");
}

#[test]
fn rerun_of_a_point_that_no_target_needs_is_refused() {
    let project = Project::new(MINI);
    let output = project.vadpipe(["run", "p.toml", "data", "-R", "ad"]);
    assert_eq!(output.code, 2, "{}", output.stderr);
    assert!(output.stderr.contains("can't run `ad` again: no target needs it"), "{}", output.stderr);
}
