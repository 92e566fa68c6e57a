//! The name server at the gateway, with name servers of the test behind it.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use pyro_protocol::layout::network::{GATEWAY_V4, GATEWAY_V6};
use pyro_protocol::network::{RefusalReason, RefusedDestination, RefusedProtocol};

use crate::guest::{Guest, spec};

const TYPE_A: u8 = 1;
const NO_SUCH_NAME: u8 = 3;
const SERVER_FAILURE: u8 = 2;

fn query(name: &str, record_type: u8) -> Vec<u8> {
    let mut bytes = vec![0xab, 0xcd, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in name.split('.') {
        bytes.push(u8::try_from(label.len()).unwrap());
        bytes.extend(label.bytes());
    }
    bytes.extend([0, 0, record_type, 0, 1]);
    bytes
}

/// An answer with one address.
fn answer(query: &[u8], address: Ipv4Addr) -> Vec<u8> {
    let mut bytes = query.to_vec();
    (bytes[2], bytes[3], bytes[7]) = (0x81, 0x80, 1);
    let head = [0xc0, 12, 0, TYPE_A, 0, 1, 0, 0, 0, 60, 0, 4];
    [bytes, head.to_vec(), address.octets().to_vec()].concat()
}

/// A name server that answers every query like this, and counts them.
fn name_server(
    answer: impl Fn(&[u8]) -> Vec<Vec<u8>> + Send + 'static,
) -> (SocketAddr, Arc<AtomicUsize>) {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = socket.local_addr().unwrap();
    let count = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&count);
    // Ends with the test's process.
    std::thread::spawn(move || {
        let mut buffer = [0; 4096];
        while let Ok((length, from)) = socket.recv_from(&mut buffer) {
            counted.fetch_add(1, Ordering::SeqCst);
            for message in answer(&buffer[..length]) {
                socket.send_to(&message, from).unwrap();
            }
        }
    });
    (address, count)
}

fn guest(allow: &[&str], servers: &[SocketAddr]) -> Guest {
    let mut spec = spec(allow);
    spec.resolvers = servers.to_vec();
    Guest::new(spec)
}

fn ask(guest: &mut Guest, query: &[u8]) -> Vec<u8> {
    guest.send_datagram(5353, (GATEWAY_V4, 53).into(), query);
    let (from, from_port, to_port, message) = guest.receive_datagram();
    assert_eq!((from, from_port, to_port), (GATEWAY_V4.into(), 53, 5353));
    assert_eq!(message[..2], query[..2]);
    message
}

fn code(message: &[u8]) -> u8 {
    message[3] & 0x0f
}

#[test]
fn an_allowed_name_is_looked_up_and_opens_its_address_only() {
    let (server, asked) = name_server(|query| vec![answer(query, Ipv4Addr::new(192, 0, 2, 1))]);
    let mut guest = guest(&["a.test:80"], &[server]);
    let message = ask(&mut guest, &query("A.test", TYPE_A));
    assert_eq!(code(&message), 0);
    assert!(message.ends_with(&[192, 0, 2, 1]));
    assert_eq!(asked.load(Ordering::SeqCst), 1);
    // An address for documentation, to which no packet may leave this machine: it is refused in spite of its name,
    // and with it.
    let connection = guest.connect((Ipv4Addr::new(192, 0, 2, 1), 80));
    guest.until_closed(connection);
    let refusal = &guest.watch.refusals().list[0];
    assert_eq!(refusal.reason, RefusalReason::SpecialAddress);
    let RefusedDestination::Address { name, .. } = &refusal.destination else {
        panic!("no address")
    };
    assert_eq!(name.as_deref(), Some("a.test"));
}

#[test]
fn a_name_that_is_not_allowed_does_not_exist_and_nobody_is_asked() {
    let (server, asked) = name_server(|query| vec![answer(query, Ipv4Addr::LOCALHOST)]);
    let mut guest = guest(&["a.test"], &[server]);
    let begin = Instant::now();
    for (name, record_type) in [("b.test", TYPE_A), ("b.test", 28), ("x.b.test", 16)] {
        assert_eq!(code(&ask(&mut guest, &query(name, record_type))), NO_SUCH_NAME);
    }
    assert!(begin.elapsed() < Duration::from_secs(5), "it is refused at once");
    assert_eq!(asked.load(Ordering::SeqCst), 0);
    let refusals = guest.watch.refusals().list;
    assert_eq!(refusals[0].protocol, RefusedProtocol::Dns);
    assert_eq!(refusals[0].destination, RefusedDestination::Name("b.test".to_owned()));
    assert_eq!(refusals[0].count, 2);
    assert_eq!(refusals[1].destination, RefusedDestination::Name("x.b.test".to_owned()));
}

#[test]
fn a_name_that_leads_to_the_host_opens_nothing() {
    let (server, _) = name_server(|query| vec![answer(query, Ipv4Addr::LOCALHOST)]);
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    let mut guest = guest(&["a.test"], &[server]);
    assert_eq!(code(&ask(&mut guest, &query("a.test", TYPE_A))), 0);
    for address in [Ipv4Addr::LOCALHOST, GATEWAY_V4] {
        let connection = guest.connect((address, port));
        guest.until_closed(connection);
    }
    for refusal in guest.watch.refusals().list {
        assert_eq!(refusal.reason, RefusalReason::HostAddress);
    }
    listener.set_nonblocking(true).unwrap();
    listener.accept().unwrap_err();
}

#[test]
fn answers_to_something_else_are_not_believed() {
    let (server, _) = name_server(|query| {
        let mut other_id = answer(query, Ipv4Addr::new(192, 0, 2, 66));
        other_id[0] ^= 1;
        let mut other_name = answer(query, Ipv4Addr::new(192, 0, 2, 66));
        other_name[13] = b'b';
        vec![other_id, other_name, answer(query, Ipv4Addr::new(192, 0, 2, 1))]
    });
    let mut guest = guest(&["a.test"], &[server]);
    assert!(ask(&mut guest, &query("a.test", TYPE_A)).ends_with(&[192, 0, 2, 1]));
}

#[test]
fn the_guests_number_is_not_the_one_that_servers_see() {
    let (sender, ids) = std::sync::mpsc::channel();
    let (server, _) = name_server(move |query| {
        sender.send([query[0], query[1]]).unwrap();
        vec![answer(query, Ipv4Addr::new(192, 0, 2, 1))]
    });
    let mut guest = guest(&["a.test"], &[server]);
    for _ in 0..8 {
        ask(&mut guest, &query("a.test", TYPE_A));
    }
    let ids: Vec<_> = ids.try_iter().collect();
    assert!(ids.iter().any(|id| *id != ids[0]), "always the same: {ids:x?}");
}

#[test]
fn the_next_server_is_asked_when_one_fails() {
    let nobody = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap();
    let (failing, _) = name_server(|query| {
        let mut message = query.to_vec();
        (message[2], message[3]) = (0x81, 0x80 | SERVER_FAILURE);
        vec![message]
    });
    let (good, _) = name_server(|query| vec![answer(query, Ipv4Addr::new(192, 0, 2, 1))]);
    let mut guest = guest(&["a.test"], &[nobody, failing, good]);
    assert!(ask(&mut guest, &query("a.test", TYPE_A)).ends_with(&[192, 0, 2, 1]));
}

#[test]
fn servers_that_say_nothing_are_a_failure_after_a_while() {
    let (silent, asked) = name_server(|_| Vec::new());
    let mut guest = guest(&["a.test"], &[silent]);
    assert_eq!(code(&ask(&mut guest, &query("a.test", TYPE_A))), SERVER_FAILURE);
    assert_eq!(asked.load(Ordering::SeqCst), 1);
}

#[test]
fn without_servers_a_lookup_fails_at_once() {
    let mut guest = guest(&["a.test"], &[]);
    assert_eq!(code(&ask(&mut guest, &query("a.test", TYPE_A))), SERVER_FAILURE);
}

#[test]
fn what_does_not_fit_into_a_datagram_is_asked_for_over_tcp() {
    let (server, _) = name_server(|query| {
        let mut message = query.to_vec();
        (message[2], message[3]) = (0x83, 0x80);
        vec![message]
    });
    let listener = TcpListener::bind(server).unwrap();
    std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut length = [0; 2];
        stream.read_exact(&mut length).unwrap();
        let mut query = vec![0; usize::from(u16::from_be_bytes(length))];
        stream.read_exact(&mut query).unwrap();
        let mut message = answer(&query, Ipv4Addr::new(192, 0, 2, 1));
        message.extend([0; 3000]);
        stream.write_all(&u16::try_from(message.len()).unwrap().to_be_bytes()).unwrap();
        stream.write_all(&message).unwrap();
        // Until it is taken.
        drop(stream.read(&mut length));
    });
    let mut guest = guest(&["a.test"], &[server]);
    let question = query("a.test", TYPE_A);
    assert_ne!(ask(&mut guest, &question)[2] & 2, 0, "it is not said to be truncated");

    let connection = guest.connected((GATEWAY_V4, 53));
    let length = u8::try_from(question.len()).unwrap();
    guest.send(connection, &[&[0, length][..], &question].concat());
    let length = guest.receive_exactly(connection, 2);
    let length = usize::from(u16::from_be_bytes([length[0], length[1]]));
    let message = guest.receive_exactly(connection, length);
    assert_eq!(message[..2], question[..2]);
    assert_eq!(message[question.len() + 12..][..4], [192, 0, 2, 1]);
    guest.socket(connection).close();
    guest.until_closed(connection);
}

#[test]
fn names_are_refused_over_tcp_too() {
    let mut guest = guest(&["a.test"], &[]);
    let connection = guest.connected((GATEWAY_V6, 53));
    let question = query("b.test", TYPE_A);
    let length = u8::try_from(question.len()).unwrap();
    let framed = [&[0, length][..], &question].concat();
    guest.send(connection, &framed.repeat(20));
    guest.socket(connection).close();
    let answers = guest.receive_to_end(connection);
    assert_eq!(answers.len(), framed.len() * 20);
    assert!(answers.chunks(framed.len()).all(|answer| code(&answer[2..]) == NO_SUCH_NAME));
    assert_eq!(guest.watch.refusals().list[0].count, 20);
}

#[test]
fn the_gateways_name_is_known_whatever_is_allowed() {
    let mut guest = guest(&["a.test"], &[]);
    let message = ask(&mut guest, &query("host.pyro.internal", TYPE_A));
    assert!(message.ends_with(&GATEWAY_V4.octets()));
    let message = ask(&mut guest, &query("host.pyro.internal", 28));
    assert!(message.ends_with(&GATEWAY_V6.octets()));
    let message = ask(&mut guest, &query("localhost", TYPE_A));
    assert!(message.ends_with(&Ipv4Addr::LOCALHOST.octets()));
    assert!(guest.watch.refusals().list.is_empty());
}

#[test]
fn lookups_without_end_are_bounded_and_all_answered() {
    let (silent, _) = name_server(|_| Vec::new());
    let mut guest = guest(&["*.test"], &[silent]);
    for number in 0..300_u16 {
        let name = format!("{number}.test");
        let to: (IpAddr, u16) = (GATEWAY_V4.into(), 53);
        guest.send_datagram(5353, to.into(), &query(&name, TYPE_A));
    }
    // Those beyond the limit at once, the others after their time.
    for _ in 0..300 {
        assert_eq!(code(&guest.receive_datagram().3), SERVER_FAILURE);
    }
}
