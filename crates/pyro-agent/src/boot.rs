//! From the kernel's hand-over to a guest that takes commands, with the time of every phase.
//!
//! Nothing here makes the VM different from others of its environment: a snapshot is taken after
//! it, and what must differ comes with [`crate::identity`].

use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use pyro_protocol::guest::{BootPhase, BootReport};
use pyro_protocol::layout::{ROOTFS_SERIAL, SCRATCH_SERIAL};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};
use rustix::process::{Resource, Rlimit, setrlimit};
use rustix::system::uname;
use rustix::time::{ClockId, clock_gettime};

use crate::cgroup::{MachineLimits, RunsCgroup};
use crate::devices::{self, DeviceError, Devices};
use crate::network::{self, Network};
use crate::port::Port;
use crate::root::{self, RootError, Scratch};
use crate::{console, sys};

/// Open files a command may ask for. The soft limit stays low, for programs that close every
/// number below it before they start another.
const OPEN_FILES: Rlimit = Rlimit { current: Some(1024), maximum: Some(524_288) };

/// Why the guest did not come up.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BootError {
    #[error("the devices are not usable")]
    Devices { source: DeviceError },
    #[error("the root file system is not usable")]
    Root { source: RootError },
    #[error("cannot set {what} up")]
    Setting { what: &'static str, source: io::Error },
}

/// A guest that can be talked to, but has no root file system yet.
#[derive(Debug)]
pub(crate) struct Boot {
    devices: Devices,
    phases: Vec<BootPhase>,
}

/// A guest that is ready for commands.
#[derive(Debug)]
pub(crate) struct Booted {
    pub(crate) scratch: Scratch,
    pub(crate) cgroups: Option<RunsCgroup>,
    pub(crate) network: Network,
    /// Readable while children wait to be reaped.
    pub(crate) child_exits: OwnedFd,
    pub(crate) report: BootReport,
}

impl Boot {
    /// Comes as far as the port, the earliest point at which the host can be told of a failure.
    pub(crate) fn open_port() -> Result<(Self, Port), BootError> {
        let mut phases = vec![phase("kernel")];
        root::mount_kernel_file_systems().map_err(root_failed)?;
        let devices = Devices::listen().map_err(devices_failed)?;
        devices::load_modules().map_err(devices_failed)?;
        phases.push(phase("modules"));
        let port = devices.open_port().map_err(devices_failed)?;
        phases.push(phase("port"));
        Ok((Self { devices, phases }, port))
    }

    /// The rest of the boot.
    pub(crate) fn finish(mut self) -> Result<Booted, BootError> {
        let rootfs = self.devices.disk(ROOTFS_SERIAL).map_err(devices_failed)?;
        let scratch = self.devices.disk(SCRATCH_SERIAL).map_err(devices_failed)?;
        self.phases.push(phase("disks"));
        let scratch = root::enter(&rootfs, &scratch).map_err(root_failed)?;
        self.phases.push(phase("root"));
        root::mount_for_programs().map_err(root_failed)?;
        self.phases.push(phase("mounts"));
        set("the limit of open files", || Ok(setrlimit(Resource::Nofile, OPEN_FILES)?))?;
        set("the loopback interface", loopback)?;
        let network = set("the network", network::set_up)?;
        set("the agent's precedence", sys::take_precedence)?;
        set("the blocking of signals", sys::block_signals)?;
        let child_exits = set("the signal of ended children", sys::child_exit_signals)?;
        let cgroups = cgroups();
        self.phases.push(phase("settings"));
        Ok(Booted {
            scratch,
            cgroups,
            network,
            child_exits,
            report: BootReport { kernel_release: kernel_release(), phases: self.phases },
        })
    }
}

fn phase(name: &str) -> BootPhase {
    let now = clock_gettime(ClockId::Boottime);
    BootPhase {
        name: name.to_owned(),
        since_kernel_start: Duration::try_from(now).unwrap_or_default(),
    }
}

fn kernel_release() -> String {
    console::truncated(uname().release().to_string_lossy().into_owned())
}

fn set<T>(what: &'static str, setting: impl FnOnce() -> io::Result<T>) -> Result<T, BootError> {
    setting().map_err(|source| BootError::Setting { what, source })
}

fn loopback() -> io::Result<()> {
    match socket_with(AddressFamily::INET, SocketType::DGRAM, SocketFlags::CLOEXEC, None) {
        Ok(socket) => sys::bring_up_loopback(socket),
        // A kernel without a network has no loopback either.
        Err(Errno::AFNOSUPPORT) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// `None` where the kernel has no cgroups: commands run all the same, less contained.
fn cgroups() -> Option<RunsCgroup> {
    match MachineLimits::read().and_then(RunsCgroup::create) {
        Ok(cgroups) => Some(cgroups),
        Err(error) => {
            console::line(&format!("commands run without cgroups: {error}"));
            None
        }
    }
}

fn devices_failed(source: DeviceError) -> BootError {
    BootError::Devices { source }
}

fn root_failed(source: RootError) -> BootError {
    BootError::Root { source }
}
