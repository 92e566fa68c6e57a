//! What a guest says of itself, as it is shown.

use pyro_protocol::client::{FromSupervisor, LaunchReport, StartKind};
use pyro_protocol::frame::{decode_message, encode_message};
use pyro_protocol::guest::{FromGuest, TEXT_BYTES_MAX};

use crate::untrusted::{boot_report, text};

/// Any message of a guest: the texts in it come out short, without control characters, and the
/// report of its boot can be sent to the client.
pub fn untrusted(data: &[u8]) {
    match decode_message(data) {
        Ok(FromGuest::Ready(report)) => {
            let boot = boot_report(report);
            assert_shown_safely(&boot.kernel_release);
            boot.phases.iter().for_each(|phase| assert_shown_safely(&phase.name));
            let report = LaunchReport {
                start: StartKind::ColdBoot,
                steps: Vec::new(),
                boot,
                boot_attempts: 1,
                published: Vec::new(),
            };
            encode_message(&FromSupervisor::Ready(report)).expect("the guest's part is cut short");
        }
        Ok(
            FromGuest::StartFailed { reason, .. }
            | FromGuest::Fatal { reason }
            | FromGuest::FileNotWritten { reason },
        ) => {
            assert_shown_safely(&text(reason));
        }
        Ok(
            FromGuest::Started { .. }
            | FromGuest::GrantStdin { .. }
            | FromGuest::Exited { .. }
            | FromGuest::FileWritten
            | FromGuest::Pong
            | FromGuest::Goodbye,
        )
        | Err(_) => {}
    }
}

pub(super) fn assert_shown_safely(text: &str) {
    assert!(text.len() <= TEXT_BYTES_MAX, "{} bytes are shown", text.len());
    assert!(!text.contains(char::is_control), "{text:?} is shown");
}
