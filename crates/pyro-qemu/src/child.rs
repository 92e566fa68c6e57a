//! A child process, by its descriptor.

use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;

use rustix::io::Errno;
use rustix::process::{
    Pid, Signal, WaitId, WaitIdOptions, WaitIdStatus, pidfd_send_signal, waitid,
};

/// A child that was started. Dropping it kills it and waits for its end, which takes milliseconds:
/// who sees that its owner is gone may rely on it.
#[derive(Debug)]
pub(crate) struct Child {
    pid: Pid,
    pidfd: OwnedFd,
    status: Option<ExitStatus>,
}

impl Child {
    pub(crate) fn new(pid: Pid, pidfd: OwnedFd) -> Self {
        Self { pid, pidfd, status: None }
    }

    /// Its number, for as long as it is not collected.
    pub(crate) fn pid(&self) -> Pid {
        self.pid
    }

    pub(crate) fn kill(&self) -> Result<(), Errno> {
        match self.status {
            None => pidfd_send_signal(&self.pidfd, Signal::KILL),
            Some(_) => Ok(()),
        }
    }

    /// Waits for its end, and tells how it ended, as often as it is asked. Blocks until then.
    pub(crate) fn collect(&mut self) -> Result<ExitStatus, Errno> {
        while self.status.is_none() {
            match waitid(WaitId::PidFd(self.pidfd.as_fd()), WaitIdOptions::EXITED) {
                Ok(end) => self.status = end.as_ref().and_then(exit_status),
                Err(Errno::INTR) => {}
                Err(errno) => return Err(errno),
            }
        }
        self.status.ok_or(Errno::CHILD)
    }
}

/// Readable when the process has ended (`pidfd_open(2)`).
impl AsRawFd for Child {
    fn as_raw_fd(&self) -> RawFd {
        self.pidfd.as_raw_fd()
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        // One that may not be killed must not be waited for. It dies with this process at the latest.
        if self.kill().is_ok() {
            self.collect().ok();
        }
    }
}

/// As wait(2) would have told it.
fn exit_status(status: &WaitIdStatus) -> Option<ExitStatus> {
    let exited = status.exit_status().map(|code| code << 8);
    exited.or_else(|| status.terminating_signal()).map(ExitStatus::from_raw)
}
