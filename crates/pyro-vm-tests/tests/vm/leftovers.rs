//! What many runs leave behind: nothing.

use std::path::Path;
use std::time::Duration;

use pyro_vm_tests::{Host, Role, Vms, copy_cache};
use rustix::fs::{FlockOperation, flock};
use serde_json::{Value, json};

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

#[test]
fn the_doctor_shows_what_a_killed_supervisor_left_until_somebody_looks_after_it() {
    let host = Host::new();
    let vms = host.vms();
    let id = vms.create(&["--start"]);
    let living = vms.create(&[]);
    let directory = vms.directory(&id);
    assert_eq!(leftover_vms(&vms), Vec::<Value>::new(), "both live");
    let supervisor = vms.supervisor(&id).unwrap();
    let qemu = vms.process(Role::Qemu);
    supervisor.kill();
    for process in [supervisor, qemu] {
        assert!(process.ends_within(Duration::from_mins(1)));
    }
    let expected = json!({ "kind": "vm", "path": directory, "remedy": "pyro vm list" });
    for _ in 0..2 {
        assert_eq!(leftover_vms(&vms), std::slice::from_ref(&expected), "looking deletes nothing");
    }
    let text = vms.pyro(&["doctor"]).outcome().success().to_owned();
    assert!(text.contains(directory.to_str().unwrap()), "{text}");
    assert!(text.contains("remedy: pyro doctor --fix\n"), "{text}");
    vms.vm(&["list"]).outcome().success();
    assert_eq!(leftover_vms(&vms), Vec::<Value>::new());
    assert!(!directory.exists());
    vms.vm(&["delete", &living]).outcome().success();
}

#[test]
fn the_doctor_removes_what_a_killed_supervisor_left_and_leaves_a_living_vm_alone() {
    let host = Host::new();
    let vms = host.vms();
    let id = vms.create(&["--start"]);
    let living = vms.create(&[]);
    let directory = vms.directory(&id);
    let supervisor = vms.supervisor(&id).unwrap();
    let qemu = vms.process(Role::Qemu);
    supervisor.kill();
    for process in [supervisor, qemu] {
        assert!(process.ends_within(Duration::from_mins(1)));
    }
    let report = vms.pyro(&["doctor", "--fix", "--json"]).outcome().json();
    let expected = json!({ "action": "removed", "kind": "vm", "path": directory });
    let fixed = report["fixed"].as_array().unwrap();
    assert!(fixed.contains(&expected), "{fixed:#?}");
    assert!(!directory.exists());
    vms.vm(&["start", &living]).outcome().success();
    vms.vm(&["delete", &living]).outcome().success();
}

/// There are none where the host lets nobody make groups.
#[test]
fn the_control_groups_of_a_killed_supervisor_go_with_the_next_look() {
    let host = Host::new();
    let vms = host.vms();
    vms.create(&["--start"]);
    let qemu = vms.process(Role::Qemu);
    let groups = qemu.control_groups();
    let supervisor = vms.process(Role::Supervisor);
    supervisor.kill();
    for process in [supervisor, qemu] {
        assert!(process.ends_within(Duration::from_mins(1)));
    }
    vms.vm(&["list"]).outcome().success();
    assert!(!groups.iter().any(|group| group.exists()), "{groups:?}");
}

/// What the doctor says of VMs. Their control groups, and whatever is below the cache directory, may be
/// those of other tests.
fn leftover_vms(vms: &Vms<'_>) -> Vec<Value> {
    let report = vms.pyro(&["doctor", "--json"]).outcome().json();
    let leftovers = report["leftovers"].as_array().unwrap();
    leftovers.iter().filter(|leftover| leftover["kind"] == "vm").cloned().collect()
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
