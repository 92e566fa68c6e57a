//! The lookups that are on their way: refused here, answered here, or passed on to the host's name servers, one
//! after the other.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::{Duration, Instant};

use pyro_protocol::layout::network::{GATEWAY_V4, GATEWAY_V6, HOST_NAME};

use super::message::{self, BadQuery, Query, ResponseCode};
pub(crate) use super::upstream::Transport;
use super::upstream::Upstream;
use crate::means::Means;
use crate::packet::Ends;
use crate::sources::{SourceId, SourceKind};

/// Lookups at once. Beyond that they fail, which makes programs ask again.
const LOOKUPS_MAX: usize = 256;

/// How long one name server is waited for. glibc waits five seconds for all that happens here.
const SERVER_TIMEOUT: Duration = Duration::from_secs(2);

/// More are not asked.
const SERVERS_MAX: usize = 3;

/// Who asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Asker {
    Datagram(Ends),
    Connection(SourceId),
}

/// A message for who asked; empty if there is nothing to say.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) to: Asker,
    pub(crate) message: Vec<u8>,
}

#[derive(Debug)]
pub(crate) struct Lookups {
    servers: Vec<SocketAddr>,
    waiting: HashMap<SourceId, Lookup>,
}

#[derive(Debug)]
struct Lookup {
    query: Query,
    asker: Asker,
    upstream: Upstream,
    /// Under which the server was asked.
    id: [u8; 2],
    /// Which of the servers is asked.
    server: usize,
}

impl Asker {
    fn transport(self) -> Transport {
        match self {
            Self::Datagram(_) => Transport::Udp,
            Self::Connection(_) => Transport::Tcp,
        }
    }
}

impl Lookups {
    pub(crate) fn new(mut servers: Vec<SocketAddr>) -> Self {
        servers.truncate(SERVERS_MAX);
        Self { servers, waiting: HashMap::new() }
    }

    /// Looks up what the guest asks for. `None` if the answer comes later.
    pub(crate) fn ask(
        &mut self,
        asker: Asker,
        question: &[u8],
        means: &mut Means,
    ) -> Option<Answer> {
        let message = match Query::parse(question) {
            Err(BadQuery::Ignored) => Vec::new(),
            Err(BadQuery::Answered(message)) => message,
            Ok(query) => match local(&query) {
                Some(message) => message,
                // It is a lie, but the only answer that everybody takes at once: to a refusal, musl listens on until its
                // time is over, and glibc reports a failure that will pass.
                None if means.gate.pass_name(&query.name).is_err() => {
                    query.answer(ResponseCode::NoSuchName)
                }
                None => return self.pass_on(query, asker, 0, means),
            },
        };
        Some(Answer { to: asker, message })
    }

    /// Something came from a name server.
    pub(crate) fn receive(&mut self, source: SourceId, means: &mut Means) -> Option<Answer> {
        loop {
            let lookup = self.waiting.get_mut(&source)?;
            match lookup.upstream.receive(&mut means.datagram) {
                Ok(None) => return None,
                Ok(Some(answer)) => {
                    let Some((found, message)) = lookup.query.accept(lookup.id, &answer) else {
                        // Not what was asked for: somebody else's, or forged. The right one may follow, but not on a
                        // stream, whose end is near.
                        match &lookup.upstream {
                            Upstream::Udp(_) => continue,
                            Upstream::Tcp { .. } => return self.next_server(source, means),
                        }
                    };
                    let is_last = lookup.server + 1 >= self.servers.len();
                    if message::is_failure(&message) && !is_last {
                        return self.next_server(source, means);
                    }
                    for (name, address) in found.addresses {
                        means.gate.learn(&name, address);
                    }
                    let to = lookup.asker;
                    self.remove(source, means);
                    return Some(Answer { to, message });
                }
                // Nobody listens there, or the connection ended.
                Err(_) => return self.next_server(source, means),
            }
        }
    }

    /// A name server was waited for long enough.
    pub(crate) fn time_out(&mut self, source: SourceId, means: &mut Means) -> Option<Answer> {
        self.next_server(source, means)
    }

    fn next_server(&mut self, source: SourceId, means: &mut Means) -> Option<Answer> {
        let lookup = self.remove(source, means)?;
        self.pass_on(lookup.query, lookup.asker, lookup.server + 1, means)
    }

    fn remove(&mut self, source: SourceId, means: &mut Means) -> Option<Lookup> {
        means.timers.set(source, None);
        self.waiting.remove(&source)
    }

    /// Asks this server, or the next that can be asked.
    fn pass_on(
        &mut self,
        query: Query,
        asker: Asker,
        first: usize,
        means: &mut Means,
    ) -> Option<Answer> {
        if self.waiting.len() < LOOKUPS_MAX {
            for (server, address) in self.servers.iter().enumerate().skip(first) {
                let source = means.ids.next(SourceKind::Lookup);
                let Ok(id) = getrandom::u32()
                    .map(|random| [random.to_ne_bytes()[0], random.to_ne_bytes()[1]])
                else {
                    break;
                };
                let registration = (source, &means.registry);
                let to = (asker.transport(), *address);
                if let Ok(upstream) = Upstream::ask(to, &query.with_id(id), registration) {
                    self.waiting.insert(source, Lookup { query, asker, upstream, id, server });
                    means.timers.set(source, Some(Instant::now() + SERVER_TIMEOUT));
                    return None;
                }
            }
        }
        Some(Answer { to: asker, message: query.answer(ResponseCode::ServerFailure) })
    }
}

/// Names that mean the same in every VM.
fn local(query: &Query) -> Option<Vec<u8>> {
    let addresses: [IpAddr; 2] = if query.name == HOST_NAME {
        [GATEWAY_V4.into(), GATEWAY_V6.into()]
    } else if query.name == "localhost" || query.name.ends_with(".localhost") {
        [Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()]
    } else {
        return None;
    };
    Some(query.answer_addresses(&addresses))
}
