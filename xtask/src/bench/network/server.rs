//! What guests talk to: a server on the host's loopback, which takes the times.
//!
//! A guest says by a letter and a number what it is about to do. An emulated one has a clock that stands still while
//! the guest does, so only the host's tells how long it took.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use super::virtual_cpu;
use crate::bench::statistics::median;

/// Serves until this process ends.
#[derive(Debug)]
pub(super) struct Server {
    pub(super) port: u16,
    measured: Receiver<(Kind, f64)>,
}

/// What a number is, in the order in which they are shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Download,
    Upload,
    Connections,
    RoundTrip,
    /// How busy the guest's CPU is meanwhile.
    BusyInDownload,
    BusyInUpload,
}

const KINDS: [Kind; 6] = [
    Kind::Download,
    Kind::Upload,
    Kind::Connections,
    Kind::RoundTrip,
    Kind::BusyInDownload,
    Kind::BusyInUpload,
];

/// How much is sent or read at once.
const BLOCK_BYTES: usize = 1 << 20;

/// Says that everything has come.
const DONE: &[u8] = b"k";

impl Server {
    pub(super) fn start() -> Result<Self, String> {
        let failed = |error| format!("cannot serve on the loopback: {error}");
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).map_err(failed)?;
        let port = listener.local_addr().map_err(failed)?.port();
        let (sender, measured) = channel();
        std::thread::spawn(move || {
            for connection in listener.incoming().flatten() {
                let sender = sender.clone();
                // One that fails is missed by the guest, whose measurement fails then.
                std::thread::spawn(move || talk(connection, &sender).ok());
            }
        });
        Ok(Self { port, measured })
    }

    /// The last number of each kind since this was asked for.
    pub(super) fn numbers(&self) -> Result<Vec<f64>, String> {
        let all: Vec<_> = self.measured.try_iter().collect();
        let last = |kind| all.iter().rev().find(|(found, _)| *found == kind);
        let numbers = KINDS.map(|kind| last(kind).map(|(_, number)| *number));
        let numbers: Option<Vec<_>> = numbers.into_iter().collect();
        numbers.ok_or_else(|| format!("the guest was seen to do only this: {all:?}"))
    }
}

fn talk(mut connection: TcpStream, sender: &Sender<(Kind, f64)>) -> io::Result<()> {
    connection.set_nodelay(true)?;
    let mut request = [0; 5];
    connection.read_exact(&mut request)?;
    let [what, count @ ..] = request;
    let count = u32::from_be_bytes(count);
    let cpu_time = virtual_cpu::time();
    let started = Instant::now();
    let transferred = |speed, busy| {
        let elapsed = started.elapsed();
        let cpu_time = virtual_cpu::time().saturating_sub(cpu_time);
        let share = cpu_time.as_secs_f64() / elapsed.as_secs_f64();
        vec![(speed, megabytes_per_second(count, elapsed)), (busy, share * 100.0)]
    };
    let measured = match what {
        b'd' => {
            send(&mut connection, count)?;
            connection.read_exact(&mut [0])?;
            transferred(Kind::Download, Kind::BusyInDownload)
        }
        b'u' => {
            take(&mut connection, count)?;
            transferred(Kind::Upload, Kind::BusyInUpload)
        }
        b'c' => {
            connection.write_all(DONE)?;
            connection.read_exact(&mut [0])?;
            let rate = f64::from(count) / started.elapsed().as_secs_f64();
            vec![(Kind::Connections, rate)]
        }
        b'r' => vec![(Kind::RoundTrip, round_trip_ms(&mut connection, count)?)],
        _ => vec![],
    };
    for measured in measured {
        // Before the guest is told, so that the number is there when the guest has ended.
        sender.send(measured).ok();
    }
    connection.write_all(DONE)
}

fn send(connection: &mut TcpStream, mib: u32) -> io::Result<()> {
    let block = vec![0; BLOCK_BYTES];
    (0..mib).try_for_each(|_| connection.write_all(&block))
}

fn take(connection: &mut TcpStream, mib: u32) -> io::Result<()> {
    let mut block = vec![0; BLOCK_BYTES];
    (0..mib).try_for_each(|_| connection.read_exact(&mut block))
}

/// The median of `count`, each a byte to the guest and back.
fn round_trip_ms(connection: &mut TcpStream, count: u32) -> io::Result<f64> {
    let mut times = Vec::new();
    for _ in 0..count {
        let started = Instant::now();
        connection.write_all(b"x")?;
        connection.read_exact(&mut [0])?;
        times.push(started.elapsed().as_secs_f64() * 1e3);
    }
    Ok(median(&times))
}

fn megabytes_per_second(mib: u32, elapsed: Duration) -> f64 {
    let megabyte = 1e6;
    f64::from(mib) * f64::from(1 << 20) / megabyte / elapsed.as_secs_f64()
}
