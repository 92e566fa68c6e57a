//! What a VM's network may do: rules as users write them, on every surface the same, and as they cross to
//! the supervisor; and what was refused, on its way back.
//!
//! ```text
//!   host      NAME[:PORT]          example.com    *.example.org:443
//!   network   ADDRESS[/LENGTH][:PORT]   10.1.0.0/16    127.0.0.1:8080    [fd00::/8]:443
//!   publish   [HOST_PORT:]GUEST_PORT    8080:80    80
//! ```

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

/// Rules of one list of a policy, and ports that one VM publishes.
pub const RULES_MAX: usize = 256;

/// The longest host name, in bytes, and its longest label (RFC 1035).
const NAME_BYTES_MAX: usize = 253;
const LABEL_BYTES_MAX: usize = 63;

/// The network of a VM that has one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkSpec {
    /// Each of them must allow what the guest wants to reach; the first that does not is who refused. So the
    /// operator's come first: what they refuse, no caller can allow.
    pub policies: Vec<AuthoredPolicy>,
    pub published: Vec<PublishedPort>,
    /// Where names are looked up, the preferred one first.
    #[serde(with = "addresses_as_text")]
    pub resolvers: Vec<SocketAddr>,
}

/// A policy, and who may change it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuthoredPolicy {
    pub author: PolicyAuthor,
    pub policy: EgressPolicy,
}

/// Who restricts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum PolicyAuthor {
    /// Whoever asked for the VM.
    Caller,
    /// Whoever runs pyro here, by what is named: no caller can widen it.
    Operator { source: String },
}

/// What may be reached. What `deny` names is refused; of the rest, what `allow` names is allowed, or all public
/// addresses where `allow` names nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct EgressPolicy {
    pub allow: Vec<EgressRule>,
    pub deny: Vec<EgressRule>,
}

/// A part of the outside.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum EgressRule {
    /// Every address that is reachable from everywhere on the Internet, whatever its name.
    Public,
    /// What a name stands for, where its addresses are public. Others need a rule of their own.
    Host(HostRule),
    Network(NetworkRule),
}

/// A host name, or all below one, and the port, or all.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostRule {
    pub pattern: HostPattern,
    pub port: Option<u16>,
}

/// Lower case, without a dot at the end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum HostPattern {
    /// This name.
    Exactly(String),
    /// Every name that ends with a dot and this one.
    Below(String),
}

/// Addresses, and the port, or all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkRule {
    pub network: IpNet,
    pub port: Option<u16>,
}

/// A TCP port of the host's loopback that leads to one of the guest's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct PublishedPort {
    /// 0 for any free one.
    pub host: u16,
    pub guest: u16,
}

/// What was refused while a run was on.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusals {
    /// In the order in which they came first, at most [`Refusals::LIST_MAX`].
    pub list: Vec<Refusal>,
    /// How many more there were, after the list was full.
    pub left_out: u32,
}

/// Something that the guest wanted to reach, and did not.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    pub protocol: RefusedProtocol,
    pub destination: RefusedDestination,
    pub reason: RefusalReason,
    /// Who refused; the caller where nobody in particular did.
    pub author: PolicyAuthor,
    /// How often.
    pub count: u32,
}

/// How the guest wanted to reach it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RefusedProtocol {
    /// A name was looked up.
    Dns,
    Tcp,
    Udp,
    Icmp,
}

/// What the guest wanted to reach.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum RefusedDestination {
    Name(String),
    Address {
        address: IpAddr,
        /// `None` for a protocol without ports.
        port: Option<u16>,
        /// The name that was looked up and found to have this address, if any.
        name: Option<String>,
    },
}

/// Why something was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RefusalReason {
    /// A rule denies it.
    Denied,
    /// It is in no rule that allows.
    NotAllowed,
    /// It is the host's own: its loopback, or an address of one of its interfaces.
    HostAddress,
    /// Reachable within a private network only (RFC 1918, RFC 4193, RFC 6598).
    PrivateAddress,
    /// Reachable on the host's link only; clouds keep their metadata there.
    LinkLocalAddress,
    /// Multicast or broadcast.
    MulticastAddress,
    /// Reserved, for documentation, or leading to an address within another one.
    SpecialAddress,
    /// The VM has as many connections as one may have.
    TooManyConnections,
    /// Neither TCP nor UDP.
    UnsupportedProtocol,
}

/// A rule, or a port, that makes no sense.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{text}' is no {what}: {problem}")]
pub struct RuleError {
    pub text: String,
    pub what: &'static str,
    pub problem: &'static str,
    /// What to write instead.
    pub remedy: String,
}

impl Refusals {
    /// Different ones: more are read by nobody.
    pub const LIST_MAX: usize = 32;
}

impl EgressPolicy {
    /// What is reachable when nobody says anything: the public addresses.
    pub fn public() -> Self {
        Self::default()
    }
}

impl FromStr for HostRule {
    type Err = RuleError;

    fn from_str(text: &str) -> Result<Self, RuleError> {
        let error = |problem, remedy: &str| {
            let remedy = remedy.to_owned();
            RuleError { text: text.to_owned(), what: "host", problem, remedy }
        };
        let example = "write a name like example.com, *.example.org, or example.com:443";
        if text.parse::<IpAddr>().is_ok() || text.parse::<IpNet>().is_ok() {
            return Err(error("it is an address", "write it as a CIDR rule"));
        }
        let (name, port) = match text.split_once(':') {
            Some((name, port)) => {
                let port = parse_port(port).ok_or_else(|| error(BAD_PORT, example))?;
                (name, Some(port))
            }
            None => (text, None),
        };
        if name.parse::<IpAddr>().is_ok() {
            return Err(error("it is an address", "write it as a CIDR rule"));
        }
        let name = name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase();
        if name == "*" {
            return Err(error("it is every name", "allow public addresses instead"));
        }
        if !name.is_ascii() {
            let remedy = "write it in its ASCII form, which begins with xn--";
            return Err(error("it is not in ASCII", remedy));
        }
        let (is_below, name) = match name.strip_prefix("*.") {
            Some(name) => (true, name.to_owned()),
            None => (false, name),
        };
        if !is_host_name(&name) {
            return Err(error("it is not a name that can be looked up", example));
        }
        let pattern = if is_below { HostPattern::Below(name) } else { HostPattern::Exactly(name) };
        Ok(Self { pattern, port })
    }
}

impl FromStr for NetworkRule {
    type Err = RuleError;

    fn from_str(text: &str) -> Result<Self, RuleError> {
        let error = |problem, remedy: String| RuleError {
            text: text.to_owned(),
            what: "CIDR rule",
            problem,
            remedy,
        };
        let example = "write one like 10.1.0.0/16, 10.1.2.3:443, or [fd00::/8]:443";
        let (network, port) = match text.strip_prefix('[') {
            Some(rest) => match rest.split_once(']') {
                Some((network, "")) => (network, None),
                Some((network, port)) => (network, Some(port.strip_prefix(':').unwrap_or(""))),
                None => return Err(error("a bracket is missing", example.to_owned())),
            },
            // A second colon means IPv6, whose port needs brackets.
            None => match text.split_once(':') {
                Some((network, port)) if !port.contains(':') => (network, Some(port)),
                _ => (text, None),
            },
        };
        let port = match port {
            Some(port) => {
                Some(parse_port(port).ok_or_else(|| error(BAD_PORT, example.to_owned()))?)
            }
            None => None,
        };
        let network = network
            .parse::<IpNet>()
            .or_else(|_| network.parse::<IpAddr>().map(IpNet::from))
            .map_err(|_| error("it has no such address and length", example.to_owned()))?;
        if network.trunc() != network {
            let remedy = format!("write {}, or {}", network.trunc(), network.addr());
            return Err(error("its address has bits beyond its length", remedy));
        }
        if matches!(network.addr(), IpAddr::V6(address) if address.to_ipv4_mapped().is_some()) {
            return Err(error("it is IPv4 within IPv6", "write the IPv4 network".to_owned()));
        }
        Ok(Self { network, port })
    }
}

impl FromStr for PublishedPort {
    type Err = RuleError;

    fn from_str(text: &str) -> Result<Self, RuleError> {
        let (host, guest) = match text.split_once(':') {
            Some((host, guest)) => (host.parse().ok(), parse_port(guest)),
            None => (Some(0), parse_port(text)),
        };
        match (host, guest) {
            (Some(host), Some(guest)) => Ok(Self { host, guest }),
            _ => Err(RuleError {
                text: text.to_owned(),
                what: "port to publish",
                problem: BAD_PORT,
                remedy: "write HOST_PORT:GUEST_PORT like 8080:80, or the guest's port alone for \
                         any free one of the host"
                    .to_owned(),
            }),
        }
    }
}

impl fmt::Display for HostRule {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.pattern {
            HostPattern::Exactly(name) => formatter.write_str(name)?,
            HostPattern::Below(name) => write!(formatter, "*.{name}")?,
        }
        self.port.map_or(Ok(()), |port| write!(formatter, ":{port}"))
    }
}

impl fmt::Display for NetworkRule {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let is_one = self.network.prefix_len() == self.network.max_prefix_len();
        let network =
            if is_one { self.network.addr().to_string() } else { self.network.to_string() };
        match (self.port, self.network) {
            (None, _) => formatter.write_str(&network),
            (Some(port), IpNet::V4(_)) => write!(formatter, "{network}:{port}"),
            (Some(port), IpNet::V6(_)) => write!(formatter, "[{network}]:{port}"),
        }
    }
}

impl fmt::Display for PublishedPort {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}:{}", self.host, self.guest)
    }
}

impl fmt::Display for RefusedDestination {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => formatter.write_str(name),
            Self::Address { address, port: None, .. } => write!(formatter, "{address}"),
            Self::Address { address, port: Some(port), .. } => {
                write!(formatter, "{}", SocketAddr::new(*address, *port))
            }
        }
    }
}

impl HostPattern {
    /// Whether `name`, in lower case and without a dot at its end, is meant.
    pub fn matches(&self, name: &str) -> bool {
        match self {
            Self::Exactly(pattern) => name == pattern,
            Self::Below(pattern) => {
                name.strip_suffix(pattern.as_str()).is_some_and(|front| front.ends_with('.'))
            }
        }
    }
}

/// Addresses with their IPv6 zones, which the compact form of an address leaves out: name servers of home networks are
/// often reachable on one link only.
mod addresses_as_text {
    use std::net::SocketAddr;

    use serde::de::Error;
    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(
        addresses: &[SocketAddr],
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(addresses.iter().map(ToString::to_string))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Vec<SocketAddr>, D::Error> {
        let texts = Vec::<String>::deserialize(deserializer)?;
        texts.iter().map(|text| text.parse().map_err(D::Error::custom)).collect()
    }
}

const BAD_PORT: &str = "a port is a number from 1 to 65535";

fn parse_port(text: &str) -> Option<u16> {
    text.parse().ok().filter(|&port| port != 0)
}

/// Letters, digits, hyphens, and the underscores of service names.
fn is_host_name(name: &str) -> bool {
    let is_label = |label: &str| {
        (1..=LABEL_BYTES_MAX).contains(&label.len())
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
    };
    name.len() <= NAME_BYTES_MAX && name.split('.').all(is_label)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_read_as_they_are_written() {
        for text in ["example.com", "*.example.org:443", "_sip._tcp.example.com", "localhost:80"] {
            assert_eq!(text.parse::<HostRule>().unwrap().to_string(), text);
        }
        for text in
            ["10.1.0.0/16", "10.1.2.3", "127.0.0.1:8080", "fd00::/8", "[fd00::/8]:443", "::1"]
        {
            assert_eq!(text.parse::<NetworkRule>().unwrap().to_string(), text);
        }
        assert_eq!("[fd00::1]:1".parse::<NetworkRule>().unwrap().to_string(), "[fd00::1]:1");
        assert_eq!("8080:80".parse(), Ok(PublishedPort { host: 8080, guest: 80 }));
        assert_eq!("80".parse(), Ok(PublishedPort { host: 0, guest: 80 }));
    }

    #[test]
    fn a_name_server_keeps_its_zone_on_the_way() {
        let spec = NetworkSpec {
            policies: Vec::new(),
            published: Vec::new(),
            resolvers: vec!["[fe80::1%2]:53".parse().unwrap(), "127.0.0.53:53".parse().unwrap()],
        };
        let bytes = postcard::to_allocvec(&spec).unwrap();
        assert_eq!(postcard::from_bytes::<NetworkSpec>(&bytes).unwrap(), spec);
    }

    #[test]
    fn names_are_compared_without_case_and_final_dot() {
        assert_eq!("Example.COM.".parse::<HostRule>(), "example.com".parse());
    }

    #[test]
    fn a_rule_that_makes_no_sense_says_what_to_write() {
        for text in ["", "*", "10.1.2.3", "10.1.2.3:80", "::1", "a..b", "a b", "é.example", "a:0"]
        {
            let error = text.parse::<HostRule>().unwrap_err();
            assert!(!error.remedy.is_empty(), "{error}");
        }
        for text in
            ["", "example.com", "10.1.2.3/16", "10.0.0.0/33", "[::1", "[::1]x", "10.0.0.0/8:0"]
        {
            let error = text.parse::<NetworkRule>().unwrap_err();
            assert!(!error.remedy.is_empty(), "{error}");
        }
        let error = "10.1.2.3/16".parse::<NetworkRule>().unwrap_err();
        assert_eq!(error.remedy, "write 10.1.0.0/16, or 10.1.2.3");
        "::ffff:10.0.0.1".parse::<NetworkRule>().unwrap_err();
        for text in ["", "0", "80:0", "65536:80", "80:80:80", "tcp"] {
            text.parse::<PublishedPort>().unwrap_err();
        }
    }

    #[test]
    fn a_wildcard_means_what_is_below_and_nothing_else() {
        let pattern = "*.example.org".parse::<HostRule>().unwrap().pattern;
        assert!(pattern.matches("a.example.org"));
        assert!(pattern.matches("b.a.example.org"));
        for name in ["example.org", "badexample.org", ".org", "a.example.org.evil"] {
            assert!(!pattern.matches(name), "{name}");
        }
    }
}
