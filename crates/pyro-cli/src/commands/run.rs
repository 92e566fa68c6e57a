//! `pyro run`.

use std::os::fd::AsFd;
use std::process::ExitCode;

use pyro_core::{
    CAPTURE_BYTES_DEFAULT, CaptureLimit, CommandText, ErrorKind, ExecRequest, HostCompat,
    MemoryMib, Network, Progress, PyroError, RunOutcome, RunRequest, Streams, TimeToLive, Timeout,
    VcpuCount, VmRequest, parse_environment,
};
use tokio::io::AsyncRead;

use super::Ended;
use crate::arguments::RunArguments;
use crate::progress::Display;
use crate::terminal::{self, EXIT_CODE_OWN_FAILURE, EXIT_CODE_PIPE};

pub(crate) fn run(arguments: &RunArguments) -> ExitCode {
    let json = arguments.output.json;
    let quiet = arguments.output.quiet;
    let timeout_seconds = arguments.timeout_seconds;
    match run_until_interrupted(arguments) {
        Ok(Ended::ByItself(Ok(outcome))) => {
            let code = ExitCode::from(u8::try_from(outcome.exec.exit_code).unwrap_or(u8::MAX));
            if json {
                let printed = terminal::print_json(&outcome);
                return terminal::exit_code(printed, code, EXIT_CODE_OWN_FAILURE);
            }
            if outcome.exec.timed_out && !quiet {
                let limit = format!("{timeout_seconds} seconds (--timeout-seconds)");
                terminal::say(&format!("pyro: command ended after {limit}\n"));
            }
            code
        }
        // Whoever read the output has gone, as in `pyro run … | head`.
        Ok(Ended::ByItself(Err(failure))) if failure.kind == ErrorKind::Interrupted => {
            ExitCode::from(EXIT_CODE_PIPE)
        }
        Ok(Ended::ByItself(Err(failure))) | Err(failure) => {
            terminal::fail(&failure, json);
            ExitCode::from(EXIT_CODE_OWN_FAILURE)
        }
        Ok(Ended::BySignal(signal)) => super::ended_by_signal(signal, json),
    }
}

type Outcome = Result<RunOutcome, PyroError>;

fn run_until_interrupted(arguments: &RunArguments) -> Result<Ended<Outcome>, PyroError> {
    let pyro = super::pyro(Some(&arguments.archive))?;
    let output = arguments.output;
    let request = request(arguments)?;
    let display = Display::new(output);
    let show = |progress: Progress| display.show(progress);
    let work = async {
        // Only now is there a runtime that can read and write.
        let streams = if output.json { captured_streams() } else { live_streams() };
        pyro.run_in_vm(request, streams, &show).await
    };
    let ended = super::block_on(super::until_interrupted(&pyro, work));
    display.clear();
    ended
}

fn request(arguments: &RunArguments) -> Result<RunRequest, PyroError> {
    if arguments.words.is_empty() {
        return Err(PyroError::new(ErrorKind::InvalidInput, "command is required after --")
            .hint("for instance: `pyro run debian:12 -- git --version`"));
    }
    let command = shlex::try_join(arguments.words.iter().map(String::as_str)).map_err(|error| {
        PyroError::from_error(ErrorKind::InvalidInput, &error)
            .context("command cannot be quoted for a shell")
    })?;
    Ok(RunRequest {
        vm: VmRequest {
            environment: parse_environment(&arguments.environment)?,
            vcpu_count: VcpuCount::new(arguments.vcpu_count)?,
            memory: MemoryMib::new(arguments.mem_mib)?,
            time_to_live: TimeToLive::from_seconds(arguments.ttl_seconds)?,
            network: if arguments.network { Network::On } else { Network::Off },
        },
        exec: ExecRequest {
            command: CommandText::new(command)?,
            timeout: Timeout::from_seconds(arguments.timeout_seconds)?,
            // What is streamed need not be kept.
            capture: if arguments.output.json { CAPTURE_BYTES_DEFAULT } else { CaptureLimit(0) },
        },
        host_compat: if arguments.allow_host_compat {
            HostCompat::Allowed
        } else {
            HostCompat::Forbidden
        },
    })
}

fn captured_streams() -> Streams<'static> {
    Streams { stdin: stdin(), stdout: None, stderr: None }
}

fn live_streams() -> Streams<'static> {
    Streams {
        stdin: stdin(),
        stdout: Some(Box::new(tokio::io::stdout())),
        stderr: Some(Box::new(tokio::io::stderr())),
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
