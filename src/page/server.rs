//! The server: its address, its threads and its end.

use std::net::{IpAddr, SocketAddr, TcpListener};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread;

use tokio::runtime::Builder;
use tokio::sync::oneshot;

use super::guard::Guard;
use super::model::{Model, Pipeline};
use super::remote;
use super::routes;
use super::state::{App, Remote};
use super::watch::Watcher;
use crate::error::{Error, Result};
use crate::stage::Registry;
use crate::store::{CacheReader, host_name};

/// What the server shows and where it listens.
pub struct Settings {
    /// The address; that of the loopback device unless the user says otherwise.
    pub address: IpAddr,
    /// The port; 0 for a free one.
    pub port: u16,
    /// Names by which the machine may be addressed, besides `localhost`.
    pub hosts: Vec<String>,
    /// The cache.
    pub cache: CacheReader,
    /// The pipelines that are shown; none for all of the cache.
    pub pipelines: Vec<Pipeline>,
    /// A run of workers that write to a shared store. It needs one pipeline.
    pub remote: Option<Remote>,
    /// The kinds of stages.
    pub registry: Arc<Registry>,
}

/// A server that has an address and answers from [`Server::run`] on.
pub struct Server {
    listener: TcpListener,
    app: Arc<App>,
    watcher: Watcher,
}

impl Server {
    /// Takes the port and reads the cache.
    ///
    /// # Errors
    /// If the port is in use, or if the system refuses it.
    pub fn bind(settings: Settings) -> Result<Self> {
        let address = SocketAddr::new(settings.address, settings.port);
        let listener = TcpListener::bind(address).map_err(|error| refused(address, error))?;
        let guard = Guard::new(settings.hosts)?;
        let mut model = Model::new(settings.cache, settings.pipelines, settings.registry);
        if let Some(remote) = &settings.remote {
            remote::add(&mut model, remote);
        }
        let app = Arc::new(App::new(model, guard, settings.remote));
        let watcher = Watcher::load(Arc::clone(&app));
        Ok(Self { listener, app, watcher })
    }

    /// The address of the page, with the token.
    ///
    /// # Errors
    /// If the system does not tell the port.
    pub fn url(&self) -> Result<String> {
        let address = self.listener.local_addr().map_err(failed)?;
        // A browser can't open the address 0.0.0.0, and the guard refuses it.
        let address = match address.ip().is_unspecified() {
            true => format!("{}:{}", host_name(), address.port()),
            false => address.to_string(),
        };
        Ok(format!("http://{address}/?token={}", self.app.guard.token()))
    }

    /// Answers requests until `stop` gets a message or its sender is gone.
    ///
    /// # Errors
    /// If the system refuses threads or the socket.
    pub fn run(self, stop: oneshot::Receiver<()>) -> Result<()> {
        let watcher = self.watcher;
        spawn(&self.app, move || watcher.follow())?;
        if self.app.remote.is_some() {
            let app = Arc::clone(&self.app);
            spawn(&self.app, move || remote::follow(&app))?;
        }
        let runtime = Builder::new_multi_thread().worker_threads(1).max_blocking_threads(4).enable_all().build();
        let runtime = runtime.map_err(|error| Error::exhausted("can't start threads", error))?;
        self.listener.set_nonblocking(true).map_err(failed)?;
        let served = runtime.block_on(async {
            let listener = tokio::net::TcpListener::from_std(self.listener)?;
            let server = axum::serve(listener, routes::router(self.app));
            tokio::select! {
                // Streams of events have no end, so nothing waits for them.
                _ = stop => Ok(()),
                served = server => served,
            }
        });
        runtime.shutdown_background();
        served.map_err(failed)
    }
}

/// Starts a thread that runs until the program ends. If it panics, the page says that it shows nothing new.
fn spawn(app: &Arc<App>, work: impl FnOnce() + Send + 'static) -> Result<()> {
    let app = Arc::clone(app);
    let work = move || {
        if catch_unwind(AssertUnwindSafe(work)).is_err() {
            app.note_failed_thread();
        }
    };
    let spawned = thread::Builder::new().name("vadpipe-page".to_owned()).spawn(work);
    spawned.map(drop).map_err(|error| Error::exhausted("can't start a thread", error))
}

fn refused(address: SocketAddr, error: std::io::Error) -> Error {
    let hint = match error.kind() {
        std::io::ErrorKind::AddrInUse => "choose another one with `--port`, or leave the option out for a free one",
        std::io::ErrorKind::PermissionDenied => "ports below 1024 need a permission: choose a larger one",
        _ => "`--address` must be an address of this machine",
    };
    Error::bad_input(format!("can't listen on {address}")).caused_by(error).hint(hint)
}

fn failed(error: std::io::Error) -> Error {
    Error::storage("the server failed").caused_by(error)
}
