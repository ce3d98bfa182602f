//! `vadpipe work`: runs one job for another vadpipe. Not for users: `run --isolate` calls it.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use clap::Args;

use super::Global;
use super::project::compute;
use super::session::{start_threads, stop_at_end_of_input, stop_on_signals};
use super::ui::Ui;
use crate::error::{Error, Result};
use crate::event::{Event, Silent};
use crate::exec::{JobEnd, Message, RunContext, WorkOrder};
use crate::graph::Graph;
use crate::spec::{DeviceChoice, load_with};
use crate::stage::Cancel;
use crate::store::{Options, Store};
use crate::system::memory;

/// The longest order: the records of all inputs are in it.
const MAX_ORDER_BYTES: u64 = 1 << 30;
/// Progress is passed on no more often than this.
const PROGRESS: Duration = Duration::from_millis(50);

/// Arguments of `work`.
#[derive(Args)]
pub(super) struct WorkArgs {
    /// The order, a JSON file
    #[arg(value_name = "ORDER")]
    order: PathBuf,
}

/// Runs the job of an order. It stops when standard input ends, or at a signal.
pub(super) fn work(args: &WorkArgs, global: &Global, ui: &Ui) -> Result<()> {
    let last_progress = Mutex::new(None::<Instant>);
    let send = |message: Message| {
        if let Message::Event(Event::Progress { .. }) = &message {
            let mut last = last_progress.lock().unwrap_or_else(PoisonError::into_inner);
            if last.is_some_and(|last| last.elapsed() < PROGRESS) {
                return;
            }
            *last = Some(Instant::now());
        }
        if let Ok(line) = serde_json::to_string(&message) {
            // A library may have printed an incomplete line. If the driver died, the job still ends in order: a
            // training saves its state.
            let _ = ui.try_out(&format!("\n{line}"));
        }
    };
    // When memory runs out, the kernel ends this process and not the driver.
    let _ = std::fs::write("/proc/self/oom_score_adj", "1000");
    if let Err(error) = run(args, global, &send) {
        send(Message::Ended(Box::new(JobEnd::with(error))));
    }
    Ok(())
}

fn run(args: &WorkArgs, global: &Global, send: &(dyn Fn(Message) + Sync)) -> Result<()> {
    let unreadable = || format!("can't read the order {}", args.order.display());
    let bytes =
        crate::file::read(&args.order, MAX_ORDER_BYTES).map_err(|e| Error::bad_input(unreadable()).caused_by(e))?;
    let order: WorkOrder = serde_json::from_slice(&bytes).map_err(|e| Error::bad_input(unreadable()).caused_by(e))?;
    start_threads(u16::try_from(order.threads).ok())?;
    let cancel = Cancel::default();
    stop_on_signals(&cancel, |_| {})?;
    stop_at_end_of_input(&cancel)?;
    let included = |path: &Path| match order.included.get(path) {
        Some(text) => Ok(text.clone().into_bytes()),
        None => Err(io::Error::from(io::ErrorKind::NotFound).into()),
    };
    let spec = load_with(&order.text, &order.file, &order.base, &order.overrides, &global.kinds.0, &included)?;
    let graph = Graph::of(&spec.points)?;
    let cancelled = cancel.clone();
    let options = Options { cancelled: Some(Arc::new(move || cancelled.is_cancelled())), ..Options::default() };
    let store = Arc::new(Store::open(&order.cache, options)?);
    // Keeps the scratch folder if the driver dies.
    let _at_work = store.at_work()?;
    let device: DeviceChoice = order.device.parse().map_err(Error::bad_input)?;
    let compute = compute(device, spec.pipeline.precision)?;
    let data_dirs = order.data_dirs.clone();
    let context = RunContext {
        spec: &spec,
        graph: &graph,
        store: &store,
        shared: None,
        compute: &compute,
        data_dirs: &data_dirs,
        relocation: None,
        threads: order.threads,
        memory: memory(),
        cancel: &cancel,
        listener: &Silent,
    };
    order.work(&context, send);
    store.close();
    Ok(())
}
