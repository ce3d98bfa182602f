//! The configuration file, and `vadpipe config`.

pub(super) mod units;

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use serde::Deserialize;
use serde_json::json;

use super::slurm::Site;
use super::ui::Ui;
use crate::error::{Error, Result};
use crate::file::{self, FileError};
use crate::shared::Address;
use crate::spec::{Resources, memory_in_words, time_in_words};

/// The longest configuration file.
const MAX_BYTES: u64 = 1 << 20;

const EXAMPLES: &str = "Examples:
  vadpipe config         show the configuration and where it is
  vadpipe config --json  as JSON

A configuration file:
  [store]
  url = \"s3://team/vadpipe\"    the shared store
  write = true                 push what runs make
  key = \"vadpipe.key\"          signs it; this is the default

  [store.trusted]              if there are any, others are ignored
  alice = \"ed25519:…\"

  [resources]                  of stages that do not say what they need
  memory = \"2 GB\"

  [engine.slurm]               of `run --on slurm`, all optional
  partition = \"gpu\"          also account, qos, constraint
  gpu = \"gpu:a100\"           the kind of GPU, as in --gres
  workers = 16                 the most at a time
  cpus = 1                     of a worker, for stages that don't say
  memory = \"4 GB\"            the same; max_memory if it runs out
  time = \"2h\"                the time limit of its job
  setup = [\"module load python\"]
  prefix = \"apptainer exec image.sif\"
  program = \"/opt/vadpipe\"   where it is on the nodes
  options = [\"--exclusive\"]  more options of sbatch
  poll = \"30s\"               how often squeue is called

--store and VADPIPE_STORE come before `url`, and -E slurm.NAME=VALUE before the settings of [engine.slurm]. Without `write`, the store is only read. Paths are relative to the file's \
folder, or to the home folder after `~/`. `vadpipe store keygen` makes a key.";

/// Arguments of `config`.
#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct ConfigArgs {}

/// The configuration of a user on a machine.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Config {
    #[serde(default)]
    pub(super) store: StoreConfig,
    #[serde(default)]
    resources: ResourcesConfig,
    #[serde(default)]
    engine: EngineConfig,
    /// Where it was read from, or would be.
    #[serde(skip)]
    pub(super) path: Option<PathBuf>,
}

/// The shared store.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct StoreConfig {
    /// Its address.
    pub(super) url: Option<String>,
    /// Whether runs push what they make.
    #[serde(default)]
    pub(super) write: bool,
    /// The file of the key that signs what this machine pushes.
    pub(super) key: Option<String>,
    /// Public keys by the names of their owners.
    #[serde(default)]
    pub(super) trusted: BTreeMap<String, String>,
}

/// What stages need that do not say it.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct ResourcesConfig {
    cpus: Option<NonZeroUsize>,
    #[serde(default, deserialize_with = "units::memory")]
    memory: Option<u64>,
    #[serde(default, deserialize_with = "units::time")]
    time: Option<Duration>,
}

/// Where `run --on` runs stages.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct EngineConfig {
    /// The settings of [`Site`].
    #[serde(default)]
    slurm: toml::Table,
}

impl Config {
    /// What stages need that do not say it.
    pub(super) fn resources(&self) -> Resources {
        let ResourcesConfig { cpus, memory, time } = self.resources;
        Resources { cpus: cpus.map(NonZeroUsize::get), memory, time }
    }

    /// The settings of the cluster, with those of the command line (`slurm.partition=gpu`) in place of them.
    ///
    /// # Errors
    /// If one is unknown or wrong.
    pub(super) fn site(&self, given: &[String]) -> Result<Site> {
        Site::of(self.engine.slurm.clone(), given)
    }

    /// Reads the configuration: the file that `VADPIPE_CONFIG` names, or `vadpipe/config.toml` in the user's folder of
    /// configurations. A file that does not exist is empty, unless `VADPIPE_CONFIG` names it.
    ///
    /// # Errors
    /// If it can't be read, or if it has an unknown or wrong entry.
    pub(super) fn load() -> Result<Self> {
        let variable = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        let named = variable("VADPIPE_CONFIG");
        let folder = variable("XDG_CONFIG_HOME").or_else(|| variable("HOME").map(|home| home.join(".config")));
        let Some(path) = named.clone().or_else(|| folder.map(|folder| folder.join("vadpipe/config.toml"))) else {
            return Ok(Self::default());
        };
        let unreadable = || Error::bad_input(format!("can't read the configuration {}", path.display()));
        let bytes = match file::read(&path, MAX_BYTES) {
            Err(FileError::Io(error)) if error.kind() == std::io::ErrorKind::NotFound && named.is_none() => {
                return Ok(Self { path: Some(path), ..Self::default() });
            }
            bytes => bytes.map_err(|e| unreadable().caused_by(e))?,
        };
        let text = String::from_utf8(bytes).map_err(|e| unreadable().caused_by(e))?;
        let config: Self = toml::from_str(&text).map_err(|e| wrong(&path, &e))?;
        Ok(Self { path: Some(path), ..config })
    }

    /// The file of the key that signs, if it exists or the configuration names it.
    pub(super) fn key_file(&self) -> Option<PathBuf> {
        match &self.store.key {
            Some(key) => Some(self.resolve(key)),
            None => self.default_key_file().filter(|path| path.exists()),
        }
    }

    /// Where `keygen` writes a key.
    pub(super) fn default_key_file(&self) -> Option<PathBuf> {
        Some(self.path.as_ref()?.parent()?.join("vadpipe.key"))
    }

    /// The address of the shared store, with a path resolved as those of keys.
    pub(super) fn store_url(&self) -> Option<String> {
        let url = self.store.url.as_ref()?;
        let is_folder = !url.contains(':') && !url.is_empty();
        Some(if is_folder { self.resolve(url).display().to_string() } else { url.clone() })
    }

    /// A path in the file: relative to it, or to the home folder after `~/`.
    fn resolve(&self, path: &str) -> PathBuf {
        let home = std::env::var_os("HOME").map(PathBuf::from);
        if let (Some(below), Some(home)) = (path.strip_prefix("~/"), home) {
            return home.join(below);
        }
        let folder = self.path.as_ref().and_then(|file| file.parent());
        folder.unwrap_or(Path::new("")).join(path)
    }
}

/// The error of a file that can't be parsed, with its line and column.
fn wrong(path: &Path, error: &toml::de::Error) -> Error {
    let text = error.to_string();
    let text = text.strip_prefix("TOML parse error at ").unwrap_or(&text);
    Error::bad_input(format!("the configuration {} is wrong at {}", path.display(), text.trim_end()))
        .hint("`vadpipe config --help` shows an example")
}

/// Shows the configuration.
pub(super) fn config(_: &ConfigArgs, ui: &Ui) -> Result<()> {
    let config = Config::load()?;
    let file = config.path.as_ref().map(|path| path.display().to_string()).unwrap_or_default();
    let exists = config.path.as_ref().is_some_and(|path| path.exists());
    let url = std::env::var("VADPIPE_STORE").ok().filter(|url| !url.is_empty());
    let from_variable = url.is_some();
    let url = url.or_else(|| config.store_url());
    // Without a password, should there be one.
    let url = url.map(|url| Address::parse(&url, Path::new("")).map_or_else(|e| e.to_string(), |a| a.to_string()));
    let key = config.key_file().map(|path| path.display().to_string());
    let Resources { cpus, memory, time } = config.resources();
    let slurm = &config.engine.slurm;
    config.site(&[]).map_err(|e| Error { message: format!("the configuration {file}: {e}"), ..e })?;
    if ui.json {
        return ui.object(&json!({
            "file": file, "exists": exists,
            "store": { "url": url, "write": config.store.write, "key": key, "trusted": config.store.trusted },
            "resources": { "cpus": cpus, "memory": memory, "time": time.map(|time| time.as_secs_f64()) },
            "engine": { "slurm": slurm },
        }));
    }
    let mut lines = vec![format!("{file}{}", if exists { "" } else { " (does not exist)" })];
    let from = if from_variable { "  (VADPIPE_STORE)" } else { "" };
    lines.push(format!("store.url     {}{from}", url.as_deref().unwrap_or("none")));
    lines.push(format!("store.write   {}", config.store.write));
    lines.push(format!("store.key     {}", key.as_deref().unwrap_or("none")));
    lines.extend(config.store.trusted.iter().map(|(name, key)| format!("store.trusted.{name}   {key}")));
    let resources = [
        ("cpus  ", cpus.map(|cpus| cpus.to_string())),
        ("memory", memory.map(memory_in_words)),
        ("time  ", time.map(time_in_words)),
    ];
    lines.extend(resources.into_iter().filter_map(|(name, value)| Some(format!("resources.{name}   {}", value?))));
    lines.extend(slurm.iter().map(|(name, value)| format!("engine.slurm.{name}   {value}")));
    ui.text(&lines.join("\n"));
    Ok(())
}
