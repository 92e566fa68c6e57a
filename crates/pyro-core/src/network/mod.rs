//! A VM's network, from what a caller says to what a supervisor is told, and from what was refused to what users read.
//!
//! ```text
//!   options (texts) ──► Network (a request) ──► + pins, resolvers, host's proxy and CA ──► NetworkSpec, GuestFiles
//! ```

pub(crate) mod options;

pub(crate) mod pins;

pub(crate) mod resolvers;

pub(crate) mod from_host;

pub(crate) mod proxy;

pub(crate) mod refusals;

pub(crate) mod report;

use std::ffi::OsString;
use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;

use pyro_protocol::client::GuestFile;
use pyro_protocol::network::{
    AuthoredPolicy, EgressPolicy, NetworkSpec, PolicyAuthor, PublishedPort,
};

use self::from_host::FromHost;
use self::options::NetworkOptions;
use self::pins::NetworkPin;
use crate::PyroError;
use crate::config::Config;
use crate::limits::invalid;

/// Whether the guest may reach anything outside, and what.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Network {
    /// The VM has no network device.
    Off,
    On(Box<NetworkRequest>),
}

/// The network that a caller asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NetworkRequest {
    policy: EgressPolicy,
    published: Vec<PublishedPort>,
    wants_proxy: bool,
    wants_ca: bool,
    /// Of whoever passes the request on for somebody else.
    pins: Vec<NetworkPin>,
}

/// What the process's environment says about networks. Checked when a network is asked for: whoever asks for none is
/// not bothered, and whoever does gets none where it makes no sense.
#[derive(Clone, Default)]
pub struct NetworkSettings {
    /// `PYRO_DNS_SERVERS`
    pub(crate) dns_servers: Option<OsString>,
    /// `PYRO_NETWORK`
    pub(crate) pin: Option<OsString>,
    /// `PYRO_NETWORK_FILE`: beside the system's, never in its place.
    pub(crate) pin_file: Option<PathBuf>,
    pub(crate) proxies: ProxySettings,
    /// `SSL_CERT_FILE`
    pub(crate) ca_bundle: Option<PathBuf>,
}

/// The host's proxies, each the value of one variable. They may hold passwords.
#[derive(Clone, Default)]
pub(crate) struct ProxySettings {
    pub(crate) http: Option<OsString>,
    pub(crate) https: Option<OsString>,
    pub(crate) all: Option<OsString>,
    pub(crate) no_proxy: Option<OsString>,
}

impl fmt::Debug for NetworkSettings {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Without the proxies, for their passwords.
        formatter
            .debug_struct("NetworkSettings")
            .field("dns_servers", &self.dns_servers)
            .field("pin", &self.pin)
            .field("pin_file", &self.pin_file)
            .field("ca_bundle", &self.ca_bundle)
            .finish_non_exhaustive()
    }
}

impl Network {
    /// Fails with `invalid_input` where an option makes no sense, or none without a network.
    pub fn new(options: &NetworkOptions) -> Result<Self, PyroError> {
        if !options.network {
            return match options.in_need_of_a_network() {
                None => Ok(Self::Off),
                Some(name) => Err(invalid(format!("{name} needs a network"))
                    .hint("ask for one as well: `--network`, or `network`")),
            };
        }
        Ok(Self::On(Box::new(NetworkRequest {
            policy: options.policy.parse()?,
            published: options::published(&options.publish)?,
            wants_proxy: options.host_proxy,
            wants_ca: options.host_ca,
            pins: Vec::new(),
        })))
    }
}

impl NetworkRequest {
    /// Restricts it, for whoever passes it on. [`NetworkPin::check`] says whether it may be passed on at all.
    pub fn pin(&mut self, pin: NetworkPin) {
        self.pins.push(pin);
    }

    pub(crate) fn publishes(&self) -> bool {
        !self.published.is_empty()
    }
}

/// A network that can be had, with all that the host says of it. It is read once, so that what was checked is what the VM
/// gets, however long the pull of its environment takes in between.
pub(crate) struct CheckedNetwork(Option<Checked>);

struct Checked {
    request: NetworkRequest,
    pins: Vec<NetworkPin>,
    resolvers: Vec<SocketAddr>,
    from_host: FromHost,
}

impl CheckedNetwork {
    pub(crate) const OFF: Self = Self(None);

    /// Fails where such a network cannot be had, before anything is made for it.
    pub(crate) fn check(config: &Config, network: &Network) -> Result<Self, PyroError> {
        let Network::On(request) = network else { return Ok(Self::OFF) };
        Ok(Self(Some(Checked {
            pins: pins::in_force(config, request)?,
            resolvers: resolvers::of_host(config)?,
            from_host: from_host::prepare(config, request)?,
            request: NetworkRequest::clone(request),
        })))
    }

    /// What a supervisor is told.
    pub(crate) async fn specify(self) -> (Option<NetworkSpec>, Vec<GuestFile>) {
        let Some(Checked { request, pins, resolvers, from_host }) = self.0 else {
            return (None, Vec::new());
        };
        let mut policy = request.policy;
        from_host.open(&mut policy).await;
        let mut policies: Vec<_> = pins.into_iter().filter_map(NetworkPin::into_policy).collect();
        policies.push(AuthoredPolicy { author: PolicyAuthor::Caller, policy });
        let spec = NetworkSpec { policies, published: request.published, resolvers };
        (Some(spec), from_host.into_files())
    }
}

#[cfg(test)]
mod tests {
    use super::options::PolicyOptions;
    use super::*;

    #[tokio::test]
    async fn a_vm_gets_what_was_checked_whatever_the_operator_says_meanwhile() {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs_err::write(file.path(), "deny_cidrs = [\"198.51.100.0/24\"]\n").unwrap();
        let variables = [
            ("HOME", "/nonexistent"),
            ("PYRO_DNS_SERVERS", "127.0.0.1"),
            ("PYRO_NETWORK_FILE", file.path().to_str().unwrap()),
        ];
        let config = crate::config::tests::config(&variables).unwrap();
        let options = NetworkOptions { network: true, ..NetworkOptions::default() };
        let network = Network::new(&options).unwrap();
        let checked = CheckedNetwork::check(&config, &network).unwrap();
        // A half-written one makes no sense.
        fs_err::write(file.path(), "deny_cidrs = [").unwrap();
        assert!(CheckedNetwork::check(&config, &network).is_err());
        let (network, files) = checked.specify().await;
        let policies = network.unwrap().policies;
        assert_eq!(policies[policies.len() - 2].policy.deny.len(), 1, "{policies:?}");
        assert_eq!(files, []);
    }

    #[test]
    fn options_need_a_network() {
        assert_eq!(Network::new(&NetworkOptions::default()), Ok(Network::Off));
        let policy = PolicyOptions { allow_public: true, ..PolicyOptions::default() };
        for (name, options) in [
            ("allow_public", NetworkOptions { policy, ..NetworkOptions::default() }),
            ("publish", NetworkOptions { publish: vec!["80".to_owned()], ..Default::default() }),
            ("host_proxy", NetworkOptions { host_proxy: true, ..NetworkOptions::default() }),
            ("host_ca", NetworkOptions { host_ca: true, ..NetworkOptions::default() }),
        ] {
            let error = Network::new(&options).unwrap_err();
            assert_eq!(error.message, format!("{name} needs a network"));
            Network::new(&NetworkOptions { network: true, ..options }).unwrap();
        }
    }
}
