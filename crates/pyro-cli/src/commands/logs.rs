//! `pyro vm logs`.

use std::process::ExitCode;

use pyro_core::{OutputStream, PyroError, RunInfo, RunList, RunState, VmId};

use super::show;
use crate::arguments::LogsArguments;
use crate::terminal::{self, BOLD};

/// Of a command's text, where no terminal says how many have room in a line.
const COMMAND_CHARACTERS: usize = 60;

/// Of it at least, however narrow the terminal is.
const COMMAND_CHARACTERS_MIN: usize = 20;

/// Where the commands begin.
const COMMAND_COLUMN: usize = 43;

pub(crate) fn logs(arguments: &LogsArguments) -> ExitCode {
    let output = arguments.output;
    match (arguments.run, output.json) {
        (None, _) => show(output, list(&arguments.id), list_text),
        (Some(run), true) => {
            let log = VmId::new(&arguments.id).and_then(|id| super::pyro(None)?.run_log(&id, run));
            show(output, log, |_| String::new())
        }
        (Some(run), false) => match print(&arguments.id, run) {
            Ok(printed) => terminal::exit_code(printed, ExitCode::SUCCESS, 1),
            Err(failure) => {
                terminal::fail(&failure, false);
                ExitCode::FAILURE
            }
        },
    }
}

fn list(id: &str) -> Result<RunList, PyroError> {
    let id = VmId::new(id)?;
    super::pyro(None)?.list_runs(&id)
}

/// Prints what a command wrote, as it was written.
fn print(id: &str, run: u32) -> Result<std::io::Result<()>, PyroError> {
    let id = VmId::new(id)?;
    let pyro = super::pyro(None)?;
    let info = pyro.inspect_run(&id, run)?;
    let stdout = pyro.open_log(&id, run, OutputStream::Stdout)?;
    let stderr = pyro.open_log(&id, run, OutputStream::Stderr)?;
    let printed = terminal::copy_to_stdout(stdout).and_then(|()| terminal::copy_to_stderr(stderr));
    missing("output", info.stdout_bytes, info.stdout_kept_bytes);
    missing("error output", info.stderr_bytes, info.stderr_kept_bytes);
    Ok(printed)
}

fn missing(what: &str, written: Option<u64>, kept: u64) {
    if let Some(written) = written.filter(|&written| written > kept) {
        terminal::say(&format!("pyro: of {written} bytes of {what} the first {kept} are kept\n"));
    }
}

fn list_text(list: &RunList) -> String {
    let head = ("RUN", "STATE", "EXIT", "STDOUT", "STDERR");
    let mut text = format!(
        "{BOLD}{:>4}  {:<8} {:>4} {:>10} {:>10}  COMMAND{BOLD:#}\n",
        head.0, head.1, head.2, head.3, head.4
    );
    let room = terminal::columns(std::io::stdout()).map_or(COMMAND_CHARACTERS, |columns| {
        columns.saturating_sub(COMMAND_COLUMN).max(COMMAND_CHARACTERS_MIN)
    });
    for run in &list.runs {
        let exit = run.exit_code.map(|code| code.to_string()).unwrap_or_default();
        text += &format!(
            "{:>4}  {:<8} {exit:>4} {:>10} {:>10}  {}\n",
            run.run_id,
            state(run),
            run.stdout_bytes.unwrap_or(run.stdout_kept_bytes),
            run.stderr_bytes.unwrap_or(run.stderr_kept_bytes),
            short(&run.command, room)
        );
    }
    text
}

fn state(run: &RunInfo) -> &'static str {
    match run.state {
        RunState::Running => "running",
        RunState::Ended if run.timed_out => "time-out",
        RunState::Ended => "ended",
        RunState::Failed => "failed",
    }
}

/// One line of a command, with at most so many characters.
fn short(command: &str, characters_max: usize) -> String {
    let line = command.split_whitespace().collect::<Vec<_>>().join(" ");
    let line = terminal::escaped(&line);
    if line.chars().count() <= characters_max {
        return line;
    }
    line.chars().take(characters_max.saturating_sub(1)).chain(['…']).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_is_one_line_without_power_over_the_terminal() {
        assert_eq!(short("echo a\n  echo \u{1b}[2Jb", 60), r"echo a echo \u{1b}[2Jb");
        let long = short(&"\u{1b}".repeat(60), 60);
        assert_eq!(long.chars().count(), 60);
        assert!(long.ends_with('…'), "{long}");
    }
}
