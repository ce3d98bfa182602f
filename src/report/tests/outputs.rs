//! Pictures, tables and curves that programs wrote.

use super::*;

fn files(name: &str, files: Vec<(&str, Vec<u8>)>) -> Arc<dyn Input> {
    let files = files.into_iter().map(|(name, bytes)| (name.to_owned(), bytes)).collect();
    FakeInput::shared(name, "command", Artifact { files, ..Artifact::default() })
}

fn png() -> Vec<u8> {
    image::grid(&images(4, 1, 0.0), 4, 3).unwrap()
}

/// A plot on white paper, or on none.
fn svg(paper: &str) -> Vec<u8> {
    let at = |x: usize| format!("{},{:.1}", 20 + x * 3, 150.0 - 120.0 * libm::exp(-(x as f64) / 25.0));
    let line: Vec<String> = (0..100).map(at).collect();
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 340 180\" width=\"340\" height=\"180\">{paper}\
         <script>document.title = 'a script ran'</script>\
         <path d=\"M20 20V160H330\" fill=\"none\" stroke=\"black\"/><polyline points=\"{}\" fill=\"none\" \
         stroke=\"#bd1f01\" stroke-width=\"2\"/><text x=\"150\" y=\"175\" font-size=\"11\">epoch</text></svg>",
        line.join(" ")
    )
    .into_bytes()
}

fn curve(rate: f64, rows: usize) -> Vec<u8> {
    let row = |e: usize| {
        let loss = 0.1 + 0.9 * libm::exp(-(e as f64) * rate);
        let accuracy = if e.is_multiple_of(5) { format!("{:.4}", 1.0 - loss / 2.0) } else { String::new() };
        format!("{},{loss},{accuracy}\n", e * 100)
    };
    format!("step,loss,val_accuracy\n{}", (1..=rows).map(row).collect::<String>()).into_bytes()
}

const CONFUSION: &str = "class,Trouser,Shirt,Bag\nTrouser,97,2,1\nShirt,8,85,7\n\"Bag, <large>\",0.5,3,96.5\n";

/// Two points with a plot, a table and curves each, a single stage with a folder of pictures, and broken files.
fn outputs() -> Inputs {
    let point = |rate: &str| {
        let curve = curve(rate.parse::<f64>().unwrap(), 60);
        let files = vec![
            ("confusion.csv", CONFUSION.into()),
            ("curves.csv", curve),
            ("plot.svg", svg("")),
            ("shirts.png", png()),
        ];
        let files = files.into_iter().map(|(name, bytes)| (name.to_owned(), bytes)).collect();
        let rate = rate.parse::<f64>().unwrap();
        let loss = falling(30, 0.9, rate);
        let gap = f64::from_bits(crate::artifact::NOT_LOGGED);
        let every_fifth =
            (1..=30).map(|e: usize| if e.is_multiple_of(5) { rate * e as f64 } else { gap }).collect::<Vec<f64>>();
        let tensors = [("history.loss", loss), ("history.val_accuracy", Tensor::vector(&every_fifth))];
        let tensors = tensors.into_iter().map(|(name, tensor)| (name.to_owned(), tensor)).collect();
        let metrics = [("loss", rate), ("val_accuracy_best", rate * 30.0), ("best_epoch", 30.0)];
        let metrics = metrics.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
        FakeInput::shared(
            &format!("net@rate={rate}"),
            "train-command",
            Artifact { files, tensors, metrics, ..Artifact::default() },
        )
    };
    let frames: Vec<String> = (0..70).map(|frame| format!("frames/{frame:03}.png")).collect();
    let mut own: Vec<(&str, Vec<u8>)> = frames.iter().map(|name| (&**name, png())).collect();
    own.extend([
        ("latin.csv", b"name\nM\xfcller\n".to_vec()),
        ("ragged.csv", b"a,b\n1\n".to_vec()),
        ("empty.png", Vec::new()),
        ("huge.png", vec![0; (8 << 20) + 1]),
        ("plain.svg", svg("<rect width=\"340\" height=\"180\" fill=\"white\"/>")),
        ("notes.txt", b"notes".to_vec()),
    ]);
    Inputs(BTreeMap::from([
        ("net".to_owned(), vec![point("0.05"), point("0.1")]),
        ("plots".to_owned(), vec![files("draw", own)]),
    ]))
}

fn page(inputs: &Inputs, over: &[&str]) -> String {
    build(&super::over(over), inputs, &Cancel::default()).unwrap()
}

fn section<'a>(page: &'a str, id: &str) -> &'a str {
    page.split(&format!("<section id=\"{id}\">")).nth(1).unwrap().split("</section>").next().unwrap()
}

#[test]
fn pictures_of_points_are_side_by_side_with_their_names() {
    let page = page(&outputs(), &[]);
    let section = section(&page, "outputs");
    assert!(section.contains("<h3>net <small>train-command</small></h3>"), "{section}");
    for (file, media) in [("plot.svg", "svg+xml"), ("shirts.png", "png")] {
        let part = section.split(&format!("<b>{file}</b>")).nth(1).unwrap().split("</div>").next().unwrap();
        assert_eq!(part.matches(&format!("src=\"data:image/{media};base64,")).count(), 2, "{file}");
        assert!(part.contains("<figcaption>net@<wbr>rate=<wbr>0.05</figcaption>"), "{part}");
    }
    // A single stage: the file is the caption. A folder: the first pictures, and how many others there are.
    assert!(section.contains("<figcaption>plain.svg</figcaption>"));
    assert!(section.contains("<b>frames/</b>") && section.contains("<figcaption>059.png</figcaption>"));
    assert!(!section.contains("060.png") && section.contains("10 more pictures are not shown."));
}

#[test]
fn first_screen_has_a_picture_of_a_program() {
    let page = page(&outputs(), &[]);
    let findings = section(&page, "findings");
    assert!(findings.contains("class=\"chart cover\"") && findings.contains("<b>plot.svg</b>"), "{findings}");
    assert!(findings.contains("<b>Loss</b>"));
}

#[test]
fn files_that_cannot_be_shown_are_listed_with_the_reason() {
    let page = page(&outputs(), &[]);
    let other = section(&page, "other");
    let row =
        |file: &str| other.lines().find(|line| line.contains(&format!(">{file}<"))).unwrap_or_default().to_owned();
    for (file, reason) in [
        ("empty.png", "the file is empty"),
        ("huge.png", "files of more than 8 MB are not shown"),
        ("latin.csv", "line 2 is not valid UTF-8"),
        ("ragged.csv", "rows differ in length: line 2 has 1 of 2 cells"),
        ("notes.txt", "file"),
    ] {
        assert!(row(file).contains(&format!("<td>{reason}</td>")), "{file}: {}", row(file));
    }
    assert!(!other.contains("plain.svg") && !other.contains("frames/"), "{other}");
    assert!(!other.contains("history."), "curves are shown as those of built-in trainings");
}

#[test]
fn columns_of_numbers_are_curves_with_a_line_for_each_point() {
    let page = page(&outputs(), &[]);
    let part = section(&page, "outputs").split("<b>curves.csv</b>").nth(1).unwrap();
    let part = part.split("<p class=\"file\">").next().unwrap();
    let charts: Vec<&str> = part.split("<figure class=\"chart\">").skip(1).collect();
    assert_eq!(charts.len(), 2);
    assert!(charts[0].contains("<b>loss</b>") && charts[0].contains(">step</text>"));
    assert!(charts.iter().all(|chart| chart.matches("<title>net@rate=").count() == 2));
    // Cells of val_accuracy are empty in four rows of five.
    let path = charts[1].split("<path class=\"l c0 d0\" data-l=\"0\" d=\"").nth(1).unwrap().split('"').next().unwrap();
    assert_eq!(path.matches('L').count(), 11, "{path}");
    assert!(part.contains("<summary>120 rows</summary>") && part.contains("… 20 more rows"), "{part}");
}

#[test]
fn table_of_points_has_their_names_and_escaped_cells() {
    let page = page(&outputs(), &[]);
    let part = section(&page, "outputs").split("<b>confusion.csv</b>").nth(1).unwrap();
    let table = part.split("</table>").next().unwrap();
    assert!(
        table.contains(">point</th><th scope=\"col\">class</th><th scope=\"col\" class=\"n\">Trouser</th>"),
        "{table}"
    );
    assert_eq!(table.matches("Bag, &lt;large&gt;").count(), 2);
    assert!(table.contains("<span title=\"96.5\">96.50</span>"));
}

#[test]
fn curves_of_seeds_are_a_mean_with_a_band() {
    let point = |seed: usize| files(&format!("net@seed={seed}"), vec![("a.csv", curve(0.05 * seed as f64, 10))]);
    let inputs = Inputs(BTreeMap::from([("net".to_owned(), vec![point(1), point(2), point(3)])]));
    let page = page(&inputs, &["seed"]);
    let chart = section(&page, "outputs").split("<b>loss</b>").nth(1).unwrap();
    assert_eq!(chart.split("</figure>").next().unwrap().matches("<path class=\"band ").count(), 1);
}

#[test]
fn metric_that_was_logged_in_some_epochs_is_a_line() {
    let charts = page(&outputs(), &[]);
    let chart = section(&charts, "training").split("<b>val_accuracy</b>").nth(1).unwrap();
    let path = chart.split("<path class=\"l c0 d0\" data-l=\"0\" d=\"").nth(1).unwrap().split('"').next().unwrap();
    assert_eq!(path.matches('L').count(), 5, "{path}");
    assert!(chart.contains("<data>1.500</data>"), "the last value that was logged");
    let figures = section(&charts, "metrics");
    assert!(figures.contains("<caption>Trainings</caption>") && figures.contains(">val accuracy best</th>"));
    assert!(section(&charts, "sweeps").contains(">net <small>train-command, 2 points</small>"));
}

#[test]
fn browser_shows_all_pictures_and_runs_no_script_in_them() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("report.html");
    let check = "<script>addEventListener('load', () => { document.body.dataset.broken =
        [...document.images].filter((image) => image.naturalWidth === 0).length; });</script></body>";
    std::fs::write(&file, page(&outputs(), &[]).replace("</body>", check)).unwrap();
    let Some(page) = browser::load(&file).unwrap() else {
        eprintln!("no chromium in PATH: the report was not loaded");
        return;
    };
    assert_eq!(page.complaints, Vec::<String>::new());
    assert!(page.dom.contains("data-broken=\"0\""), "every picture is drawn");
    assert!(page.dom.contains("<title>Seeds</title>") && !page.dom.contains("a script ran"));
}

#[test]
#[ignore = "writes a report for the eye"]
fn writes_outputs_to_look_at() {
    let file = std::env::temp_dir().join("vadpipe-outputs.html");
    std::fs::write(&file, overlay(&page(&outputs(), &[]), &run())).unwrap();
    println!("{}", file.display());
}
