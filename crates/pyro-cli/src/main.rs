//! The `pyro` executable: parses the command line, calls the core, shows the outcome.

mod arguments;

mod mcp_arguments;

mod network_arguments;

mod demo_arguments;

mod clients;

mod chat;

mod commands;

mod escape;

mod folding;

mod interrupt;

mod lent_terminal;

mod moving_line;

mod progress;

mod terminal;

use std::process::ExitCode;

use clap::Parser;

use crate::arguments::Arguments;

fn main() -> ExitCode {
    let words: Vec<_> = std::env::args_os().skip(1).collect();
    if let Some(exit_code) = commands::internal::execute(&words) {
        return exit_code;
    }
    match Arguments::try_parse() {
        Ok(arguments) => commands::execute(arguments),
        Err(error) => terminal::usage(&error),
    }
}
