//! `vadpipe supervise PROGRAM …`: the parent of one program, which ends the program and all its descendants.
//!
//! A process that called `setsid` does not get the signals of its group, and its environment may be cleared, so neither
//! identifies it. So each program has its own supervisor, which is a child subreaper: the kernel makes it the parent of
//! every descendant whose own parent has ended. When the program has ended, all children that are left get SIGTERM and,
//! two seconds later, SIGKILL. A process of another user, after `sudo` for example, can't be ended.
//!
//! Standard input is a socket to vadpipe. One byte asks the supervisor to end the program in the same way. If the
//! socket closes, vadpipe has died, and everything is killed at once, before it could disturb the next run. The
//! supervisor writes a [`Report`] to the socket before it exits.

use std::ffi::OsString;
use std::fs;
use std::io::{Read as _, Write as _};
use std::os::fd::AsFd as _;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt as _;
use std::process::{Command, ExitCode, Stdio};
use std::sync::Arc;
use std::sync::mpsc::channel;
use std::thread;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::process::{
    Pid, Signal, WaitOptions, getpgid, getpid, kill_process, kill_process_group, set_child_subreaper, wait,
};
use serde::{Deserialize, Serialize};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

use crate::system::Usage;

/// The first argument of a supervisor. The program and its arguments follow.
pub(crate) const SUPERVISE: &str = "supervise";
/// How long processes may take to end after SIGTERM.
pub(super) const GRACE: Duration = Duration::from_secs(2);
/// How long to try to kill them, for example while they wait for a disk.
const KILLING: Duration = Duration::from_secs(60);
/// How often to look for them in the meantime.
const POLL: Duration = Duration::from_millis(5);

/// How a supervised program ended. Written as one line of JSON.
#[derive(Serialize, Deserialize)]
pub(super) enum Report {
    /// The system refused to start it with this error.
    NotStarted(i32),
    /// It ended with this wait status.
    Ended {
        status: i32,
        /// Whether it left processes running.
        left: bool,
        /// What it and its descendants used.
        usage: Usage,
    },
}

/// Runs a program and ends its descendants. Call it in a process of its own.
pub(crate) fn supervise(argv: &[OsString]) -> ExitCode {
    let ([program, arguments @ ..], Ok(socket)) = (argv, std::io::stdin().as_fd().try_clone_to_owned()) else {
        return ExitCode::FAILURE;
    };
    let mut socket = UnixStream::from(socket);
    let report = run(program, arguments, &socket);
    // If vadpipe has died, nobody needs the report.
    let written = serde_json::to_writer(&mut socket, &report).is_ok() && socket.write_all(b"\n").is_ok();
    if written { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn run(program: &OsString, arguments: &[OsString], socket: &UnixStream) -> Report {
    // A batch system signals all processes of a job. vadpipe decides when this one ends.
    for signal in [SIGHUP, SIGINT, SIGTERM] {
        let _ = signal_hook::flag::register(signal, Arc::default());
    }
    // When memory runs out, the kernel ends the program and not vadpipe.
    let _ = fs::write("/proc/self/oom_score_adj", "1000");
    // If this fails, descendants that left the group of the program are not found.
    let _ = set_child_subreaper(Some(getpid()));
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null()).process_group(0);
    // The program starts only if vadpipe can end it.
    let (started, group) = channel();
    let request = socket.try_clone().and_then(|socket| {
        let listen = move || group.recv().map(|group| end_on_request(socket, group));
        thread::Builder::new().spawn(listen)
    });
    let child = match request.and_then(|_thread| command.spawn()) {
        Ok(child) => child,
        Err(error) => return Report::NotStarted(error.raw_os_error().unwrap_or_default()),
    };
    let group = Pid::from_child(&child);
    // The thread waits for it.
    let _ = started.send(group);
    let status = loop {
        match wait(WaitOptions::empty()) {
            Ok(Some((pid, status))) if pid == group => break status.as_raw(),
            // An orphan has ended.
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Report::NotStarted(error.raw_os_error()),
        }
    };
    let left = end_children(group);
    Report::Ended { status, left, usage: Usage::of_children() }
}

/// Waits for vadpipe to ask for the end, or to die.
fn end_on_request(mut socket: UnixStream, group: Pid) {
    if matches!(socket.read(&mut [0]), Ok(1)) {
        signal(group, &children(), Signal::TERM);
        // vadpipe may die in the meantime.
        let _ = socket.set_read_timeout(Some(GRACE));
        let _ = socket.read(&mut [0]);
    }
    let start = Instant::now();
    while start.elapsed() < KILLING {
        signal(group, &children(), Signal::KILL);
        thread::sleep(POLL);
    }
    // A process of another user, or one that waits for a device.
    std::process::exit(1);
}

/// Ends all children, first with SIGTERM, then with SIGKILL. Returns whether there were any.
fn end_children(group: Pid) -> bool {
    let mut were_left = false;
    for end in [Signal::TERM, Signal::KILL] {
        let start = Instant::now();
        let mut signalled = Vec::new();
        while start.elapsed() <= GRACE {
            while let Ok(Some(_)) = wait(WaitOptions::NOHANG) {}
            if let Err(Errno::CHILD) = wait(WaitOptions::NOHANG) {
                return were_left;
            }
            were_left = true;
            let mut new = children();
            new.retain(|child| !signalled.contains(child));
            if !new.is_empty() {
                signal(group, &new, end);
            }
            signalled.extend(new);
            thread::sleep(POLL);
        }
    }
    were_left
}

/// Sends a signal to the group and to these processes. A process that has ended needs none.
fn signal(group: Pid, others: &[Pid], signal: Signal) {
    let _ = kill_process_group(group, signal);
    let is_outside = |pid: &&Pid| getpgid(Some(**pid)) != Ok(group);
    for pid in others.iter().filter(is_outside) {
        let _ = kill_process(*pid, signal);
    }
}

/// The children of this process that have not ended.
fn children() -> Vec<Pid> {
    let own = getpid();
    let child = |entry: fs::DirEntry| {
        let pid = entry.file_name().to_str()?.parse().ok().and_then(Pid::from_raw)?;
        let stat = fs::read(entry.path().join("stat")).ok()?;
        // The name of the program is in parentheses and may contain any byte.
        let after_name = stat.iter().rposition(|byte| *byte == b')')?;
        let fields = String::from_utf8_lossy(stat.get(after_name + 1..)?);
        let mut fields = fields.split_ascii_whitespace();
        let has_ended = matches!(fields.next()?, "Z" | "X");
        let parent = fields.next()?.parse().ok().and_then(Pid::from_raw);
        (parent == Some(own) && !has_ended).then_some(pid)
    };
    fs::read_dir("/proc").into_iter().flatten().flatten().filter_map(child).collect()
}
