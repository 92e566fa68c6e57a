//! What a VM's network carries, to servers of this machine alone; and what it refuses, at once and by name.

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use pyro_vm_tests::{DEFAULT, Host, Outcome};
use rustix::net::sockopt::set_socket_linger;
use serde_json::Value;

/// Long enough for a guest in which nothing else happens, and shorter than any time-out of a connection.
const AT_ONCE_SECONDS: u32 = 10;

/// A server of this machine, each connection on a thread of its own, for as long as the tests run.
struct Server {
    port: u16,
    connections: Arc<AtomicU32>,
}

impl Server {
    fn new(serve: fn(TcpStream)) -> Self {
        Self::at(Ipv4Addr::LOCALHOST.into(), serve)
    }

    fn at(address: IpAddr, serve: fn(TcpStream)) -> Self {
        let listener = TcpListener::bind((address, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let connections = Arc::new(AtomicU32::new(0));
        let count = Arc::clone(&connections);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                count.fetch_add(1, Ordering::Relaxed);
                std::thread::spawn(move || serve(stream.unwrap()));
            }
        });
        Self { port, connections }
    }

    fn connections(&self) -> u32 {
        self.connections.load(Ordering::Relaxed)
    }
}

/// Sends everything back, as it comes.
fn echo(mut stream: TcpStream) {
    let mut writer = stream.try_clone().unwrap();
    std::io::copy(&mut stream, &mut writer).ok();
}

/// Sends everything back, once all of it has come.
fn echo_at_the_end(mut stream: TcpStream) {
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).unwrap();
    stream.write_all(&bytes).unwrap();
}

/// Python in a VM with a network. `PORT` stands for `port` in its program, and `allowed` is a rule.
fn python(host: &Host, allowed: &str, port: u16, program: &str) -> Outcome {
    let program = program.replace("PORT", &port.to_string());
    let options = ["--network", "--allow-cidr", allowed, "--json"];
    host.run_in(DEFAULT, &options, &["python3", "-c", &program]).outcome()
}

fn stdout(outcome: &Outcome) -> String {
    let outcome = outcome.json();
    assert_eq!(outcome["exit_code"], 0, "{outcome:#}");
    outcome["stdout"].as_str().unwrap().to_owned()
}

fn refusals(outcome: &Outcome) -> Vec<Value> {
    outcome.json()["network_refusals"].as_array().unwrap().clone()
}

#[test]
fn an_allowed_port_of_the_host_is_reached_and_another_is_refused_at_once_and_named() {
    let allowed = Server::new(|mut stream| stream.write_all(b"from the host").unwrap());
    let other = Server::new(echo);
    let program = format!(
        r#"
import socket, time
host = "host.pyro.internal"
print(socket.create_connection((host, PORT)).recv(100).decode())
for address in (host, {other}), ("192.168.7.7", 80):
    start = time.monotonic()
    try:
        socket.create_connection(address, timeout=60)
    except OSError as error:
        print(error.strerror, time.monotonic() - start < {AT_ONCE_SECONDS})
"#,
        other = other.port
    );
    let host = Host::new();
    let rule = format!("127.0.0.1:{}", allowed.port);
    let outcome = python(&host, &rule, allowed.port, &program);
    let refused = "Connection refused True\n".repeat(2);
    assert_eq!(stdout(&outcome), format!("from the host\n{refused}"));
    assert_eq!(other.connections(), 0);
    let refusals = refusals(&outcome);
    let seen: Vec<_> = refusals
        .iter()
        .map(|refusal| (refusal["protocol"].as_str(), refusal["destination"].as_str()))
        .collect();
    let expected = format!("127.0.0.1:{}", other.port);
    assert_eq!(seen, [(Some("tcp"), Some(&*expected)), (Some("tcp"), Some("192.168.7.7:80"))]);
    assert_eq!(refusals[0]["allow_with"]["allow_cidrs"][0], *expected);
}

#[test]
fn all_bytes_arrive_in_both_directions_and_each_direction_ends_by_itself() {
    let server = Server::new(echo_at_the_end);
    let program = r#"
import os, socket
bytes = os.urandom(16 << 20)
connection = socket.create_connection(("host.pyro.internal", PORT))
connection.sendall(bytes)
connection.shutdown(socket.SHUT_WR)
back = b"".join(iter(lambda: connection.recv(1 << 20), b""))
print(len(back), back == bytes)
"#;
    let rule = format!("127.0.0.1:{}", server.port);
    let outcome = python(&Host::new(), &rule, server.port, program);
    assert_eq!(stdout(&outcome), "16777216 True\n");
}

#[test]
fn hundreds_of_connections_at_once_keep_their_bytes_apart() {
    let server = Server::new(echo);
    let program = r#"
import socket
connect = lambda: socket.create_connection(("host.pyro.internal", PORT))
connections = [connect() for _ in range(200)]
texts = [f"{number}: ".encode() * 1000 for number in range(200)]
for connection, text in zip(connections, texts):
    connection.sendall(text)
    connection.shutdown(socket.SHUT_WR)
read = lambda connection: b"".join(iter(lambda: connection.recv(65536), b""))
print(sum(read(connection) == text for connection, text in zip(connections, texts)))
"#;
    let rule = format!("127.0.0.1:{}", server.port);
    let outcome = python(&Host::new(), &rule, server.port, program);
    assert_eq!(stdout(&outcome), "200\n");
}

#[test]
fn a_reset_is_a_reset_and_a_port_without_a_server_refuses() {
    let resetting = Server::new(|mut stream| {
        // Only then is the guest certain to have its connection.
        stream.read_exact(&mut [0]).unwrap();
        // Closing it then is a reset.
        set_socket_linger(&stream, Some(Duration::ZERO)).unwrap();
    });
    // Bound and not listened on: nobody else gets it.
    let closed = std::net::UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let program = format!(
        r#"
import socket
for port in PORT, {closed}:
    try:
        connection = socket.create_connection(("host.pyro.internal", port), timeout=60)
        connection.sendall(b"x")
        connection.recv(1)
        print("no error")
    except OSError as error:
        print(error.strerror)
"#,
        closed = closed.local_addr().unwrap().port()
    );
    let outcome = python(&Host::new(), "127.0.0.1", resetting.port, &program);
    assert_eq!(stdout(&outcome), "Connection reset by peer\nConnection refused\n");
    assert!(refusals(&outcome).is_empty(), "{outcome:?}");
}

#[test]
fn ipv6_reaches_the_hosts_loopback_of_ipv6() {
    let server = Server::at(Ipv6Addr::LOCALHOST.into(), echo_at_the_end);
    let program = r#"
import socket
connection = socket.create_connection(("fd70:7972:6f00::1", PORT))
connection.sendall(b"six")
connection.shutdown(socket.SHUT_WR)
print(connection.recv(100).decode())
"#;
    let rule = format!("[::1]:{}", server.port);
    let outcome = python(&Host::new(), &rule, server.port, program);
    assert_eq!(stdout(&outcome), "six\n");
}

#[test]
fn the_gateway_answers_an_echo_request() {
    let program = r#"
import socket, struct
def checksum(bytes):
    total = sum(struct.unpack(f"!{len(bytes) // 2}H", bytes))
    total = (total >> 16) + (total & 0xffff)
    return ~(total + (total >> 16)) & 0xffff
request = struct.pack("!BBHHH", 8, 0, 0, 1, 2) + b"echo"
request = request[:2] + struct.pack("!H", checksum(request)) + request[4:]
line = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
line.settimeout(60)
line.sendto(request, ("10.255.255.253", 0))
print(line.recv(100)[20:][4:])
"#;
    let outcome = python(&Host::new(), "127.0.0.1", 0, program);
    assert_eq!(stdout(&outcome), "b'\\x00\\x01\\x00\\x02echo'\n");
}

#[test]
fn only_allowed_names_are_looked_up_and_none_leads_to_the_host() {
    let server = Server::new(echo);
    let resolver = NameServer::new();
    let program = format!(
        r#"
import socket
for name in "www.allowed.test", "www.other.test":
    try:
        print(socket.getaddrinfo(name, 80, socket.AF_INET)[0][4][0])
    except OSError as error:
        print("not found")
try:
    socket.create_connection(("gateway.allowed.test", {port}), timeout=60)
    print("connected")
except OSError as error:
    print("not connected")
"#,
        port = server.port
    );
    let host = Host::new();
    let options = ["--network", "--allow-host", "*.allowed.test", "--json"];
    let run = host.run_in(DEFAULT, &options, &["python3", "-c", &program]);
    let outcome = run.variable("PYRO_DNS_SERVERS", &resolver.address()).outcome();
    assert_eq!(stdout(&outcome), "93.184.215.14\nnot found\nnot connected\n");
    assert_eq!(server.connections(), 0);
    let refusals = refusals(&outcome);
    let refused = |protocol: &str, destination: &str| {
        let is_it = |refusal: &Value| {
            refusal["protocol"] == protocol && refusal["destination"] == destination
        };
        assert!(refusals.iter().any(is_it), "{destination} is not in {refusals:#?}");
    };
    refused("dns", "www.other.test");
    refused("tcp", &format!("127.0.0.1:{}", server.port));
    assert!(!resolver.was_asked_for("other"));
}

#[test]
fn a_published_port_leads_into_the_guest_and_one_that_is_taken_is_refused() {
    let free = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = free.local_addr().unwrap().port();
    let host = Host::new();
    let publish = format!("{port}:8000");
    let program = r#"
import socket
server = socket.create_server(("0.0.0.0", 8000))
print("ready", flush=True)
connection, _ = server.accept()
connection.sendall(connection.recv(100).upper())
"#;
    let options = ["--network", "--publish", &publish];
    let run = || host.run_in(DEFAULT, &options, &["python3", "-c", program]);

    let error = host
        .run_in(DEFAULT, &["--network", "--publish", &publish, "--json"], &["true"])
        .outcome()
        .json_error();
    assert_eq!(error["code"], "invalid_input", "{error:#}");
    assert!(error.to_string().contains(&format!("127.0.0.1:{port}")), "{error:#}");

    drop(free);
    let running = run().start();
    running.wait_for_stdout("ready\n");
    let mut connection = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap();
    connection.write_all(b"to the guest").unwrap();
    let mut answer = String::new();
    connection.read_to_string(&mut answer).unwrap();
    assert_eq!(answer, "TO THE GUEST");
    running.outcome().success();
    let error = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
}

/// Answers queries for IPv4 addresses: `gateway.…` stands for the host's loopback, everything else a public one.
struct NameServer {
    port: u16,
    asked: Arc<std::sync::Mutex<Vec<Vec<u8>>>>,
}

impl NameServer {
    fn new() -> Self {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = socket.local_addr().unwrap().port();
        let asked = Arc::new(std::sync::Mutex::new(Vec::new()));
        let seen = Arc::clone(&asked);
        std::thread::spawn(move || {
            let mut query = [0; 512];
            loop {
                let (length, asker) = socket.recv_from(&mut query).unwrap();
                seen.lock().unwrap().push(query[..length].to_vec());
                socket.send_to(&answer(&query[..length]), asker).unwrap();
            }
        });
        Self { port, asked }
    }

    fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    fn was_asked_for(&self, label: &str) -> bool {
        let asked = self.asked.lock().unwrap();
        let has = |query: &Vec<u8>| query.windows(label.len()).any(|part| part == label.as_bytes());
        asked.iter().any(has)
    }
}

/// Header and question as they came, and one address if one was asked for; see RFC 1035, section 4.
fn answer(query: &[u8]) -> Vec<u8> {
    let name_bytes = query[12..].iter().position(|byte| *byte == 0).unwrap() + 1;
    let question = &query[12..12 + name_bytes + 4];
    let is_address = question[name_bytes..name_bytes + 2] == [0, 1];
    let address = if question[1..].starts_with(b"gateway") {
        [10, 255, 255, 253]
    } else {
        [93, 184, 215, 14]
    };
    // An answer, recursion available, no error.
    let mut message =
        [&query[..2], &[0x81, 0x80, 0, 1, 0, u8::from(is_address), 0, 0, 0, 0]].concat();
    message.extend_from_slice(question);
    if is_address {
        // The question's name, address, Internet, a minute, four bytes.
        message.extend_from_slice(&[0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4]);
        message.extend_from_slice(&address);
    }
    message
}
