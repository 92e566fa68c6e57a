//! How a conversation starts, on a line that may still hold bytes of an earlier one.
//!
//! A VM restored from a template may first deliver bytes the template had in flight, and a
//! reconnected port may deliver half a frame. So the side that calls sends a [`Hello`] with a fresh
//! nonce, and takes nothing as an answer but a [`Welcome`] that echoes it.

/// Version of every message on both links. Both ends must agree: the agent is embedded in the
/// supervisor's executable, so a mismatch means that two builds were mixed.
pub const VERSION: u32 = 1;

/// Random bytes that tie an answer to its question.
pub type Nonce = [u8; 16];

/// Stale bytes skipped in search of a preamble before the line is given up. A template frozen in the
/// middle of a write was seen to replay 2.8 MB.
pub const STALE_BYTES_MAX: usize = 16 * 1024 * 1024;

const HELLO_MAGIC: [u8; 8] = *b"\x7fpyro>1\n";
const WELCOME_MAGIC: [u8; 8] = *b"\x7fpyro<1\n";
const PREAMBLE_BYTES: usize = 8 + 4 + 16;

type Preamble = [u8; PREAMBLE_BYTES];

/// The first bytes of a conversation, from the side that calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hello {
    pub version: u32,
    pub nonce: Nonce,
}

/// The answer to a [`Hello`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Welcome {
    pub version: u32,
    pub nonce: Nonce,
}

impl Hello {
    /// No frame starts with this byte, so a caller may greet anew where a frame would start.
    pub const FIRST_BYTE: u8 = HELLO_MAGIC[0];

    pub fn to_bytes(self) -> Preamble {
        encode(HELLO_MAGIC, self.version, self.nonce)
    }

    pub fn welcome(self) -> Welcome {
        Welcome { version: VERSION, nonce: self.nonce }
    }
}

impl Welcome {
    pub fn to_bytes(self) -> Preamble {
        encode(WELCOME_MAGIC, self.version, self.nonce)
    }
}

/// Why no conversation came about.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HandshakeError {
    #[error("no greeting within {STALE_BYTES_MAX} bytes")]
    NoPreamble,
    #[error("the other side speaks version {theirs}, this side speaks {VERSION}")]
    VersionMismatch { theirs: u32 },
}

/// Finds the caller's [`Hello`] in a byte stream.
#[derive(Debug, Default)]
pub struct HelloScanner(Scanner);

impl HelloScanner {
    /// Takes bytes off the line; once the greeting is whole, returns it with the bytes behind it.
    pub fn push(&mut self, bytes: &[u8]) -> Result<Option<(Hello, Vec<u8>)>, HandshakeError> {
        let found = self.0.push(bytes, |preamble| preamble[..8] == HELLO_MAGIC)?;
        Ok(found.map(|(preamble, rest)| {
            let (version, nonce) = decode(&preamble);
            (Hello { version, nonce }, rest)
        }))
    }
}

/// Finds the [`Welcome`] to one's own [`Hello`] in a byte stream.
#[derive(Debug)]
pub struct WelcomeScanner {
    scanner: Scanner,
    nonce: Nonce,
}

impl WelcomeScanner {
    pub fn new(nonce: Nonce) -> Self {
        Self { scanner: Scanner::default(), nonce }
    }

    /// Takes bytes off the line; once the answer is whole, returns the bytes behind it.
    pub fn push(&mut self, bytes: &[u8]) -> Result<Option<Vec<u8>>, HandshakeError> {
        let nonce = self.nonce;
        let found = self.scanner.push(bytes, |preamble| {
            preamble[..8] == WELCOME_MAGIC && decode(preamble).1 == nonce
        })?;
        let Some((preamble, rest)) = found else {
            return Ok(None);
        };
        let (theirs, _) = decode(&preamble);
        if theirs != VERSION {
            return Err(HandshakeError::VersionMismatch { theirs });
        }
        Ok(Some(rest))
    }
}

/// Searches a stream for a preamble, holding no more than what may be the start of one.
#[derive(Debug, Default)]
struct Scanner {
    window: Vec<u8>,
    skipped_bytes: usize,
}

impl Scanner {
    fn push(
        &mut self,
        bytes: &[u8],
        matches: impl Fn(&Preamble) -> bool,
    ) -> Result<Option<(Preamble, Vec<u8>)>, HandshakeError> {
        self.window.extend_from_slice(bytes);
        let mut start = 0;
        while let Some((candidate, rest)) =
            self.window[start..].split_first_chunk::<PREAMBLE_BYTES>()
        {
            if matches(candidate) {
                return Ok(Some((*candidate, rest.to_vec())));
            }
            start += 1;
        }
        self.window.drain(..start);
        self.skipped_bytes += start;
        if self.skipped_bytes > STALE_BYTES_MAX {
            return Err(HandshakeError::NoPreamble);
        }
        Ok(None)
    }
}

fn encode(magic: [u8; 8], version: u32, nonce: Nonce) -> Preamble {
    let mut bytes = [0; PREAMBLE_BYTES];
    bytes[..8].copy_from_slice(&magic);
    bytes[8..12].copy_from_slice(&version.to_le_bytes());
    bytes[12..].copy_from_slice(&nonce);
    bytes
}

fn decode(preamble: &Preamble) -> (u32, Nonce) {
    let (version, nonce) =
        preamble[8..].split_first_chunk::<4>().expect("a preamble has 20 bytes behind its magic");
    let nonce = nonce.first_chunk::<16>().expect("16 of them are the nonce");
    (u32::from_le_bytes(*version), *nonce)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NONCE: Nonce = [7; 16];

    fn scan(stream: &[u8], cut: usize) -> Result<Option<Vec<u8>>, HandshakeError> {
        let mut scanner = WelcomeScanner::new(NONCE);
        let mut rest: Option<Vec<u8>> = None;
        for piece in stream.chunks(cut) {
            match &mut rest {
                Some(rest) => rest.extend_from_slice(piece),
                None => rest = scanner.push(piece)?,
            }
        }
        Ok(rest)
    }

    #[test]
    fn an_answer_to_another_nonce_is_skipped() {
        let stale = Hello { version: VERSION, nonce: [1; 16] }.welcome();
        let fresh = Hello { version: VERSION, nonce: NONCE }.welcome();
        let stream = [&stale.to_bytes()[..], &fresh.to_bytes()[..], b"next"].concat();
        assert_eq!(scan(&stream, 5), Ok(Some(b"next".to_vec())));
    }

    #[test]
    fn another_version_is_named() {
        let welcome = Welcome { version: 99, nonce: NONCE };
        assert_eq!(
            scan(&welcome.to_bytes(), 28),
            Err(HandshakeError::VersionMismatch { theirs: 99 })
        );
    }

    #[test]
    fn endless_stale_bytes_are_given_up() {
        let noise = vec![0x7f; STALE_BYTES_MAX + PREAMBLE_BYTES + 1];
        assert_eq!(scan(&noise, 64 * 1024), Err(HandshakeError::NoPreamble));
    }

    proptest! {
        #[test]
        fn a_greeting_is_found_behind_any_stale_bytes(
            stale in prop::collection::vec(any::<u8>(), 0..200),
            behind in prop::collection::vec(any::<u8>(), 0..50),
            cut in 1_usize..80,
        ) {
            let welcome = Hello { version: VERSION, nonce: NONCE }.welcome();
            let stream = [&stale[..], &welcome.to_bytes()[..], &behind[..]].concat();
            prop_assert_eq!(scan(&stream, cut), Ok(Some(behind)));
        }

        #[test]
        fn a_hello_is_read_back(nonce in any::<[u8; 16]>(), version in any::<u32>()) {
            let hello = Hello { version, nonce };
            let found = HelloScanner::default().push(&hello.to_bytes()).unwrap();
            prop_assert_eq!(found, Some((hello, Vec::new())));
        }
    }
}
