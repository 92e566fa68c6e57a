//! A connection whose both ends are there: bytes, ends and failures of each, carried to the other.
//!
//! ```text
//!   guest ◄──► smoltcp's socket ◄──► peer: a socket of the host
//!
//!   a buffer that is full    is not read into: the sender's window closes, or the host's socket fills up
//!   FIN                      once all before it is through, shutdown(Write), and the other way round
//!   RST, or a failure        RST
//! ```

use std::time::Instant;

use smoltcp::iface::{SocketHandle, SocketSet};
use smoltcp::socket::tcp::{ConnectError, Socket, SocketBuffer, State};
use smoltcp::time::Duration;

use super::peer::{Peer, Transfer};
use crate::line::Output;
use crate::packet::Ends;
use crate::stack::{Egress, Stack};

/// How often bytes are moved before others have their turn.
const ROUNDS_MAX: usize = 8;

/// How long the guest may take to answer what its kernel answers at once: a SYN, a FIN.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);

/// Shorter waits are not worth waking up for.
const PAUSE: std::time::Duration = std::time::Duration::from_millis(1);

/// How long the guest waits to hear that its bytes have come, unless something is sent to it anyway. Every packet to
/// an emulated guest interrupts it, which costs it more than the packet.
const ACK_DELAY: Duration = Duration::from_millis(1);

/// A connection.
pub(super) struct Open {
    /// With one socket.
    sockets: SocketSet<'static>,
    handle: SocketHandle,
    pub(super) peer: Peer,
    /// The guest sends nothing more, and the peer knows.
    guest_ended: bool,
    /// The other way round.
    peer_ended: bool,
}

impl std::fmt::Debug for Open {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut shown = formatter.debug_struct("Open");
        shown.field("state", &self.socket().state()).field("peer", &self.peer);
        shown.finish_non_exhaustive()
    }
}

/// What a connection may hold in each direction.
#[derive(Debug, Clone, Copy)]
pub(super) struct Buffers {
    pub(super) from_guest_bytes: usize,
    pub(super) to_guest_bytes: usize,
}

impl Buffers {
    pub(super) const fn bytes(self) -> usize {
        self.from_guest_bytes + self.to_guest_bytes
    }
}

/// What is to be done with a connection after a turn.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Turn {
    /// It has more to do now.
    Again,
    /// Nothing, until something happens, or until then.
    Wait(Option<Instant>),
    /// It is over.
    Over,
}

impl Open {
    /// One that the guest opens, with the segment that is fed to it next.
    pub(super) fn accept(ends: Ends, peer: Peer, buffers: Buffers) -> Self {
        let mut open = Self::new(peer, buffers);
        let listening = open.socket_mut().listen(ends.outside);
        listening.expect("a new socket, and a port that is not 0");
        open
    }

    /// One to the guest.
    pub(super) fn connect(
        ends: Ends,
        peer: Peer,
        buffers: Buffers,
        stack: &mut Stack,
    ) -> Result<Self, ConnectError> {
        let mut open = Self::new(peer, buffers);
        let handle = open.handle;
        let context = stack.interface().context();
        let socket = open.sockets.get_mut::<Socket>(handle);
        socket.connect(context, ends.guest, ends.outside)?;
        Ok(open)
    }

    fn new(peer: Peer, buffers: Buffers) -> Self {
        let buffer = |bytes| SocketBuffer::new(vec![0; bytes]);
        let mut socket =
            Socket::new(buffer(buffers.from_guest_bytes), buffer(buffers.to_guest_bytes));
        socket.set_nagle_enabled(false);
        socket.set_ack_delay(Some(ACK_DELAY));
        socket.set_timeout(Some(ANSWER_TIMEOUT));
        let mut sockets = SocketSet::new(Vec::with_capacity(1));
        let handle = sockets.add(socket);
        Self { sockets, handle, peer, guest_ended: false, peer_ended: false }
    }

    /// A segment of the guest.
    pub(super) fn receive(&mut self, packet: &[u8], stack: &mut Stack, output: &mut Output) {
        stack.receive(packet, &mut self.sockets, output);
    }

    /// Moves what can be moved.
    pub(super) fn turn(&mut self, stack: &mut Stack, output: &mut Output) -> Turn {
        for _ in 0..ROUNDS_MAX {
            let moved = [self.carry_to_peer(), self.carry_to_guest()].contains(&true);
            self.limit_silence();
            match stack.send(&mut self.sockets, output) {
                Egress::NoRoom => return Turn::Again,
                Egress::Done { sent } if sent || moved => {}
                Egress::Done { .. } => return self.rest(stack),
            }
        }
        Turn::Again
    }

    /// Ends it for the guest, as a failure, with the next turn.
    fn abort(&mut self) {
        self.socket_mut().abort();
    }

    fn carry_to_peer(&mut self) -> bool {
        let socket = self.sockets.get_mut::<Socket>(self.handle);
        let mut has_moved = false;
        while socket.can_recv() {
            let taken = socket.recv(|bytes| {
                let transfer = self.peer.take(bytes);
                (if let Transfer::Moved(taken) = transfer { taken } else { 0 }, transfer)
            });
            match taken {
                Ok(Transfer::Moved(_)) => has_moved = true,
                Ok(Transfer::Later) => return has_moved,
                Ok(Transfer::Ended | Transfer::Broken) | Err(_) => {
                    self.abort();
                    return true;
                }
            }
        }
        let has_fin = match socket.state() {
            State::CloseWait | State::LastAck | State::Closing | State::TimeWait => true,
            State::Closed
            | State::Listen
            | State::SynSent
            | State::SynReceived
            | State::Established
            | State::FinWait1
            | State::FinWait2 => false,
        };
        if has_fin && !self.guest_ended {
            self.guest_ended = true;
            self.peer.end();
            has_moved = true;
        }
        has_moved
    }

    fn carry_to_guest(&mut self) -> bool {
        let socket = self.sockets.get_mut::<Socket>(self.handle);
        let mut has_moved = false;
        while !self.peer_ended && socket.can_send() {
            let given = socket.send(|room| {
                let transfer = self.peer.give(room);
                (if let Transfer::Moved(given) = transfer { given } else { 0 }, transfer)
            });
            match given {
                Ok(Transfer::Moved(_)) => has_moved = true,
                Ok(Transfer::Later) => return has_moved,
                Ok(Transfer::Ended) => {
                    self.peer_ended = true;
                    socket.close();
                    return true;
                }
                Ok(Transfer::Broken) | Err(_) => {
                    self.abort();
                    return true;
                }
            }
        }
        has_moved
    }

    /// smoltcp's time-out is for any silence of the guest, so it is for states in which its kernel must speak:
    /// a connection may be idle for as long as its ends like.
    fn limit_silence(&mut self) {
        let socket = self.socket_mut();
        let limit = match socket.state() {
            State::Listen
            | State::SynSent
            | State::SynReceived
            | State::FinWait1
            | State::Closing
            | State::LastAck => Some(ANSWER_TIMEOUT),
            State::Closed
            | State::Established
            | State::CloseWait
            | State::FinWait2
            | State::TimeWait => None,
        };
        socket.set_timeout(limit);
    }

    fn rest(&self, stack: &mut Stack) -> Turn {
        // Where smoltcp has something to say now, it just had the chance: not again and again without a pause.
        let soonest = Instant::now() + PAUSE;
        let next = stack.next(&self.sockets).map(|at| at.max(soonest));
        match self.socket().state() {
            State::Closed if next.is_none() => Turn::Over,
            // The last segment is on its way on a line that loses nothing, so nobody has to be waited for.
            State::TimeWait if self.guest_ended && self.peer_ended => Turn::Over,
            State::Closed
            | State::Listen
            | State::SynSent
            | State::SynReceived
            | State::Established
            | State::FinWait1
            | State::FinWait2
            | State::CloseWait
            | State::Closing
            | State::LastAck
            | State::TimeWait => Turn::Wait(next),
        }
    }

    fn socket(&self) -> &Socket<'static> {
        self.sockets.get(self.handle)
    }

    fn socket_mut(&mut self) -> &mut Socket<'static> {
        self.sockets.get_mut(self.handle)
    }
}

/// What did not end in both directions was cut off, and the host's side is to know.
impl Drop for Open {
    fn drop(&mut self) {
        if !(self.guest_ended && self.peer_ended) {
            self.peer.reset();
        }
    }
}
