//! What an idle VM takes of the host's memory: pages that no other process shares with it.

use std::process::Command;

use crate::bench::process::{self, Input, Running};

/// What the guest runs: it says that it is there, and waits for ever.
pub(in crate::bench) const IDLE: [&str; 3] = ["sh", "-c", "echo ready; read x || true"];

/// Private megabytes of one VM's processes, each the mean over all VMs.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct PrivateMegabytes {
    pub(super) qemu: f64,
    pub(super) supervisor: f64,
    pub(super) client: f64,
}

/// Starts `count` VMs with `command`, which runs [`IDLE`], and looks at them while all are idle.
pub(super) fn of_idle_vms(
    command: &dyn Fn() -> Command,
    count: u32,
) -> Result<PrivateMegabytes, String> {
    let mut vms = Vec::new();
    for _ in 0..count {
        vms.push(Running::start(&mut command(), Input::OpenUntilReleased)?);
    }
    for vm in &mut vms {
        vm.wait_for("ready\n")?;
    }
    let mut sum = [0; 3];
    for vm in &vms {
        for (sum, bytes) in sum.iter_mut().zip(private_bytes_of_chain(vm.id())?) {
            *sum += bytes;
        }
    }
    for vm in vms {
        vm.finish()?;
    }
    let [client, supervisor, qemu] = sum.map(|bytes| f64_of(bytes) / 1e6 / f64::from(count.max(1)));
    Ok(PrivateMegabytes { qemu, supervisor, client })
}

/// Of the client, of its only child the supervisor, and of its only child QEMU.
fn private_bytes_of_chain(client: u32) -> Result<[u64; 3], String> {
    let supervisor = only_child(client)?;
    let qemu = only_child(supervisor)?;
    Ok([private_bytes(client)?, private_bytes(supervisor)?, private_bytes(qemu)?])
}

fn only_child(parent: u32) -> Result<u32, String> {
    let children = process::children(parent).map_err(|error| error.to_string())?;
    match children.as_slice() {
        [child] => Ok(*child),
        _ => Err(format!("process {parent} should have one child, but has {children:?}")),
    }
}

fn private_bytes(process: u32) -> Result<u64, String> {
    let path = format!("/proc/{process}/smaps_rollup");
    let text = fs_err::read_to_string(&path).map_err(|error| error.to_string())?;
    match sum_of_private(&text) {
        0 => Err(format!("no private memory in {path}")),
        bytes => Ok(bytes),
    }
}

/// The sum of `Private_Clean`, `Private_Dirty` and `Private_Hugetlb`.
fn sum_of_private(rollup: &str) -> u64 {
    let lines = rollup.lines().filter(|line| line.starts_with("Private_"));
    let kibibytes = lines.filter_map(|line| line.split_whitespace().nth(1)?.parse::<u64>().ok());
    kibibytes.sum::<u64>() * 1024
}

#[allow(clippy::cast_precision_loss, reason = "memory of a process is far below 2^53 bytes")]
fn f64_of(bytes: u64) -> f64 {
    bytes as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_private_pages_count_and_no_shared_ones() {
        let rollup = "\
55d0-7ffd ---p 00000000 00:00 0    [rollup]
Rss:                1000 kB
Shared_Clean:        500 kB
Private_Clean:         2 kB
Private_Dirty:        10 kB
Private_Hugetlb:       4 kB
";
        assert_eq!(sum_of_private(rollup), 16 * 1024);
    }

    #[test]
    fn this_process_has_private_memory() {
        assert!(private_bytes(std::process::id()).unwrap() > 0);
    }
}
