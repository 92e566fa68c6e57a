//! Cgroups: one per run, so that a run can be killed as a whole and cannot starve the others.
//!
//! ```text
//!   /sys/fs/cgroup            the agent and the kernel's threads
//!     pyro                    all runs together: memory.max, pids.max
//!       run-1, run-2, …       one run each: pids.max, cgroup.kill, cgroup.events
//! ```
//!
//! A run gets the lowest number that is free, so that it does not learn how many were there before it.
//!
//! Every kernel feature is used if it is there and done without if not: a smaller guest kernel may
//! lack controllers, or cgroups altogether. There is no `memory.oom.group`: a command that runs out
//! of memory loses its biggest process, as on any Linux, and sees it fail.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::rc::Rc;

use rustix::fs::{AtFlags, CWD, Mode, OFlags, mkdirat, openat, unlinkat};
use rustix::io::Errno;

/// Where boot mounts the cgroup file system.
pub(crate) const MOUNT_POINT: &str = "/sys/fs/cgroup";

/// Controllers that limit runs, in the order of their importance.
const CONTROLLERS: [&str; 3] = ["pids", "memory", "cpu"];

/// Memory that runs cannot take, of what is available at boot: the agent's buffers, and what the
/// kernel charges to nobody. Without it a command that fills the memory makes the machine crawl
/// long before the kernel kills it.
const MEMORY_RESERVE_BYTES: u64 = 32 * 1024 * 1024;

/// Processes and threads of all runs together, however large the machine.
const PIDS_MAX: u64 = 4096;

/// Of the kernel's own limit, what runs cannot take.
const PIDS_RESERVE: u64 = 256;

/// Far more runs than there can be, with what they leave.
const NUMBER_MAX: u32 = 100_000;

/// Control files are a few lines; nothing of interest comes later.
const CONTROL_FILE_BYTES: usize = 1024;

/// What the machine has, as a base for the limits.
#[derive(Debug, Clone, Copy)]
pub(crate) struct MachineLimits {
    memory_available_bytes: u64,
    threads_max: u64,
}

impl MachineLimits {
    /// What there is now: to be asked before the first command runs.
    pub(crate) fn read() -> io::Result<Self> {
        let memory = fs_err::read_to_string("/proc/meminfo")?;
        let threads = fs_err::read_to_string("/proc/sys/kernel/threads-max")?;
        let malformed = || io::Error::from(io::ErrorKind::InvalidData);
        Ok(Self {
            memory_available_bytes: available_bytes(&memory).ok_or_else(malformed)?,
            threads_max: threads.trim().parse().map_err(|_| malformed())?,
        })
    }
}

/// The cgroup of all runs.
#[derive(Debug)]
pub(crate) struct RunsCgroup {
    directory: Rc<OwnedFd>,
    pids_max_per_run: u64,
    /// Made ahead, because it takes the kernel long: for the run that comes next, which in a VM that
    /// was restored from a template is the first.
    prepared: Option<RunCgroup>,
}

/// The cgroup of one run.
#[derive(Debug)]
pub(crate) struct RunCgroup {
    parent: Rc<OwnedFd>,
    name: String,
    directory: OwnedFd,
    events: OwnedFd,
}

impl RunsCgroup {
    /// Sets the cgroups up below [`MOUNT_POINT`]; fails where the kernel has none.
    pub(crate) fn create(machine: MachineLimits) -> io::Result<Self> {
        let root = open_directory(CWD, MOUNT_POINT)?;
        enable_controllers(&root)?;
        mkdirat(&root, "pyro", Mode::from_raw_mode(0o755))?;
        let directory = open_directory(&root, "pyro")?;
        enable_controllers(&directory)?;

        let pids_max = pids_max(machine.threads_max);
        let memory_max = memory_max(machine.memory_available_bytes);
        write_if_present(&directory, "pids.max", &pids_max.to_string())?;
        write_if_present(&directory, "memory.max", &memory_max.to_string())?;
        Ok(Self {
            directory: Rc::new(directory),
            // A fork bomb leaves the other runs as much as it takes.
            pids_max_per_run: pids_max / 2,
            prepared: None,
        })
    }

    /// Makes the next run's cgroup ahead.
    pub(crate) fn prepare(&mut self) {
        if self.prepared.is_none() {
            // Whoever needs it tries again, and tells why it cannot be had.
            self.prepared = self.create_run().ok();
        }
    }

    /// A cgroup for one run.
    pub(crate) fn take_run(&mut self) -> io::Result<RunCgroup> {
        self.prepared.take().map_or_else(|| self.create_run(), Ok)
    }

    fn create_run(&self) -> io::Result<RunCgroup> {
        let name = make_lowest(&self.directory)?;
        let directory = open_directory(&self.directory, &name)?;
        write_if_present(&directory, "pids.max", &self.pids_max_per_run.to_string())?;
        let events = openat(&directory, "cgroup.events", READ, Mode::empty())?;
        Ok(RunCgroup { parent: Rc::clone(&self.directory), name, directory, events })
    }
}

/// Makes the first of `run-1`, `run-2`, … that is not there yet in `parent`. A command may have made some.
fn make_lowest(parent: &OwnedFd) -> io::Result<String> {
    for number in 1..=NUMBER_MAX {
        let name = format!("run-{number}");
        match mkdirat(parent, &name, Mode::from_raw_mode(0o755)) {
            Ok(()) => return Ok(name),
            Err(Errno::EXIST) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Err(Errno::EXIST.into())
}

impl RunCgroup {
    /// The directory, as `clone3` wants it.
    pub(crate) fn directory(&self) -> BorrowedFd<'_> {
        self.directory.as_fd()
    }

    /// Reports `POLLPRI` when [`Self::is_populated`] may have changed since it was last asked.
    pub(crate) fn events(&self) -> BorrowedFd<'_> {
        self.events.as_fd()
    }

    /// Whether a process lives in it. Zombies do not count.
    pub(crate) fn is_populated(&self) -> bool {
        read_value(&self.events, "populated") == Some(1)
    }

    /// Kills every process in it, and every one being forked.
    pub(crate) fn kill(&self) -> io::Result<()> {
        let file = openat(&self.directory, "cgroup.kill", WRITE, Mode::empty())?;
        rustix::io::write(&file, b"1")?;
        Ok(())
    }

    /// Whether the kernel killed a process in it because memory ran out.
    pub(crate) fn ran_out_of_memory(&self) -> bool {
        openat(&self.directory, "memory.events", READ, Mode::empty())
            .ok()
            .and_then(|events| read_value(&events, "oom_kill"))
            .is_some_and(|kills| kills > 0)
    }
}

impl Drop for RunCgroup {
    fn drop(&mut self) {
        // Fails if a command made cgroups of its own below: they then stay until the VM's end.
        let _ = unlinkat(&*self.parent, &self.name, AtFlags::REMOVEDIR);
    }
}

const READ: OFlags = OFlags::RDONLY.union(OFlags::CLOEXEC);
const WRITE: OFlags = OFlags::WRONLY.union(OFlags::CLOEXEC);

fn open_directory(at: impl AsFd, path: &str) -> io::Result<OwnedFd> {
    Ok(openat(at, path, READ | OFlags::DIRECTORY, Mode::empty())?)
}

/// Lets the children of a cgroup be limited by every controller this kernel has.
fn enable_controllers(cgroup: &OwnedFd) -> io::Result<()> {
    let available = openat(cgroup, "cgroup.controllers", READ, Mode::empty())?;
    let mut buffer = [0; CONTROL_FILE_BYTES];
    let length = rustix::io::read(&available, &mut buffer)?;
    let request = controllers_request(&buffer[..length]);
    write_if_present(cgroup, "cgroup.subtree_control", &request)
}

fn controllers_request(available: &[u8]) -> String {
    let available: Vec<&[u8]> = available.split(u8::is_ascii_whitespace).collect();
    let wanted = CONTROLLERS.iter().filter(|name| available.contains(&name.as_bytes()));
    wanted.fold(String::new(), |request, name| request + "+" + name + " ")
}

fn write_if_present(cgroup: &OwnedFd, file: &str, value: &str) -> io::Result<()> {
    match openat(cgroup, file, WRITE, Mode::empty()) {
        Ok(file) => {
            rustix::io::write(&file, value.as_bytes())?;
            Ok(())
        }
        Err(Errno::NOENT) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

fn read_value(file: &OwnedFd, key: &str) -> Option<u64> {
    let mut buffer = [0; CONTROL_FILE_BYTES];
    let length = rustix::io::pread(file, &mut buffer, 0).ok()?;
    value_of(&buffer[..length], key)
}

/// Finds `key` in a flat keyed file: one `key value` per line.
fn value_of(file: &[u8], key: &str) -> Option<u64> {
    let text = str::from_utf8(file).ok()?;
    let mut entries = text.lines().filter_map(|line| line.split_once(' '));
    entries.find(|(name, _)| *name == key)?.1.trim().parse().ok()
}

/// Finds `MemAvailable` in `/proc/meminfo`.
fn available_bytes(meminfo: &str) -> Option<u64> {
    let value = meminfo.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kibibytes: u64 = value.trim().strip_suffix(" kB")?.parse().ok()?;
    Some(kibibytes * 1024)
}

fn pids_max(threads_max: u64) -> u64 {
    threads_max.saturating_sub(PIDS_RESERVE).clamp(PIDS_RESERVE, PIDS_MAX)
}

/// At least half of what is available, should a machine ever be that small.
fn memory_max(available_bytes: u64) -> u64 {
    available_bytes.saturating_sub(MEMORY_RESERVE_BYTES).max(available_bytes / 2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_found_by_their_whole_key() {
        let events = b"low 0\noom 3\noom_kill 1\noom_group_kill 0\n";
        assert_eq!(value_of(events, "oom_kill"), Some(1));
        assert_eq!(value_of(events, "oom_ki"), None);
        assert_eq!(value_of(b"populated 1\nfrozen 0\n", "populated"), Some(1));
        assert_eq!(value_of(b"populated", "populated"), None);
    }

    #[test]
    fn only_controllers_the_kernel_has_are_asked_for() {
        assert_eq!(controllers_request(b"cpuset cpu io pids\n"), "+pids +cpu ");
        assert_eq!(controllers_request(b""), "");
    }

    #[test]
    fn the_available_memory_is_found() {
        let meminfo = "MemTotal:         996756 kB\nMemAvailable:     880688 kB\n";
        assert_eq!(available_bytes(meminfo), Some(880_688 * 1024));
        assert_eq!(available_bytes("MemTotal: 1 kB"), None);
    }

    #[test]
    fn runs_never_get_all_processes_and_all_memory() {
        assert_eq!(pids_max(1_700), 1_444);
        assert_eq!(pids_max(1_000_000), PIDS_MAX);
        let memory = 1024 * 1024 * 1024;
        assert_eq!(memory_max(memory), memory - MEMORY_RESERVE_BYTES);
        assert_eq!(memory_max(MEMORY_RESERVE_BYTES), MEMORY_RESERVE_BYTES / 2);
    }
}
