//! The guest's TCP connections, those to its published ports included.

mod open;
pub(crate) mod peer;

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use mio::net::TcpStream;
use pyro_protocol::layout::network::{GATEWAY_V4, GATEWAY_V6, GUEST_V4, MTU};
use pyro_protocol::network::{RefusalReason, RefusedProtocol};
use smoltcp::iface::SocketSet;

use self::open::{Buffers, Open, Turn};
use self::peer::{HostEnd, Peer};
use crate::dns::conversation::Conversation;
use crate::icmp::{self, Unreachable};
use crate::means::Means;
use crate::packet::{Ends, Packet, Segment};
use crate::sources::{SourceId, SourceKind};

/// Connections of a VM at once.
const CONNECTIONS_MAX: usize = 1024;

/// What a connection may hold, in bytes. The first ones get what makes them fast; more than that are many, of which
/// each needs less. In whole segments of IPv4: a buffer that ends within one would end in a small packet each time.
///
/// What comes from the host waits for an emulated guest to be woken, so much of it must be on its way at once. What
/// comes from the guest is taken at once, and the more it may send, the longer it works on memory that is in no cache.
const FAST: Buffers =
    Buffers { from_guest_bytes: 4 * SEGMENT_BYTES, to_guest_bytes: 16 * SEGMENT_BYTES };
const FAST_CONNECTIONS_MAX: usize = 16;
const SLOW: Buffers = Buffers { from_guest_bytes: SEGMENT_BYTES, to_guest_bytes: SEGMENT_BYTES };
const SEGMENT_BYTES: usize = MTU as usize - 40;

const _: () = assert!(
    FAST_CONNECTIONS_MAX * FAST.bytes() + CONNECTIONS_MAX * SLOW.bytes() <= 160 * 1024 * 1024,
    "what a guest can make the host hold"
);

/// A guest's kernel tries for two minutes, which nobody waits for; a server that is far away answers in one second.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(30);

/// A SYN has options, but no data.
const SYN_BYTES_MAX: usize = 256;

const NAME_SERVER_PORT: u16 = 53;

/// Ports of the gateway, from which the guest's published ones are connected to.
const FIRST_PORT: u16 = 49_152;

#[derive(Debug, Default)]
pub(crate) struct Connections {
    by_source: HashMap<SourceId, Connection>,
    by_ends: HashMap<Ends, SourceId>,
    /// How many ports of the gateway were used.
    ports_used: u16,
}

#[derive(Debug)]
struct Connection {
    ends: Ends,
    phase: Phase,
}

#[derive(Debug)]
enum Phase {
    /// The host's side is not known to answer, so the guest's waits with its SYN.
    Connecting {
        stream: TcpStream,
        syn: Vec<u8>,
    },
    Open(Box<Open>),
}

/// A question to the name server.
#[derive(Debug)]
pub(crate) struct Question {
    pub(crate) asker: SourceId,
    pub(crate) message: Vec<u8>,
}

impl Connections {
    /// A segment of the guest.
    pub(crate) fn receive(&mut self, packet: &Packet<'_>, segment: Segment, means: &mut Means) {
        let Segment { ends, opens, resets } = segment;
        let Some(&source) = self.by_ends.get(&ends) else {
            if opens {
                self.open(packet, ends, means);
            } else if !resets {
                reset(packet, means);
            }
            return;
        };
        let Some(connection) = self.by_source.get_mut(&source) else { return };
        match &mut connection.phase {
            Phase::Open(open) => {
                open.receive(packet.whole, &mut means.stack, &mut means.output);
                means.ready.add(source);
            }
            // The same SYN again; or the guest has given up.
            Phase::Connecting { .. } => {
                if resets {
                    self.remove(source, means);
                }
            }
        }
    }

    fn open(&mut self, packet: &Packet<'_>, ends: Ends, means: &mut Means) {
        if packet.whole.len() > SYN_BYTES_MAX {
            return;
        }
        let destination = ends.outside;
        if self.by_source.len() >= CONNECTIONS_MAX {
            let address = (destination.ip(), Some(destination.port()));
            means.gate.refuse(RefusedProtocol::Tcp, address, RefusalReason::TooManyConnections);
            reset(packet, means);
            return;
        }
        if is_gateway(destination.ip()) && destination.port() == NAME_SERVER_PORT {
            let peer = Peer::Names(Conversation::default());
            let source = means.ids.next(SourceKind::Tcp);
            self.accept(source, ends, packet.whole, peer, means);
            return;
        }
        let Ok(on_host) = means.gate.pass(RefusedProtocol::Tcp, destination) else {
            reset(packet, means);
            return;
        };
        let source = means.ids.next(SourceKind::Tcp);
        let connecting = TcpStream::connect(on_host).and_then(|mut stream| {
            source.register(&mut stream, &means.registry)?;
            Ok(stream)
        });
        match connecting {
            Ok(stream) => {
                let phase = Phase::Connecting { stream, syn: packet.whole.to_vec() };
                self.insert(source, Connection { ends, phase });
                means.timers.set(source, Some(Instant::now() + CONNECT_TIMEOUT));
            }
            Err(error) => give_up(packet.whole, &error, means),
        }
    }

    /// A client on the host for a published port.
    pub(crate) fn publish(&mut self, stream: TcpStream, port: u16, means: &mut Means) {
        let source = means.ids.next(SourceKind::Tcp);
        let guest = SocketAddr::from((GUEST_V4, port));
        let mut host = HostEnd::new(stream);
        let ends = self.free_ends(guest);
        let has_room = self.by_source.len() < CONNECTIONS_MAX;
        let registered = host.register(source, &means.registry);
        let peer = Peer::Host(host);
        let (Some(ends), true, Ok(())) = (ends, has_room, registered) else {
            peer.reset();
            return;
        };
        let bytes = self.buffers();
        if let Ok(open) = Open::connect(ends, peer, bytes, &mut means.stack) {
            let phase = Phase::Open(Box::new(open));
            self.insert(source, Connection { ends, phase });
            means.ready.add(source);
        }
    }

    /// With a port of the gateway that this port of the guest is not connected to.
    fn free_ends(&mut self, guest: SocketAddr) -> Option<Ends> {
        // One more than there can be connections, so one of them is free.
        for _ in 0..=CONNECTIONS_MAX {
            self.ports_used = (self.ports_used + 1) % (u16::MAX - FIRST_PORT);
            let ends = Ends { guest, outside: (GATEWAY_V4, FIRST_PORT + self.ports_used).into() };
            if !self.by_ends.contains_key(&ends) {
                return Some(ends);
            }
        }
        None
    }

    /// Something happened at the host's socket.
    pub(crate) fn set_ready(&mut self, source: SourceId, means: &mut Means) {
        let Some(connection) = self.by_source.get_mut(&source) else { return };
        match &mut connection.phase {
            Phase::Open(open) => {
                open.peer.set_ready();
                means.ready.add(source);
            }
            Phase::Connecting { stream, .. } => match has_connected(stream) {
                Ok(false) => {}
                Ok(true) => self.host_connected(source, means),
                Err(error) => self.host_failed(source, &error, means),
            },
        }
    }

    fn host_connected(&mut self, source: SourceId, means: &mut Means) {
        let Some(connection) = self.remove(source, means) else { return };
        if let Phase::Connecting { stream, syn } = connection.phase {
            let peer = Peer::Host(HostEnd::new(stream));
            self.accept(source, connection.ends, &syn, peer, means);
        }
    }

    fn host_failed(&mut self, source: SourceId, error: &io::Error, means: &mut Means) {
        if let Some(connection) = self.remove(source, means)
            && let Phase::Connecting { syn, .. } = connection.phase
        {
            give_up(&syn, error, means);
        }
    }

    /// The time that was set for it has come.
    pub(crate) fn time_out(&mut self, source: SourceId, means: &mut Means) {
        match self.by_source.get(&source).map(|connection| &connection.phase) {
            Some(Phase::Connecting { .. }) => {
                self.host_failed(source, &io::ErrorKind::TimedOut.into(), means);
            }
            Some(Phase::Open(_)) => means.ready.add(source),
            None => {}
        }
    }

    /// Moves what a connection has to move. There may be a question for the name server.
    pub(crate) fn turn(&mut self, source: SourceId, means: &mut Means) -> Option<Question> {
        let Phase::Open(open) = &mut self.by_source.get_mut(&source)?.phase else { return None };
        match open.turn(&mut means.stack, &mut means.output) {
            Turn::Again => means.ready.add(source),
            Turn::Wait(next) => means.timers.set(source, next),
            Turn::Over => {
                self.remove(source, means);
                return None;
            }
        }
        let Peer::Names(conversation) = &mut open.peer else { return None };
        let message = conversation.next_question()?;
        Some(Question { asker: source, message })
    }

    /// The answer to its question.
    pub(crate) fn answer(&mut self, source: SourceId, message: &[u8], means: &mut Means) {
        if let Some(Connection { phase: Phase::Open(open), .. }) = self.by_source.get_mut(&source)
            && let Peer::Names(conversation) = &mut open.peer
        {
            conversation.answer(message);
            means.ready.add(source);
        }
    }

    fn accept(&mut self, source: SourceId, ends: Ends, syn: &[u8], peer: Peer, means: &mut Means) {
        let mut open = Open::accept(ends, peer, self.buffers());
        open.receive(syn, &mut means.stack, &mut means.output);
        self.insert(source, Connection { ends, phase: Phase::Open(Box::new(open)) });
        means.ready.add(source);
    }

    fn buffers(&self) -> Buffers {
        if self.by_source.len() < FAST_CONNECTIONS_MAX { FAST } else { SLOW }
    }

    fn insert(&mut self, source: SourceId, connection: Connection) {
        self.by_ends.insert(connection.ends, source);
        self.by_source.insert(source, connection);
    }

    fn remove(&mut self, source: SourceId, means: &mut Means) -> Option<Connection> {
        means.timers.set(source, None);
        let connection = self.by_source.remove(&source)?;
        self.by_ends.remove(&connection.ends);
        Some(connection)
    }
}

/// Whether the first event of a socket meant that it is connected.
fn has_connected(stream: &TcpStream) -> io::Result<bool> {
    if let Some(error) = stream.take_error()? {
        return Err(error);
    }
    match stream.peer_addr() {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotConnected => Ok(false),
        Err(error) => Err(error),
    }
}

/// Tells the guest that the host cannot connect, such that its program fails at once, and with the same error.
fn give_up(syn: &[u8], error: &io::Error, means: &mut Means) {
    match error.kind() {
        io::ErrorKind::HostUnreachable
        | io::ErrorKind::NetworkUnreachable
        | io::ErrorKind::AddrNotAvailable
        | io::ErrorKind::TimedOut => {
            icmp::complain(syn, Unreachable::Host, &mut means.output);
        }
        _ => means.stack.receive(syn, &mut SocketSet::new(Vec::new()), &mut means.output),
    }
}

/// A connection that is none is answered by a reset.
fn reset(packet: &Packet<'_>, means: &mut Means) {
    means.stack.receive(packet.whole, &mut SocketSet::new(Vec::new()), &mut means.output);
}

pub(crate) fn is_gateway(address: IpAddr) -> bool {
    address == GATEWAY_V4 || address == GATEWAY_V6
}
