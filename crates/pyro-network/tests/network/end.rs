//! How a network ends, and what is left of it.

use std::io::Write;
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Wake};
use std::thread::Thread;
use std::time::{Duration, Instant};

use pyro_network::{PreparedNetwork, RunningNetwork};
use pyro_protocol::layout::network::GATEWAY_V4;
use pyro_protocol::network::PublishedPort;

use crate::guest::{Guest, spec};

#[test]
fn whoever_drops_a_network_closes_everything() {
    let mut spec = spec(&["127.0.0.1"]);
    spec.published.push(PublishedPort { host: 0, guest: 80 });
    let mut guest = Guest::new(spec);
    let server = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let connection = guest.connected((GATEWAY_V4, server.local_addr().unwrap().port()));
    guest.send(connection, b"x");
    let (stream, _) = server.accept().unwrap();
    let published = guest.published();
    guest.end_network();
    // The thread was waited for, so all of this is true at once.
    guest.until("cut off", |guest| guest.is_cut_off().then_some(()));
    let mut received = Vec::new();
    let read = std::io::Read::read_to_end(&mut &stream, &mut received);
    assert_eq!(read.unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);
    TcpStream::connect((Ipv4Addr::LOCALHOST, published)).unwrap_err();
}

#[test]
fn a_network_ends_with_its_line() {
    let mut spec = spec(&[]);
    spec.published.push(PublishedPort { host: 0, guest: 80 });
    let (ours, theirs) = UnixStream::pair().unwrap();
    let network = PreparedNetwork::new(spec).unwrap().start(theirs).unwrap();
    let published = network.published()[0].host;
    drop(ours);
    until_nobody_listens(published);
}

#[test]
fn a_length_that_no_frame_has_ends_the_network() {
    let (mut ours, theirs) = UnixStream::pair().unwrap();
    let network = PreparedNetwork::new(spec(&[])).unwrap().start(theirs).unwrap();
    ours.write_all(&[0xff; 4]).unwrap();
    assert_eq!(std::io::Read::read(&mut ours, &mut [0; 1]).unwrap(), 0);
    until_it_has_failed(&network);
}

#[test]
fn frames_that_make_no_sense_change_nothing() {
    let mut guest = Guest::new(spec(&["127.0.0.1"]));
    for length in 0_u8..80 {
        for byte in [0, 0x45, 0x60, 0xff] {
            guest.send_packet(0x0800, &vec![byte; usize::from(length)]);
            guest.send_packet(0x86dd, &vec![byte; usize::from(length)]);
            guest.send_packet(0x0806, &vec![byte; usize::from(length)]);
            guest.send_raw(&[&[0, 0, 0, length][..], &vec![byte; usize::from(length)]].concat());
        }
    }
    let server = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    guest.connected((GATEWAY_V4, server.local_addr().unwrap().port()));
}

/// Its owner is woken.
fn until_it_has_failed(network: &RunningNetwork) {
    struct Owner(Thread);

    impl Wake for Owner {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }

    let waker = Arc::new(Owner(std::thread::current())).into();
    let mut failed = pin!(network.failed());
    let end = Instant::now() + Duration::from_mins(1);
    while failed.as_mut().poll(&mut Context::from_waker(&waker)).is_pending() {
        std::thread::park_timeout(end.saturating_duration_since(Instant::now()));
        assert!(Instant::now() < end, "nobody is told");
    }
}

/// A connection attempt is answered by the kernel, so it can be repeated without waiting.
fn until_nobody_listens(port: u16) {
    let end = Instant::now() + Duration::from_mins(1);
    while TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_ok() {
        assert!(Instant::now() < end, "it still listens");
    }
}
