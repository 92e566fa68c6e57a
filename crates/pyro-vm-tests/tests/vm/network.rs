//! What a VM has of a network: nothing but itself, or what it was asked for.

use pyro_vm_tests::{DEFAULT, Host, Process, Role};

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

#[test]
fn a_vm_with_a_network_finds_it_set_up_whether_restored_or_booted() {
    // The device, both of its addresses, both default routes, who is its name server, who is the host.
    let script = "
        ls /sys/class/net
        cat /sys/class/net/eth0/mtu /sys/class/net/eth0/carrier
        while read address index length scope flags name; do
            test $name = lo || echo $address $length $flags
        done < /proc/net/if_inet6
        while read name target gateway rest; do echo $name $target $gateway; done < /proc/net/route
        grep '^0* 00 0* 00 fd7079726f' /proc/net/ipv6_route | wc -l
        cat /etc/resolv.conf
        grep host.pyro.internal /etc/hosts";
    // 10.255.255.253 and 10.255.255.252, from the last octet on. No address is tentative or link-local:
    // IFA_F_PERMANENT and IFA_F_NODAD, see linux/if_addr.h.
    let expected = "\
eth0
lo
65520
1
fd7079726f0000000000000000000002 40 82
Iface Destination Gateway
eth0 00000000 FDFFFF0A
eth0 FCFFFF0A 00000000
1
nameserver 10.255.255.253
10.255.255.253\thost.pyro.internal
";
    let host = Host::new();
    for start in ["restore", "boot"] {
        let run = host.run(&["--network"], &["sh", "-ec", script]).variable("PYRO_START", start);
        assert_eq!(run.outcome().success(), expected, "{start}");
    }
}

#[test]
fn a_stopped_vm_has_its_network_again_and_leaves_nothing_of_the_last_one() {
    let host = Host::new();
    let vms = host.vms();
    let id = vms.create(&["--network"]);
    let supervisor = vms.supervisor(&id).unwrap();
    let mut stopped = Vec::new();
    for _ in 0..4 {
        vms.vm(&["start", &id]).outcome().success();
        let resolver = "test ! -L /etc/resolv.conf && cat /etc/resolv.conf";
        let resolver = vms.exec(&id, resolver).outcome();
        assert_eq!(resolver.success(), "nameserver 10.255.255.253\n");
        // As a daemon has it that is not there.
        let link = "ln -sf /run/systemd/resolve/stub-resolv.conf /etc/resolv.conf";
        vms.exec(&id, link).outcome().success();
        vms.vm(&["stop", &id]).outcome().success();
        assert_eq!(vms.processes(Role::Qemu).len(), 0);
        stopped.push(sockets_and_network_threads(&supervisor));
    }
    // One may be that of a client whose leaving has not been noticed yet.
    assert!(stopped[3].0 <= stopped[0].0 + 1, "{stopped:?}");
    assert!(stopped.iter().all(|(_, threads)| *threads == 0), "{stopped:?}");
    vms.vm(&["delete", &id]).outcome().success();
}

/// How many sockets a process holds, and how many of its threads carry packets.
fn sockets_and_network_threads(process: &Process) -> (usize, usize) {
    let entries = |name: &str| {
        let entries = fs_err::read_dir(process.proc(name)).unwrap();
        entries.map(|entry| entry.unwrap().path()).collect::<Vec<_>>()
    };
    let is_socket = |path: &std::path::PathBuf| {
        // One that was closed in between is none.
        fs_err::read_link(path).is_ok_and(|target| target.to_string_lossy().starts_with("socket:"))
    };
    let is_network = |path: &std::path::PathBuf| {
        fs_err::read_to_string(path.join("comm")).is_ok_and(|name| name == "network\n")
    };
    let sockets = entries("fd").iter().filter(|path| is_socket(path)).count();
    let threads = entries("task").iter().filter(|path| is_network(path)).count();
    (sockets, threads)
}
