//! An Internet of a test's own, so that nothing leaves this machine and any address can be played: a network
//! namespace in which `pyro` runs, the inside, and behind a pair of virtual interfaces another one, the outside,
//! with servers on addresses of every kind and a name server that knows them.
//!
//! ```text
//!   inside: pyro, 198.41.0.10, 10.200.0.2, ::1 …  ─── veth ───  outside: 193.0.14.80, 10.1.2.3, 169.254.169.254 …
//! ```
//!
//! Both are gone when the programs in them are, and these are when the test is: they read from a pipe of its.

mod certificates;

mod space;

use std::path::PathBuf;
use std::process::Command;

use serde_json::json;

use self::space::Space;
use crate::environments::DEFAULT;
use crate::host::Host;
use crate::pyro::Pyro;

/// Public addresses of servers outside.
pub const WWW_V4: &str = "193.0.14.80";
pub const WWW_V6: &str = "2a00:1450::80";
/// Has no name.
pub const NAMELESS: &str = "151.101.1.1";
/// The name server that `pyro` is told of, and one more, which is the same.
pub const RESOLVER: &str = "193.0.14.53";
pub const OTHER_RESOLVER: &str = "9.9.9.9";

/// Addresses outside that are not public.
pub const PRIVATE: [&str; 5] = ["10.1.2.3", "172.16.9.9", "192.168.7.7", "100.64.1.1", "fd00::7"];
/// Where clouds keep what their machines may know.
pub const METADATA: &str = "169.254.169.254";
pub const SPECIAL: [&str; 5] =
    ["192.0.2.1", "198.18.0.1", "203.0.113.9", "240.0.0.1", "2001:db8::1"];

/// The inside's own addresses: two that look public, and a private one.
pub const OWN_V4: &str = "198.41.0.10";
pub const OWN_V6: &str = "2606:4700:10::10";
pub const OWN_PRIVATE: &str = "10.200.0.2";

/// Where every address has a server that: sends back what it gets, by TCP and UDP;
pub const ECHO: u16 = 7;
/// reads to the end, then answers with count and SHA-256;
pub const DIGEST: u16 = 9;
/// sends as many bytes as a line asks for;
pub const SOURCE: u16 = 19;
/// reads nothing until [`Internet::go`], then is the one of [`DIGEST`];
pub const STUCK: u16 = 21;
/// sends 64 MiB, and tells how many were taken when that stalls;
pub const FLOOD: u16 = 22;
/// takes 1 MiB, and resets;
pub const RESET: u16 = 23;
/// tells how the connection ends.
pub const WATCH: u16 = 25;

/// How many addresses `big.example.com` has: more than fit a datagram of the size that everybody takes.
pub const BIG_ADDRESSES: usize = 60;

/// The names that the name server knows. Others in their domains do not exist.
const NAMES: [(&str, &[&str]); 7] = [
    ("www.example.com git.example.com pypi.example.com deb.example.com", &[WWW_V4, WWW_V6]),
    ("api.example.org a.b.example.org", &["193.0.14.81", "2a00:1450::81"]),
    ("rebind.example.org", &["10.1.2.3", "fd00::7"]),
    ("mixed.example.org", &["193.0.14.82", "192.168.7.7"]),
    ("metadata.example.org", &[METADATA]),
    ("loopback.example.org", &["127.0.0.1", "::1"]),
    ("own.example.org", &[OWN_V4]),
];

/// Addresses of the names above that have no constant of their own.
const MORE: [&str; 3] = ["193.0.14.81", "193.0.14.82", "2a00:1450::81"];

#[derive(Debug)]
pub struct Internet<'a> {
    host: &'a Host,
    /// Ended before the namespace that it may be within.
    inside: Space,
    outside: Space,
    directory: PathBuf,
}

impl<'a> Internet<'a> {
    pub fn new(host: &'a Host) -> Self {
        let directory = host.directory().join("internet");
        for name in ["www", "git"] {
            fs_err::create_dir_all(directory.join(name)).unwrap();
        }
        let certificate = certificates::make(&directory);
        let www = directory.join("www");
        let outside = Space::new(None);
        let inside = Space::new(Some(&outside));
        outside.run(&format!("ip link add wire type veth peer name eth0 netns {}", inside.pid()));
        outside.run(&outside_addresses());
        inside.run(&format!(
            "ip link set lo up\n\
             ip link set eth0 up\n\
             ip addr add {OWN_V4}/24 dev eth0\n\
             ip addr add {OWN_PRIVATE}/24 dev eth0\n\
             ip -6 addr add {OWN_V6}/64 dev eth0 nodad\n\
             ip route add default via 198.41.0.1\n\
             ip -6 route add default via 2606:4700:10::1\n"
        ));
        let git = directory.join("git");
        let dns = dns_arguments(&directory);
        outside.serve(&json!({ "www": www, "git": git, "certificate": certificate, "dns": dns }));
        inside.serve(&json!({ "www": www }));
        Self { host, inside, outside, directory }
    }

    /// The same, where this is the Internet.
    pub fn around(&self, pyro: Pyro) -> Pyro {
        let enter = self.inside.enter();
        let words: Vec<_> = enter.iter().map(String::as_str).collect();
        pyro.within(&words).variable("PYRO_DNS_SERVERS", RESOLVER)
    }

    /// `pyro run --network` with these options, of words in the default environment.
    pub fn run(&self, options: &[&str], words: &[&str]) -> Pyro {
        self.around(self.host.run_in(DEFAULT, &[&["--network"], options].concat(), words))
    }

    /// A program where `pyro` is, which is to be waited for.
    pub fn command_inside(&self, words: &[&str]) -> Command {
        self.inside.command(words)
    }

    /// What `https://www.example.com`, and every other name of that address, serves.
    pub fn www(&self) -> PathBuf {
        self.directory.join("www")
    }

    /// The repositories of `https://git.example.com/git/`.
    pub fn git(&self) -> PathBuf {
        self.directory.join("git")
    }

    /// The certificate of the authority that has signed for all the names.
    pub fn authority(&self) -> PathBuf {
        self.directory.join(certificates::AUTHORITY)
    }

    /// Waits until a server outside tells this.
    pub fn wait_for(&self, text: &str) {
        self.outside.wait_for(text);
    }

    /// What the servers outside have told.
    pub fn told(&self) -> String {
        self.outside.told()
    }

    /// What the servers inside have told.
    pub fn told_inside(&self) -> String {
        self.inside.told()
    }

    /// Lets go of servers that wait.
    pub fn go(&self) {
        self.outside.send("go\n");
    }

    /// Starts a program outside, which lives as long as this does, and waits for its first line.
    pub fn start_outside(&self, words: &str) {
        self.outside.send(&format!("start {words}\n"));
        self.outside.wait_for("started ");
    }
}

/// Addresses beyond those of the wire are not on it: a host reaches them through a router.
fn outside_addresses() -> String {
    let mut script = "ip link set lo up\n\
                      ip link set wire up\n\
                      ip addr add 198.41.0.1/24 dev wire\n\
                      ip -6 addr add 2606:4700:10::1/64 dev wire nodad\n\
                      ip route add 10.200.0.0/24 dev wire\n"
        .to_owned();
    let some = [WWW_V4, WWW_V6, NAMELESS, RESOLVER, OTHER_RESOLVER, METADATA];
    for address in some.iter().chain(&MORE).chain(&PRIVATE).chain(&SPECIAL) {
        script += &if address.contains(':') {
            format!("ip -6 addr add {address}/128 dev lo nodad\n")
        } else {
            format!("ip addr add {address}/32 dev lo\n")
        };
    }
    script
}

fn dns_arguments(directory: &std::path::Path) -> Vec<String> {
    let mut hosts = String::new();
    for (names, addresses) in NAMES {
        for address in addresses {
            hosts += &format!("{address} {names}\n");
        }
    }
    for number in 1..=BIG_ADDRESSES {
        hosts += &format!("151.101.2.{number} big.example.com\n");
    }
    let file = directory.join("names");
    fs_err::write(&file, hosts).unwrap();
    let mut arguments = vec![format!("--addn-hosts={}", file.display())];
    arguments.extend(
        [
            "--local=/example.com/",
            "--local=/example.org/",
            "--local=/example.net/",
            "--cname=alias.example.com,www.example.com",
            "--txt-record=text.example.com,a text",
            "--user=root",
            "--group=root",
        ]
        .map(str::to_owned),
    );
    arguments
}
