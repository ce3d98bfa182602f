//! Writes the reports of a run: the page of each report stage, with the facts of the run inserted.
//!
//! The page is an artifact and depends only on the inputs of the stage. This module inserts which stages ran, which
//! were cached, their times and the device, even if the stage itself was cached.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::time::Duration;

use crate::error::{Error, Result};
use crate::event::Event;
use crate::exec::context::RunContext;
use crate::exec::driver::Driver;
use crate::file;
use crate::id::PointId;
use crate::key::Segment;
use crate::plan::Cause;
use crate::report::{RunOverlay, StageOverlay, overlay};
use crate::spec::{Point, time_in_words};
use crate::status::StageStatus;
use crate::store::StoreError;
use crate::value::{Value, Values};

/// Writes `DIR/<pipeline>.<point>.html` for every report among the wanted points that has a result. Returns the reports
/// whose record is gone or whose page is damaged.
///
/// # Errors
/// If the cache fails or a file can't be written.
pub(crate) fn write_reports(
    context: &RunContext<'_>,
    driver: &mut Driver<'_>,
    run: &str,
    dir: &Path,
) -> Result<Vec<PointId>> {
    let has_page = |p: &PointId| context.point(*p).parsed.kind.about().page.is_some();
    let all = driver.state().table().order().to_vec();
    let reports: Vec<PointId> = all.iter().copied().filter(has_page).collect();
    if reports.is_empty() {
        return Ok(Vec::new());
    }
    // A report whose record is gone is made again.
    let lost = driver.read_records(&all)?;
    let mut damaged: Vec<PointId> = reports.iter().copied().filter(|report| lost.contains(report)).collect();
    let mut facts = run_overlay(context, driver, run);
    for point in reports {
        let name = context.point(point).parsed.kind.about().page;
        let entry = driver.record(point).zip(name).and_then(|(record, name)| record.manifest.files.get(name));
        let page = match entry.map(|entry| context.store.read_file(entry)).transpose() {
            Ok(Some(page)) => page,
            Ok(None) => continue,
            Err(StoreError::Damaged { .. }) => {
                damaged.push(point);
                continue;
            }
            Err(error) => return Err(error.into()),
        };
        let missing = driver.state().table().missing_inputs(point).into_iter();
        facts.missing = missing.map(|input| (context.name(input).to_owned(), driver.status(input))).collect();
        // A page is UTF-8 unless another version wrote it, and `from_utf8` is faster than `from_utf8_lossy`.
        let page = String::from_utf8(page).unwrap_or_else(|e| String::from_utf8_lossy(e.as_bytes()).into_owned());
        let text = overlay(&page, &facts);
        // Many pipelines have a stage `report`. The name of a pipeline contains no dot, so the names differ.
        let (pipeline, stage) = (&context.spec.pipeline.name, context.name(point).to_owned());
        let path = dir.join(format!("{pipeline}.{stage}.html"));
        let written = fs::create_dir_all(dir).and_then(|()| file::replace(&path, text.as_bytes()));
        written.map_err(|e| Error::storage(format!("can't write {}", path.display())).caused_by(e))?;
        context.listener.event(&Event::ReportWritten { stage, path: path.display().to_string() });
    }
    Ok(damaged)
}

fn run_overlay(context: &RunContext<'_>, driver: &Driver<'_>, run: &str) -> RunOverlay {
    let ends = driver.ends();
    let pruned: BTreeSet<PointId> =
        ends.iter().filter(|end| end.status == StageStatus::Pruned).map(|end| end.point).collect();
    let verdicts = context.store.verdicts();
    let stages = ends.iter().map(|end| {
        let point = context.point(end.point);
        let record = driver.record(end.point);
        let inputs = point.inputs.values().flat_map(|i| i.points());
        let verdict = record
            .and_then(|record| context.store.verdict(&verdicts, &record.components, record.key, &context.spec.base));
        StageOverlay {
            name: point.name.clone(),
            kind: point.parsed.kind.name().to_owned(),
            params: shown_params(point),
            status: end.status,
            seconds: record.map(|r| r.provenance.seconds),
            usage: record.and_then(|r| r.provenance.usage),
            inputs: inputs.map(|i| context.name(*i).to_owned()).collect(),
            metrics: record.map(|r| r.manifest.metrics.clone()).unwrap_or_default(),
            pruned: pruned.contains(&end.point).then(|| why_pruned(context, driver, end.point, &pruned).to_string()),
            verdict: verdict.map(|verdict| (verdict.found(), verdict.checked())),
        }
    });
    RunOverlay {
        pipeline: context.spec.pipeline.name.clone(),
        run: run.to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        started: jiff::Zoned::now().strftime("%Y-%m-%d %H:%M %Z").to_string(),
        device: format!("{} ({})", context.compute.name, context.compute.numerics),
        threads: context.threads,
        workers: driver.workers().map(|workers| workers.words(in_words)),
        stages: stages.collect(),
        missing: Vec::new(),
    }
}

fn in_words(seconds: f64) -> String {
    time_in_words(Duration::from_secs_f64(seconds.max(0.0).round()))
}

/// Why a point is pruned: it was not promoted at a rung, or all points of one of its inputs are pruned.
fn why_pruned(context: &RunContext<'_>, driver: &Driver<'_>, point: PointId, pruned: &BTreeSet<PointId>) -> Cause {
    let bracket = driver.state().bracket();
    let decision = bracket.and_then(|b| Some((b, b.decisions(point).into_iter().rfind(|d| !d.goes_on)?)));
    if let Some((bracket, decision)) = decision {
        return bracket.cause(&decision);
    }
    let inputs = context.point(point).inputs.values().flat_map(|input| input.points());
    let stages = inputs.filter(|input| pruned.contains(input)).map(|input| context.name(*input).to_owned());
    Cause::LeftOut { stages: stages.collect() }
}

/// The parameters of a stage, including those of its epochs.
fn shown_params(point: &Point) -> Values {
    let mut params = Values::clone(&point.parsed.params);
    if let Some(epochs) = point.parsed.stage.epochs() {
        params.insert("epochs".to_owned(), Value::Int(epochs.total() as i64));
        match epochs.segments.as_slice() {
            [only] => params.extend(only.params.clone()),
            several => {
                let table = |s: &Segment| {
                    let mut table = s.params.clone();
                    table.insert("epochs".to_owned(), Value::Int(s.epochs as i64));
                    Value::Table(table)
                };
                params.insert("segments".to_owned(), Value::List(several.iter().map(table).collect()));
            }
        }
    }
    params
}
