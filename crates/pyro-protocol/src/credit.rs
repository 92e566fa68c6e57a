//! Credit: how many bytes a sender may still send before the receiver says that it has room.
//!
//! Each output stream of a run, and its input, has a credit of its own. So a command that floods
//! its standard output is slowed down by whoever reads it, all the way to its `write`, and neither
//! its standard error nor another run waits behind it.

/// The window a receiver opens with, and what one stream can have in flight or buffered at most.
pub const WINDOW_BYTES: u32 = 256 * 1024;

/// Consumed bytes are granted again in steps of this size, so that grants cost little.
pub const GRANT_STEP_BYTES: u32 = WINDOW_BYTES / 4;

const _: () = assert!(WINDOW_BYTES as usize >= 2 * crate::frame::CHUNK_BYTES_MAX);

/// The sender's side: what it may still send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Credit(u32);

/// More was sent, or granted, than the window allows: the other side breaks the protocol.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{bytes} bytes exceed the credit of {available}")]
pub struct CreditExceeded {
    pub bytes: usize,
    pub available: u32,
}

impl Credit {
    pub const WINDOW: Self = Self(WINDOW_BYTES);

    pub fn available_bytes(self) -> usize {
        self.0 as usize
    }

    /// Takes `bytes` off the credit.
    pub fn spend(&mut self, bytes: usize) -> Result<(), CreditExceeded> {
        let exceeded = CreditExceeded { bytes, available: self.0 };
        let bytes = u32::try_from(bytes).map_err(|_| exceeded.clone())?;
        self.0 = self.0.checked_sub(bytes).ok_or(exceeded)?;
        Ok(())
    }

    /// Adds `bytes`; the sum never passes [`WINDOW_BYTES`].
    pub fn grant(&mut self, bytes: u32) -> Result<(), CreditExceeded> {
        let room = WINDOW_BYTES - self.0;
        if bytes > room {
            return Err(CreditExceeded { bytes: bytes as usize, available: room });
        }
        self.0 += bytes;
        Ok(())
    }
}

/// The receiver's side: counts what was consumed and says when to grant it again.
#[derive(Debug, Clone, Copy, Default)]
pub struct Consumed(u32);

impl Consumed {
    /// Records `bytes` as consumed; returns a grant to send once a step is full.
    pub fn record(&mut self, bytes: usize) -> Option<u32> {
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
        self.0 = self.0.saturating_add(bytes);
        (self.0 >= GRANT_STEP_BYTES).then(|| std::mem::take(&mut self.0))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn more_than_the_credit_cannot_be_spent() {
        let mut credit = Credit::WINDOW;
        assert!(credit.spend(WINDOW_BYTES as usize + 1).is_err());
        assert_eq!(credit, Credit::WINDOW);
    }

    #[test]
    fn a_grant_beyond_the_window_is_refused() {
        let mut credit = Credit::WINDOW;
        assert!(credit.grant(1).is_err());
    }

    proptest! {
        #[test]
        fn a_sender_and_a_receiver_that_follow_the_rules_never_break_them_and_never_stall(
            chunks in prop::collection::vec(1_usize..100_000, 1..200),
        ) {
            let (mut sender, mut receiver, mut consumed) =
                (Credit::WINDOW, Credit::WINDOW, Consumed::default());
            for mut chunk in chunks {
                while chunk > 0 {
                    let sent = chunk.min(sender.available_bytes());
                    prop_assert!(sent > 0, "stalled with everything consumed");
                    sender.spend(sent).unwrap();
                    receiver.spend(sent).unwrap();
                    chunk -= sent;
                    if let Some(grant) = consumed.record(sent) {
                        sender.grant(grant).unwrap();
                        receiver.grant(grant).unwrap();
                    }
                }
            }
        }
    }
}
