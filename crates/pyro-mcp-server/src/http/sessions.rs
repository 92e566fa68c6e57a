//! The conversations that the server keeps over HTTP, for revisions of the protocol that have some: so many, and then
//! the one that was silent longest makes room. One whose call runs is not silent.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use axum::extract::{Request, State};
use axum::http::header::RETRY_AFTER;
use axum::http::{HeaderMap, Method, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use rmcp::transport::streamable_http_server::session::SessionId;
use rmcp::transport::streamable_http_server::session::local::{
    LocalSessionHandle, LocalSessionManager,
};

use super::kept::keep;
use crate::call::Call;
use crate::pins::Pins;

/// Conversations at once. Clients often end without a word, so some of them are nobody's. Several that begin at the same
/// moment may go beyond it, by no more than there may be connections.
pub(super) const SESSIONS_MAX: usize = 128;

/// Where a request says to which conversation it belongs, and the answer to a first one how it is called.
const HEADER_SESSION: &str = "mcp-session-id";

/// Where a request may repeat what it asks for.
const HEADER_METHOD: &str = "mcp-method";

/// When whoever found no room may try again.
const RETRY_AFTER_SECONDS: u32 = 10;

/// What is known of the conversations.
#[derive(Debug)]
pub(super) struct Sessions {
    manager: Arc<LocalSessionManager>,
    /// The one that was silent longest first.
    known: Mutex<Vec<Session>>,
}

#[derive(Debug)]
struct Session {
    name: SessionId,
    calls: usize,
}

/// A call that is in flight, as long as this is kept.
#[derive(Debug)]
struct Calling {
    sessions: Arc<Sessions>,
    session: SessionId,
}

/// There is no room: a call runs in every conversation.
#[derive(Debug, PartialEq, Eq)]
struct NoRoom;

impl Sessions {
    pub(super) fn new(pins: &Pins) -> Self {
        let mut manager = LocalSessionManager::default();
        // To the SDK a conversation is silent while a call runs that says nothing.
        manager.session_config.keep_alive = Some(Call::deadline_max(pins));
        manager.session_config.sse_retry = None;
        Self { manager: Arc::new(manager), known: Mutex::default() }
    }

    pub(super) fn manager(&self) -> Arc<LocalSessionManager> {
        self.manager.clone()
    }

    fn known(&self) -> MutexGuard<'_, Vec<Session>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes that a conversation has begun.
    fn add(&self, name: SessionId) {
        let mut known = self.known();
        known.retain(|session| session.name != name);
        known.push(Session { name, calls: 0 });
    }

    /// Notes that a conversation speaks, if it is one, and what becomes of its number of calls.
    fn note(&self, name: &SessionId, calls: impl FnOnce(usize) -> usize) {
        let mut known = self.known();
        if let Some(index) = known.iter().position(|session| session.name == *name) {
            let mut session = known.remove(index);
            session.calls = calls(session.calls);
            known.push(session);
        }
    }

    fn begin_call(self: &Arc<Self>, session: SessionId) -> Calling {
        self.note(&session, |calls| calls + 1);
        Calling { sessions: self.clone(), session }
    }

    /// Ends conversations until there is room for one more.
    async fn make_room(&self) -> Result<(), NoRoom> {
        loop {
            let ended = {
                // Calls are counted before the SDK looks for their conversation. While we have it locked none can thus
                // be found in the one that is chosen: what comes later is told that there is no such conversation.
                let mut living = self.manager.sessions.write().await;
                if living.len() < SESSIONS_MAX {
                    return Ok(());
                }
                let silent = self.silent_longest(&living).ok_or(NoRoom)?;
                living.remove(&silent)
            };
            if let Some(ended) = ended {
                ended.close().await.ok();
            }
        }
    }

    /// The next one that has to go.
    fn silent_longest(&self, living: &HashMap<SessionId, LocalSessionHandle>) -> Option<SessionId> {
        let mut known = self.known();
        known.retain(|session| living.contains_key(&session.name));
        // Of these the client has not been told yet, or went before it was.
        let unknown: Vec<_> = living
            .keys()
            .filter(|name| known.iter().all(|session| session.name != **name))
            .map(|name| Session { name: name.clone(), calls: 0 })
            .collect();
        known.extend(unknown);
        let silent = known.iter().find(|session| session.calls == 0)?;
        Some(silent.name.clone())
    }
}

impl Drop for Calling {
    fn drop(&mut self) {
        self.sessions.note(&self.session, |calls| calls.saturating_sub(1));
    }
}

impl IntoResponse for NoRoom {
    fn into_response(self) -> Response {
        let text = "a call runs in every conversation there is room for; try again later\n";
        let retry_after = [(RETRY_AFTER, RETRY_AFTER_SECONDS.to_string())];
        (StatusCode::SERVICE_UNAVAILABLE, retry_after, text).into_response()
    }
}

/// Notes what conversations do, and makes room where a request may begin one.
pub(super) async fn watch(
    State(sessions): State<Arc<Sessions>>,
    request: Request,
    next: Next,
) -> Response {
    let is_message = request.method() == Method::POST;
    match session(request.headers()) {
        Some(session) if is_message => {
            let calling = sessions.begin_call(session);
            let response = next.run(request).await;
            keep(calling, response)
        }
        Some(session) => {
            sessions.note(&session, |calls| calls);
            next.run(request).await
        }
        None if is_message && may_begin(request.headers()) => {
            if let Err(no_room) = sessions.make_room().await {
                return no_room.into_response();
            }
            let response = next.run(request).await;
            if let Some(session) = session(response.headers()) {
                sessions.add(session);
            }
            response
        }
        None => next.run(request).await,
    }
}

fn session(headers: &HeaderMap) -> Option<SessionId> {
    headers.get(HEADER_SESSION).and_then(|value| value.to_str().ok()).map(SessionId::from)
}

/// Whether a message outside of a conversation may begin one. Where it says what it asks for, as revisions of the protocol
/// without conversations demand, the SDK sees to it that this is true.
fn may_begin(headers: &HeaderMap) -> bool {
    headers.get(HEADER_METHOD).is_none_or(|method| method == "initialize")
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

#[cfg(test)]
mod tests {
    use rmcp::transport::streamable_http_server::session::SessionManager;

    use super::*;

    /// As many conversations as there may be.
    async fn full() -> (Arc<Sessions>, Vec<SessionId>) {
        let sessions = Arc::new(Sessions::new(&Pins::default()));
        let mut names = Vec::new();
        for _ in 0..SESSIONS_MAX {
            // Without its transport it would end at once, but nobody asks it anything.
            let (name, _transport) = sessions.manager.create_session().await.unwrap();
            sessions.add(name.clone());
            names.push(name);
        }
        (sessions, names)
    }

    async fn lives(sessions: &Sessions, name: &SessionId) -> bool {
        sessions.manager.has_session(name).await.unwrap()
    }

    #[tokio::test]
    async fn the_one_that_was_silent_longest_goes_and_a_call_is_no_silence() {
        let (sessions, names) = full().await;
        let _calling = sessions.begin_call(names[0].clone());
        drop(sessions.begin_call(names[1].clone()));
        assert_eq!(sessions.make_room().await, Ok(()));
        assert!(lives(&sessions, &names[0]).await);
        assert!(lives(&sessions, &names[1]).await, "it spoke just now");
        assert!(!lives(&sessions, &names[2]).await);
    }

    #[tokio::test]
    async fn where_a_call_runs_in_each_nobody_goes() {
        let (sessions, names) = full().await;
        let mut calling: Vec<_> =
            names.iter().map(|name| sessions.begin_call(name.clone())).collect();
        let _second_call = sessions.begin_call(names[0].clone());
        assert_eq!(sessions.make_room().await, Err(NoRoom));
        drop(calling.remove(0));
        assert_eq!(sessions.make_room().await, Err(NoRoom), "another call runs in it");
        drop(calling.remove(0));
        assert_eq!(sessions.make_room().await, Ok(()));
        assert!(!lives(&sessions, &names[1]).await);
    }

    #[tokio::test]
    async fn who_finds_no_room_is_told_when_to_try_again() {
        let response = NoRoom.into_response();
        assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(response.headers()[RETRY_AFTER], "10");
    }

    #[tokio::test]
    async fn one_whose_client_was_never_told_of_it_goes_in_its_turn() {
        let (sessions, names) = full().await;
        sessions.known().clear();
        let calling: Vec<_> = names.iter().map(|name| sessions.begin_call(name.clone())).collect();
        assert_eq!(sessions.make_room().await, Ok(()));
        assert_eq!(sessions.manager.sessions.read().await.len(), SESSIONS_MAX - 1);
        drop(calling);
    }

    #[test]
    fn a_message_that_says_what_it_asks_for_begins_no_conversation() {
        let with = |method| HeaderMap::from_iter([(HEADER_METHOD.parse().unwrap(), method)]);
        assert!(may_begin(&HeaderMap::new()));
        assert!(may_begin(&with("initialize".parse().unwrap())));
        assert!(!may_begin(&with("tools/call".parse().unwrap())));
    }
}
