//! Decides over everything that the guest wants to reach, and writes down what is refused.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use pyro_protocol::layout::network::{GATEWAY_V4, GATEWAY_V6, HOST_NAME};
use pyro_protocol::network::{
    PolicyAuthor, Refusal, RefusalReason, RefusedDestination, RefusedProtocol,
};

use crate::names::Names;
use crate::policy::{Policies, Verdict};
use crate::refusals::RefusalLog;

/// The policies, and what they need to know.
#[derive(Debug)]
pub(crate) struct Gate {
    policies: Policies,
    names: Names,
    refusals: RefusalLog,
}

/// It was refused, and is written down.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Refused;

impl Gate {
    pub(crate) fn new(policies: Policies, refusals: RefusalLog) -> Self {
        Self { policies, names: Names::default(), refusals }
    }

    /// Where the host is to connect to for what the guest calls `destination`.
    pub(crate) fn pass(
        &self,
        protocol: RefusedProtocol,
        destination: SocketAddr,
    ) -> Result<SocketAddr, Refused> {
        let on_host = on_host(destination);
        match self.policies.check_address(on_host, &self.names) {
            Ok(()) => Ok(on_host),
            Err(verdict) => {
                self.note(protocol, self.address(destination.ip(), Some(on_host.port())), verdict);
                Err(Refused)
            }
        }
    }

    /// Notes a refusal that no policy has decided.
    pub(crate) fn refuse(
        &self,
        protocol: RefusedProtocol,
        (destination, port): (IpAddr, Option<u16>),
        reason: RefusalReason,
    ) {
        let verdict = Verdict { reason, author: PolicyAuthor::Caller };
        self.note(protocol, self.address(destination, port), verdict);
    }

    /// Whether a name, in lower case and without a dot at its end, may be looked up.
    pub(crate) fn pass_name(&self, name: &str) -> Result<(), Refused> {
        self.policies.check_name(name).map_err(|verdict| {
            let destination = RefusedDestination::Name(name.to_owned());
            self.note(RefusedProtocol::Dns, destination, verdict);
            Refused
        })
    }

    pub(crate) fn learn(&mut self, name: &str, address: IpAddr) {
        self.names.learn(name, address);
    }

    /// As the rules call it: what is at the gateway is at the host's loopback.
    fn address(&self, destination: IpAddr, port: Option<u16>) -> RefusedDestination {
        let on_host = on_host(SocketAddr::new(destination, 0)).ip();
        let name = if on_host == destination {
            self.names.of(destination).last().cloned()
        } else {
            Some(HOST_NAME.to_owned())
        };
        RefusedDestination::Address { address: on_host, port, name }
    }

    fn note(&self, protocol: RefusedProtocol, destination: RefusedDestination, verdict: Verdict) {
        let Verdict { reason, author } = verdict;
        self.refusals.note(&Refusal { protocol, destination, reason, author, count: 1 });
    }
}

/// The gateway stands for the host's loopback.
fn on_host(destination: SocketAddr) -> SocketAddr {
    let address = match destination.ip() {
        IpAddr::V4(GATEWAY_V4) => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(GATEWAY_V6) => Ipv6Addr::LOCALHOST.into(),
        other => other,
    };
    SocketAddr::new(address, destination.port())
}
