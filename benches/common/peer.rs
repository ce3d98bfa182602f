//! A peer in Python: one process for a whole bench, asked for its rounds over its stdin and stdout, a JSON line each.
//!
//! So both sides take turns on the same machine in one process tree, and what Python needs to start is not in any
//! figure. `VADPIPE_PYTHON` names the interpreter (else `python3`); what it needs is in
//! `benches/peers/requirements.txt`.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use serde_json::{Map, Value};

/// A running peer.
pub(crate) struct Peer {
    child: Child,
    requests: Option<ChildStdin>,
    replies: BufReader<ChildStdout>,
    /// What it calls itself, with versions.
    pub(crate) name: String,
}

impl Peer {
    /// Starts a script of `benches/peers` and waits until it has imported what it needs. An error says why there is no
    /// peer.
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

    /// Starts it, or says on stderr why there is none: then a bench prints its own figures only.
    #[expect(clippy::print_stderr, reason = "a benchmark prints")]
    pub(crate) fn start_if_there(script: &str) -> Option<Self> {
        let peer = Self::start(script);
        if let Err(why) = &peer {
            eprintln!("no peer, ours only: {why}");
            eprintln!("(VADPIPE_PYTHON names a Python that has benches/peers/requirements.txt)");
        }
        peer.ok()
    }

    /// Asks and waits for the answer. An error is what the peer says it is.
    pub(crate) fn ask(&mut self, request: &Value) -> Result<Map<String, Value>, String> {
        let sent = self.requests.as_mut().map(|out| writeln!(out, "{request}").and_then(|()| out.flush()));
        match sent {
            Some(Ok(())) => self.reply(),
            _ => Err("the peer has gone".to_owned()),
        }
    }

    /// Asks for something that takes time: the seconds it says.
    pub(crate) fn seconds(&mut self, request: &Value) -> Result<f64, String> {
        let reply = self.ask(request)?;
        reply.get("seconds").and_then(Value::as_f64).ok_or_else(|| "the peer gave no `seconds`".to_owned())
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
        // It ends with its input.
        self.requests = None;
        drop(self.child.wait());
    }
}
