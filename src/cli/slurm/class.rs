//! Points with the same resources. The workers of an array have what its class needs, and run whatever fits.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use super::site::Site;
use crate::spec::{Point, cpus_in_words, memory_in_words};

/// Work that a worker needs in order to start and to save its states, besides the time of its longest stage.
const AROUND: Duration = Duration::from_secs(300);
/// Before the memory of the terms of workers, if that has grown.
const HAS: &str = ",has=";
/// Slurm counts memory in units of this many bytes.
const MEBIBYTE: u64 = 1 << 20;

/// What the workers of an array have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::cli) struct Class {
    /// Cores of a worker.
    pub(in crate::cli) cpus: usize,
    /// Mebibytes of memory. `None`: what Slurm gives.
    pub(in crate::cli) memory: Option<u64>,
    /// GPUs of a worker.
    pub(in crate::cli) gpus: usize,
}

impl Class {
    /// That of a point.
    pub(in crate::cli) fn of(point: &Point, site: &Site) -> Self {
        let bytes = point.resources.memory.or(site.memory);
        Self {
            cpus: point.resources.cpus.unwrap_or_else(|| site.cpus.get().into()),
            memory: bytes.map(|bytes| bytes.div_ceil(MEBIBYTE)),
            gpus: point.parsed.stage.gpus(),
        }
    }

    /// For the user: `4 CPUs, 8 GB`.
    pub(in crate::cli) fn words(&self) -> String {
        let memory = self.memory.map(|memory| memory_in_words(memory * MEBIBYTE));
        let gpus =
            (self.gpus > 0).then(|| if self.gpus == 1 { "1 GPU".to_owned() } else { format!("{} GPUs", self.gpus) });
        [Some(cpus_in_words(self.cpus)), memory, gpus].into_iter().flatten().collect::<Vec<_>>().join(", ")
    }

    /// The class with this much more memory, at most `most` bytes. `None` if it has that already, or if Slurm decides.
    pub(super) fn with_twice_the_memory(&self, first: u64, most: Option<u64>) -> Option<Self> {
        let memory = self.memory?;
        let most = most.map_or(first.saturating_mul(4), |bytes| bytes / MEBIBYTE);
        let grown = memory.saturating_mul(2).min(most);
        (grown > memory).then_some(Self { memory: Some(grown), ..*self })
    }

    /// The name of workers with these terms for points of this class: in the comment of a job, and in its events.
    pub(super) fn with_terms(&self, terms: &Self) -> String {
        match terms.memory.filter(|_| terms != self) {
            Some(memory) => format!("{self}{HAS}{memory}"),
            None => self.to_string(),
        }
    }

    /// The class and the terms of workers with this name.
    pub(super) fn parse_with_terms(name: &str) -> Option<(Self, Self)> {
        let (class, memory) = name.split_once(HAS).map_or((name, None), |(class, memory)| (class, Some(memory)));
        let class: Self = class.parse().ok()?;
        let memory = memory.map(|memory| memory.parse().ok()).map_or(Some(class.memory), |parsed| parsed.map(Some))?;
        Some((class, Self { memory, ..class }))
    }

    /// The options of `sbatch` that ask for it. `time` is the longest time of a stage that can't be interrupted.
    pub(super) fn options(&self, site: &Site, time: Option<Duration>) -> Vec<String> {
        let mut options = vec!["--ntasks=1".to_owned(), format!("--cpus-per-task={}", self.cpus)];
        options.extend(self.memory.map(|memory| format!("--mem={memory}M")));
        options.extend((self.gpus > 0).then(|| format!("--gres={}:{}", site.gpu, self.gpus)));
        options.extend(limit(site, time).map(|limit| format!("--time={}", limit.as_secs() / 60)));
        options
    }
}

/// The time limit of a job, in whole minutes, as Slurm counts. `None`: that of the partition.
pub(super) fn limit(site: &Site, time: Option<Duration>) -> Option<Duration> {
    let limit = site.time.or(time.map(|time| time + AROUND))?;
    Some(Duration::from_secs(limit.as_secs().div_ceil(60).max(1) * 60))
}

/// As in the comment of a job.
impl fmt::Display for Class {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let memory = self.memory.map_or_else(|| "default".to_owned(), |memory| memory.to_string());
        write!(f, "cpus={},memory={memory},gpus={}", self.cpus, self.gpus)
    }
}

impl FromStr for Class {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let mut parts = text.split(',');
        let mut next = |name: &str| parts.next()?.strip_prefix(name)?.strip_prefix('=');
        let (cpus, memory, gpus) = (next("cpus").ok_or(())?, next("memory").ok_or(())?, next("gpus").ok_or(())?);
        let memory = if memory == "default" { None } else { Some(memory.parse().map_err(|_| ())?) };
        Ok(Self { cpus: cpus.parse().map_err(|_| ())?, memory, gpus: gpus.parse().map_err(|_| ())? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn class_survives_the_comment_of_a_job() {
        for class in [Class { cpus: 4, memory: Some(8000), gpus: 1 }, Class { cpus: 1, memory: None, gpus: 0 }] {
            assert_eq!(class.to_string().parse(), Ok(class));
        }
        for wrong in ["", "none", "cpus=1", "cpus=x,memory=1,gpus=0", "cpus=1,memory=,gpus=0"] {
            assert_eq!(wrong.parse::<Class>(), Err(()), "{wrong}");
        }
    }

    #[test]
    fn terms_survive_the_name_of_workers() {
        let class = Class { cpus: 4, memory: Some(8000), gpus: 1 };
        for terms in [class, Class { memory: Some(16_000), ..class }] {
            assert_eq!(Class::parse_with_terms(&class.with_terms(&terms)), Some((class, terms)));
        }
        for wrong in ["nightly", "cpus=1,memory=1,gpus=0,has=x"] {
            assert_eq!(Class::parse_with_terms(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn class_becomes_options() {
        let class = Class { cpus: 4, memory: Some(8000), gpus: 2 };
        let site = Site { gpu: "gpu:a100".to_owned(), ..Site::default() };
        let options = class.options(&site, Some(Duration::from_secs(3600)));
        assert_eq!(options, ["--ntasks=1", "--cpus-per-task=4", "--mem=8000M", "--gres=gpu:a100:2", "--time=65"]);
        let site = Site { time: Some(Duration::from_secs(30)), ..Site::default() };
        let class = Class { cpus: 1, memory: None, gpus: 0 };
        assert_eq!(class.options(&site, None), ["--ntasks=1", "--cpus-per-task=1", "--time=1"]);
        assert_eq!(class.words(), "1 CPU");
    }

    #[test]
    fn memory_doubles_up_to_its_limit() {
        let class = Class { cpus: 1, memory: Some(1000), gpus: 0 };
        let grown = class.with_twice_the_memory(1000, None).unwrap();
        assert_eq!(grown.memory, Some(2000));
        assert_eq!(grown.with_twice_the_memory(1000, None).unwrap().memory, Some(4000));
        assert_eq!(Class { memory: Some(4000), ..class }.with_twice_the_memory(1000, None), None);
        assert_eq!(class.with_twice_the_memory(1000, Some(1500 << 20)).unwrap().memory, Some(1500));
        assert_eq!(Class { memory: None, ..class }.with_twice_the_memory(0, None), None);
    }
}
