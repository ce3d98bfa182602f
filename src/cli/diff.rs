//! `vadpipe diff`: compares two runs, two points or stages of a pipeline, or two pipelines.

mod pictures;
mod sides;

use std::path::{Path, PathBuf};

use clap::Args;
use clap_complete::engine::ArgValueCompleter;

use self::sides::{Side, compare, pair_up};
use super::args::{Global, PipelineArgs};
use super::cache_dir::cache_dir;
use super::completion;
use super::project::{Project, open_store};
use super::results::{self, EarlierArgs, find_run};
use super::ui::{DIM, Ui, columns, figure, paint};
use crate::error::{Error, Result};
use crate::file;
use crate::report::{Change, Comparison, Figure, Pair, comparison};
use crate::store::Store;

/// Arguments of `diff`.
#[derive(Args)]
#[command(after_help = "Examples:
  vadpipe diff 20261122-10 last         compare a run with the newest one
  vadpipe diff last~1 last              compare the newest two runs
  vadpipe diff sweep.toml ad@lr=0.001 ad@lr=0.003
  vadpipe diff full.toml ad vad --html diff.html
  vadpipe diff old.toml new.toml        list added, removed and changed points
  vadpipe diff old.toml new.toml --json
  vadpipe diff full.toml --run last~1   what changed since that run
  vadpipe diff full.toml ad --before    what changed in the newest result

Points of two stages are paired if their axes have the same values. Points of two files are compared by the parts of their \
keys, so they need not have run; metrics are shown if both results are cached. The exit code is 0 even if there are \
differences.")]
pub(super) struct DiffArgs {
    /// Two runs, two pipeline files, or a pipeline file and two of its stages or points; with --run or --before, a
    /// pipeline file and any stages or points
    #[arg(value_name = "[FILE] A B", num_args = 1.., required = true,
        add = ArgValueCompleter::new(completion::compared))]
    what: Vec<String>,
    /// Set a value before the files are read, as in `run`
    #[arg(short = 'S', long = "set", value_name = "PATH=VALUE")]
    set: Vec<String>,
    #[command(flatten)]
    earlier: EarlierArgs,
    /// Write an HTML page with parameters, metrics, curves and images side by side
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
}

/// Prints the differences.
pub(super) fn diff(args: &DiffArgs, global: &Global, ui: &Ui) -> Result<()> {
    // Both sides come from one cache.
    let file = args.what.first().filter(|first| is_file(first)).map(Path::new);
    let global = &Global { cache: Some(cache_dir(global.cache.as_deref(), file)), ..global.clone() };
    let store = open_store(global, ui)?;
    let (mut found, sides) = question(args, global, ui, &store)?;
    store.warnings().iter().for_each(|warning| ui.warn(warning));
    if let Some(path) = &args.html {
        let left_out = pictures::add(&store, &mut found, &sides)?;
        if left_out > 0 {
            ui.note(&format!("the page has no images of {left_out} more points: compare fewer to see them"));
        }
        let written = file::replace(path, comparison(&found).as_bytes());
        written.map_err(|e| Error::storage(format!("can't write {}", path.display())).caused_by(e))?;
        ui.note(&format!("wrote {}", path.display()));
    }
    if ui.json {
        return ui.object(&found);
    }
    ui.text(&text(&found, ui.width()));
    Ok(())
}

/// Whether an argument is a pipeline file.
fn is_file(text: &str) -> bool {
    Path::new(text).is_file() || text.ends_with(".toml")
}

/// Compares what the arguments name.
fn question(args: &DiffArgs, global: &Global, ui: &Ui, store: &Store) -> Result<(Comparison, Vec<[Side; 2]>)> {
    let pipeline = |file: &String, targets: &[&String]| {
        let targets = targets.iter().map(|t| (*t).clone()).collect();
        PipelineArgs { file: PathBuf::from(file), targets, set: args.set.clone(), device: None }
    };
    let open = |file: &String, targets: &[&String]| Project::open(&pipeline(file, targets), global, ui);
    match args.what.as_slice() {
        [file, targets @ ..] if args.earlier.is_given() && is_file(file) => {
            let targets: Vec<&String> = targets.iter().collect();
            earlier(&pipeline(file, &targets), args, global, ui)
        }
        _ if args.earlier.is_given() => Err(Error::bad_input("--run and --before need a pipeline file")),
        [file, a, b] => {
            let project = open(file, &[a, b])?;
            let points = |target: &String| project.graph.targets(std::slice::from_ref(target));
            let all = sides::of_project(&project, ui)?;
            let pick = |target| -> Result<Vec<Side>> {
                Ok(points(target)?.into_iter().filter_map(|p| all.get(&p).cloned()).collect())
            };
            Ok(pair_up(a, b, pick(a)?, pick(b)?))
        }
        [a, b] if is_file(a) && is_file(b) => {
            let (first, second) = (open(a, &[])?, open(b, &[])?);
            let facts = sides::headers(&first, &second);
            let sides = |project| -> Result<Vec<Side>> { Ok(sides::of_project(project, ui)?.into_values().collect()) };
            Ok(compare(a, b, facts, sides(&first)?, sides(&second)?))
        }
        [a, b] if !is_file(a) && !is_file(b) => {
            let (first, second) = (find_run(store, a)?, find_run(store, b)?);
            let facts = sides::run_facts(&first, &second);
            let sides = |run| sides::of_run(store, run, &global.kinds.0);
            let title = |id: &str| format!("run {id}");
            Ok(compare(&title(&first.id), &title(&second.id), facts, sides(&first)?, sides(&second)?))
        }
        what => {
            let hint = "give two runs, two pipeline files, or a pipeline file and two of its stages or points";
            let message = match what {
                [_, _] => "can't compare a pipeline file with something that isn't one",
                _ => "`diff` compares two things",
            };
            Err(Error::bad_input(message).hint(hint))
        }
    }
}

/// Compares the results of an earlier run with those of the pipeline as it is, or the newest results with those before.
fn earlier(pipeline: &PipelineArgs, args: &DiffArgs, global: &Global, ui: &Ui) -> Result<(Comparison, Vec<[Side; 2]>)> {
    let (project, found) = results::open(pipeline, &args.earlier, global, ui)?;
    found.check(ui)?;
    let kinds = &global.kinds.0;
    let first = sides::of_results(found, kinds);
    if let Some(id) = &args.earlier.run {
        let second = sides::of_plan(&project, &pipeline.targets, ui)?;
        return Ok(compare(&format!("run {id}"), "now", Vec::new(), first, second));
    }
    let mut second = sides::of_results(results::newest(&project)?, kinds);
    second.retain(|side| first.iter().any(|other| other.name == side.name));
    Ok(compare("before", "newest", Vec::new(), first, second))
}

fn text(found: &Comparison, width: Option<usize>) -> String {
    let mut parts = Vec::new();
    let rows = |changes: &[Change]| -> Vec<Vec<String>> {
        let word = |value: &Option<String>| value.clone().unwrap_or_else(|| "unset".to_owned());
        changes.iter().map(|c| vec![format!("  {}", c.name), word(&c.a), word(&c.b)]).collect()
    };
    // The line of a single pair of points is the same as the title.
    if found.changed.iter().all(|pair| pair.title() != found.title()) {
        parts.push(found.title());
    }
    if !found.facts.is_empty() {
        parts.push(with_arrows(rows(&found.facts), width));
    }
    for (what, points) in [(&found.a, &found.only_a), (&found.b, &found.only_b)] {
        if !points.is_empty() {
            parts.push(format!("only in {what}: {}", points.join(", ")));
        }
    }
    for pair in &found.changed {
        let mut lines = rows(&pair.parameters);
        lines.extend(metrics(pair));
        let output = match pair.same_output {
            Some(true) => "same output",
            Some(false) => "different output",
            None => "not both in the cache",
        };
        let title = format!("{}  {}", pair.title(), paint(DIM, &format!("({output})")));
        parts.push(if lines.is_empty() { title } else { format!("{title}\n{}", with_arrows(lines, width)) });
    }
    match found.same.as_slice() {
        [] => {}
        [only] => parts.push(format!("unchanged: {only}")),
        several if several.len() <= 6 => parts.push(format!("unchanged: {}", several.join(", "))),
        several => parts.push(format!("unchanged: {} points", several.len())),
    }
    parts.join("\n")
}

/// The metrics that differ, with the difference.
fn metrics(pair: &Pair) -> Vec<Vec<String>> {
    let differing = pair.metrics.iter().filter(|m| m.differs());
    let word = |v: Option<f64>| v.map_or_else(|| "none".to_owned(), figure);
    let row = |m: &Figure| {
        let by = m.difference().map(|by| format!("({}{})", if by > 0.0 { "+" } else { "" }, figure(by)));
        vec![format!("  {}", m.name), word(m.a), word(m.b), by.unwrap_or_default()]
    };
    differing.map(row).collect()
}

/// Rows with an arrow between the second and the third column.
fn with_arrows(mut rows: Vec<Vec<String>>, width: Option<usize>) -> String {
    rows.iter_mut().for_each(|row| row.insert(2, "→".to_owned()));
    columns(&rows, width)
}
