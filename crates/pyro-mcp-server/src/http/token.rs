//! The secret that clients of the server over HTTP show.

use std::fmt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use subtle::ConstantTimeEq;

/// Bits that let others than the owner do something with a file.
const OTHERS_MODE: u32 = 0o077;

/// A file with a token may not be longer.
const TOKEN_BYTES_MAX: usize = 4096;

/// Bytes of chance in a token that we make.
const RANDOM_BYTES: usize = 32;

/// What a client must show.
#[derive(Clone)]
pub struct BearerToken(String);

/// Why there is no token.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    #[error("cannot read the token")]
    Unreadable { source: std::io::Error },
    #[error("others can read `{path}` (mode {mode:o})")]
    NotPrivate { path: PathBuf, mode: u32 },
    #[error("the token is empty, too long, or not made of visible ASCII characters")]
    Malformed,
    #[error("`{path}` holds no token")]
    BadFile { path: PathBuf, source: Box<TokenError> },
    #[error("cannot make a token")]
    NoRandomness { source: getrandom::Error },
}

impl BearerToken {
    /// Fails where a header could not carry it.
    pub fn new(text: &str) -> Result<Self, TokenError> {
        let is_visible = text.bytes().all(|byte| byte.is_ascii_graphic());
        if text.is_empty() || text.len() > TOKEN_BYTES_MAX || !is_visible {
            return Err(TokenError::Malformed);
        }
        Ok(Self(text.to_owned()))
    }

    /// Reads it from a file that nobody else can read, without white space around it.
    pub fn from_file(path: &Path) -> Result<Self, TokenError> {
        let unreadable = |source| TokenError::Unreadable { source };
        let mode = fs_err::metadata(path).map_err(unreadable)?.permissions().mode() & 0o777;
        if mode & OTHERS_MODE != 0 {
            return Err(TokenError::NotPrivate { path: path.to_owned(), mode });
        }
        let text = fs_err::read_to_string(path).map_err(unreadable)?;
        Self::new(text.trim())
            .map_err(|error| TokenError::BadFile { path: path.to_owned(), source: Box::new(error) })
    }

    /// Makes one that nobody can guess.
    pub fn random() -> Result<Self, TokenError> {
        let mut bytes = [0; RANDOM_BYTES];
        getrandom::fill(&mut bytes).map_err(|source| TokenError::NoRandomness { source })?;
        let mut token = String::new();
        for byte in bytes {
            token += &format!("{byte:02x}");
        }
        Ok(Self(token))
    }

    /// The secret itself, to be shown to the operator.
    pub fn reveal(&self) -> &str {
        &self.0
    }

    /// Takes the same time wherever the two differ.
    pub(super) fn is(&self, given: &[u8]) -> bool {
        self.0.as_bytes().ct_eq(given).into()
    }
}

impl fmt::Debug for BearerToken {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("BearerToken(…)")
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn file(content: &str, mode: u32) -> Result<BearerToken, TokenError> {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("token");
        fs_err::write(&path, content).unwrap();
        fs_err::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        BearerToken::from_file(&path)
    }

    #[test]
    fn a_file_holds_a_token_and_white_space() {
        assert_eq!(file(" secret\n", 0o600).unwrap().reveal(), "secret");
    }

    #[test]
    fn a_file_that_others_can_read_is_refused() {
        for mode in [0o640, 0o604, 0o620] {
            assert!(matches!(file("secret", mode), Err(TokenError::NotPrivate { .. })));
        }
    }

    #[test]
    fn an_empty_token_is_refused() {
        for text in ["", "\n", "two words", "umläut"] {
            assert!(matches!(file(text, 0o600), Err(TokenError::BadFile { .. })), "{text}");
        }
    }

    #[test]
    fn random_tokens_differ_and_are_not_shown_by_chance() {
        let (one, other) = (BearerToken::random().unwrap(), BearerToken::random().unwrap());
        assert_eq!(one.reveal().len(), 2 * RANDOM_BYTES);
        assert!(!one.is(other.reveal().as_bytes()));
        assert!(one.is(one.reveal().as_bytes()));
        assert_eq!(format!("{one:?}"), "BearerToken(…)");
    }
}
