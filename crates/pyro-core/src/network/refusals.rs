//! What a guest wanted to reach and did not, in words, and what would have let it.

use std::fmt::Write;
use std::net::SocketAddr;

use pyro_protocol::network::{
    AuthoredPolicy, EgressPolicy, EgressRule, HostRule, NetworkRule, PolicyAuthor, Refusal,
    RefusalReason, Refusals, RefusedDestination, RefusedProtocol,
};
use serde::Serialize;

use super::options;

/// Something that the guest wanted to reach, and did not.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct NetworkRefusal {
    pub protocol: RefusedProtocol,
    /// An address with its port, or the name that was looked up. Chosen by the guest.
    pub destination: String,
    /// The name, where it is known. Chosen by the guest.
    pub host: Option<String>,
    pub reason: RefusalReason,
    /// How often.
    pub count: u32,
    /// What was refused, why, and what can be done about it.
    pub message: String,
    /// `None` where no argument of a caller would.
    pub allow_with: Option<AllowWith>,
    /// The message without what can be done.
    #[serde(skip)]
    pub summary: String,
}

/// Arguments that allow a destination. Merged with those that a VM was made with they allow it, and everything that
/// was allowed before.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct AllowWith {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub allow_hosts: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub allow_cidrs: Vec<String>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub allow_public: bool,
}

impl AllowWith {
    /// As options of the command line.
    pub fn as_options(&self) -> String {
        let hosts = self.allow_hosts.iter().map(|rule| format!("--allow-host {rule}"));
        let cidrs = self.allow_cidrs.iter().map(|rule| format!("--allow-cidr {rule}"));
        let public = self.allow_public.then(|| "--allow-public".to_owned());
        hosts.chain(cidrs).chain(public).collect::<Vec<_>>().join(" ")
    }

    /// As arguments of a call.
    fn as_arguments(&self) -> String {
        let list = |name: &str, rules: &[String]| {
            let rules: Vec<_> = rules.iter().map(|rule| format!("\"{rule}\"")).collect();
            (!rules.is_empty()).then(|| format!("{name} [{}]", rules.join(", ")))
        };
        let lists =
            [list("allow_hosts", &self.allow_hosts), list("allow_cidrs", &self.allow_cidrs)];
        let public = self.allow_public.then(|| "allow_public true".to_owned());
        lists.into_iter().flatten().chain(public).collect::<Vec<_>>().join(" and ")
    }
}

/// The refusals of a run in a VM with these policies.
pub(crate) fn explain(refusals: &Refusals, policies: &[AuthoredPolicy]) -> Vec<NetworkRefusal> {
    let default = EgressPolicy::public();
    let of_caller = policies.iter().find(|policy| policy.author == PolicyAuthor::Caller);
    let policy = of_caller.map_or(&default, |authored| &authored.policy);
    refusals.list.iter().map(|refusal| explain_one(refusal, policy)).collect()
}

fn explain_one(refusal: &Refusal, policy: &EgressPolicy) -> NetworkRefusal {
    let host = match &refusal.destination {
        RefusedDestination::Name(name) => Some(name.clone()),
        RefusedDestination::Address { name, .. } => name.clone(),
    };
    let allow_with = match refusal.author {
        PolicyAuthor::Caller => allow_with(refusal, policy),
        PolicyAuthor::Operator { .. } => None,
    };
    let summary = summary(refusal);
    let message = match (&allow_with, remedy(refusal, policy)) {
        (Some(arguments), _) => {
            format!("{summary}; a VM made with {} as well reaches it", arguments.as_arguments())
        }
        (None, Some(remedy)) => format!("{summary}; {remedy}"),
        (None, None) => summary.clone(),
    };
    NetworkRefusal {
        protocol: refusal.protocol,
        destination: refusal.destination.to_string(),
        host,
        reason: refusal.reason,
        count: refusal.count,
        message,
        allow_with,
        summary,
    }
}

fn allow_with(refusal: &Refusal, policy: &EgressPolicy) -> Option<AllowWith> {
    let address = |rule: NetworkRule, stays_public: bool| AllowWith {
        allow_cidrs: vec![rule.to_string()],
        allow_public: stays_public,
        ..AllowWith::default()
    };
    let name = |text: String| {
        // The guest chose it: what is no rule is not proposed as one.
        let rule = options::allowed_host(&text).ok()?;
        Some(AllowWith { allow_hosts: vec![rule.to_string()], ..AllowWith::default() })
    };
    // The first rule of a list that was empty would close what was open until then.
    let is_public = policy.allow.is_empty() || policy.allow.contains(&EgressRule::Public);
    match (refusal.reason, &refusal.destination) {
        (RefusalReason::NotAllowed, RefusedDestination::Name(host)) => name(host.clone()),
        (
            RefusalReason::NotAllowed,
            RefusedDestination::Address { address: to, port, name: Some(host) },
        ) => {
            let text = port.map_or_else(|| host.clone(), |port| format!("{host}:{port}"));
            name(text).or_else(|| {
                Some(address(NetworkRule { network: (*to).into(), port: *port }, false))
            })
        }
        (
            RefusalReason::NotAllowed
            | RefusalReason::HostAddress
            | RefusalReason::PrivateAddress
            | RefusalReason::LinkLocalAddress
            | RefusalReason::SpecialAddress,
            RefusedDestination::Address { address: to, port, .. },
        ) => {
            let is_in_vain =
                matches!(to, std::net::IpAddr::V6(to) if to.to_ipv4_mapped().is_some());
            let rule = NetworkRule { network: (*to).into(), port: *port };
            (!is_in_vain).then(|| address(rule, is_public))
        }
        // Addresses that a name must not open; which they are nobody noted.
        (
            RefusalReason::HostAddress
            | RefusalReason::PrivateAddress
            | RefusalReason::LinkLocalAddress
            | RefusalReason::SpecialAddress,
            RefusedDestination::Name(_),
        )
        | (
            RefusalReason::Denied
            | RefusalReason::MulticastAddress
            | RefusalReason::TooManyConnections
            | RefusalReason::UnsupportedProtocol,
            _,
        ) => None,
    }
}

fn summary(refusal: &Refusal) -> String {
    let destination = &refusal.destination;
    let mut text = match (refusal.protocol, destination) {
        (RefusedProtocol::Dns, _) => format!("looking up {destination}"),
        (RefusedProtocol::Tcp, _) => format!("TCP to {destination}"),
        (RefusedProtocol::Udp, _) => format!("UDP to {destination}"),
        (RefusedProtocol::Icmp, _) => format!("ICMP to {destination}"),
    };
    if let RefusedDestination::Address { name: Some(name), .. } = destination {
        write!(text, " ({name})").expect("a String takes everything");
    }
    let reason = match refusal.reason {
        RefusalReason::Denied => "a rule denies it",
        RefusalReason::NotAllowed => "no rule allows it",
        RefusalReason::HostAddress => "it is the host's own address",
        RefusalReason::PrivateAddress => "it is a private address",
        RefusalReason::LinkLocalAddress => "it is a link-local address",
        RefusalReason::MulticastAddress => "it is a multicast address",
        RefusalReason::SpecialAddress => "it is no address of the Internet",
        RefusalReason::TooManyConnections => "the VM has as many connections as it may have",
        RefusalReason::UnsupportedProtocol => "it is neither TCP nor UDP",
    };
    match (&refusal.author, refusal.reason) {
        (_, RefusalReason::TooManyConnections | RefusalReason::UnsupportedProtocol)
        | (PolicyAuthor::Caller, _) => write!(text, " was refused: {reason}"),
        (PolicyAuthor::Operator { source }, _) => {
            write!(text, " was refused by the operator (`{source}`): {reason}")
        }
    }
    .expect("a String takes everything");
    text
}

/// What can be done where no argument helps.
fn remedy(refusal: &Refusal, policy: &EgressPolicy) -> Option<String> {
    match (&refusal.author, refusal.reason) {
        (_, RefusalReason::TooManyConnections) => {
            Some("close some, or open them one after the other".to_owned())
        }
        (_, RefusalReason::UnsupportedProtocol | RefusalReason::MulticastAddress) => {
            Some("pyro does not carry it".to_owned())
        }
        (PolicyAuthor::Operator { .. }, _) => Some("no call can change that".to_owned()),
        (PolicyAuthor::Caller, RefusalReason::Denied) => {
            let rule = policy.deny.iter().find(|rule| names(rule, &refusal.destination));
            let rule = rule.map_or_else(String::new, |rule| format!(" '{}'", options::text(rule)));
            Some(format!("a VM made without that rule{rule} reaches it"))
        }
        (
            PolicyAuthor::Caller,
            RefusalReason::NotAllowed
            | RefusalReason::HostAddress
            | RefusalReason::PrivateAddress
            | RefusalReason::LinkLocalAddress
            | RefusalReason::SpecialAddress,
        ) => matches!(refusal.destination, RefusedDestination::Name(_)).then(|| {
            "a name opens public addresses only: allow the address, with allow_cidrs".to_owned()
        }),
    }
}

/// Whether a rule names a destination.
fn names(rule: &EgressRule, destination: &RefusedDestination) -> bool {
    match (rule, destination) {
        (EgressRule::Host(HostRule { pattern, .. }), RefusedDestination::Name(name)) => {
            pattern.matches(name)
        }
        (
            EgressRule::Host(HostRule { pattern, port: of_rule }),
            RefusedDestination::Address { port, name: Some(name), .. },
        ) => pattern.matches(name) && of_rule.is_none_or(|of_rule| Some(of_rule) == *port),
        (EgressRule::Network(rule), RefusedDestination::Address { address, port, .. }) => {
            let to = SocketAddr::new(*address, port.unwrap_or_default());
            rule.network.contains(&to.ip())
                && rule.port.is_none_or(|of_rule| Some(of_rule) == *port)
        }
        (EgressRule::Public | EgressRule::Host(_) | EgressRule::Network(_), _) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::super::options::PolicyOptions;
    use super::*;

    fn to(address: &str, name: Option<&str>) -> RefusedDestination {
        let address: SocketAddr = address.parse().unwrap();
        let (name, port) = (name.map(str::to_owned), Some(address.port()));
        RefusedDestination::Address { address: address.ip(), port, name }
    }

    fn refused(destination: RefusedDestination, reason: RefusalReason) -> Refusal {
        let protocol = match destination {
            RefusedDestination::Name(_) => RefusedProtocol::Dns,
            RefusedDestination::Address { .. } => RefusedProtocol::Tcp,
        };
        Refusal { protocol, destination, reason, author: PolicyAuthor::Caller, count: 1 }
    }

    fn policy(allow_hosts: &[&str], allow_cidrs: &[&str], deny_cidrs: &[&str]) -> PolicyOptions {
        let texts = |texts: &[&str]| texts.iter().map(|&text| text.to_owned()).collect();
        PolicyOptions {
            allow_hosts: texts(allow_hosts),
            allow_cidrs: texts(allow_cidrs),
            deny_cidrs: texts(deny_cidrs),
            ..PolicyOptions::default()
        }
    }

    fn explained(refusal: &Refusal, options: &PolicyOptions) -> NetworkRefusal {
        let policy = options.parse().unwrap();
        explain_one(refusal, &policy)
    }

    #[test]
    fn a_private_address_can_be_allowed_without_losing_the_rest() {
        let refusal = refused(to("10.1.2.3:80", None), RefusalReason::PrivateAddress);
        let open = explained(&refusal, &PolicyOptions::default());
        assert_eq!(
            open.message,
            "TCP to 10.1.2.3:80 was refused: it is a private address; a VM made with allow_cidrs \
             [\"10.1.2.3:80\"] and allow_public true as well reaches it"
        );
        let allow_with = open.allow_with.unwrap();
        assert_eq!(allow_with.as_options(), "--allow-cidr 10.1.2.3:80 --allow-public");
        let json = serde_json::to_value(&allow_with).unwrap();
        let expected = serde_json::json!({ "allow_cidrs": ["10.1.2.3:80"], "allow_public": true });
        assert_eq!(json, expected);
        let closed = explained(&refusal, &policy(&["example.com"], &[], &[]));
        assert_eq!(closed.allow_with.unwrap().as_options(), "--allow-cidr 10.1.2.3:80");
    }

    #[test]
    fn what_no_rule_allows_is_allowed_by_its_name() {
        let options = policy(&["example.com"], &[], &[]);
        let name = RefusedDestination::Name("other.test".to_owned());
        let name = explained(&refused(name, RefusalReason::NotAllowed), &options);
        assert_eq!(name.summary, "looking up other.test was refused: no rule allows it");
        assert_eq!(name.allow_with.unwrap().as_options(), "--allow-host other.test");
        let address = to("8.8.8.8:443", Some("other.test"));
        let address = explained(&refused(address, RefusalReason::NotAllowed), &options);
        assert_eq!(address.host.as_deref(), Some("other.test"));
        assert_eq!(address.allow_with.unwrap().as_options(), "--allow-host other.test:443");
        let address = to("[2606:4700::1111]:443", None);
        let address = explained(&refused(address, RefusalReason::NotAllowed), &options);
        let expected = "--allow-cidr [2606:4700::1111]:443";
        assert_eq!(address.allow_with.unwrap().as_options(), expected);
    }

    #[test]
    fn what_is_denied_says_by_which_rule() {
        let options = policy(&[], &[], &["8.8.0.0/16"]);
        let refusal = refused(to("8.8.8.8:53", None), RefusalReason::Denied);
        let denied = explained(&refusal, &options);
        assert_eq!(denied.allow_with, None);
        let end = "a rule denies it; a VM made without that rule '8.8.0.0/16' reaches it";
        assert!(denied.message.ends_with(end), "{}", denied.message);
    }

    #[test]
    fn what_the_operator_refuses_no_call_allows() {
        let author = PolicyAuthor::Operator { source: "PYRO_NETWORK".to_owned() };
        let refusal = refused(to("127.0.0.1:80", None), RefusalReason::HostAddress);
        let refusal = explained(&Refusal { author, ..refusal }, &PolicyOptions::default());
        assert_eq!(refusal.allow_with, None);
        assert_eq!(
            refusal.message,
            "TCP to 127.0.0.1:80 was refused by the operator (`PYRO_NETWORK`): it is the host's own address; no \
             call can change that"
        );
    }

    #[test]
    fn a_name_that_is_no_rule_is_not_proposed_as_one() {
        for name in ["a\" and allow_public true", "localhost", "*"] {
            let name = RefusedDestination::Name(name.to_owned());
            let refusal = refused(name, RefusalReason::NotAllowed);
            assert_eq!(explained(&refusal, &PolicyOptions::default()).allow_with, None);
        }
    }

    /// The promise of `allow_with`, for each kind of destination and each kind of list.
    #[test]
    fn merged_arguments_are_a_policy_that_has_the_rule_and_all_others() {
        let lists = [
            PolicyOptions::default(),
            policy(&["example.com"], &[], &["8.8.0.0/16"]),
            policy(&[], &["10.0.0.0/8"], &[]),
            PolicyOptions { allow_public: true, ..policy(&[], &["10.0.0.0/8"], &[]) },
        ];
        for options in lists {
            for (destination, reason) in [
                (to("192.168.1.1:80", None), RefusalReason::PrivateAddress),
                (to("127.0.0.1:8080", None), RefusalReason::HostAddress),
                (to("9.9.9.9:443", Some("other.test")), RefusalReason::NotAllowed),
            ] {
                let before = options.parse().unwrap();
                let is_public_refused =
                    reason == RefusalReason::NotAllowed && before.allow.is_empty();
                if is_public_refused {
                    continue;
                }
                let more = explained(&refused(destination, reason), &options).allow_with.unwrap();
                let mut merged = options.clone();
                merged.allow_hosts.extend(more.allow_hosts);
                merged.allow_cidrs.extend(more.allow_cidrs);
                merged.allow_public |= more.allow_public;
                let after = merged.parse().unwrap();
                let is_open = |policy: &EgressPolicy| {
                    policy.allow.is_empty() || policy.allow.contains(&EgressRule::Public)
                };
                assert_eq!(is_open(&before), is_open(&after), "{options:?}");
                assert!(before.allow.iter().all(|rule| after.allow.contains(rule)));
                let was_open = usize::from(is_open(&before) && before.allow.is_empty());
                assert_eq!(after.allow.len(), before.allow.len() + 1 + was_open);
            }
        }
    }
}
