//! What is wrong is refused before anything runs, said clearly, and nothing is lost.

use crate::support::{Desk, MINI};

#[test]
fn all_errors_in_a_file_are_reported_at_once_with_their_places() {
    let desk = Desk::new(
        "[pipeline]\nname = \"p\"\n\n[stages.data]\nkind = \"load-dta\"\n\n[stages.ad]\nkind = \"train-ad\"\n\
         inputs = { data = \"dat\" }\nepoch = 3\nlr = \"fast\"\n",
    );
    let said = desk.vadpipe(["plan", "p.toml"]);
    assert_eq!(said.code, 2);
    for wanted in ["p.toml:5:8", "p.toml:9:", "p.toml:10:1", "p.toml:11:6", "`load-data`", "did you mean `epochs`?"] {
        assert!(said.err.contains(wanted), "{wanted} in {}", said.err);
    }
}

#[test]
fn toml_error_has_a_line_and_a_column() {
    let desk = Desk::new("[pipeline]\nname = \"p\"\n[stages.data\n");
    let said = desk.vadpipe(["run", "p.toml"]);
    assert_eq!(said.code, 2);
    assert!(said.err.contains("p.toml:3:"), "{}", said.err);
}

#[test]
fn utf8_error_has_a_line_and_a_column() {
    let desk = Desk::new(MINI);
    std::fs::write(desk.path("p.toml"), b"[pipeline]\nname = \"\xe9\"\n").expect("a file");
    let said = desk.vadpipe(["plan", "p.toml"]);
    assert_eq!(said.code, 2);
    assert!(said.err.contains("p.toml:2:9"), "{}", said.err);
}

#[test]
fn missing_source_stops_the_run_or_with_keep_going_only_its_point() {
    let desk = Desk::new(&FAILING.replace(
        "argv = [\"sh\", \"-c\", \"echo this",
        "sources = [\"gone.py\"]\nargv = [\"sh\", \"-c\", \"echo this",
    ));
    let said = desk.vadpipe(["run", "p.toml"]);
    assert_eq!(said.code, 2);
    assert!(said.err.contains("gone.py") && said.err.contains("p.toml:5:"), "{}", said.err);
    let ran = desk.try_run(&["-k"]);
    assert_eq!(ran.said.code, 2, "{}{}", ran.said.out, ran.said.err);
    assert_eq!(
        (ran.failed(), ran.skipped(), ran.executed()),
        (vec!["bad".into()], vec!["below".into()], vec!["beside".into()])
    );
}

#[test]
fn missing_file_and_misspelt_target_are_bad_input() {
    let desk = Desk::new(MINI);
    assert_eq!(desk.vadpipe(["run", "q.toml"]).code, 2);
    let said = desk.vadpipe(["run", "p.toml", "reprot"]);
    assert_eq!(said.code, 2);
    assert!(said.err.contains("did you mean `report`?"), "{}", said.err);
    assert_eq!(desk.vadpipe(["export", "p.toml", "ad", "--to", "out"]).code, 2, "nothing is cached yet");
}

#[test]
fn diverging_training_fails_with_its_epoch_and_a_hint() {
    let desk = Desk::new(MINI);
    let ran = desk.try_run(&["ad", "-S", "stages.ad.lr=1e30", "-S", "stages.ad.latent_lr=1e30"]);
    assert_eq!(ran.said.code, 1, "{}{}", ran.said.out, ran.said.err);
    assert_eq!((ran.failed(), ran.executed()), (vec!["ad".into()], vec!["data".into()]));
    let failure = ran.of_kind("stage-failed").next().expect("a failure");
    assert!(failure["error"].to_string().contains("epoch"), "{failure}");
    assert!(
        std::path::Path::new(failure["log"].as_str().expect("a path")).is_absolute()
            || desk.path(failure["log"].as_str().expect("a path")).is_file()
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
    let desk = Desk::new(FAILING);
    let ran = desk.try_run(&["-k"]);
    assert_eq!(ran.said.code, 1);
    assert_eq!(
        (ran.failed(), ran.skipped(), ran.executed()),
        (vec!["bad".into()], vec!["below".into()], vec!["beside".into()])
    );
    let failure = ran.of_kind("stage-failed").next().expect("a failure");
    assert!(
        failure["error"].to_string().contains('7') && failure["error"].to_string().contains("this is why"),
        "{failure}"
    );
    let log = failure["log"].as_str().expect("a path");
    assert!(desk.read(log).contains("this is why") && desk.read(log).contains("failed: "), "{}", desk.read(log));
    let said = desk.vadpipe(["log", "last", "--stage", "bad"]);
    assert!(said.out.contains("this is why"), "{}{}", said.out, said.err);
}

#[test]
fn cache_of_a_newer_format_is_not_changed() {
    let desk = Desk::new(MINI);
    desk.run(&["data"]);
    // A later version writes its own format into the journal, too.
    desk.write("cache/index/journal", "of a later version");
    desk.write("cache/FORMAT", "999\n");
    let said = desk.vadpipe(["run", "p.toml"]);
    assert_eq!(said.code, 5, "{}", said.err);
    assert!(said.err.contains("999"), "{}", said.err);
    assert_eq!(desk.read("cache/FORMAT"), "999\n");
}

#[test]
fn cache_that_can_not_be_created_is_an_error() {
    let desk = Desk::new(MINI);
    desk.write("file", "no folder");
    let said = desk.vadpipe(["run", "p.toml", "data", "--cache", "file/cache"]);
    assert_eq!(said.code, 2, "{}", said.err);
    assert!(said.err.contains("file/cache is not a cache"), "{}", said.err);
}

#[test]
fn full_disk_is_a_clear_error_and_finished_results_stay() {
    let desk = Desk::new(MINI);
    let disk = desk.path("disk");
    std::fs::create_dir(&disk).expect("a folder");
    let mounted = std::process::Command::new("mount")
        .args(["-t", "tmpfs", "-o", "size=3m", "tmpfs"])
        .arg(&disk)
        .stderr(std::process::Stdio::null())
        .status();
    if !mounted.is_ok_and(|s| s.success()) {
        eprintln!("a small disk can't be mounted here: the test of a full one was not run");
        return;
    }
    let cache = disk.join("cache").display().to_string();
    let said = desk.vadpipe(["run", "p.toml", "data", "--cache", &cache]);
    let full = desk.vadpipe(["run", "p.toml", "data", "--cache", &cache, "-S", "stages.data.train=9000"]);
    let again = desk.vadpipe(["plan", "p.toml", "data", "--cache", &cache, "--check"]);
    std::process::Command::new("umount").arg("-l").arg(&disk).status().expect("unmounted");
    assert_eq!(said.code, 0, "{}", said.err);
    assert_eq!(full.code, 5, "{}{}", full.out, full.err);
    assert!(full.err.contains("full"), "{}", full.err);
    assert_eq!(again.code, 0, "what was finished is still there: {}", again.err);
}

#[test]
fn names_that_leave_the_folder_are_errors() {
    for name in ["../x", "a/b", "..", "a b"] {
        let desk = Desk::new(&MINI.replace("[stages.ad]", &format!("[stages.{name:?}]")));
        let said = desk.vadpipe(["plan", "p.toml"]);
        assert_eq!(said.code, 2, "{name}: {}", said.err);
    }
    let desk = Desk::new("[pipeline]\nname = \"../x\"\n[stages.data]\nkind = \"load-data\"\nsource = \"synthetic\"\n");
    assert_eq!(desk.vadpipe(["plan", "p.toml"]).code, 2);
}

#[test]
fn missing_data_set_names_the_folders_that_were_searched() {
    let desk = Desk::new(
        "[pipeline]\nname = \"p\"\n[stages.data]\nkind = \"load-data\"\nsource = \"idx\"\npath = \"nowhere\"\n",
    );
    let said = desk.vadpipe(["run", "p.toml"]);
    assert_eq!(said.code, 2, "{}", said.err);
    assert!(said.err.contains("nowhere"), "{}", said.err);
}

#[test]
fn help_has_examples_for_every_command() {
    let desk = Desk::new("");
    let help = desk.vadpipe(["--help"]).out;
    let commands = help.split("Commands:").nth(1).expect("commands").split("Options:").next().expect("options");
    let names: Vec<&str> = commands
        .lines()
        .filter(|l| l.starts_with("  ") && !l.starts_with("   "))
        .filter_map(|l| l.split_whitespace().next())
        .collect();
    assert!(names.len() > 12, "{names:?}");
    for name in names.into_iter().filter(|n| *n != "help") {
        let said = desk.vadpipe([name, "--help"]);
        assert!(said.out.contains("Example"), "{name}: {}", said.out);
    }
}

#[test]
fn file_that_changes_during_its_stage_fails_the_stage() {
    let desk = Desk::new(
        "[pipeline]\nname = \"p\"\n[stages.reads]\nkind = \"command\"\nsources = [\"data.txt\"]\n\
         argv = [\"sh\", \"-c\", \"cat $0/data.txt; date +%N >> $0/data.txt\", \"{base}\"]\n",
    );
    desk.write("data.txt", "1\n");
    let ran = desk.try_run(&[]);
    assert_eq!(ran.said.code, 2, "{}{}", ran.said.out, ran.said.err);
    let failure = ran.of_kind("stage-failed").next().expect("a failure");
    assert!(failure["error"].to_string().contains("data.txt changed while the stage ran"), "{failure}");
}

#[test]
fn rerun_of_a_stage_that_no_target_needs_is_an_error() {
    let desk = Desk::new(MINI);
    let said = desk.vadpipe(["run", "p.toml", "data", "-R", "ad"]);
    assert_eq!(said.code, 2, "{}", said.err);
    assert!(said.err.contains("can't run `ad` again: no target needs it"), "{}", said.err);
}
