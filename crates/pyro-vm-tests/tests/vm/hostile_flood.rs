//! A guest that sends more than anybody can take, or takes nothing: memory stays bounded, and whoever
//! wants the end gets it.

use std::io::Write;
use std::time::Duration;

use pyro_vm_tests::{Host, Role, Running};
use rustix::process::Signal;

use crate::hostile_agent::pyro_with;

/// What supervisor and client may take each, whatever the guest sends. Some 16 MiB are pages of the executable, which is
/// large where it is not optimised; less than 2 MiB are its own when a VM has started.
const MEMORY_MIB_MAX: u64 = 24;

/// Long enough for whatever flows to fill whatever buffer there were.
const STALLED: Duration = Duration::from_secs(2);

/// More than all buffers between here and the guest hold.
const INPUT_BYTES: usize = 64 << 20;

const FLOODED_SIDE_LINES: &str = "floods console, monitor and standard error";

#[test]
fn a_flood_of_console_monitor_and_complaints_is_bounded_and_ends_with_a_signal() {
    let host = Host::new();
    let running = pyro_with(&host, &[], FLOODED_SIDE_LINES).start();
    running.wait_for_stdout("flooded\n");
    assert_memory_is_bounded(&running);
    running.signal(Signal::INT);
    assert_eq!(running.outcome().exit_code(), 130);
}

#[test]
fn a_flood_of_console_monitor_and_complaints_ends_with_its_client() {
    let host = Host::new();
    let running = pyro_with(&host, &["--verbose"], FLOODED_SIDE_LINES).start();
    running.wait_for_stderr(" is up (");
    running.kill();
}

#[test]
fn a_flood_of_console_monitor_and_complaints_ends_with_its_time_out() {
    let host = Host::new();
    let options = ["--json", "--timeout-seconds", "1"];
    let outcome = pyro_with(&host, &options, FLOODED_SIDE_LINES).outcome();
    assert_eq!(outcome.exit_code(), 124, "{outcome:?}");
}

#[test]
fn a_guest_that_gives_up_while_it_floods_the_console_is_a_lost_vm() {
    let host = Host::new();
    let case = "floods console and monitor, and gives up";
    let error = pyro_with(&host, &["--json"], case).outcome().json_error();
    assert_eq!(error["code"], "vm_lost", "{error:#}");
    assert_eq!(error["causes"][0], "the guest's agent gave up: enough");
}

#[test]
fn output_in_the_smallest_of_frames_for_a_client_that_does_not_read_is_bounded() {
    let host = Host::new();
    let case = "floods the port in the smallest of frames";
    let (running, stdout) = pyro_with(&host, &[], case).start_unread();
    running.wait_for_stderr("flooded\n");
    assert_memory_is_bounded(&running);
    running.signal(Signal::INT);
    assert_eq!(running.outcome().exit_code(), 130);
    drop(stdout);
}

#[test]
fn input_for_a_guest_that_does_not_read_is_bounded() {
    let host = Host::new();
    let mut running = pyro_with(&host, &[], "never reads the port any more").start();
    running.wait_for_stdout("deaf\n");
    let mut stdin = running.stdin.take().unwrap();
    // It fails when `pyro` ends.
    let writer = std::thread::spawn(move || stdin.write_all(&vec![b'x'; INPUT_BYTES]).is_err());
    assert!(!running.ends_within(STALLED));
    assert_memory_is_bounded(&running);
    running.signal(Signal::INT);
    assert_eq!(running.outcome().exit_code(), 130);
    assert!(writer.join().unwrap(), "somebody took all of the input");
}

fn assert_memory_is_bounded(running: &Running) {
    for process in [running.itself(), running.process(Role::Supervisor)] {
        let peak = process.peak_memory_mib();
        assert!(peak <= MEMORY_MIB_MAX, "{peak} MiB: {process:?}");
    }
}
