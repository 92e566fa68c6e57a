//! What the network alone carries: bytes per second, and the processor time of its thread, in both directions.
//!
//! ```text
//! cargo run --release -p pyro-network --example throughput [CONNECTIONS]
//! ```
//!
//! The guest is smoltcp as well, on a thread of its own; how long that takes is not counted.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a measurement, run by hand")]

#[path = "../tests/network/guest.rs"]
#[allow(dead_code, reason = "the tests need more of it")]
mod guest;

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener};
use std::time::{Duration, Instant};

use guest::{Guest, spec};
use pyro_protocol::layout::network::GATEWAY_V4;

/// Of all connections together.
const BYTES: usize = 1024 * 1024 * 1024;

fn main() {
    let connections =
        std::env::args().nth(1).map_or(1, |text| text.parse().expect("a number of connections"));
    for (direction, measure) in
        [("guest to host", upload as fn(usize) -> Duration), ("host to guest", download)]
    {
        let start = Instant::now();
        let used = measure(connections);
        let elapsed = start.elapsed();
        println!(
            "{direction}, {connections} connections: {:.0} MB/s, {:.0} ms of processor per GB",
            megabytes() / elapsed.as_secs_f64(),
            used.as_secs_f64() * 1e6 / megabytes(),
        );
    }
}

fn megabytes() -> f64 {
    f64::from(u32::try_from(BYTES / 1000).unwrap()) / 1000.0
}

fn upload(connections: usize) -> Duration {
    let (mut guest, listener) = network();
    let address = listener.local_addr().unwrap();
    let each = BYTES / connections;
    let server = std::thread::spawn(move || {
        let readers: Vec<_> = (0..connections)
            .map(|_| {
                let (mut stream, _) = listener.accept().unwrap();
                std::thread::spawn(move || {
                    std::io::copy(&mut stream, &mut std::io::sink()).unwrap()
                })
            })
            .collect();
        readers.into_iter().map(|reader| reader.join().unwrap()).sum::<u64>()
    });
    let chunk = vec![7; 256 * 1024];
    let mut sending: Vec<_> =
        (0..connections).map(|_| (guest.connected((GATEWAY_V4, address.port())), each)).collect();
    guest.until("sent", |guest| {
        for (handle, left) in &mut sending {
            let socket = guest.socket(*handle);
            if *left > 0 && socket.can_send() {
                *left -= socket.send_slice(&chunk[..chunk.len().min(*left)]).unwrap();
                if *left == 0 {
                    socket.close();
                }
            }
        }
        (sending.iter().all(|(_, left)| *left == 0) && server.is_finished()).then_some(())
    });
    assert_eq!(server.join().unwrap(), u64::try_from(each * connections).unwrap());
    processor_time()
}

fn download(connections: usize) -> Duration {
    let (mut guest, listener) = network();
    let address = listener.local_addr().unwrap();
    let each = BYTES / connections;
    let server = std::thread::spawn(move || {
        let writers: Vec<_> = (0..connections)
            .map(|_| {
                let (mut stream, _) = listener.accept().unwrap();
                std::thread::spawn(move || {
                    let chunk = vec![7; 256 * 1024];
                    let mut left = each;
                    while left > 0 {
                        let length = left.min(chunk.len());
                        stream.write_all(&chunk[..length]).unwrap();
                        left -= length;
                    }
                    stream.shutdown(std::net::Shutdown::Write).unwrap();
                    assert_eq!(stream.read(&mut [0]).unwrap(), 0);
                })
            })
            .collect();
        for writer in writers {
            writer.join().unwrap();
        }
    });
    let receiving: Vec<_> =
        (0..connections).map(|_| guest.connected((GATEWAY_V4, address.port()))).collect();
    let mut received = 0;
    guest.until("received", |guest| {
        for handle in &receiving {
            let socket = guest.socket(*handle);
            while socket.can_recv() {
                received += socket.recv(|bytes| (bytes.len(), bytes.len())).unwrap();
            }
        }
        (received == each * connections).then_some(())
    });
    for handle in receiving {
        guest.socket(handle).close();
    }
    guest.until("ended", |_| server.is_finished().then_some(()));
    server.join().unwrap();
    processor_time()
}

fn network() -> (Guest, TcpListener) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    (Guest::new(spec(&["127.0.0.1"])), listener)
}

/// Of the network's thread, while there is one.
fn processor_time() -> Duration {
    let mut ticks = 0;
    for task in fs_err::read_dir("/proc/self/task").unwrap() {
        let path = task.unwrap().path();
        let stat = fs_err::read_to_string(path.join("stat")).unwrap_or_default();
        if stat.contains("(network)") {
            let fields: Vec<_> = stat.split_whitespace().collect();
            ticks += fields[13].parse::<u64>().unwrap() + fields[14].parse::<u64>().unwrap();
        }
    }
    Duration::from_millis(ticks * 10)
}
