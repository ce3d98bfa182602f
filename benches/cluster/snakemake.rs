//! Snakemake's executor for Slurm, on the same cluster with the same stages.

use std::fs;
use std::time::Instant;

use super::Outcome;
use super::loopback::Loopback;

/// Runs stages of `sleep 1`. Returns the seconds that it took; `None` without Snakemake.
pub(super) fn run(cluster: &Loopback, stages: u64) -> Outcome<Option<f64>> {
    let Ok(snakemake) = std::env::var("VADPIPE_SNAKEMAKE") else { return Ok(None) };
    let folder = tempfile::tempdir()?;
    fs::write(
        folder.path().join("Snakefile"),
        format!(
            "rule all:\n    input: expand(\"{{n}}.txt\", n=range({stages}))\n\nrule a:\n    output: \"{{n}}.txt\"\n    \
             resources: cpus_per_task=1, mem_mb=500, runtime=5\n    shell: \"sleep 1; echo {{wildcards.n}} > {{output}}\"\n"
        ),
    )?;
    let _settings = Settings::of(cluster)?;
    let begun = Instant::now();
    let mut command = cluster.command(&snakemake);
    command.args(["--executor", "slurm", "--jobs", &stages.to_string()]);
    command.args(["--slurm-no-account", "--default-resources", "slurm_partition=main"]);
    // Its defaults wait for 40 s before the first look, and ask `sacct`, which this cluster does not have.
    command.args(["--slurm-status-command", "squeue", "--slurm-init-seconds-before-status-checks", "5"]);
    command.args(["--seconds-between-status-checks", "5", "--latency-wait", "60"]);
    let output = command.current_dir(folder.path()).output()?;
    if !output.status.success() {
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        let end: Vec<&str> = text.lines().rev().take(20).collect();
        return Err(format!("snakemake failed:\n{}", end.into_iter().rev().collect::<Vec<_>>().join("\n")).into());
    }
    Ok(Some(begun.elapsed().as_secs_f64()))
}

/// The settings of the cluster where Slurm's programs look without SLURM_CONF, which Snakemake removes from the
/// environment of its jobs. Removed on drop.
struct Settings;

const DEFAULT: &str = "/etc/slurm/slurm.conf";

impl Settings {
    fn of(cluster: &Loopback) -> Outcome<Self> {
        fs::create_dir_all("/etc/slurm")?;
        std::os::unix::fs::symlink(cluster.settings(), DEFAULT)?;
        Ok(Self)
    }
}

impl Drop for Settings {
    fn drop(&mut self) {
        let _ = fs::remove_file(DEFAULT);
    }
}
