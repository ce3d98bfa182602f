//! The runner's own cost: no-ops, plans and trivial stages by the thousand. `cargo bench --bench runner`.
//!
//! This program is also a `vadpipe` with one more stage kind, `trivial`, as a crate of a user's would be: with `--vadpipe`
//! first, the rest is `vadpipe`'s command line. Every whole-process figure is one of such a process.

use std::process::ExitCode;
use std::sync::Arc;

use vadpipe::artifact::Artifact;
use vadpipe::stage::{Bound, Context, Params, Registry, Roles, Stage, StageError, StageKind};

/// A stage that costs nothing: it adds its inputs' numbers to its own.
struct Trivial;

impl StageKind for Trivial {
    fn name(&self) -> &'static str {
        "trivial"
    }
    fn version(&self) -> u32 {
        1
    }
    fn summary(&self) -> &'static str {
        "a number"
    }
    fn roles(&self) -> Roles {
        Roles::Any
    }
    fn parse(&self, params: &mut Params<'_>) -> Arc<dyn Stage> {
        Arc::new(Number(params.float("n", 0.0, Bound::Finite)))
    }
}

struct Number(f64);

impl Stage for Number {
    fn run(&self, context: &Context<'_>) -> Result<Artifact, StageError> {
        let inputs = context.inputs.0.values().flatten();
        let sum: f64 = inputs.filter_map(|i| i.manifest().metrics.get("n")).sum();
        let mut artifact = Artifact::default();
        artifact.metrics.insert("n".into(), self.0 + sum);
        Ok(artifact)
    }
}

fn kinds() -> Registry {
    let mut registry = vadpipe::stages::builtin();
    registry.register(Trivial);
    registry
}

fn main() -> ExitCode {
    let mut args: Vec<_> = std::env::args_os().collect();
    if args.get(1).is_some_and(|a| a == "--vadpipe") {
        args.remove(1);
        return vadpipe::cli::main_with(kinds(), args);
    }
    ExitCode::SUCCESS
}
