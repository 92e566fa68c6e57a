//! The only place that prints: data to standard output, everything pyro says itself to standard error.

use std::io::{self, ErrorKind, Read, Write};
use std::process::ExitCode;

use anstyle::{AnsiColor, Style};
use pyro_core::PyroError;
use serde::Serialize;

use crate::arguments::{EXEC_EXAMPLE, RUN_EXAMPLE};

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
    let mut text = format!("{RED}error:{RED:#} {}\n", failure.message);
    for cause in &failure.causes {
        text += &format!("  caused by: {}\n", cause.replace('\n', "\n    "));
    }
    if !failure.hints.is_empty() {
        text += "\n";
    }
    for hint in &failure.hints {
        text += &format!("{BOLD}hint:{BOLD:#} {hint}\n");
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
            say(&format!("\n{BOLD}hint:{BOLD:#} {hint}\n"));
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
