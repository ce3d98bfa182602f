//! The settings of a cluster: `[engine.slurm]` in the configuration, with what `-E slurm.NAME=VALUE` changes.

use std::num::NonZeroU16;
use std::time::Duration;

use serde::Deserialize;

use crate::cli::config::units;
use crate::error::{Error, Result};

/// The beginning of all settings on the command line.
const PREFIX: &str = "slurm.";
/// Options of `sbatch` with which jobs would not be found again.
const OWN: [&str; 7] = ["--array", "-a", "--clusters", "-M", "--comment", "--job-name", "-J"];
const HINT: &str = "`vadpipe config --help` lists the settings, such as -E slurm.partition=gpu";

/// The settings of a cluster.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(in crate::cli) struct Site {
    /// The partition, the account and so on, as `sbatch` takes them.
    pub(in crate::cli) partition: Option<String>,
    pub(in crate::cli) account: Option<String>,
    pub(in crate::cli) qos: Option<String>,
    pub(in crate::cli) constraint: Option<String>,
    /// The kind of GPU, as in `--gres`: `gpu` or `gpu:a100`.
    pub(in crate::cli) gpu: String,
    /// More options of `sbatch`, each as one word: `--exclusive`.
    pub(in crate::cli) options: Vec<String>,
    /// Lines of shell that a job runs before its worker, such as `module load cuda`.
    pub(in crate::cli) setup: Vec<String>,
    /// What comes before the worker's command, such as `apptainer exec image.sif`.
    pub(in crate::cli) prefix: String,
    /// Where vadpipe is on the nodes. `None`: where it is here.
    pub(in crate::cli) program: Option<String>,
    /// The most workers at a time.
    pub(in crate::cli) workers: NonZeroU16,
    /// Cores of a worker, for stages that do not say what they need.
    pub(in crate::cli) cpus: NonZeroU16,
    /// Bytes of memory of a worker, for stages that do not say. `None`: what Slurm gives.
    #[serde(deserialize_with = "units::memory")]
    pub(in crate::cli) memory: Option<u64>,
    /// The most memory of a worker. One that ran out of memory gets twice as much, up to here, or up to four times as
    /// much as at first.
    #[serde(deserialize_with = "units::memory")]
    pub(in crate::cli) max_memory: Option<u64>,
    /// The time limit of jobs. `None`: that of the partition, or what the stages need.
    #[serde(deserialize_with = "units::time")]
    pub(in crate::cli) time: Option<Duration>,
    /// How often `squeue` is called.
    #[serde(deserialize_with = "units::required_time")]
    pub(in crate::cli) poll: Duration,
}

impl Default for Site {
    fn default() -> Self {
        Self {
            partition: None,
            account: None,
            qos: None,
            constraint: None,
            gpu: "gpu".to_owned(),
            options: Vec::new(),
            setup: Vec::new(),
            prefix: String::new(),
            program: None,
            workers: NonZeroU16::MIN.saturating_add(15),
            cpus: NonZeroU16::MIN,
            memory: None,
            max_memory: None,
            time: None,
            poll: Duration::from_secs(30),
        }
    }
}

impl Site {
    /// The settings in this table of the configuration, with those of the command line (`slurm.partition=gpu`) in place
    /// of them.
    ///
    /// # Errors
    /// If one is unknown or wrong (exit code 2).
    pub(in crate::cli) fn of(mut table: toml::Table, given: &[String]) -> Result<Self> {
        for setting in given {
            let wrong = || Error::bad_input(format!("-E {setting}: write -E slurm.NAME=VALUE")).hint(HINT);
            let (name, value) = setting.split_once('=').ok_or_else(wrong)?;
            let name = name.strip_prefix(PREFIX).ok_or_else(wrong)?;
            table.insert(name.to_owned(), value_of(name, value));
        }
        let site = table.try_into::<Self>();
        let site = site.map_err(|e| Error::bad_input(format!("[engine.slurm]: {}", e.message())).hint(HINT))?;
        let is_own = |option: &&String| OWN.iter().any(|own| option.starts_with(own));
        match site.options.iter().find(is_own) {
            Some(option) => Err(Error::bad_input(format!("[engine.slurm]: `options` can't contain {option}"))
                .hint("vadpipe needs these options itself, or jobs of one cluster")),
            None => Ok(site),
        }
    }
}

/// A value of the command line, by the kind of its setting. The name of an account may be a number.
fn value_of(name: &str, text: &str) -> toml::Value {
    let parsed = || format!("value = {text}").parse::<toml::Table>().ok()?.remove("value");
    let text = || toml::Value::String(text.to_owned());
    match name {
        "workers" | "cpus" => parsed().filter(toml::Value::is_integer).unwrap_or_else(text),
        "options" | "setup" => {
            parsed().filter(toml::Value::is_array).unwrap_or_else(|| toml::Value::Array(vec![text()]))
        }
        _ => text(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn command_line_comes_before_the_configuration() {
        let table = || "partition = \"main\"\nworkers = 4\nmemory = \"2 GB\"".parse::<toml::Table>().unwrap();
        let given = ["slurm.partition=gpu", "slurm.workers=8", "slurm.account=7", "slurm.options=--exclusive"];
        let site = Site::of(table(), &given.map(str::to_owned)).unwrap();
        assert_eq!((site.partition.as_deref(), site.workers.get()), (Some("gpu"), 8));
        assert_eq!((site.account.as_deref(), site.memory), (Some("7"), Some(2_000_000_000)));
        assert_eq!(site.options, ["--exclusive"]);
        assert_eq!(Site::of(toml::Table::new(), &[]).unwrap(), Site::default());
    }

    #[test]
    fn wrong_settings_are_named() {
        let error = |given: &str| Site::of(toml::Table::new(), &[given.to_owned()]).unwrap_err().to_string();
        assert!(error("slurm.partitoin=gpu").contains("partitoin"));
        assert!(error("slurm.workers=0").contains("[engine.slurm]"));
        assert!(error("slurm.memory=2").contains("such as `8 GB`"));
        assert!(error("partition=gpu").contains("-E slurm.NAME=VALUE"));
        assert!(error("slurm.options=--clusters=c2").contains("can't contain --clusters=c2"));
        assert!(error("slurm.partition").contains("-E slurm.NAME=VALUE"));
    }
}
