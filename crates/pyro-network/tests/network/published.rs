//! Ports of the guest that the host's programs can connect to.

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::time::Duration;

use pyro_network::PreparedNetwork;
use pyro_protocol::layout::network::GATEWAY_V4;
use pyro_protocol::network::PublishedPort;
use smoltcp::socket::tcp::State;

use crate::guest::{Guest, spec};

const TIMEOUT: Duration = Duration::from_mins(1);

fn publishing(port: u16) -> Guest {
    let mut spec = spec(&[]);
    spec.published.push(PublishedPort { host: 0, guest: port });
    Guest::new(spec)
}

fn client(guest: &Guest) -> TcpStream {
    let port = guest.published();
    assert_ne!(port, 0);
    let client = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap();
    client.set_read_timeout(Some(TIMEOUT)).unwrap();
    client
}

#[test]
fn a_client_on_the_host_reaches_the_guest() {
    let mut guest = publishing(80);
    let listening = guest.listen(80);
    let mut client = client(&guest);
    client.write_all(b"question").unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    guest.until("connected", |guest| guest.socket(listening).may_send().then_some(()));
    assert_eq!(guest.receive_to_end(listening), b"question");
    let from = guest.socket(listening).remote_endpoint().unwrap();
    assert_eq!(from.addr, GATEWAY_V4.into());
    guest.send(listening, b"answer");
    guest.socket(listening).close();
    guest.until_closed(listening);
    let mut answer = Vec::new();
    client.read_to_end(&mut answer).unwrap();
    assert_eq!(answer, b"answer");
}

#[test]
fn a_port_where_the_guest_does_not_listen_resets_the_client() {
    let mut guest = publishing(80);
    let mut client = client(&guest);
    let reader = std::thread::spawn(move || client.read(&mut [0; 1]).unwrap_err().kind());
    guest.until("reset", |_| reader.is_finished().then_some(()));
    assert_eq!(reader.join().unwrap(), ErrorKind::ConnectionReset);
}

#[test]
fn a_client_that_gives_up_is_gone_for_the_guest_too() {
    let mut guest = publishing(80);
    let listening = guest.listen(80);
    let client = client(&guest);
    guest.until("connected", |guest| guest.socket(listening).may_send().then_some(()));
    drop(client);
    guest
        .until("told", |guest| (guest.socket(listening).state() == State::CloseWait).then_some(()));
}

#[test]
fn many_clients_at_once_have_a_connection_each() {
    let mut guest = publishing(80);
    let listening: Vec<_> = (0..50).map(|_| guest.listen(80)).collect();
    let clients: Vec<_> = (0..50).map(|_| client(&guest)).collect();
    for handle in listening {
        guest.until("connected", |guest| guest.socket(handle).may_send().then_some(()));
        guest.send(handle, b"hello");
    }
    for mut client in clients {
        let reader = std::thread::spawn(move || {
            let mut bytes = [0; 5];
            client.read_exact(&mut bytes).unwrap();
            bytes
        });
        guest.until("read", |_| reader.is_finished().then_some(()));
        assert_eq!(&reader.join().unwrap(), b"hello");
    }
}

#[test]
fn a_port_of_the_host_that_is_taken_cannot_be_published() {
    let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let host = taken.local_addr().unwrap().port();
    let mut spec = spec(&[]);
    spec.published.push(PublishedPort { host, guest: 80 });
    let error = PreparedNetwork::new(spec).unwrap_err();
    let expected = format!("cannot listen on 127.0.0.1:{host}, to publish the guest's port 80");
    assert_eq!(error.to_string(), expected);
}
