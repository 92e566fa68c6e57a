//! From a template to a VM of its own: memory shared until it is written, a disk of its own, the state
//! of every device.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use pyro_protocol::client::{LaunchPhase, LaunchSpec};
use pyro_protocol::guest::BootReport;
use pyro_qemu::machine::{Memory, MemorySharing, Start};

use super::sharing;
use super::store::Template;
use crate::background;
use crate::boot::{self, BootError, Qemu, Vm};
use crate::launch::{self, LaunchError, StepClock};
use crate::packed::{self, UnpackError};
use crate::scratch::{self, ScratchDisk, ScratchError};

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
    let (memory, (scratch, state)) = tokio::try_join!(
        shared_memory(template, spec.memory_mib),
        own_parts(template, &spec.scratch_directory),
    )?;
    clock.step_done("unpack");
    let file = memory.try_clone().map_err(|source| RestoreError::NoMemory { source })?;
    let sharing = MemorySharing::CopyOnWrite;
    let machine_memory = Memory { mib: spec.memory_mib, file, sharing };
    let start = Start::Restore { state };
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

async fn shared_memory(template: &Template, mib: u32) -> Result<OwnedFd, RestoreError> {
    sharing::memory_of(template, mib).await.map_err(unreadable("memory"))
}

/// What a VM shares with no other: its scratch disk, and the state of its devices.
async fn own_parts(
    template: &Template,
    scratch_directory: &Path,
) -> Result<(ScratchDisk, OwnedFd), RestoreError> {
    let no_memory = |source| RestoreError::NoMemory { source };
    let packed_scratch = template.scratch.try_clone().map_err(no_memory)?;
    let packed_state = template.state.try_clone().map_err(no_memory)?;
    let directory = scratch_directory.to_owned();
    background::run(move || {
        let ScratchDisk { read_write, read_only } =
            scratch::unformatted(&directory).map_err(|source| RestoreError::Scratch { source })?;
        let (disk, state) =
            (File::from(read_write), File::from(super::state_file().map_err(no_memory)?));
        packed::unpack(&packed_scratch, &disk).map_err(unreadable("scratch disk"))?;
        packed::unpack(&packed_state, &state).map_err(unreadable("device state"))?;
        Ok((ScratchDisk { read_write: disk.into(), read_only }, state.into()))
    })
    .await
}

fn unreadable(part: &'static str) -> impl Fn(UnpackError) -> RestoreError {
    move |source| RestoreError::Unreadable { part, source }
}
