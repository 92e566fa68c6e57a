//! How the agent words a failure: for a message to the host, and on the guest's console, where it
//! speaks when nobody listens at the port.

use std::error::Error;
use std::fmt::Write;

use pyro_protocol::guest::TEXT_BYTES_MAX;

/// Writes an error with the chain of its causes as one line.
pub(crate) fn report(error: &dyn Error) {
    line(&chain(error));
}

/// Writes a line.
pub(crate) fn line(text: &str) {
    let line = format!("pyro-agent: {text}\n");
    // Nothing is left to be told where even this fails.
    let _ = rustix::io::write(rustix::stdio::stderr(), line.as_bytes());
}

/// An error's text, followed by that of each of its causes.
pub(crate) fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        write!(text, ": {error}").expect("writing to a string cannot fail");
        cause = error.source();
    }
    text
}

/// The text, cut to what a message may carry.
pub(crate) fn truncated(mut text: String) -> String {
    let mut end = TEXT_BYTES_MAX.min(text.len());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.truncate(end);
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_cut_between_characters() {
        let text = truncated("é".repeat(TEXT_BYTES_MAX));
        assert_eq!(text.len(), TEXT_BYTES_MAX);
        assert_eq!(truncated("short".to_owned()), "short");
    }
}
