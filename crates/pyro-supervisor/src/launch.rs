//! From a client's specification to a VM that takes commands.

use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::time::Instant;

use pyro_protocol::client::{LaunchPhase, LaunchReport, LaunchSpec, LaunchStep};
use pyro_protocol::failure::{Failure, FailureKind};
use pyro_protocol::layout::{PORT_NAME, ROOTFS_SERIAL, SCRATCH_SERIAL};
use pyro_qemu::machine::{Disk, Image, Machine, Port};
use pyro_qemu::tsc;

use crate::boot::{self, BootError, HostEnds, Vm};
use crate::initramfs::{self, InitramfsError};
use crate::scratch::{self, ScratchError};

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
    #[error("cannot open `{}`", path.display())]
    CannotOpen { path: PathBuf, source: io::Error },
    #[error("cannot make sockets for the VM")]
    NoSockets { source: io::Error },
    #[error("cannot boot the VM")]
    Boot { source: BootError },
}

impl LaunchError {
    pub(crate) fn into_failure(self) -> Failure {
        match &self {
            Self::Scratch { source: ScratchError::NoSpace { directory, .. } } => {
                Failure::from_error(FailureKind::NoSpace, &self).hint(format!(
                    "free some space on the file system of `{}`",
                    directory.display()
                ))
            }
            Self::Scratch { source: ScratchError::CannotFormat { .. } } => {
                Failure::from_error(FailureKind::HostUnsupported, &self)
                    .hint("install `mke2fs` (Debian package `e2fsprogs`)")
            }
            Self::Boot { source: BootError::NoQemu { .. } } => {
                Failure::from_error(FailureKind::HostUnsupported, &self)
                    .hint("install QEMU (Debian package `qemu-system-x86`)")
            }
            Self::CannotOpen { .. } => Failure::from_error(FailureKind::VmStartFailed, &self)
                .hint("run `pyro env pull` for the environment again: it repairs what is missing"),
            Self::Boot {
                source: BootError::NoAnswer { .. } | BootError::NoConversation { .. },
            } => Failure::from_error(FailureKind::VmStartFailed, &self)
                .hint("the host may be overloaded: try again with fewer VMs at a time")
                .hint("run `pyro doctor` to check this host"),
            Self::Scratch { .. }
            | Self::Initramfs { .. }
            | Self::NoSockets { .. }
            | Self::Boot { .. } => Failure::from_error(FailureKind::VmStartFailed, &self)
                .hint("run `pyro doctor` to check this host"),
        }
    }
}

/// Starts a VM as specified. On failure, or when dropped half-way, nothing is left.
pub(crate) async fn launch(
    spec: &LaunchSpec,
    progress: impl Fn(LaunchPhase),
) -> Result<(Vm, LaunchReport), LaunchError> {
    let mut clock = StepClock { launched: Instant::now(), steps: Vec::new() };
    let mut attempt = 1;
    let mut vm = loop {
        progress(LaunchPhase::PreparingDisks);
        let (machine, host) = assemble(spec)?;
        clock.step_done("disks");
        progress(LaunchPhase::Booting);
        match boot::boot(&spec.qemu, machine, host).await {
            Ok(vm) => break vm,
            Err(BootError::NoAnswer { .. }) if attempt < BOOT_ATTEMPTS_MAX => attempt += 1,
            Err(source) => return Err(LaunchError::Boot { source }),
        }
    };
    clock.step_done("boot");
    progress(LaunchPhase::Configuring);
    let boot = boot::configure(&mut vm, &spec.vm_id)
        .await
        .map_err(|source| LaunchError::Boot { source })?;
    clock.step_done("configure");
    Ok((vm, LaunchReport { steps: clock.steps, boot, boot_attempts: attempt }))
}

fn assemble(spec: &LaunchSpec) -> Result<(Machine, HostEnds), LaunchError> {
    let scratch = scratch::create(&spec.scratch_directory, &spec.mke2fs)
        .map_err(|source| LaunchError::Scratch { source })?;
    let initramfs = initramfs::build(&spec.kernel_modules)
        .map_err(|source| LaunchError::Initramfs { source })?;
    let no_sockets = |source| LaunchError::NoSockets { source };
    let (host_port, guest_port) = boot::socket_pair().map_err(no_sockets)?;
    let (host_console, guest_console) = boot::socket_pair().map_err(no_sockets)?;
    let machine = Machine {
        accelerator: spec.accelerator,
        vcpu_count: spec.vcpu_count,
        memory_mib: spec.memory_mib,
        kernel: open(&spec.kernel_image)?,
        initramfs,
        tsc_khz: tsc::measure_khz(),
        port: Port { name: PORT_NAME, socket: guest_port },
        console: guest_console,
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
    };
    Ok((machine, HostEnds { port: host_port, console: host_console }))
}

fn open(path: &PathBuf) -> Result<OwnedFd, LaunchError> {
    use rustix::fs::{Mode, OFlags};
    rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
        .map_err(|errno| LaunchError::CannotOpen { path: path.clone(), source: errno.into() })
}

/// Times the steps of a launch.
struct StepClock {
    launched: Instant,
    steps: Vec<LaunchStep>,
}

impl StepClock {
    fn step_done(&mut self, name: &str) {
        let since_launch = self.launched.elapsed();
        self.steps.push(LaunchStep { name: name.to_owned(), since_launch });
    }
}
