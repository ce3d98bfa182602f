//! A pipeline with its graph, cache and device, which nearly every command opens first.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::args::{Global, PipelineArgs};
use super::cache_dir::cache_dir;
use super::cache_wait::CacheWait;
use super::config::Config;
use super::gpus;
use super::ui::Ui;
use crate::diagnostic::{Diagnostics, SourceKind, Sources};
use crate::error::{Error, Result};
use crate::event::Listener;
use crate::exec::{RunContext, choose};
use crate::graph::Graph;
use crate::id::PointId;
use crate::plan::{Cause, Decision, Plan, Planner, State, some_of};
use crate::spec::{DeviceChoice, MAX_BYTES, Point, Spec, load};
use crate::stage::{Cancel, Compute, Precision, Registry};
use crate::store::{Holder, Options, ResultRecord, Store};

/// A pipeline with its graph, its cache and its device.
pub(super) struct Project {
    /// The pipeline.
    pub(super) spec: Spec,
    /// Its graph.
    pub(super) graph: Graph,
    /// The cache.
    pub(super) store: Arc<Store>,
    /// What stages compute on.
    pub(super) compute: Compute,
    /// The points that the targets name.
    pub(super) targets: BTreeSet<PointId>,
    /// The targets and everything they need.
    pub(super) wanted: BTreeSet<PointId>,
}

/// If this is 0, trainings on a GPU start each kernel by itself instead of replaying CUDA graphs. It is for a
/// profiler, so it is not an option.
const CUDA_GRAPH: &str = "VADPIPE_CUDA_GRAPH";

/// The device to compute with, as the environment sets it up.
///
/// # Errors
/// As [`choose`].
pub(super) fn compute(device: DeviceChoice, precision: Precision) -> Result<Compute> {
    let compute = choose(device, precision)?;
    Ok(if std::env::var_os(CUDA_GRAPH).is_some_and(|v| v == "0") { compute.without_graphs() } else { compute })
}

impl Project {
    /// Reads the pipeline and opens its cache to query it. With `--no-wait`, a held cache is an error.
    pub(super) fn open(args: &PipelineArgs, global: &Global, ui: &Ui) -> Result<Self> {
        Self::load(args, &global.kinds.0, open_cache(global, Some(&args.file), ui)?)
    }

    /// Reads the pipeline and opens its cache to run it. `cache_wait` decides how long to wait for the cache.
    pub(super) fn open_to_run(args: &PipelineArgs, global: &Global, ui: &Ui, cache_wait: &CacheWait) -> Result<Self> {
        let dir = cache_dir(global.cache.as_deref(), Some(&args.file));
        let project = Self::load(args, &global.kinds.0, Arc::new(Store::open(&dir, cache_wait.options(ui))?))?;
        let project = project.with_default_resources()?;
        project.print_warnings(ui);
        Ok(project)
    }

    /// The same pipeline in another folder, with the same cache.
    pub(super) fn in_another_folder(&self, args: &PipelineArgs, global: &Global) -> Result<Self> {
        Self::load(args, &global.kinds.0, Arc::clone(&self.store))?.with_default_resources()
    }

    fn with_default_resources(mut self) -> Result<Self> {
        let defaults = Config::load()?.resources();
        self.spec.points.iter_mut().for_each(|point| point.resources = point.resources.or(defaults));
        Ok(self)
    }

    /// Prints the warnings about the pipeline. Commands that only read results don't repeat them.
    pub(super) fn print_warnings(&self, ui: &Ui) {
        let texts = self.spec.warnings.iter().map(|warning| warning.render_warning(&self.spec.sources));
        texts.for_each(|text| ui.warn(&text));
        let has_gpus = self.wanted.iter().any(|point| self.spec.point(*point).parsed.stage.gpus() > 0);
        if has_gpus && let Some(warning) = &self.compute.gpus().warning {
            ui.warn(warning);
        }
    }

    fn load(args: &PipelineArgs, registry: &Registry, store: Arc<Store>) -> Result<Self> {
        let is_needed = AtomicBool::new(false);
        let spec = std::thread::scope(|scope| {
            // If the thread can't be started, the cache is opened when it is needed.
            let _ = std::thread::Builder::new().spawn_scoped(scope, || store.open_ahead(&is_needed));
            let spec = read_pipeline(&args.file, &args.set, registry);
            is_needed.store(true, Ordering::Relaxed);
            spec
        })?;
        let compute = compute(args.device.unwrap_or(spec.pipeline.device), spec.pipeline.precision)?;
        let has_states = |point: &Point| point.parsed.stage.gpus() > 0 && point.parsed.stage.epochs().is_some();
        let find = if spec.points.iter().any(has_states) { gpus::of_one_model } else { gpus::of_any_model };
        let compute = compute.with_gpus(find);
        let graph = Graph::of(&spec.points)?;
        let targets = graph.targets(&args.targets)?;
        let wanted = graph.upstream(targets.iter().copied());
        Ok(Self { spec, graph, store, compute, targets, wanted })
    }

    /// What a run of this pipeline needs.
    pub(super) fn context<'a>(
        &'a self,
        data_dirs: &'a [PathBuf],
        threads: usize,
        cancel: &'a Cancel,
        listener: &'a dyn Listener,
    ) -> RunContext<'a> {
        let (spec, graph, store, compute) = (&self.spec, &self.graph, &self.store, &self.compute);
        let memory = crate::system::memory();
        RunContext {
            spec,
            graph,
            store,
            shared: None,
            compute,
            data_dirs,
            relocation: None,
            threads,
            memory,
            cancel,
            listener,
        }
    }

    /// A planner that runs the `forced` points again.
    pub(super) fn planner<'a>(&'a self, forced: &'a BTreeSet<PointId>) -> Planner<'a> {
        let (spec, graph, store, compute) = (&self.spec, &self.graph, &self.store, &self.compute);
        Planner { spec, graph, store, compute, forced, in_store: None }
    }

    /// The plan for the wanted points. Prints the warnings of the cache.
    pub(super) fn plan(&self, forced: &BTreeSet<PointId>, ui: &Ui) -> Result<Plan> {
        let plan = self.planner(forced).plan(&self.wanted);
        self.store.warnings().iter().for_each(|warning| ui.warn(warning));
        plan
    }

    /// The cached results of the targets, by point, and the pruned targets with the reason. Prints the number of pruned
    /// targets, and which results were made without missing points.
    pub(super) fn results_and_pruned(
        &self,
        ui: &Ui,
    ) -> Result<(BTreeMap<PointId, ResultRecord>, BTreeMap<PointId, Cause>)> {
        let mut plan = self.plan(&BTreeSet::new(), ui)?;
        plan.decisions.retain(|d| self.targets.contains(&d.point));
        let results = self.planner(&BTreeSet::new()).records(&plan)?;
        for decision in &plan.decisions {
            for cause in decision.reason.iter().flat_map(|reason| &reason.causes) {
                if let (Cause::Missing { stages }, Some(_)) = (cause, decision.output) {
                    ui.note(&format!("{} was made without {}", self.name(decision.point), some_of(stages)));
                }
            }
        }
        let cause = |d: &Decision| Some((d.point, d.reason.as_ref()?.causes.first()?.clone()));
        let pruned: BTreeMap<PointId, Cause> =
            plan.decisions.iter().filter(|d| d.state == State::Pruned).filter_map(cause).collect();
        if !pruned.is_empty() {
            ui.note(&format!("{} of {} stages are pruned", pruned.len(), self.targets.len()));
        }
        Ok((results, pruned))
    }

    /// The results of the targets in plan order, without pruned ones; an error if one is not cached.
    pub(super) fn all_results(&self, ui: &Ui) -> Result<Vec<(PointId, ResultRecord)>> {
        let (mut results, pruned) = self.results_and_pruned(ui)?;
        let missing = self.targets.iter().filter(|p| !results.contains_key(p) && !pruned.contains_key(p));
        let missing: Vec<String> = missing.map(|p| self.name(*p).to_owned()).collect();
        if !missing.is_empty() {
            return Err(not_cached(&missing));
        }
        Ok(self.graph.order().iter().filter_map(|p| Some((*p, results.remove(p)?))).collect())
    }

    /// Closes the cache and leaks the memory; the process is about to exit. Freeing ten thousand points one by one
    /// would take longer than looking them up.
    pub(super) fn leave(self) {
        self.store.leave();
        std::mem::forget(self);
    }

    /// The name of a point.
    pub(super) fn name(&self, point: PointId) -> &str {
        &self.spec.point(point).name
    }
}

/// The error for points whose results are needed and not cached.
pub(super) fn not_cached(names: &[String]) -> Error {
    let error = Error::bad_input(format!("not in the cache: {}", names.join(", ")));
    error.hint("`vadpipe run` computes it; `vadpipe plan` shows why it is missing")
}

/// Reads a pipeline, without opening its cache.
pub(super) fn read_pipeline(path: &Path, set: &[String], registry: &Registry) -> Result<Spec> {
    let bytes = crate::file::read(path, MAX_BYTES)
        .map_err(|e| Error::bad_input(format!("can't read the pipeline {}", path.display())).caused_by(e))?;
    let text = utf8(bytes, &path.display().to_string())?;
    // Absolute, so that stages that change their folder still find files beside the pipeline.
    let file = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let base = file.parent().unwrap_or(Path::new(".")).to_owned();
    load(&text, &path.display().to_string(), &base, set, registry)
}

/// Opens the cache of a command without a pipeline.
pub(super) fn open_store(global: &Global, ui: &Ui) -> Result<Arc<Store>> {
    open_cache(global, None, ui)
}

/// Opens the cache of a command. `pipeline` is its pipeline file, if it has one.
pub(super) fn open_cache(global: &Global, pipeline: Option<&Path>, ui: &Ui) -> Result<Arc<Store>> {
    let ui = *ui;
    let waiting = move |holder: Option<&Holder>| {
        let who = holder.map_or_else(|| "another process".to_owned(), Holder::describe);
        ui.note(&format!("waiting for the cache, which {who} holds"));
    };
    let options = Options { wait: !global.no_wait, waiting: Some(Arc::new(waiting)), ..Options::default() };
    Ok(Arc::new(Store::open(&cache_dir(global.cache.as_deref(), pipeline), options)?))
}

/// Decodes the text of a pipeline; an error points to the first invalid byte.
fn utf8(bytes: Vec<u8>, file: &str) -> Result<String> {
    let (mut sources, mut diagnostics) = (Sources::default(), Diagnostics::default());
    sources.add_bytes(SourceKind::Pipeline, file, bytes, &mut diagnostics);
    diagnostics.into_result(&sources)?;
    Ok(sources.0.pop().map(|source| source.text).unwrap_or_default())
}

/// The folders with data sets, in the order in which they are searched: that of the command line, that of
/// `VADPIPE_DATA_DIR`, and the user's cache folder.
pub(super) fn data_dirs(given: Option<&PathBuf>) -> Vec<PathBuf> {
    data_dirs_of(given, |name| std::env::var_os(name))
}

fn data_dirs_of(given: Option<&PathBuf>, variable: impl Fn(&str) -> Option<OsString>) -> Vec<PathBuf> {
    let variable = |name| variable(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let cache = variable("XDG_CACHE_HOME").or_else(|| variable("HOME").map(|home| home.join(".cache")));
    let all = given.cloned().into_iter().chain(variable("VADPIPE_DATA_DIR")).chain(cache.map(|c| c.join("vadpipe")));
    let mut dirs: Vec<PathBuf> = Vec::new();
    for dir in all {
        if !dirs.contains(&dir) {
            dirs.push(dir);
        }
    }
    dirs
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn error_points_to_the_first_byte_that_is_not_utf8() {
        assert_eq!(utf8("é = 1".into(), "p.toml").unwrap(), "é = 1");
        let error = utf8(b"[pipeline]\n# \xc3\xa9t\xe9 \xff\nname = \"a\"\n".to_vec(), "p.toml").unwrap_err();
        assert_eq!(error.category, crate::error::Category::BadInput);
        insta::assert_snapshot!(error.message, @r"
        error: this byte, 0xe9, is not valid UTF-8
         --> p.toml:2:5
          |
        2 | # ét� �
          |     ^
          |
          = help: save the file as UTF-8

        1 error in the pipeline
        ");
        // A character cut off by the end of the file.
        assert!(utf8(b"# \xc3".to_vec(), "p.toml").unwrap_err().message.contains("p.toml:1:3"));
    }

    #[test]
    fn data_folders_are_searched_in_order() {
        let dirs = |given: Option<&str>, set: &[(&str, &str)]| {
            let variable = |name: &str| set.iter().find(|(n, _)| *n == name).map(|(_, v)| OsString::from(v));
            let dirs = data_dirs_of(given.map(PathBuf::from).as_ref(), variable);
            dirs.iter().map(|d| d.display().to_string()).collect::<Vec<_>>()
        };
        let all = [("VADPIPE_DATA_DIR", "/env"), ("XDG_CACHE_HOME", "/xdg"), ("HOME", "/home/u")];
        assert_eq!(dirs(Some("own"), &all), ["own", "/env", "/xdg/vadpipe"]);
        assert_eq!(dirs(Some("/env"), &all), ["/env", "/xdg/vadpipe"]);
        assert_eq!(dirs(None, &[("VADPIPE_DATA_DIR", ""), ("HOME", "/home/u")]), ["/home/u/.cache/vadpipe"]);
        assert_eq!(dirs(None, &[]), Vec::<String>::new());
    }
}
