//! Datagrams, ICMP, and what is asked on the link.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::time::Duration;

use pyro_protocol::layout::network::{GATEWAY_MAC, GATEWAY_V4, GATEWAY_V6, GUEST_MAC, GUEST_V4};
use pyro_protocol::network::{RefusalReason, RefusedProtocol};

use crate::guest::{Guest, datagram, packet, spec};

const TIMEOUT: Duration = Duration::from_mins(1);

fn socket(address: impl Into<IpAddr>) -> (UdpSocket, u16) {
    let socket = UdpSocket::bind((address.into(), 0)).unwrap();
    socket.set_read_timeout(Some(TIMEOUT)).unwrap();
    let port = socket.local_addr().unwrap().port();
    (socket, port)
}

#[test]
fn datagrams_go_both_ways_over_both_protocols() {
    let mut guest = Guest::new(spec(&["127.0.0.1", "::1"]));
    let ends: [(IpAddr, IpAddr); 2] = [
        (Ipv4Addr::LOCALHOST.into(), GATEWAY_V4.into()),
        (Ipv6Addr::LOCALHOST.into(), GATEWAY_V6.into()),
    ];
    for (loopback, gateway) in ends {
        let (server, port) = socket(loopback);
        // The largest that Linux sends over loopback, and one that is empty.
        for length in [5, 0, 65_000] {
            let payload = vec![7; length];
            guest.send_datagram(4000, (gateway, port).into(), &payload);
            let mut buffer = vec![0; 70_000];
            let (received, from) = guest.until("received", |_| {
                server.set_nonblocking(true).unwrap();
                server.recv_from(&mut buffer).ok()
            });
            assert_eq!(buffer[..received], payload);
            server.send_to(&buffer[..received], from).unwrap();
            assert_eq!(guest.receive_datagram(), (gateway, port, 4000, payload));
        }
    }
}

#[test]
fn one_pair_of_ends_has_one_socket() {
    let mut guest = Guest::new(spec(&["127.0.0.1"]));
    let (server, port) = socket(Ipv4Addr::LOCALHOST);
    server.set_nonblocking(true).unwrap();
    let from = |guest: &mut Guest, guest_port| {
        guest.send_datagram(guest_port, (GATEWAY_V4, port).into(), b"x");
        guest.until("received", |_| server.recv_from(&mut [0; 8]).ok()).1
    };
    let first = from(&mut guest, 4000);
    assert_eq!(first, from(&mut guest, 4000));
    assert_ne!(first, from(&mut guest, 4001));
}

#[test]
fn more_exchanges_than_are_kept_still_work() {
    let mut guest = Guest::new(spec(&["127.0.0.1"]));
    let (server, port) = socket(Ipv4Addr::LOCALHOST);
    server.set_nonblocking(true).unwrap();
    let exchange = |guest: &mut Guest, guest_port| {
        guest.send_datagram(guest_port, (GATEWAY_V4, port).into(), b"x");
        let (_, from) = guest.until("received", |_| server.recv_from(&mut [0; 8]).ok());
        server.send_to(b"y", from).unwrap();
        assert_eq!(guest.receive_datagram().2, guest_port);
        from
    };
    let ends: Vec<_> = (2000..2600).map(|port| (port, exchange(&mut guest, port))).collect();
    let (latest, first) = (ends[599], ends[0]);
    assert_eq!(exchange(&mut guest, latest.0), latest.1);
    assert_ne!(exchange(&mut guest, first.0), first.1, "the oldest is kept for ever");
}

#[test]
fn a_datagram_that_is_refused_is_prohibited_at_once_and_listed() {
    let mut guest = Guest::new(spec(&[]));
    guest.send_datagram(4000, "10.1.2.3:99".parse().unwrap(), b"x");
    assert_eq!(guest.receive_icmp(), (3, 13));
    guest.send_datagram(4000, "[fd00::1]:99".parse().unwrap(), b"x");
    assert_eq!(guest.receive_icmp(), (1, 1));
    let refusals = guest.watch.refusals().list;
    assert_eq!(refusals.len(), 2);
    for refusal in refusals {
        assert_eq!(refusal.protocol, RefusedProtocol::Udp);
        assert_eq!(refusal.reason, RefusalReason::PrivateAddress);
    }
}

#[test]
fn a_port_without_a_listener_is_unreachable() {
    let mut guest = Guest::new(spec(&["127.0.0.1"]));
    let (server, port) = socket(Ipv4Addr::LOCALHOST);
    drop(server);
    guest.send_datagram(4000, (GATEWAY_V4, port).into(), b"x");
    assert_eq!(guest.receive_icmp(), (3, 3));
}

#[test]
fn the_gateway_answers_pings_and_nobody_else() {
    let mut guest = Guest::new(spec(&["0.0.0.0/0", "::/0"]));
    let v4 = [8, 0, 0, 0, 1, 2, 3, 4, b'p', b'i', b'n', b'g'];
    let v6 = [128, 0, 0, 0, 1, 2, 3, 4, b'p', b'i', b'n', b'g'];
    let requests: [(IpAddr, u8, [u8; 12], u8); 2] =
        [(GATEWAY_V4.into(), 1, v4, 0), (GATEWAY_V6.into(), 58, v6, 129)];
    for (gateway, protocol, request, reply_type) in requests {
        let (ether_type, request) = packet(gateway, protocol, &request);
        guest.send_packet(ether_type, &request);
        let reply = guest.receive_packet();
        let header = if gateway.is_ipv4() { 20 } else { 40 };
        assert_eq!(reply[header], reply_type);
        assert_eq!(reply[header + 4..], [1, 2, 3, 4, b'p', b'i', b'n', b'g']);
    }
    assert!(guest.watch.refusals().list.is_empty());

    let (ether_type, request) = packet("192.0.2.1".parse().unwrap(), 1, &v4);
    guest.send_packet(ether_type, &request);
    assert_eq!(guest.receive_icmp(), (3, 13));
    let refusals = guest.watch.refusals().list;
    assert_eq!(refusals[0].reason, RefusalReason::UnsupportedProtocol);
    assert_eq!(refusals[0].protocol, RefusedProtocol::Icmp);
}

#[test]
fn other_protocols_are_prohibited() {
    let mut guest = Guest::new(spec(&["0.0.0.0/0"]));
    // SCTP.
    let (ether_type, packet) = packet("192.0.2.1".parse().unwrap(), 132, &[0; 32]);
    guest.send_packet(ether_type, &packet);
    assert_eq!(guest.receive_icmp(), (3, 13));
    assert_eq!(guest.watch.refusals().list[0].reason, RefusalReason::UnsupportedProtocol);
}

#[test]
fn the_gateways_address_is_asked_for_and_no_others_are_answered() {
    let mut guest = Guest::new(spec(&[]));
    let request = |target: Ipv4Addr| {
        let head = [0, 1, 8, 0, 6, 4, 0, 1];
        [&head[..], &GUEST_MAC, &GUEST_V4.octets(), &[0; 6], &target.octets()].concat()
    };
    // Neither somebody else's address nor the guest's own is answered, so the gateway's answer comes first.
    for target in [Ipv4Addr::new(10, 0, 0, 1), GUEST_V4, GATEWAY_V4] {
        guest.send_arp(&request(target));
    }
    let reply = guest.until("an answer", Guest::receive_arp);
    assert_eq!(reply[..8], [0, 1, 8, 0, 6, 4, 0, 2]);
    assert_eq!(reply[8..14], GATEWAY_MAC);
    assert_eq!(reply[14..18], GATEWAY_V4.octets());
}

#[test]
fn fragments_are_dropped() {
    let mut guest = Guest::new(spec(&["127.0.0.1"]));
    let (server, port) = socket(Ipv4Addr::LOCALHOST);
    let to: SocketAddr = (GATEWAY_V4, port).into();
    let (ether_type, mut fragment) = datagram(4000, to, b"fragment");
    fragment[6] = 0x20;
    guest.send_packet(ether_type, &fragment);
    guest.send_datagram(4000, to, b"whole");
    server.set_nonblocking(true).unwrap();
    let mut buffer = [0; 16];
    let (length, _) = guest.until("received", |_| server.recv_from(&mut buffer).ok());
    assert_eq!(&buffer[..length], b"whole");
}
