//! Every version of vadpipe makes the same bytes, unless the version of a kind changes.
//!
//! A key contains no code. A change to what a kind computes must therefore raise its version, or old results pass for
//! new ones. This test detects such changes. Its pipeline contains every kind whose bytes are pinned. `command` is not
//! pinned because it runs other programs, and `report` because its layout may change. By design the bytes depend
//! neither on the number of threads nor on the instruction set.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::support::{Project, text};

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

[stages.program]
kind = "train-command"
segment_epochs = 2
epochs = 3
start = { first = 5 }
epoch = { step = 2 }
outputs = { last = "last.txt" }
argv = ["sh", "-c", """
last=$(cat $VADPIPE_STATE_IN/number 2> /dev/null || echo 0)
test $VADPIPE_FROM = $VADPIPE_TO && echo $last > last.txt && exit
for epoch in $(seq $((VADPIPE_FROM + 1)) $VADPIPE_TO); do
    echo "{\\"epoch\\": $epoch, \\"loss\\": 1.$epoch, \\"_seconds\\": $(date +%s)}" >> $VADPIPE_LOG
done
echo $((last + VADPIPE_TO)) > $VADPIPE_STATE_OUT/number
"""]
"#;

/// Kinds whose bytes are not pinned.
const NOT_PINNED: [&str; 2] = ["command", "report"];

/// Point, kind, version, and the first 16 digits of its output digest.
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
    ("program", "train-command", 1, "6ac00d7ee65589d1"),
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
fn results_have_the_pinned_digests() {
    let project = Project::new(GOLDEN);
    project.run(&[]);
    let output = project.vadpipe(["show", "p.toml", "--json"]);
    assert_eq!(output.code, 0, "{}", output.stderr);
    let all: serde_json::Map<String, Value> = serde_json::from_str(&output.stdout).expect("JSON");
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
        "results changed:\n{}\nIf this is intended, raise the version of the kind that changed (not of kinds that only read \
         its results), and replace PINNED:\n\nconst PINNED: &[(&str, &str, u64, &str)] = &[\n{now}];\n",
        changed.join("\n")
    );

    let kinds: Value = serde_json::from_str(&project.vadpipe(["kinds", "--json"]).stdout).expect("JSON");
    let names = kinds["kinds"].as_array().expect("kinds").iter().map(|kind| text(&kind["name"]));
    let expected: BTreeSet<String> = names.filter(|name| !NOT_PINNED.contains(&name.as_str())).collect();
    let pinned: BTreeSet<String> = PINNED.iter().map(|(_, kind, ..)| (*kind).to_owned()).collect();
    assert_eq!(pinned, expected, "every kind but those of NOT_PINNED is pinned");
}
