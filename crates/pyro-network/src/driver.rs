//! The loop of a network: waits for the line, the host's sockets and the clock, and gives each its turn.
//!
//! ```text
//!   line ──► Input ──► packet ──┬─► tcp ──► host's sockets
//!                               ├─► udp ──►
//!   line ◄── Output ◄───────────┼─► dns ──► name servers
//!                               └─► link, icmp: answered at once
//! ```
//!
//! While QEMU takes nothing, nothing is read, neither from it nor for it. That cannot last: QEMU waits for us with
//! what it sends, but goes on taking what it receives.

use std::io::{self, ErrorKind};
use std::time::{Duration, Instant};

use mio::net::{TcpListener, UnixStream};
use mio::{Events, Poll, Waker};
use pyro_protocol::network::{RefusalReason, RefusedProtocol};
use smoltcp::wire::IpProtocol;

use crate::dns::lookups::{Answer, Asker, Lookups};
use crate::icmp::{self, Request, Unreachable};
use crate::line::{BrokenLine, Input};
use crate::link;
use crate::means::Means;
use crate::packet::{Incoming, Packet};
use crate::sources::{SourceId, SourceKind};
use crate::tcp::{Connections, is_gateway};
use crate::udp::{self, Exchanges};

/// Events that are taken at once.
const EVENTS: usize = 256;

/// Where the host has no descriptor left for a client of a published port, one may be free in a while.
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);

const NAME_SERVER_PORT: u16 = 53;

/// A network, ready to run.
#[derive(Debug)]
pub(crate) struct Driver {
    poll: Poll,
    line: UnixStream,
    line_id: SourceId,
    end_id: SourceId,
    line_readable: bool,
    input: Input,
    listeners: Vec<Listener>,
    connections: Connections,
    exchanges: Exchanges,
    lookups: Lookups,
    means: Means,
}

/// A published port.
#[derive(Debug)]
struct Listener {
    id: SourceId,
    socket: TcpListener,
    guest_port: u16,
}

/// Why the loop ends.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// It was told to, or QEMU has gone.
    Wanted,
    Failed,
}

impl From<io::Error> for End {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            // QEMU has gone, and left something unread.
            ErrorKind::BrokenPipe | ErrorKind::ConnectionReset => Self::Wanted,
            _ => Self::Failed,
        }
    }
}

impl From<BrokenLine> for End {
    fn from(_: BrokenLine) -> Self {
        Self::Failed
    }
}

impl Driver {
    /// Also gives what ends it.
    pub(crate) fn new(
        poll: Poll,
        line: std::os::unix::net::UnixStream,
        listeners: Vec<(std::net::TcpListener, u16)>,
        (lookups, mut means): (Lookups, Means),
    ) -> io::Result<(Self, Waker)> {
        line.set_nonblocking(true)?;
        let mut line = UnixStream::from_std(line);
        let line_id = means.ids.next(SourceKind::Line);
        line_id.register(&mut line, &means.registry)?;
        let end_id = means.ids.next(SourceKind::Line);
        let waker = Waker::new(&means.registry, end_id.token())?;
        let listen = |(socket, guest_port): (std::net::TcpListener, u16)| {
            socket.set_nonblocking(true)?;
            let mut socket = TcpListener::from_std(socket);
            let id = means.ids.next(SourceKind::Listener);
            id.register(&mut socket, &means.registry)?;
            Ok(Listener { id, socket, guest_port })
        };
        let listeners = listeners.into_iter().map(listen).collect::<io::Result<_>>()?;
        let driver = Self {
            poll,
            line,
            line_id,
            end_id,
            line_readable: true,
            input: Input::default(),
            listeners,
            connections: Connections::default(),
            exchanges: Exchanges::default(),
            lookups,
            means,
        };
        Ok((driver, waker))
    }

    /// Until it is told to end, QEMU has gone, or the line is broken.
    pub(crate) fn run(mut self) -> End {
        let mut events = Events::with_capacity(EVENTS);
        loop {
            if let Err(end) = self.turn(&mut events) {
                return end;
            }
        }
    }

    fn turn(&mut self, events: &mut Events) -> Result<(), End> {
        match self.poll.poll(events, self.patience()) {
            Err(error) if error.kind() == ErrorKind::Interrupted => return Ok(()),
            polled => polled?,
        }
        for event in events.iter() {
            self.happened(SourceId::of(event.token()))?;
        }
        let now = Instant::now();
        while let Some(source) = self.means.timers.take_due(now) {
            self.time_out(source);
        }
        self.take_input()?;
        self.give_turns();
        self.means.output.write_to(&self.line)?;
        Ok(())
    }

    /// To each that is ready, as long as there is room for what it has to say.
    pub(crate) fn give_turns(&mut self) {
        for _ in 0..self.means.ready.len() {
            if !self.means.output.has_room() {
                break;
            }
            if let Some(source) = self.means.ready.take() {
                self.give_turn(source);
            }
        }
    }

    /// How long nothing is to be done but wait for events.
    fn patience(&self) -> Option<Duration> {
        let has_work = self.means.ready.len() > 0 || self.line_readable;
        if has_work && self.means.output.has_room() {
            return Some(Duration::ZERO);
        }
        let next = self.means.timers.next()?;
        Some(next.saturating_duration_since(Instant::now()))
    }

    fn happened(&mut self, source: SourceId) -> Result<(), End> {
        match source.kind() {
            SourceKind::Line if source == self.end_id => return Err(End::Wanted),
            SourceKind::Line => self.line_readable = source == self.line_id,
            SourceKind::Tcp => self.connections.set_ready(source, &mut self.means),
            SourceKind::Udp | SourceKind::Listener | SourceKind::Lookup => {
                self.means.ready.add(source);
            }
        }
        Ok(())
    }

    fn time_out(&mut self, source: SourceId) {
        match source.kind() {
            SourceKind::Line => {}
            SourceKind::Listener => self.means.ready.add(source),
            SourceKind::Tcp => self.connections.time_out(source, &mut self.means),
            SourceKind::Udp => self.exchanges.close(source, &mut self.means),
            SourceKind::Lookup => {
                let answer = self.lookups.time_out(source, &mut self.means);
                self.answer(answer);
            }
        }
    }

    fn give_turn(&mut self, source: SourceId) {
        match source.kind() {
            SourceKind::Line => {}
            SourceKind::Listener => self.accept(source),
            SourceKind::Tcp => {
                if let Some(question) = self.connections.turn(source, &mut self.means) {
                    let asker = Asker::Connection(question.asker);
                    let answer = self.lookups.ask(asker, &question.message, &mut self.means);
                    self.answer(answer);
                }
            }
            SourceKind::Udp => self.exchanges.receive(source, &mut self.means),
            SourceKind::Lookup => {
                let answer = self.lookups.receive(source, &mut self.means);
                self.answer(answer);
            }
        }
    }

    /// Takes what QEMU has sent: a bufferful, so that others have their turn.
    fn take_input(&mut self) -> Result<(), End> {
        self.take_frames()?;
        if !self.line_readable || !self.means.output.has_room() {
            return Ok(());
        }
        match self.input.read_from(&self.line) {
            Ok(0) => Err(End::Wanted),
            Ok(_) => self.take_frames(),
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                self.line_readable = false;
                Ok(())
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Each frame has one answer at most, so there is room for it.
    fn take_frames(&mut self) -> Result<(), End> {
        let mut input = std::mem::take(&mut self.input);
        while self.means.output.has_room() {
            let Some(frame) = input.next_frame()? else { break };
            self.take_frame(frame);
        }
        self.input = input;
        Ok(())
    }

    pub(crate) fn take_frame(&mut self, frame: &[u8]) {
        match Incoming::of(frame) {
            Some(Incoming::Arp(request)) => link::answer_arp(request, &mut self.means.output),
            Some(Incoming::Packet(packet)) => self.receive(&packet),
            None => {}
        }
    }

    /// What would go onto the line.
    #[cfg(any(test, feature = "fuzzing"))]
    pub(crate) fn output(&mut self) -> &mut crate::line::Output {
        &mut self.means.output
    }

    fn receive(&mut self, packet: &Packet<'_>) {
        match packet.protocol {
            IpProtocol::Tcp => {
                if let Some(segment) = packet.segment() {
                    self.connections.receive(packet, segment, &mut self.means);
                }
            }
            IpProtocol::Udp => self.receive_datagram(packet),
            IpProtocol::Icmp | IpProtocol::Icmpv6 => self.receive_message(packet),
            // Both tell the link's routers what groups a host is in; there are none.
            IpProtocol::Igmp | IpProtocol::HopByHop => {}
            _ => self.refuse(packet),
        }
    }

    fn receive_datagram(&mut self, packet: &Packet<'_>) {
        let Some(datagram) = packet.datagram() else { return };
        let outside = datagram.ends.outside;
        if is_gateway(outside.ip()) && outside.port() == NAME_SERVER_PORT {
            let asker = Asker::Datagram(datagram.ends);
            let answer = self.lookups.ask(asker, datagram.payload, &mut self.means);
            self.answer(answer);
        } else {
            self.exchanges.send(packet, datagram, &mut self.means);
        }
    }

    fn receive_message(&mut self, packet: &Packet<'_>) {
        link::answer_solicitation(packet, &mut self.means.output);
        match Request::of(packet) {
            Some(Request::Echo { ident, sequence, data }) if is_gateway(packet.destination) => {
                let request = (ident, sequence, data);
                icmp::answer_echo(packet.source, request, &mut self.means.output);
            }
            Some(Request::Echo { .. }) => self.refuse(packet),
            Some(Request::Other) | None => {}
        }
    }

    /// What is neither TCP nor UDP gets no further than to the gateway.
    fn refuse(&mut self, packet: &Packet<'_>) {
        let destination = (packet.destination, None);
        let reason = RefusalReason::UnsupportedProtocol;
        self.means.gate.refuse(RefusedProtocol::Icmp, destination, reason);
        icmp::complain(packet.whole, Unreachable::Prohibited, &mut self.means.output);
    }

    fn answer(&mut self, answer: Option<Answer>) {
        let Some(Answer { to, message }) = answer else { return };
        match to {
            Asker::Connection(source) => {
                self.connections.answer(source, &message, &mut self.means);
            }
            Asker::Datagram(_) if message.is_empty() => {}
            Asker::Datagram(ends) => {
                udp::push(ends.outside, ends.guest, &message, &mut self.means.output);
            }
        }
    }

    fn accept(&mut self, source: SourceId) {
        let Some(listener) = self.listeners.iter().find(|listener| listener.id == source) else {
            return;
        };
        match listener.socket.accept() {
            Ok((stream, _)) => {
                self.connections.publish(stream, listener.guest_port, &mut self.means);
                self.means.ready.add(source);
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(_) => self.means.timers.set(source, Some(Instant::now() + ACCEPT_AGAIN)),
        }
    }
}
