//! Supervisors on their way out: waited for by whoever wants to leave a clean host behind.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use tokio::io::unix::AsyncFd;
use tokio::process::Child;

use crate::sys;

/// From closing the socket to the supervisor's exit: it kills QEMU and waits for it.
pub(crate) const END_DEADLINE: Duration = Duration::from_secs(20);

/// Supervisors that were dropped rather than ended, and are on their way out.
#[derive(Debug, Clone, Default)]
pub struct Departures(Arc<Mutex<Vec<Process>>>);

impl Departures {
    /// Waits until all of them are gone. Gives how many there were.
    pub async fn settle(&self) -> usize {
        let mut count = 0;
        let next = || self.lock().pop();
        while let Some(process) = next() {
            count += 1;
            // Given back if this wait is given up.
            let mut departing = OwnedProcess::new(process, self);
            let process = departing.process.as_mut().expect("put in one line above");
            // One that cannot be waited for is none of ours any more.
            process.wait_for_end().await.ok();
            departing.process = None;
        }
        count
    }

    fn add(&self, process: Process) {
        let mut departing = self.lock();
        departing.retain_mut(|process| !process.has_ended());
        departing.push(process);
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Process>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A supervisor's process, which is waited for wherever its owner is dropped.
#[derive(Debug)]
pub(crate) struct OwnedProcess {
    pub(crate) process: Option<Process>,
    departures: Departures,
}

impl OwnedProcess {
    pub(crate) fn new(process: Process, departures: &Departures) -> Self {
        Self { process: Some(process), departures: departures.clone() }
    }

    /// Whether somebody else sees to it that nothing of it is left.
    pub(crate) fn is_waited_for_by_another(&self) -> bool {
        matches!(self.process, Some(Process::Other(_)))
    }
}

impl Drop for OwnedProcess {
    fn drop(&mut self) {
        if let Some(process) = self.process.take() {
            self.departures.add(process);
        }
    }
}

/// A supervisor's process.
#[derive(Debug)]
pub(crate) enum Process {
    Child(Child),
    /// That of a spare. It may have been claimed a moment ago, and then its end is its claimer's affair.
    Spare(Child),
    /// Somebody else's child: the supervisor of a spare that was claimed.
    Other(Pidfd),
}

impl Process {
    /// Waits for a supervisor whose socket is closed.
    pub(crate) async fn wait_for_end(&mut self) -> io::Result<()> {
        if let Ok(ended) = tokio::time::timeout(END_DEADLINE, self.ended()).await {
            return ended;
        }
        // QEMU dies with its supervisor, and the disk has no name.
        match self {
            Self::Child(child) => child.kill().await,
            Self::Spare(_) => Ok(()),
            Self::Other(process) => {
                process.kill()?;
                process.ended().await
            }
        }
    }

    async fn ended(&mut self) -> io::Result<()> {
        match self {
            Self::Child(child) | Self::Spare(child) => child.wait().await.map(drop),
            Self::Other(process) => process.ended().await,
        }
    }

    fn has_ended(&mut self) -> bool {
        match self {
            Self::Child(child) | Self::Spare(child) => !matches!(child.try_wait(), Ok(None)),
            Self::Other(process) => process.has_ended(),
        }
    }
}

/// A process that is no child of this one, and stays that very process whoever gets its number.
#[derive(Debug)]
pub(crate) struct Pidfd(AsyncFd<OwnedFd>);

impl Pidfd {
    pub(crate) fn open(pid: Pid) -> io::Result<Self> {
        Ok(Self(sys::watch(pidfd_open(pid, PidfdFlags::NONBLOCK)?)?))
    }

    async fn ended(&self) -> io::Result<()> {
        // Readable when the process has ended (`pidfd_open(2)`).
        drop(self.0.readable().await?);
        Ok(())
    }

    fn has_ended(&self) -> bool {
        let mut events = [PollFd::new(self.0.get_ref(), PollFlags::IN)];
        !matches!(poll(&mut events, Some(&Timespec::default())), Ok(0))
    }

    fn kill(&self) -> io::Result<()> {
        match pidfd_send_signal(self.0.get_ref(), Signal::KILL) {
            // It has ended by itself.
            Ok(()) | Err(Errno::SRCH) => Ok(()),
            Err(errno) => Err(errno.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_process_of_somebody_else_is_waited_for() {
        let mut child = std::process::Command::new("/bin/cat")
            .stdin(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let departures = Departures::default();
        let pid = Pid::from_child(&child);
        drop(OwnedProcess::new(Process::Other(Pidfd::open(pid).unwrap()), &departures));
        assert!(!departures.lock()[0].has_ended());
        drop(child.stdin.take());
        assert_eq!(departures.settle().await, 1);
        assert!(child.try_wait().unwrap().is_some());
    }
}
