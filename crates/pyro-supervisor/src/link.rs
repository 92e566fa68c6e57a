//! One end of a link: frames in, frames out, over a connected stream socket.

use std::io;
use std::time::Duration;

use pyro_protocol::frame::{Frame, FrameDecoder, FrameError};
use pyro_protocol::handshake::{
    HandshakeError, Hello, HelloScanner, Nonce, VERSION, WelcomeScanner,
};
use serde::Serialize;
use tokio::io::Interest;
use tokio::net::UnixStream;

/// Bytes taken off the socket at once.
const READ_BYTES: usize = 64 * 1024;

/// A framed link.
///
/// What is sent is queued, and written while [`next_frame`](Self::next_frame) waits. The queue has no
/// limit of its own: streams are bounded by credit, messages answer messages, and whoever does not
/// trust the other side looks at the [backlog](Self::backlog_bytes).
#[derive(Debug)]
pub(crate) struct Link {
    stream: UnixStream,
    decoder: FrameDecoder,
    outgoing: Vec<u8>,
    read_buffer: Box<[u8]>,
}

/// Why a link is of no more use.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    #[error("the connection broke")]
    Broken { source: io::Error },
    #[error("the other side closed the connection")]
    Closed,
    #[error("the other side sent what is no frame")]
    NoFrame { source: FrameError },
    #[error("the message cannot be sent")]
    Unsendable { source: FrameError },
    #[error("the other side did not greet as expected")]
    NoGreeting { source: HandshakeError },
    #[error("the other side did not answer within {} seconds", deadline.as_secs())]
    TooLate { deadline: Duration },
}

impl Link {
    /// Opens a conversation: greets, and skips everything until the greeting is answered.
    pub(crate) async fn call(stream: UnixStream, nonce: Nonce) -> Result<Self, LinkError> {
        let mut link = Self::new(stream);
        link.greet(nonce).await?;
        Ok(link)
    }

    /// Begins a new conversation on the same line. What is left of the old one is skipped.
    pub(crate) async fn greet(&mut self, nonce: Nonce) -> Result<(), LinkError> {
        self.decoder = FrameDecoder::default();
        self.outgoing.extend_from_slice(&Hello { version: VERSION, nonce }.to_bytes());
        let mut scanner = WelcomeScanner::new(nonce);
        loop {
            let count = self.exchange().await?;
            let found = scanner
                .push(&self.read_buffer[..count])
                .map_err(|source| LinkError::NoGreeting { source })?;
            if let Some(rest) = found {
                self.decoder.push(&rest);
                return Ok(());
            }
        }
    }

    /// Answers a conversation that the other side opens.
    pub(crate) async fn answer(stream: UnixStream) -> Result<Self, LinkError> {
        let mut link = Self::new(stream);
        let mut scanner = HelloScanner::default();
        loop {
            let count = link.exchange().await?;
            let found = scanner
                .push(&link.read_buffer[..count])
                .map_err(|source| LinkError::NoGreeting { source })?;
            let Some((hello, rest)) = found else {
                continue;
            };
            link.outgoing.extend_from_slice(&hello.welcome().to_bytes());
            if hello.version != VERSION {
                link.flush().await?;
                let source = HandshakeError::VersionMismatch { theirs: hello.version };
                return Err(LinkError::NoGreeting { source });
            }
            link.decoder.push(&rest);
            return Ok(link);
        }
    }

    fn new(stream: UnixStream) -> Self {
        Self {
            stream,
            decoder: FrameDecoder::default(),
            outgoing: Vec::new(),
            read_buffer: vec![0; READ_BYTES].into_boxed_slice(),
        }
    }

    /// Queues an encoded frame.
    pub(crate) fn send(&mut self, frame: &[u8]) {
        self.outgoing.extend_from_slice(frame);
    }

    /// Queues a message.
    pub(crate) fn send_message<M: Serialize>(&mut self, message: &M) -> Result<(), LinkError> {
        let frame = pyro_protocol::frame::encode_message(message)
            .map_err(|source| LinkError::Unsendable { source })?;
        self.send(&frame);
        Ok(())
    }

    /// How much is queued and not written yet.
    pub(crate) fn backlog_bytes(&self) -> usize {
        self.outgoing.len()
    }

    /// Waits for the next frame, and meanwhile writes what is queued. Cancel-safe.
    pub(crate) async fn next_frame(&mut self) -> Result<Frame, LinkError> {
        loop {
            // A guest that never stops sending must not keep this thread from its timers.
            tokio::task::consume_budget().await;
            let frame =
                self.decoder.next_frame().map_err(|source| LinkError::NoFrame { source })?;
            if let Some(frame) = frame {
                return Ok(frame);
            }
            let count = self.exchange().await?;
            self.decoder.push(&self.read_buffer[..count]);
        }
    }

    /// Writes everything that is queued. Cancel-safe.
    pub(crate) async fn flush(&mut self) -> Result<(), LinkError> {
        while !self.outgoing.is_empty() {
            self.stream.writable().await.map_err(broken)?;
            self.write_some()?;
        }
        Ok(())
    }

    /// Writes what is queued until something can be read; returns how much was read into the buffer.
    async fn exchange(&mut self) -> Result<usize, LinkError> {
        loop {
            let interest = if self.outgoing.is_empty() {
                Interest::READABLE
            } else {
                Interest::READABLE | Interest::WRITABLE
            };
            let ready = self.stream.ready(interest).await.map_err(broken)?;
            if ready.is_writable() {
                match self.write_some() {
                    // Nobody reads any more, but what was said before that may still be here.
                    Err(LinkError::Closed) => self.outgoing.clear(),
                    written => written?,
                }
            }
            if ready.is_readable() {
                match self.stream.try_read(&mut self.read_buffer) {
                    Ok(0) => return Err(LinkError::Closed),
                    Ok(count) => return Ok(count),
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    Err(error) => return Err(broken(error)),
                }
            }
        }
    }

    fn write_some(&mut self) -> Result<(), LinkError> {
        match self.stream.try_write(&self.outgoing) {
            Ok(count) => {
                self.outgoing.drain(..count);
                Ok(())
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(()),
            Err(error) => Err(broken(error)),
        }
    }
}

fn broken(source: io::Error) -> LinkError {
    // A peer that died with unread bytes in its buffer resets the connection: it is gone either way.
    match source.kind() {
        io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => LinkError::Closed,
        _ => LinkError::Broken { source },
    }
}

#[cfg(test)]
mod tests {
    use pyro_protocol::frame::{FrameKind, encode_chunk};
    use pyro_protocol::run::RunId;

    use super::*;

    const NONCE: Nonce = [3; 16];

    async fn linked() -> (Link, Link) {
        let (left, right) = UnixStream::pair().unwrap();
        let (caller, answerer) = tokio::join!(Link::call(left, NONCE), async {
            let mut link = Link::answer(right).await.unwrap();
            link.flush().await.unwrap();
            link
        });
        (caller.unwrap(), answerer)
    }

    #[tokio::test]
    async fn a_frame_larger_than_the_socket_buffer_arrives_whole() {
        let (mut sender, mut receiver) = linked().await;
        let chunk = vec![7; pyro_protocol::frame::CHUNK_BYTES_MAX];
        for run in 1..=100 {
            sender.send(&encode_chunk(FrameKind::Stdin, RunId(run), &chunk).unwrap());
        }
        let receive = async {
            for run in 1..=100 {
                let frame = receiver.next_frame().await.unwrap();
                assert_eq!((frame.run, frame.payload.len()), (RunId(run), chunk.len()));
            }
        };
        tokio::select! {
            () = receive => {}
            frame = sender.next_frame() => panic!("nothing was sent back: {frame:?}"),
        }
    }

    #[tokio::test]
    async fn what_a_peer_does_not_read_is_the_backlog() {
        let (mut sender, _deaf) = linked().await;
        let chunk = encode_chunk(FrameKind::Stdin, RunId(1), &[7; 1024]).unwrap();
        for _ in 0..2000 {
            sender.send(&chunk);
        }
        let waiting = tokio::time::timeout(Duration::from_millis(100), sender.next_frame());
        assert!(waiting.await.is_err(), "nothing was sent back");
        let backlog_bytes = sender.backlog_bytes();
        assert!((1..2000 * chunk.len()).contains(&backlog_bytes), "{backlog_bytes}");
    }

    #[tokio::test]
    async fn a_closed_peer_is_told_from_a_broken_one() {
        let (mut left, right) = linked().await;
        drop(right);
        assert!(matches!(left.next_frame().await, Err(LinkError::Closed)));
    }

    #[tokio::test]
    async fn bytes_that_are_no_frame_are_an_error() {
        let (mut left, mut right) = linked().await;
        right.send(&[0xff; 64]);
        right.flush().await.unwrap();
        assert!(matches!(left.next_frame().await, Err(LinkError::NoFrame { .. })));
    }
}
