//! A shared store on a real S3 server: moto, which `VADPIPE_MOTO` names the Python of.

mod hosts;
mod servers;

use std::time::{Duration, Instant};

use serde_json::Value;

use self::servers::{Moto, always_busy, busy_for_a_while, silent};
use crate::support::{CommandOutput, MINI, Project, Run, json};

/// A pipeline with one file of 20 MB.
const LARGE: &str = r#"
[pipeline]
name = "large"

[stages.a]
kind = "command"
argv = ["sh", "-c", "seq 1000000 3500000 > out"]
outputs = { out = "out" }
"#;

/// A machine of the team, with its own cache, and its environment.
struct Machine {
    project: Project,
    url: String,
    variables: Vec<(&'static str, String)>,
}

impl Machine {
    fn new(endpoint: &str, bucket: &str, pipeline: &str) -> Self {
        Self::with_keys(endpoint, bucket, pipeline, "AKIAIOSFODNN7EXAMPLE", "wJalrXUtnFEMI-bPxRfiCYEXAMPLEKEY")
    }

    fn with_keys(endpoint: &str, bucket: &str, pipeline: &str, id: &str, secret: &str) -> Self {
        let variables = vec![
            ("AWS_ENDPOINT_URL", endpoint.to_owned()),
            ("AWS_REGION", "us-east-1".to_owned()),
            ("AWS_ACCESS_KEY_ID", id.to_owned()),
            ("AWS_SECRET_ACCESS_KEY", secret.to_owned()),
        ];
        Self { project: Project::new(pipeline), url: format!("s3://{bucket}/vadpipe"), variables }
    }

    fn vadpipe(&self, args: &[&str]) -> CommandOutput {
        let mut command = self.project.command(args.iter().chain(&["--store", &self.url]));
        let variables = self.variables.iter().map(|(name, value)| (name, value));
        CommandOutput::of(command.envs(variables).output().expect("vadpipe starts"))
    }

    fn run(&self, more: &[&str]) -> Run {
        let run = Run::of(self.vadpipe(&[&["run", "p.toml", "--json"], more].concat()));
        assert_eq!(run.output.code, 0, "{}\n{}", run.output.stdout, run.output.stderr);
        run
    }

    /// The command must fail with exit code 2, before anything runs, with this message, and without the credentials.
    fn is_refused(&self, more: &[&str], message: &str) {
        let output = self.vadpipe(&[&["run", "p.toml"], more].concat());
        assert_eq!(output.code, 2, "{}", output.stderr);
        let text = format!("{}{}", output.stdout, output.stderr);
        assert!(text.contains(message), "{text}");
        for (name, value) in self.variables.iter().filter(|(name, _)| name.contains("KEY")) {
            assert!(!text.contains(value), "{name} is shown: {text}");
        }
        assert!(!self.project.path("cache/runs").exists(), "nothing ran");
    }
}

fn warnings(run: &Run) -> Vec<&str> {
    let all = run.of_kind("warning").map(|event| event["message"].as_str().expect("text"));
    all.filter(|warning| !warning.ends_with("this is a new one")).collect()
}

#[test]
fn second_machine_runs_nothing() {
    let moto = Moto::start();
    let first = Machine::new(&moto.endpoint, "team", MINI);
    let made = first.run(&["--store-write"]);
    assert_eq!(warnings(&made), [""; 0]);
    let second = Machine::new(&moto.endpoint, "team", MINI);
    let run = second.run(&[]);
    assert_eq!((run.executed(), warnings(&run)), (vec![], vec![]));
    assert_eq!(second.project.digests(), first.project.digests());
    let pushed = json(&second.vadpipe(&["push", "p.toml", "--json"]));
    assert_eq!((&pushed["results"], &pushed["bytes"]), (&0.into(), &0.into()), "{pushed}");
    // A training is extended, and the first machine takes it.
    for machine in [&first, &second] {
        machine.project.edit("epochs = 3", "epochs = 4");
    }
    let run = second.run(&["--store-write"]);
    let mut begun = run.of_kind("epoch").filter(|event| event["epoch"] == 1).map(|event| event["stage"].as_str());
    assert!(begun.all(|stage| stage.is_some_and(|name| name.starts_with("fit@"))), "{}", run.output.stdout);
    assert_eq!(first.run(&[]).executed(), [""; 0]);
    assert_eq!(second.project.digests(), first.project.digests());
}

#[test]
fn file_of_20_mb_goes_up_in_parts_and_comes_back() {
    let moto = Moto::start();
    let first = Machine::new(&moto.endpoint, "large", LARGE);
    first.run(&["--store-write"]);
    let listing = moto.get("/large?list-type=2");
    assert!(listing.contains("-3\"</ETag>"), "an object of three parts: {listing}");
    let second = Machine::new(&moto.endpoint, "large", LARGE);
    assert_eq!(second.run(&[]).executed(), [""; 0]);
    assert_eq!(second.project.digests(), first.project.digests());
    // All bytes are read.
    let doctor = second.project.vadpipe(["doctor", "--json"]);
    assert_eq!(doctor.code, 0, "{} {}", doctor.stdout, doctor.stderr);
    assert!(json(&doctor)["bytes"].as_u64() >= Some(20_000_000), "{}", doctor.stdout);
}

#[test]
fn result_that_the_store_has_already_replaces_the_own_one() {
    let moto = Moto::start();
    let pipeline = LARGE.replace("seq 1000000 3500000", "date +%s%N");
    let [first, second] = [0, 1].map(|_| Machine::new(&moto.endpoint, "race", &pipeline));
    first.run(&["--store-write"]);
    let run = second.run(&["--store-write", "-f"]);
    assert!(warnings(&run).iter().any(|w| w.contains("the store has another result of `a`")), "{:?}", warnings(&run));
    assert_eq!(second.project.digests(), first.project.digests());
}

#[test]
fn wrong_stores_and_credentials_are_refused_before_anything_runs() {
    let moto = Moto::start();
    Machine::new(&moto.endpoint, "nowhere", MINI)
        .is_refused(&["--store-write"], "there is no store s3://nowhere/vadpipe: the server has no such bucket");
    let mut thesis = Machine::new(&moto.endpoint, "thesis", MINI);
    thesis.is_refused(&[], "s3://thesis/vadpipe is not a store of vadpipe: it holds thesis.tex");
    thesis.url = "s3://thesis".to_owned();
    thesis.is_refused(&["--store-write"], "s3://thesis is not a store of vadpipe: it holds vadpipe/thesis.tex");
    let mut machine = Machine::new(&moto.endpoint, "team", MINI);
    machine.variables.retain(|(name, _)| *name != "AWS_SECRET_ACCESS_KEY");
    machine.is_refused(&[], "of AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, only one is set");
    machine.variables.retain(|(name, _)| *name != "AWS_ACCESS_KEY_ID");
    machine.is_refused(&[], "there are no credentials: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY");
    Machine::new("http://storage.example", "team", MINI)
        .is_refused(&[], "AWS_ENDPOINT_URL is a server without encryption");
}

#[test]
fn server_that_checks_credentials_accepts_only_the_right_ones() {
    let moto = Moto::with_users();
    // When moto checks signatures, it refuses a slash in the prefix of a listing, also from Amazon's own client. So
    // this store has no path, and no stage for which the store is listed.
    let pipeline = "[pipeline]\nname = \"p\"\n[stages.data]\nkind = \"load-data\"\nsource = \"synthetic\"\n\
                    train = 40\ntest = 20\n";
    let machine = |id: &str, secret: &str| {
        let machine = Machine::with_keys(&moto.endpoint, "guarded", pipeline, id, secret);
        Machine { url: "s3://guarded".to_owned(), ..machine }
    };
    let (id, secret) = moto.user("writer");
    let wrong = "the store s3://guarded does not accept the credentials";
    machine(&id, "wJalrXUtnFEMI-bPxRfiCYEXAMPLEKEY").is_refused(&[], &format!("{wrong} (SignatureDoesNotMatch)"));
    machine("AKIAIOSFODNN7EXAMPLE", &secret).is_refused(&["--store-write"], &format!("{wrong} (InvalidAccessKeyId)"));
    assert_eq!(warnings(&machine(&id, &secret).run(&["--store-write"])), [""; 0]);
    // A user who may only read.
    let (id, secret) = moto.user("reader");
    let reader = machine(&id, &secret);
    assert_eq!(reader.run(&[]).executed(), [""; 0]);
    reader.project.edit("train = 40", "train = 50");
    let run = reader.run(&["--store-write"]);
    let refused = "permission denied (AccessDenied): can't write ";
    assert!(warnings(&run).len() == 1 && warnings(&run)[0].starts_with(refused), "{:?}", warnings(&run));
    let (id, secret) = moto.user("stranger");
    machine(&id, &secret)
        .is_refused(&[], "permission denied (AccessDenied): can't read vadpipe.json in the store s3://guarded");
}

#[test]
fn busy_server_is_asked_again() {
    let moto = Moto::start();
    let endpoint = busy_for_a_while(&moto);
    let first = Machine::new(&endpoint, "busy", MINI);
    assert_eq!(warnings(&first.run(&["--store-write"])), [""; 0]);
    let second = Machine::new(&endpoint, "busy", MINI);
    let run = second.run(&[]);
    assert_eq!((run.executed(), warnings(&run)), (vec![], vec![]));
}

#[test]
fn run_goes_on_without_a_server_that_does_not_answer() {
    let local = Project::new(LARGE);
    local.run(&[]);
    let closed = "http://127.0.0.1:9".to_owned();
    std::thread::scope(|scope| {
        for (endpoint, why) in [(silent(), "no answer within 20 s"), (always_busy(), ""), (closed, "")] {
            let local = &local;
            scope.spawn(move || {
                let machine = Machine::new(&endpoint, "team", LARGE);
                let begun = Instant::now();
                let run = machine.run(&["--store-write"]);
                assert!(begun.elapsed() < Duration::from_secs(60), "{endpoint} {why}: {:?}", begun.elapsed());
                let warnings = warnings(&run);
                let expected = "can't read vadpipe.json in the store s3://team/vadpipe: ";
                assert!(warnings.len() == 1 && warnings[0].starts_with(expected), "{endpoint}: {warnings:?}");
                assert!(warnings[0].contains(why), "{warnings:?}");
                assert_eq!(machine.project.digests(), local.digests());
            });
        }
    });
}
