//! Names: which are looked up, and what they open.

use pyro_vm_tests::internet::{BIG_ADDRESSES, NAMELESS, OTHER_RESOLVER, WWW_V4};
use pyro_vm_tests::{Host, Internet};

use super::{ATTEMPT, assert_reached, attempts, python, seen};

/// `query(name, type, server, how)`: flags, number of answers and bytes of what the name server answers.
const QUERY: &str = r#"
import struct

def query(name, kind, server="10.255.255.253", how="udp"):
    labels = b"".join(bytes([len(label)]) + label.encode() for label in name.split("."))
    question = struct.pack("!HHHHHH", 4711, 0x100, 1, 0, 0, 0) + labels + struct.pack("!BHH", 0, kind, 1)
    kinds = {"udp": socket.SOCK_DGRAM, "tcp": socket.SOCK_STREAM}
    with socket.socket(socket.AF_INET, kinds[how]) as line:
        line.settimeout(20)
        line.connect((server, 53))
        if how == "udp":
            line.send(question)
            answer = line.recv(65535)
        else:
            line.sendall(struct.pack("!H", len(question)) + question)
            stream = line.makefile("rb")
            answer = stream.read(int.from_bytes(stream.read(2), "big"))
    number, flags, _, answers = struct.unpack("!HHHH", answer[:8])
    assert number == 4711
    return {"truncated": bool(flags & 0x200), "code": flags & 15, "answers": answers}, answer
"#;

/// The name is refused as one that no rule allows.
#[track_caller]
fn assert_not_looked_up(internet: &Internet<'_>, options: &[&str], name: &str, reason: &str) {
    let (ends, seen) = attempts(internet, options, &[name]);
    assert_eq!(ends, ["no such name"], "{name}: {:#?}", seen.refusals);
    let refusal = seen.refusals.iter().find(|refusal| refusal["destination"] == *name);
    let refusal = refusal.unwrap_or_else(|| panic!("no {name} in {:#?}", seen.refusals));
    assert_eq!((&refusal["protocol"], &refusal["reason"]), (&"dns".into(), &reason.into()));
    let told = internet.told();
    assert!(!told.contains(&format!("] {name} from")), "the resolver was asked:\n{told}");
}

#[test]
fn addresses_texts_and_long_answers_are_found() {
    let host = Host::new();
    let internet = Internet::new(&host);
    let program = r#"
for kind in 1, 28:
    print(query("www.example.com", kind)[0])
print(b"a text" in query("text.example.com", 16)[1])
print(query("nothing.example.com", 1)[0]["code"])
print(query("big.example.com", 1)[0]["truncated"])
print(query("big.example.com", 1, how="tcp")[0])
print(len({entry[4][0] for entry in socket.getaddrinfo("big.example.com", 80, socket.AF_INET)}))
"#;
    let seen = python(&internet, &[], &format!("{QUERY}{program}"));
    let one = "{'truncated': False, 'code': 0, 'answers': 1}";
    let all = format!("{{'truncated': False, 'code': 0, 'answers': {BIG_ADDRESSES}}}");
    // 3 means that there is no such name.
    let expected = format!("{one}\n{one}\nTrue\n3\nTrue\n{all}\n{BIG_ADDRESSES}\n");
    assert_eq!(seen.stdout, expected);
    assert!(seen.refusals.is_empty(), "{:#?}", seen.refusals);
}

#[test]
fn a_list_of_names_opens_these_and_no_other_is_looked_up() {
    let host = Host::new();
    let internet = Internet::new(&host);
    let rule = ["--allow-host=www.example.com"];
    assert_reached(&internet, &rule, &["www.example.com", WWW_V4]);
    assert_not_looked_up(&internet, &rule, "api.example.org", "not_allowed");
    let (ends, seen) = attempts(&internet, &rule, &[NAMELESS, "api.example.org"]);
    assert_eq!(ends, ["ECONNREFUSED", "no such name"]);
    let refusal = &seen.refusals[1];
    assert_eq!(refusal["allow_with"]["allow_hosts"][0], "api.example.org", "{refusal:#}");
    let more = ["--allow-host=www.example.com", "--allow-host=api.example.org"];
    assert_reached(&internet, &more, &["www.example.com", "api.example.org"]);
}

#[test]
fn an_address_is_open_only_when_an_allowed_name_was_found_to_have_it() {
    let host = Host::new();
    let internet = Internet::new(&host);
    let rule = ["--allow-host=www.example.com"];
    let (ends, _) = attempts(&internet, &rule, &[WWW_V4]);
    assert_eq!(ends, ["ECONNREFUSED"]);
    assert_reached(&internet, &rule, &["www.example.com", WWW_V4]);
}

#[test]
fn a_wildcard_opens_what_is_below_it() {
    let host = Host::new();
    let internet = Internet::new(&host);
    let rule = ["--allow-host=*.example.org"];
    assert_reached(&internet, &rule, &["api.example.org", "a.b.example.org"]);
    assert_not_looked_up(&internet, &rule, "www.example.com", "not_allowed");
    assert_not_looked_up(&internet, &rule, "example.org", "not_allowed");
}

#[test]
fn a_name_with_a_port_opens_that_port() {
    let host = Host::new();
    let internet = Internet::new(&host);
    assert_reached(&internet, &["--allow-host=www.example.com:7"], &["www.example.com"]);
    let (ends, seen) =
        attempts(&internet, &["--allow-host=www.example.com:443"], &["www.example.com"]);
    assert_eq!(ends, ["ECONNREFUSED"], "{:#?}", seen.refusals);
    let refusal = &seen.refusals[0];
    assert_eq!(refusal["host"], "www.example.com", "{refusal:#}");
}

#[test]
fn a_denied_name_is_not_looked_up_and_its_address_stays_shut() {
    let host = Host::new();
    let internet = Internet::new(&host);
    let rule = ["--deny-host=www.example.com"];
    assert_not_looked_up(&internet, &rule, "www.example.com", "denied");
    assert_reached(&internet, &rule, &["api.example.org"]);
    // Another name of the same machine is another matter.
    assert_reached(&internet, &rule, &["git.example.com"]);
    let below = ["--deny-host=*.example.com", "--allow-public"];
    assert_not_looked_up(&internet, &below, "www.example.com", "denied");
}

#[test]
fn a_name_for_what_is_not_public_opens_nothing() {
    let host = Host::new();
    let internet = Internet::new(&host);
    let names = [
        ("rebind.example.org", "private_address"),
        ("metadata.example.org", "link_local_address"),
        ("own.example.org", "host_address"),
    ];
    let rules: Vec<_> = names.iter().map(|(name, _)| format!("--allow-host={name}")).collect();
    let rules: Vec<_> = rules.iter().map(String::as_str).collect();
    for options in [&[][..], &rules] {
        for (name, reason) in names {
            let (ends, seen) = attempts(&internet, options, &[name]);
            // Either the answer is kept from the guest, or the address is.
            assert!(
                ["no such name", "ECONNREFUSED"].contains(&ends[0].as_str()),
                "{name}: {ends:?}"
            );
            let is_it = |refusal: &&serde_json::Value| refusal["reason"] == reason;
            let refusal = seen.refusals.iter().find(is_it);
            assert!(refusal.is_some(), "{name}: no {reason} in {:#?}", seen.refusals);
        }
    }
    let both = ["--allow-host=rebind.example.org", "--allow-cidr=10.1.2.3", "--allow-cidr=fd00::7"];
    assert_reached(&internet, &both, &["rebind.example.org"]);
}

#[test]
fn of_a_name_with_a_private_address_the_public_one_is_open() {
    let host = Host::new();
    let internet = Internet::new(&host);
    let program = "attempt('mixed.example.org')\n\
                   print(attempt('193.0.14.82')[0], attempt('192.168.7.7')[0])";
    let seen = python(&internet, &["--allow-host=mixed.example.org"], program);
    assert_eq!(seen.stdout, "reached ECONNREFUSED\n", "{:#?}", seen.refusals);
}

#[test]
fn a_list_of_names_lets_no_other_name_server_be_asked() {
    let host = Host::new();
    let internet = Internet::new(&host);
    let program = format!(
        r#"{ATTEMPT}{QUERY}
for how in "udp", "tcp":
    started = time.monotonic()
    try:
        print(how, query("api.example.org", 1, "{OTHER_RESOLVER}", how)[0])
    except OSError as error:
        print(how, errno.errorcode.get(error.errno, repr(error)), time.monotonic() - started < 3)
"#
    );
    let words = ["python3", "-c", &program];
    let refused = seen(&internet, &["--allow-host=www.example.com"], &words);
    // What an ICMP message says of a datagram is no refusal to Linux.
    assert_eq!(refused.stdout, "udp EHOSTUNREACH True\ntcp ECONNREFUSED True\n");
    let destinations: Vec<_> =
        refused.refusals.iter().map(|refusal| refusal["destination"].as_str().unwrap()).collect();
    let other = format!("{OTHER_RESOLVER}:53");
    assert_eq!(destinations, [&other, &other], "{:#?}", refused.refusals);
    // Where all that is public is open, so is this.
    let answer = "{'truncated': False, 'code': 0, 'answers': 1}";
    let open = seen(&internet, &[], &words);
    assert_eq!(open.stdout, format!("udp {answer}\ntcp {answer}\n"), "{:#?}", open.refusals);
}
