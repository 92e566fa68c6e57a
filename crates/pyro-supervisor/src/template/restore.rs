//! From a template to a VM of its own: memory shared until it is written, a disk of its own, the state
//! of every device.

use std::fs::File;
use std::io::{self, Read, Seek};
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
    #[error("cannot make the VM's scratch disk")]
    Scratch { source: ScratchError },
    #[error("cannot make memory for the VM")]
    NoMemory { source: io::Error },
    #[error("cannot assemble the machine")]
    Assemble { source: Box<LaunchError> },
    #[error("the restored machine does not answer")]
    NoVm { source: BootError },
}

impl RestoreError {
    /// Whether another template might do better: not where the host lacks what a VM needs.
    pub(crate) fn is_the_templates(&self) -> bool {
        match self {
            Self::Scratch { .. } | Self::NoMemory { .. } | Self::Assemble { .. } => false,
            Self::NoVm { source } => match source {
                BootError::NoQemu { .. }
                | BootError::CannotWait { .. }
                | BootError::NoRandomness { .. } => false,
                BootError::QemuEnded { .. }
                | BootError::NoAnswer { .. }
                | BootError::Unreadable { .. }
                | BootError::NotRestored { .. }
                | BootError::NoConversation { .. }
                | BootError::AgentGaveUp { .. }
                | BootError::UnexpectedAnswer => true,
            },
        }
    }
}

/// Restores a VM and gives it its identity. On failure nothing is left.
pub(crate) async fn restore(
    spec: &LaunchSpec,
    template: &Template,
    progress: &impl Fn(LaunchPhase),
    clock: &mut StepClock,
) -> Result<(Vm, BootReport, ScratchDisk), RestoreError> {
    clock.step_done("template");
    progress(LaunchPhase::Restoring);
    let no_memory = |source| RestoreError::NoMemory { source };
    let mut memory = sharing::memory_of(template, spec.memory_mib).await.map_err(no_memory)?;
    let own = OwnFiles::empty(template, &spec.scratch_directory)?;
    let machine_memory = Memory {
        mib: spec.memory_mib,
        file: memory.file.try_clone().map_err(no_memory)?,
        sharing: MemorySharing::CopyOnWrite,
    };
    let (state_line, state) = boot::socket_pair().map_err(no_memory)?;
    let start = Start::Restore { state };
    let (machine, host) =
        launch::assemble(spec, machine_memory, start, own.disk.try_clone().map_err(no_memory)?)
            .map_err(|source| RestoreError::Assemble { source: Box::new(source) })?;
    let disk = own.disk.try_clone().map_err(no_memory)?;
    // Both begin now, beside the start of QEMU.
    let (shared, own) = (memory.fill(template).map_err(no_memory)?, own.fill());
    let filled = async {
        let shared = async { shared.await.map_err(unreadable("memory")) };
        tokio::try_join!(shared, own).map(|((), state)| state)
    };
    let no_vm = |source| RestoreError::NoVm { source };
    let mut vm =
        boot::wake(&Qemu::of(spec), machine, host, state_line, filled).await.map_err(no_vm)?;
    vm.lend(memory.file);
    clock.step_done("restore");
    progress(LaunchPhase::Configuring);
    let report = boot::configure(&mut vm, &spec.vm_id).await.map_err(no_vm)?;
    clock.step_done("configure");
    Ok((vm, report, disk))
}

/// What a VM shares with no other: its scratch disk, and the state of its devices.
struct OwnFiles {
    disk: ScratchDisk,
    state: File,
    packed_disk: File,
    packed_state: File,
}

impl OwnFiles {
    fn empty(template: &Template, scratch_directory: &Path) -> Result<Self, RestoreError> {
        let no_memory = |source| RestoreError::NoMemory { source };
        Ok(Self {
            disk: scratch::unformatted(scratch_directory)
                .map_err(|source| RestoreError::Scratch { source })?,
            state: super::state_file().map_err(no_memory)?.into(),
            packed_disk: template.scratch.try_clone().map_err(no_memory)?,
            packed_state: template.state.try_clone().map_err(no_memory)?,
        })
    }

    /// Begins to fill the disk, and to read the state.
    fn fill(mut self) -> impl Future<Output = Result<Vec<u8>, BootError>> {
        background::run(move || {
            packed::unpack(&self.packed_disk, &File::from(self.disk.read_write))
                .map_err(unreadable("scratch disk"))?;
            let unreadable = unreadable("device state");
            packed::unpack(&self.packed_state, &self.state).map_err(&unreadable)?;
            let mut state = Vec::new();
            let read = self.state.rewind().and_then(|()| self.state.read_to_end(&mut state));
            read.map_err(|source| unreadable(UnpackError::Io { source }))?;
            Ok(state)
        })
    }
}

fn unreadable(part: &'static str) -> impl Fn(UnpackError) -> BootError {
    move |source| BootError::Unreadable { part, source }
}
