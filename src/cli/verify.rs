//! `vadpipe verify`.

use std::collections::BTreeSet;
use std::path::PathBuf;

use clap::Args;
use serde_json::{Value, json};

use super::args::{Global, PipelineArgs};
use super::cache_wait::{CacheWait, StartListener};
use super::project::{Project, data_dirs};
use super::session::Session;
use super::shared::{StoreWriteArgs, print_warnings};
use super::store;
use super::ui::{GREEN, RED, Ui, Watch, paint};
use crate::error::{Category, Error, Result};
use crate::exec::{self, RunContext, Sample, Sampled, Verification, fill};
use crate::id::PointId;
use crate::shared::{SharedStore, Voices};
use crate::store::{EpochRange, Finding, ResultRecord};

/// Arguments of `verify`.
#[derive(Args)]
#[command(after_help = "Examples:
  vadpipe verify quickstart.toml ad                  verify a whole stage
  vadpipe verify full.toml ad --sample 2             verify two stretches
  vadpipe verify full.toml ad --sample all           verify all stretches
  vadpipe verify full.toml ad --sample 2 --seed 123  verify the same two again

Runs each cached target again from its cached inputs, without the cache, and compares the bytes. If they differ, prints the \
first tensor that differs and exits with code 3. With --sample, a training is verified in stretches: each starts at a \
stored state (or at epoch 0), ends at the next one and is compared with it. `keep` and `keep_every` store more states. \
Other targets run as a whole. For a training program, also checks whether its state is complete: one process trains the \
epochs of the first two segments, or of two segments at each stretch, and must end with the same state as two processes.

With --store, results that the cache lacks are taken from the shared store, and other machines' words about the targets \
are shown. With --store-write, this machine adds its own word: whether it made the same bytes.

`plan`, `explain`, `status` and the report of a run show what was found.")]
pub(super) struct VerifyArgs {
    #[command(flatten)]
    pipeline: PipelineArgs,
    #[command(flatten)]
    store: StoreWriteArgs,
    /// Verify N random stretches of each training, or `all`, instead of the whole
    #[arg(long, value_name = "N", value_parser = sample_count)]
    sample: Option<usize>,
    /// Selects the stretches [default: a new seed each time, which is printed]
    #[arg(long, value_name = "SEED", requires = "sample")]
    seed: Option<i64>,
    /// Threads of a training [default: number of cores]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    threads: Option<u16>,
    /// A folder with data sets; it is searched before VADPIPE_DATA_DIR and the user's cache folder
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
}

/// Runs stages again and compares the results with the cached ones.
pub(super) fn verify(args: &VerifyArgs, global: &Global, ui: &Ui) -> Result<()> {
    let session = Session::start(args.threads, Watch::of_errors(ui))?;
    let cache_wait = CacheWait::new(&session.cancel, global.no_wait);
    compare(args, global, ui, &session, &cache_wait).map_err(|e| cache_wait.explain(e))
}

fn compare(args: &VerifyArgs, global: &Global, ui: &Ui, session: &Session, cache_wait: &CacheWait) -> Result<()> {
    let project = Project::open_to_run(&args.pipeline, global, ui, cache_wait)?;
    let data_dirs = data_dirs(args.data_dir.as_ref());
    let listener = StartListener { cache_wait, listener: &*session.watch };
    let shared = args.store.open()?;
    let context = project.context(&data_dirs, session.threads, &session.cancel, &listener);
    let context = RunContext { shared: shared.as_ref(), ..context };
    let none = BTreeSet::new();
    let planner = project.planner(&none);
    let (_, filled) = fill(&context, &planner, &|| planner.plan(&project.wanted))?;
    filled.warnings.iter().for_each(|warning| ui.warn(warning));
    let results = project.all_results(ui)?;
    let points: Vec<PointId> = results.iter().map(|(point, _)| *point).collect();
    let seed = args.seed.unwrap_or_else(|| jiff::Timestamp::now().as_microsecond() % 1_000_000);
    let sample = args.sample.map(|count| Sample { count, seed });
    if sample.is_some_and(|sample| sample.count < ALL) {
        ui.note(&format!("stretches selected with --seed {seed}"));
    }
    let found = exec::verify(&context, &points, sample)?;
    let voices = match &shared {
        Some(shared) => voices(shared, &found, &results, ui),
        None => Vec::new(),
    };
    let differing = found.iter().filter(|v| differs(v)).count();
    if ui.json {
        let seed = sample.map(|s| s.seed);
        let voices: Vec<_> = voices.iter().map(store::object).collect();
        let stages: Vec<_> = found.iter().map(object).collect();
        ui.object(&json!({ "seed": seed, "stages": stages, "voices": voices }))?;
    } else {
        ui.text(&found.iter().map(line).collect::<Vec<_>>().join("\n"));
        voices.iter().for_each(|voices| ui.text(&store::dissent(voices)));
        found.iter().filter_map(completeness).for_each(|text| ui.warn(&text));
        if let Some(sample) = sample {
            found.iter().filter_map(|v| shortage(v, sample)).for_each(|text| ui.warn(&text));
        }
    }
    if differing > 0 {
        return Err(Error::new(Category::Differs, format!("{differing} of {} stages differ", found.len())));
    }
    Ok(())
}

/// Tells the shared store what was made again, if this machine may write to it, and returns what all machines say.
fn voices(shared: &SharedStore, found: &[Verification], results: &[(PointId, ResultRecord)], ui: &Ui) -> Vec<Voices> {
    if shared.is_given_up() {
        return Vec::new();
    }
    let results: Vec<ResultRecord> = results.iter().map(|(_, record)| record.clone()).collect();
    let mut again = found.iter().filter_map(|verification| verification.again.as_ref());
    let told = if shared.writes() { again.try_for_each(|again| shared.attest(again)) } else { Ok(()) };
    let voices = told.and_then(|()| shared.voices(&results));
    print_warnings(shared, ui);
    match voices {
        Ok(voices) => voices.into_iter().flatten().collect(),
        Err(error) => {
            ui.warn(&format!("{error}; what other machines say is unknown"));
            Vec::new()
        }
    }
}

/// Whether the exit code says so. An incomplete state changes no result if each process trains one segment.
fn differs(Verification { difference, verdict, .. }: &Verification) -> bool {
    difference.is_some() || verdict.finding == Finding::StateIncomplete && verdict.warm
}

fn object(verification: &Verification) -> Value {
    let Verification { name, difference, sampled, program, verdict, .. } = verification;
    let same = difference.is_none();
    json!({
        "name": name, "same": same, "difference": difference, "sampled": sampled, "program": program,
        "finding": verdict.finding,
    })
}

fn line(verification: &Verification) -> String {
    let Verification { name, difference, sampled, program, verdict, .. } = verification;
    let Some(sampled) = sampled else {
        let epoch = program.as_ref().and_then(|program| program.epoch);
        let from = epoch.map(|epoch| format!(" from epoch {epoch} on")).unwrap_or_default();
        return match (difference, program) {
            (None, _) => format!("{}    {name}", paint(GREEN, "same")),
            (Some(difference), Some(_)) if verdict.finding == Finding::NotReproducible => {
                format!("{} {name}: the program is not reproducible{from}: {difference}", paint(RED, "differs"))
            }
            (Some(difference), _) => format!("{} {name}{from}: {difference}", paint(RED, "differs")),
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

/// A warning if the state of a training program is incomplete, or was not checked.
fn completeness(verification: &Verification) -> Option<String> {
    let Verification { name, verdict, program, .. } = verification;
    if verdict.finding == Finding::Exact && program.as_ref().is_some_and(|program| program.compared.is_none()) {
        return Some(format!("`{name}` has fewer than two full segments, so its state was not checked"));
    }
    let incomplete = verdict.difference.as_ref().filter(|_| verdict.finding == Finding::StateIncomplete)?;
    let epochs = match verdict.pairs.first() {
        Some(EpochRange { from: 0, to }) => format!("the first {to} epochs"),
        Some(range) => format!("epochs {range}"),
        None => "the epochs".to_owned(),
    };
    let (one, two) = if verdict.warm { ("two processes train", "one") } else { ("one process trains", "two") };
    let matters = match verdict.warm {
        true => {
            "So its result depends on where the training was interrupted or extended: save and restore everything, or \
             remove `warm = true`"
        }
        false => "So its results depend on `segment_epochs`, but not on interruptions",
    };
    Some(format!(
        "the state of `{name}` is incomplete: if {one} {epochs} instead of {two}, {incomplete}. The program remembers \
         something that it does not save, such as a learning-rate scheduler or a random generator. {matters}"
    ))
}

/// The number of stretches that `--sample all` asks for.
const ALL: usize = usize::MAX;

fn sample_count(text: &str) -> std::result::Result<usize, String> {
    match text {
        "all" => Ok(ALL),
        _ => text.parse().ok().filter(|count| *count > 0).ok_or_else(|| "not a positive number, or `all`".to_owned()),
    }
}

/// A warning if the training has fewer stretches than were requested.
fn shortage(verification: &Verification, sample: Sample) -> Option<String> {
    let Sampled { states, total, .. } = verification.sampled.as_ref()?;
    let name = &verification.name;
    if let [only] = states.as_slice() {
        let whole = if only == total { "the whole training" } else { "the epochs before it" };
        return Some(format!(
            "`{name}` has one stored state, after epoch {only}: {whole} ran again; `keep_every` stores more"
        ));
    }
    if states.len() >= sample.count || sample.count == ALL {
        return None;
    }
    let states: Vec<_> = states.iter().map(ToString::to_string).collect();
    Some(format!(
        "`{name}` has no more than {} stretches: states are stored after epochs {}; `keep_every` stores more",
        states.len(),
        states.join(", ")
    ))
}
