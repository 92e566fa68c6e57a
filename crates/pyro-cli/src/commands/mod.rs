//! One file per group of commands; here, what they share.

pub(crate) mod demo;
mod doctor;
mod environment;
mod execution;
pub(crate) mod internal;
mod logs;
mod mcp;
mod pages;
mod requests;
mod run;
mod vm;
mod warm;

use std::process::ExitCode;

use pyro_core::{Config, ErrorKind, Pyro, PyroError};
use serde::Serialize;

use crate::arguments::{ArchiveArguments, Arguments, Command, OutputArguments};
use crate::terminal;

pub(crate) fn execute(arguments: Arguments) -> ExitCode {
    match arguments.command {
        Command::Run(arguments) => run::run(&arguments),
        Command::Vm(command) => vm::execute(command),
        Command::Warm(arguments) => warm::execute(&arguments),
        Command::Environment(command) => environment::execute(command),
        Command::Mcp(command) => mcp::execute(command),
        Command::Demo(arguments) => demo::execute(&arguments),
        Command::Doctor { fix, output } => {
            doctor::doctor(if fix { doctor::Mode::Repair } else { doctor::Mode::Look }, output)
        }
        Command::Completions { shell } => {
            let printed = terminal::print(&pages::completions(shell));
            terminal::exit_code(printed, ExitCode::SUCCESS, 1)
        }
    }
}

/// The core, configured by environment variables and by `archive`.
fn pyro(archive: Option<&ArchiveArguments>) -> Result<Pyro, PyroError> {
    let executable = std::env::current_exe().map_err(|error| {
        PyroError::from_error(ErrorKind::Internal, &error).context("cannot tell where `pyro` is")
    })?;
    let mut config = Config::from_environment(executable)?;
    if let Some(archive) = archive {
        if !archive.mirror.is_empty() {
            config.mirrors.clone_from(&archive.mirror);
        }
        if archive.proxy.is_some() {
            config.proxy.clone_from(&archive.proxy);
        }
    }
    Ok(Pyro::new(config))
}

/// Drives `work` on a runtime of its own, and leaves without waiting for a read of standard input
/// that nobody can cancel.
fn block_on<T>(work: impl Future<Output = T>) -> Result<T, PyroError> {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|error| {
            PyroError::from_error(ErrorKind::Internal, &error).context("cannot start the runtime")
        })?;
    let outcome = runtime.block_on(work);
    runtime.shutdown_background();
    Ok(outcome)
}

/// What became of work that a signal can end.
enum Ended<T> {
    ByItself(T),
    BySignal(i32),
}

/// Drives `work` until it ends or a signal asks for its end; then nothing of it is left.
async fn until_interrupted<T>(pyro: &Pyro, work: impl Future<Output = T>) -> Ended<T> {
    let ended = tokio::select! {
        outcome = work => Ended::ByItself(outcome),
        signal = crate::interrupt::interrupted() => Ended::BySignal(signal),
    };
    pyro.settle().await;
    ended
}

/// The exit code of a process that a signal ended, as shells have it. Who waits for a document gets
/// one that says so.
fn ended_by_signal(signal: i32, json: bool) -> ExitCode {
    if json {
        let message = format!("interrupted by signal {signal}");
        terminal::fail(&PyroError::new(ErrorKind::Interrupted, message), json);
    }
    ExitCode::from(u8::try_from(128 + signal).unwrap_or(u8::MAX))
}

/// Shows what a command has to say: as JSON, or as text.
fn show<T: Serialize>(
    output: OutputArguments,
    outcome: Result<T, PyroError>,
    text: impl Fn(&T) -> String,
) -> ExitCode {
    match outcome {
        Ok(value) => {
            let printed = if output.json {
                terminal::print_json(&value)
            } else {
                terminal::print(&text(&value))
            };
            terminal::exit_code(printed, ExitCode::SUCCESS, 1)
        }
        Err(failure) => {
            terminal::fail(&failure, output.json);
            ExitCode::FAILURE
        }
    }
}
