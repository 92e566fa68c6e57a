//! Whom a connection of the guest is with: a socket of the host, or the name server.

use std::io::{self, ErrorKind, Read, Write};
use std::net::Shutdown;
use std::time::Duration;

use mio::Registry;
use mio::net::TcpStream;
use rustix::net::sockopt;

use crate::dns::conversation::Conversation;
use crate::sources::SourceId;

/// How far the other end took, or gave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Transfer {
    Moved(usize),
    /// Not now.
    Later,
    /// It gives nothing more.
    Ended,
    /// It is gone.
    Broken,
}

#[derive(Debug)]
pub(crate) enum Peer {
    Host(HostEnd),
    Names(Conversation),
}

/// A connected socket of the host. Events come once each, so what they said is kept until it is known to be over.
#[derive(Debug)]
pub(crate) struct HostEnd {
    stream: TcpStream,
    readable: bool,
    writable: bool,
}

impl HostEnd {
    /// Of a connected socket, which may have had its events.
    pub(crate) fn new(stream: TcpStream) -> Self {
        // A segment of the guest's is sent on as it comes: the guest's kernel has decided what to collect.
        stream.set_nodelay(true).ok();
        // The guest's probes are answered here, so who asks whether the other side is still there is the host.
        sockopt::set_socket_keepalive(&stream, true).ok();
        Self { stream, readable: true, writable: true }
    }

    pub(crate) fn register(&mut self, id: SourceId, registry: &Registry) -> io::Result<()> {
        id.register(&mut self.stream, registry)
    }

    /// Ends the connection in a way that the other side takes for a failure.
    fn reset(&self) {
        sockopt::set_socket_linger(&self.stream, Some(Duration::ZERO)).ok();
    }
}

impl Peer {
    /// Something has happened at the socket.
    pub(crate) fn set_ready(&mut self) {
        match self {
            Self::Host(host) => (host.readable, host.writable) = (true, true),
            Self::Names(_) => {}
        }
    }

    pub(crate) fn take(&mut self, bytes: &[u8]) -> Transfer {
        match self {
            Self::Host(host) if !host.writable => Transfer::Later,
            Self::Host(host) => {
                let transfer = transfer(host.stream.write(bytes));
                host.writable = transfer != Transfer::Later;
                if transfer == Transfer::Ended { Transfer::Broken } else { transfer }
            }
            Self::Names(conversation) => conversation.take(bytes),
        }
    }

    pub(crate) fn give(&mut self, room: &mut [u8]) -> Transfer {
        match self {
            Self::Host(host) if !host.readable => Transfer::Later,
            Self::Host(host) => {
                let transfer = transfer(host.stream.read(room));
                host.readable = transfer != Transfer::Later;
                transfer
            }
            Self::Names(conversation) => conversation.give(room),
        }
    }

    /// The guest sends nothing more.
    pub(crate) fn end(&mut self) {
        match self {
            // It fails where the other side is gone, which the next read tells as well.
            Self::Host(host) => drop(host.stream.shutdown(Shutdown::Write)),
            Self::Names(conversation) => conversation.end(),
        }
    }

    pub(crate) fn reset(&self) {
        match self {
            Self::Host(host) => host.reset(),
            Self::Names(_) => {}
        }
    }
}

/// A socket that does not wait is not interrupted.
fn transfer(result: io::Result<usize>) -> Transfer {
    match result {
        Ok(0) => Transfer::Ended,
        Ok(moved) => Transfer::Moved(moved),
        Err(error) if error.kind() == ErrorKind::WouldBlock => Transfer::Later,
        Err(_) => Transfer::Broken,
    }
}
