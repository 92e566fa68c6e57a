//! The bodies of the fuzz targets: what must hold of this crate whatever the bytes.
//!
//! `fuzz/` calls them with what a fuzzer makes up; the tests here replay its corpus. A body panics
//! where a claim does not hold.

use std::fmt::Debug;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::client::{FromSupervisor, ToSupervisor};
use crate::credit::{Consumed, Credit, GRANT_STEP_BYTES, WINDOW_BYTES};
use crate::frame::{
    CHUNK_BYTES_MAX, Frame, FrameDecoder, FrameError, FrameKind, HEADER_BYTES, PAYLOAD_BYTES_MAX,
    decode_message, encode_chunk, encode_message,
};
use crate::guest::{FromGuest, ToGuest};
use crate::handshake::{HandshakeError, Hello, HelloScanner, VERSION, Welcome, WelcomeScanner};
use crate::run::RunId;

/// Any bytes, in any pieces: the same frames, or the same error, as in one piece; the frames are
/// the bytes; and never is more held than one frame.
pub fn frames(data: &[u8]) {
    let arrival = Arrival::of(data);
    let whole = decode_frames(std::iter::once(arrival.stream));
    assert_eq!(whole, decode_frames(arrival.pieces()), "frames depend on how their bytes arrive");

    let mut bytes = Vec::new();
    for frame in &whole.frames {
        bytes.extend(encode_chunk(frame.kind, frame.run, &frame.payload).expect("was decoded"));
    }
    match whole.unread {
        Ok(unread) => {
            assert_no_wait_for_what_is_too_long(&unread);
            assert_eq!([bytes, unread].concat(), arrival.stream);
        }
        Err(_) => assert!(arrival.stream.starts_with(&bytes)),
    }
}

/// Any payload, of any of the four kinds of messages: what can be decoded can be sent, and arrives
/// the same.
pub fn messages(data: &[u8]) {
    let Some((kind, payload)) = data.split_first() else { return };
    match kind % 4 {
        0 => message::<FromGuest>(payload),
        1 => message::<ToGuest>(payload),
        2 => message::<FromSupervisor>(payload),
        _ => message::<ToSupervisor>(payload),
    }
}

/// Any bytes before, in and behind a greeting, in any pieces: the greeting that is found, and what
/// is behind it, do not depend on the pieces; and one that is there is found.
pub fn handshakes(data: &[u8]) {
    let arrival = Arrival::of(data);
    let Some((settings, stream)) = arrival.stream.split_first_chunk::<3>() else { return };
    let [place, version, nonce] = *settings;
    let (version, nonce) = (u32::from(version), [nonce; 16]);
    let (before, behind) = stream.split_at(usize::from(place).min(stream.len()));

    let hello = Hello { version, nonce };
    let greeting = [before, &hello.to_bytes(), behind].concat();
    let found = check_scanner(arrival.lengths, &greeting, || {
        let mut scanner = HelloScanner::default();
        move |piece: &[u8]| scanner.push(piece)
    });
    let (found, rest) = found.expect("too short to be given up").expect("a greeting is there");
    assert!(greeting.ends_with(&[&found.to_bytes(), &rest[..]].concat()));
    assert!(rest.len() >= behind.len(), "the first greeting is taken");

    let welcome = Welcome { version, nonce };
    let answer = [before, &welcome.to_bytes(), behind].concat();
    let found = check_scanner(arrival.lengths, &answer, || {
        let mut scanner = WelcomeScanner::new(nonce);
        move |piece: &[u8]| Ok(scanner.push(piece)?.map(|rest| ((), rest)))
    });
    match found {
        Ok(found) => assert!(found.is_some_and(|((), rest)| answer.ends_with(&rest))),
        Err(HandshakeError::VersionMismatch { theirs }) => assert_ne!(theirs, VERSION),
        Err(HandshakeError::NoPreamble) => panic!("too short to be given up"),
    }
}

/// Any sequence of sent, granted and consumed bytes: credit is what plain arithmetic says, is never
/// more than the window, and a refused step changes nothing.
pub fn credit(data: &[u8]) {
    let (mut credit, mut consumed) = (Credit::WINDOW, Consumed::default());
    let (mut available, mut unreported) = (u64::from(WINDOW_BYTES), 0_u64);
    for step in data.chunks_exact(5) {
        let (kind, amount) = (step[0], u32::from_le_bytes([step[1], step[2], step[3], step[4]]));
        let left = u32::try_from(available).expect("never more than the window");
        // Most amounts are such that steps succeed, or only just do not.
        let amount = match kind / 4 % 4 {
            0 => amount,
            1 => amount % WINDOW_BYTES,
            2 => (left + amount % 3).saturating_sub(1),
            _ => (WINDOW_BYTES - left + amount % 3).saturating_sub(1),
        };
        let wide = u64::from(amount) << (if kind & 16 == 0 { 0 } else { 20 });
        match kind % 4 {
            0 => {
                let spent = credit.spend(usize::try_from(wide).expect("64 bits"));
                assert_eq!(spent.is_ok(), wide <= available);
                available -= if spent.is_ok() { wide } else { 0 };
            }
            1 => {
                let granted = credit.grant(amount);
                assert_eq!(
                    granted.is_ok(),
                    available + u64::from(amount) <= u64::from(WINDOW_BYTES)
                );
                available += if granted.is_ok() { u64::from(amount) } else { 0 };
            }
            _ => {
                unreported += u64::from(amount);
                let grant = consumed.record(usize::try_from(amount).expect("64 bits"));
                assert_eq!(grant.is_some(), unreported >= u64::from(GRANT_STEP_BYTES));
                if let Some(grant) = grant {
                    assert_eq!(u64::from(grant), unreported.min(u64::from(u32::MAX)));
                    unreported = 0;
                }
            }
        }
        assert_eq!(credit.available_bytes() as u64, available);
    }
}

/// A stream of bytes, and how many of them arrive at once.
struct Arrival<'a> {
    lengths: &'a [u8],
    stream: &'a [u8],
}

impl<'a> Arrival<'a> {
    /// The first byte of `data` says how many lengths follow it; behind them is the stream.
    fn of(data: &'a [u8]) -> Self {
        let (count, rest) = data.split_first().unwrap_or((&0, &[]));
        let (lengths, stream) = rest.split_at(usize::from(count % 8).min(rest.len()));
        Self { lengths, stream }
    }

    fn pieces(&self) -> impl Iterator<Item = &'a [u8]> {
        pieces(self.lengths, self.stream)
    }
}

/// `stream` in pieces of these lengths, again and again; in one if there are none.
fn pieces<'a>(lengths: &[u8], stream: &'a [u8]) -> impl Iterator<Item = &'a [u8]> {
    let mut lengths = lengths.iter().cycle();
    let mut rest = stream;
    std::iter::from_fn(move || {
        let length = lengths.next().map_or(rest.len(), |length| usize::from(*length) + 1);
        let (piece, behind) = rest.split_at(length.min(rest.len()));
        rest = behind;
        (!piece.is_empty()).then_some(piece)
    })
}

#[derive(Debug, PartialEq, Eq)]
struct Decoded {
    frames: Vec<Frame>,
    /// What is left behind the last frame.
    unread: Result<Vec<u8>, FrameError>,
}

fn decode_frames<'a>(pieces: impl Iterator<Item = &'a [u8]>) -> Decoded {
    let mut decoder = FrameDecoder::default();
    let mut frames = Vec::new();
    let mut held_bytes = 0;
    for piece in pieces {
        decoder.push(piece);
        held_bytes += piece.len();
        loop {
            match decoder.next_frame() {
                Ok(Some(frame)) => {
                    held_bytes -= HEADER_BYTES + frame.payload.len();
                    frames.push(frame);
                }
                Ok(None) => break,
                Err(error) => return Decoded { frames, unread: Err(error) },
            }
        }
        assert!(held_bytes < HEADER_BYTES + PAYLOAD_BYTES_MAX, "a whole frame is held back");
    }
    Decoded { frames, unread: Ok(decoder.into_unread()) }
}

/// A header tells how long its frame is, so what is too long is refused before it arrives.
fn assert_no_wait_for_what_is_too_long(unread: &[u8]) {
    let Some([kind, _, _, _, _, length @ ..]) = unread.first_chunk::<HEADER_BYTES>() else {
        return;
    };
    let length = u32::from_le_bytes(*length) as usize;
    assert!(length <= if *kind == 0 { PAYLOAD_BYTES_MAX } else { CHUNK_BYTES_MAX });
}

fn message<M: DeserializeOwned + Serialize + PartialEq + Debug>(payload: &[u8]) {
    // A duration with more than a second of nanoseconds is decoded, and encoded with more seconds,
    // which may take a byte more.
    if payload.len() > PAYLOAD_BYTES_MAX / 2 {
        return;
    }
    let Ok(message) = decode_message::<M>(payload) else { return };
    let bytes = encode_message(&message).expect("what was short enough still is");
    let mut decoder = FrameDecoder::default();
    decoder.push(&bytes);
    let frame = decoder.next_frame().expect("a frame").expect("a whole one");
    assert_eq!((frame.kind, frame.run), (FrameKind::Message, RunId::NONE));
    assert!(decoder.into_unread().is_empty());
    let again: M = decode_message(&frame.payload).expect("an encoded message");
    assert_eq!(again, message);
    assert_eq!(encode_message(&again).as_deref(), Ok(&bytes[..]));
}

/// Scans `stream` whole and in pieces, which must give the same: what was found, and the bytes
/// behind it.
fn check_scanner<F, S>(
    lengths: &[u8],
    stream: &[u8],
    scanner: impl Fn() -> S,
) -> Result<Option<(F, Vec<u8>)>, HandshakeError>
where
    F: PartialEq + Debug,
    S: FnMut(&[u8]) -> Result<Option<(F, Vec<u8>)>, HandshakeError>,
{
    let whole = scanner()(stream);
    assert_eq!(whole, scan(scanner(), pieces(lengths, stream)), "it depends on the pieces");
    whole
}

fn scan<'a, F, S>(
    mut push: S,
    pieces: impl Iterator<Item = &'a [u8]>,
) -> Result<Option<(F, Vec<u8>)>, HandshakeError>
where
    S: FnMut(&[u8]) -> Result<Option<(F, Vec<u8>)>, HandshakeError>,
{
    let mut found: Option<(F, Vec<u8>)> = None;
    for piece in pieces {
        match &mut found {
            Some((_, rest)) => rest.extend_from_slice(piece),
            None => found = push(piece)?,
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    /// Gives every file of a target's corpus to its body.
    fn replay(target: &str, body: impl Fn(&[u8])) {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus");
        let mut replayed = 0;
        for entry in fs_err::read_dir(root.join(target)).unwrap() {
            body(&fs_err::read(entry.unwrap().path()).unwrap());
            replayed += 1;
        }
        assert!(replayed > 0, "the corpus of {target} is empty");
    }

    #[test]
    fn the_corpus_of_frames_holds() {
        replay("frames", super::frames);
    }

    #[test]
    fn the_corpus_of_messages_holds() {
        replay("messages", super::messages);
    }

    #[test]
    fn the_corpus_of_handshakes_holds() {
        replay("handshakes", super::handshakes);
    }

    #[test]
    fn the_corpus_of_credit_holds() {
        replay("credit", super::credit);
    }
}
