//! The way out of a terminal that a command has for itself: `Enter`, `~`, `.`, as ssh(1) has it. A guest that does
//! not react any more, or a command that ignores every key, must not keep the user's terminal.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use rustix::process::{Signal, getpid, kill_process};
use tokio::io::{AsyncRead, ReadBuf};

/// What is typed, without the way out. When that is typed this process gets a SIGHUP, as if the terminal were gone.
#[derive(Debug)]
pub(crate) struct Keys<R> {
    source: R,
    scanner: Scanner,
    /// What was read and not passed on yet.
    unread: Vec<u8>,
}

impl<R> Keys<R> {
    pub(crate) fn of(source: R) -> Self {
        Self { source, scanner: Scanner::default(), unread: Vec::new() }
    }
}

impl<R: AsyncRead + Unpin> AsyncRead for Keys<R> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        while this.unread.is_empty() {
            let mut bytes = [0; 1024];
            let mut typed = ReadBuf::new(&mut bytes);
            ready!(Pin::new(&mut this.source).poll_read(context, &mut typed))?;
            if typed.filled().is_empty() {
                return Poll::Ready(Ok(()));
            }
            if this.scanner.push(typed.filled(), &mut this.unread) == Found::WayOut {
                // It cannot fail for the process itself.
                kill_process(getpid(), Signal::HUP).ok();
                return Poll::Pending;
            }
        }
        let count = this.unread.len().min(buffer.remaining());
        buffer.put_slice(&this.unread[..count]);
        this.unread.drain(..count);
        Poll::Ready(Ok(()))
    }
}

/// Looks for the way out in what is typed.
#[derive(Debug, Default)]
struct Scanner {
    state: State,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Nothing was typed in this line.
    #[default]
    LineStart,
    /// A `~` was, and is held back.
    Tilde,
    InLine,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Found {
    Nothing,
    WayOut,
}

impl Scanner {
    /// Takes what is typed, and adds to `passed` what is for the command. `~~` is a `~` for it.
    fn push(&mut self, typed: &[u8], passed: &mut Vec<u8>) -> Found {
        for &key in typed {
            match (self.state, key) {
                (State::LineStart, b'~') => {
                    self.state = State::Tilde;
                    continue;
                }
                (State::Tilde, b'.') => return Found::WayOut,
                (State::Tilde, b'~') | (State::LineStart | State::InLine, _) => {}
                (State::Tilde, _) => passed.push(b'~'),
            }
            passed.push(key);
            self.state =
                if matches!(key, b'\r' | b'\n') { State::LineStart } else { State::InLine };
        }
        Found::Nothing
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pushed(pieces: &[&str]) -> (String, Found) {
        let (mut scanner, mut passed) = (Scanner::default(), Vec::new());
        for piece in pieces {
            if scanner.push(piece.as_bytes(), &mut passed) == Found::WayOut {
                return (String::from_utf8(passed).unwrap(), Found::WayOut);
            }
        }
        (String::from_utf8(passed).unwrap(), Found::Nothing)
    }

    #[test]
    fn the_way_out_is_found_at_the_start_of_a_line_however_it_is_typed() {
        for pieces in [&["~."][..], &["~", "."], &["ls\r~."], &["ls\r", "~", "."], &["~~\r~."]] {
            assert_eq!(pushed(pieces).1, Found::WayOut, "{pieces:?}");
        }
    }

    #[test]
    fn everything_else_reaches_the_command() {
        for (pieces, passed) in [
            (&["ls ~.\r"][..], "ls ~.\r"),
            (&["~/bin/x\r"], "~/bin/x\r"),
            (&["~", "\r~x."], "~\r~x."),
            (&["~~."], "~."),
            (&["a~."], "a~."),
        ] {
            assert_eq!(pushed(pieces), (passed.to_owned(), Found::Nothing), "{pieces:?}");
        }
    }
}
