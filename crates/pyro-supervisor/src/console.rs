//! The guest's serial console: read always, so that the guest never waits for it, and kept in part,
//! so that a boot which fails can be explained.

use std::collections::VecDeque;

use tokio::io::AsyncReadExt;
use tokio::net::UnixStream;

/// The end of the console that is kept, in bytes.
const TAIL_BYTES_MAX: usize = 16 * 1024;

/// More than a socket holds. A machine that lives on could be read without end.
const REST_BYTES_MAX: usize = 4 << 20;

/// How many of its last lines an error shows.
const LINES_SHOWN_MAX: usize = 8;

/// How much of a line an error shows, in bytes.
const LINE_BYTES_SHOWN_MAX: usize = 256;

/// The host's end of a console.
#[derive(Debug)]
pub(crate) struct Console {
    stream: UnixStream,
    tail: VecDeque<u8>,
}

impl Console {
    pub(crate) fn new(stream: UnixStream) -> Self {
        Self { stream, tail: VecDeque::new() }
    }

    /// Reads for as long as the machine lives, then waits for ever. Cancel-safe.
    pub(crate) async fn pump(&mut self) -> std::convert::Infallible {
        let mut buffer = [0; 4096];
        while let Ok(count @ 1..) = self.stream.read(&mut buffer).await {
            self.keep(&buffer[..count]);
        }
        std::future::pending().await
    }

    /// Reads what a machine that is, or soon will be, dead has left in the socket.
    pub(crate) fn drain(&mut self) {
        let mut buffer = [0; 4096];
        let mut rest_bytes = 0;
        while rest_bytes < REST_BYTES_MAX
            && let Ok(count @ 1..) = self.stream.try_read(&mut buffer)
        {
            self.keep(&buffer[..count]);
            rest_bytes += count;
        }
    }

    /// The last lines, cut short and free of control characters: the guest chose every byte of them.
    pub(crate) fn last_lines(&self) -> Vec<String> {
        let text: Vec<u8> = self.tail.iter().copied().collect();
        let text = String::from_utf8_lossy(&text);
        let lines = text.lines().map(printable).filter(|line| !line.is_empty());
        let mut last: Vec<_> = lines.rev().take(LINES_SHOWN_MAX).collect();
        last.reverse();
        last
    }

    fn keep(&mut self, bytes: &[u8]) {
        self.tail.extend(bytes);
        let excess = self.tail.len().saturating_sub(TAIL_BYTES_MAX);
        self.tail.drain(..excess);
    }
}

fn printable(line: &str) -> String {
    let printable: String = line.chars().filter(|char| !char.is_control()).collect();
    let printable = printable.trim();
    printable[..printable.floor_char_boundary(LINE_BYTES_SHOWN_MAX)].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn console_with(bytes: &[u8]) -> Console {
        let (stream, _guest) = UnixStream::pair().unwrap();
        let mut console = Console::new(stream);
        console.keep(bytes);
        console
    }

    #[tokio::test]
    async fn the_last_lines_carry_no_control_characters() {
        let console = console_with(b"\x1b[2Jboot\r\n\r\nKernel panic\x07\n");
        assert_eq!(console.last_lines(), ["[2Jboot", "Kernel panic"]);
    }

    #[tokio::test]
    async fn a_line_is_cut_between_characters() {
        let console = console_with(&[0xff; 1000]);
        let lines = console.last_lines();
        assert_eq!(lines.len(), 1);
        assert_eq!(lines[0].len(), LINE_BYTES_SHOWN_MAX / 3 * 3);
    }

    #[tokio::test]
    async fn an_endless_console_stays_within_its_limit() {
        let console = console_with(&vec![b'x'; 10 * TAIL_BYTES_MAX]);
        assert_eq!(console.tail.len(), TAIL_BYTES_MAX);
    }
}
