//! The shipped pipelines, the quickstart with its report, an example script, and Fashion-MNIST.

use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::browser;
use crate::support::{CommandOutput, Project, fashion_mnist, has};

fn pipelines() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("pipelines")
}

fn vadpipe_in_repo(project: &Project, args: &[&str]) -> CommandOutput {
    let mut command = project.command(args);
    command.current_dir(env!("CARGO_MANIFEST_DIR")).env("VADPIPE_CACHE", project.path("cache"));
    CommandOutput::of(command.output().expect("vadpipe starts"))
}

#[test]
fn all_shipped_pipelines_can_be_planned() {
    let project = Project::new("");
    let mut count = 0;
    for entry in std::fs::read_dir(pipelines()).expect("pipelines") {
        let path = entry.expect("an entry").path();
        if path.extension().is_some_and(|e| e == "toml") {
            let output = vadpipe_in_repo(&project, &["plan", &path.display().to_string()]);
            assert_eq!(output.code, 0, "{}: {}", path.display(), output.stderr);
            count += 1;
        }
    }
    assert!(count >= 4, "{count} pipelines");
}

#[test]
fn report_of_the_quickstart_loads_in_a_browser_without_errors() {
    let project = Project::new("");
    let reports = project.path("reports");
    // The shipped pipeline with fewer epochs.
    let file = "pipelines/quickstart.toml";
    let to = reports.display().to_string();
    let output = vadpipe_in_repo(&project, &["run", file, "--reports", &to, "-S", "params.epochs=2", "--json"]);
    assert_eq!(output.code, 0, "{}{}", output.stdout, output.stderr);
    let page = reports.join("quickstart.report.html");
    let html = std::fs::read_to_string(&page).expect("a report");
    for stage in
        ["ad", "vad@distribution=exponential", "tsne-vad@distribution=uniform", "between@distribution=gaussian"]
    {
        assert!(html.contains(stage), "the report shows {stage}");
    }
    assert!(html.contains("cpu-"), "the page shows the run");
    match browser::load(&page).expect("the browser runs") {
        None => eprintln!("Chromium is not installed: the report was not loaded in a browser"),
        Some(page) => {
            assert_eq!(page.complaints, [""; 0]);
            assert!(page.dom.contains("The run"));
        }
    }
    // A cached report is written again with the facts of the new run.
    std::fs::remove_file(&page).expect("removed");
    let again = vadpipe_in_repo(&project, &["run", file, "--reports", &to, "-S", "params.epochs=2", "--json"]);
    let last: Value = serde_json::from_str(again.stdout.lines().last().expect("a line")).expect("JSON");
    assert_eq!(last["executed"], serde_json::json!([]), "{last}");
    let html = std::fs::read_to_string(&page).expect("a report");
    assert!(html.contains(last["run"].as_str().expect("an id")));
}

#[test]
fn example_script_runs_as_a_stage() {
    if !has("python3") {
        eprintln!("python3 is not installed: the example script was not run");
        return;
    }
    let project = Project::new("");
    for name in ["own-script.toml", "scripts/brightness.py"] {
        project.write(name, &std::fs::read_to_string(pipelines().join(name)).expect("a file"));
    }
    let run = || project.vadpipe(["run", "own-script.toml", "--json"]);
    let output = run();
    assert_eq!(output.code, 0, "{}{}", output.stdout, output.stderr);
    let output = project.vadpipe(["export", "own-script.toml", "brightness", "--to", "out"]);
    assert_eq!(output.code, 0, "{}", output.stderr);
    let table = project.read("out/brightness/brightness.csv");
    assert!(table.starts_with("class,mean_brightness\n") && table.lines().count() == 11, "{table}");
    let script = project.read("scripts/brightness.py");
    project.write("scripts/brightness.py", &script.replace(":.3f", ":.2f"));
    let last: Value = serde_json::from_str(run().stdout.lines().last().expect("a line")).expect("JSON");
    assert_eq!(last["executed"], serde_json::json!(["brightness", "report"]));
}

#[test]
fn real_images_come_from_the_folder_of_the_variable() {
    let Some(data) = fashion_mnist() else {
        eprintln!("Fashion-MNIST is not installed (VADPIPE_DATA_DIR): the test on real data was not run");
        return;
    };
    let project = Project::new(
        "[pipeline]\nname = \"real\"\n[stages.data]\nkind = \"load-data\"\ntrain = 96\ntest = 64\n\
         [stages.ad]\nkind = \"train-ad\"\ninputs = { data = \"data\" }\nepochs = 4\nlatent_dim = 16\nchannels = [64, 32, 16, 16]\n",
    );
    let output = CommandOutput::of(
        project.command(["run", "p.toml"]).env("VADPIPE_DATA_DIR", data).output().expect("vadpipe starts"),
    );
    assert_eq!(output.code, 0, "{}", output.stderr);
    let metrics: Value = serde_json::from_str(&project.vadpipe(["metrics", "p.toml", "--json"]).stdout).expect("JSON");
    assert_eq!(metrics["data"]["train"], 96.0);
    assert!(metrics["ad"]["loss"].as_f64() < metrics["ad"]["loss_first"].as_f64(), "{metrics}");
}

#[test]
fn exported_tensors_have_the_names_and_shapes_of_pytorch() {
    let project = Project::new(crate::support::MINI);
    project.run(&["ad"]);
    assert_eq!(project.vadpipe(["export", "p.toml", "ad", "--to", "out"]).code, 0);
    let bytes = std::fs::read(project.path("out/ad/decoder.safetensors")).expect("a file");
    let tensors = vadpipe::artifact::from_safetensors(&bytes).expect("safetensors");
    assert_eq!(tensors["fc.weight"].shape(), [16 * 4, 6]);
    assert_eq!(tensors["net.0.weight"].shape(), [16, 12, 4, 4]);
    assert_eq!(&std::fs::read(project.path("out/ad/reconstructions.png")).expect("a file")[1..4], b"PNG");
    assert!(project.read("out/ad/metrics.json").contains("\"rmse\""));
    let again = project.vadpipe(["export", "p.toml", "ad", "--to", "out"]);
    assert_eq!(again.code, 2, "{}", again.stderr);
    assert!(again.stderr.contains("nothing was written"), "{}", again.stderr);
    assert_eq!(project.vadpipe(["export", "p.toml", "ad", "--to", "out", "--overwrite"]).code, 0);
}
