//! One output stream of a run: a pipe, or a terminal, that is read only while its bytes may be sent.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use pyro_protocol::credit::{Credit, CreditExceeded};
use pyro_protocol::frame::CHUNK_BYTES_MAX;
use pyro_protocol::run::Stream;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

/// The agent's end of a command's standard output or error.
#[derive(Debug)]
pub(crate) struct Output {
    stream: Stream,
    /// Gone once the last writer is.
    pipe: Option<OwnedFd>,
    kind: Kind,
    credit: Credit,
    left: Left,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Pipe,
    Terminal,
}

/// How much of the stream is still to be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Left {
    /// Whatever the command will write.
    Unknown,
    /// What was in the pipe when the command ended.
    Bytes(usize),
}

impl Output {
    /// Takes the reading end of a pipe that does not block.
    pub(crate) fn new(stream: Stream, pipe: OwnedFd) -> Self {
        Self::of(stream, Some(pipe), Kind::Pipe)
    }

    /// Takes this side of a terminal, which does not block. All that a command writes comes from here.
    pub(crate) fn of_terminal(terminal: OwnedFd) -> Self {
        Self::of(Stream::Stdout, Some(terminal), Kind::Terminal)
    }

    /// The standard error of a command that has a terminal.
    pub(crate) fn none() -> Self {
        Self::of(Stream::Stderr, None, Kind::Terminal)
    }

    fn of(stream: Stream, pipe: Option<OwnedFd>, kind: Kind) -> Self {
        Self { stream, pipe, kind, credit: Credit::WINDOW, left: Left::Unknown }
    }

    pub(crate) fn stream(&self) -> Stream {
        self.stream
    }

    pub(crate) fn grant(&mut self, bytes: u32) -> Result<(), CreditExceeded> {
        self.credit.grant(bytes)
    }

    /// The pipe, if bytes from it could be sent.
    pub(crate) fn readable_pipe(&self) -> Option<BorrowedFd<'_>> {
        self.pipe.as_ref().filter(|_| self.chunk_bytes() > 0).map(AsFd::as_fd)
    }

    /// Reads one chunk that may be sent, if there is one, into a buffer of [`CHUNK_BYTES_MAX`].
    pub(crate) fn read_chunk<'a>(&mut self, buffer: &'a mut [u8]) -> Option<&'a [u8]> {
        let room = &mut buffer[..self.chunk_bytes()];
        let pipe = self.pipe.as_ref().filter(|_| !room.is_empty())?;
        match rustix::io::read(pipe, &mut *room) {
            Ok(0) => {
                self.pipe = None;
                None
            }
            Ok(length) => {
                self.credit.spend(length).expect("no more is read than the credit allows");
                if let Left::Bytes(left) = &mut self.left {
                    *left -= length;
                }
                Some(&room[..length])
            }
            Err(Errno::AGAIN | Errno::INTR) => None,
            // So a terminal ends that nobody holds any more (EIO). A pipe fails in no other way; if it
            // did, nothing more would come of it.
            Err(_) => {
                self.pipe = None;
                None
            }
        }
    }

    /// Fixes the end of the stream at what is in the pipe now, because the command has ended.
    /// What its children write behind that is nobody's output.
    pub(crate) fn seal(&mut self) {
        if let Left::Bytes(_) = self.left {
            return;
        }
        // What was written to a terminal may still be on its way to this side of it. It is all there
        // before the end; and if a child holds the terminal, looking for the end brings it here.
        if self.kind == Kind::Terminal && self.is_hung_up() {
            return;
        }
        let bytes =
            self.pipe.as_ref().and_then(|pipe| rustix::io::ioctl_fionread(pipe).ok()).unwrap_or(0);
        self.left = Left::Bytes(usize::try_from(bytes).unwrap_or(0));
    }

    /// Whether everything up to the end set by [`Self::seal`] was read.
    pub(crate) fn is_spent(&self) -> bool {
        self.pipe.is_none() || self.left == Left::Bytes(0)
    }

    fn is_hung_up(&self) -> bool {
        let Some(pipe) = &self.pipe else { return true };
        let mut pipe = [PollFd::new(pipe, PollFlags::IN)];
        poll(&mut pipe, Some(&Timespec::default())).is_ok()
            && pipe[0].revents().contains(PollFlags::HUP)
    }

    pub(crate) fn into_pipe(self) -> Option<OwnedFd> {
        self.pipe
    }

    fn chunk_bytes(&self) -> usize {
        let left = match self.left {
            Left::Unknown => CHUNK_BYTES_MAX,
            Left::Bytes(left) => left,
        };
        left.min(self.credit.available_bytes()).min(CHUNK_BYTES_MAX)
    }
}

#[cfg(test)]
mod tests {
    use pyro_protocol::credit::WINDOW_BYTES;
    use rustix::pipe::{PipeFlags, pipe_with};

    use super::*;

    fn output() -> (Output, OwnedFd) {
        let (reader, writer) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK).unwrap();
        (Output::new(Stream::Stdout, reader), writer)
    }

    fn read_all(output: &mut Output) -> usize {
        let mut buffer = vec![0; CHUNK_BYTES_MAX];
        let mut total = 0;
        while let Some(chunk) = output.read_chunk(&mut buffer) {
            total += chunk.len();
        }
        total
    }

    #[test]
    fn nothing_is_read_without_credit() {
        let (mut output, writer) = output();
        let mut read = 0;
        while read < WINDOW_BYTES as usize {
            rustix::io::write(&writer, &[0; 4096]).unwrap();
            read += read_all(&mut output);
        }
        rustix::io::write(&writer, b"more").unwrap();
        assert!(output.readable_pipe().is_none());
        assert_eq!(read_all(&mut output), 0);
        output.grant(3).unwrap();
        assert_eq!(read_all(&mut output), 3);
    }

    #[test]
    fn a_sealed_stream_ends_where_the_command_did_although_a_writer_remains() {
        let (mut output, writer) = output();
        rustix::io::write(&writer, b"from the command").unwrap();
        output.seal();
        rustix::io::write(&writer, b"from its child").unwrap();
        assert!(!output.is_spent());
        assert_eq!(read_all(&mut output), "from the command".len());
        assert!(output.is_spent());
    }

    #[test]
    fn a_stream_without_writers_is_spent() {
        let (mut output, writer) = output();
        drop(writer);
        assert_eq!(read_all(&mut output), 0);
        assert!(output.is_spent());
    }
}
