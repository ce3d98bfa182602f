//! To be written.

use std::sync::Arc;

use crate::artifact::Artifact;
use crate::stage::{Context, Params, Roles, Stage, StageError, StageKind};

/// The kind `report`.
pub struct Kind;

struct Report;

impl StageKind for Kind {
    fn name(&self) -> &'static str {
        "report"
    }
    fn version(&self) -> u32 {
        1
    }
    fn summary(&self) -> &'static str {
        "one self-contained HTML file: figures, curves, images, scatters"
    }
    fn roles(&self) -> Roles {
        Roles::Any
    }
    fn parse(&self, _params: &mut Params<'_>) -> Arc<dyn Stage> {
        Arc::new(Report)
    }
}

impl Stage for Report {
    fn run(&self, _context: &Context<'_>) -> Result<Artifact, StageError> {
        Ok(Artifact::default())
    }
}
