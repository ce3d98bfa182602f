//! `vadpipe accept`.

use std::collections::BTreeSet;

use clap::Args;
use serde_json::json;

use super::args::{Global, PipelineArgs};
use super::project::Project;
use super::ui::Ui;
use crate::error::{Error, Result};
use crate::id::PointId;
use crate::key::Components;
use crate::plan::{Cause, Decision, State, content, differences};

/// Arguments of `accept`.
#[derive(Args)]
#[command(after_help = "Examples:
  vadpipe accept mine.toml net         an edit of train.py changed nothing
  vadpipe accept mine.toml 'net@lr=*'

Says that the edits of files since the newest result of each target change nothing, such as a comment or a print. The \
result, and the states of a training, then count as those of the edited files. `explain` and `show` tell that they were \
accepted. Anything else that changed, such as a parameter, is refused. If you are not sure, run the stage again, or use \
`vadpipe verify` afterwards.")]
pub(super) struct AcceptArgs {
    #[command(flatten)]
    pipeline: PipelineArgs,
}

/// Enters results under the keys that they get by the edits of files.
pub(super) fn accept(args: &AcceptArgs, global: &Global, ui: &Ui) -> Result<()> {
    if args.pipeline.targets.is_empty() {
        let message = "name the stages whose files were edited";
        return Err(Error::bad_input(message).hint("for example: vadpipe accept mine.toml net"));
    }
    let project = Project::open(&args.pipeline, global, ui)?;
    // The targets in the order of the plan. A stage that reads an accepted one has known inputs afterwards.
    let order = project.plan(&BTreeSet::new(), ui)?.decisions.into_iter().map(|decision| decision.point);
    let mut accepted = Vec::new();
    for point in order.filter(|point| project.targets.contains(point)) {
        let plan = project.plan(&BTreeSet::new(), ui)?;
        let Some(decision) = plan.decisions.into_iter().find(|decision| decision.point == point) else { continue };
        if decision.state == State::Hit {
            continue;
        }
        let (files, states) = accept_point(&project, &decision)?;
        let name = project.name(point);
        let of_states = if states > 0 { format!(", and {states} states") } else { String::new() };
        ui.note(&format!("accepted {name}: the result of before the edits of {}{of_states}", files.join(", ")));
        accepted.push(json!({ "name": name, "files": files, "states": states }));
    }
    if ui.json {
        return ui.object(&json!({ "accepted": accepted }));
    }
    if accepted.is_empty() {
        ui.note("nothing to accept: all targets are cached");
    }
    Ok(())
}

/// Accepts the edits for one point. Returns the files, and the number of states.
fn accept_point(project: &Project, decision: &Decision) -> Result<(Vec<String>, usize)> {
    let name = project.name(decision.point);
    let Some(now) = &decision.components else {
        let message = format!("an input of `{name}` would run, so its key is not known yet");
        return Err(Error::bad_input(message).hint("accept the edits of that stage first, or run it"));
    };
    let Some(newest) = project.store.newest(&project.spec.pipeline.name, name)? else {
        return Err(Error::bad_input(format!("`{name}` has no earlier result to accept")).hint("run it"));
    };
    let now = with_files_read(project, decision.point, now, &newest.components)?;
    let causes = differences(&newest.components, &now);
    let files: Vec<String> = causes.iter().filter_map(file).collect();
    if let Some(other) = causes.iter().find(|cause| file(cause).is_none()) {
        let message = format!("`{name}` has another change than edits of files: {other}");
        return Err(Error::bad_input(message).hint("`accept` is for edits that change nothing; run the stage"));
    }
    if files.is_empty() {
        return Err(Error::bad_input(format!("the result of `{name}` is missing or damaged")).hint("run it"));
    }
    let states = project.store.accept(&newest, now, files.clone())?;
    Ok((files, states))
}

/// The file that changed. `None` for another cause, such as a variable of the environment.
fn file(cause: &Cause) -> Option<String> {
    let Cause::File { name } = cause else { return None };
    let (what, name) = content(name);
    (what == "file").then(|| name.to_owned())
}

/// The components with the digests that the files have now which the program of the earlier result read.
fn with_files_read(project: &Project, point: PointId, now: &Components, earlier: &Components) -> Result<Components> {
    let digest = |name: &String| match project.store.digest_now(&project.spec.base.join(name)) {
        Some(digest) => Ok((name.clone(), digest)),
        None => {
            let message = format!("the program of `{}` read `{name}`, which is gone", project.name(point));
            Err(Error::bad_input(message).hint("run the stage"))
        }
    };
    let files_read = earlier.files_read.keys().map(digest).collect::<Result<_>>()?;
    Ok(Components { files_read, ..now.clone() })
}
