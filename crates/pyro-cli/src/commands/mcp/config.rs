//! `pyro mcp config`.

use std::process::ExitCode;

use clap::Parser;
use pyro_core::{ErrorKind, PyroError, UserDirectories};

use super::serve;
use crate::arguments::{Arguments, Command};
use crate::clients::{Change, Installed, Server};
use crate::mcp_arguments::{ConfigArguments, McpCommand, TransportChoice};
use crate::terminal;

pub(super) fn config(arguments: &ConfigArguments) -> Result<ExitCode, PyroError> {
    let server = server(arguments)?;
    let client = arguments.client;
    let entry = client.entry(&server)?;
    let file = client.file(&UserDirectories::from_environment()?);
    if arguments.install {
        let installed = client.install(&file, &entry).map_err(|error| {
            PyroError::from_error(ErrorKind::InvalidInput, &error)
                .context(format!("cannot install it for {}", client.title()))
                .hint("leave out `--install` to see what belongs into that file")
        })?;
        terminal::say(&report(&installed, &client.place()));
        return Ok(ExitCode::SUCCESS);
    }
    let printed = terminal::print(&client.snippet(&entry));
    terminal::say(&format!(
        "pyro: for {}, in {}; `--install` puts it there\n",
        client.title(),
        file.display()
    ));
    Ok(terminal::exit_code(printed, ExitCode::SUCCESS, 1))
}

fn report(installed: &Installed, place: &str) -> String {
    let file = installed.file.display();
    let what = match installed.change {
        Change::None => {
            return format!("pyro: {file} has it already as `{place}`, nothing was changed\n");
        }
        Change::Added => "added",
        Change::Replaced => "changed",
    };
    let mut text = format!("pyro: {what} `{place}` in {file}\n");
    if let Some(backup) = &installed.backup {
        text += &format!("pyro: what it was before is in {}\n", backup.display());
    }
    text
}

fn server(arguments: &ConfigArguments) -> Result<Server, PyroError> {
    if let Some(url) = &arguments.url {
        if !(url.starts_with("http://") || url.starts_with("https://")) {
            let message = format!("`{url}` is no address of a server");
            return Err(PyroError::new(ErrorKind::InvalidInput, message)
                .hint("`pyro mcp serve --transport http` says its own when it begins"));
        }
        return Ok(Server::Http { url: url.clone() });
    }
    check_serve_options(&arguments.serve_options)?;
    let pyro = std::env::current_exe().map_err(|error| {
        PyroError::from_error(ErrorKind::Internal, &error).context("cannot tell where `pyro` is")
    })?;
    let command = pyro.into_os_string().into_string().map_err(|path| {
        let message = format!("the path of `pyro` is no text: {}", path.display());
        PyroError::new(ErrorKind::InvalidInput, message)
    })?;
    let words = ["mcp", "serve"].into_iter().map(str::to_owned);
    Ok(Server::Stdio { command, arguments: words.chain(arguments.serve_options.clone()).collect() })
}

/// What is wrong now would otherwise be found by the client, which hides it.
fn check_serve_options(options: &[String]) -> Result<(), PyroError> {
    let words = ["pyro", "mcp", "serve"].into_iter().chain(options.iter().map(String::as_str));
    let wrong = |reason: PyroError| {
        let context = "what follows `--` are no options of a server over stdio";
        // Hints about a server that somebody starts by hand would lead astray.
        PyroError {
            hints: vec!["see `pyro mcp serve --help`".to_owned()],
            ..reason.context(context)
        }
    };
    let invalid = |reason: &str| wrong(PyroError::new(ErrorKind::InvalidInput, reason));
    match Arguments::try_parse_from(words) {
        Ok(Arguments { command: Command::Mcp(McpCommand::Serve(arguments)) }) => {
            match arguments.transport {
                TransportChoice::Stdio => serve::check(&arguments).map(drop).map_err(wrong),
                TransportChoice::Http => Err(invalid("for a server over HTTP give its `--url`")),
            }
        }
        Ok(_) => Err(invalid("another command")),
        Err(error) => {
            let text = error.to_string();
            Err(invalid(text.lines().next().unwrap_or_default().trim_start_matches("error: ")))
        }
    }
}
