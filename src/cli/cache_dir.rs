//! Finds the cache of a command.

use std::path::{Path, PathBuf};

/// The name of a cache that the command line does not name.
const NAME: &str = "cache";

/// The cache folder. It may not exist yet.
///
/// `given` is the value of `--cache` or `VADPIPE_CACHE`. Without it, `./cache` is used if it is a cache. Otherwise the
/// cache is searched for in the folder of the pipeline and upwards, as git searches for `.git`. A command without a
/// pipeline searches from the current folder. If none is found, the cache is `./cache`.
pub(super) fn cache_dir(given: Option<&Path>, pipeline: Option<&Path>) -> PathBuf {
    let here = PathBuf::from(NAME);
    match given {
        Some(given) => given.to_owned(),
        None if is_cache(&here) => here,
        None => above(pipeline.map_or(Path::new("."), folder)).unwrap_or(here),
    }
}

/// The option with which a command without a pipeline that is started here uses this cache. Empty if it needs none.
pub(super) fn cache_option(dir: &Path) -> String {
    let variable = std::env::var_os("VADPIPE_CACHE").map(PathBuf::from);
    let found = cache_dir(variable.as_deref(), None);
    let same =
        found == dir || found.canonicalize().ok().is_some_and(|found| dir.canonicalize().is_ok_and(|d| d == found));
    let dir = dir.display().to_string();
    if same { String::new() } else { format!(" --cache {}", shlex::try_quote(&dir).unwrap_or(dir.as_str().into())) }
}

/// Whether a folder is a cache, perhaps one that lost its FORMAT, which the store then restores.
pub(super) fn is_cache(dir: &Path) -> bool {
    ["FORMAT", "index/journal"].iter().any(|name| dir.join(name).is_file())
}

/// The first cache in this folder and those above it.
fn above(folder: &Path) -> Option<PathBuf> {
    // The parents of a path with links or `..` are not those of the folder.
    let folder = folder.canonicalize().ok()?;
    folder.ancestors().map(|folder| folder.join(NAME)).find(|dir| is_cache(dir))
}

fn folder(file: &Path) -> &Path {
    match file.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    }
}
