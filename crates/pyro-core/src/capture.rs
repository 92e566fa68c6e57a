//! Captured output: all of it while it is short, its head and tail when it is not.

use std::collections::VecDeque;

/// What is kept of each stream unless the caller says otherwise.
pub const CAPTURE_BYTES_DEFAULT: CaptureLimit = CaptureLimit(1024 * 1024);

/// How many bytes of a stream are kept: half from its head, half from its tail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CaptureLimit(pub usize);

/// One captured stream.
#[derive(Debug)]
pub(crate) struct Capture {
    limit: CaptureLimit,
    head: Vec<u8>,
    tail: VecDeque<u8>,
    total_bytes: u64,
}

/// A captured stream as text.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Captured {
    pub(crate) text: String,
    pub(crate) total_bytes: u64,
    pub(crate) truncated: bool,
}

impl Capture {
    pub(crate) fn new(limit: CaptureLimit) -> Self {
        Self { limit, head: Vec::new(), tail: VecDeque::new(), total_bytes: 0 }
    }

    pub(crate) fn push(&mut self, bytes: &[u8]) {
        self.total_bytes += bytes.len() as u64;
        let head_room = self.head_bytes_max() - self.head.len();
        let (head, tail) = bytes.split_at(head_room.min(bytes.len()));
        self.head.extend_from_slice(head);
        // Of a piece longer than the tail only its end can stay.
        let tail_bytes_max = self.tail_bytes_max();
        let tail = &tail[tail.len().saturating_sub(tail_bytes_max)..];
        self.tail.extend(tail);
        let excess = self.tail.len().saturating_sub(tail_bytes_max);
        self.tail.drain(..excess);
    }

    /// The text, with bytes that are no UTF-8 replaced, and a marker where something was left out.
    pub(crate) fn finish(mut self) -> Captured {
        let kept_bytes = (self.head.len() + self.tail.len()) as u64;
        let omitted_bytes = self.total_bytes - kept_bytes;
        let truncated = omitted_bytes > 0;
        let text = if truncated {
            let tail = self.tail.make_contiguous();
            format!(
                "{}\n[... {omitted_bytes} bytes left out ...]\n{}",
                String::from_utf8_lossy(&self.head),
                String::from_utf8_lossy(tail)
            )
        } else {
            // Joined first: a character may lie across the border.
            self.head.extend(self.tail);
            String::from_utf8_lossy(&self.head).into_owned()
        };
        Captured { text, total_bytes: self.total_bytes, truncated }
    }

    fn head_bytes_max(&self) -> usize {
        self.limit.0 - self.tail_bytes_max()
    }

    fn tail_bytes_max(&self) -> usize {
        self.limit.0 / 2
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn captured(limit: usize, pieces: &[&[u8]]) -> Captured {
        let mut capture = Capture::new(CaptureLimit(limit));
        for piece in pieces {
            capture.push(piece);
        }
        capture.finish()
    }

    #[test]
    fn head_and_tail_stay_and_the_marker_counts_the_rest() {
        let captured = captured(8, &[b"abcdef", b"ghijkl"]);
        assert_eq!(captured.text, "abcd\n[... 4 bytes left out ...]\nijkl");
        assert!(captured.truncated);
        assert_eq!(captured.total_bytes, 12);
    }

    #[test]
    fn output_within_the_limit_is_kept_whole() {
        let captured = captured(8, &["äöü".as_bytes(), b"ab"]);
        assert_eq!(captured.text, "äöüab");
        assert!(!captured.truncated);
    }

    #[test]
    fn bytes_that_are_no_text_are_replaced() {
        assert_eq!(captured(8, &[b"a\xffb"]).text, "a\u{fffd}b");
    }

    #[test]
    fn a_limit_of_zero_keeps_nothing() {
        assert_eq!(captured(0, &[b"abc"]).text, "\n[... 3 bytes left out ...]\n");
    }

    proptest! {
        #[test]
        fn cutting_the_input_makes_no_difference(
            bytes in prop::collection::vec(b'a'..=b'z', 0..400),
            limit in 0_usize..100,
            cut in 1_usize..50,
        ) {
            let pieces: Vec<_> = bytes.chunks(cut).collect();
            prop_assert_eq!(captured(limit, &pieces), captured(limit, &[&bytes]));
        }
    }
}
