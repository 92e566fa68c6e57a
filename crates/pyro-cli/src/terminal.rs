//! The only place that prints: data to standard output, everything pyro says itself to standard error.

use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::AsFd;
use std::process::ExitCode;

use anstyle::{AnsiColor, Style};
use pyro_core::PyroError;
use serde::Serialize;

use crate::arguments::{EXEC_EXAMPLE, RUN_EXAMPLE};
use crate::folding::folded;

/// Errors.
pub(crate) const RED: Style = AnsiColor::Red.on_default().bold();
/// What is as it should be.
pub(crate) const GREEN: Style = AnsiColor::Green.on_default().bold();
/// What deserves a second look.
pub(crate) const YELLOW: Style = AnsiColor::Yellow.on_default().bold();
/// Headings.
pub(crate) const BOLD: Style = Style::new().bold();

/// Where pyro itself could not run a command. Guests' exit codes up to 124 stay theirs.
pub(crate) const EXIT_CODE_OWN_FAILURE: u8 = 125;

/// What a shell reports for a program that SIGPIPE ended.
pub(crate) const EXIT_CODE_PIPE: u8 = 128 + 13;

/// For a command line that makes no sense, as is the custom.
const EXIT_CODE_USAGE: u8 = 2;

/// Prints text to standard output.
pub(crate) fn print(text: &str) -> io::Result<()> {
    write(anstream::stdout(), text)
}

/// Prints one JSON document to standard output.
pub(crate) fn print_json(value: &impl Serialize) -> io::Result<()> {
    let json = serde_json::to_string_pretty(value).expect("payloads have string keys");
    print(&format!("{json}\n"))
}

/// Prints text to standard error.
pub(crate) fn say(text: &str) {
    // Where standard error cannot be written, there is no place left to say so.
    write(anstream::stderr(), text).ok();
}

/// Writes to standard error what moves the cursor of its terminal.
pub(crate) fn draw(text: &str) -> io::Result<()> {
    write(io::stderr(), text)
}

/// How wide the terminal is, if `stream` is one and says so.
pub(crate) fn columns(stream: impl AsFd) -> Option<usize> {
    let size = rustix::termios::tcgetwinsize(stream).ok()?;
    Some(usize::from(size.ws_col)).filter(|columns| *columns > 0)
}

/// A line for standard output. Where that is a terminal which is not as wide, it goes on `indent` columns deep.
pub(crate) fn line(indent: usize, text: &str) -> String {
    folded(text, columns(io::stdout()), indent) + "\n"
}

/// The same for each line of a text.
pub(crate) fn lines(indent: usize, text: &str) -> String {
    text.lines().map(|text| line(indent, text)).collect()
}

/// A line for standard error, likewise.
pub(crate) fn remark(indent: usize, text: &str) -> String {
    folded(text, columns(io::stderr()), indent) + "\n"
}

/// A text that a guest or an agent chose, in one line and without power over the terminal. Other characters stay.
pub(crate) fn escaped(text: &str) -> String {
    let mut harmless = String::with_capacity(text.len());
    for character in text.chars() {
        if character.is_control() || is_invisible_order(character) {
            harmless.extend(character.escape_debug());
        } else {
            harmless.push(character);
        }
    }
    harmless
}

/// The same where a text may have several lines: those after the first are indented, so that none looks like ours.
pub(crate) fn paragraph(text: &str) -> String {
    // A serial console ends its lines with both characters.
    let lines = text.split('\n').map(|line| escaped(line.strip_suffix('\r').unwrap_or(line)));
    lines.collect::<Vec<_>>().join("\n    ")
}

/// Whether a character does nothing but end a line, or change the order in which others are shown.
fn is_invisible_order(character: char) -> bool {
    matches!(
        character,
        '\u{61c}' | '\u{200e}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}'
    )
}

/// Prints bytes to standard output, as they are.
pub(crate) fn copy_to_stdout(mut source: impl Read) -> io::Result<()> {
    copy(&mut source, io::stdout().lock())
}

/// Prints bytes to standard error, as they are.
pub(crate) fn copy_to_stderr(mut source: impl Read) -> io::Result<()> {
    copy(&mut source, io::stderr().lock())
}

/// The exit code of a command whose last act was to print: `code`, unless that failed.
pub(crate) fn exit_code(printed: io::Result<()>, code: ExitCode, failure_code: u8) -> ExitCode {
    match printed {
        Ok(()) => code,
        // Whoever read it has heard enough, as in `pyro env list | head -1`.
        Err(error) if error.kind() == ErrorKind::BrokenPipe => ExitCode::from(EXIT_CODE_PIPE),
        Err(error) => {
            say(&format!("{RED}error:{RED:#} cannot write to standard output: {error}\n"));
            ExitCode::from(failure_code)
        }
    }
}

/// Shows an error: as JSON on standard output, or as text on standard error.
pub(crate) fn fail(failure: &PyroError, json: bool) {
    if json {
        let printed = print_json(&ErrorDocument {
            ok: false,
            error: ErrorObject {
                code: failure.kind.code(),
                message: &failure.message,
                causes: &failure.causes,
                hints: &failure.hints,
            },
        });
        // The exit code says that something failed, whatever becomes of the document.
        exit_code(printed, ExitCode::FAILURE, EXIT_CODE_OWN_FAILURE);
        return;
    }
    let mut text = remark(7, &format!("{RED}error:{RED:#} {}", paragraph(&failure.message)));
    for cause in &failure.causes {
        text += &remark(4, &format!("  caused by: {}", paragraph(cause)));
    }
    if !failure.hints.is_empty() {
        text += "\n";
    }
    for hint in &failure.hints {
        text += &remark(6, &format!("{BOLD}hint:{BOLD:#} {}", paragraph(hint)));
    }
    say(&text);
}

/// Shows what clap has to say: help and version, or what is wrong with the command line.
pub(crate) fn usage(error: &clap::Error) -> ExitCode {
    if !error.use_stderr() {
        let printed = print(&error.render().ansi().to_string());
        return exit_code(printed, ExitCode::SUCCESS, 1);
    }
    // Without a valid command line what matters of it is looked for by hand, before the guest's words.
    let words = || std::env::args_os().skip(1).take_while(|word| word != "--");
    let mut first = words();
    let example = match first.next() {
        Some(word) if word == "run" => Some(RUN_EXAMPLE),
        Some(word) if word == "vm" && first.next().is_some_and(|word| word == "exec") => {
            Some(EXEC_EXAMPLE)
        }
        Some(_) | None => None,
    };
    let has_separator = std::env::args_os().any(|word| word == "--");
    let hint = example
        .filter(|_| !has_separator)
        .map(|example| format!("put `--` in front of the command: `{example}`"));
    if words().any(|word| word == "--json") {
        let text = error.render().to_string();
        let message = text.lines().next().unwrap_or_default().trim_start_matches("error: ");
        let failure = PyroError::new(pyro_core::ErrorKind::InvalidInput, message);
        fail(&hint.into_iter().fold(failure, PyroError::hint), true);
    } else {
        say(&error.render().ansi().to_string());
        if let Some(hint) = hint {
            say(&format!("\n{}", remark(6, &format!("{BOLD}hint:{BOLD:#} {hint}"))));
        }
    }
    // Whoever runs a command in a VM must be able to tell its exit codes from ours.
    ExitCode::from(if example.is_some() { EXIT_CODE_OWN_FAILURE } else { EXIT_CODE_USAGE })
}

#[derive(Serialize)]
struct ErrorDocument<'a> {
    ok: bool,
    error: ErrorObject<'a>,
}

#[derive(Serialize)]
struct ErrorObject<'a> {
    code: &'static str,
    message: &'a str,
    causes: &'a [String],
    hints: &'a [String],
}

fn copy(source: &mut impl Read, mut stream: impl Write) -> io::Result<()> {
    io::copy(source, &mut stream)?;
    stream.flush()
}

fn write(mut stream: impl Write, text: &str) -> io::Result<()> {
    stream.write_all(text.as_bytes())?;
    stream.flush()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_others_chose_has_no_power_over_the_terminal() {
        assert_eq!(escaped("\u{1b}[31m\r\n\t\0\u{9b}"), r"\u{1b}[31m\r\n\t\0\u{9b}");
        assert_eq!(escaped("a\u{202e}b\u{2028}"), r"a\u{202e}b\u{2028}");
        let plain = "it's \"fine\": C:\\x ä 日本 e\u{301} 👩\u{200d}💻";
        assert_eq!(escaped(plain), plain);
    }

    #[test]
    fn lines_of_others_do_not_look_like_ours() {
        assert_eq!(paragraph("a\r\nhint: run this\u{7}"), "a\n    hint: run this\\u{7}");
    }
}
