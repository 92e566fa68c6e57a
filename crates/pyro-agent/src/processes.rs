//! The processes of one run: all of them with a cgroup, its process group without.

use std::os::fd::BorrowedFd;

use rustix::process::{Pid, Signal, kill_process_group};

use crate::cgroup::RunCgroup;

/// What a run started.
#[derive(Debug)]
pub(crate) struct Processes {
    /// The process group, and the process id of the command itself.
    group: Pid,
    cgroup: Option<RunCgroup>,
    alive: bool,
}

impl Processes {
    pub(crate) fn new(group: Pid, cgroup: Option<RunCgroup>) -> Self {
        Self { group, alive: cgroup.is_some(), cgroup }
    }

    /// The process of the command itself.
    pub(crate) fn command(&self) -> Pid {
        self.group
    }

    /// Kills them all, at once.
    pub(crate) fn kill(&self) {
        let killed = self.cgroup.as_ref().map(RunCgroup::kill);
        if !matches!(killed, Some(Ok(()))) {
            // Fails where the group is gone already.
            let _ = kill_process_group(self.group, Signal::KILL);
        }
    }

    /// Reports `POLLPRI` when it is time for [`Self::notice_change`].
    pub(crate) fn change(&self) -> Option<BorrowedFd<'_>> {
        self.cgroup.as_ref().filter(|_| self.alive).map(RunCgroup::events)
    }

    pub(crate) fn notice_change(&mut self) {
        self.alive = self.cgroup.as_ref().is_some_and(RunCgroup::is_populated);
    }

    /// Whether some were alive when a change was last noticed. Without a cgroup nobody knows.
    pub(crate) fn are_alive(&self) -> bool {
        self.alive
    }

    pub(crate) fn ran_out_of_memory(&self) -> bool {
        self.cgroup.as_ref().is_some_and(RunCgroup::ran_out_of_memory)
    }
}
