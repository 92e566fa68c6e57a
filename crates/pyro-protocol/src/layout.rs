//! Names by which the supervisor and the agent find the parts of the machine.

/// Name of the virtio-serial port that carries the conversation.
pub const PORT_NAME: &str = "pyro.agent";

/// Serial number of the disk with the environment's squashfs image (read-only).
pub const ROOTFS_SERIAL: &str = "pyro-rootfs";

/// Serial number of the disk with the VM's own ext4 file system.
pub const SCRATCH_SERIAL: &str = "pyro-scratch";

/// virtio-blk carries at most this many bytes of serial number.
const SERIAL_BYTES_MAX: usize = 20;

const _: () = assert!(ROOTFS_SERIAL.len() <= SERIAL_BYTES_MAX);
const _: () = assert!(SCRATCH_SERIAL.len() <= SERIAL_BYTES_MAX);

/// Directory of the initial file system with the kernel's modules, named so that their sorted
/// order is the order in which they must be loaded.
pub const MODULES_DIRECTORY: &str = "/modules";
