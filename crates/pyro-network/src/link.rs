//! Who has which address on the link: the gateway's are asked for, and answered. Nobody else is there.

use pyro_protocol::layout::network::{GATEWAY_MAC, GATEWAY_V4, GATEWAY_V6};
use smoltcp::wire::{
    ArpOperation, ArpPacket, ArpRepr, EthernetAddress, Icmpv6Packet, Icmpv6Repr, IpProtocol,
    Ipv6Address, NdiscNeighborFlags, NdiscRepr,
};

use crate::icmp;
use crate::line::{EtherType, Output};
use crate::packet::Packet;
use crate::stack::checksums;

/// A neighbour's packets have crossed no router (RFC 4861, 7.1).
const NEIGHBOUR_HOP_LIMIT: u8 = 255;

/// Answers a request for the gateway's IPv4 address.
pub(crate) fn answer_arp(request: &[u8], output: &mut Output) {
    let Ok(request) = ArpPacket::new_checked(request) else { return };
    let Ok(ArpRepr::EthernetIpv4 {
        operation: ArpOperation::Request,
        source_hardware_addr,
        source_protocol_addr,
        target_protocol_addr: GATEWAY_V4,
        ..
    }) = ArpRepr::parse(&request)
    else {
        return;
    };
    let reply = ArpRepr::EthernetIpv4 {
        operation: ArpOperation::Reply,
        source_hardware_addr: EthernetAddress(GATEWAY_MAC),
        source_protocol_addr: GATEWAY_V4,
        target_hardware_addr: source_hardware_addr,
        target_protocol_addr: source_protocol_addr,
    };
    output.push(EtherType::Arp, reply.buffer_len(), |bytes| {
        reply.emit(&mut ArpPacket::new_unchecked(bytes));
    });
}

/// Answers a solicitation for the gateway's IPv6 address, if `packet` is one.
pub(crate) fn answer_solicitation(packet: &Packet<'_>, output: &mut Output) {
    let Some(guest) = solicitor(packet) else { return };
    // RFC 4861, 7.2.4: who has no address yet is answered by telling all nodes.
    let (to, flags) = if guest.is_unspecified() {
        let all_nodes = Ipv6Address::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
        (all_nodes, NdiscNeighborFlags::OVERRIDE)
    } else {
        (guest, NdiscNeighborFlags::SOLICITED | NdiscNeighborFlags::OVERRIDE)
    };
    let advert = Icmpv6Repr::Ndisc(NdiscRepr::NeighborAdvert {
        flags: flags | NdiscNeighborFlags::ROUTER,
        target_addr: GATEWAY_V6,
        lladdr: Some(EthernetAddress(GATEWAY_MAC).into()),
    });
    icmp::push_v6(GATEWAY_V6, to, NEIGHBOUR_HOP_LIMIT, advert, output);
}

/// Who asks for the gateway.
fn solicitor(packet: &Packet<'_>) -> Option<Ipv6Address> {
    let (std::net::IpAddr::V6(source), std::net::IpAddr::V6(destination)) =
        (packet.source, packet.destination)
    else {
        return None;
    };
    if packet.protocol != IpProtocol::Icmpv6
        || packet.hop_limit != NEIGHBOUR_HOP_LIMIT
        || source.is_multicast()
    {
        return None;
    }
    let message = Icmpv6Packet::new_checked(packet.payload).ok()?;
    let parsed = Icmpv6Repr::parse(&source, &destination, &message, &checksums()).ok()?;
    let Icmpv6Repr::Ndisc(NdiscRepr::NeighborSolicit { target_addr: GATEWAY_V6, .. }) = parsed
    else {
        return None;
    };
    Some(source)
}
