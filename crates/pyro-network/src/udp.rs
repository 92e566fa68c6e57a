//! The guest's datagrams: each pair of ends has a socket of the host, for as long as it is used.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::{Duration, Instant};

use mio::net::UdpSocket;
use pyro_protocol::layout::network::MTU;
use pyro_protocol::network::RefusedProtocol;
use smoltcp::wire::{
    IpProtocol, Ipv4Packet, Ipv4Repr, Ipv6Packet, Ipv6Repr, UDP_HEADER_LEN, UdpPacket, UdpRepr,
};

use crate::icmp::{self, Unreachable};
use crate::line::{EtherType, Output};
use crate::means::Means;
use crate::packet::{Datagram, Ends, Packet};
use crate::sources::{SourceId, SourceKind};
use crate::stack::checksums;

/// Sockets at once. The one that was used least recently makes room: who is still there sends again.
const EXCHANGES_MAX: usize = 256;

/// RFC 4787 asks for two minutes at least.
const IDLE_TIMEOUT: Duration = Duration::from_mins(2);

/// Datagrams that are passed on before others have their turn.
const BATCH: usize = 32;

const HOP_LIMIT: u8 = 64;

#[derive(Debug, Default)]
pub(crate) struct Exchanges {
    by_source: HashMap<SourceId, Exchange>,
    by_ends: HashMap<Ends, SourceId>,
}

#[derive(Debug)]
struct Exchange {
    ends: Ends,
    socket: UdpSocket,
    used: Instant,
}

impl Exchanges {
    /// A datagram of the guest to somewhere else than the name server.
    pub(crate) fn send(&mut self, packet: &Packet<'_>, datagram: Datagram<'_>, means: &mut Means) {
        let source = match self.by_ends.get(&datagram.ends) {
            Some(&source) => source,
            None => match self.open(datagram.ends, means) {
                Ok(source) => source,
                Err(why) => {
                    icmp::complain(packet.whole, why, &mut means.output);
                    return;
                }
            },
        };
        self.touch(source, means);
        let Some(exchange) = self.by_source.get(&source) else { return };
        if let Err(error) = exchange.socket.send(datagram.payload) {
            report(exchange.ends, &error, &mut means.output);
        }
    }

    fn open(&mut self, ends: Ends, means: &mut Means) -> Result<SourceId, Unreachable> {
        let on_host = means
            .gate
            .pass(RefusedProtocol::Udp, ends.outside)
            .map_err(|_| Unreachable::Prohibited)?;
        if self.by_source.len() >= EXCHANGES_MAX {
            let oldest = self.by_source.iter().min_by_key(|(_, exchange)| exchange.used);
            if let Some((&oldest, _)) = oldest {
                self.close(oldest, means);
            }
        }
        let source = means.ids.next(SourceKind::Udp);
        let socket = connect(on_host).and_then(|mut socket| {
            source.register(&mut socket, &means.registry)?;
            Ok(socket)
        });
        let socket = socket.map_err(|_| Unreachable::Host)?;
        self.by_ends.insert(ends, source);
        self.by_source.insert(source, Exchange { ends, socket, used: Instant::now() });
        Ok(source)
    }

    /// Passes on what has arrived at a socket of the host.
    pub(crate) fn receive(&mut self, source: SourceId, means: &mut Means) {
        for _ in 0..BATCH {
            if !means.output.has_room() {
                break;
            }
            let Some(exchange) = self.by_source.get(&source) else { return };
            match exchange.socket.recv(&mut means.datagram) {
                Ok(length) => {
                    let (payload, Ends { guest, outside }) =
                        (&means.datagram[..length], exchange.ends);
                    push(outside, guest, payload, &mut means.output);
                    self.touch(source, means);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) => report(exchange.ends, &error, &mut means.output),
            }
        }
        means.ready.add(source);
    }

    /// It was not used for long.
    pub(crate) fn close(&mut self, source: SourceId, means: &mut Means) {
        means.timers.set(source, None);
        if let Some(exchange) = self.by_source.remove(&source) {
            self.by_ends.remove(&exchange.ends);
        }
    }

    fn touch(&mut self, source: SourceId, means: &mut Means) {
        if let Some(exchange) = self.by_source.get_mut(&source) {
            exchange.used = Instant::now();
            means.timers.set(source, Some(exchange.used + IDLE_TIMEOUT));
        }
    }
}

fn connect(to: SocketAddr) -> io::Result<UdpSocket> {
    let any: IpAddr = match to {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((any, 0).into())?;
    socket.connect(to)?;
    Ok(socket)
}

/// A datagram was lost; the host's kernel knows why, sometimes, and the guest is told what it can use.
fn report(ends: Ends, error: &io::Error, output: &mut Output) {
    let why = match error.kind() {
        io::ErrorKind::ConnectionRefused => Unreachable::Port,
        io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable => Unreachable::Host,
        _ => return,
    };
    // Which one it was is not known. The guest's kernel looks at the ends only.
    let lost = datagram(ends.guest, ends.outside, &[]);
    icmp::complain(&lost, why, output);
}

/// Sends a datagram to the guest; one that is too large for the link is lost.
pub(crate) fn push(from: SocketAddr, to: SocketAddr, payload: &[u8], output: &mut Output) {
    let length = length(from, payload);
    if length <= usize::from(MTU) {
        let ether_type = if from.is_ipv4() { EtherType::Ipv4 } else { EtherType::Ipv6 };
        output.push(ether_type, length, |bytes| emit(from, to, payload, bytes));
    }
}

fn datagram(from: SocketAddr, to: SocketAddr, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0; length(from, payload)];
    emit(from, to, payload, &mut bytes);
    bytes
}

fn length(from: SocketAddr, payload: &[u8]) -> usize {
    let header = if from.is_ipv4() { 20 } else { 40 };
    header + UDP_HEADER_LEN + payload.len()
}

/// Both ends are of one family, because one of them is taken from a packet together with the other.
fn emit(from: SocketAddr, to: SocketAddr, payload: &[u8], bytes: &mut [u8]) {
    let payload_len = UDP_HEADER_LEN + payload.len();
    let header = UdpRepr { src_port: from.port(), dst_port: to.port() };
    let checksums = checksums();
    let bytes = match (from.ip(), to.ip()) {
        (IpAddr::V4(src_addr), IpAddr::V4(dst_addr)) => {
            let next_header = IpProtocol::Udp;
            let hop_limit = HOP_LIMIT;
            let ip = Ipv4Repr { src_addr, dst_addr, next_header, payload_len, hop_limit };
            ip.emit(&mut Ipv4Packet::new_unchecked(&mut bytes[..]), &checksums);
            &mut bytes[ip.buffer_len()..]
        }
        (IpAddr::V6(src_addr), IpAddr::V6(dst_addr)) => {
            let next_header = IpProtocol::Udp;
            let hop_limit = HOP_LIMIT;
            let ip = Ipv6Repr { src_addr, dst_addr, next_header, payload_len, hop_limit };
            ip.emit(&mut Ipv6Packet::new_unchecked(&mut bytes[..]));
            &mut bytes[ip.buffer_len()..]
        }
        (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => return,
    };
    header.emit(
        &mut UdpPacket::new_unchecked(bytes),
        &from.ip().into(),
        &to.ip().into(),
        payload.len(),
        |room| room.copy_from_slice(payload),
        &checksums,
    );
}
