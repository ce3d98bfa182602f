//! `vadpipe log`.

use clap::Args;

use super::Global;
use super::project::open_store;
use super::ui::{Ui, seconds, table};
use crate::diagnostic::nearest;
use crate::error::{Error, Result};
use crate::store::{RunRecord, RunStatus, StageOutcome};

/// Arguments of `log`.
#[derive(Args)]
#[command(after_help = "Examples:
  vadpipe log                  all runs, newest last
  vadpipe log last             what the newest run did
  vadpipe log last --events    everything that happened in it, one JSON object a line
  vadpipe log last --stage ad  what the stage itself said")]
pub(super) struct LogArgs {
    /// A run's id, the beginning or the end of one, or `last`
    run: Option<String>,
    /// Print the run's events as NDJSON
    #[arg(long, requires = "run")]
    events: bool,
    /// Print the log of this stage or point
    #[arg(long, value_name = "POINT", requires = "run", conflicts_with = "events")]
    stage: Option<String>,
    /// Only the newest so many runs
    #[arg(short = 'n', long, default_value_t = 20, value_name = "N")]
    count: usize,
}

/// Lists runs, or prints one.
pub(super) fn log(args: &LogArgs, global: &Global, ui: &Ui) -> Result<()> {
    let store = open_store(global, ui)?;
    let Some(id) = &args.run else {
        let runs = store.runs()?;
        let shown = &runs[runs.len().saturating_sub(args.count)..];
        return if ui.json { ui.object(&serde_json::json!({ "runs": shown })) } else { list(shown, ui) };
    };
    let run = store.run(id)?;
    let folder = |kind: &str| store.dir().join(kind);
    if args.events {
        return print_file(&folder("runs").join(format!("{}.ndjson", run.id)), ui);
    }
    if let Some(stage) = &args.stage {
        let Some(entry) = run.stages.iter().find(|s| s.name == *stage) else {
            let near = nearest(stage, run.stages.iter().map(|s| s.name.as_str()));
            let hint = near
                .map_or_else(|| "`vadpipe log RUN` lists its stages".to_owned(), |n| format!("did you mean `{n}`?"));
            return Err(Error::bad_input(format!("run {} has no stage `{stage}`", run.id)).hint(hint));
        };
        let path = folder("logs").join(&run.id).join(format!("{stage}.log"));
        if !path.exists() && entry.outcome == StageOutcome::Executed {
            ui.note(&format!("`{stage}` said nothing in {}", run.id));
            return Ok(());
        }
        if !path.exists() {
            return Err(Error::bad_input(format!("`{stage}` did not run in {}, so it has no log", run.id)));
        }
        return print_file(&path, ui);
    }
    if ui.json {
        return ui.object(&run);
    }
    ui.out(&text(&run));
    Ok(())
}

fn print_file(path: &std::path::Path, ui: &Ui) -> Result<()> {
    let text =
        std::fs::read(path).map_err(|e| Error::bad_input(format!("can't read {}", path.display())).caused_by(e))?;
    ui.out(&String::from_utf8_lossy(&text));
    Ok(())
}

fn list(runs: &[RunRecord], ui: &Ui) -> Result<()> {
    let row = |run: &RunRecord| {
        let count = |outcome| run.stages.iter().filter(|s| s.outcome == outcome).count().to_string();
        let took = run.finished_at.map(|end| seconds((end - run.started_at) as f64 / 1000.0)).unwrap_or_default();
        let counts = [StageOutcome::Executed, StageOutcome::Cached, StageOutcome::Failed].map(count);
        let [ran, cached, failed] = counts;
        vec![run.id.clone(), run.pipeline.clone(), word(run).to_owned(), ran, cached, failed, took]
    };
    if runs.is_empty() {
        ui.note("no runs yet");
        return Ok(());
    }
    let rows: Vec<_> = runs.iter().map(row).collect();
    ui.out(&table(&["run", "pipeline", "status", "ran", "cached", "failed", "took"], &rows));
    Ok(())
}

fn word(run: &RunRecord) -> &'static str {
    match run.status {
        RunStatus::Running if run.is_running() => "running",
        RunStatus::Running => "killed",
        RunStatus::Ok => "ok",
        RunStatus::Failed => "failed",
        RunStatus::Interrupted => "interrupted",
    }
}

fn text(run: &RunRecord) -> String {
    let started = jiff::Timestamp::from_millisecond(run.started_at).map(|t| t.strftime("%F %T UTC").to_string());
    let mut lines = vec![
        format!("run {} of {} ({}): {}", run.id, run.pipeline, run.file, word(run)),
        format!(
            "started {}, {} ({}), {} threads, vadpipe {}",
            started.unwrap_or_default(),
            run.device,
            run.class,
            run.threads,
            run.version
        ),
        format!("vadpipe {}", run.args.join(" ")),
    ];
    let rows: Vec<_> = run
        .stages
        .iter()
        .map(|s| {
            let outcome = format!("{:?}", s.outcome).to_lowercase();
            let took = if s.outcome == StageOutcome::Executed { seconds(s.seconds) } else { String::new() };
            let resumed = s.resumed_at.map(|e| format!("from epoch {e}")).unwrap_or_default();
            vec![
                s.name.clone(),
                s.kind.clone(),
                outcome,
                took,
                s.digest.map(|d| d.short()).unwrap_or_default(),
                resumed,
            ]
        })
        .collect();
    lines.push(table(&["stage", "kind", "outcome", "took", "output", "resumed"], &rows));
    lines.join("\n")
}
