//! `vadpipe store`: one file per subcommand.

mod keygen;

use clap::{Args, Subcommand};

use super::ui::Ui;
use crate::error::Result;

/// Arguments of `store`.
#[derive(Args)]
pub(super) struct StoreCommandArgs {
    #[command(subcommand)]
    command: StoreCommand,
}

#[derive(Subcommand)]
enum StoreCommand {
    /// Make a key that signs what this machine pushes
    Keygen(keygen::KeygenArgs),
}

/// Looks after the shared store.
pub(super) fn store(args: &StoreCommandArgs, ui: &Ui) -> Result<()> {
    match &args.command {
        StoreCommand::Keygen(args) => keygen::keygen(args, ui),
    }
}
