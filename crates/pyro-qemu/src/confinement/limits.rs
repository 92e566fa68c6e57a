//! What a QEMU process may take of the host at most.

use rustix::io::Errno;
use rustix::process::{Resource, Rlimit, setrlimit};

/// Beside the guest's memory: a gigabyte in which translated code is kept, the stacks of some seventy
/// threads (8 MiB each), libraries, a kernel that is booted. 1.5 GiB were seen, almost none of it in use.
const ADDRESS_SPACE_BESIDE_MEMORY_BYTES: u64 = 8 << 30;

/// Twenty were seen; a machine with more devices has more.
const OPEN_FILES_MAX: u64 = 256;

/// Resource limits, see setrlimit(2).
#[derive(Debug)]
pub(crate) struct Limits([(Resource, u64); 6]);

impl Limits {
    /// For a machine with this much memory, none of whose files may grow beyond `file_bytes`.
    pub(crate) fn new(memory_mib: u32, file_bytes: u64) -> Self {
        let address_space = (u64::from(memory_mib) << 20) + ADDRESS_SPACE_BESIDE_MEMORY_BYTES;
        Self([
            (Resource::As, address_space),
            (Resource::Fsize, file_bytes),
            (Resource::Nofile, OPEN_FILES_MAX),
            // A dump would put the guest's memory on the host's disk.
            (Resource::Core, 0),
            (Resource::Memlock, 0),
            (Resource::Rtprio, 0),
        ])
    }

    /// Limits this process, for ever. Makes system calls only.
    pub(crate) fn enforce(&self) -> Result<(), Errno> {
        for (resource, most) in self.0 {
            // Never more than there was before.
            let inherited = rustix::process::getrlimit(resource).maximum;
            let most = Some(inherited.map_or(most, |inherited| inherited.min(most)));
            setrlimit(resource, Rlimit { current: most, maximum: most })?;
        }
        Ok(())
    }
}
