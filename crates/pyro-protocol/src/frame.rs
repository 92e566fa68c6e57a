//! Frames: length-prefixed pieces of one link's byte stream.
//!
//! ```text
//!   byte 0      1..5       5..9        9..9+length
//!   ┌──────┬───────────┬───────────┬───────────────┐
//!   │ kind │ run (LE)  │length (LE)│    payload    │
//!   └──────┴───────────┴───────────┴───────────────┘
//! ```
//!
//! The header is checked before anything is allocated, because the sender may be a hostile guest.

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::run::{RunId, Stream};

/// Bytes before a frame's payload.
pub const HEADER_BYTES: usize = 9;

/// The longest payload of any frame. A command (128 KiB at most, see
/// [`COMMAND_BYTES_MAX`](crate::run::COMMAND_BYTES_MAX)) with its environment must fit.
pub const PAYLOAD_BYTES_MAX: usize = 320 * 1024;

/// The most output or input carried by one frame: large enough to cost little, small enough that
/// a control message never waits long behind one.
pub const CHUNK_BYTES_MAX: usize = 32 * 1024;

const _: () = assert!(CHUNK_BYTES_MAX <= PAYLOAD_BYTES_MAX);

/// What a frame carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FrameKind {
    /// A control message of the link, encoded with postcard. The run field is 0.
    Message,
    /// Bytes for a run's standard input; an empty payload is its end.
    Stdin,
    /// Bytes a run wrote to one of its output streams.
    Output(Stream),
}

impl FrameKind {
    const fn to_byte(self) -> u8 {
        match self {
            Self::Message => 0,
            Self::Stdin => 1,
            Self::Output(Stream::Stdout) => 2,
            Self::Output(Stream::Stderr) => 3,
        }
    }

    const fn from_byte(byte: u8) -> Option<Self> {
        match byte {
            0 => Some(Self::Message),
            1 => Some(Self::Stdin),
            2 => Some(Self::Output(Stream::Stdout)),
            3 => Some(Self::Output(Stream::Stderr)),
            _ => None,
        }
    }

    const fn payload_bytes_max(self) -> usize {
        match self {
            Self::Message => PAYLOAD_BYTES_MAX,
            Self::Stdin | Self::Output(_) => CHUNK_BYTES_MAX,
        }
    }
}

/// One whole frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    pub kind: FrameKind,
    /// The run a stream frame belongs to; [`RunId::NONE`] in messages.
    pub run: RunId,
    pub payload: Vec<u8>,
}

/// Why bytes are not a frame, or a value cannot become one. The link is unusable afterwards.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    #[error("frame kind {kind} is unknown")]
    UnknownKind { kind: u8 },
    #[error("frame of {length} bytes is longer than the limit of {limit}")]
    TooLong { length: usize, limit: usize },
    #[error("message cannot be decoded")]
    Undecodable { source: postcard::Error },
    #[error("message has {count} bytes behind its end")]
    TrailingBytes { count: usize },
    #[error("message cannot be encoded")]
    Unencodable { source: postcard::Error },
}

/// Encodes a control message as a frame, ready to be written.
///
/// Fails with [`FrameError::TooLong`] where the message exceeds [`PAYLOAD_BYTES_MAX`].
pub fn encode_message<M: Serialize>(message: &M) -> Result<Vec<u8>, FrameError> {
    let header = vec![0; HEADER_BYTES];
    let mut bytes = postcard::to_extend(message, header)
        .map_err(|source| FrameError::Unencodable { source })?;
    let length = bytes.len() - HEADER_BYTES;
    check_length(FrameKind::Message, length)?;
    write_header(&mut bytes, FrameKind::Message, RunId::NONE, length);
    Ok(bytes)
}

/// Encodes one chunk of a stream as a frame, ready to be written.
///
/// Fails with [`FrameError::TooLong`] where the chunk exceeds [`CHUNK_BYTES_MAX`].
pub fn encode_chunk(kind: FrameKind, run: RunId, chunk: &[u8]) -> Result<Vec<u8>, FrameError> {
    check_length(kind, chunk.len())?;
    let mut bytes = vec![0; HEADER_BYTES];
    bytes.extend_from_slice(chunk);
    write_header(&mut bytes, kind, run, chunk.len());
    Ok(bytes)
}

/// Decodes the payload of a [`FrameKind::Message`] frame, which is one message and nothing else.
pub fn decode_message<M: DeserializeOwned>(payload: &[u8]) -> Result<M, FrameError> {
    let (message, rest) =
        postcard::take_from_bytes(payload).map_err(|source| FrameError::Undecodable { source })?;
    match rest.len() {
        0 => Ok(message),
        count => Err(FrameError::TrailingBytes { count }),
    }
}

fn check_length(kind: FrameKind, length: usize) -> Result<(), FrameError> {
    let limit = kind.payload_bytes_max();
    if length > limit {
        return Err(FrameError::TooLong { length, limit });
    }
    Ok(())
}

fn write_header(bytes: &mut [u8], kind: FrameKind, run: RunId, length: usize) {
    let length = u32::try_from(length).expect("checked against PAYLOAD_BYTES_MAX");
    bytes[0] = kind.to_byte();
    bytes[1..5].copy_from_slice(&run.0.to_le_bytes());
    bytes[5..9].copy_from_slice(&length.to_le_bytes());
}

/// Cuts a byte stream into frames.
///
/// Holds at most one frame and what was pushed since: a caller that takes all frames after each
/// push of `n` bytes bounds it to `HEADER_BYTES + PAYLOAD_BYTES_MAX + n`.
#[derive(Debug, Default)]
pub struct FrameDecoder {
    buffer: Vec<u8>,
    /// Bytes at the front of `buffer` that were returned already.
    consumed: usize,
}

impl FrameDecoder {
    pub fn push(&mut self, bytes: &[u8]) {
        self.buffer.drain(..self.consumed);
        self.consumed = 0;
        self.buffer.extend_from_slice(bytes);
    }

    /// The next whole frame, or `None` until more bytes are pushed.
    ///
    /// After an error the stream has no known frame boundary any more: close the link.
    pub fn next_frame(&mut self) -> Result<Option<Frame>, FrameError> {
        let pending = &self.buffer[self.consumed..];
        let Some((header, rest)) = pending.split_first_chunk::<HEADER_BYTES>() else {
            return Ok(None);
        };
        let kind =
            FrameKind::from_byte(header[0]).ok_or(FrameError::UnknownKind { kind: header[0] })?;
        let [_, r0, r1, r2, r3, l0, l1, l2, l3] = *header;
        let length = u32::from_le_bytes([l0, l1, l2, l3]) as usize;
        check_length(kind, length)?;
        let Some(payload) = rest.get(..length) else {
            return Ok(None);
        };
        let frame = Frame {
            kind,
            run: RunId(u32::from_le_bytes([r0, r1, r2, r3])),
            payload: payload.to_vec(),
        };
        self.consumed += HEADER_BYTES + length;
        Ok(Some(frame))
    }

    /// The bytes that were pushed but not returned in a frame.
    pub fn into_unread(mut self) -> Vec<u8> {
        self.buffer.split_off(self.consumed)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn header(kind: u8, length: u32) -> Vec<u8> {
        let mut bytes = vec![kind, 0, 0, 0, 0];
        bytes.extend_from_slice(&length.to_le_bytes());
        bytes
    }

    #[test]
    fn a_frame_longer_than_the_limit_is_refused_before_its_payload_arrives() {
        let mut decoder = FrameDecoder::default();
        decoder.push(&header(2, u32::MAX));
        assert_eq!(
            decoder.next_frame(),
            Err(FrameError::TooLong { length: u32::MAX as usize, limit: CHUNK_BYTES_MAX })
        );
    }

    #[test]
    fn an_unknown_kind_is_refused() {
        let mut decoder = FrameDecoder::default();
        decoder.push(&header(9, 0));
        assert_eq!(decoder.next_frame(), Err(FrameError::UnknownKind { kind: 9 }));
    }

    #[test]
    fn a_message_with_bytes_behind_it_is_refused() {
        let mut payload = encode_message(&7_u32).unwrap().split_off(HEADER_BYTES);
        assert_eq!(decode_message(&payload), Ok(7_u32));
        payload.extend(b"more");
        assert_eq!(decode_message::<u32>(&payload), Err(FrameError::TrailingBytes { count: 4 }));
    }

    #[test]
    fn unread_bytes_are_those_behind_the_last_frame() {
        let mut decoder = FrameDecoder::default();
        decoder.push(&encode_chunk(FrameKind::Stdin, RunId(1), b"hi").unwrap());
        decoder.push(b"\x09more");
        assert!(decoder.next_frame().unwrap().is_some());
        assert_eq!(decoder.into_unread(), b"\x09more");
    }

    #[test]
    fn a_chunk_longer_than_the_limit_cannot_be_sent() {
        let chunk = vec![0; CHUNK_BYTES_MAX + 1];
        assert!(matches!(
            encode_chunk(FrameKind::Stdin, RunId(1), &chunk),
            Err(FrameError::TooLong { .. })
        ));
    }

    fn any_frame() -> impl Strategy<Value = Frame> {
        let kind = prop_oneof![
            Just(FrameKind::Message),
            Just(FrameKind::Stdin),
            Just(FrameKind::Output(Stream::Stdout)),
            Just(FrameKind::Output(Stream::Stderr)),
        ];
        (kind, any::<u32>(), prop::collection::vec(any::<u8>(), 0..300))
            .prop_map(|(kind, run, payload)| Frame { kind, run: RunId(run), payload })
    }

    proptest! {
        #[test]
        fn frames_survive_any_cutting_of_the_stream(
            frames in prop::collection::vec(any_frame(), 0..20),
            cut in 1_usize..64,
        ) {
            let mut bytes = Vec::new();
            for frame in &frames {
                bytes.extend(encode_chunk(frame.kind, frame.run, &frame.payload).unwrap());
            }
            let mut decoder = FrameDecoder::default();
            let mut decoded = Vec::new();
            for piece in bytes.chunks(cut) {
                decoder.push(piece);
                while let Some(frame) = decoder.next_frame().unwrap() {
                    decoded.push(frame);
                }
            }
            prop_assert_eq!(decoded, frames);
        }

        #[test]
        fn no_bytes_make_the_decoder_panic(
            pieces in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..100), 0..20),
        ) {
            let mut decoder = FrameDecoder::default();
            'stream: for piece in pieces {
                decoder.push(&piece);
                loop {
                    match decoder.next_frame() {
                        Ok(Some(_)) => {}
                        Ok(None) => break,
                        Err(_) => break 'stream,
                    }
                }
            }
        }
    }
}
