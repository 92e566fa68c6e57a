//! A VM from the client's side: which files and numbers its supervisor gets.

use pyro_environments::{EnvironmentName, InstalledEnvironment, LeaseError, Store};
use pyro_protocol::client::{Accelerator, LaunchSpec, StartKind};
use pyro_supervisor::client::{ClientError, Departures, Supervisor};

use crate::config::{Config, INTERNAL_SUPERVISE};
use crate::limits::{MemoryMib, TimeToLive, VcpuCount};
use crate::pyro::Progress;
use crate::{ErrorKind, PyroError, accelerator, confinement, environments};

/// What kind of VM is asked for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Shape {
    pub(crate) vcpu_count: VcpuCount,
    pub(crate) memory: MemoryMib,
    pub(crate) time_to_live: TimeToLive,
}

/// A VM that takes commands, for as long as this value lives.
#[derive(Debug)]
pub(crate) struct Vm {
    pub(crate) id: String,
    pub(crate) accelerator: Accelerator,
    pub(crate) start: StartKind,
    pub(crate) supervisor: Supervisor,
}

/// Starts a VM from an installed environment.
pub(crate) async fn launch(
    config: &Config,
    store: &Store,
    environment: &InstalledEnvironment,
    shape: Shape,
    progress: &(dyn Fn(Progress) + Send + Sync),
    departures: &Departures,
) -> Result<Vm, PyroError> {
    let id = new_id()?;
    let accelerator = accelerator::choose(config).await?;
    let qemu = config.tool(pyro_qemu::executable::PROGRAM, QEMU_PACKAGE)?;
    let confinement = confinement::choose(config, &qemu, accelerator).await?;
    let scratch_directory = config.scratch_directory();
    fs_err::create_dir_all(&scratch_directory).map_err(|error| {
        PyroError::from_error(ErrorKind::VmStartFailed, &error)
            .context("cannot make the directory for VMs")
            .hint("set `PYRO_STATE_DIR` to a directory that is writable")
    })?;
    let spec = LaunchSpec {
        vm_id: id.clone(),
        vcpu_count: shape.vcpu_count.get(),
        memory_mib: shape.memory.get(),
        time_to_live: shape.time_to_live.get(),
        accelerator,
        confinement,
        qemu,
        mke2fs: config.tool("mke2fs", "e2fsprogs")?,
        start: config.start_policy(environment),
        environment_digest: environments::digest(environment),
        kernel_image: environment.kernel.vmlinux.clone(),
        kernel_modules: environment.kernel.modules.clone(),
        rootfs_image: environment.rootfs_image.clone(),
        scratch_directory,
    };
    // Until the supervisor has opened the files.
    let lease =
        store.lease(environment).map_err(|error| lease_failure(environment.name, &error))?;
    let mut supervisor = Supervisor::start(&config.executable(INTERNAL_SUPERVISE), departures)
        .await
        .map_err(client_failure)?;
    let report = supervisor
        .launch(spec, |phase| progress(Progress::Launch(phase)))
        .await
        .map_err(client_failure)?;
    drop(lease);
    let start = report.start.clone();
    progress(Progress::VmReady { vm_id: id.clone(), accelerator, report });
    Ok(Vm { id, accelerator, start, supervisor })
}

/// The Debian package with the one QEMU program used.
pub(crate) const QEMU_PACKAGE: &str = "qemu-system-x86";

/// 12 lower-case hex digits.
pub(crate) fn new_id() -> Result<String, PyroError> {
    let mut bytes = [0; 8];
    getrandom::fill(&mut bytes[2..]).map_err(|error| {
        PyroError::from_error(ErrorKind::Internal, &error).context("cannot name the VM")
    })?;
    Ok(format!("{:012x}", u64::from_be_bytes(bytes)))
}

/// An error of the supervisor's client, as surfaces see it.
pub(crate) fn client_failure(error: ClientError) -> PyroError {
    match error {
        ClientError::Reported(failure) => failure,
        ClientError::CannotStart { .. } => PyroError::from_error(ErrorKind::VmStartFailed, &error),
        ClientError::NoConversation { .. } => PyroError::from_error(ErrorKind::VmLost, &error)
            .hint(
                "the VM's supervisor was killed, for instance because the host ran out of memory",
            ),
        ClientError::UnexpectedMessage => PyroError::from_error(ErrorKind::Internal, &error),
    }
}

fn lease_failure(name: EnvironmentName, error: &LeaseError) -> PyroError {
    PyroError::from_error(ErrorKind::EnvironmentUnavailable, error)
        .context(format!("cannot use `{name}`"))
        .hint("try again: another process deleted or replaced it at this moment")
}
