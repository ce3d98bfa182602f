//! A peer in Python: one process for a whole bench. Requests and replies are JSON lines on its stdin and stdout.
//!
//! Both sides take turns on the same machine, and no figure includes the start of Python. `VADPIPE_PYTHON` names the
//! interpreter (default: `python3`). `benches/peers/requirements.txt` lists its packages.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use serde_json::{Map, Value};

/// A running peer.
pub(crate) struct Peer {
    child: Child,
    requests: Option<ChildStdin>,
    replies: BufReader<ChildStdout>,
    /// The name that it reports, with versions.
    pub(crate) name: String,
}

impl Peer {
    /// Starts a script of `benches/peers` and waits until its imports are done. An error is a line for the user.
    pub(crate) fn start(script: &str) -> Result<Self, String> {
        let python = std::env::var("VADPIPE_PYTHON").unwrap_or_else(|_| "python3".to_owned());
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/peers").join(script);
        let mut command = Command::new(&python);
        command.arg(path).arg("--serve").stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().map_err(|e| format!("can't start {python}: {e}"))?;
        let (Some(requests), Some(replies)) = (child.stdin.take(), child.stdout.take()) else {
            return Err("its pipes are closed".to_owned());
        };
        let mut peer = Self { child, requests: Some(requests), replies: BufReader::new(replies), name: String::new() };
        let hello = peer.reply().map_err(|why| format!("{python}: {why}"))?;
        peer.name = hello.get("peer").and_then(Value::as_str).unwrap_or(script).to_owned();
        Ok(peer)
    }

    /// Starts the script. If that fails, prints the reason to stderr; the bench then prints only its own figures.
    #[expect(clippy::print_stderr, reason = "a benchmark prints")]
    pub(crate) fn start_if_installed(script: &str) -> Option<Self> {
        let peer = Self::start(script);
        if let Err(why) = &peer {
            eprintln!("no peer, so only vadpipe is measured: {why}");
            eprintln!("(VADPIPE_PYTHON names a Python that has benches/peers/requirements.txt)");
        }
        peer.ok()
    }

    /// Sends a request and waits for the reply. Returns an error that the peer reports.
    pub(crate) fn ask(&mut self, request: &Value) -> Result<Map<String, Value>, String> {
        let sent = self.requests.as_mut().map(|out| writeln!(out, "{request}").and_then(|()| out.flush()));
        match sent {
            Some(Ok(())) => self.reply(),
            _ => Err("the peer has ended".to_owned()),
        }
    }

    /// Sends a request that is measured. Returns the seconds that the peer reports.
    pub(crate) fn seconds(&mut self, request: &Value) -> Result<f64, String> {
        let reply = self.ask(request)?;
        reply.get("seconds").and_then(Value::as_f64).ok_or_else(|| "the peer reported no `seconds`".to_owned())
    }

    fn reply(&mut self) -> Result<Map<String, Value>, String> {
        let mut line = String::new();
        match self.replies.read_line(&mut line) {
            Ok(0) | Err(_) => Err("the peer has ended".to_owned()),
            Ok(_) => super::reply::parse(&line),
        }
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        // The peer ends when its input does.
        self.requests = None;
        drop(self.child.wait());
    }
}
