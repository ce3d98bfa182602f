//! `vadpipe store`: one file per subcommand.

mod doctor;
mod gc;
mod keygen;
mod status;
mod voices;

use clap::{Args, Subcommand};

pub(super) use self::voices::{dissent, object};
use super::ui::Ui;
use crate::error::Result;

/// Arguments of `store`.
#[derive(Args)]
#[command(after_help = "Examples:
  vadpipe store status --store s3://team/x  what the store holds
  vadpipe store doctor -n                   what of it is damaged
  vadpipe store gc --keep-runs 50           free space
  vadpipe store keygen                      make a key to sign with")]
pub(super) struct StoreCommandArgs {
    #[command(subcommand)]
    command: StoreCommand,
}

#[derive(Subcommand)]
enum StoreCommand {
    /// Make a key that signs what this machine pushes
    Keygen(keygen::KeygenArgs),
    /// Count what the store holds, and list results that machines made differently
    Status(status::StatusArgs),
    /// Remove what no recent run needs
    Gc(gc::GcArgs),
    /// Check every record and repair what can be repaired
    Doctor(doctor::DoctorArgs),
}

/// Looks after the shared store.
pub(super) fn store(args: &StoreCommandArgs, ui: &Ui) -> Result<()> {
    match &args.command {
        StoreCommand::Keygen(args) => keygen::keygen(args, ui),
        StoreCommand::Status(args) => status::status(args, ui),
        StoreCommand::Gc(args) => gc::gc(args, ui),
        StoreCommand::Doctor(args) => doctor::doctor(args, ui),
    }
}
