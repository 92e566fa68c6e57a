//! The guest's network, where the host gave it a device for one: addresses, routes and neighbours that are the
//! same in every VM. Nothing is asked of anybody, so a VM that is restored has it at once.

use std::io;
use std::net::IpAddr;
use std::os::fd::OwnedFd;

use pyro_protocol::layout::network::{
    GATEWAY_MAC, GATEWAY_V4, GATEWAY_V6, GUEST_MAC, GUEST_V4, GUEST_V6, PREFIX_LENGTH_V4,
    PREFIX_LENGTH_V6,
};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, send, socket_with,
};

const INTERFACES: &str = "/sys/class/net";
const RESOLVER_FILE: &str = "/etc/resolv.conf";

/// Whether the VM has a network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Network {
    Absent,
    Present,
}

/// Sets the network up, if there is a device for it. Its MTU is the device's affair.
pub(crate) fn set_up() -> io::Result<Network> {
    let Some(interface) = Interface::find()? else { return Ok(Network::Absent) };
    let has_v6 = interface.expect_no_router()?;
    let mut kernel = Kernel::connect()?;
    kernel.ask(&interface.up())?;
    for address in [IpAddr::V4(GUEST_V4), IpAddr::V6(GUEST_V6)] {
        if address.is_ipv4() || has_v6 {
            kernel.ask(&interface.address(address))?;
        }
    }
    for gateway in [IpAddr::V4(GATEWAY_V4), IpAddr::V6(GATEWAY_V6)] {
        if gateway.is_ipv4() || has_v6 {
            kernel.ask(&interface.neighbour(gateway))?;
            kernel.ask(&interface.default_route(gateway))?;
        }
    }
    name_the_resolver()?;
    Ok(Network::Present)
}

/// Instead of whatever the image has there, which may lead to a file of a daemon that does not run.
fn name_the_resolver() -> io::Result<()> {
    match fs_err::remove_file(RESOLVER_FILE) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    fs_err::write(RESOLVER_FILE, format!("nameserver {GATEWAY_V4}\n"))
}

/// A network interface.
struct Interface {
    name: String,
    index: u32,
}

impl Interface {
    /// Drivers register it while they are loaded, so there is nothing to wait for.
    fn find() -> io::Result<Option<Self>> {
        let wanted = GUEST_MAC.map(|byte| format!("{byte:02x}")).join(":");
        for entry in fs_err::read_dir(INTERFACES)? {
            let path = entry?.path();
            let has = fs_err::read_to_string(path.join("address"))?;
            if has.trim_end() == wanted {
                let index = fs_err::read_to_string(path.join("ifindex"))?;
                let index = index.trim_end().parse().map_err(io::Error::other)?;
                let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
                return Ok(Some(Self { name, index }));
            }
        }
        Ok(None)
    }

    /// Keeps the kernel from making IPv6 addresses of its own and from asking for routers. Gives whether it
    /// has IPv6.
    fn expect_no_router(&self) -> io::Result<bool> {
        // No link-local address (IN6_ADDR_GEN_MODE_NONE): nobody else is on the link.
        for (setting, value) in [("addr_gen_mode", "1"), ("accept_ra", "0"), ("autoconf", "0")] {
            let path = format!("/proc/sys/net/ipv6/conf/{}/{setting}", self.name);
            match fs_err::write(path, value) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
                written => written?,
            }
        }
        Ok(true)
    }

    fn up(&self) -> Message {
        const UP: u32 = 1;
        let mut message = Message::new(RTM_NEWLINK, 0);
        // struct ifinfomsg: family, type, index, flags, and which flags are meant.
        message.put(&[0; 4]).put_u32(self.index).put_u32(UP).put_u32(UP);
        message
    }

    fn address(&self, address: IpAddr) -> Message {
        const IFA_ADDRESS: u16 = 1;
        const IFA_LOCAL: u16 = 2;
        // It cannot be somebody else's, and would be of no use while the kernel looks.
        const IFA_F_NODAD: u8 = 2;
        let (family, octets) = parts(address);
        let length = if address.is_ipv4() { PREFIX_LENGTH_V4 } else { PREFIX_LENGTH_V6 };
        let mut message = Message::new(RTM_NEWADDR, CREATE);
        // struct ifaddrmsg: family, prefix length, flags, scope, index.
        message.put(&[family, length, IFA_F_NODAD, 0]).put_u32(self.index);
        message.attribute(IFA_LOCAL, &octets).attribute(IFA_ADDRESS, &octets);
        message
    }

    /// That it need not be asked for: the first connection of a VM is the sooner there.
    fn neighbour(&self, address: IpAddr) -> Message {
        const NDA_DST: u16 = 1;
        const NDA_LLADDR: u16 = 2;
        const NUD_PERMANENT: u16 = 0x80;
        let (family, octets) = parts(address);
        let mut message = Message::new(RTM_NEWNEIGH, CREATE);
        // struct ndmsg: family, index, state, flags, type.
        message.put(&[family, 0, 0, 0]).put_u32(self.index);
        message.put(&NUD_PERMANENT.to_ne_bytes()).put(&[0, 0]);
        message.attribute(NDA_DST, &octets).attribute(NDA_LLADDR, &GATEWAY_MAC);
        message
    }

    fn default_route(&self, gateway: IpAddr) -> Message {
        const RTA_OIF: u16 = 4;
        const RTA_GATEWAY: u16 = 5;
        const RT_TABLE_MAIN: u8 = 254;
        const RTPROT_BOOT: u8 = 3;
        const RTN_UNICAST: u8 = 1;
        let (family, octets) = parts(gateway);
        let mut message = Message::new(RTM_NEWROUTE, CREATE);
        // struct rtmsg: family, three lengths that are zero for everywhere, table, protocol, scope, type, flags.
        message.put(&[family, 0, 0, 0, RT_TABLE_MAIN, RTPROT_BOOT, 0, RTN_UNICAST]).put_u32(0);
        message.attribute(RTA_GATEWAY, &octets).attribute(RTA_OIF, &self.index.to_ne_bytes());
        message
    }
}

// linux/rtnetlink.h
const RTM_NEWLINK: u16 = 16;
const RTM_NEWADDR: u16 = 20;
const RTM_NEWROUTE: u16 = 24;
const RTM_NEWNEIGH: u16 = 28;

// linux/netlink.h
const REQUEST: u16 = 0x1;
const ACKNOWLEDGE: u16 = 0x4;
const REPLACE: u16 = 0x100;
const CREATE: u16 = 0x400 | REPLACE;
const NLMSG_ERROR: u16 = 2;

/// struct nlmsghdr: length, type, flags, sequence number, port.
const HEADER_BYTES: usize = 16;

/// A request to the kernel's network configuration, see netlink(7) and rtnetlink(7).
struct Message(Vec<u8>);

impl Message {
    fn new(kind: u16, flags: u16) -> Self {
        let mut message = Self(Vec::new());
        // The length is known when the message is sent.
        message.put_u32(0);
        message.put(&kind.to_ne_bytes()).put(&(flags | REQUEST | ACKNOWLEDGE).to_ne_bytes());
        message.put_u32(0).put_u32(0);
        message
    }

    fn put(&mut self, bytes: &[u8]) -> &mut Self {
        self.0.extend_from_slice(bytes);
        self
    }

    fn put_u32(&mut self, value: u32) -> &mut Self {
        self.put(&value.to_ne_bytes())
    }

    fn attribute(&mut self, kind: u16, value: &[u8]) -> &mut Self {
        let length = u16::try_from(4 + value.len()).expect("addresses and indices are short");
        self.put(&length.to_ne_bytes()).put(&kind.to_ne_bytes()).put(value);
        // NLMSG_ALIGNTO
        self.0.resize(self.0.len().next_multiple_of(4), 0);
        self
    }

    fn with_length(&self) -> Vec<u8> {
        let mut bytes = self.0.clone();
        let length = u32::try_from(bytes.len()).expect("addresses and indices are short");
        bytes[..4].copy_from_slice(&length.to_ne_bytes());
        bytes
    }
}

/// A line to the kernel's network configuration.
struct Kernel(OwnedFd);

impl Kernel {
    fn connect() -> io::Result<Self> {
        // No protocol is the one with the number zero: NETLINK_ROUTE.
        let protocol = None;
        let (kind, flags) = (SocketType::RAW, SocketFlags::CLOEXEC);
        Ok(Self(socket_with(AddressFamily::NETLINK, kind, flags, protocol)?))
    }

    /// Asks for something, and waits until it is done.
    fn ask(&mut self, message: &Message) -> io::Result<()> {
        send(&self.0, &message.with_length(), SendFlags::empty())?;
        let mut answer = [0; 1024];
        let (_, length) = recv(&self.0, &mut answer[..], RecvFlags::empty())?;
        match error_number(&answer[..length]) {
            Some(0) => Ok(()),
            Some(number) => Err(Errno::from_raw_os_error(-number).into()),
            None => Err(io::ErrorKind::InvalidData.into()),
        }
    }
}

/// Of an acknowledgement; negative unless all is well.
fn error_number(answer: &[u8]) -> Option<i32> {
    let (header, body) = answer.split_at_checked(HEADER_BYTES)?;
    let number = i32::from_ne_bytes(*body.first_chunk()?);
    (header[4..6] == NLMSG_ERROR.to_ne_bytes()).then_some(number)
}

/// The number of its family, see socket(2), and its octets.
fn parts(address: IpAddr) -> (u8, Vec<u8>) {
    const AF_INET: u8 = 2;
    const AF_INET6: u8 = 10;
    match address {
        IpAddr::V4(address) => (AF_INET, address.octets().to_vec()),
        IpAddr::V6(address) => (AF_INET6, address.octets().to_vec()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_as_long_as_it_says_and_its_attributes_are_aligned() {
        let interface = Interface { name: "eth0".to_owned(), index: 2 };
        let bytes = interface.neighbour(IpAddr::V4(GATEWAY_V4)).with_length();
        // Header 16, ndmsg 12, an address of 4 and a MAC of 6 bytes with 4 each before, and 2 to align.
        assert_eq!((bytes[0], bytes.len()), (48, 48));
        assert_eq!(bytes[4..6], RTM_NEWNEIGH.to_ne_bytes());
        assert_eq!(bytes[32..36], GATEWAY_V4.octets());
        assert_eq!(bytes[36..38], 10_u16.to_ne_bytes());
    }

    #[test]
    fn what_the_kernel_refuses_is_an_error() {
        let mut kernel = Kernel::connect().unwrap();
        // No interface has this index.
        let interface = Interface { name: "none".to_owned(), index: 0x7fff_ffff };
        kernel.ask(&interface.up()).unwrap_err();
    }

    #[test]
    fn only_an_acknowledgement_is_an_answer() {
        let mut answer = [0; 20];
        assert_eq!(error_number(&answer), None);
        answer[4] = 2;
        assert_eq!(error_number(&answer), Some(0));
        answer[16..].copy_from_slice(&(-17_i32).to_ne_bytes());
        assert_eq!(error_number(&answer), Some(-17));
        assert_eq!(error_number(&answer[..18]), None);
    }
}
