//! `vadpipe ui`: the live page beside runs of other processes. What the page does in a browser is in `tests/ui`.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::Value;

use crate::support::{CommandOutput, Project, has, json, signal, text};

/// A sweep of small trainings, some of which are pruned.
const SWEEP: &str = r#"
[pipeline]
name = "sweep"
seed = 3
checkpoint_seconds = 0

[params]
epochs = 4

[matrix]
lr = [0.0001, 0.001, 0.01]

[stages.data]
kind = "load-data"
source = "synthetic"
train = 40
test = 20

[stages.net]
kind = "train-ad"
inputs = { data = "data" }
epochs = "${params.epochs}"
lr = "${matrix.lr}"
latent_dim = 6
channels = [16, 12, 8, 8]
keep_every = 1
"#;

/// A page that runs.
struct Page {
    child: Child,
    port: u16,
    token: String,
}

impl Page {
    fn start(project: &Project, args: &[&str]) -> Self {
        let mut child = project.command(["ui"].iter().chain(args)).spawn().expect("vadpipe starts");
        let mut url = String::new();
        BufReader::new(child.stdout.as_mut().expect("a pipe")).read_line(&mut url).expect("a line");
        let parts = url.trim().strip_prefix("http://127.0.0.1:").and_then(|url| url.split_once("/?token="));
        let (port, token) = parts.unwrap_or_else(|| panic!("no address: {url}"));
        Self { port: port.parse().expect("a port"), token: token.to_owned(), child }
    }

    fn url(&self) -> String {
        format!("http://127.0.0.1:{}/?token={}", self.port, self.token)
    }

    fn connect(&self, path: &str) -> BufReader<TcpStream> {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)).expect("a connection");
        stream.set_read_timeout(Some(Duration::from_secs(60))).expect("a limit");
        let head = format!("GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{}\r\nAuthorization: Bearer ", self.port);
        write!(stream, "{head}{}\r\nConnection: close\r\n\r\n", self.token).expect("a request");
        BufReader::new(stream)
    }

    /// The status and the JSON of an answer.
    fn get(&self, path: &str) -> (u16, Value) {
        let mut answer = Vec::new();
        self.connect(path).read_to_end(&mut answer).expect("an answer");
        let at = answer.windows(4).position(|w| w == b"\r\n\r\n").expect("a head");
        let head = String::from_utf8_lossy(&answer[..at]).into_owned();
        let status = head.split(' ').nth(1).expect("a status").parse().expect("a number");
        (status, serde_json::from_slice(&answer[at + 4..]).unwrap_or(Value::Null))
    }

    fn ok(&self, path: &str) -> Value {
        let (status, value) = self.get(path);
        assert_eq!(status, 200, "{path}: {value}");
        value
    }

    /// The points by name.
    fn points(&self) -> Vec<(String, Value)> {
        let table = self.ok("/api/points");
        table["rows"].as_array().expect("rows").iter().map(|row| (text(&row["point"]), row.clone())).collect()
    }

    /// Waits until a condition on the points holds.
    fn wait(&self, what: &str, holds: impl Fn(&[(String, Value)]) -> bool) {
        let begun = Instant::now();
        loop {
            let points = self.points();
            if holds(&points) {
                return;
            }
            assert!(begun.elapsed() < Duration::from_secs(60), "{what} never came: {points:?}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Ends it as a user would, and returns its exit code.
    fn end(mut self, how: Signal) -> i32 {
        signal(&self.child, how);
        self.child.wait().expect("it ends").code().unwrap_or(-1)
    }
}

impl Drop for Page {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn is_done(points: &[(String, Value)]) -> bool {
    points.iter().all(|(_, row)| row["status"] == "done")
}

/// The value of a column of a row.
fn value<'a>(table: &'a Value, row: &'a Value, label: &str) -> &'a Value {
    let columns = table["columns"].as_array().expect("columns");
    let at = columns.iter().position(|column| column["label"] == label).expect("a column");
    &row["values"][at]
}

#[test]
fn table_has_the_results_of_all_pipelines_and_the_filter_of_metrics() {
    let project = Project::new(SWEEP);
    project.run(&[]);
    project.write("q.toml", &SWEEP.replace("\"sweep\"", "\"other\""));
    assert_eq!(project.vadpipe(["run", "q.toml"]).code, 0);
    let page = Page::start(&project, &[]);
    page.wait("the results", is_done);
    let table = page.ok("/api/points");
    assert_eq!(table["rows"].as_array().expect("rows").len(), 8, "{table}");
    let metrics = json(&project.vadpipe(["metrics", "p.toml", "--json"]));
    for row in table["rows"].as_array().expect("rows").iter().filter(|row| row["pipeline"] == "sweep") {
        let known = &metrics[text(&row["point"])];
        for name in ["loss", "psnr"].iter().filter(|name| known[**name].is_number()) {
            assert_eq!(value(&table, row, name), &known[*name], "{row}");
        }
    }
    for (condition, cli) in
        [("lr<0.005", "lr<0.005"), ("lr=1e-2 && loss>0", "lr=1e-2 && loss>0"), ("stage=net", "stage=net")]
    {
        let encoded: String = condition.bytes().map(|byte| format!("%{byte:02x}")).collect();
        let found = page.ok(&format!("/api/points?where={encoded}%20%26%26%20pipeline=sweep"));
        let found: Vec<String> =
            found["rows"].as_array().expect("rows").iter().map(|row| text(&row["point"])).collect();
        let known = json(&project.vadpipe(["metrics", "p.toml", "--json", "--where", cli]));
        let known: Vec<String> = known.as_object().expect("an object").keys().cloned().collect();
        assert_eq!(found, known, "{condition}");
    }
    // So a page need not name thousands of points in an address.
    for path in ["/api/curves?", "/api/curves?metric=loss&bucket=2&", "/api/importance?metric=loss&"] {
        let ids = table["rows"].as_array().expect("rows").iter().filter(|row| row["stage"] == "net");
        let ids: Vec<String> = ids.map(|row| row["id"].to_string()).collect();
        let by_ids = page.ok(&format!("{path}ids={}", ids.join(",")));
        assert_eq!(page.ok(&format!("{path}where=stage%3Dnet")), by_ids, "{path}");
    }
    let curves = page.ok("/api/curves?metric=loss&bucket=2&where=stage%3Dnet");
    assert_eq!((&curves["bucket"], &curves["places"], &curves["epochs"]), (&2.into(), &4.into(), &4.into()));
    let (status, answer) = page.get("/api/points?where=lss%3C1");
    assert_eq!((status, answer["hint"].as_str()), (400, Some("did you mean `loss`?")), "{answer}");
}

#[test]
fn page_shows_a_run_of_another_process_while_it_runs() {
    let project = Project::new(SWEEP);
    project.run(&["-S", "params.epochs=1"]);
    let page = Page::start(&project, &[]);
    page.wait("the results", is_done);
    let mut events = page.connect("/api/events").lines();
    // So many that the server looks at the run while it trains.
    let mut run = project.start(&["run", "p.toml", "-q", "-S", "params.epochs=100"]);
    // A message says which points have finished an epoch, and their curves have it.
    let epochs = loop {
        let line = events.next().expect("a line").expect("a message");
        let Some(message) = line.strip_prefix("data: ") else { continue };
        let message: Value = serde_json::from_str(message).expect("JSON");
        if let Some(first) = message["epochs"].as_array().and_then(|epochs| epochs.first()) {
            break first.as_u64().expect("a number");
        }
    };
    let curves = page.ok(&format!("/api/curves?ids={epochs}&metric=loss"));
    assert!(curves["series"][0]["values"].as_array().is_some_and(|values| !values.is_empty()), "{curves}");
    assert_eq!(run.wait().expect("it ends").code(), Some(0));
    page.wait("the new results", |points| is_done(points) && points.iter().all(|(_, row)| row["epochs"] != 1));
    let curves = page.ok("/api/curves?metric=loss&where=stage%3Dnet");
    let series = curves["series"].as_array().expect("series");
    assert!(
        series.len() == 3 && series.iter().all(|one| one["values"].as_array().expect("values").len() == 100),
        "{curves}"
    );
    let chain = page.ok("/api/chain?pipeline=sweep");
    assert_eq!((&chain["epochs"], &chain["epochs_saved"]), (&(3 * 100 + 3).into(), &3.into()), "{chain}");
    assert_eq!(page.end(Signal::TERM), 0);
}

#[test]
fn resumed_training_is_shown_from_its_first_epoch() {
    let project = Project::new(SWEEP);
    project.run(&["-S", "params.epochs=4"]);
    let before = Page::start(&project, &[]).ok("/api/curves?metric=loss&where=lr%3D0.001");
    let mut run = project.start(&["run", "p.toml", "-q", "-S", "params.epochs=100000", "net@lr=0.001"]);
    let page = Page::start(&project, &[]);
    page.wait("an epoch", |points| points.iter().any(|(_, row)| row["epoch"].as_u64().is_some_and(|done| done > 8)));
    let check = |curves: &Value| {
        let (old, new) = (&before["series"][0]["values"], &curves["series"][0]["values"]);
        let (old, new) = (old.as_array().expect("values"), new.as_array().expect("values"));
        assert!(old.len() == 4 && new.len() > 8, "{curves}");
        assert_eq!(old[..], new[..4], "the epochs that were cached");
        assert!(new.iter().all(Value::is_number), "{curves}");
    };
    let path = "/api/curves?metric=loss&most=2000&where=lr%3D0.001";
    check(&page.ok(path));
    run.kill().expect("it runs");
    run.wait().expect("it ends");
    page.wait("the end", |points| points.iter().any(|(_, row)| row["status"] == "interrupted"));
    check(&page.ok(path));
}

#[test]
fn point_has_its_key_its_changes_its_images_and_its_log() {
    let project = Project::new(SWEEP);
    project.run(&["-S", "params.epochs=2"]);
    project.run(&[]);
    let page = Page::start(&project, &["p.toml"]);
    page.wait("the results", is_done);
    let (_, row) = page.points().into_iter().find(|(name, _)| name == "net@lr=0.001").expect("the point");
    let details = page.ok(&format!("/api/points/{}", row["id"]));
    assert_eq!(details["changes"]["causes"], serde_json::json!(["epochs 2 → 4"]), "{details}");
    let parts = details["result"]["components"].as_array().expect("parts");
    assert!(parts.iter().any(|part| part["name"] == "lr" && part["value"] == "0.001"), "{parts:?}");
    assert_eq!(details["earlier"].as_array().expect("a list").len(), 1);
    let mut png = Vec::new();
    let path = format!("/api/points/{}/image?name=reconstructions&count=4", row["id"]);
    page.connect(&path).read_to_end(&mut png).expect("an answer");
    assert!(png.windows(8).any(|w| w == b"\x89PNG\r\n\x1a\n"), "{}", String::from_utf8_lossy(&png));
    let log = page.ok(&format!("/api/points/{}/log", row["id"]));
    assert_eq!(log["is_over"], true, "{log}");
    let graph = page.ok("/api/graph?pipeline=sweep");
    assert_eq!(graph["edges"], serde_json::json!([["data", "net"]]), "{graph}");
}

#[test]
fn file_shows_points_that_have_not_run() {
    let project = Project::new(SWEEP);
    project.run(&["data"]);
    let page = Page::start(&project, &["p.toml"]);
    let points = page.points();
    let of = |status: &str| points.iter().filter(|(_, row)| row["status"] == status).count();
    assert_eq!((of("done"), of("not run")), (1, 3), "{points:?}");
}

#[test]
fn run_of_workers_on_other_machines_is_followed_through_the_store() {
    let project = Project::new(SWEEP);
    project.run(&["data"]);
    let pushed = json(&project.vadpipe(["push", "p.toml", "--store", "store", "--run", "--json"]));
    let id = text(&pushed["run"]);
    let page = Page::start(&project, &["p.toml", "--run", &id, "--store", "store"]);
    page.wait("the points", |points| points.iter().any(|(_, row)| row["status"] == "pending"));
    let elsewhere = project.vadpipe(["worker", "--run", &id, "--store", "store", "--cache", "elsewhere"]);
    assert_eq!(elsewhere.code, 0, "{}", elsewhere.stderr);
    page.wait("the results", is_done);
    let curves = page.ok("/api/curves?metric=loss&where=stage%3Dnet");
    let series = curves["series"].as_array().expect("series");
    assert!(series.len() == 3 && series.iter().all(|one| one["epochs"] == 4), "{curves}");
    // The logs are on the other machine; the worker left them in the store.
    let log = page.ok(&format!("/api/points/{}/log", series[0]["id"]));
    assert!(text(&log["text"]).contains("epoch 4/4") && log["is_over"] == true, "{log}");
}

#[test]
fn watching_changes_no_file_of_the_cache() {
    let project = Project::new(SWEEP);
    project.run(&[]);
    let contents = || {
        let mut all: Vec<(String, Vec<u8>)> = Vec::new();
        let mut folders = vec![project.path("cache")];
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(folder).expect("a folder") {
                let path = entry.expect("an entry").path();
                match path.is_dir() {
                    true => folders.push(path),
                    false => all.push((path.display().to_string(), std::fs::read(&path).expect("a file"))),
                }
            }
        }
        all.sort();
        all
    };
    let before = contents();
    let page = Page::start(&project, &[]);
    page.wait("the results", is_done);
    for path in ["/api/curves?metric=loss", "/api/chain?pipeline=sweep", "/api/graph?pipeline=sweep", "/api/points/0"] {
        page.ok(path);
    }
    assert_eq!(page.end(Signal::INT), 0);
    assert!(contents() == before);
}

#[test]
fn errors_say_what_to_do() {
    let project = Project::new(SWEEP);
    let failed = |args: &[&str]| {
        let CommandOutput { code, stdout, stderr } = project.vadpipe(["ui"].iter().chain(args));
        assert_eq!((code, stdout.as_str()), (2, ""), "{stderr}");
        stderr
    };
    insta::assert_snapshot!(failed(&[]), @r"
    error: cache is not a cache: there is no such folder
      hint: `vadpipe run` makes one; `--cache` names another one
    ");
    assert!(!project.path("cache").exists(), "the page does not make a cache");
    project.run(&["data"]);
    let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    let port = taken.local_addr().expect("an address").port().to_string();
    insta::assert_snapshot!(failed(&["--port", &port]).replace(&port, "PORT"), @r"
    error: can't listen on 127.0.0.1:PORT
      caused by: Address already in use (os error 98)
      hint: choose another one with `--port`, or leave the option out for a free one
    ");
}

#[test]
fn page_works_in_a_browser() {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/ui");
    if !has("node") || !tests.join("node_modules/playwright-core").is_dir() {
        eprintln!("node or playwright-core is not installed (`npm install` in tests/ui): the page was not driven");
        return;
    }
    let project = Project::new(SWEEP);
    project.run(&["-S", "params.epochs=2", "--note", "<img src=x onerror=alert(1)>"]);
    project.run(&[]);
    let page = Page::start(&project, &["p.toml"]);
    page.wait("the results", is_done);
    // The script starts this run, to see it live.
    let run = project.command(["run", "p.toml", "-q", "-S", "params.epochs=20"]);
    let output = Command::new("node")
        .arg(tests.join("page.mjs"))
        .arg(page.url())
        .arg(run.get_program())
        .args(run.get_args())
        .current_dir(project.path("."))
        .output()
        .expect("node starts");
    let output = CommandOutput::of(output);
    assert_eq!(output.code, 0, "{}{}", output.stdout, output.stderr);
}
