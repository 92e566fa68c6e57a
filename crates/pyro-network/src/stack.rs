//! The TCP of the guest's side: smoltcp, with packets of ours.
//!
//! Every connection has a socket set of its own. So a packet that belongs to one costs the same however many
//! there are, where smoltcp asks each socket of a set.

use std::time::{Duration, Instant};

use pyro_protocol::layout::network::{
    GATEWAY_V4, GATEWAY_V6, MTU, PREFIX_LENGTH_V4, PREFIX_LENGTH_V6,
};
use smoltcp::iface::{Config, Interface, PollResult, SocketSet};
use smoltcp::phy::{Checksum, ChecksumCapabilities, Device, DeviceCapabilities, Medium};
use smoltcp::phy::{RxToken, TxToken};
use smoltcp::time::Instant as StackInstant;
use smoltcp::wire::{HardwareAddress, IpCidr};

use crate::line::{EtherType, Output};

/// smoltcp's interface, which keeps nothing of single connections.
pub(crate) struct Stack {
    interface: Interface,
    start: Instant,
}

impl std::fmt::Debug for Stack {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Stack").field("start", &self.start).finish_non_exhaustive()
    }
}

/// How far a connection's output got.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Egress {
    /// All is on its way that can be.
    Done { sent: bool },
    /// QEMU takes no more for now.
    NoRoom,
}

impl Stack {
    /// The seed decides over sequence numbers.
    pub(crate) fn new(seed: u64) -> Self {
        let mut config = Config::new(HardwareAddress::Ip);
        config.random_seed = seed;
        let mut output = Output::default();
        let mut device = Packets { input: None, output: &mut output };
        let start = Instant::now();
        let mut interface = Interface::new(config, &mut device, StackInstant::ZERO);
        interface.update_ip_addrs(|addresses| {
            for address in [
                IpCidr::new(GATEWAY_V4.into(), PREFIX_LENGTH_V4),
                IpCidr::new(GATEWAY_V6.into(), PREFIX_LENGTH_V6),
            ] {
                addresses.push(address).expect("smoltcp has room for two");
            }
        });
        // The guest is answered in the name of whomever it wants to reach.
        interface.set_any_ip(true);
        Self { interface, start }
    }

    /// For smoltcp's calls that want it.
    pub(crate) fn interface(&mut self) -> &mut Interface {
        &mut self.interface
    }

    /// Takes a packet of the guest to the connection that it belongs to. Without one it is answered by a reset.
    pub(crate) fn receive(
        &mut self,
        packet: &[u8],
        sockets: &mut SocketSet<'static>,
        output: &mut Output,
    ) {
        let now = self.now();
        let mut device = Packets { input: Some(packet), output };
        self.interface.poll_ingress_single(now, &mut device, sockets);
    }

    /// Puts on the line what a connection has to say, as far as there is room.
    pub(crate) fn send(&mut self, sockets: &mut SocketSet<'static>, output: &mut Output) -> Egress {
        let now = self.now();
        let mut device = Packets { input: None, output };
        let mut sent = false;
        while self.interface.poll_egress(now, &mut device, sockets)
            == PollResult::SocketStateChanged
        {
            sent = true;
        }
        if device.output.has_room() { Egress::Done { sent } } else { Egress::NoRoom }
    }

    /// When a connection has something to say again, though nothing happens.
    pub(crate) fn next(&mut self, sockets: &SocketSet<'static>) -> Option<Instant> {
        let now = self.now();
        let at = self.interface.poll_at(now, sockets)?;
        let micros = u64::try_from(at.total_micros()).unwrap_or(0);
        Some(self.start + Duration::from_micros(micros))
    }

    fn now(&self) -> StackInstant {
        let micros = self.start.elapsed().as_micros();
        StackInstant::from_micros(i64::try_from(micros).expect("not in this century"))
    }
}

/// One packet in, any number out.
struct Packets<'a> {
    input: Option<&'a [u8]>,
    output: &'a mut Output,
}

struct Received<'a>(&'a [u8]);

struct Sent<'a>(&'a mut Output);

impl Device for Packets<'_> {
    type RxToken<'a>
        = Received<'a>
    where
        Self: 'a;
    type TxToken<'a>
        = Sent<'a>
    where
        Self: 'a;

    fn receive(&mut self, _: StackInstant) -> Option<(Received<'_>, Sent<'_>)> {
        let packet = self.input.take()?;
        Some((Received(packet), Sent(self.output)))
    }

    fn transmit(&mut self, _: StackInstant) -> Option<Sent<'_>> {
        self.output.has_room().then_some(Sent(self.output))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ip;
        capabilities.max_transmission_unit = usize::from(MTU);
        capabilities.checksum = checksums();
        capabilities
    }
}

/// They are made, because the guest's kernel looks at them, and not looked at: between a guest and us there is
/// memory and a socket, and a guest that wants to garble its own data may as well send other data.
pub(crate) fn checksums() -> ChecksumCapabilities {
    let mut checksums = ChecksumCapabilities::ignored();
    checksums.ipv4 = Checksum::Tx;
    checksums.tcp = Checksum::Tx;
    checksums.udp = Checksum::Tx;
    checksums.icmpv4 = Checksum::Tx;
    checksums.icmpv6 = Checksum::Tx;
    checksums
}

impl RxToken for Received<'_> {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, take: F) -> R {
        take(self.0)
    }
}

impl TxToken for Sent<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, length: usize, fill: F) -> R {
        self.0.push_ip(length, fill)
    }
}

impl Output {
    /// Adds a packet that says itself which IP it is.
    fn push_ip<R>(&mut self, length: usize, fill: impl FnOnce(&mut [u8]) -> R) -> R {
        self.push_typed(length, |packet| {
            let result = fill(packet);
            let is_v6 = packet.first().is_some_and(|first| first >> 4 == 6);
            (if is_v6 { EtherType::Ipv6 } else { EtherType::Ipv4 }, result)
        })
    }
}
