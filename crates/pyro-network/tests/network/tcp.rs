//! Connections of the guest.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::thread::JoinHandle;
use std::time::Duration;

use pyro_protocol::layout::network::{GATEWAY_V4, GATEWAY_V6};
use pyro_protocol::network::{RefusalReason, RefusedDestination, RefusedProtocol};
use smoltcp::socket::tcp::State;

use crate::guest::{Guest, spec};

const TIMEOUT: Duration = Duration::from_mins(1);

/// A server on loopback that does this with its one client.
fn serve<T: Send + 'static>(
    serve: impl FnOnce(TcpStream) -> T + Send + 'static,
) -> (SocketAddr, JoinHandle<T>) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    serve_at(listener, serve)
}

fn serve_at<T: Send + 'static>(
    listener: TcpListener,
    serve: impl FnOnce(TcpStream) -> T + Send + 'static,
) -> (SocketAddr, JoinHandle<T>) {
    let address = listener.local_addr().unwrap();
    let thread = std::thread::spawn(move || {
        let (stream, _) = listener.accept().unwrap();
        stream.set_read_timeout(Some(TIMEOUT)).unwrap();
        stream.set_write_timeout(Some(TIMEOUT)).unwrap();
        serve(stream)
    });
    (address, thread)
}

fn at_gateway(address: SocketAddr) -> SocketAddr {
    (GATEWAY_V4, address.port()).into()
}

fn pattern(length: usize) -> Vec<u8> {
    (0..length).map(|index| u8::try_from(index * 7 / 3 % 251).unwrap()).collect()
}

#[test]
fn what_the_guest_sends_arrives_and_what_it_is_answered_too() {
    let mut guest = Guest::new(spec(&["127.0.0.1"]));
    let (address, server) = serve(|mut stream| {
        let mut received = Vec::new();
        stream.read_to_end(&mut received).unwrap();
        stream.write_all(&received).unwrap();
    });
    let connection = guest.connected(at_gateway(address));
    guest.send(connection, b"hello");
    guest.socket(connection).close();
    assert_eq!(guest.receive_to_end(connection), b"hello");
    server.join().unwrap();
    assert!(guest.watch.refusals().list.is_empty());
}

#[test]
fn the_hosts_loopback_is_at_the_gateway_over_ipv6_as_well() {
    let mut guest = Guest::new(spec(&["::1"]));
    let listener = TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).unwrap();
    let (address, server) = serve_at(listener, |mut stream| stream.write_all(b"six").unwrap());
    let connection = guest.connected((GATEWAY_V6, address.port()));
    assert_eq!(guest.receive_to_end(connection), b"six");
    server.join().unwrap();
}

#[test]
fn a_destination_that_is_not_allowed_is_reset_at_once_and_listed() {
    let mut guest = Guest::new(spec(&[]));
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    for _ in 0..2 {
        let connection = guest.connect((GATEWAY_V4, port));
        guest.until_closed(connection);
    }
    let refusals = guest.watch.refusals().list;
    assert_eq!(refusals.len(), 1);
    assert_eq!(refusals[0].protocol, RefusedProtocol::Tcp);
    assert_eq!(refusals[0].reason, RefusalReason::HostAddress);
    assert_eq!(refusals[0].count, 2);
    let destination = RefusedDestination::Address {
        address: Ipv4Addr::LOCALHOST.into(),
        port: Some(port),
        name: Some("host.pyro.internal".to_owned()),
    };
    assert_eq!(refusals[0].destination, destination);
    listener.set_nonblocking(true).unwrap();
    listener.accept().expect_err("nobody connected");
}

#[test]
fn a_port_where_nobody_listens_is_reset() {
    let mut guest = Guest::new(spec(&["127.0.0.1"]));
    let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port();
    let connection = guest.connect((GATEWAY_V4, port));
    guest.until_closed(connection);
    assert!(guest.watch.refusals().list.is_empty());
}

#[test]
fn fifty_megabytes_arrive_unchanged_in_both_directions() {
    const BYTES: usize = 50 * 1024 * 1024;
    let mut guest = Guest::new(spec(&["127.0.0.1"]));
    let (address, server) = serve(|mut stream| {
        let mut writing = stream.try_clone().unwrap();
        let writer = std::thread::spawn(move || {
            writing.write_all(&pattern(BYTES)).unwrap();
            writing.shutdown(Shutdown::Write).unwrap();
        });
        let mut received = Vec::new();
        stream.read_to_end(&mut received).unwrap();
        writer.join().unwrap();
        received
    });
    let connection = guest.connected(at_gateway(address));
    let bytes = pattern(BYTES);
    let (mut unsent, mut received) = (&bytes[..], Vec::new());
    guest.until("all carried", |guest| {
        let socket = guest.socket(connection);
        if socket.can_send() && !unsent.is_empty() {
            let sent = socket.send_slice(unsent).unwrap();
            unsent = &unsent[sent..];
            if unsent.is_empty() {
                socket.close();
            }
        }
        while socket.can_recv() {
            socket.recv(|bytes| (bytes.len(), received.extend_from_slice(bytes))).unwrap();
        }
        (unsent.is_empty() && !socket.may_recv()).then_some(())
    });
    // What it has taken to send may still have to be carried.
    guest.until_closed(connection);
    assert!(received == bytes, "what was received differs");
    assert!(server.join().unwrap() == bytes, "what was sent differs");
}

#[test]
fn each_direction_ends_by_itself() {
    let mut guest = Guest::new(spec(&["127.0.0.1"]));
    let (address, server) = serve(|mut stream| {
        stream.write_all(b"first").unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        let mut received = Vec::new();
        stream.read_to_end(&mut received).unwrap();
        received
    });
    let connection = guest.connected(at_gateway(address));
    assert_eq!(guest.receive_to_end(connection), b"first");
    assert_eq!(guest.socket(connection).state(), State::CloseWait);
    guest.send(connection, b"second");
    guest.socket(connection).close();
    guest.until_closed(connection);
    assert_eq!(server.join().unwrap(), b"second");
}

#[test]
fn a_reset_of_the_guest_resets_the_host() {
    let mut guest = Guest::new(spec(&["127.0.0.1"]));
    let (address, server) = serve(|mut stream| stream.read(&mut [0; 16]).unwrap_err().kind());
    let connection = guest.connected(at_gateway(address));
    guest.socket(connection).abort();
    guest.until_closed(connection);
    guest.until("reset", |_| server.is_finished().then_some(()));
    assert_eq!(server.join().unwrap(), std::io::ErrorKind::ConnectionReset);
}

#[test]
fn a_reset_of_the_host_resets_the_guest() {
    let mut guest = Guest::new(spec(&["127.0.0.1"]));
    let (address, server) = serve(|stream| {
        // Closed with something unread: that is a reset.
        stream.peek(&mut [0; 1]).unwrap();
    });
    let connection = guest.connected(at_gateway(address));
    guest.send(connection, b"never read");
    guest.until_closed(connection);
    server.join().unwrap();
}

#[test]
fn five_hundred_connections_at_once() {
    const CONNECTIONS: usize = 500;
    let mut guest = Guest::new(spec(&["127.0.0.1"]));
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    let server = std::thread::spawn(move || {
        let mut streams: Vec<_> = (0..CONNECTIONS).map(|_| listener.accept().unwrap().0).collect();
        for stream in &mut streams {
            stream.set_read_timeout(Some(TIMEOUT)).unwrap();
            let mut bytes = vec![0; 10_000];
            stream.read_exact(&mut bytes).unwrap();
            stream.write_all(&bytes).unwrap();
        }
    });
    let connections: Vec<_> = (0..CONNECTIONS)
        .map(|_| guest.connect_with_buffers(at_gateway(address), 16 * 1024))
        .collect();
    let bytes = pattern(10_000);
    for &connection in &connections {
        guest.until("connected", |guest| guest.socket(connection).may_send().then_some(()));
        guest.send(connection, &bytes);
    }
    for &connection in &connections {
        assert!(guest.receive_exactly(connection, bytes.len()) == bytes);
    }
    server.join().unwrap();
}

#[test]
fn a_reader_that_is_slow_stops_the_writer() {
    let mut guest = Guest::new(spec(&["127.0.0.1"]));
    let (reading, may_read) = std::sync::mpsc::channel::<()>();
    let (address, server) = serve(move |mut stream| {
        may_read.recv_timeout(TIMEOUT).unwrap();
        let mut received = Vec::new();
        stream.read_to_end(&mut received).unwrap();
        received.len()
    });
    let connection = guest.connected(at_gateway(address));
    // The buffers of the host's kernel take some megabytes, and not more.
    let chunk = vec![1; 64 * 1024];
    let (mut sent, mut rounds_without) = (0, 0);
    guest.until("stopped", |guest| {
        let now = guest.socket(connection).send_slice(&chunk).unwrap();
        sent += now;
        rounds_without = if now > 0 { 0 } else { rounds_without + 1 };
        assert!(sent < 64 * 1024 * 1024, "nothing stops the writer");
        (rounds_without == 100).then_some(())
    });
    reading.send(()).unwrap();
    guest.socket(connection).close();
    guest.until("read", |_| server.is_finished().then_some(()));
    assert_eq!(server.join().unwrap(), sent);
}

#[test]
fn what_the_host_cannot_reach_is_unreachable_for_the_guest() {
    let mut guest = Guest::new(spec(&["127.0.0.0/8"]));
    // Linux makes no connection to a broadcast address, and loopback has one.
    guest.connect((Ipv4Addr::new(127, 255, 255, 255), 80));
    assert_eq!(guest.receive_icmp(), (3, 1));
    assert!(guest.watch.refusals().list.is_empty());
}

#[test]
fn connections_without_end_are_refused_and_make_room_when_they_end() {
    const CONNECTIONS_MAX: usize = 1024;
    let mut guest = Guest::new(spec(&["127.0.0.1"]));
    // The name server takes as many as there may be, and needs no sockets of the host for it.
    let mut connections = Vec::new();
    for _ in 0..CONNECTIONS_MAX {
        connections.push(guest.connect_with_buffers((GATEWAY_V4, 53), 64));
    }
    for &connection in &connections {
        guest.until("connected", |guest| guest.socket(connection).may_send().then_some(()));
    }
    let one_more = guest.connect((GATEWAY_V4, 53));
    guest.until_closed(one_more);
    let refusal = &guest.watch.refusals().list[0];
    assert_eq!(refusal.reason, RefusalReason::TooManyConnections);

    let first = connections[0];
    guest.socket(first).close();
    guest.until_closed(first);
    // The last segment of the one that ended may still be on its way.
    let mut next = guest.connect((GATEWAY_V4, 53));
    guest.until("connected", |guest| match guest.socket(next).state() {
        State::Established => Some(()),
        State::Closed => {
            next = guest.connect((GATEWAY_V4, 53));
            None
        }
        _ => None,
    });
}
