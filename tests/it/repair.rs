//! A run repairs a damaged cache and never uses wrong bytes.

use std::fs;
use std::path::{Path, PathBuf};

use crate::hostile::ends;
use crate::support::{MINI, Project};

fn files_below(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).expect("a folder").map(|e| e.expect("an entry").path()) {
        if entry.is_dir() { found.extend(files_below(&entry)) } else { found.push(entry) }
    }
    found
}

fn chunks(project: &Project) -> PathBuf {
    let is_chunks = |p: &PathBuf| p.file_name().is_some_and(|n| n.to_string_lossy().starts_with("chunks-"));
    let folders = fs::read_dir(project.path("cache")).expect("a cache").map(|e| e.expect("an entry").path());
    folders.filter(|p| p.is_dir()).find(is_chunks).expect("chunks")
}

/// Flips a bit of the stored images, whose bytes `export` provides.
fn damage(project: &Project, tensor: &str) {
    damage_images(project, "data", tensor);
}

fn damage_images(project: &Project, stage: &str, tensor: &str) {
    let output = project.vadpipe(["export", "p.toml", stage, "--to", "known", "--overwrite"]);
    assert_eq!(output.code, 0, "{}", output.stderr);
    let file = format!("known/{stage}/{}.safetensors", tensor.split('.').next().expect("a name"));
    let tensors = vadpipe::artifact::from_safetensors(&fs::read(project.path(&file)).expect("a file"));
    let tensors = tensors.expect("safetensors");
    flip(project, &tensors[tensor.split('.').next_back().expect("a name")].bytes()[8000..8040]);
}

fn damage_report(project: &Project) {
    let output = project.vadpipe(["export", "p.toml", "report", "--to", "known"]);
    assert_eq!(output.code, 0, "{}", output.stderr);
    let page = fs::read(project.path("known/report/report.html")).expect("a page");
    flip(project, &page[8000..8040]);
}

/// Flips a bit in every place where these bytes are stored.
fn flip(project: &Project, known: &[u8]) {
    let mut hits = 0;
    // Small files are stored beside the databases.
    let small = project.path("cache").join("small");
    let small = if small.exists() { files_below(&small) } else { Vec::new() };
    for file in files_below(&chunks(project)).into_iter().chain(small) {
        let mut content = fs::read(&file).expect("a file");
        let found: Vec<usize> =
            content.windows(known.len()).enumerate().filter(|(_, w)| *w == known).map(|(i, _)| i).collect();
        for at in &found {
            content[at + 20] ^= 0x10;
        }
        if !found.is_empty() {
            fs::write(&file, content).expect("written");
            hits += found.len();
        }
    }
    assert!(hits > 0, "the bytes are stored");
}

#[test]
fn flipped_bit_is_found_and_repaired_by_the_same_run() {
    let project = Project::new(MINI);
    project.run(&[]);
    let before = project.digests();
    damage(&project, "train.images");
    // A change makes the training read its data again.
    let run = project.run(&["ad", "-S", "stages.ad.batch=8"]);
    assert_eq!(run.executed(), ["data", "ad"]);
    assert!(run.of_kind("warning").any(|w| w["message"].to_string().contains("`data` is missing or damaged")));
    project.run(&[]);
    assert_eq!(project.digests(), before);
}

#[test]
fn damaged_report_page_is_made_again_and_written() {
    let project = Project::new(MINI);
    project.run(&[]);
    damage_report(&project);
    let html = project.path("reports/mini.report.html");
    fs::remove_file(&html).expect("a report");
    let run = project.run(&[]);
    assert_eq!(run.executed(), ["report"]);
    assert!(html.exists() && run.of_kind("report-written").count() == 1);
    assert_eq!(project.run(&[]).executed(), [""; 0]);
}

#[test]
fn failed_run_with_a_damaged_report_page_ends() {
    let project = Project::new(&format!("{MINI}[stages.bad]\nkind = \"command\"\nargv = [\"false\"]\n"));
    project.run(&["report"]);
    damage_report(&project);
    // The failure stops the run, so it does not make the page again.
    let output = ends(&project, &["run", "p.toml", "report", "bad"]);
    assert_eq!(output.code, 1, "{}", output.stderr);
    assert_eq!(project.run(&["report"]).executed(), ["report"]);
}

#[test]
fn results_that_doctor_removes_are_made_again() {
    let project = Project::new(MINI);
    project.run(&["ad"]);
    assert_eq!(project.vadpipe(["doctor"]).code, 0);
    damage(&project, "train.images");
    let dry_run = project.vadpipe(["doctor", "-n"]);
    assert_eq!(dry_run.code, 5, "{}{}", dry_run.stdout, dry_run.stderr);
    assert!(dry_run.stdout.contains("data"), "{}", dry_run.stdout);
    assert_eq!(project.vadpipe(["doctor"]).code, 0);
    assert_eq!(project.plan(&["data"])["data"]["state"], "miss");
    let again = project.run(&["ad"]).executed();
    assert!(again.contains(&"data".to_owned()), "{again:?}");
    assert_eq!(project.vadpipe(["doctor", "-n"]).code, 0);
}

#[test]
fn truncated_database_is_set_aside_and_its_results_are_made_again() {
    let project = Project::new(MINI);
    project.run(&["ad"]);
    let before = project.outputs(&["ad"]);
    for file in files_below(&chunks(&project)) {
        let content = fs::read(&file).expect("a file");
        fs::write(&file, &content[..content.len() / 3]).expect("written");
    }
    // sled may lose any part of it. The run must succeed with the same bytes.
    project.run(&["ad", "-f"]);
    project.run(&["ad"]);
    assert_eq!(project.outputs(&["ad"]), before);
    assert_eq!(project.vadpipe(["doctor"]).code, 0);
}

#[test]
fn gc_frees_disk_space_and_keeps_results_of_recent_runs() {
    let project = Project::new(MINI);
    project.run(&[]);
    project.run(&["-S", "stages.data.train=4000", "-S", "stages.data.seed=3", "data"]);
    project.run(&[]);
    let size = |project: &Project| {
        files_below(&project.path("cache")).iter().map(|f| f.metadata().map_or(0, |m| m.len())).sum::<u64>()
    };
    let before = size(&project);
    assert_eq!(project.vadpipe(["gc", "-n", "--keep-runs", "1"]).code, 0);
    // Opening a database may write a little.
    assert!(size(&project).abs_diff(before) < 100_000, "a dry run removes nothing");
    let output = project.vadpipe(["gc", "--keep-runs", "1"]);
    assert_eq!(output.code, 0, "{}", output.stderr);
    assert!(output.stdout.contains("freed"), "{}", output.stdout);
    assert!(size(&project) + 2_000_000 < before, "{} of {before}", size(&project));
    assert_eq!(project.run(&[]).executed(), [""; 0]);
}
