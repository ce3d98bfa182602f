//! Runs a program under ptrace, counts its system calls on the cache, and disturbs one of them.
//!
//! Linux only. Kills work on every architecture. Failing or shortened calls need x86-64.

#![expect(unsafe_code, reason = "ptrace and waitpid have no safe interface among the dependencies")]

use std::collections::{HashMap, HashSet};
use std::io;
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::process::ExitStatus;
use std::sync::mpsc;

use super::calls::{Call, Reader};
use crate::program::{CommandOutput, Project, kill_group, patience};

/// How to disturb the program. Calls are counted from 1.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Action {
    /// Only count.
    Count,
    /// Kill the program before the n-th call.
    KillBefore(usize),
    /// Kill the program after the n-th call.
    KillAfter(usize),
    /// Shorten the first write from the n-th call on to half of its bytes, then kill the program.
    Tear(usize),
    /// Fail the first call from the n-th on that needs space, with ENOSPC.
    NoSpaceOnce(usize),
    /// Fail every call from the n-th on that needs space, with ENOSPC.
    NoSpaceFrom(usize),
    /// Fail the first call from the n-th on that reads or syncs, with EIO.
    IoError(usize),
}

/// The outcome of a traced program.
pub(crate) struct Traced {
    pub(crate) output: CommandOutput,
    /// All calls on the cache, if the action is [`Action::Count`].
    pub(crate) calls: Vec<Call>,
    /// The first call that was disturbed, and its number.
    pub(crate) disturbed: Option<(usize, Call)>,
}

/// What to do when a thread leaves its system call.
enum AtExit {
    Kill,
    Fail(i32),
}

struct Tracer<'a> {
    leader: i32,
    reader: Reader,
    action: Action,
    count: usize,
    seen: HashSet<i32>,
    at_exit: HashMap<i32, AtExit>,
    traced: &'a mut Traced,
}

/// Whether calls can be made to fail here.
pub(crate) const CAN_FAIL: bool = cfg!(target_arch = "x86_64");

/// Runs a command under ptrace to its end.
pub(crate) fn trace(project: &Project, args: &[String], action: Action) -> io::Result<Traced> {
    let (mut command, files) = project.command(args)?;
    // SAFETY: between fork and exec only the ptrace system call is made, which is async-signal-safe.
    unsafe {
        command.pre_exec(|| request(libc::PTRACE_TRACEME, 0, 0, 0).map(drop));
    }
    let child = command.spawn()?;
    let leader = i32::try_from(child.id()).map_err(io::Error::other)?;
    let (done, ended) = mpsc::channel::<()>();
    let watchdog = std::thread::spawn(move || {
        let hung = ended.recv_timeout(patience()) == Err(mpsc::RecvTimeoutError::Timeout);
        if hung {
            kill_group(leader.unsigned_abs());
        }
        hung
    });
    let mut traced = Traced { output: CommandOutput::default(), calls: Vec::new(), disturbed: None };
    let mut tracer = Tracer {
        leader,
        reader: Reader::new(project.cache(), project.dir()),
        action,
        count: 0,
        seen: HashSet::from([leader]),
        at_exit: HashMap::new(),
        traced: &mut traced,
    };
    let status = tracer.follow();
    drop(done);
    let hung = watchdog.join().unwrap_or(false);
    traced.output = CommandOutput::of(status?);
    traced.output.hung = hung;
    files.read(&mut traced.output);
    Ok(traced)
}

impl Tracer<'_> {
    /// Resumes the program at each stop until all its threads have ended.
    fn follow(&mut self) -> io::Result<ExitStatus> {
        let mut last = None;
        let mut configured = false;
        while let Some((tid, status)) = wait()? {
            if libc::WIFEXITED(status) || libc::WIFSIGNALED(status) {
                self.seen.remove(&tid);
                self.at_exit.remove(&tid);
                if tid == self.leader {
                    last = Some(ExitStatus::from_raw(status));
                }
                continue;
            }
            if !configured {
                configured = true;
                self.configure()?;
                self.reader.watch(tid);
            }
            let signal = self.stopped(tid, status)?;
            // A thread that was killed can't be resumed. Its end is reported next.
            let _ = request(libc::PTRACE_SYSCALL, tid, 0, signal as usize);
        }
        last.ok_or_else(|| io::Error::other("the traced program has no status"))
    }

    fn configure(&self) -> io::Result<()> {
        let options = libc::PTRACE_O_TRACESYSGOOD
            | libc::PTRACE_O_TRACECLONE
            | libc::PTRACE_O_TRACEFORK
            | libc::PTRACE_O_TRACEVFORK
            | libc::PTRACE_O_TRACEEXEC
            | libc::PTRACE_O_EXITKILL;
        request(libc::PTRACE_SETOPTIONS, self.leader, 0, options as usize).map(drop)
    }

    /// Handles a stop. Returns the signal to deliver.
    fn stopped(&mut self, tid: i32, status: i32) -> io::Result<i32> {
        let signal = libc::WSTOPSIG(status);
        let is_new = self.seen.insert(tid);
        if is_new {
            self.reader.watch(tid);
        }
        if signal == libc::SIGTRAP | 0x80 {
            // The thread may have been killed while it was stopped.
            if let Ok(info) = syscall_info(tid) {
                self.at_call(tid, &info)?;
            }
            return Ok(0);
        }
        let is_event = status >> 16 != 0 || signal == libc::SIGTRAP;
        Ok(if is_event || (is_new && signal == libc::SIGSTOP) { 0 } else { signal })
    }

    fn at_call(&mut self, tid: i32, info: &libc::ptrace_syscall_info) -> io::Result<()> {
        if info.op == libc::PTRACE_SYSCALL_INFO_EXIT {
            match self.at_exit.remove(&tid) {
                Some(AtExit::Kill) => self.kill(),
                Some(AtExit::Fail(errno)) => set_result(tid, errno)?,
                None => {}
            }
        } else if info.op == libc::PTRACE_SYSCALL_INFO_ENTRY {
            // SAFETY: the kernel fills this member of the union when `op` is ENTRY.
            let (nr, args) = unsafe { (info.u.entry.nr, info.u.entry.args) };
            if let Some(call) = self.reader.call(tid, nr, &args) {
                self.count += 1;
                self.disturb(tid, call)?;
            }
        }
        Ok(())
    }

    fn disturb(&mut self, tid: i32, call: Call) -> io::Result<()> {
        let (n, first) = (self.count, self.traced.disturbed.is_none());
        let hit = match self.action {
            Action::Count => {
                self.traced.calls.push(call);
                return Ok(());
            }
            Action::KillBefore(at) | Action::KillAfter(at) => n == at,
            Action::Tear(at) => n >= at && first && call.can_tear(),
            Action::NoSpaceOnce(at) => n >= at && first && call.needs_space(),
            Action::NoSpaceFrom(at) => n >= at && call.needs_space(),
            Action::IoError(at) => n >= at && first && call.needs_disk(),
        };
        if !hit {
            return Ok(());
        }
        match self.action {
            Action::KillBefore(_) => self.kill(),
            Action::KillAfter(_) => drop(self.at_exit.insert(tid, AtExit::Kill)),
            Action::Tear(_) => {
                set_length(tid, call.len / 2)?;
                self.at_exit.insert(tid, AtExit::Kill);
            }
            Action::IoError(_) => self.fail(tid, libc::EIO)?,
            Action::Count | Action::NoSpaceOnce(_) | Action::NoSpaceFrom(_) => self.fail(tid, libc::ENOSPC)?,
        }
        self.traced.disturbed.get_or_insert((n, call));
        Ok(())
    }

    fn fail(&mut self, tid: i32, errno: i32) -> io::Result<()> {
        skip_call(tid)?;
        self.at_exit.insert(tid, AtExit::Fail(errno));
        Ok(())
    }

    fn kill(&self) {
        kill_group(self.leader.unsigned_abs());
    }
}

/// Waits for the next stop or end of a child of this thread. `None` if no child is left.
fn wait() -> io::Result<Option<(i32, i32)>> {
    loop {
        let mut status = 0;
        // SAFETY: `status` is a valid place for the result.
        let tid = unsafe { libc::waitpid(-1, &raw mut status, libc::__WALL | libc::__WNOTHREAD) };
        if tid >= 0 {
            return Ok(Some((tid, status)));
        }
        let error = io::Error::last_os_error();
        match error.raw_os_error() {
            Some(libc::EINTR) => {}
            Some(libc::ECHILD) => return Ok(None),
            _ => return Err(error),
        }
    }
}

/// A ptrace request whose data is a number, or the address of a value that outlives the call.
fn request(request: libc::c_uint, tid: i32, address: usize, data: usize) -> io::Result<libc::c_long> {
    // SAFETY: the callers pass numbers, or the address of a live value of the type that the request reads or writes.
    let result = unsafe { libc::ptrace(request, tid, address, data) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

fn syscall_info(tid: i32) -> io::Result<libc::ptrace_syscall_info> {
    // SAFETY: the structure consists of integers, for which zero is a valid value.
    let mut info: libc::ptrace_syscall_info = unsafe { std::mem::zeroed() };
    let data = (&raw mut info) as usize;
    request(libc::PTRACE_GET_SYSCALL_INFO, tid, size_of::<libc::ptrace_syscall_info>(), data)?;
    Ok(info)
}

#[cfg(target_arch = "x86_64")]
fn change_registers(tid: i32, change: impl FnOnce(&mut libc::user_regs_struct)) -> io::Result<()> {
    // SAFETY: the structure consists of integers, for which zero is a valid value.
    let mut registers: libc::user_regs_struct = unsafe { std::mem::zeroed() };
    let data = (&raw mut registers) as usize;
    request(libc::PTRACE_GETREGS, tid, 0, data)?;
    change(&mut registers);
    request(libc::PTRACE_SETREGS, tid, 0, data).map(drop)
}

/// Makes the kernel skip the call that a thread is about to enter.
#[cfg(target_arch = "x86_64")]
fn skip_call(tid: i32) -> io::Result<()> {
    change_registers(tid, |r| r.orig_rax = u64::MAX)
}

/// Changes the third argument of the call that a thread is about to enter: a write's length.
#[cfg(target_arch = "x86_64")]
fn set_length(tid: i32, len: u64) -> io::Result<()> {
    change_registers(tid, |r| r.rdx = len)
}

/// Makes the call that a thread has just left return an error.
#[cfg(target_arch = "x86_64")]
fn set_result(tid: i32, errno: i32) -> io::Result<()> {
    change_registers(tid, |r| r.rax = i64::from(-errno).cast_unsigned())
}

#[cfg(not(target_arch = "x86_64"))]
fn skip_call(_: i32) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

#[cfg(not(target_arch = "x86_64"))]
fn set_length(_: i32, _: u64) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

#[cfg(not(target_arch = "x86_64"))]
fn set_result(_: i32, _: i32) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}
