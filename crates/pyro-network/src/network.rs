//! The network of one VM, from its ports to its end.

use std::io;
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::net::UnixStream;
use std::thread::JoinHandle;

use pyro_protocol::network::{NetworkSpec, PublishedPort};

use crate::refusals::RefusalLog;

/// A network that is ready for its VM: its published ports are its own.
#[derive(Debug)]
pub struct PreparedNetwork {
    spec: NetworkSpec,
    listeners: Vec<(TcpListener, PublishedPort)>,
}

/// A network that carries its VM's packets, on a thread of its own, until it is dropped or the VM's end of
/// the line is closed.
#[derive(Debug)]
pub struct RunningNetwork {
    published: Vec<PublishedPort>,
    refusals: RefusalLog,
    thread: Option<JoinHandle<()>>,
}

/// Why a port cannot be published.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on 127.0.0.1:{}, to publish the guest's port {}", port.host, port.guest)]
pub struct PublishError {
    pub port: PublishedPort,
    pub source: io::Error,
}

impl PreparedNetwork {
    /// Takes the ports that are to be published.
    pub fn new(spec: NetworkSpec) -> Result<Self, PublishError> {
        let bind = |&port: &PublishedPort| {
            let failed = |source| PublishError { port, source };
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port.host)).map_err(failed)?;
            let host = listener.local_addr().map_err(failed)?.port();
            Ok((listener, PublishedPort { host, ..port }))
        };
        let listeners = spec.published.iter().map(bind).collect::<Result<_, _>>()?;
        Ok(Self { spec, listeners })
    }

    /// Carries the packets of a VM, whose QEMU is at the other end of `line`. Fails where the host gives no
    /// thread or no descriptors.
    pub fn start(self, line: UnixStream) -> io::Result<RunningNetwork> {
        let published = self.listeners.iter().map(|(_, port)| *port).collect();
        let refusals = RefusalLog::default();
        let thread = std::thread::Builder::new().name("network".to_owned()).spawn(move || {
            io::copy(&mut &line, &mut io::sink()).ok();
            drop(self.spec);
        })?;
        Ok(RunningNetwork { published, refusals, thread: Some(thread) })
    }
}

impl RunningNetwork {
    /// The published ports, each with the port of the host that it did get.
    pub fn published(&self) -> &[PublishedPort] {
        &self.published
    }

    pub fn refusals(&self) -> &RefusalLog {
        &self.refusals
    }
}
