//! Names, notes and commits of runs.

use std::process::Command;

use crate::support::{Project, has, json};

fn project() -> Project {
    Project::new("[pipeline]\nname = \"p\"\n[stages.work]\nkind = \"command\"\nargv = [\"true\"]\nenv = [\"X\"]\n")
}

#[test]
fn run_is_found_by_its_name_and_shown_with_its_note() {
    let project = project();
    project.run(&["--name", "before"]);
    project.edit("\"X\"", "\"Y\"");
    project.run(&["--name", "after", "--note", "another variable"]);
    let log = project.vadpipe(["log", "after"]).stdout;
    assert!(log.contains("name after\nnote another variable\n"), "{log}");
    let list = project.vadpipe(["log"]).stdout;
    assert!(list.contains("before") && list.contains("another variable"), "{list}");
    let diff = project.vadpipe(["diff", "before", "after"]);
    assert!(diff.code == 0 && diff.stdout.contains("variable"), "{} {}", diff.stdout, diff.stderr);
    let newest = project.run(&["--name", "after"]).last()["run"].clone();
    assert_eq!(json(&project.vadpipe(["log", "after", "--json"]))["id"], newest, "the newest of the name");
    for name in ["last", "last~1", "2026", "a b", ""] {
        assert_eq!(project.vadpipe(["run", "p.toml", "--name", name]).code, 2, "{name}");
    }
}

#[test]
fn run_records_the_commit_and_whether_files_were_modified() {
    if !has("git") {
        eprintln!("git is not installed: commits were not tested");
        return;
    }
    let project = project();
    let commit_of = |run: &str| json(&project.vadpipe(["log", run, "--json"]))["label"]["commit"].clone();
    project.run(&[]);
    assert!(commit_of("last").is_null(), "no repository");
    let git = |args: &[&str]| {
        let own = ["-c", "user.name=n", "-c", "user.email=e@example.org"];
        let output = Command::new("git")
            .args(own)
            .args(args)
            .current_dir(project.path(""))
            .env("GIT_CONFIG_GLOBAL", "/dev/null")
            .env("GIT_CONFIG_NOSYSTEM", "1")
            .output()
            .expect("git");
        assert!(output.status.success(), "{output:?}");
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    };
    git(&["init", "-q"]);
    project.run(&[]);
    assert!(commit_of("last").is_null(), "no commit yet");
    git(&["add", "p.toml"]);
    git(&["commit", "-qm", "first"]);
    project.run(&[]);
    let head = git(&["rev-parse", "HEAD"]);
    assert_eq!(commit_of("last"), serde_json::json!({ "id": head, "modified": false }));
    project.edit("\"X\"", "\"Y\"");
    project.run(&[]);
    assert_eq!(commit_of("last")["modified"], true);
    let log = project.vadpipe(["log", "last"]).stdout;
    assert!(log.contains(&format!("commit {head}, with changes that are not committed\n")), "{log}");
    project.edit("\"Y\"", "\"Z\"");
    project.run(&["--on", "local:1"]);
    assert_eq!(commit_of("last")["id"], head.as_str(), "the record of a run with workers is written twice");
}
