//! The command on the host itself: only where the user allows it, and only where no VM can be had.

use pyro_vm_tests::{Host, Pyro};

const WARNING: &str = "warning: no VM can be had, running the command on this host WITHOUT any \
                       boundary";

/// On a host whose QEMU is not to be found.
fn without_qemu(pyro: Pyro, host: &Host) -> Pyro {
    pyro.variable("PATH", host.directory().to_str().unwrap())
}

fn host_kernel() -> String {
    fs_err::read_to_string("/proc/sys/kernel/osrelease").unwrap()
}

#[test]
fn without_a_vm_the_command_runs_on_the_host_if_that_is_allowed() {
    let host = Host::new();
    let options = ["--allow-host-compat", "--json"];
    let outcome = without_qemu(host.run(&options, &["uname", "-r"]), &host).outcome();
    assert_eq!(outcome.exit_code(), 0, "{outcome:?}");
    let document = outcome.json();
    assert_eq!(document["execution_mode"], "host_compat");
    assert_eq!(document["stdout"], host_kernel());
    for key in ["accelerator", "vm_start", "restore_failure"] {
        assert_eq!(document[key], serde_json::Value::Null, "{key}");
    }
    assert!(outcome.stderr.contains(WARNING), "{}", outcome.stderr);
    assert!(outcome.stderr.contains("qemu-system-x86_64"), "{}", outcome.stderr);
}

#[test]
fn on_the_host_a_time_out_ends_the_command_as_well() {
    let host = Host::new();
    let options = ["--allow-host-compat", "--timeout-seconds", "1"];
    let words = ["sh", "-c", "echo partial; sleep 1000"];
    let outcome = without_qemu(host.run(&options, &words), &host).outcome();
    assert_eq!(outcome.exit_code(), 124);
    assert_eq!(outcome.text(), "partial\n");
}

#[test]
fn on_the_host_a_command_gets_its_variables_and_its_directory() {
    let host = Host::new();
    let run = |options: &[&str]| {
        let options = [&["--allow-host-compat"], options].concat();
        host.run(&options, &["sh", "-c", "echo $GREETING from $PWD"])
    };
    let outcome = without_qemu(run(&["-e", "GREETING=hi", "-w", "/tmp"]), &host).outcome();
    assert_eq!(outcome.success(), "hi from /tmp\n");
    let outcome = without_qemu(run(&["--json", "-w", "/nowhere"]), &host).outcome();
    assert_eq!(outcome.json_error()["message"], "cannot start the command on the host");
}

#[test]
fn without_permission_nothing_runs_on_the_host() {
    let host = Host::new();
    let trace = host.directory().join("trace");
    let words = ["touch", trace.to_str().unwrap()];
    let outcome = without_qemu(host.run(&["--json"], &words), &host).outcome();
    let error = outcome.json_error();
    assert_eq!(error["code"], "host_unsupported");
    assert_eq!(error["message"], "`qemu-system-x86_64` is not installed");
    assert_eq!(error["hints"][0], "install it: `sudo apt-get install qemu-system-x86`");
    assert!(!trace.exists());
}

#[test]
fn with_a_vm_the_command_runs_in_it_whatever_is_allowed() {
    let host = Host::new();
    let outcome = host.run(&["--allow-host-compat", "--json"], &["uname", "-r"]).outcome();
    let document = outcome.json();
    assert_eq!(document["execution_mode"], "guest");
    assert_ne!(document["stdout"], host_kernel());
    assert_eq!(outcome.stderr, "");
}

#[test]
fn a_lost_vm_is_no_reason_to_run_on_the_host() {
    let host = Host::new();
    let words = ["sh", "-c", "echo b > /proc/sysrq-trigger; sleep 1000"];
    let outcome = host.run(&["--allow-host-compat", "--json"], &words).outcome();
    assert_eq!(outcome.json_error()["code"], "vm_lost");
}
