//! A pipeline file, read and ready to be asked about: what nearly every command begins with.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::ui::Ui;
use super::{Global, PipelineArgs};
use crate::error::{Error, Result};
use crate::exec::{Compute, choose};
use crate::graph::Graph;
use crate::plan::{Plan, Planner};
use crate::spec::{Spec, load};
use crate::stages::builtin;
use crate::store::{Holder, Options, ResultRecord, Store};

/// A pipeline with its graph, its cache and its device.
pub(super) struct Project {
    /// The pipeline.
    pub(super) spec: Spec,
    /// Its graph.
    pub(super) graph: Graph,
    /// The cache.
    pub(super) store: Arc<Store>,
    /// What computes.
    pub(super) compute: Compute,
    /// The points that the targets name.
    pub(super) targets: BTreeSet<usize>,
    /// These and everything they need.
    pub(super) wanted: BTreeSet<usize>,
}

impl Project {
    /// Reads the pipeline and opens its cache for a question: with `--no-wait`, a held cache is an error.
    pub(super) fn open(args: &PipelineArgs, global: &Global, ui: &Ui) -> Result<Self> {
        Self::load(args, open_store(global, ui)?)
    }

    /// Reads the pipeline and opens its cache for a run. A run that is under way waits for the cache however long it
    /// takes, since what it has computed must not be lost: `--no-wait` is about keys that others compute.
    pub(super) fn open_to_run(args: &PipelineArgs, global: &Global, ui: &Ui) -> Result<Self> {
        const FOR_EVER: Duration = Duration::from_secs(365 * 24 * 3600);
        Self::load(args, open_store_with(global, ui, Options { wait: true, timeout: FOR_EVER, ..Options::default() })?)
    }

    fn load(args: &PipelineArgs, store: Arc<Store>) -> Result<Self> {
        let text = std::fs::read_to_string(&args.file)
            .map_err(|e| Error::bad_input(format!("can't read the pipeline {}", args.file.display())).caused_by(e))?;
        // Absolute, so that a stage may change its folder and still find what lies beside the pipeline.
        let file = std::path::absolute(&args.file).unwrap_or_else(|_| args.file.clone());
        let base = file.parent().unwrap_or(Path::new(".")).to_owned();
        let spec = load(&text, &args.file.display().to_string(), &base, &args.set, &builtin())?;
        let compute = choose(args.device.unwrap_or(spec.pipeline.device), spec.pipeline.precision)?;
        let graph = Graph::of(&spec.points)?;
        let targets = graph.targets(&args.targets)?;
        let wanted = graph.upstream(targets.iter().copied());
        Ok(Self { spec, graph, store, compute, targets, wanted })
    }

    /// Asks `f` with a planner that makes `forced` again.
    pub(super) fn planner<'a>(&'a self, forced: &'a BTreeSet<usize>) -> Planner<'a> {
        let (spec, graph, store, numerics) = (&self.spec, &self.graph, &self.store, &self.compute.numerics);
        Planner { spec, graph, store, numerics, forced }
    }

    /// The plan for what is wanted. Says what happened to the cache, if anything did.
    pub(super) fn plan(&self, forced: &BTreeSet<usize>, ui: &Ui) -> Result<Plan> {
        let plan = self.planner(forced).plan(&self.wanted);
        self.store.warnings().iter().for_each(|warning| ui.warn(warning));
        plan
    }

    /// The results of the targets that are in the cache, by point.
    pub(super) fn results(&self, ui: &Ui) -> Result<BTreeMap<usize, ResultRecord>> {
        let plan = self.plan(&BTreeSet::new(), ui)?;
        let found = plan.decisions.into_iter().filter(|d| self.targets.contains(&d.point));
        Ok(found.filter_map(|d| Some((d.point, d.record?))).collect())
    }

    /// [`Project::results`] in plan order; an error if a target has none.
    pub(super) fn all_results(&self, ui: &Ui) -> Result<Vec<(usize, ResultRecord)>> {
        let mut results = self.results(ui)?;
        let missing: Vec<_> = self.targets.iter().filter(|p| !results.contains_key(p)).map(|p| self.name(*p)).collect();
        if !missing.is_empty() {
            let message = format!("not in the cache: {}", missing.join(", "));
            return Err(Error::bad_input(message).hint("`vadpipe run` makes it; `vadpipe plan` says why it is missing"));
        }
        Ok(self.graph.order().iter().filter_map(|p| Some((*p, results.remove(p)?))).collect())
    }

    /// The name of a point.
    pub(super) fn name(&self, point: usize) -> &str {
        &self.spec.points[point].name
    }
}

/// Opens the cache as the command line says.
pub(super) fn open_store(global: &Global, ui: &Ui) -> Result<Arc<Store>> {
    open_store_with(global, ui, Options { wait: !global.no_wait, ..Options::default() })
}

fn open_store_with(global: &Global, ui: &Ui, options: Options) -> Result<Arc<Store>> {
    let says = *ui;
    let waiting = move |holder: Option<&Holder>| {
        let who = holder.map_or_else(|| "another process".to_owned(), Holder::describe);
        says.note(&format!("waiting for the cache: held by {who}"));
    };
    let options = Options { waiting: Some(Arc::new(waiting)), ..options };
    Ok(Arc::new(Store::open(&global.cache, options)?))
}

/// Where data files are looked for: as the command line or the environment says, then the user's cache folder.
pub(super) fn data_dirs(given: Option<&PathBuf>) -> Vec<PathBuf> {
    let home = || std::env::var_os("HOME").map(|h| PathBuf::from(h).join(".cache"));
    let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from).or_else(home);
    given.cloned().into_iter().chain(cache.map(|c| c.join("vadpipe"))).collect()
}
