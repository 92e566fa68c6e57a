//! From a client's specification to a VM that takes commands.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use pyro_network::{PreparedNetwork, PublishError};
use pyro_protocol::client::{
    GuestFile, LaunchPhase, LaunchReport, LaunchSpec, LaunchStep, StartKind, StartPolicy,
};
use pyro_protocol::failure::{Failure, FailureKind};
use pyro_protocol::guest::BootReport;
use pyro_protocol::layout::network::{GUEST_MAC, MTU};
use pyro_protocol::layout::{PORT_NAME, ROOTFS_SERIAL, SCRATCH_SERIAL};
use pyro_qemu::machine::{Boot, Disk, Image, Machine, Memory, MemorySharing, Nic, Port, Start};
use pyro_qemu::monitor::MonitorError;
use pyro_qemu::tsc;

use crate::background;
use crate::boot::{self, BootError, HostEnds, Qemu, Vm, VmNetwork};
use crate::guest_files::{self, GuestFileError};
use crate::initramfs::{self, InitramfsError};
use crate::memory;
use crate::scratch::{self, ScratchDisk, ScratchError};
use crate::template::{self, store::TemplateStore};

/// A boot that never answers is tried once more: under KVM one in five was seen to hang before its
/// first instruction of user space, for no known cause.
const BOOT_ATTEMPTS_MAX: u32 = 2;

/// Why a VM could not be started.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LaunchError {
    #[error("cannot make the VM's scratch disk")]
    Scratch { source: ScratchError },
    #[error("cannot make the VM's initial file system")]
    Initramfs { source: InitramfsError },
    #[error("cannot make memory for the VM")]
    NoMemory { source: io::Error },
    #[error("cannot open `{}`", path.display())]
    CannotOpen { path: PathBuf, source: io::Error },
    #[error("cannot make sockets for the VM")]
    NoSockets { source: io::Error },
    #[error("cannot boot the VM")]
    Boot { source: BootError },
    #[error("cannot publish a port of the VM")]
    Publish { source: PublishError },
    #[error("cannot give the VM its network")]
    Network { source: io::Error },
    #[error("cannot give the VM its files")]
    GuestFile { source: GuestFileError },
    #[error("the spare does not go on")]
    NotResumed { source: MonitorError },
    #[error("the spare did not go on within {} seconds", deadline.as_secs())]
    ResumeTooLate { deadline: Duration },
}

impl LaunchError {
    pub(crate) fn into_failure(self) -> Failure {
        match &self {
            Self::Scratch { source: ScratchError::NoSpace { directory, .. } } => {
                Failure::from_error(FailureKind::NoSpace, &self)
                    .hint(scratch::free_some_space(directory))
            }
            Self::Scratch { source: ScratchError::CannotFormat { .. } } => {
                Failure::from_error(FailureKind::HostUnsupported, &self)
                    .hint("install `mke2fs` (Debian package `e2fsprogs`)")
            }
            Self::Boot { source: BootError::NoQemu { .. } } => {
                Failure::from_error(FailureKind::HostUnsupported, &self)
                    .hint("run `pyro doctor`: it tries QEMU out on this host")
            }
            Self::CannotOpen { .. } => Failure::from_error(FailureKind::VmStartFailed, &self)
                .hint("run `pyro env pull` for the environment again: it repairs what is missing"),
            Self::Boot {
                source: BootError::NoAnswer { .. } | BootError::NoConversation { .. },
            } => Failure::from_error(FailureKind::VmStartFailed, &self)
                .hint("the host may be overloaded: try again with fewer VMs at a time")
                .hint("run `pyro doctor` to check this host"),
            Self::Publish { source: PublishError { port, .. } } => {
                Failure::from_error(FailureKind::InvalidInput, &self).hint(format!(
                    "end the program that has port {} of 127.0.0.1, or publish another: \
                     `{}` alone takes any free one",
                    port.host, port.guest
                ))
            }
            Self::GuestFile { source } => {
                let failure = |kind| Failure::from_error(kind, &self);
                match source {
                    GuestFileError::NotGiven { .. } => failure(FailureKind::VmStartFailed)
                        .hint("run `pyro doctor` to check this host"),
                    GuestFileError::Unreadable { .. }
                    | GuestFileError::NotPlain { .. }
                    | GuestFileError::TooLong { .. } => failure(FailureKind::InvalidInput).hint(
                        format!(
                            "put a file of at most {} bytes there that you may read, or name another",
                            GuestFile::HOST_FILE_BYTES_MAX
                        ),
                    ),
                    GuestFileError::NotWritten { .. } => failure(FailureKind::InvalidInput)
                        .hint("make room for it in the guest, or have it written elsewhere"),
                }
            }
            Self::Network { .. }
            | Self::NotResumed { .. }
            | Self::ResumeTooLate { .. }
            | Self::Scratch { .. }
            | Self::Initramfs { .. }
            | Self::NoMemory { .. }
            | Self::NoSockets { .. }
            | Self::Boot { .. } => Failure::from_error(FailureKind::VmStartFailed, &self)
                .hint("run `pyro doctor` to check this host"),
        }
    }
}

/// A VM that takes commands.
#[derive(Debug)]
pub(crate) struct Launched {
    pub(crate) vm: Vm,
    pub(crate) report: LaunchReport,
    /// Its disk, through descriptors of its own.
    pub(crate) disk: ScratchDisk,
}

/// A machine that was booted, with the files that are its memory and its disk.
#[derive(Debug)]
pub(crate) struct Booted {
    pub(crate) vm: Vm,
    pub(crate) memory: OwnedFd,
    pub(crate) scratch: ScratchDisk,
    attempts: u32,
}

/// Has a template made for `spec` if VMs are to be restored and there is none. What goes wrong shows when
/// a VM is launched.
pub(crate) async fn prepare(spec: &LaunchSpec, progress: impl Fn(LaunchPhase) + Sync) {
    if let StartPolicy::Restore { templates, warm_up } = &spec.start {
        template::prepare(spec, &TemplateStore::at(templates), warm_up, &progress).await.ok();
    }
}

/// Starts a VM as specified. One that had a machine before has a disk, from which the next one is booted.
/// On failure, or when dropped half-way, nothing is left.
pub(crate) async fn launch(
    spec: &LaunchSpec,
    disk: Option<ScratchDisk>,
    progress: impl Fn(LaunchPhase) + Sync,
) -> Result<Launched, LaunchError> {
    let mut clock = StepClock::start();
    let files = spec.guest_files.clone();
    let files = background::run(move || guest_files::read(&files)).await;
    let files = files.map_err(|source| LaunchError::GuestFile { source })?;
    // Before anything is started for a VM that cannot have its ports.
    let network = spec.network.clone().map(PreparedNetwork::new).transpose();
    let network = network.map_err(|source| LaunchError::Publish { source })?;
    let (mut vm, boot, disk, start, boot_attempts) = match (&spec.start, disk) {
        (StartPolicy::ColdBoot, disk) => {
            cold_boot(spec, disk, StartKind::ColdBoot, &progress, &mut clock).await?
        }
        // A template's memory knows another disk.
        (StartPolicy::Restore { .. }, Some(disk)) => {
            cold_boot(spec, Some(disk), StartKind::ColdBoot, &progress, &mut clock).await?
        }
        (StartPolicy::Restore { templates, warm_up }, None) => {
            let store = TemplateStore::at(templates);
            match Box::pin(template::restored(spec, &store, warm_up, &progress, &mut clock)).await {
                Ok((vm, boot, disk)) => (vm, boot, disk, StartKind::Restored, 0),
                Err(error) => {
                    let reason = Failure::from_error(FailureKind::VmStartFailed, &error);
                    let start = StartKind::ColdBootInstead { reason };
                    cold_boot(spec, None, start, &progress, &mut clock).await?
                }
            }
        }
    };
    guest_files::write(&mut vm, files).await.map_err(|source| LaunchError::GuestFile { source })?;
    if let Some(network) = network {
        vm.connect(network).map_err(|source| LaunchError::Network { source })?;
    }
    let published = vm.published().to_vec();
    let report = LaunchReport { start, steps: clock.into_steps(), boot, boot_attempts, published };
    Ok(Launched { vm, report, disk })
}

async fn cold_boot(
    spec: &LaunchSpec,
    disk: Option<ScratchDisk>,
    start: StartKind,
    progress: &impl Fn(LaunchPhase),
    clock: &mut StepClock,
) -> Result<(Vm, BootReport, ScratchDisk, StartKind, u32), LaunchError> {
    progress(LaunchPhase::Booting);
    let mut booted = boot_with_retry(spec, disk).await?;
    clock.step_done("boot");
    progress(LaunchPhase::Configuring);
    let report = boot::configure(&mut booted.vm, &spec.vm_id)
        .await
        .map_err(|source| LaunchError::Boot { source })?;
    clock.step_done("configure");
    Ok((booted.vm, report, booted.scratch, start, booted.attempts))
}

/// Boots a machine, and again if it never answers: from the disk of an earlier one, or from a new one.
pub(crate) async fn boot_with_retry(
    spec: &LaunchSpec,
    disk: Option<ScratchDisk>,
) -> Result<Booted, LaunchError> {
    let mut attempts = 1;
    loop {
        match boot_once(spec, disk.as_ref()).await {
            Ok((vm, memory, scratch)) => return Ok(Booted { vm, memory, scratch, attempts }),
            Err(LaunchError::Boot { source: BootError::NoAnswer { .. } })
                if attempts < BOOT_ATTEMPTS_MAX =>
            {
                attempts += 1;
            }
            Err(error) => return Err(error),
        }
    }
}

async fn boot_once(
    spec: &LaunchSpec,
    disk: Option<&ScratchDisk>,
) -> Result<(Vm, OwnedFd, ScratchDisk), LaunchError> {
    let no_memory = |source| LaunchError::NoMemory { source };
    let scratch = match disk {
        Some(disk) => disk.try_clone().map_err(no_memory)?,
        None => scratch::create(&spec.scratch_directory, &spec.mke2fs)
            .await
            .map_err(|source| LaunchError::Scratch { source })?,
    };
    let initramfs = initramfs::build(&spec.kernel_modules)
        .map_err(|source| LaunchError::Initramfs { source })?;
    let file = memory::fresh(spec.memory_mib).map_err(no_memory)?;
    let kept_memory = file.try_clone().map_err(no_memory)?;
    let kept_scratch = scratch.try_clone().map_err(no_memory)?;
    let memory = Memory { mib: spec.memory_mib, file, sharing: MemorySharing::Shared };
    let start = Start::Boot(Boot {
        kernel: memory::copy_of(&spec.kernel_image).map_err(|source| LaunchError::CannotOpen {
            path: spec.kernel_image.clone(),
            source,
        })?,
        initramfs,
        tsc_khz: tsc::measure_khz(),
    });
    let (machine, host) = assemble(spec, memory, start, scratch)?;
    let vm = boot::boot(&Qemu::of(spec), machine, host)
        .await
        .map_err(|source| LaunchError::Boot { source })?;
    Ok((vm, kept_memory, kept_scratch))
}

/// Puts a machine together, with sockets for whoever talks to it.
pub(crate) fn assemble(
    spec: &LaunchSpec,
    memory: Memory,
    start: Start,
    scratch: ScratchDisk,
) -> Result<(Machine, HostEnds), LaunchError> {
    let no_sockets = |source| LaunchError::NoSockets { source };
    let (host_port, guest_port) = boot::socket_pair().map_err(no_sockets)?;
    let (host_console, guest_console) = boot::socket_pair().map_err(no_sockets)?;
    let (host_monitor, qemu_monitor) = boot::socket_pair().map_err(no_sockets)?;
    let (network, nic) = if spec.network.is_some() {
        let (host, qemu) = UnixStream::pair().map_err(no_sockets)?;
        let nic = Nic { mac: GUEST_MAC, mtu: MTU, socket: qemu.into() };
        (VmNetwork::Unserved(host), Some(nic))
    } else {
        (VmNetwork::None, None)
    };
    let machine = Machine {
        accelerator: spec.accelerator,
        vcpu_count: spec.vcpu_count,
        memory,
        start,
        port: Port { name: PORT_NAME, socket: guest_port },
        console: guest_console,
        monitor: qemu_monitor,
        disks: vec![
            Disk {
                serial: ROOTFS_SERIAL,
                image: Image::ReadOnly { file: open(&spec.rootfs_image)? },
            },
            Disk {
                serial: SCRATCH_SERIAL,
                image: Image::Writable {
                    read_write: scratch.read_write,
                    read_only: scratch.read_only,
                },
            },
        ],
        nic,
    };
    let (port, console, monitor) = (host_port, host_console, host_monitor);
    Ok((machine, HostEnds { port, console, monitor, network }))
}

fn open(path: &PathBuf) -> Result<OwnedFd, LaunchError> {
    use rustix::fs::{Mode, OFlags};
    rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
        .map_err(|errno| LaunchError::CannotOpen { path: path.clone(), source: errno.into() })
}

/// Times the steps of a launch.
pub(crate) struct StepClock {
    launched: Instant,
    steps: Vec<LaunchStep>,
}

impl StepClock {
    pub(crate) fn start() -> Self {
        Self { launched: Instant::now(), steps: Vec::new() }
    }

    pub(crate) fn into_steps(self) -> Vec<LaunchStep> {
        self.steps
    }

    pub(crate) fn step_done(&mut self, name: &str) {
        let since_launch = self.launched.elapsed();
        self.steps.push(LaunchStep { name: name.to_owned(), since_launch });
    }
}
