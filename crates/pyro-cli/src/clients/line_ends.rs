//! The line ends of a text that a library has written anew: `toml_edit` makes every one of them `\n`.

/// `after` with the line ends that its lines have in `before`. Lines between the first and the last that differ get
/// those of the first line: in a text of mixed ones nothing but the change is touched.
pub(super) fn restore(before: &str, after: &str) -> String {
    let old: Vec<_> = before.split_inclusive('\n').collect();
    let new: Vec<_> = after.split_inclusive('\n').collect();
    let is_same = |(old, new): &(&&str, &&str)| parts(old) == parts(new);
    let head = old.iter().zip(&new).take_while(is_same).count();
    let tail = old[head..].iter().rev().zip(new[head..].iter().rev()).take_while(is_same).count();
    let is_dos = old.first().is_some_and(|line| line.ends_with("\r\n"));
    let mut text = old[..head].concat();
    for line in &new[head..new.len() - tail] {
        let (line, ends) = parts(line);
        text += line;
        text += match (ends, is_dos) {
            (true, true) => "\r\n",
            (true, false) => "\n",
            (false, _) => "",
        };
    }
    text + &old[old.len() - tail..].concat()
}

/// What a line says, and whether it has an end.
fn parts(line: &str) -> (&str, bool) {
    match line.strip_suffix('\n') {
        Some(line) => (line.strip_suffix('\r').unwrap_or(line), true),
        None => (line, false),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_did_not_change_keeps_its_line_ends() {
        for (before, after, restored) in [
            ("", "a\n", "a\n"),
            ("a\r\nb\r\n", "a\nb\n", "a\r\nb\r\n"),
            ("a\r\nb\r\n", "a\nx\ny\nb\n", "a\r\nx\r\ny\r\nb\r\n"),
            ("a\r\nb\nc", "a\nx\nc", "a\r\nx\r\nc"),
            ("a\nb\r\n", "a\nx\nb\n", "a\nx\nb\r\n"),
            ("a\r\nb", "a\nb\nc\n", "a\r\nb\r\nc\r\n"),
            ("a\r\n\r\nb\r\n", "a\n", "a\r\n"),
        ] {
            assert_eq!(restore(before, after), restored, "{before:?} {after:?}");
        }
    }
}
