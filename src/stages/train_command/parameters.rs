//! The parameters of `train-command`.

use crate::stage::{Epochs, Params};
use crate::stages::program::{self, Defaults, Program};
use crate::value::{Data, Node, Value, Values};

/// A training program with its parameters.
pub(super) struct TrainCommand {
    pub(super) program: Program,
    /// Values that shape the first state.
    pub(super) start: Values,
    pub(super) epochs: Epochs,
    pub(super) select: Option<Select>,
    /// The parameters of the result only.
    pub(super) result: Values,
}

/// The metric that tells the best epoch.
#[derive(Clone)]
pub(super) struct Select {
    pub(super) metric: String,
    /// Whether larger values are better.
    pub(super) larger: bool,
}

impl TrainCommand {
    /// Reads the parameters.
    pub(super) fn parse(params: &mut Params<'_>) -> Self {
        let program = Program::parse(params, &Defaults { home: "user", outputs_in_params: false });
        if let Some(path) = program.outputs().values().find(|path| program::file_name(path) == "state") {
            let message = format!("the output `{path}` has a reserved name");
            params.error("outputs", message, "`state` is the folder of the last state; choose another name");
        }
        params.describe("the epochs that one process trains");
        let every = params.int("segment_epochs", 1, 1..=1_000_000);
        if !params.is_given("segment_epochs") {
            params.error("segment_epochs", "`segment_epochs` is missing", "give the epochs that one process trains");
        }
        params.describe("whether one process trains to the end and saves a state at each multiple");
        let warm = params.bool_added("warm");
        if warm && program.has_placeholder("checkpoint") {
            let field = program.field();
            let message =
                format!("`{field}` contains `{{checkpoint}}`, which a program with `warm = true` does not have");
            params.error(field, message, "give a smaller `segment_epochs`: the program loses at most one segment");
        }
        params.describe("values that shape the first state");
        let start = params.node("start").map(|node| program::value_table(params, "start", &node)).unwrap_or_default();
        let epochs = Epochs { warm, ..params.value_segments(every.unsigned_abs()) };
        params.describe("the metric that tells the best epoch: { metric = \"val_acc\", mode = \"max\" }");
        let select = params.node_unhashed("select");
        let mut result = Values::new();
        if !program.outputs().is_empty() {
            let outputs = program.outputs().iter().map(|(role, path)| (role.clone(), path.as_str().into()));
            result.insert("outputs".to_owned(), Value::Table(outputs.collect()));
        }
        result.extend(select.iter().map(|node| ("select".to_owned(), node.data.value())));
        let select = select.and_then(|node| Select::parse(params, &node));
        Self { program, start, epochs, select, result }
    }
}

impl Select {
    fn parse(params: &mut Params<'_>, node: &Node) -> Option<Self> {
        const FORM: &str =
            "write `select = { metric = \"val_acc\", mode = \"max\" }`; the default of `mode` is \"min\"";
        let Data::Table(table) = &node.data else {
            params.error_at(&node.origin, format!("`select` must be a table, not {}", node.data.describe()), FORM);
            return None;
        };
        for entry in table.0.iter().filter(|entry| !matches!(entry.name.as_str(), "metric" | "mode")) {
            params.error_at(&entry.name_origin, format!("unknown field `{}` in `select`", entry.name), FORM);
        }
        let larger = match table.get("mode").map(|mode| &mode.data) {
            None => false,
            Some(Data::Text(mode)) if mode == "min" || mode == "max" => mode == "max",
            Some(_) => {
                params.error_at(&node.origin, "`mode` must be \"min\" or \"max\"", FORM);
                return None;
            }
        };
        let Some(Data::Text(metric)) = table.get("metric").map(|metric| &metric.data) else {
            params.error_at(&node.origin, "`select` needs a `metric`, which is a string", FORM);
            return None;
        };
        Some(Self { metric: metric.clone(), larger })
    }
}
