//! Selects the runs and stages that `log` lists.

use clap::Args;
use clap::builder::{PossibleValue, PossibleValuesParser, TypedValueParser};
use globset::{Glob, GlobMatcher};
use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use jiff::{Span, Timestamp, Zoned};

use crate::error::{Error, Result};
use crate::id::PointName;
use crate::status::{RunStatus, StageStatus};
use crate::store::{RunRecord, StageRun};

/// The word for a run that was killed before it could record how it ended.
const KILLED: &str = "killed";

/// The status of a run, in one word.
pub(in crate::cli) fn word(run: &RunRecord) -> &'static str {
    match run.status {
        RunStatus::Running if !run.is_running() => KILLED,
        status => status.word(),
    }
}

/// Options that select runs and stages.
#[derive(Args)]
pub(super) struct FilterArgs {
    /// List only stages and points that match; with RUN, print their logs
    #[arg(long, value_name = "GLOB")]
    pub(super) stage: Option<String>,
    /// List only stages, or runs, with this status
    #[arg(long, value_name = "STATUS", conflicts_with = "id", value_parser = Status::parser())]
    status: Option<Status>,
    /// List only runs that started after this time: `2d`, `90min`, `2026-11-20`, `2026-11-20T18:00`
    #[arg(long, value_name = "TIME", conflicts_with = "id")]
    since: Option<String>,
    /// List only stages of runs whose id begins or ends with ID, or of the `last` run
    #[arg(long, value_name = "ID", conflicts_with = "id")]
    pub(super) run: Option<String>,
}

/// What `--status` asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Status {
    /// Stages with this status.
    Stage(StageStatus),
    /// Runs for which [`word`] returns this status.
    Run(&'static str),
}

/// The values of `--status` and their help texts.
const STATUSES: [(Status, &str); 9] = [
    (Status::Stage(StageStatus::Executed), "Stages that ran"),
    (Status::Stage(StageStatus::Cached), "Stages whose result was in the cache"),
    (Status::Stage(StageStatus::Failed), "Stages that failed"),
    (
        Status::Stage(StageStatus::Skipped),
        "Stages that did not run, because a stage that they need failed or the run was interrupted first",
    ),
    (Status::Stage(StageStatus::Pruned), "Stages that were pruned, or that depend only on pruned points"),
    (Status::Run(RunStatus::Ok.word()), "Runs that succeeded"),
    (Status::Run(RunStatus::Interrupted.word()), "Runs that the user stopped"),
    (Status::Run(RunStatus::Running.word()), "Runs in progress"),
    (Status::Run(KILLED), "Runs that were killed"),
];

impl Status {
    /// Reads a value of `--status`.
    pub(super) fn parser() -> impl TypedValueParser<Value = Self> {
        let values = STATUSES.map(|(status, help)| PossibleValue::new(status.word()).help(help));
        PossibleValuesParser::new(values).try_map(|word| {
            let found = STATUSES.iter().find(|(status, _)| status.word() == word);
            found.map(|(status, _)| *status).ok_or("not a status")
        })
    }

    fn word(self) -> &'static str {
        match self {
            Self::Stage(status) => status.word(),
            Self::Run(word) => word,
        }
    }

    fn of_stage(self) -> Option<StageStatus> {
        match self {
            Self::Stage(status) => Some(status),
            Self::Run(_) => None,
        }
    }
}

/// The filters of the command line.
pub(super) struct Filters {
    lists_stages: bool,
    /// Patterns, of which one must match. Empty if all stages are meant.
    stages: Vec<GlobMatcher>,
    status: Option<Status>,
    /// Unix milliseconds.
    since: Option<i64>,
}

impl Filters {
    /// # Errors
    /// If a pattern or a time is not valid.
    pub(super) fn new(args: &FilterArgs, stages: &[String]) -> Result<Self> {
        let glob = |text: &String| {
            let wrong = |e: globset::Error| Error::bad_input(format!("`{text}` is not a valid pattern: {}", e.kind()));
            Glob::new(text).map(|g| g.compile_matcher()).map_err(wrong)
        };
        let outcome = args.status.is_some_and(|s| s.of_stage().is_some());
        let stages: Vec<GlobMatcher> = stages.iter().chain(&args.stage).map(glob).collect::<Result<_>>()?;
        let lists_stages = !stages.is_empty() || args.run.is_some() || outcome;
        let since = args.since.as_deref().map(|text| since(text, &Zoned::now())).transpose()?;
        Ok(Self { lists_stages, stages, status: args.status, since })
    }

    /// Whether to list stages instead of runs.
    pub(super) fn lists_stages(&self) -> bool {
        self.lists_stages
    }

    pub(super) fn takes_run(&self, run: &RunRecord) -> bool {
        self.since.is_none_or(|since| run.started_at >= since)
            && self.status.is_none_or(|status| status.of_stage().is_some() || status.word() == word(run))
    }

    /// Whether to list this stage of a run that matches. The name of a stage matches all of its points.
    pub(super) fn takes_stage(&self, stage: &StageRun) -> bool {
        let of = PointName::parse(&stage.name).stage;
        let matches = |glob: &GlobMatcher| glob.is_match(&stage.name) || glob.is_match(of);
        // The stages of an unfinished run are pending, so they match no status.
        (self.stages.is_empty() || self.stages.iter().any(matches))
            && self.status.and_then(Status::of_stage).is_none_or(|wanted| stage.outcome == wanted)
    }
}

/// Keeps the runs whose id begins or ends with `id`, or only the newest for `last`. The newest run comes last.
///
/// # Errors
/// If no run is left.
pub(super) fn of_id(runs: &mut Vec<RunRecord>, id: &str) -> Result<()> {
    match id {
        "last" => drop(runs.drain(..runs.len().saturating_sub(1))),
        _ => runs.retain(|run| run.id.starts_with(id) || run.id.ends_with(id)),
    }
    if runs.is_empty() {
        let message = if id == "last" { "there is no run yet".to_owned() } else { format!("there is no run `{id}`") };
        return Err(Error::bad_input(message).hint("`vadpipe log` lists the runs"));
    }
    Ok(())
}

/// Parses a time span before `now`, a date or a time, and returns Unix milliseconds. Times without a zone are in UTC.
fn since(text: &str, now: &Zoned) -> Result<i64> {
    if let Ok(span) = text.parse::<Span>() {
        let begin = now.checked_sub(span.abs());
        let far = |e| Error::bad_input(format!("`--since {text}` is too long ago")).caused_by(e);
        return begin.map(|t| t.timestamp().as_millisecond()).map_err(far);
    }
    if let Ok(time) = text.parse::<Timestamp>() {
        return Ok(time.as_millisecond());
    }
    let date = text.parse::<DateTime>().ok().and_then(|date| date.to_zoned(TimeZone::UTC).ok());
    date.map(|date| date.timestamp().as_millisecond()).ok_or_else(|| {
        let message = format!("`--since {text}` is neither a time span nor a date");
        Error::bad_input(message).hint("write `2d`, `12h`, `90min`, `2026-11-20` or `2026-11-20T18:00`")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn since_accepts_spans_and_dates() {
        let now: Zoned = "2026-11-22T12:00:00+00:00[UTC]".parse().unwrap();
        let at = |text: &str| Timestamp::from_millisecond(since(text, &now).unwrap()).unwrap().to_string();
        let texts = [
            "2d",
            "12h",
            "90min",
            "1w",
            "2026-11-20",
            "2026-11-20T18:00",
            "2026-11-20 18:00",
            "2026-11-20T18:00+02:00",
        ];
        insta::assert_snapshot!(texts.map(at).join("\n"), @r"
        2026-11-20T12:00:00Z
        2026-11-22T00:00:00Z
        2026-11-22T10:30:00Z
        2026-11-15T12:00:00Z
        2026-11-20T00:00:00Z
        2026-11-20T18:00:00Z
        2026-11-20T18:00:00Z
        2026-11-20T16:00:00Z
        ");
        for wrong in ["", "yesterday", "2x", "2026-13-01", "99999999y"] {
            assert_eq!(since(wrong, &now).unwrap_err().category, crate::error::Category::BadInput, "{wrong}");
        }
    }
}
