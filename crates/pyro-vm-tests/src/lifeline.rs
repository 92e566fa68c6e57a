//! What tells that the last process of a family is gone.
//!
//! `pyro` inherits the writing end of a pipe, and so does whatever it starts, and whatever that starts.
//! The reading end reports a hang-up when nobody holds the other one any more: no process of this
//! family lives then, in whichever session, process group or namespace it was, and whoever its parent
//! is. A confined QEMU inherits nothing, but it has its scratch disk open, which is in a directory that
//! belongs to one test.

use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open, pidfd_send_signal};

/// The number under which it is inherited: far above what anybody else gives to a child.
pub(crate) const LIFELINE_FD: RawFd = 100;

#[derive(Debug)]
pub(crate) struct Lifeline {
    pipe: OwnedFd,
    /// Where the scratch disks are.
    state: PathBuf,
}

/// A process of the family.
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
    pub(crate) fn new(state: PathBuf) -> (Self, OwnedFd) {
        let (pipe, writer) = pipe_with(PipeFlags::CLOEXEC).unwrap();
        (Self { pipe, state }, writer)
    }

    /// Waits until nobody of the family lives; false if the time is over before.
    pub(crate) fn is_over_within(&self, deadline: Duration) -> bool {
        let until = Instant::now() + deadline;
        let left = || until.saturating_duration_since(Instant::now());
        // Only a supervisor starts a QEMU, so none can come later.
        wait_for_event(&self.pipe, deadline)
            && self.qemus().iter().all(|qemu| qemu.ends_within(left()))
    }

    /// Everybody of the family.
    pub(crate) fn family(&self) -> Vec<Process> {
        let fd = self.pipe.as_raw_fd();
        let pipe = fs_err::read_link(format!("/proc/self/fd/{fd}")).unwrap();
        let holds = |process: &Process| process.file(LIFELINE_FD).is_some_and(|held| held == pipe);
        processes().filter(holds).chain(self.qemus()).collect()
    }

    /// The QEMU that this supervisor has started.
    pub(crate) fn qemu_of(&self, supervisor: &Process) -> Option<Process> {
        self.qemus().into_iter().find(|qemu| qemu.is_started_by(supervisor))
    }

    /// The supervisor that `belongs`, if it is one of the family.
    pub(crate) fn supervisor(&self, belongs: impl Fn(&Process) -> bool) -> Option<Process> {
        let family = self.family();
        let supervisors: Vec<_> =
            family.into_iter().filter(|process| process.has(Role::Supervisor)).collect();
        // What a supervisor starts looks like itself until it becomes another program.
        let is_first =
            |process: &&Process| !supervisors.iter().any(|other| process.is_started_by(other));
        supervisors.iter().filter(is_first).find(|process| belongs(process)).cloned()
    }

    fn qemus(&self) -> Vec<Process> {
        let is_ours = |process: &Process| {
            process.has(Role::Qemu) && process.files().any(|file| file.starts_with(&self.state))
        };
        processes().filter(is_ours).collect()
    }
}

/// Every process on this host. One may end, or belong to somebody else, while it is looked at.
fn processes() -> impl Iterator<Item = Process> {
    fs_err::read_dir("/proc").unwrap().filter_map(|entry| {
        let directory = entry.ok()?.path();
        let pid = directory.file_name()?.to_str()?.parse().ok().and_then(Pid::from_raw)?;
        Some(Process { pid, command_line: command_line(pid)? })
    })
}

fn command_line(pid: Pid) -> Option<String> {
    let words = fs_err::read(format!("/proc/{pid}/cmdline")).ok()?;
    Some(String::from_utf8_lossy(&words).replace('\0', " "))
}

impl Process {
    /// Sends SIGKILL.
    pub fn kill(&self) {
        kill_process(self.pid, Signal::KILL).unwrap();
    }

    /// Sends SIGSTOP: it lives, and does nothing.
    pub fn stop(&self) {
        kill_process(self.pid, Signal::STOP).unwrap();
    }

    /// Sends SIGKILL to a process that may have ended; false if it has.
    pub fn kill_if_there(&self) -> bool {
        let Ok(pidfd) = pidfd_open(self.pid, PidfdFlags::empty()) else { return false };
        // A zombie has none, and whoever got the number since then has another one.
        let is_there = command_line(self.pid).is_some_and(|found| found == self.command_line);
        is_there && pidfd_send_signal(pidfd, Signal::KILL).is_ok()
    }

    pub fn pid(&self) -> i32 {
        self.pid.as_raw_pid()
    }

    /// Its working directory.
    pub(crate) fn directory(&self) -> Option<PathBuf> {
        fs_err::read_link(self.proc("cwd")).ok()
    }

    /// The directories of those control groups that were made for it.
    pub fn control_groups(&self) -> Vec<PathBuf> {
        // One that has ended is in none.
        let groups = fs_err::read_to_string(self.proc("cgroup")).unwrap_or_default();
        let paths = groups.lines().filter_map(|line| line.splitn(3, ':').nth(2));
        let own = paths.filter(|path| path.contains("/pyro-"));
        let mounts = fs_err::read_to_string("/proc/self/mountinfo").unwrap();
        let below = |path: &str| {
            let directories = mounts.lines().filter_map(|mount| {
                let [root, directory] = mount.split(' ').skip(3).take(2).collect::<Vec<_>>()[..]
                else {
                    return None;
                };
                let below = Path::new(path).strip_prefix(root).ok()?;
                mount.contains(" - cgroup").then(|| Path::new(directory).join(below))
            });
            directories.filter(|directory| directory.exists()).collect::<Vec<_>>()
        };
        own.flat_map(below).collect()
    }

    /// The most memory it ever had, in MiB.
    pub fn peak_memory_mib(&self) -> u64 {
        let status = fs_err::read_to_string(self.proc("status")).unwrap();
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
        peak.trim().trim_end_matches(" kB").parse::<u64>().unwrap() / 1024
    }

    /// Device and inode of the file with this prefix that is mapped into its memory.
    pub fn mapped_file(&self, prefix: &str) -> String {
        let maps = fs_err::read_to_string(self.proc("maps")).unwrap();
        let line = maps.lines().find(|line| line.contains(prefix)).expect(prefix);
        line.split_whitespace().skip(3).take(2).collect::<Vec<_>>().join(" ")
    }

    /// A file of its directory below `/proc`.
    pub fn proc(&self, name: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}", self.pid)).join(name)
    }

    fn file(&self, fd: RawFd) -> Option<PathBuf> {
        fs_err::read_link(self.proc(&format!("fd/{fd}"))).ok()
    }

    fn files(&self) -> impl Iterator<Item = PathBuf> {
        let entries = fs_err::read_dir(self.proc("fd")).into_iter().flatten();
        entries.filter_map(|entry| fs_err::read_link(entry.ok()?.path()).ok())
    }

    /// Whether it is gone within `deadline`.
    pub fn ends_within(&self, deadline: Duration) -> bool {
        // One that is no more cannot be opened.
        pidfd_open(self.pid, PidfdFlags::empty())
            .map_or(true, |pidfd| wait_for_event(&pidfd, deadline))
    }

    pub(crate) fn is_child_of(&self, parent: Pid) -> bool {
        let status = fs_err::read_to_string(self.proc("status"));
        let parent = format!("PPid:\t{parent}\n");
        status.is_ok_and(|status| status.contains(&parent))
    }

    pub(crate) fn is_started_by(&self, parent: &Self) -> bool {
        self.is_child_of(parent.pid)
    }

    pub(crate) fn is(&self, pid: Pid) -> bool {
        self.pid == pid
    }

    /// Whether it is there for `role`.
    pub fn has(&self, role: Role) -> bool {
        // The probe of the confinement is told where QEMU is, too.
        let is_pyro = self.command_line.contains(" internal ");
        match role {
            Role::Supervisor => self.command_line.contains(" internal supervise"),
            Role::Qemu => !is_pyro && self.command_line.contains("qemu-system-x86_64 "),
        }
    }
}

/// Waits until `fd` reports anything; false if the time is over before.
pub(crate) fn wait_for_event(fd: &OwnedFd, deadline: Duration) -> bool {
    let timeout = Timespec::try_from(deadline).unwrap();
    poll(&mut [PollFd::new(fd, PollFlags::IN)], Some(&timeout)).unwrap() > 0
}
