//! The network of one VM, from its ports to its end.

use std::io;
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::net::UnixStream;
use std::thread::JoinHandle;

use mio::{Poll, Waker};
use pyro_protocol::network::{NetworkSpec, PublishedPort};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::dns::lookups::Lookups;
use crate::driver::{Driver, End};
use crate::failure::{self, Watch};
use crate::gate::Gate;
use crate::means::Means;
use crate::policy::Policies;
use crate::refusals::RefusalLog;

/// Descriptors that a network may need, beside what the process has: one for each connection, exchange and lookup.
const DESCRIPTORS: u64 = 2048;

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
    failure: Watch,
    waker: Waker,
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
        raise_descriptor_limit();
        let published = self.listeners.iter().map(|(_, port)| *port).collect();
        let refusals = RefusalLog::default();
        let gate = Gate::new(Policies::new(self.spec.policies), refusals.clone());
        let poll = Poll::new()?;
        let means = Means::new(gate, poll.registry().try_clone()?, seed()?);
        let lookups = Lookups::new(self.spec.resolvers);
        let listeners = self.listeners.into_iter();
        let listeners = listeners.map(|(listener, port)| (listener, port.guest)).collect();
        let (driver, waker) = Driver::new(poll, line, listeners, (lookups, means))?;
        let builder = std::thread::Builder::new().name("network".to_owned());
        let (alarm, failure) = failure::alarm();
        let thread = builder.spawn(move || {
            if driver.run() == End::Wanted {
                alarm.disarm();
            }
        })?;
        Ok(RunningNetwork { published, refusals, failure, waker, thread: Some(thread) })
    }
}

fn seed() -> io::Result<u64> {
    getrandom::u64().map_err(|error| io::Error::other(error.to_string()))
}

/// A shell allows 1024, many of which may be in use. It fails where more is not allowed, and then a guest gets fewer
/// connections: each that has no descriptor is reset.
fn raise_descriptor_limit() {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let wanted = DESCRIPTORS * 2;
    let wanted = maximum.map_or(wanted, |maximum| wanted.min(maximum));
    if current.is_some_and(|current| current < wanted) {
        setrlimit(Resource::Nofile, Rlimit { current: Some(wanted), maximum }).ok();
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

    /// Waits until it carries nothing any more, though it was not dropped and the VM's end of the line is open: what
    /// came from there made no sense, or there is a defect. For one at a time; cancel-safe.
    pub async fn failed(&self) {
        std::future::poll_fn(|context| self.failure.poll(context)).await;
    }
}

/// Ends the thread, and with it every connection, and waits for its end.
impl Drop for RunningNetwork {
    fn drop(&mut self) {
        let Some(thread) = self.thread.take() else { return };
        // The thread ends by itself where it cannot be woken: its line is gone.
        if self.waker.wake().is_ok() || thread.is_finished() {
            thread.join().ok();
        }
    }
}
