//! Making a template: boot, warm up, freeze, publish.

use std::fs::File;
use std::io::{self, Write};
use std::time::Duration;

use pyro_protocol::client::{LaunchPhase, LaunchSpec};
use pyro_protocol::frame::{FrameKind, decode_message};
use pyro_protocol::guest::{FromGuest, ToGuest};
use pyro_protocol::run::{Command, RunId, Stdin};
use pyro_qemu::monitor::MonitorError;

use super::key::TemplateKey;
use super::store::{MakerLock, TemplateStore};
use crate::background;
use crate::boot::{self, BootError, Vm};
use crate::launch::{self, LaunchError};
use crate::link::LinkError;

/// For one warm-up command; under emulation git and Python take seconds when they run first.
const WARM_UP_DEADLINE: Duration = Duration::from_mins(1);

/// For QEMU to write some hundred kilobytes.
const FREEZE_DEADLINE: Duration = Duration::from_secs(30);

/// As long as the number of a VM, so that the files that hold it are the same size.
const TEMPLATE_ID: &str = "000000000000";

/// Has what was written put on the disk, so that no VM begins with doing it.
const SYNC: &str = "sync";

/// For the guest's kernel to free in the background what ended commands have left. Otherwise every VM
/// would do it, and translate the code for it, beside its first command.
const CALM: Duration = Duration::from_secs(1);

/// Why a template was not made.
#[derive(Debug, thiserror::Error)]
pub(crate) enum MakeError {
    #[error("cannot boot the template")]
    Boot { source: Box<LaunchError> },
    #[error("cannot configure the template")]
    Configure { source: BootError },
    #[error("cannot warm the template up")]
    WarmUp { source: LinkError },
    #[error("the template's agent answered a warm-up command with an unexpected message")]
    UnexpectedAnswer,
    #[error("cannot freeze the template")]
    Freeze { source: MonitorError },
    #[error("the template was not frozen within {} seconds", FREEZE_DEADLINE.as_secs())]
    FreezeTooLate,
    #[error("cannot write the template")]
    Write { source: io::Error },
}

/// Makes and publishes the template `key` for `spec`.
pub(crate) async fn make(
    spec: &LaunchSpec,
    warm_up: &[String],
    store: &TemplateStore,
    key: &TemplateKey,
    lock: &MakerLock,
    progress: &impl Fn(LaunchPhase),
) -> Result<(), MakeError> {
    let write = |source| MakeError::Write { source };
    let partial = store.begin(key, &spec.environment_digest, lock).map_err(write)?;
    progress(LaunchPhase::BootingTemplate);
    let mut booted = launch::boot_with_retry(spec, None)
        .await
        .map_err(|source| MakeError::Boot { source: Box::new(source) })?;
    boot::configure(&mut booted.vm, TEMPLATE_ID)
        .await
        .map_err(|source| MakeError::Configure { source })?;
    progress(LaunchPhase::WarmingTemplate);
    for (index, command) in (1..).zip(warm_up) {
        run_to_end(&mut booted.vm, RunId(index), command).await?;
    }
    run_to_end(&mut booted.vm, RunId(0), SYNC).await?;
    rest(&mut booted.vm).await;
    progress(LaunchPhase::FreezingTemplate);
    let frozen = freeze(&mut booted.vm).await?;
    let [memory, scratch, mut state] =
        [booted.memory, booted.scratch.read_write, super::state_file().map_err(write)?]
            .map(File::from);
    state.write_all(&frozen).map_err(write)?;
    booted.vm.qemu.kill().await.map_err(write)?;
    partial.fill(memory, scratch, state).await.map_err(write)?;
    store.publish(key, &partial, lock).map_err(write)?;
    let store = store.clone();
    // The template is there, whether or not others can be deleted.
    background::run(move || store.prune(&|_| true)).await.ok();
    Ok(())
}

/// Runs a command whose exit does not matter: what it touched is in memory now.
async fn run_to_end(vm: &mut Vm, run: RunId, shell: &str) -> Result<(), MakeError> {
    let warm_up = |source| MakeError::WarmUp { source };
    let command = Command {
        // Its output must not wait for anyone.
        shell: format!("{{ {shell}\n}} >/dev/null 2>&1"),
        environment: Vec::new(),
        working_directory: None,
        stdin: Stdin::Empty,
    };
    vm.guest.send_message(&ToGuest::Start { run, command }).map_err(warm_up)?;
    let ended = async {
        loop {
            let frame = vm.guest.next_frame().await.map_err(warm_up)?;
            if frame.kind != FrameKind::Message {
                return Err(MakeError::UnexpectedAnswer);
            }
            let message = decode_message(&frame.payload)
                .map_err(|source| warm_up(LinkError::NoFrame { source }))?;
            match message {
                FromGuest::Started { .. } => {}
                // What the environment does not have cannot be warmed.
                FromGuest::Exited { .. } | FromGuest::StartFailed { .. } => return Ok(()),
                FromGuest::Ready(_)
                | FromGuest::GrantStdin { .. }
                | FromGuest::FileWritten
                | FromGuest::FileNotWritten { .. }
                | FromGuest::Pong
                | FromGuest::Goodbye
                | FromGuest::Fatal { .. } => return Err(MakeError::UnexpectedAnswer),
            }
        }
    };
    tokio::select! {
        ended = tokio::time::timeout(WARM_UP_DEADLINE, ended) => {
            ended.unwrap_or(Err(warm_up(LinkError::TooLate { deadline: WARM_UP_DEADLINE })))
        }
        never = vm.console.pump() => match never {},
    }
}

/// Leaves the guest alone for a while.
pub(crate) async fn rest(vm: &mut Vm) {
    tokio::select! {
        () = tokio::time::sleep(CALM) => {}
        never = vm.console.pump() => match never {},
    }
}

/// The state of its devices.
async fn freeze(vm: &mut Vm) -> Result<Vec<u8>, MakeError> {
    let frozen = tokio::time::timeout(FREEZE_DEADLINE, vm.monitor.freeze());
    tokio::select! {
        frozen = frozen => frozen
            .map_err(|_| MakeError::FreezeTooLate)?
            .map_err(|source| MakeError::Freeze { source }),
        never = vm.console.pump() => match never {},
    }
}
