//! Connections: many, slow, half-closed, reset; and what they cost.

use pyro_vm_tests::internet::{DIGEST, ECHO, FLOOD, RESET, SOURCE, STUCK, WATCH, WWW_V4};
use pyro_vm_tests::{Host, Internet, Role, Running};

use super::{ATTEMPT, python};

/// What a supervisor of a VM without a network has at most, and the buffers of some connections. Without
/// optimisation, as the tests are.
const SUPERVISOR_MIB_MAX: u64 = 64;

/// How much of what nobody takes may be underway: what guest, supervisor and host have as buffers of one connection.
const UNDERWAY_BYTES_MAX: u64 = 24 << 20;

/// A Python program that runs until its input ends.
fn start(internet: &Internet<'_>, program: &str) -> Running {
    let program = format!("{ATTEMPT}\n{program}");
    internet.run(&[], &["python3", "-u", "-c", &program]).start()
}

/// The number after `text` in what was told.
#[track_caller]
fn number_after(told: &str, text: &str) -> u64 {
    let rest = told.split_once(text).unwrap_or_else(|| panic!("no `{text}` in {told}")).1;
    rest.split_whitespace().next().unwrap().parse().unwrap()
}

#[test]
fn what_is_sent_arrives_in_both_directions_and_a_half_closed_connection_goes_on() {
    let host = Host::new();
    let internet = Internet::new(&host);
    let program = format!(
        r#"
import hashlib
for address in "{WWW_V4}", "2a00:1450::80":
    # The answer comes when the guest has said that it sends no more.
    sent = hashlib.sha256()
    with socket.create_connection((address, {DIGEST})) as connection:
        for number in range(256):
            block = bytes([number]) * 65537
            connection.sendall(block)
            sent.update(block)
        connection.shutdown(socket.SHUT_WR)
        answer = connection.makefile().read()
    print(answer == f"{{256 * 65537}} {{sent.hexdigest()}}\n")
    with socket.create_connection((address, {SOURCE})) as connection:
        count = (32 << 20) + 5
        connection.sendall(f"{{count}}\n".encode())
        data = connection.makefile("rb").read()
    block = bytes(range(256))
    print(len(data) == count and data == (block * (count // 256 + 1))[:count])
"#
    );
    let seen = python(&internet, &[], &program);
    assert_eq!(seen.stdout, "True\n".repeat(4));
}

#[test]
fn five_hundred_connections_at_once_all_work_and_the_supervisor_stays_small() {
    let host = Host::new();
    let internet = Internet::new(&host);
    let program = format!(
        r#"
connections = []
for number in range(500):
    connections.append(socket.create_connection(("{WWW_V4}", {ECHO}), timeout=60))
for number, connection in enumerate(connections):
    connection.sendall(f"{{number:100000}}".encode())
for number, connection in enumerate(connections):
    assert int(connection.makefile().read(100000)) == number
print("all")
sys.stdin.read()
"#
    );
    let running = start(&internet, &program);
    running.wait_for_stdout("all\n");
    let peak_mib = running.process(Role::Supervisor).peak_memory_mib();
    assert!(peak_mib < 4 * SUPERVISOR_MIB_MAX, "{peak_mib} MiB");
    running.outcome().success();
}

#[test]
fn a_server_that_does_not_read_stalls_the_guest_and_fills_nothing() {
    let host = Host::new();
    let internet = Internet::new(&host);
    let program = format!(
        r#"
import hashlib, select
connection = socket.create_connection(("{WWW_V4}", {STUCK}))
connection.setblocking(False)
sent, block, hashed = 0, b"abcdefgh" * 8192, hashlib.sha256()
while select.select([], [connection], [], 3)[1]:
    count = connection.send(block)
    hashed.update(block[:count])
    sent += count
    assert sent < 1 << 30
print("stalled", sent)
sys.stdin.readline()
connection.setblocking(True)
connection.shutdown(socket.SHUT_WR)
print(connection.makefile().read() == f"{{sent}} {{hashed.hexdigest()}}\n")
"#
    );
    let mut running = start(&internet, &program);
    running.wait_for_stdout("stalled ");
    running.wait_for_stdout("\n");
    let told = String::from_utf8(running.stdout_so_far()).unwrap();
    let stalled_at = number_after(&told, "stalled ");
    assert!(stalled_at < UNDERWAY_BYTES_MAX, "{stalled_at} bytes were taken");
    let peak_mib = running.process(Role::Supervisor).peak_memory_mib();
    assert!(peak_mib < SUPERVISOR_MIB_MAX, "{peak_mib} MiB");
    internet.go();
    running.send("go\n");
    running.wait_for_stdout("True\n");
    running.outcome().success();
}

#[test]
fn a_guest_that_does_not_read_stalls_the_server_and_fills_nothing() {
    let host = Host::new();
    let internet = Internet::new(&host);
    let program = format!(
        r#"
connection = socket.create_connection(("{WWW_V4}", {FLOOD}))
print("connected")
sys.stdin.readline()
count = 0
while data := connection.recv(1 << 20):
    count += len(data)
print("came", count)
"#
    );
    let mut running = start(&internet, &program);
    internet.wait_for("flood stalled ");
    let stalled_at = number_after(&internet.told(), "flood stalled ");
    assert!(stalled_at < UNDERWAY_BYTES_MAX, "{stalled_at} bytes were taken");
    let peak_mib = running.process(Role::Supervisor).peak_memory_mib();
    assert!(peak_mib < SUPERVISOR_MIB_MAX, "{peak_mib} MiB");
    running.send("go\n");
    running.wait_for_stdout(&format!("came {}\n", 64 << 20));
    running.outcome().success();
}

#[test]
fn a_reset_reaches_the_other_side_in_both_directions() {
    let host = Host::new();
    let internet = Internet::new(&host);
    let program = format!(
        r#"
import struct
with socket.create_connection(("{WWW_V4}", {RESET}), timeout=30) as connection:
    try:
        while True:
            connection.sendall(bytes(65536))
    except OSError as error:
        print(errno.errorcode[error.errno])
connection = socket.create_connection(("{WWW_V4}", {WATCH}))
connection.sendall(bytes(1 << 20))
connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
connection.close()
sys.stdin.read()
"#
    );
    let running = start(&internet, &program);
    running.wait_for_stdout("\n");
    let end = String::from_utf8(running.stdout_so_far()).unwrap();
    assert!(["ECONNRESET\n", "EPIPE\n"].contains(&end.as_str()), "{end}");
    internet.wait_for("watched: ");
    assert!(internet.told().contains("watched: reset"), "{}", internet.told());
    running.outcome().success();
}

#[test]
fn a_connection_that_the_guest_leaves_open_ends_with_the_vm() {
    let host = Host::new();
    let internet = Internet::new(&host);
    let program = format!(
        "kept = socket.create_connection(('{WWW_V4}', {WATCH}))\nkept.sendall(b'x')\nprint('sent')"
    );
    let seen = python(&internet, &[], &program);
    assert_eq!(seen.stdout, "sent\n");
    // Python closes what it has open, so the end is not that of the machine: that comes from a kill.
    internet.wait_for("watched: ");
    let running = start(
        &internet,
        &format!(
            "kept = socket.create_connection(('{WWW_V4}', {STUCK}))\nprint('open')\nsys.stdin.read()"
        ),
    );
    running.wait_for_stdout("open\n");
    internet.wait_for("stuck\n");
    running.process(Role::Qemu).kill();
    internet.go();
    // Nobody has ended it in order, so it is broken off.
    internet.wait_for("broken off: [Errno 104]");
    running.outcome_after_a_kill();
}

#[test]
fn a_server_that_is_not_there_is_told_from_one_that_is_refused() {
    let host = Host::new();
    let internet = Internet::new(&host);
    let seen = python(&internet, &[], &format!("print(attempt('{WWW_V4}', 8)[0])"));
    assert_eq!(seen.stdout, "ECONNREFUSED\n");
    assert!(seen.refusals.is_empty(), "{:#?}", seen.refusals);
    // Nobody on the host's wire has it, as the host's kernel finds out.
    let seen = python(&internet, &[], "print(attempt('198.41.0.77')[0])");
    assert_eq!(seen.stdout, "EHOSTUNREACH\n");
    assert!(seen.refusals.is_empty(), "{:#?}", seen.refusals);
}

/// The host's own program, in the guest with the libraries it was made with.
const IPERF: &str = r#"
set -e
mkdir /root/iperf && tar -x -C /root/iperf
for direction in "" -R; do
    /root/iperf/ld.so --library-path /root/iperf /root/iperf/iperf3 -c www.example.com -t 3 $direction -J > /root/out
    python3 -c "
import json
end = json.load(open('/root/out'))['end']
print(int(end['sum_received']['bits_per_second'] / 8e6))"
done
"#;

#[test]
fn iperf_measures_both_directions() {
    let host = Host::new();
    let internet = Internet::new(&host);
    internet.start_outside("iperf3 --server --forceflush");
    let pack = r#"
d=$(mktemp -d) && trap 'rm -r "$d"' EXIT
iperf3=$(command -v iperf3)
cp "$iperf3" "$d/iperf3"
ldd "$iperf3" | grep -o '/[^ ]*' | while read -r library; do cp -L "$library" "$d/"; done
cp -L "$(ldd "$iperf3" | grep -o '/[^ ]*ld-linux[^ ]*')" "$d/ld.so"
tar -c -C "$d" .
"#;
    let archive = std::process::Command::new("sh").args(["-ec", pack]).output().unwrap();
    assert!(archive.status.success(), "{}", String::from_utf8_lossy(&archive.stderr));
    let iperf = internet.run(&[], &["sh", "-c", IPERF]);
    let outcome = iperf.outcome_with_input(archive.stdout);
    let rates: Vec<u64> =
        outcome.success().lines().map(|line| line.parse().expect("a rate in MB/s")).collect();
    assert_eq!(rates.len(), 2, "{outcome:#?}");
    assert!(rates.iter().all(|&rate| rate > 0), "MB/s: {rates:?}");
}
