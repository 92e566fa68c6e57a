//! A pipe that tells when the last process of a family is gone.
//!
//! `pyro` inherits the writing end, and so does whatever it starts, and whatever that starts. The
//! reading end reports a hang-up when nobody holds the other one any more: no process of this family
//! lives then, in whichever session, process group or namespace it was, and whoever its parent is.

use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Pid, Signal, kill_process};

/// The number under which it is inherited: far above what anybody else gives to a child.
pub const LIFELINE_FD: RawFd = 100;

#[derive(Debug)]
pub(crate) struct Lifeline(OwnedFd);

/// A process that holds a lifeline.
#[derive(Debug, Clone)]
pub struct Process {
    pid: Pid,
    command_line: String,
}

/// What a process of the family is there for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    Supervisor,
    Qemu,
}

impl Lifeline {
    /// A new one, and the end to be inherited.
    pub(crate) fn new() -> (Self, OwnedFd) {
        let (reader, writer) = pipe_with(PipeFlags::CLOEXEC).unwrap();
        (Self(reader), writer)
    }

    /// Waits until nobody holds it; false if the time is over before.
    pub(crate) fn is_over_within(&self, deadline: Duration) -> bool {
        wait_for_event(&self.0, deadline)
    }

    /// Whoever holds it.
    pub(crate) fn holders(&self) -> Vec<Process> {
        let pipe = fs_err::read_link(format!("/proc/self/fd/{}", self.0.as_raw_fd())).unwrap();
        let processes = fs_err::read_dir("/proc").unwrap().filter_map(|entry| {
            let directory = entry.ok()?.path();
            let pid = directory.file_name()?.to_str()?.parse().ok().and_then(Pid::from_raw)?;
            // A process may end, or belong to somebody else, while it is looked at.
            let held = fs_err::read_link(directory.join(format!("fd/{LIFELINE_FD}"))).ok()?;
            let command_line = fs_err::read(directory.join("cmdline")).ok()?;
            let command_line = String::from_utf8_lossy(&command_line).replace('\0', " ");
            (held == pipe).then_some(Process { pid, command_line })
        });
        processes.collect()
    }
}

impl Process {
    /// Sends SIGKILL.
    pub fn kill(&self) {
        kill_process(self.pid, Signal::KILL).unwrap();
    }

    /// The most memory it ever had, in MiB.
    pub fn peak_memory_mib(&self) -> u64 {
        let status = fs_err::read_to_string(format!("/proc/{}/status", self.pid)).unwrap();
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
        peak.trim().trim_end_matches(" kB").parse::<u64>().unwrap() / 1024
    }

    /// Device and inode of the file with this prefix that is mapped into its memory.
    pub fn mapped_file(&self, prefix: &str) -> String {
        let maps = fs_err::read_to_string(format!("/proc/{}/maps", self.pid)).unwrap();
        let line = maps.lines().find(|line| line.contains(prefix)).expect(prefix);
        line.split_whitespace().skip(3).take(2).collect::<Vec<_>>().join(" ")
    }

    pub(crate) fn is_child_of(&self, parent: Pid) -> bool {
        let status = fs_err::read_to_string(format!("/proc/{}/status", self.pid));
        let parent = format!("PPid:\t{parent}\n");
        status.is_ok_and(|status| status.contains(&parent))
    }

    pub(crate) fn is(&self, pid: Pid) -> bool {
        self.pid == pid
    }

    pub(crate) fn has(&self, role: Role) -> bool {
        self.command_line.contains(match role {
            Role::Supervisor => " internal supervise",
            Role::Qemu => "qemu-system-x86_64 ",
        })
    }
}

/// Waits until `fd` reports anything; false if the time is over before.
pub(crate) fn wait_for_event(fd: &OwnedFd, deadline: Duration) -> bool {
    let timeout = Timespec::try_from(deadline).unwrap();
    poll(&mut [PollFd::new(fd, PollFlags::IN)], Some(&timeout)).unwrap() > 0
}
