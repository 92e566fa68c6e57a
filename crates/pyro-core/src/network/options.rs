//! What may be said about a VM's network, as texts: the same names and the same errors on every surface.

use std::fmt::Display;
use std::str::FromStr;

use pyro_protocol::layout::network::HOST_NAME;
use pyro_protocol::network::{
    EgressPolicy, EgressRule, HostPattern, HostRule, NetworkRule, PublishedPort, RULES_MAX,
    RuleError,
};

use crate::PyroError;
use crate::limits::invalid;

/// What a caller says about the network of a VM.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NetworkOptions {
    /// Without it none of the others may be given.
    pub network: bool,
    pub policy: PolicyOptions,
    /// `[HOST_PORT:]GUEST_PORT`
    pub publish: Vec<String>,
    /// Commands use the proxy that the host's environment names.
    pub host_proxy: bool,
    /// Commands trust the authorities that the host trusts.
    pub host_ca: bool,
}

/// The rules of a policy, a caller's or an operator's.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PolicyOptions {
    pub allow_hosts: Vec<String>,
    pub allow_cidrs: Vec<String>,
    pub deny_hosts: Vec<String>,
    pub deny_cidrs: Vec<String>,
    pub allow_public: bool,
}

impl NetworkOptions {
    /// The first option that means nothing without a network, if one is given.
    pub(crate) fn in_need_of_a_network(&self) -> Option<&'static str> {
        let given = [
            ("publish", !self.publish.is_empty()),
            ("host_proxy", self.host_proxy),
            ("host_ca", self.host_ca),
        ];
        let of_policy = self.policy.given();
        of_policy.or_else(|| given.into_iter().find(|(_, given)| *given).map(|(name, _)| name))
    }
}

impl PolicyOptions {
    fn given(&self) -> Option<&'static str> {
        let given = [
            ("allow_hosts", !self.allow_hosts.is_empty()),
            ("allow_cidrs", !self.allow_cidrs.is_empty()),
            ("deny_hosts", !self.deny_hosts.is_empty()),
            ("deny_cidrs", !self.deny_cidrs.is_empty()),
            ("allow_public", self.allow_public),
        ];
        given.into_iter().find(|(_, given)| *given).map(|(name, _)| name)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.given().is_none()
    }

    /// Fails with `invalid_input` for a rule that makes no sense, for too many, and for one that allows what another
    /// denies: it would have no effect, and be missed.
    pub(crate) fn parse(&self) -> Result<EgressPolicy, PyroError> {
        let counts = [
            ("allow_hosts and allow_cidrs", self.allow_hosts.len() + self.allow_cidrs.len()),
            ("deny_hosts and deny_cidrs", self.deny_hosts.len() + self.deny_cidrs.len()),
        ];
        if let Some((names, count)) = counts.into_iter().find(|(_, count)| *count > RULES_MAX) {
            let message =
                format!("{names} must be at most {RULES_MAX} rules together, not {count}");
            return Err(invalid(message).hint("name networks or *.domains instead of their parts"));
        }
        let mut allow = if self.allow_public { vec![EgressRule::Public] } else { Vec::new() };
        add(&mut allow, hosts("allow_hosts", &self.allow_hosts)?);
        add(&mut allow, networks("allow_cidrs", &self.allow_cidrs)?);
        let mut deny = Vec::new();
        add(&mut deny, hosts("deny_hosts", &self.deny_hosts)?);
        add(&mut deny, networks("deny_cidrs", &self.deny_cidrs)?);
        for rule in &allow {
            if let Some(denied) = deny.iter().find(|denied| covers(denied, rule)) {
                let (allowed, denied) = (text(rule), text(denied));
                let message = format!("'{allowed}' is allowed in vain: '{denied}' is denied");
                return Err(invalid(message).hint("leave out one of them: what is denied stays so"));
            }
        }
        Ok(EgressPolicy { allow, deny })
    }
}

/// Parses one rule of `allow_hosts`, or fails with what would be reached instead.
pub(crate) fn allowed_host(text: &str) -> Result<HostRule, PyroError> {
    let rule = parsed::<HostRule>("allow_hosts", text)?;
    // Such names lead to addresses that no name can open.
    let (HostPattern::Exactly(name) | HostPattern::Below(name)) = &rule.pattern;
    let is_local = name == "localhost" || name.ends_with(".localhost");
    if is_local || name == HOST_NAME {
        let port = rule.port.map_or_else(|| "PORT".to_owned(), |port| port.to_string());
        let meaning = if is_local { "the guest itself" } else { "the host's loopback" };
        return Err(invalid(format!(
            "allow_hosts: '{text}' opens nothing: it is {meaning}, which needs no name, or another rule"
        ))
        .hint(format!(
            "to let the guest reach a port of the host's loopback as `{HOST_NAME}`, allow the CIDR 127.0.0.1:{port}"
        )));
    }
    Ok(rule)
}

/// Parses ports to be published. Fails with `invalid_input` where one makes no sense, or is there twice.
pub(crate) fn published(texts: &[String]) -> Result<Vec<PublishedPort>, PyroError> {
    if texts.len() > RULES_MAX {
        let count = texts.len();
        return Err(invalid(format!("publish must be at most {RULES_MAX} ports, not {count}")));
    }
    let mut ports: Vec<PublishedPort> = Vec::new();
    for text in texts {
        let port: PublishedPort = parsed("publish", text)?;
        let is_taken = |known: &PublishedPort| {
            known.host == port.host && (port.host != 0 || known.guest == port.guest)
        };
        if ports.iter().any(is_taken) {
            let message = if port.host == 0 {
                format!("publish: the guest's port {} is there twice", port.guest)
            } else {
                format!("publish: the host's port {} is there twice", port.host)
            };
            return Err(invalid(message).hint("leave out one, or choose another port of the host"));
        }
        ports.push(port);
    }
    Ok(ports)
}

/// A rule as it is written.
pub(crate) fn text(rule: &EgressRule) -> String {
    match rule {
        EgressRule::Public => "public".to_owned(),
        EgressRule::Host(rule) => rule.to_string(),
        EgressRule::Network(rule) => rule.to_string(),
    }
}

fn hosts(name: &str, texts: &[String]) -> Result<Vec<EgressRule>, PyroError> {
    let parse = |text: &String| match name {
        "allow_hosts" => allowed_host(text),
        _ => parsed(name, text),
    };
    texts.iter().map(|text| parse(text).map(EgressRule::Host)).collect()
}

fn networks(name: &str, texts: &[String]) -> Result<Vec<EgressRule>, PyroError> {
    texts.iter().map(|text| parsed::<NetworkRule>(name, text).map(EgressRule::Network)).collect()
}

fn parsed<T: FromStr<Err = RuleError> + Display>(name: &str, text: &str) -> Result<T, PyroError> {
    text.trim()
        .parse()
        .map_err(|error: RuleError| invalid(format!("{name}: {error}")).hint(error.remedy))
}

/// Said twice is no mistake: options are merged from several places.
fn add(rules: &mut Vec<EgressRule>, more: Vec<EgressRule>) {
    for rule in more {
        if !rules.contains(&rule) {
            rules.push(rule);
        }
    }
}

/// Whether nothing is left of `rule` where `denied` is refused.
pub(crate) fn covers(denied: &EgressRule, rule: &EgressRule) -> bool {
    let is_port = |denied: Option<u16>, port| denied.is_none() || denied == port;
    match (denied, rule) {
        (EgressRule::Host(denied), EgressRule::Host(rule)) => {
            let is_name = match (&denied.pattern, &rule.pattern) {
                (pattern, HostPattern::Exactly(name)) => pattern.matches(name),
                (HostPattern::Below(all), HostPattern::Below(some)) => {
                    all == some || denied.pattern.matches(some)
                }
                (HostPattern::Exactly(_), HostPattern::Below(_)) => false,
            };
            is_name && is_port(denied.port, rule.port)
        }
        (EgressRule::Network(denied), EgressRule::Network(rule)) => {
            denied.network.contains(&rule.network) && is_port(denied.port, rule.port)
        }
        (EgressRule::Public, EgressRule::Public) => true,
        (EgressRule::Public | EgressRule::Host(_) | EgressRule::Network(_), _) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(texts: &[&str]) -> Vec<String> {
        texts.iter().map(|&text| text.to_owned()).collect()
    }

    fn allowed_and_denied(allow: &[&str], deny: &[&str]) -> Result<EgressPolicy, PyroError> {
        let (networks, names): (Vec<_>, Vec<_>) =
            allow.iter().partition(|text| text.starts_with(char::is_numeric));
        let (denied_networks, denied_names): (Vec<_>, Vec<_>) =
            deny.iter().partition(|text| text.starts_with(char::is_numeric));
        let policy = PolicyOptions {
            allow_hosts: texts(&names),
            allow_cidrs: texts(&networks),
            deny_hosts: texts(&denied_names),
            deny_cidrs: texts(&denied_networks),
            allow_public: false,
        };
        policy.parse()
    }

    #[test]
    fn rules_are_kept_in_order_and_once() {
        let policy = PolicyOptions {
            allow_hosts: texts(&["Example.com:443", "example.com:443"]),
            allow_cidrs: texts(&["10.0.0.0/8"]),
            allow_public: true,
            ..PolicyOptions::default()
        };
        let rules: Vec<_> = policy.parse().unwrap().allow.iter().map(text).collect();
        assert_eq!(rules, ["public", "example.com:443", "10.0.0.0/8"]);
    }

    #[test]
    fn a_rule_that_makes_no_sense_names_its_option_and_the_remedy() {
        let error = allowed_and_denied(&["example..com"], &[]).unwrap_err();
        assert!(error.message.starts_with("allow_hosts: 'example..com' is no host: "), "{error}");
        assert!(error.hints[0].starts_with("write a name like "), "{error:?}");
        let error = allowed_and_denied(&[], &["10.1.2.3/8"]).unwrap_err();
        assert!(error.message.starts_with("deny_cidrs: '10.1.2.3/8' is no CIDR rule: "), "{error}");
        assert_eq!(error.hints, ["write 10.0.0.0/8, or 10.1.2.3"]);
        let many: Vec<_> = (0..=RULES_MAX).map(|number| format!("{number}.example")).collect();
        let policy = PolicyOptions { deny_hosts: many, ..PolicyOptions::default() };
        let message = "deny_hosts and deny_cidrs must be at most 256 rules together, not 257";
        assert_eq!(policy.parse().unwrap_err().message, message);
    }

    #[test]
    fn what_is_allowed_and_denied_is_a_contradiction() {
        for (allow, deny) in [
            ("example.com", "example.com"),
            ("a.example.com:443", "*.example.com"),
            ("*.a.example.com", "*.example.com"),
            ("10.1.0.0/16", "10.0.0.0/8"),
            ("10.1.0.0/16:80", "10.0.0.0/8:80"),
        ] {
            let error = allowed_and_denied(&[allow], &[deny]).unwrap_err();
            let message = format!("'{allow}' is allowed in vain: '{deny}' is denied");
            assert_eq!(error.message, message);
        }
        for (allow, deny) in [
            ("*.example.com", "a.example.com"),
            ("example.com", "example.com:25"),
            ("10.0.0.0/8", "10.1.0.0/16"),
            ("example.com", "10.0.0.0/8"),
        ] {
            allowed_and_denied(&[allow], &[deny]).unwrap();
        }
    }

    #[test]
    fn the_names_of_the_loopback_are_told_apart_from_its_addresses() {
        let error = allowed_and_denied(&["localhost:8080"], &[]).unwrap_err();
        assert!(error.hints[0].ends_with("allow the CIDR 127.0.0.1:8080"), "{error:?}");
        let error = allowed_and_denied(&[HOST_NAME], &[]).unwrap_err();
        assert!(error.hints[0].ends_with("allow the CIDR 127.0.0.1:PORT"), "{error:?}");
    }

    #[test]
    fn a_port_is_published_once() {
        let ports = published(&texts(&["8080:80", "8081:80", "80", "443"])).unwrap();
        assert_eq!(ports.len(), 4);
        let error = published(&texts(&["8080:80", "8080:81"])).unwrap_err();
        assert_eq!(error.message, "publish: the host's port 8080 is there twice");
        let error = published(&texts(&["80", "80"])).unwrap_err();
        assert_eq!(error.message, "publish: the guest's port 80 is there twice");
        let error = published(&texts(&["tcp"])).unwrap_err();
        assert!(error.message.starts_with("publish: 'tcp' is no port to publish: "), "{error}");
        assert!(published(&vec!["80".to_owned(); RULES_MAX + 1]).is_err());
    }
}
