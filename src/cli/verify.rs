//! `vadpipe verify`.

use std::path::PathBuf;
use std::sync::Arc;

use clap::Args;
use serde_json::{Value, json};

use super::patience::{Attentive, Patience};
use super::project::{Project, data_dirs};
use super::run::{STOPPING, start_threads, stop_on_signals};
use super::ui::{GREEN, RED, Ui, paint};
use super::{Global, PipelineArgs};
use crate::error::{Category, Error, Result};
use crate::exec::{self, Sample, Sampled, Verification};
use crate::id::PointId;
use crate::stage::Cancel;

/// Arguments of `verify`.
#[derive(Args)]
#[command(after_help = "Examples:
  vadpipe verify pipelines/quickstart.toml ad                      the whole stage
  vadpipe verify pipelines/full.toml ad --sample 2                 two stretches between stored states
  vadpipe verify pipelines/full.toml ad --sample 2 --seed 12345    the same two again

Each target that is cached runs again, from its cached inputs, without the cache; then the bytes are compared: exit code 3
and the first tensor that differs if they do. `--sample` re-trains only stretches of a training: each begins at a stored
state (or at the start) and ends at the next, with which it is compared; `keep` and `keep_every` store more. Targets that
are no trainings run as a whole.")]
pub(super) struct VerifyArgs {
    #[command(flatten)]
    pipeline: PipelineArgs,
    /// Of each training, only so many stretches between stored states, picked at random
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    sample: Option<u32>,
    /// Picks the stretches [default: another one each time; it is printed]
    #[arg(long, value_name = "SEED", requires = "sample")]
    seed: Option<i64>,
    /// Threads of a training [default: number of cores]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    threads: Option<u16>,
    /// A folder to look for data sets in, before that in VADPIPE_DATA_DIR and the user's cache folder
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
}

/// Runs stages again and compares.
pub(super) fn verify(args: &VerifyArgs, global: &Global, ui: &Ui) -> Result<()> {
    let threads = start_threads(args.threads)?;
    let watch = ui.watch_errors();
    let cancel = Cancel::default();
    let says = Arc::clone(&watch);
    stop_on_signals(&cancel, move || says.say(STOPPING))?;
    let patience = Patience::new(&cancel, global.no_wait);
    let listener = Attentive { patience: &patience, listener: &*watch };
    again(args, global, ui, threads, &cancel, &patience, &listener).map_err(|e| patience.explain(e))
}

fn again(
    args: &VerifyArgs,
    global: &Global,
    ui: &Ui,
    threads: usize,
    cancel: &Cancel,
    patience: &Patience,
    listener: &Attentive<'_>,
) -> Result<()> {
    let project = Project::open_to_run(&args.pipeline, global, ui, patience)?;
    let results = project.all_results(ui)?;
    let points: Vec<PointId> = results.iter().map(|(point, _)| *point).collect();
    let seed = args.seed.unwrap_or_else(|| jiff::Timestamp::now().as_microsecond() % 1_000_000);
    let sample = args.sample.map(|n| Sample { count: n as usize, seed });
    if sample.is_some() {
        ui.note(&format!("stretches are picked with --seed {seed}"));
    }
    let data_dirs = data_dirs(args.data_dir.as_ref());
    let context = project.context(&data_dirs, threads, cancel, listener);
    let found = exec::verify(&context, &points, sample)?;
    let differing = found.iter().filter(|v| v.difference.is_some()).count();
    if ui.json {
        let seed = sample.map(|s| s.seed);
        ui.object(&json!({ "seed": seed, "stages": found.iter().map(object).collect::<Vec<_>>() }))?;
    } else {
        ui.text(&found.iter().map(line).collect::<Vec<_>>().join("\n"));
        if let Some(sample) = sample {
            found.iter().filter_map(|v| shortage(v, sample)).for_each(|text| ui.warn(&text));
        }
    }
    if differing > 0 {
        let message = format!("{differing} of {} stages came out differently", found.len());
        return Err(Error::new(Category::Differs, message));
    }
    Ok(())
}

fn object(verification: &Verification) -> Value {
    let Verification { name, difference, sampled } = verification;
    json!({ "name": name, "same": difference.is_none(), "difference": difference, "sampled": sampled })
}

fn line(verification: &Verification) -> String {
    let Verification { name, difference, sampled } = verification;
    let Some(sampled) = sampled else {
        return match difference {
            None => format!("{}    {name}", paint(GREEN, "same")),
            Some(difference) => format!("{} {name}: {difference}", paint(RED, "differs")),
        };
    };
    let lines = sampled.stretches.iter().map(|stretch| {
        let epochs = format!("{name} from epoch {} to {} of {}", stretch.from, stretch.to, sampled.total);
        match &stretch.difference {
            None => format!("{}    {epochs}", paint(GREEN, "same")),
            Some(difference) => format!("{} {epochs}: {difference}", paint(RED, "differs")),
        }
    });
    lines.collect::<Vec<_>>().join("\n")
}

/// What to say where there are fewer stretches than were asked for.
fn shortage(verification: &Verification, sample: Sample) -> Option<String> {
    let Sampled { states, total, .. } = verification.sampled.as_ref()?;
    let name = &verification.name;
    if let [only] = states.as_slice() {
        let whole = if only == total { "the whole training" } else { "its beginning" };
        return Some(format!(
            "`{name}` has one stored state, after epoch {only}: {whole} was run again; `keep_every` stores more"
        ));
    }
    if states.len() >= sample.count {
        return None;
    }
    let states: Vec<_> = states.iter().map(ToString::to_string).collect();
    Some(format!(
        "`{name}` has no more than {} stretches: states are stored after epochs {}; `keep_every` stores more",
        states.len(),
        states.join(", ")
    ))
}
