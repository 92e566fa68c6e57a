//! ICMP: the gateway answers echo requests, and tells the guest what cannot be reached.

use std::net::IpAddr;

use pyro_protocol::layout::network::{GATEWAY_V4, GATEWAY_V6};
use smoltcp::wire::{
    Icmpv4DstUnreachable, Icmpv4Packet, Icmpv4Repr, Icmpv6DstUnreachable, Icmpv6Message,
    Icmpv6Packet, Icmpv6Repr, IpProtocol, Ipv4Address, Ipv4Packet, Ipv4Repr, Ipv6Address,
    Ipv6Packet, Ipv6Repr,
};

use crate::line::{EtherType, Output};
use crate::packet::Packet;
use crate::stack::checksums;

const HOP_LIMIT: u8 = 64;

/// Of the packet that is complained of, after its IP header: the ports, and TCP's sequence number, without which
/// the guest's kernel does not believe it.
const QUOTED_BYTES_MAX: usize = 64;

/// Why a packet did not get where it should.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unreachable {
    /// It may not be reached.
    Prohibited,
    /// The host knows no way, or nobody answered.
    Host,
    /// Nobody listens there.
    Port,
}

/// What an ICMP message of the guest asks of us.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Request<'a> {
    Echo {
        ident: u16,
        sequence: u16,
        data: &'a [u8],
    },
    /// An error, a report or anything else that is not answered.
    Other,
}

impl<'a> Request<'a> {
    pub(crate) fn of(packet: &Packet<'a>) -> Option<Self> {
        match (packet.source, packet.destination) {
            (IpAddr::V4(_), _) if packet.protocol == IpProtocol::Icmp => {
                let message = Icmpv4Packet::new_checked(packet.payload).ok()?;
                match Icmpv4Repr::parse(&message, &checksums()) {
                    Ok(Icmpv4Repr::EchoRequest { ident, seq_no, data }) => {
                        Some(Self::Echo { ident, sequence: seq_no, data })
                    }
                    Ok(_) | Err(_) => Some(Self::Other),
                }
            }
            (IpAddr::V6(_), _) if packet.protocol == IpProtocol::Icmpv6 => {
                let message = Icmpv6Packet::new_checked(packet.payload).ok()?;
                if message.msg_type() != Icmpv6Message::EchoRequest {
                    return Some(Self::Other);
                }
                let (ident, sequence) = (message.echo_ident(), message.echo_seq_no());
                Some(Self::Echo { ident, sequence, data: message.payload() })
            }
            _ => None,
        }
    }
}

/// The gateway's answer to an echo request.
pub(crate) fn answer_echo(to: IpAddr, request: (u16, u16, &[u8]), output: &mut Output) {
    let (ident, seq_no, data) = request;
    match to {
        IpAddr::V4(to) => {
            push_v4(GATEWAY_V4, to, Icmpv4Repr::EchoReply { ident, seq_no, data }, output);
        }
        IpAddr::V6(to) => {
            let reply = Icmpv6Repr::EchoReply { ident, seq_no, data };
            push_v6(GATEWAY_V6, to, HOP_LIMIT, reply, output);
        }
    }
}

/// Tells the guest that its packet, `whole`, did not get there. In the gateway's name: a router's errors come from
/// the router.
pub(crate) fn complain(whole: &[u8], why: Unreachable, output: &mut Output) {
    match whole.first().map(|first| first >> 4) {
        Some(4) => complain_v4(whole, why, output),
        Some(6) => complain_v6(whole, why, output),
        _ => {}
    }
}

fn complain_v4(whole: &[u8], why: Unreachable, output: &mut Output) {
    let Ok(packet) = Ipv4Packet::new_checked(whole) else { return };
    let Ok(header) = Ipv4Repr::parse(&packet, &checksums()) else { return };
    if header.dst_addr.is_multicast() || header.dst_addr.is_broadcast() {
        return;
    }
    let reason = match why {
        Unreachable::Prohibited => Icmpv4DstUnreachable::CommProhibited,
        Unreachable::Host => Icmpv4DstUnreachable::HostUnreachable,
        Unreachable::Port => Icmpv4DstUnreachable::PortUnreachable,
    };
    let data = quoted(packet.payload());
    let message = Icmpv4Repr::DstUnreachable { reason, header, data };
    push_v4(GATEWAY_V4, header.src_addr, message, output);
}

fn complain_v6(whole: &[u8], why: Unreachable, output: &mut Output) {
    let Ok(packet) = Ipv6Packet::new_checked(whole) else { return };
    let Ok(header) = Ipv6Repr::parse(&packet) else { return };
    if header.dst_addr.is_multicast() {
        return;
    }
    let reason = match why {
        Unreachable::Prohibited => Icmpv6DstUnreachable::AdminProhibit,
        Unreachable::Host => Icmpv6DstUnreachable::NoRoute,
        Unreachable::Port => Icmpv6DstUnreachable::PortUnreachable,
    };
    let data = quoted(packet.payload());
    let message = Icmpv6Repr::DstUnreachable { reason, header, data };
    push_v6(GATEWAY_V6, header.src_addr, HOP_LIMIT, message, output);
}

fn quoted(payload: &[u8]) -> &[u8] {
    &payload[..payload.len().min(QUOTED_BYTES_MAX)]
}

fn push_v4(from: Ipv4Address, to: Ipv4Address, message: Icmpv4Repr<'_>, output: &mut Output) {
    let header = Ipv4Repr {
        src_addr: from,
        dst_addr: to,
        next_header: IpProtocol::Icmp,
        payload_len: message.buffer_len(),
        hop_limit: HOP_LIMIT,
    };
    let length = header.buffer_len() + message.buffer_len();
    output.push(EtherType::Ipv4, length, |bytes| {
        bytes.fill(0);
        let mut packet = Ipv4Packet::new_unchecked(&mut bytes[..]);
        header.emit(&mut packet, &checksums());
        let mut icmp = Icmpv4Packet::new_unchecked(packet.payload_mut());
        message.emit(&mut icmp, &checksums());
    });
}

pub(crate) fn push_v6(
    from: Ipv6Address,
    to: Ipv6Address,
    hop_limit: u8,
    message: Icmpv6Repr<'_>,
    output: &mut Output,
) {
    let header = Ipv6Repr {
        src_addr: from,
        dst_addr: to,
        next_header: IpProtocol::Icmpv6,
        payload_len: message.buffer_len(),
        hop_limit,
    };
    let length = header.buffer_len() + message.buffer_len();
    output.push(EtherType::Ipv6, length, |bytes| {
        bytes.fill(0);
        let mut packet = Ipv6Packet::new_unchecked(&mut bytes[..]);
        header.emit(&mut packet);
        let mut icmp = Icmpv6Packet::new_unchecked(packet.payload_mut());
        message.emit(&from, &to, &mut icmp, &checksums());
    });
}
