//! `report`: one self-contained HTML file about its inputs.
//!
//! ```toml
//! [stages.report]
//! kind = "report"
//! inputs = { data = "data", shown = ["ad", "vad@*", "fit@*", "tsne@*"] }
//! title = "Auto-decoders on Fashion-MNIST"      # the default is "Report"
//! over = ["seed"]                               # show the points of all seeds by their mean and standard deviation
//!
//! [stages.report.reference]                     # figures from elsewhere, in the order of their names
//! "AD, train" = { ours = "ad.loss", seed = "0.9 → 0.06", note = "100 epochs" }
//! "AD, test"  = { ours = "fit@split=test.loss", seed = 0.16 }
//! ```
//!
//! `ours` is `NAME.METRIC`. A stage that is alone in its role has the role's name, any other the name of its point.
//! `ours` and `note` are optional; `seed` is a number or a string. It is an error if no input has the figure.
//!
//! Pictures and tables that programs wrote are shown, and curves of tables. A line connects the epochs in which a
//! program logged a metric.
//!
//! The artifact is the file `report.html`, without data of any run; see [`crate::report::overlay()`].

use std::sync::Arc;

use crate::artifact::Artifact;
use crate::report::{Reference, Spec, build};
use crate::stage::{About, Context, Params, Roles, Stage, StageError, StageKind};
use crate::value::{Data, Entry, Node};

/// The kind `report`.
pub struct Kind;

/// The file in the artifact.
const FILE: &str = "report.html";

struct Report(Spec);

impl StageKind for Kind {
    fn about(&self) -> About {
        About {
            roles: Roles::Any,
            page: Some(FILE),
            ..About::new("report", 4, "one self-contained HTML file: figures, curves, images, scatters")
        }
    }

    fn parse(&self, params: &mut Params<'_>) -> Arc<dyn Stage> {
        let title = params
            .describe("its title; \"Report\" if it is not given")
            .text("title")
            .unwrap_or_else(|| "Report".to_owned());
        params.describe(
            "figures from elsewhere to show beside ours: { \"AD, test\" = { ours = \"fit.loss\", seed = 0.16 } }",
        );
        let mut reference = params.node("reference").map(|node| read_reference(params, &node)).unwrap_or_default();
        let over = params
            .describe("axes such as \"seed\": points that differ only in these are shown by mean and deviation")
            .texts("over")
            .unwrap_or_default();
        // The order of a table is not in the key, so it must not matter here.
        reference.sort_by(|a, b| a.label.cmp(&b.label));
        Arc::new(Report(Spec { title, reference, over }))
    }
}

const FORM: &str = "write `\"AD, test\" = { ours = \"fit.loss\", seed = 0.16, note = \"…\" }`";

fn read_reference(params: &mut Params<'_>, node: &Node) -> Vec<Reference> {
    let Data::Table(table) = &node.data else {
        params.error_at(&node.origin, format!("`reference` must be a table, not {}", node.data.describe()), FORM);
        return Vec::new();
    };
    table.0.iter().filter_map(|entry| read_figure(params, entry)).collect()
}

fn read_figure(params: &mut Params<'_>, entry: &Entry) -> Option<Reference> {
    let Data::Table(fields) = &entry.node.data else {
        let message = format!("a reference must be a table, not {}", entry.node.data.describe());
        params.error_at(&entry.node.origin, message, FORM);
        return None;
    };
    let mut figure = Reference { label: entry.name.clone(), ours: None, seed: String::new(), note: String::new() };
    for field in &fields.0 {
        match (field.name.as_str(), &field.node.data) {
            ("ours", Data::Text(text)) if text.contains('.') => figure.ours = Some(text.clone()),
            ("ours", _) => {
                let help = "it is NAME.METRIC, such as \"ad.loss\"";
                params.error_at(&field.node.origin, "`ours` must name a figure", help);
            }
            ("seed", Data::Text(text)) => figure.seed = text.clone(),
            ("seed", Data::Float(number)) => figure.seed = number.to_string(),
            ("seed", Data::Int(number)) => figure.seed = number.to_string(),
            ("note", Data::Text(text)) => figure.note = text.clone(),
            ("seed" | "note", other) => {
                let message = format!("`{}` can't be {}", field.name, other.describe());
                params.error_at(&field.node.origin, message, FORM);
            }
            (unknown, _) => {
                let message = format!("unknown field `{unknown}` in a reference");
                params.error_at(&field.name_origin, message, "known here: ours, seed, note");
            }
        }
    }
    if fields.get("ours").is_none() && fields.get("seed").is_none() {
        params.error_at(&entry.name_origin, format!("the reference `{}` says nothing", entry.name), FORM);
    }
    Some(figure)
}

impl Stage for Report {
    fn run(&self, context: &Context<'_>) -> Result<Artifact, StageError> {
        let html = build(&self.0, &context.inputs, context.cancel)?;
        let mut artifact = Artifact::default();
        artifact.files.insert(FILE.to_owned(), html.into_bytes());
        Ok(artifact)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::report::testing::{Bench, FakeInput, parse_stage};
    use crate::stage::Inputs;

    fn inputs() -> Inputs {
        let artifact = Artifact { metrics: BTreeMap::from([("loss".to_owned(), 0.0609)]), ..Artifact::default() };
        Inputs(BTreeMap::from([("ad".to_owned(), vec![FakeInput::shared("ad", "train-ad", artifact)])]))
    }

    #[test]
    fn it_makes_one_file() {
        let text = r#"
            title = "Ours & theirs"
            [reference]
            "AD, train" = { ours = "ad.loss", seed = 0.06, note = "100 epochs" }
            "AD, samples" = { seed = "noise" }
        "#;
        let (stage, values) = parse_stage(&Kind, text).unwrap();
        assert_eq!(values.keys().collect::<Vec<_>>(), ["reference", "title"]);
        let bench = Bench::new();
        let artifact = stage.run(&bench.context(inputs())).unwrap();
        assert_eq!(artifact.files.keys().collect::<Vec<_>>(), [FILE]);
        let html = std::str::from_utf8(&artifact.files[FILE]).unwrap();
        assert!(html.contains("<title>Ours &amp; theirs</title>"));
        let (samples, train) = (html.rfind("AD, samples").unwrap(), html.rfind("AD, train").unwrap());
        assert!(samples < train, "in the order of names, since a table in a key has no other");
    }

    #[test]
    fn the_order_of_references_changes_nothing() {
        let run = |text: &str| parse_stage(&Kind, text).unwrap().0.run(&Bench::new().context(inputs())).unwrap();
        let one = "[reference]\na = { seed = 1 }\nb = { seed = 2 }";
        let other = "[reference]\nb = { seed = 2 }\na = { seed = 1 }";
        assert_eq!(run(one), run(other));
    }

    #[test]
    fn wrong_references_are_explained() {
        let errors = [
            "reference = 3",
            "reference = { a = 0.16 }",
            "reference = { a = { ours = 'loss', seed = [1] } }",
            "reference = { a = { sead = 1 } }",
            "titel = 'x'",
        ]
        .map(|text| parse_stage(&Kind, text).err().unwrap_or_else(|| format!("accepted: {text}")));
        insta::assert_snapshot!(errors.join("\n--\n"), @r#"
        `reference` must be a table, not an integer (write `"AD, test" = { ours = "fit.loss", seed = 0.16, note = "…" }`)
        --
        a reference must be a table, not a float (write `"AD, test" = { ours = "fit.loss", seed = 0.16, note = "…" }`)
        --
        `ours` must name a figure (it is NAME.METRIC, such as "ad.loss")
        `seed` can't be a list (write `"AD, test" = { ours = "fit.loss", seed = 0.16, note = "…" }`)
        --
        unknown field `sead` in a reference (known here: ours, seed, note)
        the reference `a` says nothing (write `"AD, test" = { ours = "fit.loss", seed = 0.16, note = "…" }`)
        --
        unknown field `titel` (did you mean `title`?)
        "#);
    }
}
