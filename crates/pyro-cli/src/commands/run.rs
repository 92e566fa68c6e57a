//! `pyro run`.

use std::process::ExitCode;

use pyro_core::{Config, HostCompat, Progress, PyroError, RunOutcome, RunRequest};

use super::{Ended, execution, requests};
use crate::arguments::{RUN_EXAMPLE, RunArguments};
use crate::progress::Display;

pub(crate) fn run(arguments: &RunArguments) -> ExitCode {
    execution::show(
        run_until_interrupted(arguments),
        |outcome| &outcome.exec,
        &arguments.command,
        arguments.output,
    )
}

type Outcome = Result<RunOutcome, PyroError>;

fn run_until_interrupted(arguments: &RunArguments) -> Result<Ended<Outcome>, PyroError> {
    let pyro = super::pyro(Some(&arguments.archive))?;
    let output = arguments.output;
    let request = request(arguments, pyro.config())?;
    let terminal = execution::terminal(&arguments.command)?;
    let display = Display::new(output);
    let show = |progress: Progress| {
        let is_ready = matches!(progress, Progress::VmReady { .. });
        display.show(progress);
        // Until then Ctrl-C is for pyro.
        if let (true, Some(terminal)) = (is_ready, &terminal) {
            terminal.lend();
        }
    };
    let terminal = terminal.as_ref();
    let work = async {
        // Only now is there a runtime that can read and write.
        let streams = execution::streams(output, terminal);
        execution::drive(pyro.run_in_vm(request, streams, &show), terminal).await
    };
    let ended = super::block_on(super::until_interrupted(&pyro, work));
    display.clear();
    ended
}

fn request(arguments: &RunArguments, config: &Config) -> Result<RunRequest, PyroError> {
    // The command first: it is what is forgotten most.
    let RunArguments { words, command, output, .. } = arguments;
    let exec = requests::exec(words, command, *output, config, RUN_EXAMPLE)?;
    Ok(RunRequest {
        vm: requests::vm(&arguments.environment, &arguments.vm, &arguments.network)?,
        exec,
        host_compat: if arguments.allow_host_compat {
            HostCompat::Allowed
        } else {
            HostCompat::Forbidden
        },
    })
}
