//! The standard input of a run: at most one window of bytes, granted again as the command reads.

use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use pyro_protocol::credit::{Consumed, Credit, CreditExceeded};
use rustix::io::Errno;

/// The agent's end of a command's standard input.
#[derive(Debug)]
pub(crate) struct Input {
    /// Gone once everything was written, or nobody reads any more.
    pipe: Option<OwnedFd>,
    buffer: VecDeque<u8>,
    credit: Credit,
    consumed: Consumed,
    more: More,
    end: EndOfInput,
}

/// How a command is told that no more comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum EndOfInput {
    /// Its pipe is closed.
    Closed,
    /// The end-of-file character is typed, and what reads a line of the terminal gets an empty one. The
    /// terminal stays: it is the command's output as well.
    Typed,
}

/// Ctrl-D: every terminal starts with it as the end-of-file character, see termios(3).
const END_OF_FILE: u8 = 4;

/// Whether the host will send more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum More {
    Expected,
    Ended,
}

impl Input {
    /// Takes the writing end of a pipe, or a terminal, that does not block.
    pub(crate) fn new(pipe: OwnedFd, end: EndOfInput) -> Self {
        Self {
            pipe: Some(pipe),
            buffer: VecDeque::new(),
            credit: Credit::WINDOW,
            consumed: Consumed::default(),
            more: More::Expected,
            end,
        }
    }

    /// Takes the bytes of one frame, an empty one as the end; returns a grant to send.
    pub(crate) fn receive(&mut self, bytes: &[u8]) -> Result<Option<u32>, CreditExceeded> {
        self.credit.spend(bytes.len())?;
        if bytes.is_empty() {
            self.more = More::Ended;
        }
        if self.pipe.is_none() {
            return Ok(self.consume(bytes.len()));
        }
        self.buffer.extend(bytes);
        if bytes.is_empty() && self.end == EndOfInput::Typed {
            self.buffer.push_back(END_OF_FILE);
        }
        Ok(self.write())
    }

    /// The pipe, if there is something to be written to it.
    ///
    /// Without that it is not to be polled: a pipe without readers reports its error constantly.
    pub(crate) fn writable_pipe(&self) -> Option<BorrowedFd<'_>> {
        self.pipe.as_ref().filter(|_| !self.buffer.is_empty()).map(AsFd::as_fd)
    }

    /// Writes as much as the pipe takes; returns a grant to send.
    pub(crate) fn write(&mut self) -> Option<u32> {
        let mut written = 0;
        while let Some(pipe) = self.pipe.as_ref().filter(|_| !self.buffer.is_empty()) {
            match rustix::io::write(pipe, self.buffer.as_slices().0) {
                Ok(length) => {
                    self.buffer.drain(..length);
                    written += length;
                }
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => break,
                // Nobody reads any more (EPIPE). The host may keep sending: it is swallowed.
                Err(_) => {
                    written += self.buffer.len();
                    self.buffer = VecDeque::new();
                    self.pipe = None;
                }
            }
        }
        if self.more == More::Ended && self.buffer.is_empty() {
            self.pipe = None;
        }
        match self.more {
            More::Expected => self.consume(written),
            // Who has nothing more to send needs no room; and an end that was typed was never received.
            More::Ended => None,
        }
    }

    fn consume(&mut self, bytes: usize) -> Option<u32> {
        let grant = self.consumed.record(bytes)?;
        self.credit.grant(grant).expect("only what was spent before is granted again");
        Some(grant)
    }
}

#[cfg(test)]
mod tests {
    use pyro_protocol::credit::WINDOW_BYTES;
    use pyro_protocol::frame::CHUNK_BYTES_MAX;
    use rustix::pipe::{PipeFlags, pipe_with};

    use super::*;

    fn input() -> (Input, OwnedFd) {
        let (reader, writer) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK).unwrap();
        (Input::new(writer, EndOfInput::Closed), reader)
    }

    #[test]
    fn more_than_a_window_is_refused_while_the_command_does_not_read() {
        let (mut input, _reader) = input();
        let chunk = vec![0; CHUNK_BYTES_MAX];
        let mut sent = Credit::WINDOW;
        while sent.available_bytes() >= chunk.len() {
            sent.spend(chunk.len()).unwrap();
            if let Some(grant) = input.receive(&chunk).unwrap() {
                sent.grant(grant).unwrap();
            }
        }
        assert!(input.receive(&chunk).is_err());
        assert!(input.buffer.len() <= WINDOW_BYTES as usize);
    }

    #[test]
    fn an_empty_frame_ends_the_input_after_all_bytes_before_it() {
        let (mut input, reader) = input();
        input.receive(b"hello").unwrap();
        input.receive(b"").unwrap();
        let mut buffer = [0; 16];
        assert_eq!(rustix::io::read(&reader, &mut buffer), Ok(5));
        assert_eq!(rustix::io::read(&reader, &mut buffer), Ok(0));
    }

    #[test]
    fn the_end_of_what_is_typed_is_a_character() {
        let (reader, writer) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK).unwrap();
        let mut input = Input::new(writer, EndOfInput::Typed);
        input.receive(b"hello").unwrap();
        input.receive(b"").unwrap();
        let mut buffer = [0; 16];
        assert_eq!(rustix::io::read(&reader, &mut buffer), Ok(6));
        assert_eq!(&buffer[..6], b"hello\x04");
    }

    #[test]
    fn input_that_nobody_reads_is_swallowed_and_granted_again() {
        let (mut input, reader) = input();
        drop(reader);
        let chunk = vec![0; CHUNK_BYTES_MAX];
        let mut granted = 0;
        for _ in 0..4 * WINDOW_BYTES as usize / CHUNK_BYTES_MAX {
            granted += input.receive(&chunk).unwrap().unwrap_or(0);
        }
        assert_eq!(granted, 4 * WINDOW_BYTES);
    }
}
