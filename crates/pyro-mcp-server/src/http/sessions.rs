//! The conversations that the server keeps over HTTP, for revisions of the protocol that have some: so many, and then
//! the one that was silent longest makes room.

use std::sync::{Arc, Mutex, PoisonError};

use axum::extract::{Request, State};
use axum::http::{Method, StatusCode};
use axum::middleware::Next;
use axum::response::Response;
use rmcp::transport::streamable_http_server::session::SessionManager;
use rmcp::transport::streamable_http_server::session::local::LocalSessionManager;

use crate::call::Call;
use crate::pins::Pins;

/// Conversations at once. Clients often end without a word, so some of them are nobody's.
const SESSIONS_MAX: usize = 128;

/// Where a request says to which conversation it belongs.
const HEADER: &str = "mcp-session-id";

/// What is known of the conversations.
#[derive(Debug)]
pub(super) struct Sessions {
    manager: Arc<LocalSessionManager>,
    /// Their names, the one that was silent longest first.
    silent: Mutex<Vec<String>>,
}

impl Sessions {
    pub(super) fn new(pins: &Pins) -> Self {
        let mut manager = LocalSessionManager::default();
        // To the SDK a conversation is silent while a call runs that says nothing.
        manager.session_config.keep_alive = Some(Call::deadline_max(pins));
        manager.session_config.sse_retry = None;
        Self { manager: Arc::new(manager), silent: Mutex::default() }
    }

    pub(super) fn manager(&self) -> Arc<LocalSessionManager> {
        self.manager.clone()
    }

    /// Notes that `session` speaks.
    fn note(&self, session: &str) {
        let mut silent = self.silent.lock().unwrap_or_else(PoisonError::into_inner);
        silent.retain(|known| known != session);
        silent.push(session.to_owned());
    }

    /// Ends conversations until there is room for one more.
    async fn make_room(&self) {
        loop {
            let living: Vec<_> = self.manager.sessions.read().await.keys().cloned().collect();
            let next = {
                let mut silent = self.silent.lock().unwrap_or_else(PoisonError::into_inner);
                silent.retain(|known| living.iter().any(|session| session.as_ref() == known));
                if living.len() < SESSIONS_MAX {
                    return;
                }
                if silent.is_empty() { None } else { Some(silent.remove(0)) }
            };
            // One that never came back with its name is as silent as can be.
            let next = living
                .iter()
                .find(|session| next.as_ref().is_none_or(|next| session.as_ref() == next));
            let Some(next) = next else { return };
            self.manager.close_session(next).await.ok();
        }
    }
}

/// Makes room where a request may begin a conversation.
pub(super) async fn make_room(
    State(sessions): State<Arc<Sessions>>,
    request: Request,
    next: Next,
) -> Response {
    match request.headers().get(HEADER).and_then(|value| value.to_str().ok()) {
        Some(session) => sessions.note(session),
        None => sessions.make_room().await,
    }
    next.run(request).await
}

/// Answers the end of a conversation with 204: the SDK's 202 means that it may still come about, and some clients
/// take it for a failure.
pub(super) async fn confirm_end(request: Request, next: Next) -> Response {
    let is_end = request.method() == Method::DELETE;
    let mut response = next.run(request).await;
    if is_end && response.status() == StatusCode::ACCEPTED {
        *response.status_mut() = StatusCode::NO_CONTENT;
    }
    response
}
