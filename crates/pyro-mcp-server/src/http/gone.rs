//! Tells calls whose client has gone.
//!
//! The protocol's revisions before 2026-07-28 let a call go on when its stream breaks, so that the client may come back for
//! the answer. Ours would then keep a VM for nobody. So the stream of a request carries a token into the call, which is
//! cancelled when the stream is dropped, finished or not: a call that has been answered does not mind.

use axum::extract::Request;
use axum::http::request::Parts;
use axum::middleware::Next;
use axum::response::Response;
use rmcp::service::{RequestContext, RoleServer};
use tokio_util::sync::CancellationToken;

use super::kept::keep;

/// Whether the client of a call has gone.
#[derive(Debug, Clone)]
pub(crate) struct ClientGone(CancellationToken);

impl ClientGone {
    /// For a call; never, where it did not come over HTTP.
    pub(crate) fn of(context: &RequestContext<RoleServer>) -> Self {
        let parts = context.extensions.get::<Parts>();
        let known = parts.and_then(|parts| parts.extensions.get::<Self>());
        known.cloned().unwrap_or_else(|| Self(CancellationToken::new()))
    }

    pub(crate) async fn happened(&self) {
        self.0.cancelled().await;
    }
}

/// Gives a request the token, and has its response, or the lack of one, cancel it.
pub(super) async fn watch(mut request: Request, next: Next) -> Response {
    let token = CancellationToken::new();
    request.extensions_mut().insert(ClientGone(token.clone()));
    let guard = token.drop_guard();
    let response = next.run(request).await;
    keep(guard, response)
}
