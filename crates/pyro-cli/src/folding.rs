//! Lines that are too long for a terminal, broken between words.
//!
//! A terminal itself breaks them anywhere, also within a word, and goes on at its edge, where columns and indented lines
//! are told apart no more.

/// Of each line, so that there is some room for words beside a deep indentation.
const ROOM_COLUMNS_MIN: usize = 24;

/// By how much a line goes on deeper than it began, where nothing else says how deep.
const INDENT: usize = 2;

/// Where there is no room beside a deeper one. Not that of any line that begins, so that none is taken for one.
const INDENT_NARROW: usize = 4;

/// In the place of a space at which no line is broken. No text of others has one: there it would be escaped.
const JOINT: char = '\u{1f}';

/// Breaks lines that are wider than `columns`. The first one goes on `indent` columns deep, later ones a bit deeper than
/// they began. Without `columns` all stay as they are.
///
/// What stands in backticks stays whole, so that it can be copied, and so does what [`whole`] made. So does a word for which there is no room: a
/// terminal breaks it in a way that it can undo.
pub(crate) fn folded(text: &str, columns: Option<usize>, indent: usize) -> String {
    let Some(columns) = columns else { return text.replace(JOINT, " ") };
    let lines = text.split('\n').enumerate().map(|(number, line)| {
        let own = line.len() - line.trim_start_matches(' ').len() + INDENT;
        let indent = if number == 0 { indent } else { own };
        let indent = if indent + ROOM_COLUMNS_MIN > columns { INDENT_NARROW } else { indent };
        folded_line(line, columns, indent)
    });
    lines.collect::<Vec<_>>().join("\n").replace(JOINT, " ")
}

/// A text to be copied without backticks around it, as a part of one to be folded.
pub(crate) fn whole(text: &str) -> String {
    text.replace(' ', &JOINT.to_string())
}

fn folded_line(line: &str, columns: usize, indent: usize) -> String {
    let mut folded = String::new();
    let mut used = 0;
    let mut rest = line;
    while !rest.is_empty() {
        let space = rest.len() - rest.trim_start_matches(' ').len();
        let (gap, after) = rest.split_at(space);
        let (word, after) = after.split_at(word_length(after));
        if used + gap.len() + width(word) > columns && used > indent {
            // What is to be copied is easier to find if the terminal need not break it.
            let has_room = indent + width(word) <= columns;
            used = if has_room { indent } else { indent.min(INDENT_NARROW) };
            folded.push('\n');
            folded.extend(std::iter::repeat_n(' ', used));
        } else {
            folded.push_str(gap);
            used += gap.len();
        }
        folded.push_str(word);
        used += width(word);
        rest = after;
    }
    folded
}

/// How many bytes there are up to the first space that is not between backticks.
fn word_length(text: &str) -> usize {
    let mut is_quoted = false;
    for (position, character) in text.char_indices() {
        match character {
            // One that is never closed quotes nothing.
            '`' => is_quoted = !is_quoted && text[position + 1..].contains('`'),
            ' ' if !is_quoted => return position,
            _ => {}
        }
    }
    text.len()
}

/// How many columns a text takes: styles take none. Wide characters are not known here; a line with some is broken by
/// the terminal.
fn width(text: &str) -> usize {
    let mut columns = 0;
    let mut characters = text.chars();
    while let Some(character) = characters.next() {
        if character == '\x1b' {
            characters.by_ref().find(char::is_ascii_alphabetic);
        } else {
            columns += 1;
        }
    }
    columns
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_broken_between_words_and_go_on_indented() {
        let text = "error: the first line is too long\n  caused by: and so is the second";
        assert_eq!(
            folded(text, Some(32), 7),
            "error: the first line is too\n       long\n  caused by: and so is the\n    second"
        );
        assert_eq!(folded(text, None, 7), text);
        assert_eq!(folded(text, Some(33), 7), text);
    }

    #[test]
    fn what_can_be_copied_stays_whole() {
        assert_eq!(
            folded("hint: install it: `sudo apt-get install qemu-system-x86`", Some(44), 6),
            "hint: install it:\n      `sudo apt-get install qemu-system-x86`"
        );
        let remedy = format!("remedy: {}", whole("sudo apt-get install util-linux"));
        assert_eq!(folded(&remedy, Some(35), 4), "remedy:\n    sudo apt-get install util-linux");
        assert_eq!(folded(&remedy, None, 4), "remedy: sudo apt-get install util-linux");
        let path = format!("it is in /{}", "long/".repeat(20));
        assert_eq!(folded(&path, Some(40), 6), path.replace("in /", "in\n    /"));
        let once = "a backtick ` that is never closed quotes nothing";
        assert_eq!(folded(once, Some(40), 2).lines().count(), 2);
    }

    #[test]
    fn columns_stay_where_they_are_and_styles_take_no_room() {
        let line = "  \x1b[1mPASS\x1b[0m name      a reason with words in it";
        assert_eq!(folded(line, Some(42), 17), line);
        let broken = line.replace(" it", &format!("\n{:17}it", ""));
        assert_eq!(folded(line, Some(41), 17), broken);
    }

    #[test]
    fn a_narrow_terminal_has_no_room_for_a_deep_indentation() {
        assert_eq!(
            folded("name      one two three four", Some(20), 10),
            "name      one two\n    three four"
        );
        assert_eq!(folded("one two", Some(0), 10), "one two");
    }
}
