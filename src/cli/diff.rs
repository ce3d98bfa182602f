//! `vadpipe diff`: two runs, two points or stages of a pipeline, or two pipelines.

mod pictures;
mod sides;

use std::path::{Path, PathBuf};

use clap::Args;
use clap_complete::engine::ArgValueCompleter;

use self::sides::{Side, compare, pair_up};
use super::completion;
use super::project::{Project, open_store};
use super::ui::{DIM, Ui, figure, paint, table};
use super::{Global, PipelineArgs};
use crate::error::{Error, Result};
use crate::exec::replace_file;
use crate::report::{Comparison, Pair, comparison};
use crate::store::Store;

/// Arguments of `diff`.
#[derive(Args)]
#[command(after_help = "Examples:
  vadpipe diff 20261122-10 last                      two runs, by id, or the newest
  vadpipe diff last~1 last                           the newest run and the one before it
  vadpipe diff pipelines/sweep.toml ad@lr=0.001,latent_dim=8 ad@lr=0.003,latent_dim=8
  vadpipe diff pipelines/full.toml ad vad --html diff.html
  vadpipe diff old.toml new.toml                     points added, removed and changed
  vadpipe diff old.toml new.toml --json

Points of two stages are compared where their axes have the same values. Of two files, points are compared by what makes
their keys, whether or not anything of them ever ran; metrics are shown where both results are in the cache. The exit code
is 0 whether or not anything differs.")]
pub(super) struct DiffArgs {
    /// Two runs, two pipeline files, or a pipeline file and two of its stages or points
    #[arg(value_name = "[FILE] A B", num_args = 2..=3, required = true,
        add = ArgValueCompleter::new(completion::compared))]
    what: Vec<String>,
    /// Set a value in the files before they are read, as in `run`
    #[arg(short = 'S', long = "set", value_name = "PATH=VALUE")]
    set: Vec<String>,
    /// Write a page with parameters, metrics, curves and images side by side
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
}

/// Compares.
pub(super) fn diff(args: &DiffArgs, global: &Global, ui: &Ui) -> Result<()> {
    let store = open_store(global, ui)?;
    let (mut found, sides) = question(args, global, ui, &store)?;
    store.warnings().iter().for_each(|warning| ui.warn(warning));
    if let Some(path) = &args.html {
        let left_out = pictures::add(&store, &mut found, &sides)?;
        if left_out > 0 {
            ui.note(&format!("images of {left_out} points are left out: name fewer to see them"));
        }
        let written = replace_file(path, comparison(&found).as_bytes());
        written.map_err(|e| Error::storage(format!("can't write {}", path.display())).caused_by(e))?;
        ui.note(&format!("wrote {}", path.display()));
    }
    if ui.json {
        return ui.object(&found);
    }
    ui.text(&text(&found));
    Ok(())
}

/// What is asked, by how the words look: a file is one that is there, or ends in `.toml`.
fn question(args: &DiffArgs, global: &Global, ui: &Ui, store: &Store) -> Result<(Comparison, Vec<[Side; 2]>)> {
    let is_file = |text: &String| Path::new(text).is_file() || text.ends_with(".toml");
    let open = |file: &String, targets: &[&String]| {
        let targets = targets.iter().map(|t| (*t).clone()).collect();
        let pipeline = PipelineArgs { file: PathBuf::from(file), targets, set: args.set.clone(), device: None };
        Project::open(&pipeline, global, ui)
    };
    match args.what.as_slice() {
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
            let (first, second) = (sides::run(store, a)?, sides::run(store, b)?);
            let facts = sides::run_facts(&first, &second);
            let sides = |run| sides::of_run(store, run);
            let title = |id: &str| format!("run {id}");
            Ok(compare(&title(&first.id), &title(&second.id), facts, sides(&first)?, sides(&second)?))
        }
        _ => {
            let hint = "give two runs, two pipeline files, or a pipeline file and two of its stages or points";
            Err(Error::bad_input("one of these is a pipeline file and the other is none").hint(hint))
        }
    }
}

fn text(found: &Comparison) -> String {
    let mut parts = Vec::new();
    let rows = |changes: &[crate::report::Change]| -> Vec<Vec<String>> {
        let word = |value: &Option<String>| value.clone().unwrap_or_else(|| "unset".to_owned());
        changes.iter().map(|c| vec![format!("  {}", c.name), word(&c.a), word(&c.b)]).collect()
    };
    // Of two points there is one pair, whose own line says the same.
    if found.changed.iter().all(|pair| pair.title() != found.title()) {
        parts.push(found.title());
    }
    if !found.facts.is_empty() {
        parts.push(columns(rows(&found.facts)));
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
            Some(true) => "the same bytes",
            Some(false) => "other bytes",
            None => "not both in the cache",
        };
        let title = format!("{}  {}", pair.title(), paint(DIM, &format!("({output})")));
        parts.push(if lines.is_empty() { title } else { format!("{title}\n{}", columns(lines)) });
    }
    match found.same.as_slice() {
        [] => {}
        [only] => parts.push(format!("the same: {only}")),
        several if several.len() <= 6 => parts.push(format!("the same: {}", several.join(", "))),
        several => parts.push(format!("the same: {} points", several.len())),
    }
    parts.join("\n")
}

/// The metrics that differ, with the difference.
fn metrics(pair: &Pair) -> Vec<Vec<String>> {
    let differing = pair.metrics.iter().filter(|m| m.a != m.b);
    let word = |v: Option<f64>| v.map_or_else(|| "none".to_owned(), figure);
    let row = |m: &crate::report::Figure| {
        let by = m.a.zip(m.b).map(|(a, b)| b - a);
        let by = by.map(|by| format!("({}{})", if by > 0.0 { "+" } else { "" }, figure(by)));
        vec![format!("  {}", m.name), word(m.a), word(m.b), by.unwrap_or_default()]
    };
    differing.map(row).collect()
}

/// Rows with an arrow between the second and the third column.
fn columns(mut rows: Vec<Vec<String>>) -> String {
    for row in &mut rows {
        row.insert(2, "→".to_owned());
    }
    let text = table(&["", "", "", "", ""], &rows);
    // The header is empty.
    text.split_once('\n').map(|(_, rows)| rows.to_owned()).unwrap_or_default()
}
