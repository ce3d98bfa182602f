//! Writes the reports of a run: each report stage's page, with what belongs to the run laid over it.
//!
//! The page itself is an artifact, a pure function of the stage's inputs. What ran and what was cached, how long it took
//! and on what is laid over it here, also when the stage itself was cached.

use std::fs;
use std::path::Path;

use crate::error::{Error, Result};
use crate::event::Event;
use crate::exec::outcome::Fate;
use crate::exec::schedule::Scheduler;
use crate::exec::worker::Shared;
use crate::key::Segment;
use crate::report::{RunOverlay, StageOverlay, StageState, overlay};
use crate::spec::Point;
use crate::store::StoreError;
use crate::value::{Value, Values};

/// Writes `DIR/<pipeline>.<point>.html` for every wanted report that is there. Damaged pages are made again.
pub(crate) fn write_reports(scheduler: &mut Scheduler<'_>, shared: &Shared<'_>, dir: &Path) -> Result<()> {
    let has_page = |p: &usize| shared.spec.points[*p].parsed.kind.about().page.is_some();
    let reports: Vec<usize> = scheduler.order().iter().copied().filter(has_page).collect();
    if !reports.is_empty() {
        let all = scheduler.order().to_vec();
        scheduler.look_up_records(&all)?;
    }
    for point in reports {
        let Some(page) = page(scheduler, shared, point)? else { continue };
        let text = String::from_utf8_lossy(&page);
        let whole = overlay(&text, &run_overlay(scheduler, shared));
        // Many pipelines have a stage `report`. A pipeline's name holds no dot, so no two of them meet.
        let (pipeline, name) = (&shared.spec.pipeline.name, &shared.spec.points[point].name);
        let path = dir.join(format!("{pipeline}.{name}.html"));
        let written = fs::create_dir_all(dir).and_then(|()| replace_file(&path, whole.as_bytes()));
        written.map_err(|e| Error::storage(format!("can't write {}", path.display())).caused_by(e))?;
        let stage = shared.spec.points[point].name.clone();
        shared.listener.event(&Event::ReportWritten { stage, path: path.display().to_string() });
    }
    Ok(())
}

/// Writes a file so that whoever reads it meanwhile sees the old one or the new one, whole. A link is replaced, not followed.
pub(crate) fn replace_file(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let dir = path.parent().unwrap_or(Path::new("."));
    let mut file = tempfile::NamedTempFile::new_in(dir)?;
    std::io::Write::write_all(&mut file, bytes)?;
    let permissions = std::os::unix::fs::PermissionsExt::from_mode(0o644);
    file.as_file().set_permissions(permissions)?;
    file.persist(path).map(drop).map_err(|e| e.error)
}

fn page(scheduler: &mut Scheduler<'_>, shared: &Shared<'_>, point: usize) -> Result<Option<Vec<u8>>> {
    match read_page(scheduler, shared, point) {
        Err(error @ StoreError::Damaged { .. }) => {
            shared.listener.event(&Event::Warning { message: format!("{error}: it is made again") });
            scheduler.repair(point)?;
            // The repair took the records out of what it made again, and nothing reads those of a report.
            let all = scheduler.order().to_vec();
            scheduler.look_up_records(&all)?;
            Ok(read_page(scheduler, shared, point)?)
        }
        read => Ok(read?),
    }
}

fn read_page(scheduler: &Scheduler<'_>, shared: &Shared<'_>, point: usize) -> Result<Option<Vec<u8>>, StoreError> {
    let record = scheduler.records.get(&point);
    let file = shared.spec.points[point].parsed.kind.about().page;
    let entry = record.zip(file).and_then(|(record, file)| record.manifest.files.get(file));
    entry.map(|entry| shared.store.read_file(entry)).transpose()
}

fn run_overlay(scheduler: &Scheduler<'_>, shared: &Shared<'_>) -> RunOverlay {
    let stages = scheduler.order().iter().map(|point| {
        let spec = &shared.spec.points[*point];
        let record = scheduler.records.get(point);
        let inputs = shared.spec.points[*point].inputs.values().flat_map(|i| i.indices());
        StageOverlay {
            name: spec.name.clone(),
            kind: spec.parsed.kind.name().to_owned(),
            params: shown_params(spec),
            state: match scheduler.fates[point] {
                Fate::Executed => StageState::Ran,
                Fate::Cached => StageState::Cached,
                Fate::Failed => StageState::Failed,
                Fate::Pruned => StageState::Pruned,
                _ => StageState::Skipped,
            },
            seconds: record.map(|r| r.provenance.seconds),
            inputs: inputs.map(|i| shared.spec.points[*i].name.clone()).collect(),
            metrics: record.map(|r| r.manifest.metrics.clone()).unwrap_or_default(),
        }
    });
    RunOverlay {
        pipeline: shared.spec.pipeline.name.clone(),
        run: shared.run.to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        started: jiff::Zoned::now().strftime("%Y-%m-%d %H:%M %Z").to_string(),
        device: format!("{} ({})", shared.compute.name, shared.compute.numerics),
        threads: shared.threads,
        stages: stages.collect(),
    }
}

/// A stage's parameters as a reader wants them: those of its epochs among the others.
fn shown_params(point: &Point) -> Values {
    let mut params = point.parsed.params.clone();
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
