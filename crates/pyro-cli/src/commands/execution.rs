//! A command in a VM: its streams, and its outcome as an exit code.

use std::os::fd::AsFd;
use std::process::ExitCode;

use pyro_core::{ErrorKind, ExecOutcome, PyroError, Streams, Timeout};
use serde::Serialize;
use tokio::io::AsyncRead;

use super::Ended;
use crate::arguments::{CommandArguments, OutputArguments};
use crate::escape::Keys;
use crate::folding::whole;
use crate::lent_terminal::LentTerminal;
use crate::terminal::{self, EXIT_CODE_OWN_FAILURE, EXIT_CODE_PIPE, escaped};

/// Shows how a command ended; its exit code becomes pyro's.
pub(super) fn show<T: Serialize>(
    ended: Result<Ended<Result<T, PyroError>>, PyroError>,
    exec: impl Fn(&T) -> &ExecOutcome,
    command: &CommandArguments,
    output: OutputArguments,
) -> ExitCode {
    match ended {
        Ok(Ended::ByItself(Ok(outcome))) => {
            let ExecOutcome { exit_code, timed_out, .. } = exec(&outcome);
            let code = ExitCode::from(u8::try_from(*exit_code).unwrap_or(u8::MAX));
            if output.json {
                let printed = terminal::print_json(&outcome);
                return terminal::exit_code(printed, code, EXIT_CODE_OWN_FAILURE);
            }
            if !output.quiet {
                for line in refusals(exec(&outcome)).lines() {
                    terminal::say(&terminal::remark(6, line));
                }
            }
            if *timed_out && !output.quiet {
                // With a terminal there is none unless it was asked for.
                let default = Timeout::DEFAULT.get().as_secs_f64();
                let seconds = command.timeout_seconds.unwrap_or(default);
                let unit = if (seconds - 1.0).abs() < f64::EPSILON { "second" } else { "seconds" };
                let limit = format!("{seconds} {unit} (--timeout-seconds)");
                terminal::say(&format!("pyro: command ended after {limit}\n"));
            }
            code
        }
        // Whoever read the output has gone, as in `pyro run … | head`.
        Ok(Ended::ByItself(Err(failure))) if failure.kind == ErrorKind::Interrupted => {
            ExitCode::from(EXIT_CODE_PIPE)
        }
        Ok(Ended::ByItself(Err(failure))) | Err(failure) => {
            terminal::fail(&failure, output.json);
            ExitCode::from(EXIT_CODE_OWN_FAILURE)
        }
        Ok(Ended::BySignal(signal)) => super::ended_by_signal(signal, output.json),
    }
}

/// What the network refused, a line each, with the options that would have allowed it.
fn refusals(outcome: &ExecOutcome) -> String {
    let mut text = String::new();
    for refusal in &outcome.network_refusals {
        // The guest chose names.
        text += &format!("pyro: network: {}", escaped(&refusal.summary));
        if refusal.count > 1 {
            text += &format!(" ({} times)", refusal.count);
        }
        if let Some(arguments) = &refusal.allow_with {
            text += &format!("; allow it: {}", whole(&arguments.as_options()));
        }
        text.push('\n');
    }
    if outcome.network_refusals_left_out > 0 {
        text += &format!("pyro: network: {} more refused\n", outcome.network_refusals_left_out);
    }
    text
}

/// The user's terminal, if the command is to have it.
pub(super) fn terminal(command: &CommandArguments) -> Result<Option<LentTerminal>, PyroError> {
    command.tty.then(LentTerminal::of_this_process).transpose()
}

/// This process's own streams. With `--json` the output goes into the document only.
pub(super) fn streams(
    output: OutputArguments,
    terminal: Option<&LentTerminal>,
) -> Streams<'static> {
    if output.json {
        return Streams { stdin: stdin(), ..Streams::default() };
    }
    let stdin = stdin().map(|stdin| match terminal {
        Some(_) => Box::new(Keys::of(stdin)) as _,
        None => stdin,
    });
    let terminal = terminal.map(LentTerminal::size);
    Streams {
        stdin,
        stdout: Some(Box::new(tokio::io::stdout())),
        stderr: Some(Box::new(tokio::io::stderr())),
        terminal,
    }
}

/// Drives a command to its end. Meanwhile its terminal has the size of the user's.
pub(super) async fn drive<T>(
    command: impl Future<Output = T>,
    terminal: Option<&LentTerminal>,
) -> T {
    let Some(terminal) = terminal else { return command.await };
    tokio::select! {
        outcome = command => outcome,
        never = terminal.follow() => match never {},
    }
}

/// Standard input, unless it is a terminal that belongs to another job: reading from it would stop
/// this process.
fn stdin() -> Option<Box<dyn AsyncRead + Send + Unpin>> {
    let stdin = std::io::stdin();
    let is_background = rustix::termios::isatty(stdin.as_fd())
        && rustix::termios::tcgetpgrp(stdin.as_fd()).ok() != Some(rustix::process::getpgrp());
    if is_background {
        return None;
    }
    Some(Box::new(tokio::io::stdin()))
}

#[cfg(test)]
mod tests {
    use pyro_core::{AllowWith, ExecutionMode, NetworkRefusal, RefusalReason, RefusedProtocol};

    use super::*;
    use crate::folding::folded;

    fn refusal(summary: &str, allow_with: Option<AllowWith>) -> NetworkRefusal {
        NetworkRefusal {
            protocol: RefusedProtocol::Tcp,
            destination: "10.1.2.3:80".to_owned(),
            host: None,
            reason: RefusalReason::PrivateAddress,
            count: 1,
            message: String::new(),
            allow_with,
            summary: summary.to_owned(),
        }
    }

    #[test]
    fn each_refusal_is_a_line_with_the_option_that_allows_it() {
        let allow_with = AllowWith {
            allow_cidrs: vec!["10.1.2.3:80".to_owned()],
            allow_public: true,
            ..AllowWith::default()
        };
        let outcome = ExecOutcome {
            vm_id: "0123456789ab".to_owned(),
            environment: "debian:12".to_owned(),
            environment_version: "1".to_owned(),
            command: "true".to_owned(),
            stdout: String::new(),
            stderr: String::new(),
            exit_code: 0,
            duration_ms: 1,
            execution_mode: ExecutionMode::Guest,
            timed_out: false,
            stdout_truncated: false,
            stderr_truncated: false,
            stdout_bytes: 0,
            stderr_bytes: 0,
            accelerator: None,
            out_of_memory: false,
            network_refusals: vec![
                NetworkRefusal {
                    count: 3,
                    ..refusal("TCP to 10.1.2.3:80 was refused", Some(allow_with))
                },
                refusal("looking up a\n\u{1b}[31mb was refused", None),
            ],
            network_refusals_left_out: 7,
        };
        assert_eq!(
            folded(&refusals(&outcome), None, 0),
            "pyro: network: TCP to 10.1.2.3:80 was refused (3 times); allow it: --allow-cidr 10.1.2.3:80 \
             --allow-public\n\
             pyro: network: looking up a\\n\\u{1b}[31mb was refused\n\
             pyro: network: 7 more refused\n"
        );
    }
}
