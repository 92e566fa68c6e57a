//! The virtio-serial port to the supervisor: non-blocking, with a bounded backlog.
//!
//! Linux answers every `poll` of a port whose host side is closed with `POLLHUP`, for as long as
//! it stays closed. So a closed port is watched through an edge-triggered epoll instead, which
//! speaks once per change: an agent that waits for its next conversation does not run at all.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::event::{PollFd, PollFlags, Timespec, epoll, poll};
use rustix::io::Errno;

/// Frames made while less than this is waiting to be sent keep flowing; above it, commands wait.
pub(crate) const BACKLOG_BYTES_OUTPUT: usize = 128 * 1024;

/// Above this nothing more is read from the port, so that not even answers can pile up.
const BACKLOG_BYTES_ANSWERS: usize = 1024 * 1024;

const _: () = assert!(BACKLOG_BYTES_OUTPUT < BACKLOG_BYTES_ANSWERS);

/// Sent bytes at the front of the backlog are dropped from memory in steps of this size.
const COMPACT_BYTES: usize = 64 * 1024;

/// The open port.
#[derive(Debug)]
pub(crate) struct Port {
    device: File,
    changes: OwnedFd,
    backlog: Backlog,
    host: Host,
}

/// Whether the host's side of the port is open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Host {
    Connected,
    Gone,
}

/// What a read from the port brought.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Received {
    Bytes(usize),
    Nothing,
    HangUp,
}

impl Port {
    /// Takes the port's device file, opened for reading and writing without blocking.
    pub(crate) fn new(device: File) -> io::Result<Self> {
        let changes = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let events = epoll::EventFlags::IN | epoll::EventFlags::ET;
        epoll::add(&changes, &device, epoll::EventData::new_u64(0), events)?;
        let mut port = Self { device, changes, backlog: Backlog::default(), host: Host::Gone };
        port.notice_change()?;
        Ok(port)
    }

    /// What to wait for: the port itself, or while the host is gone, any change of it.
    pub(crate) fn interest(&self) -> (BorrowedFd<'_>, PollFlags) {
        match self.host {
            Host::Gone => (self.changes.as_fd(), PollFlags::IN),
            Host::Connected => {
                let mut flags = PollFlags::empty();
                flags.set(PollFlags::OUT, !self.backlog.is_empty());
                flags.set(PollFlags::IN, self.backlog.len() < BACKLOG_BYTES_ANSWERS);
                (self.device.as_fd(), flags)
            }
        }
    }

    /// Reads what has arrived, as much as fits into `buffer`.
    pub(crate) fn receive(&mut self, buffer: &mut [u8]) -> io::Result<Received> {
        if self.host == Host::Gone {
            self.notice_change()?;
            if self.host == Host::Gone {
                return Ok(Received::Nothing);
            }
        }
        if self.backlog.len() >= BACKLOG_BYTES_ANSWERS {
            return self.receive_nothing();
        }
        match rustix::io::read(&self.device, buffer) {
            Ok(0) => {
                self.notice_change()?;
                self.backlog.clear();
                Ok(Received::HangUp)
            }
            Ok(length) => Ok(Received::Bytes(length)),
            Err(Errno::AGAIN | Errno::INTR) => Ok(Received::Nothing),
            Err(error) => Err(error.into()),
        }
    }

    /// Puts `bytes` in line to be sent.
    pub(crate) fn send(&mut self, bytes: &[u8]) {
        self.backlog.push(bytes);
    }

    /// Whether commands may add output to the backlog.
    pub(crate) fn has_room(&self) -> bool {
        self.host == Host::Connected && self.backlog.len() < BACKLOG_BYTES_OUTPUT
    }

    /// Sends as much of the backlog as the port takes at the moment.
    pub(crate) fn flush(&mut self) -> io::Result<()> {
        while self.host == Host::Connected && !self.backlog.is_empty() {
            match rustix::io::write(&self.device, self.backlog.pending()) {
                Ok(sent) => self.backlog.sent(sent),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => break,
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// Waits until the port can be read, or written if there is a backlog, at most for `timeout`.
    pub(crate) fn wait(&self, timeout: Timespec) -> io::Result<()> {
        let (fd, flags) = self.interest();
        poll(&mut [PollFd::from_borrowed_fd(fd, flags)], Some(&timeout))?;
        Ok(())
    }

    pub(crate) fn is_flushed(&self) -> bool {
        self.backlog.is_empty()
    }

    /// Forgets what is not sent yet: it belongs to a conversation that is over.
    pub(crate) fn drop_backlog(&mut self) {
        self.backlog.clear();
    }

    /// Leaves what has arrived where it is, but not a hang-up unnoticed: `poll` would report it
    /// without end.
    fn receive_nothing(&mut self) -> io::Result<Received> {
        self.notice_change()?;
        match self.host {
            Host::Connected => Ok(Received::Nothing),
            Host::Gone => {
                self.backlog.clear();
                Ok(Received::HangUp)
            }
        }
    }

    /// Finds out whether the host is there, and re-arms the watch for the next change.
    fn notice_change(&mut self) -> io::Result<()> {
        // The watch first: a change between the two is then seen again, not lost.
        let mut events = [epoll::Event {
            flags: epoll::EventFlags::empty(),
            data: epoll::EventData::new_u64(0),
        }];
        epoll::wait(&self.changes, &mut events[..], Some(&Timespec::default()))?;
        let mut port = [PollFd::new(&self.device, PollFlags::IN)];
        poll(&mut port, Some(&Timespec::default()))?;
        self.host =
            if port[0].revents().contains(PollFlags::HUP) { Host::Gone } else { Host::Connected };
        Ok(())
    }
}

/// Bytes that wait to be sent, in one piece, so that many small frames leave in one write.
#[derive(Debug, Default)]
struct Backlog {
    bytes: Vec<u8>,
    sent: usize,
}

impl Backlog {
    fn push(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    fn pending(&self) -> &[u8] {
        &self.bytes[self.sent..]
    }

    fn sent(&mut self, bytes: usize) {
        self.sent += bytes;
        if self.is_empty() {
            self.clear();
        } else if self.sent >= COMPACT_BYTES {
            self.bytes.drain(..self.sent);
            self.sent = 0;
        }
    }

    fn len(&self) -> usize {
        self.bytes.len() - self.sent
    }

    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn clear(&mut self) {
        self.bytes.clear();
        self.sent = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_backlog_keeps_the_order_whatever_is_sent_between() {
        let bytes: Vec<u8> = (0..=250).cycle().take(3 * COMPACT_BYTES).collect();
        let mut backlog = Backlog::default();
        let mut received = Vec::new();
        for piece in bytes.chunks(7_000) {
            backlog.push(piece);
            let sent = backlog.len().min(5_000);
            received.extend_from_slice(&backlog.pending()[..sent]);
            backlog.sent(sent);
        }
        received.extend_from_slice(backlog.pending());
        assert_eq!(received, bytes);
    }

    #[test]
    fn sent_bytes_do_not_stay_in_memory() {
        let mut backlog = Backlog::default();
        for _ in 0..1_000 {
            backlog.push(&[0; 10_000]);
            backlog.sent(10_000.min(backlog.len()));
        }
        assert!(backlog.bytes.len() <= COMPACT_BYTES + 10_000);
    }
}
