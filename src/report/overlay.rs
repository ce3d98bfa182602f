//! The section about the run: the DAG with the state of each stage, timings, parameters, device.
//!
//! The report's artifact is a pure function of its inputs and can't hold any of this. The section is inserted at the
//! [`MARKER`] of a page when the file is written.

use bytesize::ByteSize;

use super::dag;
use super::html::{Cell, Html, Table, duration, html, number};
use super::run::{RunOverlay, StageOverlay, word};
use crate::status::StageStatus;

/// The tables of a run have no more rows.
const MOST_ROWS: usize = 200;

/// Where the content of a page begins.
pub(super) const MAIN: &str = "<main>\n";
/// Where the overlay goes.
pub(super) const MARKER: &str = "<!--vadpipe:run-->";

/// The page with the run inserted; unchanged if it has no marker. Points that are missing are named at the top.
pub fn overlay(page: &str, run: &RunOverlay) -> String {
    let page = page.replacen(MARKER, &section(run), 1);
    if run.missing.is_empty() {
        return page;
    }
    page.replacen(MAIN, &html!("{}{}", Html::constant(MAIN), missing(run)).into_string(), 1)
}

fn missing(run: &RunOverlay) -> Html {
    let points =
        run.missing.iter().map(|(name, status)| html!("{0} <span class=\"state {1}\">{1}</span>", name, word(*status)));
    html!("<p class=\"note\" id=\"missing\"><strong>Not in this report:</strong> {}</p>\n", Html::join(points, ", "))
}

fn section(run: &RunOverlay) -> Html {
    let count = |status: StageStatus| run.stages.iter().filter(|s| s.status == status).count();
    use StageStatus::{Cached, Executed, Failed, Pruned, Running, Skipped};
    let statuses = [Executed, Cached, Running, Failed, Skipped, Pruned];
    let counts = statuses
        .into_iter()
        .filter(|status| count(*status) > 0)
        .map(|status| html!("<span class=\"state {0}\">{1} {0}</span>", word(status), count(status)));
    let facts = [
        ("pipeline", &run.pipeline),
        ("run", &run.run),
        ("started", &run.started),
        ("device", &run.device),
        ("threads", &run.threads.to_string()),
        ("vadpipe", &run.version),
    ];
    let facts = facts.into_iter().chain(run.workers.as_ref().map(|workers| ("workers", workers)));
    let facts = facts.map(|(name, value)| html!("<div><dt>{}</dt><dd>{}</dd></div>", name, value));
    html!(
        "<section id=\"run\"><h2>The run</h2>\n<dl class=\"facts\">{}<div><dt>stages</dt><dd>{}</dd></div></dl>\n{}\
         <h3 id=\"timings\">Timings</h3>\n{}<h3 id=\"parameters\">Parameters and metrics</h3>\n{}</section>\n",
        Html::from_iter(facts),
        Html::join(counts, ", "),
        dag::draw(&run.stages),
        timings(&run.stages),
        parameters(&run.stages),
    )
}

fn timings(stages: &[StageOverlay]) -> Html {
    let total: f64 = stages.iter().filter_map(|s| s.seconds).sum();
    let longest = stages.iter().filter_map(|s| s.seconds).fold(0.0, f64::max);
    let (shown, more) = first(stages);
    let mut table = Table::default();
    table.column("stage", false).column("kind", false).column("state", false).column("time", true);
    let has_usage = stages.iter().any(|stage| stage.usage.is_some());
    let has_memory = stages.iter().any(|stage| stage.usage.is_some_and(|usage| usage.peak_memory.is_some()));
    if has_usage {
        table.column("CPU time", true);
    }
    if has_memory {
        table.column("memory", true);
    }
    table.column("share", false);
    for stage in shown {
        let state = word(stage.status);
        let time = stage.seconds.map_or_else(String::new, duration);
        let share = stage.seconds.filter(|_| longest > 0.0).map_or(0.0, |s| 100.0 * s / longest);
        let bar = html!("<div class=\"bar\"><i style=\"width:{:.1}%\"></i></div>", share);
        let mut cells = vec![
            Cell::name(&stage.name),
            Cell::text(&stage.kind),
            Cell::html(html!("<span class=\"state {0}\">{0}</span>", state), state.to_owned()),
            sorted(time, stage.seconds),
        ];
        let usage = stage.usage.unwrap_or_default();
        if has_usage {
            let seconds = stage.usage.map(|usage| usage.cpu_seconds);
            cells.push(sorted(seconds.map_or_else(String::new, duration), seconds));
        }
        if has_memory {
            let memory = usage.peak_memory.map(|bytes| ByteSize(bytes).to_string());
            cells.push(sorted(memory.unwrap_or_default(), usage.peak_memory.map(|bytes| bytes as f64)));
        }
        cells.push(Cell::html(bar, share.to_string()));
        table.row(cells);
    }
    html!("{}{}", table.render(&format!("Stages that ran took {} together", duration(total))), more)
}

/// A cell that is sorted by a number, or comes first without one.
fn sorted(text: String, number: Option<f64>) -> Cell {
    Cell::html(html!("{}", text), number.map_or_else(|| "-1".to_owned(), |number| number.to_string()))
}

/// The first points of a large run, and how many others there are.
fn first(stages: &[StageOverlay]) -> (&[StageOverlay], Html) {
    match stages.get(..MOST_ROWS) {
        Some(shown) if stages.len() > MOST_ROWS => {
            let more = stages.len() - MOST_ROWS;
            (shown, html!("<p class=\"under\">… {} more points: see `vadpipe show`.</p>\n", more))
        }
        _ => (stages, Html::default()),
    }
}

fn parameters(stages: &[StageOverlay]) -> Html {
    let (shown, more) = first(stages);
    let mut table = Table::default();
    table.column("stage", false).column("kind", false).column("parameters", false).column("metrics", false);
    let verified = stages.iter().any(|stage| stage.verdict.is_some());
    if verified {
        table.column("verify", false);
    }
    for stage in shown {
        let params = stage.params.iter();
        let params = params.map(|(name, value)| html!("<span class=\"p\">{} = {}</span>", name, value.to_string()));
        let metrics = stage
            .metrics
            .iter()
            .map(|(name, value)| html!("<span class=\"p\" title=\"{}\">{} {}</span>", *value, name, number(*value)));
        let metrics = html!("<code>{}</code>", Html::join(metrics, " "));
        let pruned = stage.pruned.as_ref().map(|why| html!("<span class=\"state pruned\">{}</span>", why));
        let mut cells = vec![
            Cell::name(&stage.name),
            Cell::text(&stage.kind),
            Cell::html(html!("<code>{}</code>", Html::join(params, " ")), String::new()),
            Cell::html(pruned.unwrap_or(metrics), String::new()),
        ];
        if verified {
            let (found, checked) = stage.verdict.clone().unwrap_or_default();
            cells.push(Cell::html(html!("<span title=\"{}\">{}</span>", checked, &found), found));
        }
        table.row(cells);
    }
    html!("{}{}", table.render_as("parameters and metrics"), more)
}
