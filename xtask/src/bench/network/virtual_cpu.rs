//! How long the guest's CPU was at work: while it is all the time, nothing outside could make the guest faster.

use std::time::Duration;

use crate::bench::process::family;

/// The CPU time of the busiest thread of a QEMU that this process or one of its descendants started: while
/// much is transferred that is the one which is the guest's CPU. Zero where there is no QEMU.
pub(super) fn time() -> Duration {
    let is_qemu = |pid: &u32| {
        let name = fs_err::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        name.starts_with("qemu-system")
    };
    family().into_iter().filter(is_qemu).map(of_busiest_thread).max().unwrap_or_default()
}

fn of_busiest_thread(pid: u32) -> Duration {
    // A thread may end while it is looked at.
    let threads = fs_err::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let times = threads.filter_map(|thread| {
        let accounts = fs_err::read_to_string(thread.path().join("schedstat")).ok()?;
        accounts.split_whitespace().next()?.parse().ok().map(Duration::from_nanos)
    });
    times.max().unwrap_or_default()
}
