//! One command in one fresh VM, from request to outcome.

use pyro_protocol::failure::Failure;
use serde::Serialize;

use crate::exec::{ExecOutcome, ExecRequest};
use crate::pyro::{Progress, Pyro};
use crate::streams::Streams;
use crate::vm::{Vm, VmRequest, VmStart};
use crate::{ErrorKind, PyroError, host_compat};

/// A command to be run in a VM of its own.
#[derive(Debug, Clone)]
pub struct RunRequest {
    pub vm: VmRequest,
    pub exec: ExecRequest,
    pub host_compat: HostCompat,
}

/// Whether the command may run on the host itself where no VM can be had.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HostCompat {
    Forbidden,
    Allowed,
}

/// What became of a command, and of the VM it had to itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RunOutcome {
    #[serde(flatten)]
    pub exec: ExecOutcome,
    /// How the VM came to life; `None` where no VM was involved.
    pub vm_start: Option<VmStart>,
    /// Why the VM was booted, where it was to be restored.
    pub restore_failure: Option<String>,
    pub cleanup: Cleanup,
}

/// What was done with the VM afterwards.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Cleanup {
    pub vm_id: String,
    pub deleted: bool,
    pub reason: &'static str,
}

/// Runs `request` in a VM, or on the host where that is allowed and no VM can be had.
pub(crate) async fn run(
    pyro: &Pyro,
    request: RunRequest,
    streams: Streams<'_>,
    progress: &(dyn Fn(Progress) + Send + Sync),
) -> Result<RunOutcome, PyroError> {
    let (mut vm_start, mut restore_failure) = (None, None);
    let exec = match pyro.launch_vm(&request.vm, progress).await {
        Ok(vm) => {
            vm_start = Some(vm.start());
            restore_failure = vm.restore_failure().map(Failure::one_line);
            let outcome = run_in(vm, request.exec, streams).await;
            // Not before: they would be made beside the command's work.
            pyro.want_spares(&request.vm);
            outcome?
        }
        Err(failure) if request.host_compat == HostCompat::Allowed && means_no_vm(&failure) => {
            progress(Progress::HostCompat { reason: failure });
            host_compat::run(request.vm.environment, request.exec, streams).await?
        }
        Err(failure) => return Err(failure),
    };
    let cleanup = Cleanup { vm_id: exec.vm_id.clone(), deleted: true, reason: "run_complete" };
    Ok(RunOutcome { exec, vm_start, restore_failure, cleanup })
}

/// The VM ends in any case, and what became of the command matters more than how it ends.
async fn run_in(
    mut vm: Vm,
    request: ExecRequest,
    streams: Streams<'_>,
) -> Result<ExecOutcome, PyroError> {
    let outcome = vm.exec(request, streams).await;
    let ended = vm.end().await;
    let outcome = outcome?;
    ended?;
    Ok(outcome)
}

/// Whether `failure` says that this host cannot give a VM; a wrong value or a lost VM does not.
fn means_no_vm(failure: &PyroError) -> bool {
    match failure.kind {
        ErrorKind::EnvironmentUnavailable
        | ErrorKind::NoSpace
        | ErrorKind::HostUnsupported
        | ErrorKind::VmStartFailed => true,
        ErrorKind::InvalidInput
        | ErrorKind::UnknownEnvironment
        | ErrorKind::VmLost
        | ErrorKind::VmExpired
        | ErrorKind::NotAvailable
        | ErrorKind::Interrupted
        | ErrorKind::Internal
        | ErrorKind::UnknownVm
        | ErrorKind::WrongVmState
        | ErrorKind::TooManyVms
        | ErrorKind::DeadlineReached => false,
    }
}
