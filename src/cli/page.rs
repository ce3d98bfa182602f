//! `vadpipe ui`.

use std::io::Write as _;
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError};

use clap::Args;
use clap_complete::engine::ArgValueCompleter;
use rustix::process::nice;
use serde_json::json;
use tempfile::NamedTempFile;
use tokio::sync::oneshot;

use super::args::Global;
use super::cache_dir::cache_dir;
use super::completion;
use super::project::read_pipeline;
use super::session::stop_on_signals;
use super::shared::StoreArgs;
use super::ui::Ui;
use crate::error::{Error, Result};
use crate::page::{Pipeline, Remote, Server, Settings};
use crate::stage::Cancel;
use crate::store::{CacheReader, StoreError, host_name};
use crate::system::return_freed_memory;

/// Arguments of `ui`.
#[derive(Args)]
#[command(after_help = "Examples:
  vadpipe ui                        show the cache of this folder
  vadpipe ui --open                 and open the browser
  vadpipe ui sweep.toml             one pipeline, also what has not run
  vadpipe ui --cache /data/cache --port 8080
  vadpipe ui sweep.toml --run ID --store s3://lab/store
                                    watch the workers of a run on other machines

It prints an address with a token. Nobody without the token can read the page. Ctrl-C ends it. It shows runs of other \
processes while they run, and changes nothing.

On another machine, forward the port and open the printed address here:
  ssh -L 8080:127.0.0.1:8080 server vadpipe ui --port 8080")]
pub(super) struct PageArgs {
    /// Show only these pipelines, and also their points that have not run [default: all pipelines of the cache]
    #[arg(value_name = "FILE", add = ArgValueCompleter::new(completion::files))]
    files: Vec<PathBuf>,
    /// Set a value before the files are read, as with `run`
    #[arg(short = 'S', long = "set", value_name = "PATH=VALUE", requires = "files")]
    set: Vec<String>,
    /// Also follow this run, whose workers write to the shared store. Needs one FILE, that of the run
    #[arg(long, value_name = "RUN", requires = "files")]
    run: Option<String>,
    #[command(flatten)]
    store: StoreArgs,
    /// The port [default: a free one]
    #[arg(long, value_name = "N", default_value_t = 0, hide_default_value = true)]
    port: u16,
    /// The address to listen on. With another one than the loopback address, the page and the token are sent over the
    /// network without encryption
    #[arg(long, value_name = "ADDRESS", default_value_t = IpAddr::V4(Ipv4Addr::LOCALHOST))]
    address: IpAddr,
    /// Another name by which browsers address this machine (may be given several times)
    #[arg(long = "host", value_name = "NAME")]
    hosts: Vec<String>,
    /// Open the page in the browser
    #[arg(long, overrides_with = "no_open")]
    open: bool,
    /// Don't open the browser
    #[arg(long, overrides_with = "open")]
    no_open: bool,
}

/// How much lower the priority of the server is than that of other processes.
const NICENESS: i32 = 5;

/// Serves the page until a signal comes.
pub(super) fn page(args: &PageArgs, global: &Global, ui: &Ui) -> Result<()> {
    return_freed_memory();
    let pipelines = pipelines(args, global)?;
    let cache = cache(args, global)?;
    let settings = Settings {
        address: args.address,
        port: args.port,
        hosts: hosts(args),
        cache,
        pipelines,
        remote: remote(args)?,
        registry: global.kinds.0.clone(),
    };
    let (sender, stop) = oneshot::channel();
    let sender = Mutex::new(Some(sender));
    stop_on_signals(&Cancel::default(), move |_| {
        let sender = sender.lock().unwrap_or_else(PoisonError::into_inner).take();
        // The server may have ended already.
        let _ = sender.map(|sender| sender.send(()));
    })?;
    let server = Server::bind(settings)?;
    let url = server.url()?;
    if ui.json {
        ui.object(&json!({ "url": url }))?;
    } else {
        ui.exact(&url);
    }
    // Removed when the server ends.
    let _shortcut = if args.open && !args.no_open { open(&url, ui) } else { None };
    // A training on this machine goes first. The browser keeps its priority.
    let _ = nice(NICENESS);
    server.run(stop)
}

/// The run in the shared store that the command line names.
fn remote(args: &PageArgs) -> Result<Option<Remote>> {
    let Some(run) = &args.run else { return Ok(None) };
    if args.files.len() != 1 {
        return Err(Error::bad_input("--run needs one pipeline file").hint("name the file of the run"));
    }
    Ok(Some(Remote { shared: args.store.required(Some(false))?, run: run.clone() }))
}

fn pipelines(args: &PageArgs, global: &Global) -> Result<Vec<Pipeline>> {
    let mut pipelines: Vec<Pipeline> = Vec::new();
    for file in &args.files {
        let spec = read_pipeline(file, &args.set, &global.kinds.0)?;
        let name = &spec.pipeline.name;
        if let Some(other) = pipelines.iter().find(|other| other.spec.pipeline.name == *name) {
            let message = format!("{} and {} are both named `{name}`", other.file, file.display());
            return Err(Error::bad_input(message).hint("show one of them"));
        }
        pipelines.push(Pipeline { file: file.display().to_string(), spec });
    }
    Ok(pipelines)
}

/// The cache of the command, which must exist.
fn cache(args: &PageArgs, global: &Global) -> Result<CacheReader> {
    let of = |file| cache_dir(global.cache.as_deref(), file);
    let dir = of(args.files.first().map(PathBuf::as_path));
    if let Some(file) = args.files.iter().find(|file| of(Some(file.as_path())) != dir) {
        let message = format!("{} has another cache than {}", file.display(), args.files[0].display());
        return Err(Error::bad_input(message).hint("start `vadpipe ui` for each cache"));
    }
    CacheReader::open(&dir).map_err(|error| match error {
        StoreError::NotACache { .. } => {
            Error::bad_input(error.to_string()).hint("`vadpipe run` makes one; `--cache` names another one")
        }
        other => other.into(),
    })
}

/// The names of this machine, besides those of the loopback address.
fn hosts(args: &PageArgs) -> Vec<String> {
    let mut hosts = args.hosts.clone();
    if !args.address.is_loopback() {
        hosts.push(host_name());
    }
    if !args.address.is_unspecified() {
        hosts.push(match args.address {
            IpAddr::V4(address) => address.to_string(),
            IpAddr::V6(address) => format!("[{address}]"),
        });
    }
    hosts
}

/// Opens the page in the browser, through a file that only this user can read: others see the arguments of processes.
fn open(url: &str, ui: &Ui) -> Option<NamedTempFile> {
    let program = if cfg!(target_os = "macos") { "open" } else { "xdg-open" };
    let opened = || -> std::io::Result<NamedTempFile> {
        let mut file = tempfile::Builder::new().prefix("vadpipe-").suffix(".html").tempfile()?;
        write!(file, "<!DOCTYPE html><meta charset=\"utf-8\"><meta http-equiv=\"refresh\" content=\"0;url={url}\">")?;
        let silent = || Stdio::null();
        Command::new(program).arg(file.path()).stdin(silent()).stdout(silent()).stderr(silent()).spawn()?;
        Ok(file)
    };
    match opened() {
        Ok(file) => Some(file),
        Err(error) => {
            ui.warn(&format!("can't open the browser with `{program}`: {error}"));
            None
        }
    }
}
