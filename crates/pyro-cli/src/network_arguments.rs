//! The options of a network: a VM's, and those that pin what calls may ask for.

use clap::Args;
use pyro_core::{NetworkOptions, PolicyOptions};

/// The network of a VM.
#[derive(Debug, Args)]
#[command(next_help_heading = "Network")]
pub(crate) struct NetworkArguments {
    /// Let the guest reach the network: public addresses, and nothing of this host or its private networks
    #[arg(long)]
    pub(crate) network: bool,
    #[command(flatten)]
    pub(crate) policy: PolicyArguments,
    /// Have a port of this host's 127.0.0.1 lead to one of the guest's; with the latter alone any that is free;
    /// may be given several times
    #[arg(long, value_name = "[HOST_PORT:]PORT")]
    pub(crate) publish: Vec<String>,
    /// Give commands the proxy that this host's environment names
    #[arg(long)]
    pub(crate) host_proxy: bool,
    /// Have commands trust the certificate authorities that this host trusts
    #[arg(long)]
    pub(crate) host_ca: bool,
}

/// What may be reached.
#[derive(Debug, Args)]
pub(crate) struct PolicyArguments {
    /// Allow this name, or with `*.` all below it, and nothing else that is not allowed as well;
    /// may be given several times
    #[arg(long, value_name = "NAME[:PORT]")]
    pub(crate) allow_host: Vec<String>,
    /// Allow this address or network, also a private one or 127.0.0.1, and nothing else that is not
    /// allowed as well; may be given several times
    #[arg(long, value_name = "CIDR[:PORT]")]
    pub(crate) allow_cidr: Vec<String>,
    /// Allow all public addresses beside what else is allowed
    #[arg(long)]
    pub(crate) allow_public: bool,
    /// Refuse this name, whatever is allowed; may be given several times
    #[arg(long, value_name = "NAME[:PORT]")]
    pub(crate) deny_host: Vec<String>,
    /// Refuse this address or network, whatever is allowed; may be given several times
    #[arg(long, value_name = "CIDR[:PORT]")]
    pub(crate) deny_cidr: Vec<String>,
}

/// What networks of VMs may be.
#[derive(Debug, Args)]
#[command(next_help_heading = "What networks calls may ask for")]
pub(crate) struct NetworkPinArguments {
    /// Refuse calls that ask for a network
    #[arg(long)]
    pub(crate) no_network: bool,
    /// Refuse calls that publish a port
    #[arg(long)]
    pub(crate) no_publish: bool,
    #[command(flatten)]
    pub(crate) policy: PolicyArguments,
}

impl NetworkArguments {
    pub(crate) fn options(&self) -> NetworkOptions {
        NetworkOptions {
            network: self.network,
            policy: self.policy.options(),
            publish: self.publish.clone(),
            host_proxy: self.host_proxy,
            host_ca: self.host_ca,
        }
    }
}

impl PolicyArguments {
    pub(crate) fn options(&self) -> PolicyOptions {
        PolicyOptions {
            allow_hosts: self.allow_host.clone(),
            allow_cidrs: self.allow_cidr.clone(),
            deny_hosts: self.deny_host.clone(),
            deny_cidrs: self.deny_cidr.clone(),
            allow_public: self.allow_public,
        }
    }
}
