//! What ships works: the pipelines, the quickstart with its report, a user's own script, the real data.

use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::browser;
use crate::support::{Desk, Said, fashion_mnist, has};

fn pipelines() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("pipelines")
}

fn vadpipe_in_repo(desk: &Desk, args: &[&str]) -> Said {
    let mut command = desk.command(args);
    command.current_dir(env!("CARGO_MANIFEST_DIR")).env("VADPIPE_CACHE", desk.path("cache"));
    Said::of(command.output().expect("vadpipe starts"))
}

#[test]
fn every_pipeline_that_ships_plans() {
    let desk = Desk::new("");
    let mut count = 0;
    for entry in std::fs::read_dir(pipelines()).expect("pipelines") {
        let path = entry.expect("an entry").path();
        if path.extension().is_some_and(|e| e == "toml") {
            let said = vadpipe_in_repo(&desk, &["plan", &path.display().to_string()]);
            assert_eq!(said.code, 0, "{}: {}", path.display(), said.err);
            count += 1;
        }
    }
    assert!(count >= 4, "{count} pipelines");
}

#[test]
fn the_quickstart_ends_with_a_report_that_a_browser_shows_without_complaint() {
    let desk = Desk::new("");
    let reports = desk.path("reports");
    // The real thing, but for the number of epochs.
    let file = "pipelines/quickstart.toml";
    let to = reports.display().to_string();
    let said = vadpipe_in_repo(&desk, &["run", file, "--reports", &to, "-S", "params.epochs=2", "--json"]);
    assert_eq!(said.code, 0, "{}{}", said.out, said.err);
    let page = reports.join("quickstart.report.html");
    let html = std::fs::read_to_string(&page).expect("a report");
    for stage in
        ["ad", "vad@distribution=exponential", "tsne-vad@distribution=uniform", "between@distribution=gaussian"]
    {
        assert!(html.contains(stage), "the report shows {stage}");
    }
    assert!(html.contains("cpu-"), "the run is laid over the page");
    match browser::load(&page).expect("the browser runs") {
        None => eprintln!("no Chromium here: the report was not loaded in a browser"),
        Some(shown) => {
            assert_eq!(shown.complaints, [""; 0]);
            assert!(shown.dom.contains("The run"));
        }
    }
    // Cached, the report is written again with what belongs to the new run.
    std::fs::remove_file(&page).expect("removed");
    let again = vadpipe_in_repo(&desk, &["run", file, "--reports", &to, "-S", "params.epochs=2", "--json"]);
    let last: Value = serde_json::from_str(again.out.lines().last().expect("a line")).expect("JSON");
    assert_eq!(last["executed"], serde_json::json!([]), "{last}");
    let html = std::fs::read_to_string(&page).expect("a report");
    assert!(html.contains(last["run"].as_str().expect("an id")));
}

#[test]
fn a_user_s_own_script_is_a_stage() {
    if !has("python3") {
        eprintln!("python3 is not here: the example that runs a Python script was not run");
        return;
    }
    let desk = Desk::new("");
    for name in ["own-script.toml", "scripts/brightness.py"] {
        desk.write(name, &std::fs::read_to_string(pipelines().join(name)).expect("a file"));
    }
    let run = || desk.vadpipe(["run", "own-script.toml", "--json"]);
    let said = run();
    assert_eq!(said.code, 0, "{}{}", said.out, said.err);
    let said = desk.vadpipe(["export", "own-script.toml", "brightness", "--to", "out"]);
    assert_eq!(said.code, 0, "{}", said.err);
    let table = desk.read("out/brightness/brightness.csv");
    assert!(table.starts_with("class,mean_brightness\n") && table.lines().count() == 11, "{table}");
    let script = desk.read("scripts/brightness.py");
    desk.write("scripts/brightness.py", &script.replace(":.3f", ":.2f"));
    let last: Value = serde_json::from_str(run().out.lines().last().expect("a line")).expect("JSON");
    assert_eq!(last["executed"], serde_json::json!(["brightness", "report"]));
}

#[test]
fn real_images_come_from_the_folder_that_is_named() {
    let Some(data) = fashion_mnist() else {
        eprintln!("Fashion-MNIST is not here (VADPIPE_DATA_DIR): the test on real data was not run");
        return;
    };
    let desk = Desk::new(
        "[pipeline]\nname = \"real\"\n[stages.data]\nkind = \"load-data\"\ntrain = 96\ntest = 64\n\
         [stages.ad]\nkind = \"train-ad\"\ninputs = { data = \"data\" }\nepochs = 4\nlatent_dim = 16\nchannels = [64, 32, 16, 16]\n",
    );
    let said =
        Said::of(desk.command(["run", "p.toml"]).env("VADPIPE_DATA_DIR", data).output().expect("vadpipe starts"));
    assert_eq!(said.code, 0, "{}", said.err);
    let metrics: Value = serde_json::from_str(&desk.vadpipe(["metrics", "p.toml", "--json"]).out).expect("JSON");
    assert_eq!(metrics["data"]["train"], 96.0);
    assert!(metrics["ad"]["loss"].as_f64() < metrics["ad"]["loss_first"].as_f64(), "{metrics}");
}

#[test]
fn exported_tensors_are_what_pytorch_reads() {
    let desk = Desk::new(crate::support::MINI);
    desk.run(&["ad"]);
    assert_eq!(desk.vadpipe(["export", "p.toml", "ad", "--to", "out"]).code, 0);
    let bytes = std::fs::read(desk.path("out/ad/decoder.safetensors")).expect("a file");
    let tensors = vadpipe::artifact::from_safetensors(&bytes).expect("safetensors");
    assert_eq!(tensors["fc.weight"].shape(), [16 * 4, 6]);
    assert_eq!(tensors["net.0.weight"].shape(), [16, 12, 4, 4]);
    assert_eq!(&std::fs::read(desk.path("out/ad/reconstructions.png")).expect("a file")[1..4], b"PNG");
    assert!(desk.read("out/ad/metrics.json").contains("\"rmse\""));
    let again = desk.vadpipe(["export", "p.toml", "ad", "--to", "out"]);
    assert_eq!(again.code, 2, "{}", again.err);
    assert!(again.err.contains("nothing was written"), "{}", again.err);
    assert_eq!(desk.vadpipe(["export", "p.toml", "ad", "--to", "out", "--overwrite"]).code, 0);
}
