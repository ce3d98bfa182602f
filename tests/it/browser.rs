//! Loads a page in headless Chromium and returns the messages of its console.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// The longest time that a browser may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(120);

/// A page after a browser loaded it.
pub(crate) struct Page {
    /// The document after its scripts ran.
    pub(crate) dom: String,
    /// The messages of the console. Empty if the page has no error.
    pub(crate) complaints: Vec<String>,
}

/// Loads a file. `None` if `PATH` contains no Chromium. CI installs one.
pub(crate) fn load(file: &Path) -> io::Result<Option<Page>> {
    let Some(browser) = find() else { return Ok(None) };
    let profile = tempfile::tempdir()?;
    let [dom_path, log_path] = ["dom.html", "log.txt"].map(|name| profile.path().join(name));
    let mut child = Command::new(browser)
        .args(["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--disable-quic"])
        .args(["--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync"])
        .args(["--enable-logging=stderr", "--v=0", "--virtual-time-budget=2000", "--dump-dom"])
        .arg(format!("--user-data-dir={}", profile.path().join("profile").display()))
        .arg(format!("file://{}", file.canonicalize()?.display()))
        .stdin(Stdio::null())
        .stdout(File::create(&dom_path)?)
        .stderr(File::create(&log_path)?)
        .spawn()?;
    // A browser that hangs must not hang the tests.
    let start = Instant::now();
    let status = loop {
        match child.try_wait()? {
            Some(status) => break status,
            None if start.elapsed() > PATIENCE => {
                child.kill()?;
                break child.wait()?;
            }
            None => sleep(Duration::from_millis(20)),
        }
    };
    let read = |path: &Path| std::fs::read(path).map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    let log = read(&log_path)?;
    if !status.success() {
        return Err(io::Error::other(format!("chromium failed ({status}): {log}")));
    }
    // Other lines are errors of the browser itself (no D-Bus, no GPU, …), not of the page.
    let complaints = log.lines().filter(|l| l.contains(":CONSOLE")).map(str::to_owned).collect();
    Ok(Some(Page { dom: read(&dom_path)?, complaints }))
}

fn find() -> Option<PathBuf> {
    let folders: Vec<PathBuf> = std::env::split_paths(&std::env::var_os("PATH")?).collect();
    let names = ["chromium", "chromium-browser", "google-chrome", "google-chrome-stable"];
    names.iter().flat_map(|name| folders.iter().map(move |f| f.join(name))).find(|path| path.is_file())
}
