//! A guest without a VM: smoltcp at the other end of the line, and frames made by hand.

use std::collections::VecDeque;
use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use pyro_network::{PreparedNetwork, RefusalWatch, RunningNetwork};
use pyro_protocol::layout::network::{
    GATEWAY_MAC, GATEWAY_V4, GATEWAY_V6, GUEST_MAC, GUEST_V4, GUEST_V6, MTU, PREFIX_LENGTH_V4,
    PREFIX_LENGTH_V6,
};
use pyro_protocol::network::{AuthoredPolicy, EgressPolicy, EgressRule, NetworkSpec, PolicyAuthor};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use smoltcp::iface::{Config, Interface, SocketHandle, SocketSet};
use smoltcp::phy::{Device, DeviceCapabilities, Medium, RxToken, TxToken};
use smoltcp::socket::tcp::{Socket, SocketBuffer, State};
use smoltcp::time::Instant as StackInstant;
use smoltcp::wire::{EthernetAddress, IpCidr};

/// For anything that happens on one machine.
const DEADLINE: Duration = Duration::from_mins(1);

/// A network that allows what these rules say.
pub(crate) fn spec(allow: &[&str]) -> NetworkSpec {
    let rule = |rule: &&str| match rule.parse() {
        Ok(network) => EgressRule::Network(network),
        Err(_) => EgressRule::Host(rule.parse().unwrap()),
    };
    let policy = EgressPolicy { allow: allow.iter().map(rule).collect(), deny: Vec::new() };
    NetworkSpec {
        policies: vec![AuthoredPolicy { author: PolicyAuthor::Caller, policy }],
        published: Vec::new(),
        resolvers: Vec::new(),
    }
}

pub(crate) struct Guest {
    link: Link,
    interface: Interface,
    sockets: SocketSet<'static>,
    start: Instant,
    next_port: u16,
    /// What came that smoltcp has no use for, such as datagrams.
    pub(crate) packets: VecDeque<Vec<u8>>,
    pub(crate) watch: RefusalWatch,
    /// Until it is ended.
    network: Option<RunningNetwork>,
}

impl Guest {
    pub(crate) fn new(spec: NetworkSpec) -> Self {
        let (ours, theirs) = UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        let network = PreparedNetwork::new(spec).unwrap().start(theirs).unwrap();
        let watch = network.refusals().watch();
        let mut link = Link::new(ours);
        let config = Config::new(EthernetAddress(GUEST_MAC).into());
        let mut interface = Interface::new(config, &mut link, StackInstant::ZERO);
        interface.update_ip_addrs(|addresses| {
            addresses.push(IpCidr::new(GUEST_V4.into(), PREFIX_LENGTH_V4)).unwrap();
            addresses.push(IpCidr::new(GUEST_V6.into(), PREFIX_LENGTH_V6)).unwrap();
        });
        interface.routes_mut().add_default_ipv4_route(GATEWAY_V4).unwrap();
        interface.routes_mut().add_default_ipv6_route(GATEWAY_V6).unwrap();
        Self {
            link,
            interface,
            sockets: SocketSet::new(Vec::new()),
            start: Instant::now(),
            next_port: 1024,
            packets: VecDeque::new(),
            watch,
            network: Some(network),
        }
    }

    /// Begins to connect.
    pub(crate) fn connect(&mut self, to: impl Into<SocketAddr>) -> SocketHandle {
        self.connect_with_buffers(to, 256 * 1024)
    }

    pub(crate) fn connect_with_buffers(
        &mut self,
        to: impl Into<SocketAddr>,
        bytes: usize,
    ) -> SocketHandle {
        self.next_port += 1;
        let handle = self.add_socket(bytes);
        let socket = self.sockets.get_mut::<Socket>(handle);
        socket.connect(self.interface.context(), to.into(), self.next_port).unwrap();
        handle
    }

    pub(crate) fn listen(&mut self, port: u16) -> SocketHandle {
        let handle = self.add_socket(256 * 1024);
        self.socket(handle).listen(port).unwrap();
        handle
    }

    fn add_socket(&mut self, bytes: usize) -> SocketHandle {
        let buffer = || SocketBuffer::new(vec![0; bytes]);
        self.sockets.add(Socket::new(buffer(), buffer()))
    }

    pub(crate) fn socket(&mut self, handle: SocketHandle) -> &mut Socket<'static> {
        self.sockets.get_mut(handle)
    }

    pub(crate) fn connected(&mut self, to: impl Into<SocketAddr>) -> SocketHandle {
        let handle = self.connect(to);
        self.until("connected", |guest| {
            (guest.socket(handle).state() == State::Established).then_some(())
        });
        handle
    }

    /// Closed, or in the time that it waits for what can still come.
    pub(crate) fn until_closed(&mut self, handle: SocketHandle) {
        self.until("closed", |guest| {
            let state = guest.socket(handle).state();
            matches!(state, State::Closed | State::TimeWait).then_some(())
        });
    }

    /// Sends all of it.
    pub(crate) fn send(&mut self, handle: SocketHandle, mut bytes: &[u8]) {
        self.until("sent", |guest| {
            let sent = guest.socket(handle).send_slice(bytes).unwrap();
            bytes = &bytes[sent..];
            bytes.is_empty().then_some(())
        });
    }

    /// Receives until the other side has ended.
    pub(crate) fn receive_to_end(&mut self, handle: SocketHandle) -> Vec<u8> {
        let mut received = Vec::new();
        self.until("received", |guest| {
            let socket = guest.socket(handle);
            while socket.can_recv() {
                socket.recv(|bytes| (bytes.len(), received.extend_from_slice(bytes))).unwrap();
            }
            (!socket.may_recv()).then_some(())
        });
        received
    }

    pub(crate) fn receive_exactly(&mut self, handle: SocketHandle, length: usize) -> Vec<u8> {
        let mut received = vec![0; length];
        let mut filled = 0;
        self.until("received", |guest| {
            filled += guest.socket(handle).recv_slice(&mut received[filled..]).unwrap();
            (filled == length).then_some(())
        });
        received
    }

    /// Sends a frame with this packet to the gateway.
    pub(crate) fn send_packet(&mut self, ether_type: u16, packet: &[u8]) {
        let frame = [&GATEWAY_MAC[..], &GUEST_MAC, &ether_type.to_be_bytes(), packet].concat();
        self.link.queue(&frame);
    }

    /// Bytes as they are.
    pub(crate) fn send_raw(&mut self, bytes: &[u8]) {
        self.link.unsent.extend(bytes);
    }

    pub(crate) fn send_datagram(&mut self, from: u16, to: SocketAddr, payload: &[u8]) {
        let (ether_type, packet) = datagram(from, to, payload);
        self.send_packet(ether_type, &packet);
    }

    pub(crate) fn send_arp(&mut self, request: &[u8]) {
        self.send_packet(0x0806, request);
    }

    /// The next ARP packet, if there is one.
    pub(crate) fn receive_arp(&mut self) -> Option<Vec<u8>> {
        self.link.arp.pop_front()
    }

    /// The next packet that is no TCP.
    pub(crate) fn receive_packet(&mut self) -> Vec<u8> {
        self.until("a packet", |guest| guest.packets.pop_front())
    }

    /// The payload of the next datagram, and its ports.
    pub(crate) fn receive_datagram(&mut self) -> (IpAddr, u16, u16, Vec<u8>) {
        let packet = self.receive_packet();
        let (protocol, source, header) = taken_apart(&packet);
        assert_eq!(protocol, 17, "no datagram: {packet:x?}");
        let port = |at: usize| u16::from_be_bytes([packet[header + at], packet[header + at + 1]]);
        (source, port(0), port(2), packet[header + 8..].to_vec())
    }

    /// Type and code of the next ICMP message.
    pub(crate) fn receive_icmp(&mut self) -> (u8, u8) {
        let packet = self.receive_packet();
        let (protocol, _, header) = taken_apart(&packet);
        assert!(protocol == 1 || protocol == 58, "no ICMP: {packet:x?}");
        (packet[header], packet[header + 1])
    }

    /// Carries frames until there is what is waited for.
    pub(crate) fn until<T>(
        &mut self,
        what: &str,
        mut check: impl FnMut(&mut Self) -> Option<T>,
    ) -> T {
        let end = Instant::now() + DEADLINE;
        loop {
            self.carry();
            if let Some(found) = check(self) {
                self.carry();
                return found;
            }
            assert!(Instant::now() < end, "not {what} in time");
            self.wait();
        }
    }

    pub(crate) fn published(&self) -> u16 {
        self.network.as_ref().unwrap().published()[0].host
    }

    pub(crate) fn end_network(&mut self) {
        drop(self.network.take());
    }

    pub(crate) fn is_cut_off(&self) -> bool {
        self.link.is_over
    }

    fn carry(&mut self) {
        self.link.read();
        let now = self.now();
        self.interface.poll(now, &mut self.link, &mut self.sockets);
        self.packets.append(&mut self.link.others);
        self.link.write();
    }

    /// Until there is something to do; not long, because what is waited for may happen at the other end.
    fn wait(&mut self) {
        let now = self.now();
        let next = self.interface.poll_delay(now, &self.sockets);
        let micros = next.map_or(5_000, |delay| delay.total_micros().min(5_000));
        let timeout = Timespec { tv_sec: 0, tv_nsec: i64::try_from(micros * 1_000).unwrap() };
        let mut flags = PollFlags::IN;
        if !self.link.unsent.is_empty() {
            flags |= PollFlags::OUT;
        }
        poll(&mut [PollFd::new(&self.link.stream, flags)], Some(&timeout)).unwrap();
    }

    fn now(&self) -> StackInstant {
        StackInstant::from_micros(i64::try_from(self.start.elapsed().as_micros()).unwrap())
    }
}

/// Protocol, source, and length of the header.
fn taken_apart(packet: &[u8]) -> (u8, IpAddr, usize) {
    if packet[0] >> 4 == 4 {
        let source: [u8; 4] = packet[12..16].try_into().unwrap();
        (packet[9], source.into(), 20)
    } else {
        let source: [u8; 16] = packet[8..24].try_into().unwrap();
        (packet[6], source.into(), 40)
    }
}

/// Without checksums, which are not looked at.
pub(crate) fn datagram(from: u16, to: SocketAddr, payload: &[u8]) -> (u16, Vec<u8>) {
    let length = u16::try_from(8 + payload.len()).unwrap();
    let ports = [from.to_be_bytes(), to.port().to_be_bytes()].concat();
    let udp = [&ports, &length.to_be_bytes()[..], &[0, 0], payload].concat();
    packet(to.ip(), 17, &udp)
}

pub(crate) fn packet(to: IpAddr, protocol: u8, payload: &[u8]) -> (u16, Vec<u8>) {
    let length = payload.len();
    match to {
        IpAddr::V4(to) => {
            let length = u16::try_from(20 + length).unwrap().to_be_bytes();
            let head = [0x45, 0, length[0], length[1], 0, 0, 0, 0, 64, protocol, 0, 0];
            (0x0800, [&head, &GUEST_V4.octets()[..], &to.octets(), payload].concat())
        }
        IpAddr::V6(to) => {
            let length = u16::try_from(length).unwrap().to_be_bytes();
            let head = [0x60, 0, 0, 0, length[0], length[1], protocol, 64];
            (0x86dd, [&head, &GUEST_V6.octets()[..], &to.octets(), payload].concat())
        }
    }
}

struct Link {
    stream: UnixStream,
    arrived: Vec<u8>,
    frames: VecDeque<Vec<u8>>,
    others: VecDeque<Vec<u8>>,
    arp: VecDeque<Vec<u8>>,
    unsent: VecDeque<u8>,
    is_over: bool,
}

impl Link {
    fn new(stream: UnixStream) -> Self {
        Self {
            stream,
            arrived: Vec::new(),
            frames: VecDeque::new(),
            others: VecDeque::new(),
            arp: VecDeque::new(),
            unsent: VecDeque::new(),
            is_over: false,
        }
    }

    fn read(&mut self) {
        let mut buffer = vec![0; 128 * 1024];
        while self.frames.len() < 16 {
            match self.stream.read(&mut buffer) {
                Ok(0) => self.is_over = true,
                Ok(read) => self.arrived.extend_from_slice(&buffer[..read]),
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(_) => self.is_over = true,
            }
            let before = self.arrived.len();
            while let Some((length, rest)) = self.arrived.split_first_chunk::<4>()
                && let Some(frame) = rest.get(..u32::from_be_bytes(*length) as usize)
            {
                self.frames.push_back(frame.to_vec());
                let length = 4 + frame.len();
                self.arrived.drain(..length);
            }
            if self.arrived.len() == before {
                return;
            }
        }
    }

    fn write(&mut self) {
        while !self.unsent.is_empty() {
            match self.stream.write(self.unsent.as_slices().0) {
                Ok(written) => drop(self.unsent.drain(..written)),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(_) => {
                    self.is_over = true;
                    return self.unsent.clear();
                }
            }
        }
    }

    fn queue(&mut self, frame: &[u8]) {
        self.unsent.extend(u32::try_from(frame.len()).unwrap().to_be_bytes());
        self.unsent.extend(frame);
    }
}

struct Received(Vec<u8>);

struct Sent<'a>(&'a mut Link);

impl Device for Link {
    type RxToken<'a> = Received;
    type TxToken<'a> = Sent<'a>;

    fn receive(&mut self, _: StackInstant) -> Option<(Received, Sent<'_>)> {
        loop {
            let frame = self.frames.pop_front()?;
            assert_eq!(frame[..6], GUEST_MAC, "a frame for somebody else");
            assert_eq!(frame[6..12], GATEWAY_MAC, "a frame from somebody else");
            let is_tcp = match frame[12..14] {
                [0x08, 0x00] => frame[14 + 9] == 6,
                [0x86, 0xdd] => frame[14 + 6] == 6,
                _ => true,
            };
            let is_neighbour = frame[12..14] == [0x86, 0xdd]
                && frame[14 + 6] == 58
                && (133..=137).contains(&frame[54]);
            if frame[12..14] == [0x08, 0x06] {
                self.arp.push_back(frame[14..].to_vec());
            }
            if is_tcp || is_neighbour {
                return Some((Received(frame), Sent(self)));
            }
            self.others.push_back(frame[14..].to_vec());
        }
    }

    fn transmit(&mut self, _: StackInstant) -> Option<Sent<'_>> {
        (self.unsent.len() < 512 * 1024).then_some(Sent(self))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ethernet;
        capabilities.max_transmission_unit = usize::from(MTU) + 14;
        capabilities
    }
}

impl RxToken for Received {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, take: F) -> R {
        take(&self.0)
    }
}

impl TxToken for Sent<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, length: usize, fill: F) -> R {
        let mut frame = vec![0; length];
        let result = fill(&mut frame);
        self.0.queue(&frame);
        result
    }
}
