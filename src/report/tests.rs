#[path = "../../tests/it/browser.rs"]
mod browser;
mod first_screen;
mod interactive;
mod outputs;

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::json;

use super::testing::FakeInput;
use super::*;
use crate::artifact::{Artifact, Tensor};
use crate::key::Digest;
use crate::rng::Streams;
use crate::stage::Input;
use crate::status::StageStatus;
use crate::system::Usage;
use crate::value::{Value, Values};

const CLASSES: [&str; 10] =
    ["T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"];

/// Something that looks a little like a garment: two widths, a waist, and grain.
fn garment(class: usize, sample: u64, grain: f32) -> Vec<u8> {
    let mut noise = vec![0.0; 28 * 28];
    Streams::new(class as i64).stream("grain", 0, sample).normals(&mut noise);
    let (top, bottom) =
        ([9, 4, 10, 5, 10, 6, 9, 11, 9, 10][class] as f32, [7, 6, 8, 9, 9, 10, 8, 11, 10, 6][class] as f32);
    let pixel = |at: usize| {
        let (x, y) = ((at % 28) as f32 - 13.5, (at / 28) as f32);
        let width = top + (bottom - top) * y / 27.0 + (sample % 3) as f32 - 1.0;
        let gap = class == 1 && y > 8.0 && x.abs() < 1.5;
        let low = [5, 7, 9].contains(&class) && y < if class == 9 { 5.0 } else { 14.0 };
        let inside = x.abs() < width && !gap && !low && (2.0..26.0).contains(&y);
        let level = if inside { 150.0 + 8.0 * class as f32 + 2.0 * x } else { 0.0 };
        (level + grain * noise[at]).clamp(0.0, 255.0) as u8
    };
    (0..28 * 28).map(pixel).collect()
}

fn images(count: usize, per_class: usize, grain: f32) -> Tensor {
    let pixels: Vec<u8> = (0..count).flat_map(|i| garment(i / per_class % 10, i as u64 % 7, grain)).collect();
    Tensor::new([count, 28, 28], &pixels).unwrap()
}

fn falling(epochs: usize, from: f64, to: f64) -> Tensor {
    let at = |e: usize| to + (from - to) * libm::exp(-(e as f64) / 12.0) + 0.004 * libm::sin(e as f64 * 2.3) * to;
    Tensor::vector(&(0..epochs).map(at).collect::<Vec<f64>>())
}

fn artifact(tensors: Vec<(&str, Tensor)>, metrics: &[(&str, f64)], facts: serde_json::Value) -> Artifact {
    Artifact {
        tensors: tensors.into_iter().map(|(n, t)| (n.to_owned(), t)).collect(),
        metrics: metrics.iter().map(|(n, m)| ((*n).to_owned(), *m)).collect(),
        facts: facts.as_object().unwrap().clone().into_iter().collect(),
        ..Artifact::default()
    }
}

fn training(kind: &str, name: &str, loss: f64, distribution: Option<&str>) -> Arc<dyn Input> {
    let mut tensors = vec![
        ("history.loss", falling(100, 0.87, loss)),
        ("history.rmse", falling(100, 96.0, loss * 111.0)),
        ("originals", images(20, 2, 0.0)),
        ("reconstructions", images(20, 2, loss as f32 * 150.0)),
    ];
    let mut facts = json!({"latent_dim": 128, "classes": CLASSES});
    let mut metrics = vec![("loss_first", 0.866), ("loss", loss), ("rmse", loss * 111.7), ("psnr", 24.0 - loss)];
    if let Some(distribution) = distribution {
        tensors.push(("history.reconstruction", falling(100, 0.86, loss * 0.8)));
        tensors.push(("history.kl", falling(100, 0.002, loss * 0.2)));
        metrics.extend([("reconstruction", loss * 0.8), ("kl", loss * 0.2)]);
        facts["distribution"] = json!(distribution);
    }
    FakeInput::shared(name, kind, artifact(tensors, &metrics, facts))
}

fn fit(name: &str, split: &str, loss: f64) -> Arc<dyn Input> {
    let tensors = vec![
        ("history.loss", falling(100, 0.7, loss)),
        ("originals", images(20, 2, if split == "train" { 0.0 } else { 3.0 })),
        ("reconstructions", images(20, 2, loss as f32 * 150.0)),
    ];
    let metrics = [("loss", loss), ("rmse", loss * 111.7), ("psnr", 20.1), ("loss_sampled", loss * 1.1)];
    FakeInput::shared(name, "fit-latents", artifact(tensors, &metrics, json!({"split": split})))
}

fn decoded(name: &str, what: &str, scale: f64) -> Arc<dyn Input> {
    let facts = json!({"what": what, "scale": scale});
    FakeInput::shared(name, "decode", artifact(vec![("images", images(10, 1, 20.0))], &[("count", 10.0)], facts))
}

fn embedding(name: &str, points: usize) -> Arc<dyn Input> {
    let mut flat = vec![0.0; points * 2];
    Streams::new(3).stream(name, 0, 0).normals(&mut flat);
    let labels: Vec<u8> = (0..points).map(|i| (i % 10) as u8).collect();
    for (point, label) in flat.chunks_mut(2).zip(&labels) {
        let angle = f64::from(*label) * 0.628;
        point[0] = point[0] * 4.0 + 25.0 * libm::cos(angle) as f32;
        point[1] = point[1] * 4.0 + 25.0 * libm::sin(angle) as f32;
    }
    let tensors = vec![("embedding", Tensor::new([points, 2], &flat).unwrap()), ("labels", Tensor::vector(&labels))];
    let metrics = [("kl", 1.234), ("knn_purity", 0.713), ("knn_recall", 0.42)];
    let facts = json!({"classes": CLASSES, "split": "test", "perplexity": 30});
    FakeInput::shared(name, "tsne", artifact(tensors, &metrics, facts))
}

fn everything() -> Inputs {
    let data = artifact(
        vec![("examples", images(100, 10, 0.0))],
        &[("train", 1000.0), ("test", 1000.0), ("classes", 10.0)],
        json!({"classes": CLASSES, "source": "fashion-mnist", "examples_per_class": 10}),
    );
    let strip = |mode: &str| {
        let facts = json!({"from": "Trouser", "to": "Shirt", "mode": mode});
        artifact(vec![("images", images(10, 1, 9.0))], &[("steps", 10.0)], facts)
    };
    let mut command = artifact(vec![("table", Tensor::vector(&[1.0f32, 2.0]))], &[("score", 0.5)], json!({}));
    command.files.insert("figure <1>.png".into(), image::grid(&images(4, 1, 0.0), 4, 3).unwrap());
    command.files.insert("notes.txt".into(), b"notes".to_vec());
    let shown = vec![
        training("train-vad", "vad@distribution=exponential", 0.21, Some("exponential")),
        training("train-vad", "vad@distribution=gaussian", 0.151, Some("gaussian")),
        training("train-vad", "vad@distribution=uniform", 0.17, Some("uniform")),
    ];
    let fits = vec![
        fit("fit-ad", "test", 0.197),
        fit("fit-vad-test@distribution=gaussian", "test", 0.223),
        fit("fit-vad@distribution=gaussian", "train", 0.117),
    ];
    let decodes = vec![
        decoded("ones", "ones", 1.0),
        decoded("prior-ad", "prior", 1.0),
        decoded("prior-vad", "prior", 1.0),
        decoded("scaled@scale=0.5", "latents", 0.5),
        decoded("scaled@scale=1.0", "latents", 1.0),
        decoded("scaled@scale=1.5", "latents", 1.5),
        decoded("zeros", "zeros", 1.0),
    ];
    let strips = ["linear", "spherical"].map(|m| FakeInput::shared(&format!("walk@mode={m}"), "interpolate", strip(m)));
    Inputs(BTreeMap::from([
        ("data".to_owned(), vec![FakeInput::shared("images", "load-data", data)]),
        ("ad".to_owned(), vec![training("train-ad", "ad", 0.0609, None)]),
        ("vad".to_owned(), shown),
        ("fits".to_owned(), fits),
        ("decodes".to_owned(), decodes),
        ("tsne".to_owned(), vec![embedding("tsne-ad", 1000), embedding("tsne-vad@distribution=gaussian", 1000)]),
        ("walks".to_owned(), strips.to_vec()),
        ("own".to_owned(), vec![FakeInput::shared("own", "command", command)]),
    ]))
}

fn spec() -> Spec {
    let reference = |label: &str, ours: Option<&str>, seed: &str, note: &str| Reference {
        label: label.to_owned(),
        ours: ours.map(str::to_owned),
        seed: seed.to_owned(),
        note: note.to_owned(),
    };
    Spec {
        title: "Auto-decoders & variational auto-decoders on Fashion-MNIST".to_owned(),
        reference: vec![
            reference("AD, test latents", Some("fit-ad.loss"), "0.16", "100 epochs, lr 1e-2"),
            reference("AD, train", Some("ad.loss"), "0.9 → 0.06", "100 epochs"),
            reference("VAD gaussian, random samples", None, "recognisable", "a claim to check below"),
            reference("VAD gaussian, train", Some("vad@distribution=gaussian.loss"), "about 1 → about 0.15", ""),
        ],
        over: Vec::new(),
    }
}

fn html() -> String {
    build(&spec(), &everything(), &Cancel::default()).unwrap()
}

fn run() -> RunOverlay {
    let inputs = everything();
    let mut stages = vec![];
    let stage = |input: &dyn Input, name: &str, from: Vec<String>, at: usize| StageOverlay {
        name: name.to_owned(),
        kind: input.manifest().kind.clone(),
        params: Values::from([
            ("epochs".to_owned(), Value::Int(100)),
            ("lr".to_owned(), Value::Float(1e-3)),
            ("channels".to_owned(), Value::from(vec![2048i64, 512, 256, 128])),
        ]),
        status: match at {
            18 => StageStatus::Failed,
            19 => StageStatus::Skipped,
            _ if at % 3 == 1 => StageStatus::Executed,
            _ => StageStatus::Cached,
        },
        seconds: (at % 3 == 1).then_some(13.7 * (at + 1) as f64),
        usage: (at % 3 == 1)
            .then(|| Usage { cpu_seconds: 27.0 * (at + 1) as f64, peak_memory: (at == 1).then_some(300 << 20) }),
        inputs: from,
        metrics: input.manifest().metrics.clone(),
        pruned: None,
        verdict: None,
    };
    for role in ["data", "ad", "vad", "fits", "decodes", "tsne", "walks", "own"] {
        for input in &inputs.0[role] {
            let from = match role {
                "data" => vec![],
                "ad" | "vad" => vec!["images"],
                "fits" => vec!["images", if input.label() == "fit-ad" { "ad" } else { "vad@distribution=gaussian" }],
                "own" => vec!["tsne-ad"],
                _ => vec![if input.label().ends_with("ad") { "ad" } else { "vad@distribution=gaussian" }],
            };
            let from = from.into_iter().map(str::to_owned).collect();
            stages.push(stage(&**input, input.label(), from, stages.len()));
        }
    }
    RunOverlay {
        pipeline: "fashion".into(),
        run: "2026-11-22-1".into(),
        started: "2026-11-22 10:30 UTC".into(),
        device: "cpu (avx512)".into(),
        threads: 2,
        version: "0.1.0".into(),
        workers: Some("3 started, 1 preempted; 1 replaced".into()),
        stages,
        missing: Vec::new(),
    }
}

/// The headings, as an outline.
fn outline(html: &str) -> String {
    let mut lines = vec![];
    for part in html.split("<h").skip(1) {
        let level = part.chars().next().and_then(|c| c.to_digit(10));
        if let (Some(level), Some(end)) = (level, part.find("</h")) {
            let mut inside = false;
            let text: String = part[..end]
                .chars()
                .skip_while(|c| *c != '>')
                .skip(1)
                .filter(|c| {
                    inside = (inside || *c == '<') && *c != '>';
                    !inside && *c != '>'
                })
                .collect();
            lines.push(format!("{}{text}", "  ".repeat(level as usize - 1)));
        }
    }
    lines.join("\n")
}

#[test]
fn sections_are_in_the_order_of_reading() {
    insta::assert_snapshot!(outline(&overlay(&html(), &run())), @r"
    Auto-decoders &amp; variational auto-decoders on Fashion-MNIST
      Findings
      Training
        Auto-decoders
        Variational auto-decoders
      Fitting latents
        The test split
        The train split
      Sweeps
        vad train-vad, 3 points
      Reconstructions
        Training images
        Images held out
      Samples and magnitudes
        Samples of the prior
        All ones
        All zeros
        Given latents, scaled
      Interpolations
      Embeddings
      Outputs
        own command
      All metrics
      Data
        data fashion-mnist
      Other results
        own command
      The run
        Timings
        Parameters and metrics
    ");
}

#[test]
fn page_has_the_pinned_bytes() {
    let sweep = build(&spec_of_sweep(), &sweep(), &Cancel::default()).unwrap();
    let digests = [html(), sweep].map(|page| Digest::of(page.as_bytes()).to_string()[..16].to_owned());
    let why = "a key holds no code: raise the version of `report`, or cached reports differ from new ones";
    assert_eq!(digests, ["99a057b922bb63e1", "5b9235b491e680b4"], "{why}");
}

#[test]
fn page_refers_to_nothing_outside_itself() {
    let html = overlay(&html(), &run());
    for outside in ["http:", "https:", "//cdn", "@import", "<link rel=\"style", "<iframe", "srcset"] {
        assert!(!html.contains(outside), "{outside}");
    }
    for attribute in ["src=\"", "href=\"", "url("] {
        for address in html.split(attribute).skip(1) {
            let address = &address[..address.len().min(24)];
            let is_inside = ["data:", "#", "${sprite.png}"].iter().any(|start| address.starts_with(start));
            assert!(is_inside, "{attribute}{address}");
        }
    }
}

#[test]
fn reference_is_shown_beside_our_figure() {
    let html = html();
    let row = html.lines().find(|l| l.starts_with("<tr><th scope=\"row\">AD, train<")).unwrap();
    assert!(row.contains(">0.06090<") && row.contains("0.9 → 0.06"), "{row}");
}

#[test]
fn reference_to_unknown_figure_is_an_error() {
    let mut spec = spec();
    spec.reference[0].ours = Some("fit-ad.los".to_owned());
    match build(&spec, &everything(), &Cancel::default()) {
        Err(StageError::BadInput { message, hint }) => {
            assert_eq!(message, "`reference` names the figure `fit-ad.los`, which no input of the report has");
            assert_eq!(hint.unwrap(), "did you mean `fit-ad.loss`?");
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn single_input_is_shown_under_its_role_whatever_its_stage_is_called() {
    let with_name = |name: &str| {
        let inputs = Inputs(BTreeMap::from([("model".to_owned(), vec![training("train-ad", name, 0.06, None)])]));
        assert_eq!(names(&inputs), ["model"]);
        build(&Spec::default(), &inputs, &Cancel::default()).unwrap()
    };
    assert_eq!(with_name("ad"), with_name("autodecoder"));
}

#[test]
fn artifact_in_two_roles_is_shown_once_and_equal_names_are_made_unique() {
    let ad = || training("train-ad", "ad", 0.06, None);
    let other = training("train-ad", "ad", 0.07, None);
    let vad = || training("train-vad", "vad", 0.15, Some("gaussian"));
    let roles = |members: Vec<(&str, Vec<Arc<dyn Input>>)>| {
        names(&Inputs(members.into_iter().map(|(r, m)| (r.to_owned(), m)).collect()))
    };
    assert_eq!(roles(vec![("ad", vec![ad()]), ("all", vec![ad(), vad()])]), ["ad", "vad"]);
    assert_eq!(roles(vec![("ad", vec![ad()]), ("all", vec![other, vad()])]), ["ad", "ad (all)", "vad"]);
}

#[test]
fn texts_of_users_are_escaped() {
    let evil = "<script>alert('1')</script>\"&";
    let mut inputs = everything();
    let facts = json!({"classes": [evil], "source": evil, "examples_per_class": 1});
    let data = artifact(vec![("examples", images(1, 1, 0.0))], &[(evil, 1.0)], facts);
    inputs.0.insert(
        "data".into(),
        vec![FakeInput::shared("a", evil, data.clone()), FakeInput::shared(evil, "load-data", data)],
    );
    let spec = Spec { title: evil.to_owned(), ..spec() };
    let mut run = run();
    run.stages[0].name = evil.to_owned();
    run.stages[0].params.insert(evil.to_owned(), Value::Text(evil.to_owned()));
    run.device = evil.to_owned();
    let html = overlay(&build(&spec, &inputs, &Cancel::default()).unwrap(), &run);
    assert_eq!(html.matches("<script>").count(), 1);
    assert!(!html.contains("alert('1')"));
}

#[test]
fn unknown_kinds_show_their_metrics_and_tensors() {
    let unknown = artifact(vec![("weird", Tensor::vector(&[1u8]))], &[("m", 2.0)], json!({}));
    let inputs = Inputs(BTreeMap::from([("x".to_owned(), vec![FakeInput::shared("x", "of-tomorrow", unknown)])]));
    let html = build(&Spec::default(), &inputs, &Cancel::default()).unwrap();
    assert!(html.contains("of-tomorrow") && html.contains("weird") && html.contains("u8 [1]"));
}

#[test]
fn history_and_tensors_of_a_command_are_shown_under_its_name() {
    let tensors = vec![("history.loss", falling(3, 0.9, 0.1)), ("decoder.w", Tensor::vector(&[1u8]))];
    let own = FakeInput::shared("own", "command", artifact(tensors, &[("m", 2.0)], json!({})));
    let html = build(&Spec::default(), &Inputs(BTreeMap::from([("own".to_owned(), vec![own])])), &Cancel::default());
    let html = html.unwrap();
    assert!(html.contains("<caption>Commands</caption>") && html.contains("<h3>command</h3>"));
    assert!(html.contains("<h3>own <small>command</small></h3>"));
    assert!(!html.contains(">history.loss<") && html.contains(">decoder.w<"), "tensors that are not drawn are listed");
}

#[test]
fn report_without_inputs_is_a_page() {
    let html = build(&Spec::default(), &Inputs::default(), &Cancel::default()).unwrap();
    assert!(html.contains(MARKER) && !overlay(&html, &run()).contains(MARKER));
    assert_eq!(overlay("no place for it", &run()), "no place for it");
}

#[test]
fn browser_loads_the_report_without_errors() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("report.html");
    std::fs::write(&file, overlay(&html(), &run())).unwrap();
    let Some(page) = browser::load(&file).unwrap() else {
        eprintln!("no chromium in PATH: the report was not loaded");
        return;
    };
    assert_eq!(page.complaints, Vec::<String>::new());
    // The script ran to its end: the tables' heads and the classes became buttons.
    assert!(page.dom.contains("<th scope=\"col\"><button type=\"button\">stage</button>"));
    assert!(page.dom.contains("<button type=\"button\" aria-pressed=\"false\">"));
}

#[test]
fn a_click_sorts_a_table_and_picks_a_class() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("report.html");
    let clicks = "<script>
        const head = [...document.querySelectorAll('th button')].find((b) => b.textContent === 'rmse' &&
            b.closest('table').textContent.includes('exponential'));
        head.click();
        document.querySelector('#embeddings .legend.classes button').click();
        </script></body>";
    std::fs::write(&file, overlay(&html(), &run()).replace("</body>", clicks)).unwrap();
    let Some(page) = browser::load(&file).unwrap() else {
        eprintln!("no chromium in PATH: nothing was clicked");
        return;
    };
    assert_eq!(page.complaints, Vec::<String>::new());
    let sorted = page.dom.split("aria-sort=\"ascending\"").nth(1).unwrap();
    let place = |name: &str| sorted.find(&format!("data-v=\"vad@distribution={name}\"")).unwrap();
    assert!(place("gaussian") < place("uniform") && place("uniform") < place("exponential"));
    assert_eq!(page.dom.matches("class=\"scatter alone\"").count(), 2);
    assert_eq!(page.dom.matches("chosen\" data-k=\"0\"").count(), 2);
}

/// Three learning rates by four sizes; the best in the middle.
fn sweep() -> Inputs {
    let point = |lr: &str, dim: usize| {
        let far = (libm::log10(lr.parse::<f64>().unwrap()) + 2.7).abs();
        let loss = 0.06 + 0.05 * far + 0.3 / dim as f64;
        training("train-ad", &format!("ad@lr={lr},latent_dim={dim}"), loss, None)
    };
    let all = ["0.0003", "0.001", "0.003"].iter().flat_map(|lr| [8, 16, 64, 128].map(|dim| point(lr, dim)));
    Inputs(BTreeMap::from([("shown".to_owned(), all.collect())]))
}

#[test]
fn points_of_a_sweep_are_lines_and_rows() {
    let html = build(&Spec::default(), &sweep(), &Cancel::default()).unwrap();
    let part = html.split("<div class=\"sweep\">").nth(1).unwrap();
    assert_eq!(part.matches("class=\"line v").count(), 12);
    assert!(part.contains("data-axis=\"1\">lr</th>") && part.contains("data-colour=\"1\">loss first</th>"));
    // The axes that are swept, and the metrics that differ: `loss_first` is the same for all.
    let titles: Vec<&str> =
        part.split("class=\"title\"").skip(1).map(|t| t.split(['>', '<']).nth(1).unwrap()).collect();
    assert_eq!(titles, ["lr", "latent_dim", "loss"], "rmse and psnr would say the same as the loss");
    for chart in ["loss against lr", "loss against latent_dim", "loss by lr and latent_dim"] {
        assert!(part.contains(&format!("<b>{chart}</b>")), "{chart}");
    }
    assert!(!html.contains("<caption>Auto-decoders</caption>"), "the table of the sweep has the same figures");
    // A sweep is shown only if its points have axes and a metric differs.
    assert!(!build(&Spec::default(), &Inputs::default(), &Cancel::default()).unwrap().contains("class=\"sweep\""));
    let inputs = ["a", "b"].map(|w| decoded(&format!("samples@w={w}"), "prior", 1.0));
    let inputs = Inputs(BTreeMap::from([("x".to_owned(), inputs.to_vec())]));
    assert!(!build(&Spec::default(), &inputs, &Cancel::default()).unwrap().contains("class=\"sweep\""));
}

#[test]
fn a_sweep_is_coloured_filtered_and_picked_from_by_buttons() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("report.html");
    let clicks = "<script>
        const press = (title, text) => [...document.querySelectorAll(`.controls [aria-label='${title}'] button`)]
            .find((b) => b.textContent === text).click();
        press('colour', 'psnr');
        press('lr', '0.001'); press('lr', '0.003'); press('latent_dim', '64');
        document.querySelector('.sweep tbody tr:not([hidden]) th button').click();
        </script></body>";
    let html = build(&Spec::default(), &sweep(), &Cancel::default()).unwrap().replace("</body>", clicks);
    std::fs::write(&file, html).unwrap();
    let Some(page) = browser::load(&file).unwrap() else {
        eprintln!("no chromium in PATH: nothing was clicked");
        return;
    };
    assert_eq!(page.complaints, Vec::<String>::new());
    let part = page.dom.split("<div class=\"sweep\">").nth(1).unwrap();
    assert!(
        part.split("parallel-key").nth(1).unwrap().contains("<b>psnr</b>"),
        "the legend says what the colours mean"
    );
    // Two of the twelve points have these values. Only their rows and lines are still shown.
    assert_eq!(part.matches("<tr hidden=\"\">").count(), 10);
    assert_eq!(part.split("<tr").filter(|tr| tr.starts_with(" hidden")).count(), 10);
    let off = part.split("<path class=\"").filter(|p| p.starts_with("line") && p[..30].contains(" off")).count();
    assert_eq!(off, 10);
    // The first of the two is picked: its row and its line stand out.
    assert!(part.contains("parallel alone"));
    let chosen = part.split("<tr class=\"chosen\">").nth(1).unwrap().split("</tr>").next().unwrap();
    assert!(chosen.contains("data-v=\"ad@lr=0.001,latent_dim=64\""), "{chosen}");
}

/// Two learning rates by three seeds, and a training that has no seed.
fn seeds() -> Inputs {
    let point = |lr: &str, seed: usize| {
        let loss = if lr == "0.001" { 0.06 } else { 0.1 } + 0.01 * seed as f64;
        training("train-ad", &format!("ad@lr={lr},seed={seed}"), loss, None)
    };
    let all = ["0.001", "0.01"].iter().flat_map(|lr| [1, 2, 3].map(|seed| point(lr, seed)));
    let alone = training("train-ad", "other@width=3", 0.2, None);
    Inputs(BTreeMap::from([("shown".to_owned(), all.chain([alone]).collect())]))
}

fn over(axes: &[&str]) -> Spec {
    let over = axes.iter().map(|axis| (*axis).to_owned()).collect();
    Spec { title: "Seeds".to_owned(), over, ..Spec::default() }
}

#[test]
fn points_that_differ_only_in_seed_are_one_line_with_a_band() {
    let html = build(&over(&["seed"]), &seeds(), &Cancel::default()).unwrap();
    let chart = html
        .split("id=\"training\"")
        .nth(1)
        .unwrap()
        .split("<b>Loss</b>")
        .nth(1)
        .unwrap()
        .split("</figure>")
        .next()
        .unwrap();
    assert_eq!(chart.matches("<path class=\"band c").count(), 2);
    let names: Vec<&str> = chart.split("<title>").skip(1).map(|title| title.split('<').next().unwrap()).collect();
    assert_eq!(names, ["ad@lr=0.001", "ad@lr=0.01", "other@width=3"]);
    assert!(chart.contains("<data>0.08053 ± 0.01004, n = 3</data>"), "{chart}");
    let band = chart.split("band c0\" data-l=\"0\" d=\"M").nth(1).unwrap().split('"').next().unwrap();
    assert_eq!(band.matches('L').count(), 199, "100 epochs there and back");
    let sweep = html.split("<div class=\"sweep\">").nth(1).unwrap();
    assert!(sweep.contains("<b>loss against lr</b>") && sweep.contains("<path class=\"band"));
    assert!(sweep.contains("ad <small>train-ad, 6 points</small>"));
    let cell = "<span title=\"0.08 ± 0.010000000000000002, n = 3\">0.08000 ± 0.01000</span>";
    assert_eq!(html.matches(cell).count(), 1, "{html}");
    let figures = html.split("id=\"training\"").nth(1).unwrap().split("id=\"reconstructions\"").next().unwrap();
    assert!(!figures.contains("seed=1"), "only sections of images show single points");
}

#[test]
fn page_without_groups_has_no_trace_of_them() {
    let without = build(&over(&[]), &seeds(), &Cancel::default()).unwrap();
    let body = without.split("<main>").nth(1).unwrap().split("<script>").next().unwrap();
    assert!(!body.contains("band") && !body.contains(" ± "));
    let training = body.split("id=\"training\"").nth(1).unwrap().split("id=\"sweeps\"").next().unwrap();
    assert_eq!(training.matches("<title>ad@lr=0.001,seed=").count(), 3 * 2, "a line in each of two charts");
}

#[test]
fn axis_that_no_input_has_is_an_error() {
    let error = |axis: &str, inputs: &Inputs| match build(&over(&[axis]), inputs, &Cancel::default()) {
        Err(StageError::BadInput { message, hint }) => format!("{message} ({})", hint.unwrap_or_default()),
        other => panic!("{other:?}"),
    };
    let wrong = "`over` names the axis `sed`, which no input of the report has";
    assert_eq!(error("sed", &seeds()), format!("{wrong} (did you mean `seed`?)"));
    assert_eq!(error("sed", &Inputs::default()), format!("{wrong} (no input is a list of points with axes)"));
}

#[test]
#[ignore = "writes a report for the eye"]
fn writes_a_sweep_to_look_at() {
    let file = std::env::temp_dir().join("vadpipe-sweep.html");
    std::fs::write(&file, overlay(&build(&spec_of_sweep(), &sweep(), &Cancel::default()).unwrap(), &run())).unwrap();
    println!("{}", file.display());
}

#[test]
#[ignore = "writes a report for the eye"]
fn writes_bands_to_look_at() {
    let file = std::env::temp_dir().join("vadpipe-bands.html");
    std::fs::write(&file, overlay(&build(&over(&["seed"]), &seeds(), &Cancel::default()).unwrap(), &run())).unwrap();
    println!("{}", file.display());
}

fn spec_of_sweep() -> Spec {
    Spec { title: "A sweep".to_owned(), ..Spec::default() }
}

#[test]
#[ignore = "writes a report for the eye"]
fn writes_a_report_to_look_at() {
    let file = std::env::temp_dir().join("vadpipe-report.html");
    std::fs::write(&file, overlay(&html(), &run())).unwrap();
    println!("{}", file.display());
}
