//! What many runs leave behind: nothing.

use std::path::Path;

use pyro_vm_tests::{Host, copy_cache};
use rustix::fs::{FlockOperation, flock};

const RUNS: usize = 50;
const AT_ONCE: usize = 2;

/// For each run the harness checks that no process is left, and so no descriptor; for the host,
/// that no file and no mount is.
#[test]
fn fifty_runs_in_a_row_leave_nothing_behind() {
    let host = Host::for_vms(AT_ONCE);
    let cache = host.directory().join("cache");
    copy_cache(&cache);
    let run = || {
        let pyro = host.run(&[], &["true"]);
        pyro.variable("PYRO_ENVIRONMENT_CACHE_DIR", cache.to_str().unwrap()).outcome().success();
    };
    // The first one makes the template, and keeps what it has found out about the host's KVM.
    run();
    let before = listing(&cache);
    std::thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                for _ in 0..RUNS / AT_ONCE {
                    run();
                }
            });
        }
    });
    host.assert_nothing_left();
    assert_eq!(listing(&cache), before);
    for path in before {
        let file = fs_err::File::open(&path).unwrap();
        let locked = flock(file.file(), FlockOperation::NonBlockingLockExclusive);
        assert!(locked.is_ok(), "somebody holds a lock on {path}");
    }
}

/// Everything below `directory`, in order.
fn listing(directory: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for entry in fs_err::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        found.push(path.to_str().unwrap().to_owned());
        if path.is_dir() {
            found.extend(listing(&path));
        }
    }
    found.sort();
    found
}
