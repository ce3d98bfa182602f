//! `vadpipe store keygen`.

use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::PathBuf;

use clap::Args;
use serde_json::json;

use crate::cli::config::Config;
use crate::cli::ui::Ui;
use crate::error::{Error, Result};
use crate::shared::SecretKey;

/// Arguments of `store keygen`.
#[derive(Args)]
#[command(after_help = "The public key, which is printed, goes into the configuration of those who trust this machine:
  [store.trusted]
  alice = \"ed25519:…\"")]
pub(super) struct KeygenArgs {
    /// The file of the secret key [default: vadpipe.key beside the configuration]
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

/// Makes a key. An existing one is not replaced.
pub(super) fn keygen(args: &KeygenArgs, ui: &Ui) -> Result<()> {
    let config = Config::load()?;
    let path = args.out.clone().or_else(|| config.default_key_file());
    let path = path
        .ok_or_else(|| Error::bad_input("can't find a folder for the key: HOME is not set").hint("give --out FILE"))?;
    let key = SecretKey::generate()?;
    let failed = |error: std::io::Error| match error.kind() {
        std::io::ErrorKind::AlreadyExists => Error::bad_input(format!("{} exists", path.display()))
            .hint("it is not replaced; give another file with --out, or remove it"),
        _ => Error::bad_input(format!("can't write {}", path.display())).caused_by(error),
    };
    path.parent().map_or(Ok(()), fs::create_dir_all).map_err(failed)?;
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path).map_err(failed)?;
    file.write_all(key.secret_text().as_bytes()).and_then(|()| file.sync_all()).map_err(failed)?;
    let is_used = config.key_file().is_some_and(|used| used == path);
    if ui.json {
        let public = key.public().to_string();
        return ui.object(&json!({ "file": path.display().to_string(), "public": public, "used": is_used }));
    }
    ui.note(&format!("the secret key is in {}; keep it to yourself", path.display()));
    if !is_used {
        ui.note(&format!(
            "to sign with it, set `key = {:?}` under [store] in the configuration",
            path.display().to_string()
        ));
    }
    ui.out(&key.public().to_string());
    Ok(())
}
