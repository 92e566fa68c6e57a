//! The guest's frames, taken apart as far as it decides where they go. Pure, and hostile bytes are its daily bread.

use std::net::{IpAddr, SocketAddr};

use pyro_protocol::layout::network::{GATEWAY_MAC, GUEST_V4, GUEST_V6};
use smoltcp::wire::{
    EthernetAddress, EthernetFrame, EthernetProtocol, IpProtocol, Ipv4Packet, Ipv6Packet,
    TcpPacket, UdpPacket,
};

/// What a frame holds that somebody here answers. Everything else is dropped.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Incoming<'a> {
    Arp(&'a [u8]),
    Packet(Packet<'a>),
}

/// An IP packet, not a fragment, whole, and without the padding that a frame may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Packet<'a> {
    pub(crate) whole: &'a [u8],
    pub(crate) source: IpAddr,
    pub(crate) destination: IpAddr,
    pub(crate) protocol: IpProtocol,
    pub(crate) hop_limit: u8,
    /// What is behind the IP header.
    pub(crate) payload: &'a [u8],
}

/// The ends of a connection, or of an exchange of datagrams, as the guest sees them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Ends {
    pub(crate) guest: SocketAddr,
    pub(crate) outside: SocketAddr,
}

/// What matters of a segment before it has a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Segment {
    pub(crate) ends: Ends,
    /// It opens a connection.
    pub(crate) opens: bool,
    pub(crate) resets: bool,
}

/// A datagram.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Datagram<'a> {
    pub(crate) ends: Ends,
    pub(crate) payload: &'a [u8],
}

impl<'a> Incoming<'a> {
    pub(crate) fn of(frame: &'a [u8]) -> Option<Self> {
        let frame = EthernetFrame::new_checked(frame).ok()?;
        let to = frame.dst_addr();
        if to != EthernetAddress(GATEWAY_MAC) && !to.is_multicast() {
            return None;
        }
        match frame.ethertype() {
            EthernetProtocol::Arp => Some(Self::Arp(frame.payload())),
            EthernetProtocol::Ipv4 => v4(frame.payload()).map(Self::Packet),
            EthernetProtocol::Ipv6 => v6(frame.payload()).map(Self::Packet),
            EthernetProtocol::Unknown(_) => None,
        }
    }
}

fn v4(bytes: &[u8]) -> Option<Packet<'_>> {
    let packet = Ipv4Packet::new_checked(bytes).ok()?;
    // With this MTU no guest of ours makes fragments.
    let is_fragment = packet.more_frags() || packet.frag_offset() != 0;
    if packet.version() != 4 || is_fragment || packet.src_addr() != GUEST_V4 {
        return None;
    }
    Some(Packet {
        whole: &bytes[..usize::from(packet.total_len())],
        source: packet.src_addr().into(),
        destination: packet.dst_addr().into(),
        protocol: packet.next_header(),
        hop_limit: packet.hop_limit(),
        payload: packet.payload(),
    })
}

/// Extension headers are a protocol like any other that is not supported: no kernel adds them by itself, but for
/// group membership, which needs no answer.
fn v6(bytes: &[u8]) -> Option<Packet<'_>> {
    let packet = Ipv6Packet::new_checked(bytes).ok()?;
    if packet.version() != 6 {
        return None;
    }
    let source = packet.src_addr();
    // Neighbours are asked for in the name of other addresses than the guest's, too.
    let may_be_another = packet.next_header() == IpProtocol::Icmpv6;
    if source != GUEST_V6 && !may_be_another {
        return None;
    }
    Some(Packet {
        whole: &bytes[..packet.total_len()],
        source: source.into(),
        destination: packet.dst_addr().into(),
        protocol: packet.next_header(),
        hop_limit: packet.hop_limit(),
        payload: packet.payload(),
    })
}

impl<'a> Packet<'a> {
    pub(crate) fn segment(&self) -> Option<Segment> {
        let segment = TcpPacket::new_checked(self.payload).ok()?;
        let ends = self.ends(segment.src_port(), segment.dst_port())?;
        let opens = segment.syn() && !segment.ack() && !segment.rst() && !segment.fin();
        Some(Segment { ends, opens, resets: segment.rst() })
    }

    pub(crate) fn datagram(&self) -> Option<Datagram<'a>> {
        let datagram = UdpPacket::new_checked(self.payload).ok()?;
        let ends = self.ends(datagram.src_port(), datagram.dst_port())?;
        Some(Datagram { ends, payload: datagram.payload() })
    }

    /// Of what can be answered: from a port, to a port.
    fn ends(&self, from: u16, to: u16) -> Option<Ends> {
        (from != 0 && to != 0).then_some(Ends {
            guest: SocketAddr::new(self.source, from),
            outside: SocketAddr::new(self.destination, to),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(ether_type: u16, packet: &[u8]) -> Vec<u8> {
        [&GATEWAY_MAC[..], &[2; 6], &ether_type.to_be_bytes(), packet].concat()
    }

    /// A datagram of five bytes to 192.0.2.1:9.
    fn packet() -> Vec<u8> {
        let mut packet = vec![
            0x45, 0, 0, 33, 0, 0, 0, 0, 64, 17, 0, 0, 10, 255, 255, 254, 192, 0, 2, 1, 0, 7, 0, 9,
            0, 13, 0, 0,
        ];
        packet.extend(b"hello");
        packet
    }

    #[test]
    fn a_datagram_is_found_in_its_frame_whatever_the_padding() {
        let padded = [packet(), vec![0; 20]].concat();
        let padded = frame(0x0800, &padded);
        let Some(Incoming::Packet(found)) = Incoming::of(&padded) else { panic!("no packet") };
        assert_eq!(found.whole, packet());
        let datagram = found.datagram().unwrap();
        assert_eq!(datagram.payload, b"hello");
        assert_eq!(datagram.ends.outside, "192.0.2.1:9".parse().unwrap());
        assert_eq!(datagram.ends.guest, "10.255.255.254:7".parse().unwrap());
    }

    #[test]
    fn what_is_no_whole_packet_of_the_guest_is_dropped() {
        let mut fragment = packet();
        fragment[6] = 0x20;
        let mut of_somebody_else = packet();
        of_somebody_else[12] = 11;
        let cut = &packet()[..32];
        for packet in [&fragment[..], &of_somebody_else, cut, &[]] {
            assert_eq!(Incoming::of(&frame(0x0800, packet)), None);
        }
        let mut for_somebody_else = frame(0x0800, &packet());
        for_somebody_else[5] = 9;
        assert_eq!(Incoming::of(&for_somebody_else), None);
    }
}
