//! What a build could leave on the host: processes and mounts.

use std::path::Path;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

/// A killed process is gone as soon as its exit has been handled.
const EXIT_DURATION_MAX: Duration = Duration::from_secs(20);

/// Waits until no process works for a build in `store`, and fails if one does
/// so beyond the deadline.
pub(crate) fn wait_until_no_process_works_in(store: &Path) {
    let deadline = Instant::now() + EXIT_DURATION_MAX;
    loop {
        let processes = processes_working_in(store);
        if processes.is_empty() {
            return;
        }
        for &pid in &processes {
            let remaining = deadline.saturating_duration_since(Instant::now());
            assert!(!remaining.is_zero(), "still there: {}", describe(&processes));
            // It may be gone by now, which is what is being waited for.
            let Ok(pidfd) = pidfd_open(pid, PidfdFlags::empty()) else { continue };
            let timeout = Timespec::try_from(remaining).unwrap();
            poll(&mut [PollFd::new(&pidfd, PollFlags::IN)], Some(&timeout)).unwrap();
        }
    }
}

/// Everything that a build starts has the store's path in its environment,
/// its arguments, its root or its working directory.
pub(crate) fn processes_working_in(store: &Path) -> Vec<Pid> {
    let path = store.to_str().unwrap();
    let mentions = |process: &Path, file: &str| {
        fs_err::read(process.join(file))
            .is_ok_and(|bytes| String::from_utf8_lossy(&bytes).contains(path))
    };
    let is_in = |process: &Path, link: &str| {
        fs_err::read_link(process.join(link)).is_ok_and(|target| target.starts_with(store))
    };
    let own = std::process::id().to_string();
    let mut found = Vec::new();
    for entry in fs_err::read_dir("/proc").unwrap().flatten() {
        let name = entry.file_name();
        let Some(pid) = name.to_str().and_then(|name| name.parse().ok()).and_then(Pid::from_raw)
        else {
            continue;
        };
        let process = entry.path();
        let works = mentions(&process, "environ")
            || mentions(&process, "cmdline")
            || is_in(&process, "root")
            || is_in(&process, "cwd");
        if works && name.to_str() != Some(&own) {
            found.push(pid);
        }
    }
    found
}

fn describe(processes: &[Pid]) -> String {
    let commands = processes.iter().map(|pid| {
        let command = fs_err::read(format!("/proc/{}/cmdline", pid.as_raw_nonzero()));
        String::from_utf8_lossy(&command.unwrap_or_default()).replace('\0', " ")
    });
    commands.collect::<Vec<_>>().join("; ")
}

pub(crate) fn assert_no_mount_in(store: &Path) {
    let mounts = fs_err::read_to_string("/proc/self/mountinfo").unwrap();
    let path = store.to_str().unwrap();
    let left: Vec<_> = mounts.lines().filter(|line| line.contains(path)).collect();
    assert!(left.is_empty(), "{left:#?}");
}
