//! Which cache a command uses without `--cache` and `VADPIPE_CACHE`.

use std::path::Path;

use crate::support::{CommandOutput, Project, json};

const PIPELINE: &str = r#"
[pipeline]
name = "p"

[stages.a]
kind = "command"
argv = ["cp", "/dev/null", "{outputs.o}"]
outputs = { o = "o" }
"#;

/// A project with a pipeline in `work/pipelines`.
fn project() -> Project {
    let project = Project::new("");
    project.write("work/pipelines/p.toml", PIPELINE);
    project.write("work/pipelines/deep/er/q.toml", PIPELINE);
    project.write("elsewhere/note", "");
    project
}

fn vadpipe_in(project: &Project, folder: &str, args: &[&str]) -> CommandOutput {
    CommandOutput::of(project.command(args).current_dir(project.path(folder)).output().expect("vadpipe starts"))
}

/// Whether this pipeline is cached, as `plan --check` sees it from this folder.
fn is_cached(project: &Project, folder: &str, file: &str) -> bool {
    match vadpipe_in(project, folder, &["plan", file, "--check"]).code {
        0 => true,
        10 => false,
        code => panic!("exit code {code}"),
    }
}

fn run(project: &Project, folder: &str, file: &str) -> String {
    let output = vadpipe_in(project, folder, &["run", file]);
    assert_eq!(output.code, 0, "{}", output.stderr);
    output.stderr
}

fn caches(project: &Project) -> Vec<String> {
    fn search(folder: &Path, found: &mut Vec<String>, root: &Path) {
        for entry in std::fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry").path()) {
            if entry.join("FORMAT").exists() {
                found.push(entry.strip_prefix(root).expect("below").display().to_string());
            } else if entry.is_dir() {
                search(&entry, found, root);
            }
        }
    }
    let mut found = Vec::new();
    search(&project.path(""), &mut found, &project.path(""));
    found.sort();
    found
}

#[test]
fn new_cache_is_created_in_the_current_folder_and_named_once() {
    let project = project();
    let first = run(&project, "work", "pipelines/p.toml");
    let path = project.path("work/cache").canonicalize().expect("a cache").display().to_string();
    assert!(first.contains(&format!("new cache: {path}\n")), "{first}");
    assert_eq!(caches(&project), ["work/cache"]);
    assert!(!run(&project, "work", "pipelines/p.toml").contains("new cache"));
    let quiet = vadpipe_in(&project, "elsewhere", &["run", "../work/pipelines/p.toml", "-q", "--cache", "mine"]);
    assert_eq!((quiet.code, quiet.stderr.as_str()), (0, ""));
    let dry = vadpipe_in(&project, "elsewhere", &["run", "../work/pipelines/p.toml", "-n", "--cache", "other"]);
    assert!(!dry.stderr.contains("new cache"), "a dry run creates none: {}", dry.stderr);
}

#[test]
fn cache_above_the_pipeline_is_found_from_any_folder() {
    let project = project();
    run(&project, "work", "pipelines/p.toml");
    // A folder named `cache` that is not a cache does not end the search.
    project.write("work/pipelines/cache/notes.txt", "");
    for (folder, file) in [
        ("work/pipelines", "p.toml"),
        ("work/pipelines/deep", "er/q.toml"),
        ("elsewhere", "../work/pipelines/p.toml"),
        ("work/pipelines/deep/er", "../../../../work/pipelines/deep/er/q.toml"),
    ] {
        assert!(is_cached(&project, folder, file), "{file} from {folder}");
        assert!(!run(&project, folder, file).contains("new cache"));
    }
    assert_eq!(caches(&project), ["work/cache"]);
    for args in [&["status", "../work/pipelines/p.toml"][..], &["diff", "../work/pipelines/p.toml", "a", "a"]] {
        let output = vadpipe_in(&project, "elsewhere", args);
        assert_eq!(output.code, 0, "{}", output.stderr);
        assert!(output.stdout.contains("1 cached") || output.stdout.contains("same output"), "{}", output.stdout);
    }
}

#[test]
fn link_to_a_pipeline_folder_leads_to_the_cache_above_the_real_folder() {
    let project = project();
    run(&project, "work", "pipelines/p.toml");
    std::os::unix::fs::symlink(project.path("work/pipelines"), project.path("elsewhere/link")).expect("a link");
    assert!(is_cached(&project, "elsewhere", "link/p.toml"));
}

#[test]
fn cache_of_the_current_folder_wins_over_one_near_the_pipeline() {
    let project = project();
    run(&project, "work", "pipelines/p.toml");
    let other = vadpipe_in(&project, "elsewhere", &["run", "../work/pipelines/p.toml", "--cache", "cache"]);
    assert!(other.stderr.contains("new cache: "), "{}", other.stderr);
    assert_eq!(caches(&project), ["elsewhere/cache", "work/cache"]);
    let runs = |folder: &str| {
        let listed = json(&vadpipe_in(&project, folder, &["log", "--json"]));
        listed["runs"].as_array().expect("runs").len()
    };
    run(&project, "elsewhere", "../work/pipelines/p.toml");
    assert_eq!((runs("elsewhere"), runs("work")), (2, 1));
}

#[test]
fn commands_without_a_pipeline_search_from_the_current_folder() {
    let project = project();
    run(&project, "work", "pipelines/p.toml");
    let deep = "work/pipelines/deep/er";
    let listed = json(&vadpipe_in(&project, deep, &["log", "--json"]));
    assert_eq!(listed["runs"].as_array().map(Vec::len), Some(1));
    let doctor = json(&vadpipe_in(&project, deep, &["doctor", "--json"]));
    assert_eq!(doctor["results"], 1);
    let gc = json(&vadpipe_in(&project, deep, &["gc", "-n", "--json"]));
    assert_eq!(gc["results_kept"], 1);
    let none = json(&vadpipe_in(&project, "elsewhere", &["log", "--json"]));
    assert_eq!(none["runs"].as_array().map(Vec::len), Some(0));
    assert_eq!(caches(&project), ["work/cache"]);
}

#[test]
fn variable_and_option_name_the_cache() {
    let project = project();
    run(&project, "work", "pipelines/p.toml");
    let mut command = project.command(["plan", "pipelines/p.toml", "--check"]);
    command.current_dir(project.path("work")).env("VADPIPE_CACHE", "new");
    assert_eq!(CommandOutput::of(command.output().expect("vadpipe starts")).code, 10);
    assert_eq!(vadpipe_in(&project, "work", &["plan", "pipelines/p.toml", "--check", "--cache", "cache"]).code, 0);
}
