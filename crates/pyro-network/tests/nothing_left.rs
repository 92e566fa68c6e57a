//! What a network leaves behind in its process, which for that has no other tests.

#![allow(clippy::unwrap_used, reason = "this is a test")]

use std::net::{Ipv4Addr, TcpStream};
use std::os::unix::net::UnixStream;

use pyro_network::PreparedNetwork;
use pyro_protocol::network::{NetworkSpec, PublishedPort};

/// Descriptors, and threads.
fn holdings() -> [usize; 2] {
    ["/proc/self/fd", "/proc/self/task"].map(|path| fs_err::read_dir(path).unwrap().count())
}

#[test]
fn neither_descriptors_nor_threads_are_left() {
    let before = holdings();
    for _ in 0..20 {
        let published = vec![PublishedPort { host: 0, guest: 80 }];
        let spec = NetworkSpec { policies: Vec::new(), published, resolvers: Vec::new() };
        let (ours, theirs) = UnixStream::pair().unwrap();
        let network = PreparedNetwork::new(spec).unwrap().start(theirs).unwrap();
        let port = network.published()[0].host;
        let client = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap();
        drop((network, client, ours));
    }
    assert_eq!(holdings(), before);
}
