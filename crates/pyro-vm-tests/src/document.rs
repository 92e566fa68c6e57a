//! The commands that a document shows, and whether what they print is what it shows.
//!
//! In a block that begins with three backticks and `console`, a line `$ …` is a command, lines
//! `> …` after it are the rest of that command, and what follows is shown of its output. A block
//! that no test can run says so, and why: `console,not-run (it needs the network)`. There are no other blocks with
//! commands.

/// What shows that something was left out: within a line any text, alone any lines.
const LEFT_OUT: char = '…';

const FENCE: &str = "```";

/// A command in a document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shown {
    /// Of its first line, from 1.
    pub line_number: usize,
    pub command: String,
    /// The lines of its output that the document shows.
    pub output: Vec<String>,
    /// Why no test can run it, if none can.
    pub not_run: Option<String>,
}

/// Every command that `text` shows, in its order.
pub fn shown_commands(text: &str) -> Vec<Shown> {
    let mut commands: Vec<Shown> = Vec::new();
    let mut info: Option<&str> = None;
    let mut is_complete = true;
    for (index, line) in text.lines().enumerate() {
        if let Some(rest) = line.strip_prefix(FENCE) {
            info = if info.is_none() { Some(rest) } else { None };
            continue;
        }
        let not_run = match info.map(block) {
            Some(Block::Commands) => None,
            Some(Block::NotRun(reason)) => Some(reason.to_owned()),
            Some(Block::Other) | None => continue,
        };
        if let Some(command) = line.strip_prefix("$ ") {
            let command = command.to_owned();
            commands.push(Shown { line_number: index + 1, command, output: Vec::new(), not_run });
            is_complete = false;
            continue;
        }
        let last = commands.last_mut();
        let last = last.unwrap_or_else(|| panic!("line {}: output of no command", index + 1));
        match line.strip_prefix("> ") {
            Some(rest) if !is_complete => {
                last.command.push('\n');
                last.command.push_str(rest);
            }
            _ => {
                is_complete = true;
                last.output.push(line.to_owned());
            }
        }
    }
    commands
}

/// What is in a block.
enum Block<'a> {
    Commands,
    /// Commands that no test can run, and why.
    NotRun(&'a str),
    Other,
}

/// By the block's info string.
fn block(info: &str) -> Block<'_> {
    if info == "console" {
        return Block::Commands;
    }
    let is_script = ["sh", "bash", "shell"].contains(&info);
    assert!(!is_script, "a block of `{info}` is run by no test: begin it with `console`");
    let Some(reason) = info.strip_prefix("console,not-run") else { return Block::Other };
    assert!(!reason.trim().is_empty(), "`{info}` does not say why");
    Block::NotRun(reason.trim())
}

/// The first line of `shown` that is not in `output`, after those before it.
pub fn first_missing<'a>(shown: &'a [String], output: &str) -> Option<&'a str> {
    let mut lines = output.lines();
    shown.iter().map(|line| line.trim_end()).find(|line| {
        let is_shown = |printed: &str| matches(line, printed.trim_end());
        !line.chars().eq([LEFT_OUT]) && !lines.any(is_shown)
    })
}

/// Whether `printed` is `line`, with any text where something was left out.
fn matches(line: &str, printed: &str) -> bool {
    let mut parts = line.split(LEFT_OUT);
    let first = parts.next().unwrap_or_default();
    let Some(mut rest) = printed.strip_prefix(first) else { return false };
    let mut parts = parts.peekable();
    if parts.peek().is_none() {
        return rest.is_empty();
    }
    while let Some(part) = parts.next() {
        if parts.peek().is_none() {
            return rest.ends_with(part);
        }
        let Some(start) = rest.find(part) else { return false };
        rest = &rest[start + part.len()..];
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    const DOCUMENT: &str = "\
$ not in a block
```text
$ not a console
```
```console
$ cat <<END
> one
> END
one
> two
$ true
```
```console,not-run (it needs the network)
$ apt-get update
```
";

    #[test]
    fn commands_have_their_lines_and_their_output() {
        let commands = shown_commands(DOCUMENT);
        let texts: Vec<_> = commands.iter().map(|shown| shown.command.as_str()).collect();
        assert_eq!(texts, ["cat <<END\none\nEND", "true", "apt-get update"]);
        assert_eq!(commands[0].output, ["one", "> two"]);
        assert_eq!((commands[0].line_number, commands[1].output.len()), (6, 0));
        let reasons = commands.iter().map(|shown| shown.not_run.as_deref());
        assert!(reasons.eq([None, None, Some("(it needs the network)")]));
    }

    #[test]
    #[should_panic = "does not say why"]
    fn a_block_that_is_not_run_says_why() {
        shown_commands("```console,not-run\n$ true\n```\n");
    }

    #[test]
    #[should_panic = "is run by no test"]
    fn a_block_with_commands_that_nobody_runs_is_refused() {
        shown_commands("```sh\ntrue\n```\n");
    }

    #[test]
    fn lines_are_found_in_their_order_among_others() {
        let shown = ["one".to_owned(), "…".to_owned(), "three".to_owned()];
        assert_eq!(first_missing(&shown, "zero\none\ntwo\nthree\n"), None);
        assert_eq!(first_missing(&shown, "three\none\n"), Some("three"));
    }

    #[test]
    fn what_was_left_out_of_a_line_may_be_anything_and_the_rest_is_as_it_is_shown() {
        for line in ["a VM of … MiB", "…", "a VM…", "… MiB", "a … of … MiB"] {
            assert!(matches(line, "a VM of 512 MiB"), "{line}");
        }
        for line in ["a VM", "of … MiB", "a VM of … GiB", "a VM of 512 MiB and …", "512 MiB"]
        {
            assert!(!matches(line, "a VM of 512 MiB"), "{line}");
        }
    }
}
