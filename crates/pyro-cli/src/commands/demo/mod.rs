//! `pyro demo`: what pyro does, shown by doing it.

mod ollama;
mod probe;
mod walk;

use std::process::ExitCode;

pub(crate) use self::probe::ProbeTarget;
use crate::demo_arguments::{DemoArguments, DemoCommand};

pub(crate) fn execute(arguments: &DemoArguments) -> ExitCode {
    match &arguments.command {
        Some(DemoCommand::Ollama(ollama)) => ollama::execute(ollama),
        None => walk::execute(&arguments.walk),
    }
}
