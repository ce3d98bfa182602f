//! Loads a page in headless Chromium and says what its console says.

use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// What a browser made of a page.
pub(crate) struct Page {
    /// The document after its scripts ran.
    pub(crate) dom: String,
    /// What the console said: empty if all is well.
    pub(crate) complaints: Vec<String>,
}

/// Loads a file. None if there is no Chromium in `PATH`; CI installs one.
pub(crate) fn load(file: &Path) -> io::Result<Option<Page>> {
    let Some(browser) = find() else { return Ok(None) };
    let profile = tempfile::tempdir()?;
    let output = Command::new(browser)
        .args(["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--disable-quic"])
        .args(["--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync"])
        .args(["--enable-logging=stderr", "--v=0", "--virtual-time-budget=2000", "--dump-dom"])
        .arg(format!("--user-data-dir={}", profile.path().display()))
        .arg(format!("file://{}", file.canonicalize()?.display()))
        .stdin(Stdio::null())
        .output()?;
    let log = String::from_utf8_lossy(&output.stderr);
    if !output.status.success() {
        return Err(io::Error::other(format!("chromium failed: {log}")));
    }
    // What the browser itself complains about (no D-Bus, no GPU, …) is not the page's fault.
    let complaints = log.lines().filter(|l| l.contains(":CONSOLE")).map(str::to_owned).collect();
    Ok(Some(Page { dom: String::from_utf8_lossy(&output.stdout).into_owned(), complaints }))
}

fn find() -> Option<PathBuf> {
    let folders: Vec<PathBuf> = std::env::split_paths(&std::env::var_os("PATH")?).collect();
    let names = ["chromium", "chromium-browser", "google-chrome", "google-chrome-stable"];
    names.iter().flat_map(|name| folders.iter().map(move |f| f.join(name))).find(|path| path.is_file())
}
