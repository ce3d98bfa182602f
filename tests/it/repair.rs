//! A cache that was damaged is mended by running again; wrong bytes are never used.

use std::fs;
use std::path::{Path, PathBuf};

use crate::support::{Desk, MINI};

fn files_below(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).expect("a folder").map(|e| e.expect("an entry").path()) {
        if entry.is_dir() { found.extend(files_below(&entry)) } else { found.push(entry) }
    }
    found
}

fn chunks(desk: &Desk) -> PathBuf {
    let is_chunks = |p: &PathBuf| p.file_name().is_some_and(|n| n.to_string_lossy().starts_with("chunks-"));
    let folders = fs::read_dir(desk.path("cache")).expect("a cache").map(|e| e.expect("an entry").path());
    folders.filter(|p| p.is_dir()).find(is_chunks).expect("chunks")
}

/// Flips a bit of the stored images: their bytes are known, since `export` gives them.
fn damage(desk: &Desk, tensor: &str) {
    damage_images(desk, "data", tensor);
}

fn damage_images(desk: &Desk, stage: &str, tensor: &str) {
    let said = desk.vadpipe(["export", "p.toml", stage, "--to", "known", "--overwrite"]);
    assert_eq!(said.code, 0, "{}", said.err);
    let file = format!("known/{stage}/{}.safetensors", tensor.split('.').next().expect("a name"));
    let tensors = vadpipe::artifact::from_safetensors(&fs::read(desk.path(&file)).expect("a file"));
    let tensors = tensors.expect("safetensors");
    flip(desk, &tensors[tensor.split('.').next_back().expect("a name")].bytes()[8000..8040]);
}

/// Flips a bit wherever these bytes are stored.
fn flip(desk: &Desk, known: &[u8]) {
    let mut hits = 0;
    // Small files stand beside the databases.
    let small = desk.path("cache").join("small");
    let small = if small.exists() { files_below(&small) } else { Vec::new() };
    for file in files_below(&chunks(desk)).into_iter().chain(small) {
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
    assert!(hits > 0, "they are found in the store");
}

#[test]
fn a_flipped_bit_is_found_and_mended_in_the_same_run() {
    let desk = Desk::new(MINI);
    desk.run(&[]);
    let before = desk.digests();
    damage(&desk, "train.images");
    // A change makes the training read its data again.
    let mended = desk.run(&["ad", "-S", "stages.ad.batch=8"]);
    assert_eq!(mended.executed(), ["data", "ad"]);
    assert!(mended.of_kind("warning").any(|w| w["message"].to_string().contains("`data` is missing or damaged")));
    desk.run(&[]);
    assert_eq!(desk.digests(), before);
}

#[test]
fn a_report_whose_page_is_damaged_is_made_again_and_written() {
    let desk = Desk::new(MINI);
    desk.run(&[]);
    let said = desk.vadpipe(["export", "p.toml", "report", "--to", "known"]);
    assert_eq!(said.code, 0, "{}", said.err);
    let page = fs::read(desk.path("known/report/report.html")).expect("a page");
    flip(&desk, &page[8000..8040]);
    let html = desk.path("reports/mini.report.html");
    fs::remove_file(&html).expect("a report");
    let mended = desk.run(&[]);
    assert_eq!(mended.executed(), ["report"]);
    assert!(html.exists() && mended.of_kind("report-written").count() == 1);
    assert_eq!(desk.run(&[]).executed(), [""; 0]);
}

#[test]
fn doctor_finds_damage_and_what_it_forgets_is_made_again() {
    let desk = Desk::new(MINI);
    desk.run(&["ad"]);
    assert_eq!(desk.vadpipe(["doctor"]).code, 0);
    damage(&desk, "train.images");
    let look = desk.vadpipe(["doctor", "-n"]);
    assert_eq!(look.code, 5, "{}{}", look.out, look.err);
    assert!(look.out.contains("data"), "{}", look.out);
    assert_eq!(desk.vadpipe(["doctor"]).code, 0);
    assert_eq!(desk.plan(&["data"])["data"]["state"], "miss");
    let again = desk.run(&["ad"]).executed();
    assert!(again.contains(&"data".to_owned()), "{again:?}");
    assert_eq!(desk.vadpipe(["doctor", "-n"]).code, 0);
}

#[test]
fn a_truncated_database_is_set_aside_and_everything_made_again() {
    let desk = Desk::new(MINI);
    desk.run(&["ad"]);
    let before = desk.outputs(&["ad"]);
    for file in files_below(&chunks(&desk)) {
        let content = fs::read(&file).expect("a file");
        fs::write(&file, &content[..content.len() / 3]).expect("written");
    }
    // Whatever sled makes of it, the run ends well and with the same bytes.
    desk.run(&["ad", "-f"]);
    desk.run(&["ad"]);
    assert_eq!(desk.outputs(&["ad"]), before);
    assert_eq!(desk.vadpipe(["doctor"]).code, 0);
}

#[test]
fn gc_gives_the_disk_back_and_keeps_what_recent_runs_need() {
    let desk = Desk::new(MINI);
    desk.run(&[]);
    desk.run(&["-S", "stages.data.train=4000", "-S", "stages.data.seed=3", "data"]);
    desk.run(&[]);
    let size =
        |desk: &Desk| files_below(&desk.path("cache")).iter().map(|f| f.metadata().map_or(0, |m| m.len())).sum::<u64>();
    let before = size(&desk);
    assert_eq!(desk.vadpipe(["gc", "-n", "--keep-runs", "1"]).code, 0);
    // Opening a database may write a little.
    assert!(size(&desk).abs_diff(before) < 100_000, "a dry run removes nothing");
    let said = desk.vadpipe(["gc", "--keep-runs", "1"]);
    assert_eq!(said.code, 0, "{}", said.err);
    assert!(said.out.contains("freed"), "{}", said.out);
    assert!(size(&desk) + 2_000_000 < before, "{} of {before}", size(&desk));
    assert_eq!(desk.run(&[]).executed(), [""; 0]);
}
