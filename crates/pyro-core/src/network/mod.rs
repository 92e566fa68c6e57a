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
use std::path::PathBuf;

use pyro_protocol::client::GuestFile;
use pyro_protocol::network::{
    AuthoredPolicy, EgressPolicy, NetworkSpec, PolicyAuthor, PublishedPort,
};

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

/// Fails where such a network cannot be had, before anything is made for it.
pub(crate) fn check(config: &Config, network: &Network) -> Result<(), PyroError> {
    let Network::On(request) = network else { return Ok(()) };
    pins::in_force(config, request)?;
    resolvers::of_host(config)?;
    from_host::prepare(config, request)?;
    Ok(())
}

/// What a supervisor is told.
pub(crate) async fn specify(
    config: &Config,
    network: &Network,
) -> Result<(Option<NetworkSpec>, Vec<GuestFile>), PyroError> {
    let Network::On(request) = network else { return Ok((None, Vec::new())) };
    let pins = pins::in_force(config, request)?;
    let resolvers = resolvers::of_host(config)?;
    let from_host = from_host::prepare(config, request)?;
    let mut policy = request.policy.clone();
    from_host.open(&mut policy).await;
    let mut policies: Vec<_> = pins.into_iter().filter_map(NetworkPin::into_policy).collect();
    policies.push(AuthoredPolicy { author: PolicyAuthor::Caller, policy });
    let spec = NetworkSpec { policies, published: request.published.clone(), resolvers };
    Ok((Some(spec), from_host.into_files()))
}

#[cfg(test)]
mod tests {
    use super::options::PolicyOptions;
    use super::*;

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
