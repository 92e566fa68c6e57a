//! A conversation with the name server over TCP: each message behind its length, one question at a time.

use super::message::QUERY_BYTES_MAX;
use crate::tcp::peer::Transfer;

const LENGTH_BYTES: usize = 2;

/// The name server's end of a connection of the guest.
#[derive(Debug, Default)]
pub(crate) struct Conversation {
    arrived: Vec<u8>,
    is_waiting: bool,
    answer: Vec<u8>,
    is_over: bool,
}

impl Conversation {
    /// Takes bytes of the guest, as long as it has no question that waits for its answer.
    pub(crate) fn take(&mut self, bytes: &[u8]) -> Transfer {
        let room = (LENGTH_BYTES + QUERY_BYTES_MAX).saturating_sub(self.arrived.len());
        let taken = bytes.len().min(room);
        if taken == 0 {
            return Transfer::Later;
        }
        self.arrived.extend_from_slice(&bytes[..taken]);
        if self.is_too_long() { Transfer::Broken } else { Transfer::Moved(taken) }
    }

    pub(crate) fn give(&mut self, room: &mut [u8]) -> Transfer {
        let given = self.answer.len().min(room.len());
        if given > 0 {
            room[..given].copy_from_slice(&self.answer[..given]);
            self.answer.drain(..given);
            return Transfer::Moved(given);
        }
        if self.is_too_long() && !self.is_waiting {
            return Transfer::Broken;
        }
        let has_question = self.is_waiting || self.question_bytes().is_some();
        if self.is_over && !has_question { Transfer::Ended } else { Transfer::Later }
    }

    /// The guest asks nothing more.
    pub(crate) fn end(&mut self) {
        self.is_over = true;
    }

    /// The next question, which is to be [answered](Self::answer) before there is another one.
    pub(crate) fn next_question(&mut self) -> Option<Vec<u8>> {
        if self.is_waiting || !self.answer.is_empty() {
            return None;
        }
        let length = self.question_bytes()?;
        let question = self.arrived.drain(..LENGTH_BYTES + length).skip(LENGTH_BYTES).collect();
        self.is_waiting = true;
        Some(question)
    }

    /// Nothing is said where there is no answer.
    pub(crate) fn answer(&mut self, message: &[u8]) {
        self.is_waiting = false;
        if let Ok(length) = u16::try_from(message.len())
            && length > 0
        {
            self.answer.extend(length.to_be_bytes());
            self.answer.extend_from_slice(message);
        }
    }

    /// The question that comes next, or is coming.
    fn is_too_long(&self) -> bool {
        let length = self.arrived.first_chunk().map(|length| u16::from_be_bytes(*length));
        length.is_some_and(|length| usize::from(length) > QUERY_BYTES_MAX)
    }

    fn question_bytes(&self) -> Option<usize> {
        let (length, rest) = self.arrived.split_first_chunk::<LENGTH_BYTES>()?;
        let length = usize::from(u16::from_be_bytes(*length));
        (rest.len() >= length).then_some(length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn questions_come_one_by_one_and_the_end_after_the_last_answer() {
        let mut conversation = Conversation::default();
        let mut room = [0; 16];
        assert_eq!(conversation.take(b"\0\x03abc\0"), Transfer::Moved(6));
        assert_eq!(conversation.take(b"\x01d"), Transfer::Moved(2));
        conversation.end();
        assert_eq!(conversation.next_question().unwrap(), b"abc");
        assert_eq!(conversation.next_question(), None);
        assert_eq!(conversation.give(&mut room), Transfer::Later);
        conversation.answer(b"xy");
        assert_eq!(conversation.give(&mut room), Transfer::Moved(4));
        assert_eq!(&room[..4], b"\0\x02xy");
        assert_eq!(conversation.next_question().unwrap(), b"d");
        conversation.answer(b"");
        assert_eq!(conversation.give(&mut room), Transfer::Ended);
    }

    #[test]
    fn who_floods_waits_and_a_question_that_is_too_long_is_the_end() {
        let mut conversation = Conversation::default();
        let flood = b"\0\x01a".repeat(10_000);
        let Transfer::Moved(taken) = conversation.take(&flood) else { panic!("nothing taken") };
        assert!(taken < flood.len());
        assert_eq!(conversation.take(&flood[taken..]), Transfer::Later);
        assert_eq!(Conversation::default().take(b"\xff\xff"), Transfer::Broken);

        let mut conversation = Conversation::default();
        assert_eq!(conversation.take(b"\0\x01a\xff\xff"), Transfer::Moved(5));
        conversation.next_question().unwrap();
        conversation.answer(b"");
        assert_eq!(conversation.give(&mut [0; 8]), Transfer::Broken);
    }
}
