//! From a template to a VM of its own: memory shared until it is written, a disk of its own, the state
//! of every device.

use std::fs::File;
use std::io;

use pyro_protocol::client::{LaunchPhase, LaunchSpec};
use pyro_protocol::guest::BootReport;
use pyro_qemu::machine::{Memory, MemorySharing, Start};

use super::sharing;
use super::store::Template;
use crate::boot::{self, BootError, Qemu, Vm};
use crate::launch::{self, LaunchError, StepClock};
use crate::packed::{self, UnpackError};
use crate::scratch::{self, ScratchError};

/// Why no VM came out of a template.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RestoreError {
    #[error("cannot read the template's {part}")]
    Unreadable { part: &'static str, source: UnpackError },
    #[error("cannot make the VM's scratch disk")]
    Scratch { source: ScratchError },
    #[error("cannot make memory for the VM")]
    NoMemory { source: io::Error },
    #[error("cannot assemble the machine")]
    Assemble { source: Box<LaunchError> },
    #[error("the restored machine does not answer")]
    NoVm { source: BootError },
}

/// Restores a VM and gives it its identity. On failure nothing is left.
pub(crate) async fn restore(
    spec: &LaunchSpec,
    template: &Template,
    progress: &impl Fn(LaunchPhase),
    clock: &mut StepClock,
) -> Result<(Vm, BootReport), RestoreError> {
    clock.step_done("template");
    progress(LaunchPhase::Restoring);
    let unreadable = |part| move |source| RestoreError::Unreadable { part, source };
    let memory =
        sharing::memory_of(template, spec.memory_mib).await.map_err(unreadable("memory"))?;
    let scratch = scratch::unformatted(&spec.scratch_directory)
        .map_err(|source| RestoreError::Scratch { source })?;
    let state = super::state_file().map_err(|source| RestoreError::NoMemory { source })?;
    let state = File::from(state);
    let scratch_file = File::from(scratch.read_write);
    packed::unpack(&template.scratch, &scratch_file).map_err(unreadable("scratch disk"))?;
    packed::unpack(&template.state, &state).map_err(unreadable("device state"))?;
    let scratch =
        scratch::ScratchDisk { read_write: scratch_file.into(), read_only: scratch.read_only };
    let file = memory.try_clone().map_err(|source| RestoreError::NoMemory { source })?;
    let sharing = MemorySharing::CopyOnWrite;
    let machine_memory = Memory { mib: spec.memory_mib, file, sharing };
    let start = Start::Restore { state: state.into() };
    let (machine, host) = launch::assemble(spec, machine_memory, start, scratch)
        .map_err(|source| RestoreError::Assemble { source: Box::new(source) })?;
    let no_vm = |source| RestoreError::NoVm { source };
    let mut vm = boot::wake(&Qemu::of(spec), machine, host, memory).await.map_err(no_vm)?;
    clock.step_done("restore");
    progress(LaunchPhase::Configuring);
    let report = boot::configure(&mut vm, &spec.vm_id).await.map_err(no_vm)?;
    clock.step_done("configure");
    Ok((vm, report))
}
