//! What browsers want to hear before a page of another origin may speak to us, and read our answers (Fetch Standard,
//! "CORS protocol").
//!
//! `tower-http` has a layer for this. It would answer any `OPTIONS`, whoever asks and for whatever host; ours has to come
//! after [the guard](super::guard) has looked at the page, and before it looks at the token, which a browser does not send yet.

use axum::extract::Request;
use axum::http::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
    ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE, ACCESS_CONTROL_REQUEST_METHOD, VARY,
};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode};
use axum::response::{IntoResponse, Response};

/// What clients use, one revision of the protocol or another. A `*` would not stand for `authorization`.
const METHODS: &str = "GET, POST, DELETE";
const REQUEST_HEADERS: &str = "authorization, content-type, accept, mcp-session-id, mcp-protocol-version, mcp-method, \
                               mcp-name, last-event-id";

/// What of our answers a page may read beside their bodies.
const RESPONSE_HEADERS: &str = "mcp-session-id, mcp-protocol-version, www-authenticate";

/// How long a browser need not ask again. None remembers it for longer than 24 hours, Chromium for 2.
const MAX_AGE_SECONDS: &str = "7200";

/// Whether a browser asks if it may ask.
pub(super) fn is_preflight(request: &Request) -> bool {
    request.method() == Method::OPTIONS
        && request.headers().contains_key(ACCESS_CONTROL_REQUEST_METHOD)
}

/// It may.
pub(super) fn preflight() -> Response {
    let headers = [
        (ACCESS_CONTROL_ALLOW_METHODS, METHODS),
        (ACCESS_CONTROL_ALLOW_HEADERS, REQUEST_HEADERS),
        (ACCESS_CONTROL_MAX_AGE, MAX_AGE_SECONDS),
    ];
    (StatusCode::NO_CONTENT, headers).into_response()
}

/// Lets the page of that origin read an answer.
pub(super) fn let_read(headers: &mut HeaderMap, origin: HeaderValue) {
    headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin);
    headers.insert(ACCESS_CONTROL_EXPOSE_HEADERS, HeaderValue::from_static(RESPONSE_HEADERS));
    headers.append(VARY, HeaderValue::from_static("origin"));
}
