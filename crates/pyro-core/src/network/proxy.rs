//! A proxy of the host, as the guest reaches it.

use std::ffi::OsStr;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use ipnet::IpNet;
use pyro_protocol::layout::network::{GATEWAY_V6, HOST_NAME};
use pyro_protocol::network::{EgressRule, HostPattern, HostRule, NetworkRule};

use crate::PyroError;
use crate::limits::invalid;

/// Where a proxy is. It may have a password, so it is shown to nobody.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Proxy {
    scheme: &'static str,
    /// `user:password`, escaped as in a URL.
    credentials: Option<String>,
    host: ProxyHost,
    port: u16,
}

#[derive(Clone, PartialEq, Eq)]
enum ProxyHost {
    /// The host's own loopback: for the guest, the gateway.
    Loopback,
    LoopbackV6,
    Address(IpAddr),
    Name(String),
}

/// For the host to find a proxy by its name.
const LOOKUP_DEADLINE: Duration = Duration::from_secs(5);

/// Schemes that programs know, and their ports.
const SCHEMES: [(&str, u16); 6] = [
    ("http", 80),
    ("https", 443),
    ("socks4", 1080),
    ("socks4a", 1080),
    ("socks5", 1080),
    ("socks5h", 1080),
];

impl Proxy {
    /// Parses the value of a variable. Fails with `invalid_input`, which does not repeat it.
    pub(crate) fn parse(variable: &str, value: &OsStr) -> Result<Self, PyroError> {
        let proxy = value.to_str().and_then(Self::from_url);
        let proxy = proxy.ok_or_else(|| {
            invalid(format!("{variable} is no address of a proxy"))
                .hint("write one like http://proxy.example:3128, or leave out `host_proxy`")
        })?;
        if let ProxyHost::Address(IpAddr::V4(address)) = proxy.host
            && address.is_loopback()
        {
            let message = format!("{variable} names {address}, which no guest can reach");
            return Err(invalid(message)
                .hint("have the proxy listen on 127.0.0.1: of the host's loopback only that is within reach"));
        }
        Ok(proxy)
    }

    fn from_url(url: &str) -> Option<Self> {
        let (scheme, rest) = url.trim().split_once("://").unwrap_or(("http", url.trim()));
        let known = SCHEMES.iter().find(|(name, _)| name.eq_ignore_ascii_case(scheme));
        let &(scheme, default_port) = known?;
        let authority = rest.split(['/', '?', '#']).next()?;
        if authority.chars().any(|character| character.is_control() || character.is_whitespace()) {
            return None;
        }
        let (credentials, place) = match authority.rsplit_once('@') {
            Some((credentials, place)) => (Some(credentials.to_owned()), place),
            None => (None, authority),
        };
        let (host, port) = match place.strip_prefix('[') {
            Some(rest) => {
                let (address, port) = rest.split_once(']')?;
                let address = address.parse::<Ipv6Addr>().ok()?.to_string();
                (address, if port.is_empty() { None } else { Some(port.strip_prefix(':')?) })
            }
            None => match place.split_once(':') {
                Some((host, port)) => (host.to_owned(), Some(port)),
                None => (place.to_owned(), None),
            },
        };
        let port = match port {
            Some(port) => port.parse().ok().filter(|&port| port != 0)?,
            None => default_port,
        };
        Some(Self { scheme, credentials, host: ProxyHost::from_text(&host)?, port })
    }

    /// As a guest's programs find it; the port is always there, because they differ in what they take without.
    pub(crate) fn for_guest(&self) -> String {
        let host = match &self.host {
            ProxyHost::Loopback => HOST_NAME.to_owned(),
            ProxyHost::LoopbackV6 => format!("[{GATEWAY_V6}]"),
            ProxyHost::Address(IpAddr::V6(address)) => format!("[{address}]"),
            ProxyHost::Address(IpAddr::V4(address)) => address.to_string(),
            ProxyHost::Name(name) => name.clone(),
        };
        let credentials = self.credentials.as_ref().map_or_else(String::new, |it| format!("{it}@"));
        format!("{}://{credentials}{host}:{}", self.scheme, self.port)
    }

    /// What opens the way to it. Where it has a name, that includes what the name stands for here and now, because
    /// names alone open no private address, and most proxies have one.
    pub(crate) async fn rules(&self) -> Vec<EgressRule> {
        let mut rules = vec![self.rule()];
        if let ProxyHost::Name(name) = &self.host {
            let found = tokio::net::lookup_host((name.as_str(), self.port));
            // Where it cannot be found here, the guest may still find it.
            if let Ok(Ok(found)) = tokio::time::timeout(LOOKUP_DEADLINE, found).await {
                rules.extend(found.map(|address| self.rule_for(address.ip())));
            }
        }
        rules
    }

    /// What names it.
    pub(crate) fn rule(&self) -> EgressRule {
        match &self.host {
            ProxyHost::Loopback => self.rule_for(Ipv4Addr::LOCALHOST.into()),
            ProxyHost::LoopbackV6 => self.rule_for(Ipv6Addr::LOCALHOST.into()),
            ProxyHost::Address(address) => self.rule_for(*address),
            ProxyHost::Name(name) => {
                let pattern = HostPattern::Exactly(name.clone());
                EgressRule::Host(HostRule { pattern, port: Some(self.port) })
            }
        }
    }

    fn rule_for(&self, address: IpAddr) -> EgressRule {
        EgressRule::Network(NetworkRule { network: IpNet::from(address), port: Some(self.port) })
    }
}

impl ProxyHost {
    fn from_text(text: &str) -> Option<Self> {
        if let Ok(address) = text.parse::<IpAddr>() {
            return Some(match address {
                IpAddr::V4(Ipv4Addr::LOCALHOST | Ipv4Addr::UNSPECIFIED) => Self::Loopback,
                IpAddr::V6(Ipv6Addr::LOCALHOST | Ipv6Addr::UNSPECIFIED) => Self::LoopbackV6,
                other => Self::Address(other),
            });
        }
        // It goes into a guest's shell script and into a rule; both want a name that can be looked up.
        let name = text.strip_suffix('.').unwrap_or(text).to_ascii_lowercase();
        if name == "localhost" || name.ends_with(".localhost") {
            return Some(Self::Loopback);
        }
        (!name.contains('*') && name.parse::<HostRule>().is_ok()).then_some(Self::Name(name))
    }
}

#[cfg(test)]
mod tests {
    use super::super::options::text;
    use super::*;

    fn proxy(url: &str) -> Proxy {
        Proxy::parse("HTTPS_PROXY", url.as_ref()).unwrap()
    }

    async fn rules(url: &str) -> Vec<String> {
        proxy(url).rules().await.iter().map(text).collect()
    }

    #[tokio::test]
    async fn a_proxy_on_the_loopback_is_reached_through_the_gateway() {
        for url in ["http://127.0.0.1:3128", "localhost:3128", "HTTP://LOCALHOST.:3128/"] {
            assert_eq!(proxy(url).for_guest(), "http://host.pyro.internal:3128", "{url}");
            assert_eq!(rules(url).await, ["127.0.0.1:3128"]);
        }
        assert_eq!(proxy("socks5h://[::1]").for_guest(), "socks5h://[fd70:7972:6f00::1]:1080");
        assert_eq!(rules("socks5h://[::1]").await, ["[::1]:1080"]);
    }

    #[tokio::test]
    async fn any_other_stays_what_it_is() {
        assert_eq!(proxy("10.0.0.1").for_guest(), "http://10.0.0.1:80");
        assert_eq!(rules("10.0.0.1").await, ["10.0.0.1:80"]);
        let url = "https://user:p%40ss@proxy.invalid:8443";
        assert_eq!(proxy(url).for_guest(), url);
        assert_eq!(rules(url).await, ["proxy.invalid:8443"]);
        assert_eq!(proxy("http://[fd00::1]:80/").for_guest(), "http://[fd00::1]:80");
    }

    #[test]
    fn what_is_no_proxy_is_refused_without_its_password() {
        for url in
            ["", "http://", "ftp://a:1", "http://secret@a:0", "http://secret@a b:1", "http://[x]"]
        {
            let error = Proxy::parse("HTTPS_PROXY", url.as_ref()).err().unwrap();
            assert_eq!(error.message, "HTTPS_PROXY is no address of a proxy", "{url}");
        }
        let error = Proxy::parse("ALL_PROXY", "http://secret@127.0.0.53:1".as_ref()).err().unwrap();
        assert_eq!(error.message, "ALL_PROXY names 127.0.0.53, which no guest can reach");
    }
}
