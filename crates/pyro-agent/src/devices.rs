//! Loads the drivers and finds the devices that the host gave this machine, by name.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use pyro_protocol::layout::{MODULES_DIRECTORY, PORT_NAME};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Mode, OFlags, open};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, netlink, socket_with};

use crate::port::Port;

/// Devices answer within milliseconds once their driver is there; an emulated and overloaded host
/// is far slower, but not like this.
const DEVICE_DEADLINE: Duration = Duration::from_secs(10);

/// The multicast group of the kernel's own device events.
const KERNEL_EVENTS: u32 = 1;

/// Why the machine's devices cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DeviceError {
    #[error("cannot listen for device events")]
    Events { source: Errno },
    #[error("cannot read the kernel modules")]
    ModuleFile { source: io::Error },
    #[error("the kernel does not take the module `{}`", path.display())]
    Module { path: PathBuf, source: Errno },
    #[error("no {what} `{name}` came up within {} s", DEVICE_DEADLINE.as_secs())]
    Missing { what: &'static str, name: &'static str },
    #[error("cannot open the port `{}`", path.display())]
    Port { path: PathBuf, source: io::Error },
}

/// The kernel's announcements of devices.
#[derive(Debug)]
pub(crate) struct Devices {
    events: OwnedFd,
}

impl Devices {
    /// Listens from now on: before any driver is loaded, so that no device is missed.
    pub(crate) fn listen() -> Result<Self, DeviceError> {
        let failed = |source| DeviceError::Events { source };
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let protocol = Some(netlink::KOBJECT_UEVENT);
        let events = socket_with(AddressFamily::NETLINK, SocketType::DGRAM, flags, protocol)
            .map_err(failed)?;
        bind(&events, &netlink::SocketAddrNetlink::new(0, KERNEL_EVENTS)).map_err(failed)?;
        Ok(Self { events })
    }

    /// Finds and opens the port to the supervisor.
    pub(crate) fn open_port(&self) -> Result<Port, DeviceError> {
        let path = self.find("port", PORT_NAME, "/sys/class/virtio-ports", "name")?;
        let failed = |source: io::Error| DeviceError::Port { path: path.clone(), source };
        let flags = OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let port = open(&path, flags, Mode::empty()).map_err(|error| failed(error.into()))?;
        Port::new(File::from(port)).map_err(failed)
    }

    /// Finds the device file of the disk with this serial number.
    pub(crate) fn disk(&self, serial: &'static str) -> Result<PathBuf, DeviceError> {
        self.find("disk", serial, "/sys/block", "serial")
    }

    /// The device below `class` whose `attribute` reads `name`, waiting for it to come up.
    fn find(
        &self,
        what: &'static str,
        name: &'static str,
        class: &str,
        attribute: &str,
    ) -> Result<PathBuf, DeviceError> {
        let deadline = Instant::now() + DEVICE_DEADLINE;
        loop {
            if let Some(device) = present(class, attribute, name) {
                return Ok(device);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(DeviceError::Missing { what, name });
            }
            self.wait(left).map_err(|source| DeviceError::Events { source })?;
        }
    }

    fn wait(&self, timeout: Duration) -> Result<(), Errno> {
        let timeout = Timespec::try_from(timeout).map_err(|_| Errno::INVAL)?;
        poll(&mut [PollFd::new(&self.events, PollFlags::IN)], Some(&timeout))?;
        // What was announced does not matter: the caller looks for itself.
        while rustix::io::read(&self.events, &mut [0; 64]).is_ok() {}
        Ok(())
    }
}

/// Loads the drivers the host put into the initial file system, in their order.
pub(crate) fn load_modules() -> Result<(), DeviceError> {
    let directory = fs_err::read_dir(MODULES_DIRECTORY);
    let entries = directory.and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let entries = entries.map_err(|source| DeviceError::ModuleFile { source })?;
    let mut paths: Vec<PathBuf> = entries.iter().map(fs_err::DirEntry::path).collect();
    paths.sort();
    for path in paths {
        let file =
            fs_err::File::open(&path).map_err(|source| DeviceError::ModuleFile { source })?;
        match rustix::system::finit_module(file.file(), c"", 0) {
            // A kernel that has it built in needs no module.
            Ok(()) | Err(Errno::EXIST) => {}
            Err(source) => return Err(DeviceError::Module { path, source }),
        }
    }
    Ok(())
}

/// Looks once; an attribute that cannot be read yet belongs to a device that is still coming up.
fn present(class: &str, attribute: &str, name: &str) -> Option<PathBuf> {
    let devices = fs_err::read_dir(class).ok()?;
    let device = devices.filter_map(Result::ok).find(|device| {
        fs_err::read_to_string(device.path().join(attribute))
            .is_ok_and(|value| value.trim_end() == name)
    })?;
    Some(PathBuf::from("/dev").join(device.file_name()))
}
