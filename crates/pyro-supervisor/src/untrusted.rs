//! Texts that the guest chose: cut to what an honest agent sends, and free of control characters, so
//! that they can be shown in pyro's own voice.

use pyro_protocol::guest::{BootPhase, BootReport, TEXT_BYTES_MAX};

/// More phases than any boot has.
const PHASES_MAX: usize = 32;

pub(crate) fn text(mut text: String) -> String {
    text.truncate(text.floor_char_boundary(TEXT_BYTES_MAX));
    text.retain(|char| !char.is_control());
    text
}

pub(crate) fn boot_report(report: BootReport) -> BootReport {
    let phases = report.phases.into_iter().take(PHASES_MAX);
    BootReport {
        kernel_release: text(report.kernel_release),
        phases: phases.map(|phase| BootPhase { name: text(phase.name), ..phase }).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_cut_and_cannot_move_the_cursor() {
        assert_eq!(text("\u{1b}[2J\r\nno".to_owned()), "[2Jno");
        assert_eq!(text("é".repeat(TEXT_BYTES_MAX)).len(), TEXT_BYTES_MAX);
    }
}
