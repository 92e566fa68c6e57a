//! Texts of a QEMU that its guest may have taken over, made fit to be shown.

/// What is shown of one text, in bytes.
const TEXT_BYTES_MAX: usize = 4096;

/// The lines of `text` without any control character but tabs, and without the space around them all;
/// cut where they are longer than any that QEMU writes.
pub(crate) fn lines(text: &str) -> String {
    let is_harmless = |char: &char| matches!(char, '\n' | '\t') || !char.is_control();
    let mut lines: String = text.trim().chars().filter(is_harmless).collect();
    lines.truncate(lines.floor_char_boundary(TEXT_BYTES_MAX));
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_stay_and_cannot_move_the_cursor() {
        assert_eq!(lines("\u{1b}[2J\tone\u{7}\r\ntwo\u{9b}A\n\n"), "[2J\tone\ntwoA");
    }

    #[test]
    fn a_long_text_is_cut_between_characters() {
        assert_eq!(lines(&"€".repeat(TEXT_BYTES_MAX)).len(), TEXT_BYTES_MAX / 3 * 3);
    }
}
