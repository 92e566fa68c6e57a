//! `pyro run`.

use std::process::ExitCode;

use pyro_core::{HostCompat, Progress, PyroError, RunOutcome, RunRequest};

use super::{Ended, execution, requests};
use crate::arguments::RunArguments;
use crate::progress::Display;

pub(crate) fn run(arguments: &RunArguments) -> ExitCode {
    execution::show(
        run_until_interrupted(arguments),
        |outcome| &outcome.exec,
        arguments.timeout,
        arguments.output,
    )
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
        pyro.run_in_vm(request, execution::streams(output), &show).await
    };
    let ended = super::block_on(super::until_interrupted(&pyro, work));
    display.clear();
    ended
}

fn request(arguments: &RunArguments) -> Result<RunRequest, PyroError> {
    // The command first: it is what is forgotten most.
    let exec = requests::exec(&arguments.words, arguments.timeout, arguments.output, EXAMPLE)?;
    Ok(RunRequest {
        vm: requests::vm(&arguments.environment, &arguments.vm)?,
        exec,
        host_compat: if arguments.allow_host_compat {
            HostCompat::Allowed
        } else {
            HostCompat::Forbidden
        },
    })
}

const EXAMPLE: &str = "pyro run debian:12 -- git --version";
