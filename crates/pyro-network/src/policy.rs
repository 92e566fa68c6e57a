//! What the guest may reach: every policy of a VM, asked as one.
//!
//! Each policy must allow a destination. A policy decides in this order:
//!
//! 1. A `deny` rule that names it refuses it.
//! 2. A `allow` rule for its network allows it, whatever kind of address it is.
//! 3. Otherwise an address that is not public, or that is the host's own, is refused, also where an allowed
//!    name stands for it: a name server must not be able to open what the rules do not.
//! 4. An allowed name that was looked up and found to have this address allows it, and so does `Public`,
//!    which stands for a list of `allow` rules that is empty.
//!
//! Names are decided when they are looked up: one that may not be reached is not resolved. A policy without
//! names and without `Public` resolves none, because a lookup alone can carry data out.

use std::net::SocketAddr;

use pyro_protocol::network::{
    AuthoredPolicy, EgressPolicy, EgressRule, HostRule, PolicyAuthor, RefusalReason,
};

use crate::address;
use crate::names::Names;

/// All policies of a VM.
#[derive(Debug)]
pub(crate) struct Policies(Vec<AuthoredPolicy>);

/// A refusal: why, and whose.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Verdict {
    pub(crate) reason: RefusalReason,
    pub(crate) author: PolicyAuthor,
}

impl Policies {
    pub(crate) fn new(policies: Vec<AuthoredPolicy>) -> Self {
        Self(policies)
    }

    /// Whether a packet may go to `destination`, an address as the host will use it.
    pub(crate) fn check_address(
        &self,
        destination: SocketAddr,
        names: &Names,
    ) -> Result<(), Verdict> {
        let kind = address::not_public(destination.ip()).or_else(|| {
            address::is_of_host(destination.ip()).then_some(RefusalReason::HostAddress)
        });
        let address_names = names.of(destination.ip());
        self.each(|policy| check_address(policy, destination, kind, address_names))
    }

    /// Whether `name`, in lower case and without a dot at its end, may be looked up.
    pub(crate) fn check_name(&self, name: &str) -> Result<(), Verdict> {
        self.each(|policy| check_name(policy, name))
    }

    fn each(
        &self,
        check: impl Fn(&EgressPolicy) -> Result<(), RefusalReason>,
    ) -> Result<(), Verdict> {
        self.0.iter().try_for_each(|AuthoredPolicy { author, policy }| {
            check(policy).map_err(|reason| Verdict { reason, author: author.clone() })
        })
    }
}

fn check_address(
    policy: &EgressPolicy,
    destination: SocketAddr,
    kind: Option<RefusalReason>,
    names: &[String],
) -> Result<(), RefusalReason> {
    let is_public = kind.is_none();
    let by_name = |rule: &EgressRule| match rule {
        EgressRule::Host(rule) => {
            is_port(rule.port, destination) && names.iter().any(|name| rule.pattern.matches(name))
        }
        EgressRule::Public => is_public,
        EgressRule::Network(_) => false,
    };
    let by_network = |rule: &EgressRule| match rule {
        EgressRule::Network(rule) => {
            is_port(rule.port, destination) && rule.network.contains(&destination.ip())
        }
        EgressRule::Host(_) | EgressRule::Public => false,
    };
    if policy.deny.iter().any(|rule| by_network(rule) || by_name(rule)) {
        return Err(RefusalReason::Denied);
    }
    if policy.allow.iter().any(by_network) {
        return Ok(());
    }
    if let Some(reason) = kind {
        return Err(reason);
    }
    if policy.allow.is_empty() || policy.allow.iter().any(by_name) {
        return Ok(());
    }
    Err(RefusalReason::NotAllowed)
}

fn check_name(policy: &EgressPolicy, name: &str) -> Result<(), RefusalReason> {
    let is_whole_name = |rule: &HostRule| rule.port.is_none() && rule.pattern.matches(name);
    let is_denied = policy.deny.iter().any(|rule| match rule {
        EgressRule::Host(rule) => is_whole_name(rule),
        // Nothing public may be reached, so no name is of use but one that is allowed by name.
        EgressRule::Public => !names_it(&policy.allow, name),
        EgressRule::Network(_) => false,
    });
    if is_denied {
        return Err(RefusalReason::Denied);
    }
    let is_allowed = policy.allow.is_empty()
        || policy.allow.contains(&EgressRule::Public)
        || names_it(&policy.allow, name);
    is_allowed.then_some(()).ok_or(RefusalReason::NotAllowed)
}

fn names_it(rules: &[EgressRule], name: &str) -> bool {
    rules.iter().any(|rule| matches!(rule, EgressRule::Host(rule) if rule.pattern.matches(name)))
}

fn is_port(port: Option<u16>, destination: SocketAddr) -> bool {
    port.is_none_or(|port| port == destination.port())
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;

    fn host(text: &str) -> EgressRule {
        EgressRule::Host(text.parse().unwrap())
    }

    fn network(text: &str) -> EgressRule {
        EgressRule::Network(text.parse().unwrap())
    }

    fn policies(allow: &[EgressRule], deny: &[EgressRule]) -> Policies {
        let policy = EgressPolicy { allow: allow.to_vec(), deny: deny.to_vec() };
        Policies::new(vec![AuthoredPolicy { author: PolicyAuthor::Caller, policy }])
    }

    fn names(entries: &[(&str, &str)]) -> Names {
        let mut names = Names::default();
        for (name, address) in entries {
            names.learn(name, address.parse::<IpAddr>().unwrap());
        }
        names
    }

    /// `None` where it is allowed.
    fn reason(policies: &Policies, destination: &str, names: &Names) -> Option<RefusalReason> {
        let destination = destination.parse().unwrap();
        policies.check_address(destination, names).err().map(|verdict| verdict.reason)
    }

    #[test]
    fn by_default_the_internet_is_reachable_and_nothing_else() {
        let policies = policies(&[], &[]);
        let names = names(&[("metadata.test", "169.254.169.254")]);
        assert_eq!(reason(&policies, "8.8.8.8:443", &names), None);
        assert_eq!(reason(&policies, "[2606:4700::1111]:443", &names), None);
        for (destination, expected) in [
            ("127.0.0.1:80", RefusalReason::HostAddress),
            ("10.0.0.1:80", RefusalReason::PrivateAddress),
            ("169.254.169.254:80", RefusalReason::LinkLocalAddress),
            ("[ff02::1]:80", RefusalReason::MulticastAddress),
        ] {
            assert_eq!(reason(&policies, destination, &names), Some(expected));
        }
        policies.check_name("whatever.test").unwrap();
    }

    #[test]
    fn an_allowed_name_opens_what_it_resolved_to_and_nothing_else() {
        let policies = policies(&[host("example.com:443")], &[]);
        let names = names(&[("example.com", "8.8.8.8"), ("other.test", "9.9.9.9")]);
        assert_eq!(reason(&policies, "8.8.8.8:443", &names), None);
        let refused = Some(RefusalReason::NotAllowed);
        assert_eq!(reason(&policies, "8.8.8.8:80", &names), refused);
        assert_eq!(reason(&policies, "9.9.9.9:443", &names), refused);
        assert_eq!(reason(&policies, "1.1.1.1:443", &names), refused);
        policies.check_name("example.com").unwrap();
        assert_eq!(
            policies.check_name("other.test").unwrap_err().reason,
            RefusalReason::NotAllowed
        );
    }

    #[test]
    fn an_allowed_name_that_stands_for_a_private_address_opens_nothing() {
        let rules = [host("example.com")];
        let names = names(&[("example.com", "10.0.0.1"), ("example.com", "127.0.0.1")]);
        let opened = policies(&rules, &[]);
        let expected = Some(RefusalReason::PrivateAddress);
        assert_eq!(reason(&opened, "10.0.0.1:80", &names), expected);
        assert_eq!(reason(&opened, "127.0.0.1:80", &names), Some(RefusalReason::HostAddress));
        let with_network = policies(&[host("example.com"), network("10.0.0.0/24:80")], &[]);
        assert_eq!(reason(&with_network, "10.0.0.1:80", &names), None);
        assert_eq!(reason(&with_network, "10.0.0.1:81", &names), expected);
    }

    #[test]
    fn allowed_networks_alone_close_everything_else_also_names() {
        let policies = policies(&[network("10.1.0.0/16")], &[]);
        let names = Names::default();
        assert_eq!(reason(&policies, "10.1.2.3:80", &names), None);
        assert_eq!(reason(&policies, "8.8.8.8:80", &names), Some(RefusalReason::NotAllowed));
        policies.check_name("example.com").unwrap_err();
    }

    #[test]
    fn public_beside_a_network_is_wider_than_the_default() {
        let policies = policies(&[EgressRule::Public, network("127.0.0.1:8080")], &[]);
        let names = Names::default();
        assert_eq!(reason(&policies, "8.8.8.8:80", &names), None);
        assert_eq!(reason(&policies, "127.0.0.1:8080", &names), None);
        let refused = Some(RefusalReason::HostAddress);
        assert_eq!(reason(&policies, "127.0.0.1:8081", &names), refused);
        policies.check_name("example.com").unwrap();
    }

    #[test]
    fn deny_wins_whatever_is_allowed() {
        let denied = Some(RefusalReason::Denied);
        let names = names(&[("bad.test", "8.8.8.8"), ("api.bad.test", "9.9.9.9")]);
        let narrowed = policies(
            &[EgressRule::Public, network("10.0.0.0/8")],
            &[host("bad.test"), host("*.bad.test"), network("10.9.0.0/16")],
        );
        assert_eq!(reason(&narrowed, "8.8.8.8:80", &names), denied);
        assert_eq!(reason(&narrowed, "9.9.9.9:80", &names), denied);
        assert_eq!(reason(&narrowed, "10.9.0.1:80", &names), denied);
        assert_eq!(reason(&narrowed, "10.8.0.1:80", &names), None);
        narrowed.check_name("bad.test").unwrap_err();
        narrowed.check_name("api.bad.test").unwrap_err();
        narrowed.check_name("good.test").unwrap();
        let one_port = policies(&[], &[host("bad.test:25")]);
        one_port.check_name("bad.test").unwrap();
        assert_eq!(reason(&one_port, "8.8.8.8:25", &names), denied);
        assert_eq!(reason(&one_port, "8.8.8.8:443", &names), None);
    }

    #[test]
    fn without_the_internet_only_names_that_are_allowed_are_looked_up() {
        let policies = policies(&[host("a.test")], &[EgressRule::Public]);
        policies.check_name("a.test").unwrap();
        policies.check_name("b.test").unwrap_err();
    }

    #[test]
    fn no_caller_widens_what_the_operator_allows() {
        let operator = PolicyAuthor::Operator { source: "PYRO_NETWORK".to_owned() };
        let pin = EgressPolicy { allow: vec![host("*.example.org")], deny: Vec::new() };
        let wish = EgressPolicy {
            allow: vec![EgressRule::Public, network("0.0.0.0/0")],
            deny: Vec::new(),
        };
        let policies = Policies::new(vec![
            AuthoredPolicy { author: PolicyAuthor::Caller, policy: wish },
            AuthoredPolicy { author: operator.clone(), policy: pin },
        ]);
        let names = names(&[("a.example.org", "8.8.8.8")]);
        assert_eq!(reason(&policies, "8.8.8.8:443", &names), None);
        let refused = Verdict { reason: RefusalReason::NotAllowed, author: operator.clone() };
        assert_eq!(policies.check_address("9.9.9.9:443".parse().unwrap(), &names), Err(refused));
        assert_eq!(policies.check_name("example.com").unwrap_err().author, operator);
        let private = Some(RefusalReason::PrivateAddress);
        assert_eq!(reason(&policies, "10.0.0.1:443", &names), private);
    }
}
