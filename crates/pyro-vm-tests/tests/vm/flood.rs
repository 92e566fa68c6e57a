//! Output that comes faster than it is read.

use std::io::Read;
use std::time::Duration;

use pyro_vm_tests::{Host, Role};

const FLOOD_BYTES: usize = 200_000_000;

/// Too much to be kept anywhere on the way.
const GIGABYTE: u64 = 1_000_000_000;

/// Long enough for a flood to fill whatever buffer there were.
const UNREAD: Duration = Duration::from_secs(5);

const GUEST_MEMORY_MIB: u64 = 256;

/// What QEMU takes beside the guest's memory; most of it is translated code.
const QEMU_OWN_MIB_MAX: u64 = 160;

/// What a process that passes the output on may take. The flood is ten times as much.
const PASSING_ON_MIB_MAX: u64 = 20;

#[test]
fn a_flood_waits_for_its_reader_and_arrives_whole() {
    let host = Host::new();
    let memory = GUEST_MEMORY_MIB.to_string();
    let script = format!("seq 30000000 | head -c {FLOOD_BYTES}");
    let pyro = host.run(&["--mem-mib", &memory], &["sh", "-c", &script]);
    let (running, mut stdout) = pyro.start_unread();

    let mut flood = Expected::default();
    let mut buffer = vec![0; 1 << 20];
    stdout.read_exact(&mut buffer[..1]).unwrap();
    flood.check(&buffer[..1]);
    assert!(!running.ends_within(UNREAD), "nobody has read the output");
    while flood.bytes < FLOOD_BYTES - buffer.len() {
        let count = stdout.read(&mut buffer).unwrap();
        assert_ne!(count, 0, "the output ends after {} bytes", flood.bytes);
        flood.check(&buffer[..count]);
    }

    let processes = [running.itself(), running.process(Role::Supervisor)];
    for process in processes {
        let peak = process.peak_memory_mib();
        assert!(peak <= PASSING_ON_MIB_MAX, "{peak} MiB: {process:?}");
    }
    let peak = running.process(Role::Qemu).peak_memory_mib();
    assert!(peak <= GUEST_MEMORY_MIB + QEMU_OWN_MIB_MAX, "{peak} MiB");

    let mut rest = Vec::new();
    stdout.read_to_end(&mut rest).unwrap();
    flood.check(&rest);
    assert_eq!(flood.bytes, FLOOD_BYTES);
    assert_eq!(running.outcome().exit_code(), 0);
}

#[test]
fn a_gigabyte_passes_and_is_kept_nowhere() {
    let host = Host::new();
    // The command waits for its input to end, so that everybody is still there to be measured.
    let script = format!("head -c {GIGABYTE} /dev/zero; read end");
    let (mut running, mut stdout) = host.run(&[], &["sh", "-c", &script]).start_unread();
    let (mut buffer, zeros) = (vec![0; 1 << 20], vec![0; 1 << 20]);
    let mut left = GIGABYTE;
    while left > 0 {
        let count = stdout.read(&mut buffer).unwrap();
        assert_ne!(count, 0, "the output ends {left} bytes too early");
        assert!(buffer[..count] == zeros[..count]);
        left = left.checked_sub(count as u64).expect("no more than was written");
    }
    for process in [running.itself(), running.process(Role::Supervisor)] {
        let peak = process.peak_memory_mib();
        assert!(peak <= PASSING_ON_MIB_MAX, "{peak} MiB: {process:?}");
    }
    running.send("\n");
    assert_eq!(stdout.read(&mut buffer).unwrap(), 0);
    assert_eq!(running.outcome().exit_code(), 0);
}

#[test]
fn standard_error_does_not_wait_for_a_reader_of_standard_output() {
    let host = Host::new();
    // The guest's pause is for the flood to come to a stand; were it too short, the test would only
    // show less.
    let script = "seq 300000 & sleep 2; echo note >&2; wait";
    let (running, mut stdout) = host.run(&[], &["sh", "-c", script]).start_unread();
    running.wait_for_stderr("note\n");
    let mut flood = String::new();
    stdout.read_to_string(&mut flood).unwrap();
    assert!(flood.ends_with("300000\n"));
    assert_eq!(running.outcome().exit_code(), 0);
}

#[test]
fn pyro_ends_when_nobody_reads_its_output_any_more() {
    let host = Host::new();
    let (running, mut stdout) = host.run(&[], &["yes"]).start_unread();
    let mut line = [0; 2];
    stdout.read_exact(&mut line).unwrap();
    assert_eq!(&line, b"y\n");
    drop(stdout);
    let outcome = running.outcome();
    assert_eq!(outcome.exit_code(), 141);
    assert_eq!(outcome.stderr, "");
}

#[test]
fn output_that_cannot_be_written_is_told_from_output_that_nobody_wants() {
    let host = Host::new();
    let full = fs_err::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let outcome = host.run(&[], &["echo", "lost"]).outcome_into(full.into());
    assert_eq!(outcome.exit_code(), 125);
    assert!(outcome.stderr.contains("No space left on device"), "{}", outcome.stderr);
}

/// What `seq` prints, compared piece by piece.
#[derive(Default)]
struct Expected {
    bytes: usize,
    number: u32,
    /// What of the last number is still to come.
    line: Vec<u8>,
}

impl Expected {
    fn check(&mut self, piece: &[u8]) {
        let mut expected = std::mem::take(&mut self.line);
        while expected.len() < piece.len() {
            self.number += 1;
            expected.extend_from_slice(self.number.to_string().as_bytes());
            expected.push(b'\n');
        }
        self.line = expected.split_off(piece.len());
        assert!(expected == piece, "other bytes than expected after {}", self.bytes);
        self.bytes += piece.len();
    }
}
