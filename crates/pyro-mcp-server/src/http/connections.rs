//! The connections over which clients speak: so many at most, and none for somebody who says nothing.
//!
//! Anybody on this host, or farther, can open one before having shown a token. Each takes a descriptor, and the
//! supervisors of VMs need descriptors too.

use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::sessions::SESSIONS_MAX;

/// Connections at once; who comes later waits in the kernel's queue until one ends. A fourth of the descriptors that a
/// process usually may have.
const CONNECTIONS_MAX: usize = 256;

/// Each conversation can have one for what the server says unasked, and another one for a call.
const _: () = assert!(CONNECTIONS_MAX >= 2 * SESSIONS_MAX);

/// For the head of a request to arrive, from the moment of the connection or of the answer before. Clients that keep
/// connections for later expect that an idle one is closed: most servers do it after 5 to 75 seconds.
const HEAD_DEADLINE: Duration = Duration::from_secs(10);

/// For connections to end by themselves when the server is closed. Calls and streams end at once, and so does a silent
/// connection; but a client may take its time to read what is left.
const CONNECTIONS_END_DEADLINE: Duration = Duration::from_secs(1);

/// Before the next attempt where a connection could not be taken: there is no descriptor or memory for it, and will
/// not be in the next moment.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// How many connections, and how patient we are.
#[derive(Debug, Clone, Copy)]
struct Limits {
    connections_max: usize,
    head_deadline: Duration,
}

/// Serves whoever connects until `closing` is cancelled, and what is being answered at that moment a little longer.
pub(super) async fn serve(listener: TcpListener, router: Router, closing: CancellationToken) {
    let limits = Limits { connections_max: CONNECTIONS_MAX, head_deadline: HEAD_DEADLINE };
    serve_within(limits, listener, router, closing).await;
}

async fn serve_within(
    limits: Limits,
    listener: TcpListener,
    router: Router,
    closing: CancellationToken,
) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            () = closing.cancelled() => break,
            // What one connection fails with is nothing to the others.
            Some(_ended) = connections.join_next() => {}
            accepted = listener.accept(), if connections.len() < limits.connections_max => {
                match accepted {
                    Ok((stream, _)) => {
                        let connection = serve_one(limits, stream, router.clone(), closing.clone());
                        connections.spawn(connection);
                    }
                    // None of the reasons lasts (accept(2)).
                    Err(_) => tokio::time::sleep(ACCEPT_PAUSE).await,
                }
            }
        }
    }
    drop(listener);
    let all_ended = async { while connections.join_next().await.is_some() {} };
    // Those that are left end with their set.
    tokio::time::timeout(CONNECTIONS_END_DEADLINE, all_ended).await.ok();
}

async fn serve_one(limits: Limits, stream: TcpStream, router: Router, closing: CancellationToken) {
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.head_deadline)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    let mut connection = std::pin::pin!(connection);
    // A connection that breaks has nobody who could be told.
    tokio::select! {
        _ended = connection.as_mut() => {}
        () = closing.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await.ok();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use axum::routing::get;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::time::timeout;

    use super::*;

    const DEADLINE: Duration = Duration::from_secs(20);

    const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";

    struct Serving {
        address: SocketAddr,
        closing: CancellationToken,
        running: JoinSet<()>,
    }

    impl Serving {
        async fn within(limits: Limits) -> Self {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = listener.local_addr().unwrap();
            let router = Router::new().route("/", get(async || "hello"));
            let (closing, mut running) = (CancellationToken::new(), JoinSet::new());
            running.spawn(serve_within(limits, listener, router, closing.clone()));
            Self { address, closing, running }
        }

        async fn connect(&self) -> TcpStream {
            TcpStream::connect(self.address).await.unwrap()
        }
    }

    /// All that the server still says.
    async fn rest(stream: &mut TcpStream) -> String {
        let mut text = String::new();
        timeout(DEADLINE, stream.read_to_string(&mut text)).await.expect("in time").unwrap();
        text
    }

    #[tokio::test]
    async fn a_client_that_says_nothing_or_never_finishes_is_left() {
        let limits = Limits { connections_max: 8, head_deadline: Duration::from_millis(50) };
        let serving = Serving::within(limits).await;
        for beginning in ["", "GET / HTTP/1.1\r\nHost: x\r\n"] {
            let mut stream = serving.connect().await;
            stream.write_all(beginning.as_bytes()).await.unwrap();
            assert_eq!(rest(&mut stream).await, "");
        }
        let mut stream = serving.connect().await;
        stream.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
        assert!(rest(&mut stream).await.ends_with("hello"), "an idle one is left as well");
    }

    #[tokio::test]
    async fn who_comes_when_there_are_too_many_is_served_when_one_has_gone() {
        let limits = Limits { connections_max: 2, head_deadline: DEADLINE };
        let serving = Serving::within(limits).await;
        let (one, _other) = (serving.connect().await, serving.connect().await);
        let mut late = serving.connect().await;
        late.write_all(REQUEST).await.unwrap();
        let early = timeout(Duration::from_millis(200), late.readable()).await;
        assert!(early.is_err(), "it has to wait");
        drop(one);
        assert!(rest(&mut late).await.ends_with("hello"));
    }

    #[tokio::test]
    async fn connections_that_are_silent_do_not_keep_the_server() {
        let limits = Limits { connections_max: 2, head_deadline: Duration::from_mins(10) };
        let mut serving = Serving::within(limits).await;
        let (_one, _other) = (serving.connect().await, serving.connect().await);
        serving.closing.cancel();
        let ended = timeout(2 * CONNECTIONS_END_DEADLINE, serving.running.join_next()).await;
        ended.expect("in time").unwrap().unwrap();
    }
}
