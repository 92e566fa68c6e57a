//! What a VM's network is, for users to read.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use ipnet::Ipv4Net;
use pyro_protocol::layout::network::{GATEWAY_V4, GUEST_MAC, GUEST_V4, PREFIX_LENGTH_V4};
use pyro_protocol::network::{
    AuthoredPolicy, EgressPolicy, EgressRule, NetworkSpec, PolicyAuthor, PublishedPort,
};
use serde::Serialize;

use super::options;
use super::pins::{self, NetworkPin};
use super::resolvers;
use crate::config::Config;

/// What a VM's network is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum NetworkInfo {
    Off(NoNetwork),
    On(Box<NetworkDetails>),
}

/// Of a VM without one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct NoNetwork {
    pub vm_id: String,
    pub network_enabled: bool,
    pub outbound_connectivity_expected: bool,
    pub reason: &'static str,
}

/// Of a VM with one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct NetworkDetails {
    pub vm_id: String,
    pub network_enabled: bool,
    /// There is no such device on the host.
    pub tap_name: Option<String>,
    pub guest_ip: IpAddr,
    pub gateway_ip: IpAddr,
    pub subnet_cidr: String,
    pub mac_address: String,
    /// As the guest knows them.
    pub dns_servers: Vec<IpAddr>,
    pub outbound_connectivity_expected: bool,
    pub published: Vec<PublishedPortInfo>,
    /// All of them must allow what the guest wants to reach.
    pub policy: Vec<PolicyInfo>,
}

/// A port of the guest that the host's programs can reach.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PublishedPortInfo {
    pub host_ip: IpAddr,
    /// 0 for one that is chosen when the VM starts.
    pub host_port: u16,
    pub guest_port: u16,
}

/// A policy, with rules as they are written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PolicyInfo {
    /// `caller` or `operator`
    pub author: &'static str,
    /// Where an operator wrote it.
    pub source: Option<String>,
    pub allow: Vec<String>,
    pub deny: Vec<String>,
}

/// What an operator allows, in force for every VM of this process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PinInfo {
    pub source: String,
    pub network: bool,
    pub publish: bool,
    /// `None` where it restricts no destination.
    pub allow: Option<Vec<String>>,
    pub deny: Vec<String>,
}

/// Whether guests can have a network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct NetworkingReport {
    pub available: bool,
    pub reason: String,
    /// Where guests' names are looked up.
    pub resolvers: Vec<String>,
    pub pins: Vec<PinInfo>,
    /// What is to be corrected before any VM can have a network.
    pub problems: Vec<String>,
}

/// The guest's address, the same in every VM.
pub(crate) fn guest_ip() -> IpAddr {
    GUEST_V4.into()
}

pub(crate) fn describe(vm_id: String, network: Option<&NetworkSpec>) -> NetworkInfo {
    let Some(network) = network else {
        return NetworkInfo::Off(NoNetwork {
            vm_id,
            network_enabled: false,
            outbound_connectivity_expected: false,
            reason: "the VM was created without a network",
        });
    };
    let subnet = Ipv4Net::new_assert(GUEST_V4, PREFIX_LENGTH_V4).trunc();
    NetworkInfo::On(Box::new(NetworkDetails {
        vm_id,
        network_enabled: true,
        tap_name: None,
        guest_ip: guest_ip(),
        gateway_ip: GATEWAY_V4.into(),
        subnet_cidr: subnet.to_string(),
        mac_address: GUEST_MAC.map(|byte| format!("{byte:02x}")).join(":"),
        dns_servers: vec![GATEWAY_V4.into()],
        outbound_connectivity_expected: true,
        published: network.published.iter().copied().map(PublishedPortInfo::from).collect(),
        policy: network.policies.iter().map(PolicyInfo::from).collect(),
    }))
}

/// What VMs of this process can have. `is_bootable` tells whether there can be any.
pub(crate) fn examine(config: &Config, is_bootable: bool) -> NetworkingReport {
    let mut problems = Vec::new();
    let servers = resolvers::of_host(config).unwrap_or_else(|error| {
        problems.push(error.one_line());
        Vec::new()
    });
    let pins = pins::of_host(config).unwrap_or_else(|error| {
        problems.push(error.one_line());
        Vec::new()
    });
    let off = pins.iter().find(|pin| !pin.is_network_allowed());
    let reason = if let Some(problem) = problems.first() {
        problem.clone()
    } else if let Some(pin) = off {
        format!("the operator of this host refuses it in `{}`", pin.source())
    } else if is_bootable {
        "a user-mode network of the VM's own process, for VMs that ask for one".to_owned()
    } else {
        "no VM can run here".to_owned()
    };
    NetworkingReport {
        available: is_bootable && problems.is_empty() && off.is_none(),
        reason,
        resolvers: servers.iter().map(SocketAddr::to_string).collect(),
        pins: pins.iter().map(PinInfo::from).collect(),
        problems,
    }
}

impl From<PublishedPort> for PublishedPortInfo {
    fn from(port: PublishedPort) -> Self {
        let host_ip = Ipv4Addr::LOCALHOST.into();
        Self { host_ip, host_port: port.host, guest_port: port.guest }
    }
}

impl From<&AuthoredPolicy> for PolicyInfo {
    fn from(AuthoredPolicy { author, policy }: &AuthoredPolicy) -> Self {
        let (author, source) = match author {
            PolicyAuthor::Caller => ("caller", None),
            PolicyAuthor::Operator { source } => ("operator", Some(source.clone())),
        };
        Self { author, source, allow: allowed(policy), deny: texts(&policy.deny) }
    }
}

impl From<&NetworkPin> for PinInfo {
    fn from(pin: &NetworkPin) -> Self {
        Self {
            source: pin.source().to_owned(),
            network: pin.is_network_allowed(),
            publish: pin.is_publishing_allowed(),
            allow: pin.policy().map(allowed),
            deny: pin.policy().map(|policy| texts(&policy.deny)).unwrap_or_default(),
        }
    }
}

/// What an empty list stands for is named.
fn allowed(policy: &EgressPolicy) -> Vec<String> {
    match policy.allow.as_slice() {
        [] => texts(&[EgressRule::Public]),
        rules => texts(rules),
    }
}

fn texts(rules: &[EgressRule]) -> Vec<String> {
    rules.iter().map(options::text).collect()
}
