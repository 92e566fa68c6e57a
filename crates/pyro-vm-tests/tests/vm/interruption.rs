//! Whoever ends, and in whatever order: nothing is left, and whoever remains says what happened.

use std::os::unix::fs::PermissionsExt;

use pyro_vm_tests::{BASE, Host, Pyro, Role, copy_cache};
use rustix::process::Signal;

const SIGNALS: [(Signal, i32); 3] = [(Signal::INT, 130), (Signal::TERM, 143), (Signal::HUP, 129)];

/// How VMs start, by `PYRO_START`, and what `--verbose` says on the way.
const STARTS: [(&str, &str); 2] =
    [("boot", "pyro: booting a VM\n"), ("restore", "pyro: restoring a VM\n")];
const RUNNING: &str = " is up (";

/// Where the real QEMU is.
const TOOL_PATH: &str = "/usr/sbin:/usr/bin:/sbin:/bin";

/// A run that never ends by itself.
fn endless(host: &Host) -> Pyro {
    host.run(&["--verbose", "--json"], &["sleep", "1000"])
}

#[test]
fn a_signal_during_the_boot_ends_everything() {
    let host = Host::new();
    for (start, starting) in STARTS {
        for (signal, code) in SIGNALS {
            let running = endless(&host).variable("PYRO_START", start).start();
            running.wait_for_stderr(starting);
            running.signal(signal);
            assert_eq!(running.outcome().exit_code(), code);
            host.assert_nothing_left();
        }
    }
}

#[test]
fn a_signal_during_the_run_ends_everything() {
    let host = Host::new();
    for (signal, code) in SIGNALS {
        let running = host.run(&[], &["sh", "-c", "echo started; sleep 1000"]).start();
        running.wait_for_stdout("started\n");
        running.signal(signal);
        let outcome = running.outcome();
        assert_eq!(outcome.exit_code(), code);
        assert_eq!(outcome.text(), "started\n");
        host.assert_nothing_left();
    }
}

#[test]
fn a_signal_during_a_pull_ends_everything() {
    let host = Host::new();
    // With the kernel there, the pull is at once where it mounts and runs things.
    let cache = host.directory().join("cache");
    copy_cache(&cache);
    for part in ["environments", "images"] {
        fs_err::remove_dir_all(cache.join(part)).unwrap();
    }
    let pull = ["env", "pull", BASE];
    let run = ["run", BASE, "--", "true"];
    let moments = [
        (&pull[..], "root filesystem: installing packages"),
        (&run, "root filesystem: downloading"),
        (&pull, "root filesystem: reading signed package lists"),
    ];
    for ((signal, code), (arguments, moment)) in SIGNALS.into_iter().zip(moments) {
        let pyro = host.pyro(arguments);
        let pyro = pyro.variable("PYRO_ENVIRONMENT_CACHE_DIR", cache.to_str().unwrap());
        let running = pyro.start();
        running.wait_for_stderr(moment);
        running.signal(signal);
        assert_eq!(running.outcome().exit_code(), code);
        host.assert_nothing_left();
        assert_eq!(fs_err::read_dir(cache.join("partial")).unwrap().count(), 0);
    }
}

#[test]
fn nothing_outlives_a_killed_pyro() {
    let host = Host::new();
    for (start, moment) in STARTS.into_iter().chain([("restore", RUNNING)]) {
        let running = endless(&host).variable("PYRO_START", start).start();
        running.wait_for_stderr(moment);
        running.kill();
        host.assert_nothing_left();
    }
}

#[test]
fn a_killed_supervisor_is_a_lost_vm() {
    let host = Host::new();
    for (start, moment) in STARTS.into_iter().chain([("restore", RUNNING)]) {
        let running = endless(&host).variable("PYRO_START", start).start();
        running.wait_for_stderr(moment);
        running.process(Role::Supervisor).kill();
        let error = running.outcome_after_a_kill().json_error();
        assert_eq!(error["code"], "vm_lost", "{error:#}");
        assert_eq!(error["message"], "cannot talk to the VM's supervisor");
        host.assert_nothing_left();
    }
}

#[test]
fn a_killed_qemu_during_the_run_is_a_lost_vm() {
    let host = Host::new();
    let running = endless(&host).start();
    running.wait_for_stderr(RUNNING);
    running.process(Role::Qemu).kill();
    let error = running.outcome().json_error();
    assert_eq!(error["code"], "vm_lost", "{error:#}");
    let message = error["message"].as_str().unwrap();
    assert!(message.starts_with("vm '") && message.ends_with("' is lost"), "{message}");
    assert!(error["causes"][0].as_str().unwrap().contains("signal: 9"), "{error:#}");
}

#[test]
fn a_killed_qemu_during_the_boot_is_a_failed_start() {
    let host = Host::new();
    let running = endless(&host).variable("PYRO_START", "boot").start();
    running.wait_for_process(Role::Qemu).kill();
    let error = running.outcome().json_error();
    assert_eq!(error["code"], "vm_start_failed", "{error:#}");
    assert_eq!(error["message"], "cannot boot the VM");
    assert_eq!(error["causes"][0], "QEMU ended during the boot (signal: 9 (SIGKILL))");
}

#[test]
fn a_qemu_that_does_not_start_is_quoted() {
    let host = Host::new();
    let program = host.directory().join("qemu-system-x86_64");
    let script = format!(
        "#!/bin/bash
        case $2 in none,*) ;; *) set -- \"$@\" -no-such-option ;; esac
        PATH={TOOL_PATH} exec qemu-system-x86_64 \"$@\"\n"
    );
    fs_err::write(&program, script).unwrap();
    fs_err::set_permissions(&program, PermissionsExt::from_mode(0o755)).unwrap();
    let path = format!("{}:{TOOL_PATH}", host.directory().display());
    let pyro = endless(&host).variable("PYRO_START", "boot").variable("PATH", &path);
    let error = pyro.outcome().json_error();
    assert_eq!(error["code"], "vm_start_failed", "{error:#}");
    assert!(error["causes"].to_string().contains("-no-such-option: invalid option"), "{error:#}");
}
