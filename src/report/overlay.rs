//! What belongs to a run and not to its results: the DAG with what was cached and what ran, timings, parameters, device.
//!
//! None of this may be in the report's artifact, which is a pure function of its inputs; it is put into the file when
//! that is written, at the one [`MARKER`] that every report holds.

use std::collections::BTreeMap;

use super::dag;
use super::html::{Cell, Table, Text, duration, number};
use crate::status::StageStatus;
use crate::value::Values;

/// Where the overlay goes.
pub(super) const MARKER: &str = "<!--vadpipe:run-->";

/// A run as the report shows it.
#[derive(Clone, Debug, Default)]
pub struct RunOverlay {
    /// The pipeline's name.
    pub pipeline: String,
    /// The run's id.
    pub run: String,
    /// When it began, as a person reads it.
    pub started: String,
    /// What it computed on.
    pub device: String,
    /// With how many threads.
    pub threads: usize,
    /// The version of vadpipe.
    pub version: String,
    /// Its points, in plan order.
    pub stages: Vec<StageOverlay>,
}

/// A point of a run.
#[derive(Clone, Debug)]
pub struct StageOverlay {
    /// The point's name.
    pub name: String,
    /// The stage's kind.
    pub kind: String,
    /// Its parameters.
    pub params: Values,
    /// What became of it.
    pub status: StageStatus,
    /// How long it took when it ran: in this run, or, if it was cached, in the run that made it.
    pub seconds: Option<f64>,
    /// The names of the points it reads.
    pub inputs: Vec<String>,
    /// Its metrics.
    pub metrics: BTreeMap<String, f64>,
}

/// The word for what became of a point.
pub(super) fn word(status: StageStatus) -> &'static str {
    match status {
        StageStatus::Executed => "ran",
        other => other.word(),
    }
}

/// The report with the run put into its place; unchanged if it has no such place.
pub fn overlay(html: &str, run: &RunOverlay) -> String {
    html.replacen(MARKER, &section(run), 1)
}

fn section(run: &RunOverlay) -> String {
    let count = |status| run.stages.iter().filter(|s| s.status == status).count();
    use StageStatus::{Cached, Executed, Failed, Pruned, Running, Skipped};
    let counts: Vec<String> = [Executed, Cached, Running, Failed, Skipped, Pruned]
        .iter()
        .filter(|s| count(**s) > 0)
        .map(|s| format!("<span class=\"state {0}\">{1} {0}</span>", word(*s), count(*s)))
        .collect();
    let mut out = String::from("<section id=\"run\"><h2>The run</h2>\n<dl class=\"facts\">");
    let facts = [
        ("pipeline", &run.pipeline),
        ("run", &run.run),
        ("started", &run.started),
        ("device", &run.device),
        ("threads", &run.threads.to_string()),
        ("vadpipe", &run.version),
    ];
    for (name, value) in facts {
        out.push_str(&format!("<div><dt>{name}</dt><dd>{}</dd></div>", Text(value)));
    }
    out.push_str(&format!("<div><dt>stages</dt><dd>{}</dd></div></dl>\n", counts.join(", ")));
    out.push_str(&dag::draw(&run.stages));
    out.push_str("<h3 id=\"timings\">Timings</h3>\n");
    out.push_str(&timings(&run.stages));
    out.push_str("<h3 id=\"parameters\">Parameters and metrics</h3>\n");
    out.push_str(&parameters(&run.stages));
    out.push_str("</section>\n");
    out
}

fn timings(stages: &[StageOverlay]) -> String {
    let total: f64 = stages.iter().filter_map(|s| s.seconds).sum();
    let longest = stages.iter().filter_map(|s| s.seconds).fold(0.0, f64::max);
    let mut table = Table::default();
    table.column("stage", false).column("kind", false).column("state", false).column("time", true).column("", false);
    for stage in stages {
        let state = word(stage.status);
        let time = stage.seconds.map_or_else(String::new, duration);
        let share = stage.seconds.filter(|_| longest > 0.0).map_or(0.0, |s| 100.0 * s / longest);
        let bar = format!("<div class=\"bar\"><i style=\"width:{share:.1}%\"></i></div>");
        table.row(vec![
            Cell::name(&stage.name),
            Cell::text(&stage.kind),
            Cell::html(format!("<span class=\"state {state}\">{state}</span>"), state.to_owned()),
            Cell::html(time, stage.seconds.map_or_else(|| "-1".to_owned(), |s| s.to_string())),
            Cell::html(bar, share.to_string()),
        ]);
    }
    table.render(&format!("Stages that ran took {} together", duration(total)))
}

fn parameters(stages: &[StageOverlay]) -> String {
    let mut table = Table::default();
    table.column("stage", false).column("kind", false).column("parameters", false).column("metrics", false);
    for stage in stages {
        let one = |(name, value): (&String, &crate::value::Value)| {
            format!("<span class=\"p\">{} = {}</span>", Text(name), Text(&value.to_string()))
        };
        let params: Vec<String> = stage.params.iter().map(one).collect();
        let one = |(name, value): (&String, &f64)| {
            format!("<span class=\"p\" title=\"{value}\">{} {}</span>", Text(name), number(*value))
        };
        let metrics: Vec<String> = stage.metrics.iter().map(one).collect();
        table.row(vec![
            Cell::name(&stage.name),
            Cell::text(&stage.kind),
            Cell::html(format!("<code>{}</code>", params.join(" ")), String::new()),
            Cell::html(format!("<code>{}</code>", metrics.join(" ")), String::new()),
        ]);
    }
    table.render("")
}
