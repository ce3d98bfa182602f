//! Results are the same bytes from one version of vadpipe to the next, unless a kind's VERSION says otherwise.
//!
//! A key holds no code: who changes what a kind computes must raise its VERSION, or old results pass for new ones. This story is
//! what tells. Its pipeline has every kind whose bytes are ours (`command` and `report` are not: a report changes with its looks);
//! by design the bytes depend on neither the number of threads nor the instruction set.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::support::{Desk, text};

const GOLDEN: &str = r#"
[pipeline]
name = "golden"
seed = 7

[stages.data]
kind = "load-data"
source = "synthetic"
train = 40
test = 20

[stages.ad]
kind = "train-ad"
inputs = { data = "data" }
epochs = 2
latent_dim = 6
channels = [16, 12, 8, 8]

[stages.vad]
kind = "train-vad"
inputs = { data = "data" }
matrix = { distribution = ["gaussian", "exponential", "uniform"] }
distribution = "${matrix.distribution}"
epochs = 2
latent_dim = 6
channels = [16, 12, 8, 8]

[stages.fit-ad]
kind = "fit-latents"
inputs = { data = "data", model = "ad" }
epochs = 2

[stages.fit-vad]
kind = "fit-latents"
inputs = { data = "data", model = "vad" }
split = "train"
init = "trained"
epochs = 1

[stages.fit-batch]
kind = "fit-latents"
inputs = { data = "data", model = "ad" }
statistics = "batch"
epochs = 1

[stages.given]
kind = "decode"
inputs = { model = "ad", latents = "fit-ad" }
what = "latents"
scale = 0.5

[stages.samples]
kind = "decode"
inputs = { model = "vad" }
what = "prior"

[stages.map]
kind = "tsne"
inputs = { data = "data", latents = "ad" }
perplexity = 5
iterations = 60

[stages.between]
kind = "interpolate"
inputs = { data = "data", model = "ad" }
from = 0
to = 1
mode = "spherical"
"#;

/// Kinds whose bytes are not pinned.
const NOT_OURS: [&str; 2] = ["command", "report"];

/// Point, kind, VERSION, and how its output digest begins.
const PINNED: &[(&str, &str, u64, &str)] = &[
    ("ad", "train-ad", 2, "26328ab2fcaaa062"),
    ("between", "interpolate", 2, "8b2e2cc041356ab5"),
    ("data", "load-data", 1, "ab8cb4dcbafbe4a0"),
    ("fit-ad", "fit-latents", 2, "3b16bbe116eff4fc"),
    ("fit-batch", "fit-latents", 2, "51042370911b8b5e"),
    ("fit-vad@distribution=exponential", "fit-latents", 2, "fddb33452794a489"),
    ("fit-vad@distribution=gaussian", "fit-latents", 2, "d4a7392e7a1ba672"),
    ("fit-vad@distribution=uniform", "fit-latents", 2, "8c289e3a65c1a35d"),
    ("given", "decode", 2, "8456dcfdc16098b5"),
    ("map", "tsne", 1, "a3686c84491ed20e"),
    ("samples@distribution=exponential", "decode", 2, "ec415f55e0768d29"),
    ("samples@distribution=gaussian", "decode", 2, "6065fdad51f9ad42"),
    ("samples@distribution=uniform", "decode", 2, "d3300c9d1cf446c8"),
    ("vad@distribution=exponential", "train-vad", 2, "0e767418034099a9"),
    ("vad@distribution=gaussian", "train-vad", 2, "655400f5911bf04f"),
    ("vad@distribution=uniform", "train-vad", 2, "66027457a5578f14"),
];

fn table<'a>(rows: impl Iterator<Item = (&'a str, &'a str, u64, &'a str)>) -> String {
    rows.map(|(point, kind, version, digest)| format!("    ({point:?}, {kind:?}, {version}, {digest:?}),\n")).collect()
}

#[test]
fn results_are_the_bytes_that_they_were() {
    let desk = Desk::new(GOLDEN);
    desk.run(&[]);
    let said = desk.vadpipe(["show", "p.toml", "--json"]);
    assert_eq!(said.code, 0, "{}", said.err);
    let all: serde_json::Map<String, Value> = serde_json::from_str(&said.out).expect("JSON");
    let found = all.iter().map(|(point, record)| {
        let (components, digest) = (&record["components"], text(&record["digest"]));
        let version = components["version"].as_u64().expect("a number");
        (point.clone(), text(&components["kind"]), version, digest[..16].to_owned())
    });
    let found: Vec<_> = found.collect();
    let now = table(found.iter().map(|(point, kind, version, digest)| (&**point, &**kind, *version, &**digest)));
    let changed: Vec<&str> = now.lines().filter(|line| !table(PINNED.iter().copied()).contains(line)).collect();
    assert!(
        now == table(PINNED.iter().copied()),
        "results changed:\n{}\nIf that is intended, raise the VERSION of the kind that changed (what only reads its results \
         needs none), and pin anew:\n\nconst PINNED: &[(&str, &str, u64, &str)] = &[\n{now}];\n",
        changed.join("\n")
    );

    let kinds: Value = serde_json::from_str(&desk.vadpipe(["kinds", "--json"]).out).expect("JSON");
    let names = kinds["kinds"].as_array().expect("kinds").iter().map(|kind| text(&kind["name"]));
    let ours: BTreeSet<String> = names.filter(|name| !NOT_OURS.contains(&name.as_str())).collect();
    let pinned: BTreeSet<String> = PINNED.iter().map(|(_, kind, ..)| (*kind).to_owned()).collect();
    assert_eq!(pinned, ours, "every kind whose bytes are ours has a place in this story");
}
