//! That there is no network but the guest with itself.

use pyro_vm_tests::{DEFAULT, Host};

#[test]
fn there_is_no_interface_but_loopback_which_is_up() {
    let guest = Host::new().shell("ls /sys/class/net; cat /sys/class/net/lo/flags");
    // IFF_UP and IFF_LOOPBACK, see netdevice(7).
    assert_eq!(guest, "lo\n0x9\n");
}

#[test]
fn no_name_outside_resolves() {
    let outcome = Host::new().run(&[], &["getent", "hosts", "example.com"]).outcome();
    assert_eq!(outcome.exit_code(), 2, "{outcome:?}");
    assert_eq!(outcome.text(), "");
}

#[test]
fn a_program_can_talk_to_itself_but_not_to_the_outside() {
    let script = r#"
import socket
server = socket.create_server(("localhost", 0))
client = socket.create_connection(server.getsockname())
connection, _ = server.accept()
client.sendall(b"over loopback")
print(connection.recv(100).decode())
for address in "10.0.2.2", "192.0.2.1", "169.254.169.254":
    try:
        socket.create_connection((address, 80), timeout=5)
        print("reached", address)
    except OSError as error:
        print(error.strerror)
"#;
    let host = Host::new();
    let outcome = host.run_in(DEFAULT, &[], &["python3", "-c", script]).outcome();
    let unreachable = "Network is unreachable\n".repeat(3);
    assert_eq!(outcome.success(), format!("over loopback\n{unreachable}"));
}
