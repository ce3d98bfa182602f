//! The shared store of a command: its options, and how it is opened.

use std::path::Path;
use std::sync::Mutex;

use clap::Args;

use super::config::Config;
use super::ui::Ui;
use crate::error::{Error, Result};
use crate::file;
use crate::shared::{Address, PublicKey, SecretKey, SharedStore, Trust, Variables};

/// Variables of the environment whose names begin with these are passed to the clients of object stores.
const CLOUD: [&str; 3] = ["AWS_", "GOOGLE_", "AZURE_"];
/// The longest key file.
const MAX_KEY_BYTES: u64 = 4096;

/// The options of commands that use the shared store.
#[derive(Args, Clone, Default)]
pub(super) struct StoreArgs {
    /// The shared store: a folder, or s3://BUCKET/PATH, gs://… or az://… [default: that of `vadpipe config`]
    #[arg(long, value_name = "URL", env = "VADPIPE_STORE", hide_env_values = true)]
    pub(super) store: Option<String>,
    /// Use no shared store
    #[arg(long)]
    pub(super) no_store: bool,
}

/// [`StoreArgs`] of commands that may also push.
#[derive(Args, Clone, Default)]
pub(super) struct StoreWriteArgs {
    #[command(flatten)]
    pub(super) store: StoreArgs,
    /// Push what is made to the shared store
    #[arg(long)]
    pub(super) store_write: bool,
}

impl StoreArgs {
    /// Opens the shared store; `None` without one. Makes no request. `write` says whether to push; otherwise the
    /// configuration decides.
    pub(super) fn open(&self, write: Option<bool>) -> Result<Option<SharedStore>> {
        if self.no_store {
            return Ok(None);
        }
        let config = Config::load()?;
        // An empty variable is none.
        let given = self.store.as_deref().filter(|url| !url.is_empty());
        let Some(url) = given.map(str::to_owned).or_else(|| config.store_url()) else { return Ok(None) };
        let address = Address::parse(&url, Path::new(""))?;
        let (writes, trust) = (write.unwrap_or(config.store.write), trust(&config)?);
        if writes && trust.key.is_none() && !trust.trusted.is_empty() {
            let message = "this machine trusts only signed records, and has no key to sign its own";
            return Err(Error::bad_input(message).hint("`vadpipe store keygen` makes one"));
        }
        Ok(Some(SharedStore::open(address, variables(), trust, writes)?))
    }

    /// Opens the shared store of a command that needs one.
    pub(super) fn required(&self, write: Option<bool>) -> Result<SharedStore> {
        self.open(write)?.ok_or_else(|| {
            let hint = "give --store, or set VADPIPE_STORE or `url` under [store] in the configuration";
            Error::bad_input("no shared store is named").hint(hint)
        })
    }
}

impl StoreWriteArgs {
    /// As [`StoreArgs::open`]. To write, there must be a store.
    pub(super) fn open(&self) -> Result<Option<SharedStore>> {
        match self.store_write && !self.store.no_store {
            true => self.store.required(Some(true)).map(Some),
            false => self.store.open(None),
        }
    }
}

/// Opens a store in a folder that only this user writes to.
pub(super) fn open_folder(folder: &Path, write: bool) -> Result<SharedStore> {
    let address = Address::parse(&folder.display().to_string(), Path::new(""))?;
    Ok(SharedStore::open(address, Variables::new(), Trust::default(), write)?)
}

/// The keys that sign and that are trusted.
pub(super) fn trust(config: &Config) -> Result<Trust> {
    let key = match config.key_file() {
        Some(path) => Some(read_key(&path)?),
        None => None,
    };
    let mut trusted = std::collections::BTreeMap::new();
    for (name, text) in &config.store.trusted {
        let key: PublicKey = text.parse().map_err(|error| {
            let error = Error::from(error);
            Error { message: format!("the trusted key of {name}: {}", error.message), ..error }
        })?;
        trusted.insert(name.clone(), key);
    }
    Ok(Trust { key, trusted })
}

fn read_key(path: &Path) -> Result<SecretKey> {
    let unreadable = || Error::bad_input(format!("can't read the key {}", path.display()));
    let bytes = file::read(path, MAX_KEY_BYTES).map_err(|e| unreadable().caused_by(e))?;
    let text = String::from_utf8(bytes).map_err(|_| unreadable())?;
    text.parse::<SecretKey>().map_err(|error| {
        let error = Error::from(error);
        Error { message: format!("{}: {}", path.display(), error.message), ..error }
    })
}

/// The settings of object stores in the environment.
fn variables() -> Variables {
    let is_cloud = |name: &str| CLOUD.iter().any(|prefix| name.starts_with(prefix));
    let text = |(name, value): (std::ffi::OsString, std::ffi::OsString)| {
        Some((name.into_string().ok()?, value.into_string().ok()?))
    };
    std::env::vars_os().filter_map(text).filter(|(name, value)| is_cloud(name) && !value.is_empty()).collect()
}

/// A bar of a transfer: shows bytes that were moved, of all.
pub(super) fn transfer_bar(ui: &Ui, what: &'static str) -> impl Fn(u64, u64) + Sync + use<> {
    // The bar is for one thread at a time. Others only count.
    let bar = Mutex::new(ui.bar(what));
    move |done, total| {
        if let Ok(bar) = bar.try_lock() {
            bar.show(done / 1000, total / 1000);
        }
    }
}

/// Prints the warnings of a store.
pub(super) fn print_warnings(store: &SharedStore, ui: &Ui) {
    store.warnings().iter().for_each(|warning| ui.warn(warning));
}
