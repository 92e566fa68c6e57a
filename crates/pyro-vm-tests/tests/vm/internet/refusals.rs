//! What a VM may not reach: refused at once, listed with what would allow it, and reached with that.

use std::collections::BTreeSet;

use pyro_vm_tests::internet::{
    METADATA, NAMELESS, OWN_PRIVATE, OWN_V4, OWN_V6, PRIVATE, SPECIAL, WWW_V4,
};
use pyro_vm_tests::{Host, Internet};
use serde_json::Value;

use super::{Seen, assert_reached, attempts, python};

/// The gateway stands for the host's loopback.
const GATEWAY: [&str; 2] = ["10.255.255.253", "fd70:7972:6f00::1"];

/// None of them was reached, and each is listed for this reason. Gives the options that would allow them.
#[track_caller]
fn assert_refused(
    internet: &Internet<'_>,
    options: &[&str],
    addresses: &[&str],
    reason: &str,
) -> Vec<String> {
    let (ends, seen) = attempts(internet, options, addresses);
    for (address, end) in addresses.iter().zip(&ends) {
        assert_eq!(end, "ECONNREFUSED", "{address}");
        let refusal = refusal_of(&seen, address);
        assert_eq!(refusal["reason"], reason, "{refusal:#}");
        assert_eq!(refusal["protocol"], "tcp", "{refusal:#}");
        assert!(!refusal["message"].as_str().unwrap().is_empty(), "{refusal:#}");
    }
    options_to_allow(&seen.refusals)
}

/// The entry of the server at this address that sends back what it gets.
#[track_caller]
fn refusal_of<'a>(seen: &'a Seen, address: &str) -> &'a Value {
    let destination =
        if address.contains(':') { format!("[{address}]:7") } else { format!("{address}:7") };
    let found = seen.refusals.iter().find(|refusal| refusal["destination"] == *destination);
    found.unwrap_or_else(|| panic!("no {destination} in {:#?}", seen.refusals))
}

/// What is to be added to the call, by what the refusals themselves say.
fn options_to_allow(refusals: &[Value]) -> Vec<String> {
    let mut options = BTreeSet::new();
    for refusal in refusals {
        let arguments = refusal["allow_with"].as_object().unwrap_or_else(|| panic!("{refusal:#}"));
        for (name, value) in arguments {
            match (name.as_str(), value) {
                ("allow_public", Value::Bool(true)) => {
                    options.insert("--allow-public".to_owned());
                }
                ("allow_hosts" | "allow_cidrs", Value::Array(list)) => {
                    let option =
                        if name == "allow_hosts" { "--allow-host" } else { "--allow-cidr" };
                    let texts = list.iter().map(|text| text.as_str().unwrap());
                    options.extend(texts.map(|text| format!("{option}={text}")));
                }
                _ => panic!("an option of no call: {refusal:#}"),
            }
        }
    }
    options.into_iter().collect()
}

/// They are refused for this reason, and reached with the options that the outcome names: with those, public
/// addresses as well, as before.
#[track_caller]
fn assert_refused_unless_asked_for(addresses: &[&str], reason: &str) {
    let host = Host::new();
    let internet = Internet::new(&host);
    let options = assert_refused(&internet, &[], addresses, reason);
    let options: Vec<_> = options.iter().map(String::as_str).collect();
    assert_reached(&internet, &options, &[addresses, &[WWW_V4]].concat());
}

#[test]
fn private_networks_are_refused_unless_asked_for() {
    assert_refused_unless_asked_for(&PRIVATE, "private_address");
}

#[test]
fn where_clouds_keep_their_metadata_is_refused_unless_asked_for() {
    assert_refused_unless_asked_for(&[METADATA], "link_local_address");
}

#[test]
fn reserved_networks_are_refused_unless_asked_for() {
    assert_refused_unless_asked_for(&SPECIAL, "special_address");
}

#[test]
fn addresses_of_the_host_are_refused_unless_asked_for() {
    let own = [OWN_V4, OWN_V6];
    assert_refused_unless_asked_for(&own, "host_address");
}

#[test]
fn a_private_address_of_the_host_is_refused_unless_asked_for() {
    let host = Host::new();
    let internet = Internet::new(&host);
    let (ends, seen) = attempts(&internet, &[], &[OWN_PRIVATE]);
    assert_eq!(ends, ["ECONNREFUSED"]);
    let reason = refusal_of(&seen, OWN_PRIVATE)["reason"].as_str().unwrap();
    assert!(["private_address", "host_address"].contains(&reason), "{reason}");
    assert_reached(&internet, &["--allow-cidr", "10.200.0.0/24"], &[OWN_PRIVATE]);
}

#[test]
fn the_hosts_loopback_is_refused_unless_asked_for() {
    let host = Host::new();
    let internet = Internet::new(&host);
    let (ends, seen) = attempts(&internet, &[], &GATEWAY);
    assert_eq!(ends, ["ECONNREFUSED"; 2], "{:#?}", seen.refusals);
    for refusal in &seen.refusals {
        assert_eq!(refusal["reason"], "host_address", "{refusal:#}");
    }
    let options = options_to_allow(&seen.refusals);
    let options: Vec<_> = options.iter().map(String::as_str).collect();
    let reached = [&GATEWAY[..], &["host.pyro.internal", WWW_V4]].concat();
    assert_reached(&internet, &options, &reached);
}

#[test]
fn a_rule_for_a_port_opens_no_other() {
    let host = Host::new();
    let internet = Internet::new(&host);
    let rules = ["--allow-cidr=127.0.0.1:9", "--allow-cidr=10.1.2.3:9", "--allow-public"];
    let (ends, seen) = attempts(&internet, &rules, &[GATEWAY[0], "10.1.2.3", WWW_V4]);
    assert_eq!(ends, ["ECONNREFUSED", "ECONNREFUSED", "reached"], "{:#?}", seen.refusals);
    assert_eq!(seen.refusals.len(), 2, "{:#?}", seen.refusals);
}

#[test]
fn what_is_denied_is_refused_whatever_is_allowed() {
    let host = Host::new();
    let internet = Internet::new(&host);
    let rules = ["--allow-cidr=10.0.0.0/8", "--deny-cidr=10.1.0.0/16", "--allow-public"];
    let rules = [&rules[..], &["--deny-cidr=193.0.14.80"]].concat();
    let all = ["10.1.2.3", WWW_V4, NAMELESS, OWN_PRIVATE];
    let (ends, seen) = attempts(&internet, &rules, &all);
    let refused = "ECONNREFUSED";
    assert_eq!(ends, [refused, refused, "reached", "reached"], "{:#?}", seen.refusals);
    for refusal in &seen.refusals {
        assert_eq!(refusal["reason"], "denied", "{refusal:#}");
    }
}

#[test]
fn a_list_of_networks_leaves_nothing_else_open() {
    let host = Host::new();
    let internet = Internet::new(&host);
    let rules = ["--allow-cidr=193.0.14.0/24:7"];
    let options = assert_refused(&internet, &rules, &[NAMELESS], "not_allowed");
    assert_eq!(options, [format!("--allow-cidr={NAMELESS}:7")]);
    assert_reached(&internet, &rules, &[WWW_V4]);
}

#[test]
fn datagrams_are_refused_like_connections() {
    let host = Host::new();
    let internet = Internet::new(&host);
    let program = r#"
def ask(address):
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as datagrams:
        datagrams.settimeout(20)
        datagrams.connect((address, 7))
        started = time.monotonic()
        try:
            datagrams.send(b"x")
            how = datagrams.recv(10).decode()
        except OSError as error:
            how = errno.errorcode.get(error.errno, repr(error))
        return how, time.monotonic() - started < 3

for address in "193.0.14.80", "2a00:1450::80", "10.1.2.3", "169.254.169.254", "fd00::7", "198.41.0.10":
    print(address, *ask(address))
multicast = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
multicast.sendto(b"x", ("224.0.0.251", 5353))
"#;
    let seen = python(&internet, &[], program);
    let lines: Vec<_> = seen.stdout.lines().collect();
    assert_eq!(lines[..2], ["193.0.14.80 x True", "2a00:1450::80 x True"], "{lines:#?}");
    for line in &lines[2..] {
        let is_refusal = ["ECONNREFUSED True", "EACCES True", "EHOSTUNREACH True"]
            .iter()
            .any(|end| line.ends_with(end));
        assert!(is_refusal, "{lines:#?}");
    }
    assert_eq!(seen.refusals.len(), 5, "{:#?}", seen.refusals);
    let reasons: Vec<_> =
        seen.refusals.iter().map(|refusal| refusal["reason"].as_str().unwrap()).collect();
    let expected = [
        "private_address",
        "link_local_address",
        "private_address",
        "host_address",
        "multicast_address",
    ];
    assert_eq!(reasons, expected);
    assert!(seen.refusals.iter().all(|refusal| refusal["protocol"] == "udp"));
}

#[test]
fn the_gateway_answers_to_ping_and_nobody_else_does() {
    let host = Host::new();
    let internet = Internet::new(&host);
    let program = r#"
def ping(family, protocol, kind, address):
    with socket.socket(family, socket.SOCK_RAW, protocol) as line:
        line.settimeout(2)
        head = bytes([kind, 0, 0, 0, 0, 7, 0, 1]) + b"pyro"
        if family == socket.AF_INET:
            total = sum(int.from_bytes(head[i : i + 2], "big") for i in range(0, len(head), 2))
            total = (total & 0xFFFF) + (total >> 16)
            head = head[:2] + (0xFFFF - total).to_bytes(2, "big") + head[4:]
        line.sendto(head, (address, 0))
        try:
            while True:
                answer, (peer, *_) = line.recvfrom(1000)
                answer = answer[20:] if family == socket.AF_INET else answer
                if answer[0] == {8: 0, 128: 129}[kind] and peer == address:
                    return answer[8:].decode()
        except TimeoutError:
            return "nothing"

print(ping(socket.AF_INET, socket.IPPROTO_ICMP, 8, "10.255.255.253"))
print(ping(socket.AF_INET6, socket.IPPROTO_ICMPV6, 128, "fd70:7972:6f00::1"))
print(ping(socket.AF_INET, socket.IPPROTO_ICMP, 8, "10.1.2.3"))
"#;
    assert_eq!(python(&internet, &[], program).stdout, "pyro\npyro\nnothing\n");
}

/// The guest's own kernel would keep these to itself, so the frames are made by hand.
#[test]
fn no_address_within_another_one_and_no_forged_packet_gives_a_way_around() {
    let host = Host::new();
    let internet = Internet::new(&host);
    let program = r#"
import ipaddress, struct

def checksum(data):
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return 0xFFFF - total

def syn(source, destination, port):
    source, destination = ipaddress.ip_address(source), ipaddress.ip_address(destination)
    segment = struct.pack("!HHIIBBHHH", port, 7, 1000, 0, 0x50, 2, 65535, 0, 0)
    pseudo = source.packed + destination.packed + struct.pack("!II", len(segment), 6)
    check = struct.pack("!H", checksum(pseudo + segment))
    segment = segment[:16] + check + segment[18:]
    if source.version == 6:
        head = struct.pack("!IHBB", 6 << 28, len(segment), 6, 64) + source.packed + destination.packed
        return b"\x86\xdd", head + segment
    head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(segment), 0, 0, 64, 6, 0)
    head += source.packed + destination.packed
    head = head[:10] + struct.pack("!H", checksum(head)) + head[12:]
    return b"\x08\x00", head + segment

ours = {4: "10.255.255.254", 6: "fd70:7972:6f00::2"}
line = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
line.bind(("eth0", 0))
gateway, guest = b"\x02pyro\x01", b"\x02pyro\x02"
port = 2000
for destination in sys.argv[1:]:
    port += 1
    kind, packet = syn(ours[ipaddress.ip_address(destination).version], destination, port)
    line.send(gateway + guest + kind + packet)
# Somebody else's address as the source.
for source in "10.255.255.253", "127.0.0.1", "8.8.8.8":
    port += 1
    kind, packet = syn(source, "193.0.14.80", port)
    line.send(gateway + guest + kind + packet)
# What comes after all of these has been looked at when this is answered.
print(attempt("193.0.14.80")[0])
line.setblocking(False)
while True:
    try:
        frame = line.recv(70000)
    except BlockingIOError:
        break
    is_tcp = frame[14 + 9] == 6 if frame[12:14] == b"\x08\x00" else frame[14 + 6] == 6
    head = 14 + (20 if frame[12:14] == b"\x08\x00" else 40)
    if frame[:6] == guest and is_tcp and len(frame) >= head + 20:
        to, flags = int.from_bytes(frame[head + 2 : head + 4], "big"), frame[head + 13]
        if 2000 < to <= port and flags & 2:
            print("connected:", to)
"#;
    let forms = [
        "127.0.0.1",
        "127.8.8.8",
        "0.0.0.0",
        "::1",
        "::ffff:127.0.0.1",
        "::127.0.0.1",
        "::ffff:10.1.2.3",
        "64:ff9b::7f00:1",
        "64:ff9b::10.1.2.3",
        "2002:7f00:1::1",
        "255.255.255.255",
        "ff02::1",
        "fe80::1",
    ];
    let program = format!("{}\n{program}", super::ATTEMPT);
    let words = [&["python3", "-c", &program], &forms[..]].concat();
    let seen = super::seen(&internet, &[], &words);
    assert_eq!(seen.stdout, "reached\n", "{:#?}", seen.refusals);
}
