//! Disks that are too small, in a mount namespace of the test's own.

use std::process::Command;

use rustix::process::geteuid;

use crate::puller::{EXECUTABLE, Ended, PullRequest, Puller};
use crate::store::scratch_directory;

/// Pulls into a new file system that is mounted with `options`, then lists
/// what is left on it as lines that begin with `left `.
fn pull_onto_tmpfs(options: &str) -> Ended {
    const SCRIPT: &str = "mount -t tmpfs -o \"$1\" tmpfs \"$2\" || exit 99; directory=$2; shift 2
        \"$@\"; status=$?; find \"$directory\" -printf 'left %P\\n'; exit $status";
    let scratch = scratch_directory();
    let mut command = Command::new("unshare");
    if !geteuid().is_root() {
        command.args(["--user", "--map-root-user", "--map-auto"]);
    }
    command
        .args(["--mount", "sh", "-c", SCRIPT, "sh", options])
        .arg(scratch.path())
        .arg(EXECUTABLE);
    let store = scratch.path().join("store");
    Puller::spawn(PullRequest::into(&store).add_to(&mut command)).end()
}

#[test]
fn a_disk_that_is_too_small_is_refused_before_anything_is_created() {
    let ended = pull_onto_tmpfs("size=100m");
    assert!(ended.error().starts_with("NoSpace"), "{:#?}", ended.lines);
    assert!(ended.error().contains("available_bytes: 104857600"), "{:#?}", ended.lines);
    let left: Vec<_> = ended.lines.iter().filter(|line| line.starts_with("left ")).collect();
    assert_eq!(left, ["left "], "the mount point itself");
}

#[test]
fn a_disk_that_fills_up_during_the_build_is_named_and_cleaned() {
    // Free bytes promise enough, but there are too few inodes for the tree.
    let ended = pull_onto_tmpfs("size=3g,nr_inodes=1500");
    assert!(ended.error().starts_with("NoSpace"), "{:#?}", ended.lines);
    assert!(ended.has_line("left store/partial"), "the build had begun");
    assert!(!ended.has_line("left store/partial/"), "{:#?}", ended.lines);
    assert!(!ended.has_line("left store/images/"), "{:#?}", ended.lines);
}
