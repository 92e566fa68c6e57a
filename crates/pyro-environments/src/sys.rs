//! The one thing here that the standard library has no safe call for.
#![allow(unsafe_code, reason = "`pre_exec` is unsafe: what it runs must be async-signal-safe")]

use std::io;
use std::os::unix::process::CommandExt as _;
use std::process::Command;

use rustix::process::{Pid, Signal, getpid, getppid, set_parent_process_death_signal};

/// Makes the kernel send `signal` to the child when the thread that spawns it
/// ends, be it by SIGKILL of the whole process: `Drop` does not run then.
///
/// Spawn from a thread that lives as long as the child should.
pub(crate) fn signal_on_parent_death(command: &mut Command, signal: Signal) {
    let parent = getpid();
    // SAFETY: the closure only makes two system calls and allocates nothing,
    // so it is sound between fork and exec.
    unsafe { command.pre_exec(move || arm_death_signal(parent, signal)) };
}

fn arm_death_signal(parent: Pid, signal: Signal) -> io::Result<()> {
    set_parent_process_death_signal(Some(signal))?;
    // The parent may have died before the line above: nobody would tell us.
    if getppid() == Some(parent) { Ok(()) } else { Err(rustix::io::Errno::SRCH.into()) }
}
