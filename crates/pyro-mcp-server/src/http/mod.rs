//! The server over HTTP, for clients that do not start it themselves.
//!
//! The SDK speaks the protocol. What is ours is who may speak to it ([`guard`](self::guard)), how many conversations it
//! keeps ([`sessions`](self::sessions)) over how many [`connections`](self::connections), and that a call ends when whoever
//! made it has gone.

mod connections;
mod cors;
mod gone;
mod guard;
mod kept;
mod sessions;
mod token;

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::middleware::{from_fn, from_fn_with_state};
use rmcp::transport::streamable_http_server::StreamableHttpServerConfig;
use rmcp::transport::streamable_http_server::tower::StreamableHttpService;
use tokio::net::TcpListener;

pub(crate) use self::gone::ClientGone;
use self::guard::Guard;
use self::sessions::Sessions;
pub use self::token::{BearerToken, TokenError};
use crate::server::{MESSAGE_BYTES_MAX, Server};

/// The path of the one endpoint.
const PATH: &str = "/mcp";

/// How often a stream without events shows that it lives.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// Where to listen, and whom to serve.
#[derive(Debug)]
pub struct HttpSettings {
    /// Port 0 for any that is free.
    pub address: SocketAddr,
    pub token: BearerToken,
    /// The web pages whose requests are served, as in the header `Origin`. Everything that is no browser sends none.
    pub allowed_origins: Vec<String>,
    /// Names by which clients may call this host, beside its address and `localhost`.
    pub allowed_hosts: Vec<String>,
}

/// A server that listens.
#[derive(Debug)]
pub struct HttpServer {
    server: Server,
    listener: TcpListener,
    address: SocketAddr,
    guard: Guard,
}

/// Why nobody can listen.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address}")]
pub struct ListenError {
    pub address: SocketAddr,
    pub source: io::Error,
}

impl HttpServer {
    /// Begins to listen.
    pub async fn listen(server: Server, settings: HttpSettings) -> Result<Self, ListenError> {
        let cannot_listen = |source| ListenError { address: settings.address, source };
        let listener = TcpListener::bind(settings.address).await.map_err(cannot_listen)?;
        let address = listener.local_addr().map_err(cannot_listen)?;
        let guard = Guard::new(
            address.ip(),
            settings.token,
            settings.allowed_origins,
            settings.allowed_hosts,
        );
        Ok(Self { server, listener, address, guard })
    }

    /// Where clients on this host reach it.
    pub fn url(&self) -> String {
        let reachable = match self.address.ip() {
            IpAddr::V4(address) if address.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
            IpAddr::V6(address) if address.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
            address => address,
        };
        format!("http://{}{PATH}", SocketAddr::new(reachable, self.address.port()))
    }

    /// Whether every address of this host leads to it.
    pub fn is_on_all_addresses(&self) -> bool {
        self.address.ip().is_unspecified()
    }

    /// Serves until the server is closed.
    pub async fn serve(self) {
        let Self { server, listener, guard, .. } = self;
        let closing = server.closing();
        let sessions = Arc::new(Sessions::new(server.pins()));
        let mut config = StreamableHttpServerConfig::default()
            // The guard has looked at them already, more strictly.
            .disable_allowed_hosts()
            .with_max_request_body_bytes(MESSAGE_BYTES_MAX)
            .with_cancellation_token(closing.clone())
            // Where nothing comes before the answer, and the protocol's revision lets us: some clients take no event
            // of a stream beyond 1 MiB, but any document.
            .with_json_response(true)
            .with_sse_keep_alive(Some(KEEP_ALIVE));
        // Whoever is told to come back would find that the call has ended with its stream.
        config.sse_retry = None;
        let factory = {
            let (server, closing) = (server.clone(), closing.clone());
            move || Ok(server.connection(closing.clone()))
        };
        let service = StreamableHttpService::new(factory, sessions.manager(), config);
        let router = Router::new()
            .route_service(PATH, service)
            .layer(from_fn_with_state(sessions, sessions::watch))
            .layer(from_fn(sessions::confirm_end))
            .layer(from_fn(gone::watch))
            .layer(from_fn_with_state(Arc::new(guard), guard::admit));
        connections::serve(listener, router, closing).await;
    }
}
