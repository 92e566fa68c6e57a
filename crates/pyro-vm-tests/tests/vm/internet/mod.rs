//! Real traffic of real programs in VMs with a network, on an Internet of the test's own.

mod refusals;

mod names;

mod flows;

mod programs;

mod published;

mod operator;

use pyro_vm_tests::internet::{ECHO, METADATA, OWN_PRIVATE, PRIVATE, SPECIAL, WWW_V4, WWW_V6};
use pyro_vm_tests::{Host, Internet};
use serde_json::Value;

/// `attempt(address, port)`: how it ends to connect and to be sent a byte back, and after how many seconds.
const ATTEMPT: &str = r#"
import errno, json, socket, sys, time

def attempt(address, port=7):
    started = time.monotonic()
    try:
        with socket.create_connection((address, port), timeout=20) as connection:
            connection.sendall(b"x")
            how = "reached" if connection.recv(1) == b"x" else "ended"
    except socket.gaierror:
        how = "no such name"
    except OSError as error:
        how = errno.errorcode.get(error.errno, repr(error))
    return how, time.monotonic() - started
"#;

/// A command that ran in a VM with a network, and what was refused meanwhile.
struct Seen {
    stdout: String,
    refusals: Vec<Value>,
}

/// A Python program, after [`ATTEMPT`], in a VM with these options. It must succeed.
#[track_caller]
fn python(internet: &Internet<'_>, options: &[&str], program: &str) -> Seen {
    let program = format!("{ATTEMPT}\n{program}");
    seen(internet, options, &["python3", "-c", &program])
}

/// A command in a VM with these options. It must succeed.
#[track_caller]
fn seen(internet: &Internet<'_>, options: &[&str], words: &[&str]) -> Seen {
    let outcome = internet.run(&[&["--json"], options].concat(), words).outcome();
    assert_eq!(outcome.exit_code(), 0, "{outcome:#?}");
    let outcome = outcome.json();
    let refusals = outcome["network_refusals"].as_array().unwrap_or_else(|| panic!("{outcome:#}"));
    let stdout = outcome["stdout"].as_str().unwrap().to_owned();
    Seen { stdout, refusals: refusals.clone() }
}

/// How it ends to reach the server that sends back what it gets at each of these addresses or names, and what
/// of it was refused. Whatever happens must happen at once: long before anything is sent a third time.
#[track_caller]
fn attempts(internet: &Internet<'_>, options: &[&str], addresses: &[&str]) -> (Vec<String>, Seen) {
    let list = serde_json::to_string(addresses).unwrap();
    let program = format!("print(json.dumps([attempt(address) for address in {list}]))");
    let seen = python(internet, options, &program);
    let ends: Vec<(String, f64)> = serde_json::from_str(&seen.stdout).unwrap();
    for ((how, seconds), address) in ends.iter().zip(addresses) {
        assert!(*seconds < AT_ONCE_SECONDS, "{address}: {how} after {seconds} s");
    }
    (ends.into_iter().map(|(how, _)| how).collect(), seen)
}

/// On an emulated machine that is busy with other things.
const AT_ONCE_SECONDS: f64 = 3.0;

/// Every one of them was reached, and nothing was refused.
#[track_caller]
fn assert_reached(internet: &Internet<'_>, options: &[&str], addresses: &[&str]) {
    let (ends, seen) = attempts(internet, options, addresses);
    let pairs: Vec<_> = addresses.iter().zip(&ends).collect();
    assert!(ends.iter().all(|end| end == "reached"), "{pairs:?}\n{:#?}", seen.refusals);
    assert!(seen.refusals.is_empty(), "{:#?}", seen.refusals);
}

#[test]
fn every_server_that_is_to_be_refused_answers_the_host_itself() {
    let host = Host::new();
    let internet = Internet::new(&host);
    let own = ["127.0.0.1", "::1", OWN_PRIVATE];
    let outside = [WWW_V4, WWW_V6, METADATA];
    let all = outside.iter().chain(&own).chain(&PRIVATE).chain(&SPECIAL);
    let list = serde_json::to_string(&all.collect::<Vec<_>>()).unwrap();
    let program = format!(
        "{ATTEMPT}\nfor address in {list}:\n    assert attempt(address)[0] == 'reached', address"
    );
    let output = internet.command_inside(&["python3", "-c", &program]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn what_the_guest_has_is_the_same_in_every_vm() {
    let host = Host::new();
    let internet = Internet::new(&host);
    let script = "cat /sys/class/net/eth0/mtu; grep nameserver /etc/resolv.conf; \
                  getent hosts host.pyro.internal; getent ahosts www.example.com | cut -d' ' -f1 | sort -u";
    let guest = seen(&internet, &[], &["sh", "-c", script]).stdout;
    let guest: Vec<_> = guest.split_whitespace().collect();
    let gateway = "10.255.255.253";
    assert_eq!(guest[..3], ["65520", "nameserver", gateway], "{guest:?}");
    assert!(guest.contains(&"host.pyro.internal"), "{guest:?}");
    assert!(guest.contains(&WWW_V4) && guest.contains(&WWW_V6), "{guest:?}");
    // ECHO is the port that `attempt` takes where none is named.
    assert_eq!(ECHO, 7);
    assert_reached(&internet, &[], &[WWW_V4, WWW_V6, "www.example.com", "alias.example.com"]);
}
