//! What the host says, from bytes on.
//!
//! ```text
//!            Hello                      Hello, hang-up
//!   waiting ───────► open (frames) ───────────────────► waiting
//! ```
//!
//! A VM restored from a template may have been frozen in a conversation. Its new host knows nothing
//! of that one and greets, so a greeting where a frame would start begins anew.

use pyro_protocol::frame::{FrameDecoder, FrameError, FrameKind, decode_message};
use pyro_protocol::guest::ToGuest;
use pyro_protocol::handshake::{Hello, HelloScanner};
use pyro_protocol::run::RunId;

/// One side of a conversation: the agent's ear.
#[derive(Debug)]
pub(crate) enum Conversation {
    Waiting(HelloScanner),
    Open(FrameDecoder),
}

/// Something the host said.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Heard {
    /// A conversation starts; what was before it is over.
    Greeting(Hello),
    Message(ToGuest),
    Stdin {
        run: RunId,
        bytes: Vec<u8>,
    },
}

impl Default for Conversation {
    fn default() -> Self {
        Self::Waiting(HelloScanner::default())
    }
}

impl Conversation {
    /// Takes bytes off the line; returns a greeting if it became whole and starts a conversation.
    pub(crate) fn push(&mut self, bytes: &[u8]) -> Option<Hello> {
        match self {
            Self::Open(decoder) => {
                decoder.push(bytes);
                None
            }
            Self::Waiting(scanner) => match scanner.push(bytes) {
                Ok(None) => None,
                Ok(Some((hello, rest))) => {
                    let mut decoder = FrameDecoder::default();
                    decoder.push(&rest);
                    *self = Self::Open(decoder);
                    Some(hello)
                }
                // However long the noise, a greeting may follow it.
                Err(_) => {
                    *self = Self::default();
                    None
                }
            },
        }
    }

    /// What was said next, or `None` until more bytes are pushed.
    pub(crate) fn next_heard(&mut self) -> Result<Option<Heard>, FrameError> {
        let Self::Open(decoder) = self else {
            return Ok(None);
        };
        let frame = match decoder.next_frame() {
            Ok(Some(frame)) => frame,
            Ok(None) => return Ok(None),
            Err(FrameError::UnknownKind { kind: Hello::FIRST_BYTE }) => {
                let unread = std::mem::take(decoder).into_unread();
                *self = Self::default();
                return Ok(self.push(&unread).map(Heard::Greeting));
            }
            Err(error) => return Err(error),
        };
        match frame.kind {
            FrameKind::Message => Ok(Some(Heard::Message(decode_message(&frame.payload)?))),
            FrameKind::Stdin => Ok(Some(Heard::Stdin { run: frame.run, bytes: frame.payload })),
            // Only the agent sends output; hearing it is as wrong as an unknown kind.
            FrameKind::Output(_) => Err(FrameError::UnknownKind { kind: 2 }),
        }
    }
}

#[cfg(test)]
mod tests {
    use pyro_protocol::frame::{encode_chunk, encode_message};
    use pyro_protocol::handshake::VERSION;

    use super::*;

    fn hello(nonce: u8) -> Hello {
        Hello { version: VERSION, nonce: [nonce; 16] }
    }

    fn hear(stream: &[u8], cut: usize) -> Result<Vec<Heard>, FrameError> {
        let mut conversation = Conversation::default();
        let mut heard = Vec::new();
        for piece in stream.chunks(cut) {
            heard.extend(conversation.push(piece).map(Heard::Greeting));
            while let Some(next) = conversation.next_heard()? {
                heard.push(next);
            }
        }
        Ok(heard)
    }

    #[test]
    fn a_conversation_is_heard_whatever_the_cuts() {
        let stream = [
            b"stale".to_vec(),
            hello(1).to_bytes().to_vec(),
            encode_message(&ToGuest::Ping).unwrap(),
            encode_chunk(FrameKind::Stdin, RunId(7), b"in").unwrap(),
        ]
        .concat();
        for cut in [1, 5, stream.len()] {
            let expected = [
                Heard::Greeting(hello(1)),
                Heard::Message(ToGuest::Ping),
                Heard::Stdin { run: RunId(7), bytes: b"in".to_vec() },
            ];
            assert_eq!(hear(&stream, cut).unwrap(), expected);
        }
    }

    #[test]
    fn a_greeting_between_frames_starts_anew() {
        let ping = encode_message(&ToGuest::Ping).unwrap();
        let first = hello(1).to_bytes();
        let second = hello(2).to_bytes();
        let stream = [&first[..], &ping, &second, &ping].concat();
        for cut in [1, 9, stream.len()] {
            let expected = [
                Heard::Greeting(hello(1)),
                Heard::Message(ToGuest::Ping),
                Heard::Greeting(hello(2)),
                Heard::Message(ToGuest::Ping),
            ];
            assert_eq!(hear(&stream, cut).unwrap(), expected);
        }
    }

    #[test]
    fn noise_between_frames_is_an_error() {
        let stream = [&hello(1).to_bytes()[..], b"\xffnoise noise"].concat();
        assert!(hear(&stream, 8).is_err());
    }
}
