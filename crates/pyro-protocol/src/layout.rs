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

/// The guest's network, where it has one: the same for every VM, because each is alone in it. It takes four
/// addresses from private networks that could be reached otherwise.
pub mod network {
    use std::net::{Ipv4Addr, Ipv6Addr};

    /// The host's end: gateway, name server, and what answers for the host's loopback where that is allowed.
    pub const GATEWAY_V4: Ipv4Addr = Ipv4Addr::new(10, 255, 255, 253);
    pub const GUEST_V4: Ipv4Addr = Ipv4Addr::new(10, 255, 255, 254);
    pub const PREFIX_LENGTH_V4: u8 = 30;

    pub const GATEWAY_V6: Ipv6Addr = Ipv6Addr::new(0xfd70, 0x7972, 0x6f00, 0, 0, 0, 0, 1);
    pub const GUEST_V6: Ipv6Addr = Ipv6Addr::new(0xfd70, 0x7972, 0x6f00, 0, 0, 0, 0, 2);
    pub const PREFIX_LENGTH_V6: u8 = 64;

    pub const GATEWAY_MAC: [u8; 6] = [0x02, b'p', b'y', b'r', b'o', 1];
    pub const GUEST_MAC: [u8; 6] = [0x02, b'p', b'y', b'r', b'o', 2];

    /// The largest IP packet, in bytes. There is no cable between guest and host, so packets as large as IP allows
    /// spare both sides most of the work per byte.
    pub const MTU: u16 = 65_520;

    /// The name by which the guest's programs find the gateway, in `/etc/hosts`.
    pub const HOST_NAME: &str = "host.pyro.internal";
}
