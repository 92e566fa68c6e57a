//! From a specification to a machine that stands still with its emulator warm.

use std::time::Duration;

use pyro_protocol::client::{LaunchPhase, LaunchSpec, StartPolicy};
use pyro_protocol::failure::{Failure, FailureKind};
use pyro_protocol::frame::{FrameKind, decode_message, encode_chunk};
use pyro_protocol::guest::{BootReport, FromGuest, ToGuest};
use pyro_protocol::run::{Command, RunId, Stdin};
use pyro_qemu::monitor::MonitorError;

use super::key::SpareKey;
use crate::boot::{self, BootError, Vm};
use crate::launch::StepClock;
use crate::link::LinkError;
use crate::scratch::{self, ScratchDisk, ScratchError};
use crate::template::key::KeyError;
use crate::template::make::rest;
use crate::template::restore::RestoreError;
use crate::template::{self, TemplateError, store::TemplateStore};

/// For one command; the first Python under emulation takes seconds.
const REHEARSAL_DEADLINE: Duration = Duration::from_mins(1);

/// For QEMU to stop a machine that is idle.
const STOP_DEADLINE: Duration = Duration::from_secs(10);

/// A machine that stands still.
#[derive(Debug)]
pub(crate) struct Spare {
    pub(crate) key: SpareKey,
    pub(crate) vm: Vm,
    pub(crate) boot: BootReport,
    pub(crate) disk: ScratchDisk,
}

/// Why there is no spare.
#[derive(Debug, thiserror::Error)]
pub(crate) enum MakeSpareError {
    #[error("a VM that is booted cannot be made ahead")]
    NotRestored,
    #[error("cannot tell which VMs the spare could be")]
    Key { source: KeyError },
    #[error("cannot restore the spare")]
    Restore { source: TemplateError },
    #[error("cannot warm the spare up")]
    WarmUp { source: LinkError },
    #[error("the spare's agent answered a warm-up command with an unexpected message")]
    UnexpectedAnswer,
    #[error("cannot give the spare a neutral identity")]
    Configure { source: BootError },
    #[error("cannot stop the spare")]
    Stop { source: MonitorError },
    #[error("the spare did not stop within {} seconds", STOP_DEADLINE.as_secs())]
    StopTooLate,
}

impl MakeSpareError {
    pub(crate) fn into_failure(self) -> Failure {
        // As where a VM is made for somebody who waits for it.
        if let Self::Restore {
            source:
                TemplateError::Restore {
                    source:
                        RestoreError::Scratch { source: ScratchError::NoSpace { directory, .. } },
                },
        } = &self
        {
            return Failure::from_error(FailureKind::NoSpace, &self)
                .hint(scratch::free_some_space(directory));
        }
        Failure::from_error(FailureKind::VmStartFailed, &self)
            .hint("run `pyro doctor` to check this host")
    }
}

/// Makes a spare for `spec`. On failure, or when dropped half-way, nothing is left.
pub(crate) async fn make(
    spec: &LaunchSpec,
    rehearsals: &[String],
    progress: impl Fn(LaunchPhase) + Sync,
) -> Result<Spare, MakeSpareError> {
    let StartPolicy::Restore { templates, warm_up } = &spec.start else {
        return Err(MakeSpareError::NotRestored);
    };
    let key = SpareKey::of(spec).map_err(|source| MakeSpareError::Key { source })?;
    let key = key.ok_or(MakeSpareError::NotRestored)?;
    let store = TemplateStore::at(templates);
    let mut clock = StepClock::start();
    let (mut vm, boot, disk) =
        Box::pin(template::restored(spec, &store, warm_up, &progress, &mut clock))
            .await
            .map_err(|source| MakeSpareError::Restore { source })?;
    progress(LaunchPhase::WarmingSpare);
    for (number, command) in (1..).zip(rehearsals) {
        rehearse(&mut vm, RunId(number), command).await?;
    }
    // A conversation of its own, which ends whatever the commands left, and of which the claim is a part.
    let configure = |source| MakeSpareError::Configure { source };
    let nonce = boot::nonce().map_err(configure)?;
    vm.guest.greet(nonce).await.map_err(|source| MakeSpareError::WarmUp { source })?;
    boot::configure(&mut vm, &spec.vm_id).await.map_err(configure)?;
    rest(&mut vm).await;
    let stopped = tokio::time::timeout(STOP_DEADLINE, vm.monitor.stop()).await;
    stopped
        .map_err(|_| MakeSpareError::StopTooLate)?
        .map_err(|source| MakeSpareError::Stop { source })?;
    Ok(Spare { key, vm, boot, disk })
}

/// Runs a command as a client's would run, down to its input and output; what it writes is nobody's. Its exit does not
/// matter: what it did not find cannot be translated.
async fn rehearse(vm: &mut Vm, run: RunId, shell: &str) -> Result<(), MakeSpareError> {
    let warm_up = |source| MakeSpareError::WarmUp { source };
    let command = Command {
        shell: shell.to_owned(),
        environment: Vec::new(),
        working_directory: None,
        stdin: Stdin::Piped,
    };
    vm.guest.send_message(&ToGuest::Start { run, command }).map_err(warm_up)?;
    let end_of_input = encode_chunk(FrameKind::Stdin, run, &[]).expect("it is empty");
    vm.guest.send(&end_of_input);
    let ended = async {
        loop {
            let frame = vm.guest.next_frame().await.map_err(warm_up)?;
            match frame.kind {
                // No more than the credit that every run begins with.
                FrameKind::Output(_) => continue,
                FrameKind::Stdin => return Err(MakeSpareError::UnexpectedAnswer),
                FrameKind::Message => {}
            }
            let message = decode_message(&frame.payload)
                .map_err(|source| warm_up(LinkError::NoFrame { source }))?;
            match message {
                FromGuest::Started { .. } | FromGuest::GrantStdin { .. } => {}
                FromGuest::Exited { .. } | FromGuest::StartFailed { .. } => return Ok(()),
                FromGuest::Ready(_)
                | FromGuest::FileWritten
                | FromGuest::FileNotWritten { .. }
                | FromGuest::Pong
                | FromGuest::Goodbye
                | FromGuest::Fatal { .. } => return Err(MakeSpareError::UnexpectedAnswer),
            }
        }
    };
    tokio::select! {
        ended = tokio::time::timeout(REHEARSAL_DEADLINE, ended) => {
            ended.unwrap_or(Err(warm_up(LinkError::TooLate { deadline: REHEARSAL_DEADLINE })))
        }
        never = vm.console.pump() => match never {},
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_is_told_as_one() {
        let source = ScratchError::NoSpace { directory: "/state".into(), available_bytes: 1 };
        let source = TemplateError::Restore { source: RestoreError::Scratch { source } };
        let failure = MakeSpareError::Restore { source }.into_failure();
        assert_eq!(failure.kind, FailureKind::NoSpace);
        assert_eq!(failure.hints, ["free some space on the file system of `/state`"]);
        assert_eq!(MakeSpareError::NotRestored.into_failure().kind, FailureKind::VmStartFailed);
    }
}
