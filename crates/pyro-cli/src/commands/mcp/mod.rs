//! `pyro mcp …`.

mod config;
mod serve;

use std::process::ExitCode;

use crate::mcp_arguments::McpCommand;
use crate::terminal;

pub(crate) fn execute(command: McpCommand) -> ExitCode {
    let outcome = match command {
        McpCommand::Serve(arguments) => serve::serve(&arguments),
        McpCommand::Config(arguments) => config::config(&arguments),
    };
    outcome.unwrap_or_else(|failure| {
        terminal::fail(&failure, false);
        ExitCode::FAILURE
    })
}
