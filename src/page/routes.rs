//! The routes of the server: what each address answers.

use std::convert::Infallible;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use axum::body::Body;
use axum::extract::{Path, Query, State};
use axum::http::header::{CONTENT_DISPOSITION, CONTENT_SECURITY_POLICY, CONTENT_TYPE};
use axum::http::{HeaderValue, StatusCode};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, get};
use axum::{Json, Router, middleware};
use futures_util::stream::{Stream, unfold};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::broadcast::error::RecvError;

use super::assets::{self, PAGE};
use super::chain::chain;
use super::curves::{self, CurvesQuery};
use super::details::{RECONSTRUCTIONS, details, embedding};
use super::graph::graph;
use super::guard::guard;
use super::images::{self, Selection, Sent};
use super::importance::importance;
use super::kept::reconstructions;
use super::logs;
use super::model::Model;
use super::notes::NoteChange;
use super::point::Point;
use super::state::{App, READ_ALL};
use super::table::table;
use crate::error::{Category, Error};
use crate::key::Key;
use crate::store::Note;

/// Values of a curve, if the page does not say how many it can draw.
const VALUES: usize = 600;
/// A file of a program may run nothing and load nothing.
const FILE_POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; sandbox";

type Shared = State<Arc<App>>;
type Answer = Result<Json<Value>, Refusal>;

/// Every route with its handler.
pub(super) fn all() -> Vec<(&'static str, MethodRouter<Arc<App>>)> {
    vec![
        ("/", get(page)),
        ("/assets/{name}", get(asset)),
        ("/api/events", get(events)),
        ("/api/state", get(state)),
        ("/api/points", get(points)),
        ("/api/points/{number}", get(point)),
        ("/api/points/{number}/log", get(point_log)),
        ("/api/points/{number}/note", get(point_note).put(change_note)),
        ("/api/points/{number}/image", get(point_image)),
        ("/api/points/{number}/file", get(point_file)),
        ("/api/points/{number}/embedding", get(point_embedding)),
        ("/api/curves", get(point_curves)),
        ("/api/importance", get(point_importance)),
        ("/api/chain", get(pipeline_chain)),
        ("/api/graph", get(pipeline_graph)),
    ]
}

/// The routes behind the guard.
pub(super) fn router(app: Arc<App>) -> Router {
    let all = all().into_iter().fold(Router::new(), |router, (path, handler)| router.route(path, handler));
    let guard = middleware::from_fn_with_state(Arc::clone(&app.guard), guard);
    // After the fallback, so that it is guarded too.
    all.fallback(async || Refusal::not_found("there is nothing at this address")).layer(guard).with_state(app)
}

/// An answer that says why there is none.
pub(super) struct Refusal(StatusCode, String, Option<String>);

impl Refusal {
    fn not_found(what: &str) -> Self {
        Self(StatusCode::NOT_FOUND, what.to_owned(), None)
    }
}

impl From<Error> for Refusal {
    fn from(error: Error) -> Self {
        let status = match error.category {
            Category::BadInput => StatusCode::BAD_REQUEST,
            _ => StatusCode::INTERNAL_SERVER_ERROR,
        };
        Self(status, error.with_causes(), error.hint)
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        (self.0, Json(json!({ "error": self.1, "hint": self.2 }))).into_response()
    }
}

/// Computes an answer on a thread that may block.
async fn answer<T: Send + 'static>(
    app: Arc<App>,
    f: impl FnOnce(&App) -> Result<T, Refusal> + Send + 'static,
) -> Result<T, Refusal> {
    let failed = |_| Refusal(StatusCode::INTERNAL_SERVER_ERROR, "the server failed".to_owned(), None);
    tokio::task::spawn_blocking(move || f(&app)).await.map_err(failed)?
}

/// Computes an answer from the model.
async fn of_model<T: Send + 'static>(
    app: Arc<App>,
    f: impl FnOnce(&App, &Model) -> Result<T, Refusal> + Send + 'static,
) -> Result<T, Refusal> {
    answer(app, move |app| f(app, &app.model())).await
}

/// An answer that is written already. A tree of values would take several times its memory.
fn json_text(text: Vec<u8>) -> Response {
    ([(CONTENT_TYPE, HeaderValue::from_static("application/json"))], text).into_response()
}

async fn page() -> Response {
    ([(CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8"))], PAGE).into_response()
}

async fn asset(Path(name): Path<String>) -> Result<Response, Refusal> {
    let (media_type, text) = assets::find(&name).ok_or_else(|| Refusal::not_found("there is no such file"))?;
    Ok(([(CONTENT_TYPE, HeaderValue::from_static(media_type))], text).into_response())
}

/// Changes, as server-sent events. A page that was too slow to read all of them reads everything again.
async fn events(State(app): Shared) -> Sse<impl Stream<Item = Result<Event, Infallible>>> {
    let stream = unfold(app.updates.subscribe(), async |mut updates| {
        let text = match updates.recv().await {
            Ok(text) => text.to_string(),
            Err(RecvError::Lagged(_)) => READ_ALL.to_owned(),
            Err(RecvError::Closed) => return None,
        };
        Some((Ok(Event::default().data(text)), updates))
    });
    Sse::new(stream).keep_alive(KeepAlive::new().interval(Duration::from_secs(15)))
}

/// The cache, the runs and the pipelines.
async fn state(State(app): Shared) -> Answer {
    of_model(app, |app, model| {
        let runs = model.runs_json();
        let mut pipelines: Vec<&str> = model.shown().map(|(_, point)| &*point.pipeline).collect();
        pipelines.sort_unstable();
        pipelines.dedup();
        let cache = model.reader.dir().display().to_string();
        let problem = app.problem();
        Ok(Json(json!({
            "version": env!("CARGO_PKG_VERSION"), "cache": cache, "pipelines": pipelines, "runs": runs,
            "problem": problem, "now": now(),
        })))
    })
    .await
}

#[derive(Deserialize)]
struct PointsQuery {
    #[serde(default, rename = "where")]
    conditions: String,
    /// Whether only the numbers of the points are asked for.
    #[serde(default)]
    ids: bool,
}

async fn points(State(app): Shared, Query(query): Query<PointsQuery>) -> Result<Response, Refusal> {
    of_model(app, move |app, model| {
        let columns = app.columns();
        if query.ids {
            return Ok(Json(columns.select(model, &query.conditions)?).into_response());
        }
        Ok(json_text(table(model, &columns, &query.conditions)?))
    })
    .await
}

#[derive(Deserialize)]
struct PointQuery {
    /// The number of a point to compare with.
    against: Option<usize>,
}

async fn point(State(app): Shared, Path(number): Path<usize>, Query(query): Query<PointQuery>) -> Answer {
    of_model(app, move |_, model| {
        let found = details(model, number, query.against);
        found.map(Json).ok_or_else(|| Refusal::not_found("there is no such point"))
    })
    .await
}

#[derive(Deserialize)]
struct LogQuery {
    from: Option<u64>,
}

async fn point_log(State(app): Shared, Path(number): Path<usize>, Query(query): Query<LogQuery>) -> Answer {
    answer(app, move |app| {
        let log = logs::find(&app.model(), number).ok_or_else(|| Refusal::not_found("the point has no log"))?;
        Ok(Json(log.read(query.from, app.remote.as_ref())))
    })
    .await
}

async fn point_note(State(app): Shared, Path(number): Path<usize>) -> Answer {
    of_model(app, move |_, model| {
        let point = known(model, number)?;
        Ok(Json(note_json(&model.note(point).cloned().unwrap_or_default())))
    })
    .await
}

fn known(model: &Model, number: usize) -> Result<&Point, Refusal> {
    model.points.get(number).ok_or_else(|| Refusal::not_found("there is no such point"))
}

fn note_json(note: &Note) -> Value {
    json!({ "tags": note.tags, "text": note.text })
}

/// Changes the tags or the note of a point.
async fn change_note(State(app): Shared, Path(number): Path<usize>, Json(change): Json<NoteChange>) -> Answer {
    answer(app, move |app| {
        let _one_at_a_time = app.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let (notes, keys, pipeline, point) = {
            let model = app.model();
            let point = known(&model, number)?;
            let keys: Vec<Key> = point.noted_keys().collect();
            (model.reader.notes(), keys, point.pipeline.to_string(), point.name.clone())
        };
        let key = *keys.first().ok_or_else(|| Refusal::not_found("the point has no result and does not run"))?;
        // Another process may have changed the file.
        let known = keys.iter().find_map(|key| notes.read(key).transpose()).transpose().map_err(Error::from)?;
        let mut note = Note { pipeline, point, ..known.unwrap_or_default() };
        change.apply(&mut note)?;
        notes.write(&key, &note).map_err(Error::from)?;
        for other in &keys[1..] {
            notes.write(other, &Note::default()).map_err(Error::from)?;
        }
        let written = note_json(&note);
        app.model_mut().put_note(number, key, note);
        Ok(Json(written))
    })
    .await
}

#[derive(Deserialize)]
struct ImageQuery {
    name: String,
    /// A state of the training instead of the result.
    epoch: Option<u64>,
    #[serde(default)]
    first: usize,
    count: Option<usize>,
    columns: Option<usize>,
    scale: Option<usize>,
}

async fn point_image(
    State(app): Shared,
    Path(number): Path<usize>,
    Query(query): Query<ImageQuery>,
) -> Result<Response, Refusal> {
    answer(app, move |app| {
        let none = || Refusal::not_found("there is no such tensor");
        let (record, state) = {
            let model = app.model();
            let record = images::record(&model, number).ok_or_else(none)?;
            let state = query.epoch.map(|epoch| images::state(&model, number, epoch).ok_or_else(none)).transpose()?;
            (record, state)
        };
        let tensors = state.as_ref().map_or(&record.manifest.tensors, |state| &state.tensors);
        let selection = query.selection();
        let png = match (tensors.get(&query.name), &state) {
            (Some(entry), _) => {
                let mut last = app.last_tensor.lock().unwrap_or_else(PoisonError::into_inner);
                images::png(&app.blobs, entry, &selection, &mut last)
            }
            (None, Some(state)) if query.name == RECONSTRUCTIONS => {
                let _one_at_a_time = app.large.lock().unwrap_or_else(PoisonError::into_inner);
                reconstructions(&app.blobs, &record, state).and_then(|images| images::draw(&images, &selection))
            }
            (None, _) => return Err(none()),
        };
        let png = png.map_err(|why| Refusal(StatusCode::UNPROCESSABLE_ENTITY, why, None))?;
        Ok(([(CONTENT_TYPE, HeaderValue::from_static("image/png"))], png).into_response())
    })
    .await
}

impl ImageQuery {
    fn selection(&self) -> Selection {
        Selection {
            first: self.first,
            count: self.count.unwrap_or(100),
            columns: self.columns.unwrap_or(10),
            scale: self.scale.unwrap_or(1),
        }
    }
}

#[derive(Deserialize)]
struct FileQuery {
    name: String,
    /// A state of the training instead of the result.
    epoch: Option<u64>,
}

async fn point_file(
    State(app): Shared,
    Path(number): Path<usize>,
    Query(query): Query<FileQuery>,
) -> Result<Response, Refusal> {
    answer(app, move |app| {
        let files = match query.epoch {
            Some(epoch) => images::state(&app.model(), number, epoch).map(|state| state.folder.files),
            None => images::record(&app.model(), number).map(|record| record.manifest.files),
        };
        let blob = files.and_then(|mut files| files.remove(&query.name));
        let blob = blob.ok_or_else(|| Refusal::not_found("there is no such file"))?;
        let is_large = blob.size > images::LARGE;
        let _one_at_a_time = is_large.then(|| app.large.lock().unwrap_or_else(PoisonError::into_inner));
        let sent = images::file(&app.blobs, &query.name, &blob);
        sent.map(send).map_err(|why| Refusal(StatusCode::UNPROCESSABLE_ENTITY, why, None))
    })
    .await
}

fn send(sent: Sent) -> Response {
    let mut response = Response::new(Body::from(sent.bytes));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(sent.media_type));
    headers.insert(CONTENT_SECURITY_POLICY, HeaderValue::from_static(FILE_POLICY));
    if sent.is_download {
        headers.insert(CONTENT_DISPOSITION, HeaderValue::from_static("attachment"));
    }
    response
}

async fn point_embedding(State(app): Shared, Path(number): Path<usize>) -> Answer {
    answer(app, move |app| {
        let embedding = embedding(&app.model(), number);
        let read = embedding.and_then(|embedding| embedding.read(&app.blobs));
        read.map(Json).ok_or_else(|| Refusal::not_found("the point has no embedding"))
    })
    .await
}

#[derive(Deserialize)]
struct SelectionQuery {
    /// The metric. Without it, the metrics that have curves.
    metric: Option<String>,
    /// The numbers of points, separated by commas.
    ids: Option<String>,
    #[serde(default, rename = "where")]
    conditions: String,
    most: Option<usize>,
    /// Epochs in a bucket of a curve.
    bucket: Option<u64>,
    /// Whether to send the means of buckets.
    #[serde(default)]
    means: bool,
}

impl SelectionQuery {
    fn points(&self, app: &App, model: &Model) -> Result<Vec<usize>, Refusal> {
        match &self.ids {
            Some(ids) => Ok(ids.split(',').filter_map(|id| id.trim().parse().ok()).collect()),
            None => Ok(app.columns().select(model, &self.conditions)?.ids),
        }
    }
}

async fn point_curves(State(app): Shared, Query(query): Query<SelectionQuery>) -> Result<Response, Refusal> {
    answer(app, move |app| {
        let model = app.model();
        let points = query.points(app, &model)?;
        let Some(metric) = query.metric else { return Ok(Json(curves::metrics(&model, &points)).into_response()) };
        let query = CurvesQuery {
            metric,
            points,
            most: query.most.unwrap_or(VALUES),
            bucket: query.bucket,
            means: query.means,
        };
        let selected = curves::select(&model, query);
        drop(model);
        let read = selected.read(&app.curves, &app.blobs).map_err(|error| Refusal::from(Error::from(error)))?;
        Ok(json_text(read))
    })
    .await
}

async fn point_importance(State(app): Shared, Query(query): Query<SelectionQuery>) -> Answer {
    of_model(app, move |app, model| {
        let points = query.points(app, model)?;
        Ok(Json(importance(model, &points, query.metric.as_deref().unwrap_or_default())))
    })
    .await
}

#[derive(Deserialize)]
struct PipelineQuery {
    pipeline: String,
}

async fn pipeline_chain(State(app): Shared, Query(query): Query<PipelineQuery>) -> Answer {
    of_model(app, move |_, model| Ok(Json(chain(model, &query.pipeline)))).await
}

async fn pipeline_graph(State(app): Shared, Query(query): Query<PipelineQuery>) -> Answer {
    of_model(app, move |_, model| Ok(Json(graph(model, &query.pipeline, now())))).await
}

/// Now, in Unix milliseconds.
fn now() -> i64 {
    jiff::Timestamp::now().as_millisecond()
}
