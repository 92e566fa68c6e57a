//! Who may speak to a server over HTTP.
//!
//! A page in a browser on this host can send requests to it: one whose name was made to lead here (DNS rebinding), which
//! the header `Host` betrays, or any other, which `Origin` betrays. Both are refused before anything else is looked at.
//! Then whoever has no token is.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::header::{AUTHORIZATION, CONNECTION, HOST, HeaderName, ORIGIN, WWW_AUTHENTICATE};
use axum::http::uri::Authority;
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use super::cors;
use super::token::BearerToken;

/// What a request must have.
#[derive(Debug)]
pub(super) struct Guard {
    token: BearerToken,
    origins: Vec<String>,
    hosts: Vec<String>,
    literals: Literals,
}

/// Which addresses clients may call this host by, beside the one it listens on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Literals {
    None,
    /// Where it listens on all that it has, now or later. This opens nothing to DNS rebinding, which makes a name lead here:
    /// browsers send that name as `Host`. A page that has an address in place of a name came from that very address.
    Any,
}

/// Why a request is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Refusal {
    Host,
    Origin,
    Token,
}

impl Guard {
    pub(super) fn new(
        address: IpAddr,
        token: BearerToken,
        origins: Vec<String>,
        mut hosts: Vec<String>,
    ) -> Self {
        hosts.push("localhost".to_owned());
        hosts.push(match address {
            IpAddr::V4(address) => address.to_string(),
            IpAddr::V6(address) => format!("[{address}]"),
        });
        let literals = if address.is_unspecified() { Literals::Any } else { Literals::None };
        Self { token, origins, hosts, literals }
    }

    /// Checks that the request is for this host, and which page it comes from, if it is one.
    fn check_page(
        &self,
        headers: &HeaderMap,
        authority: Option<&Authority>,
    ) -> Result<Option<HeaderValue>, Refusal> {
        let host = match only(headers, &HOST)? {
            Some(host) => Authority::try_from(host.as_bytes()).map_err(|_| Refusal::Host)?,
            None => authority.cloned().ok_or(Refusal::Host)?,
        };
        if !self.is_called(host.host()) {
            return Err(Refusal::Host);
        }
        let Some(origin) = only(headers, &ORIGIN)? else { return Ok(None) };
        let known = |known: &String| known.as_bytes().eq_ignore_ascii_case(origin.as_bytes());
        if self.origins.iter().any(known) { Ok(Some(origin.clone())) } else { Err(Refusal::Origin) }
    }

    fn is_called(&self, host: &str) -> bool {
        let is_known = |known: &String| known.eq_ignore_ascii_case(host);
        (self.literals == Literals::Any && is_literal(host)) || self.hosts.iter().any(is_known)
    }

    fn check_token(&self, headers: &HeaderMap) -> Result<(), Refusal> {
        let given = only(headers, &AUTHORIZATION)?.map(HeaderValue::as_bytes).and_then(bearer);
        match given {
            Some(given) if self.token.is(given) => Ok(()),
            Some(_) | None => Err(Refusal::Token),
        }
    }
}

/// Whether a host is an address, as in a URL.
fn is_literal(host: &str) -> bool {
    match host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        Some(address) => address.parse::<Ipv6Addr>().is_ok(),
        None => host.parse::<Ipv4Addr>().is_ok(),
    }
}

/// A header that there may be once: what sees another one than we do must not be led astray.
fn only<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Result<Option<&'a HeaderValue>, Refusal> {
    let mut values = headers.get_all(name).iter();
    let first = values.next();
    match values.next() {
        None => Ok(first),
        Some(_) if *name == HOST => Err(Refusal::Host),
        Some(_) if *name == ORIGIN => Err(Refusal::Origin),
        Some(_) => Err(Refusal::Token),
    }
}

/// The token of a header `Authorization: Bearer TOKEN`; the first word in any case (RFC 9110).
fn bearer(value: &[u8]) -> Option<&[u8]> {
    const SCHEME: &[u8] = b"bearer ";
    let (scheme, token) = value.split_at_checked(SCHEME.len())?;
    scheme.eq_ignore_ascii_case(SCHEME).then(|| token.trim_ascii())
}

/// Lets a request pass, or refuses it. A browser that asks for a listed page whether it may is told so without a token.
pub(super) async fn admit(
    State(guard): State<Arc<Guard>>,
    request: Request,
    next: Next,
) -> Response {
    let page = match guard.check_page(request.headers(), request.uri().authority()) {
        Ok(page) => page,
        Err(refusal) => return leave(refusal),
    };
    let mut response = if page.is_some() && cors::is_preflight(&request) {
        leave(cors::preflight())
    } else {
        match guard.check_token(request.headers()) {
            Ok(()) => next.run(request).await,
            Err(refusal) => leave(refusal),
        }
    };
    if let Some(origin) = page {
        cors::let_read(response.headers_mut(), origin);
    }
    response
}

/// Answers, and ends the connection: who has shown no token may not keep one.
fn leave(answer: impl IntoResponse) -> Response {
    let mut response = answer.into_response();
    response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    response
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        match self {
            Self::Host => {
                let text = "this host is not known by that name; see `--allow-http-host`\n";
                (StatusCode::FORBIDDEN, text).into_response()
            }
            Self::Origin => {
                let text = "requests of that web page are not served; see `--allow-origin`\n";
                (StatusCode::FORBIDDEN, text).into_response()
            }
            Self::Token => {
                let text = "a bearer token is needed; see `--token-file`\n";
                (StatusCode::UNAUTHORIZED, [(WWW_AUTHENTICATE, "Bearer")], text).into_response()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOKEN: &str = "0123456789abcdef";

    fn check(headers: &[(HeaderName, &'static str)]) -> Result<(), Refusal> {
        check_on("127.0.0.1", headers)
    }

    fn check_on(address: &str, headers: &[(HeaderName, &'static str)]) -> Result<(), Refusal> {
        let guard = Guard::new(
            address.parse().unwrap(),
            BearerToken::new(TOKEN).unwrap(),
            vec!["https://app.example:8443".to_owned()],
            vec!["box.example".to_owned()],
        );
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(name, HeaderValue::from_static(value));
        }
        guard.check_page(&map, None)?;
        guard.check_token(&map)
    }

    const AUTHORIZED: (HeaderName, &str) = (AUTHORIZATION, "Bearer 0123456789abcdef");

    #[test]
    fn known_names_with_any_port_and_the_token_are_let_in() {
        for host in ["127.0.0.1:8765", "localhost", "LOCALHOST:1", "box.example"] {
            assert_eq!(check(&[(HOST, host), AUTHORIZED]), Ok(()), "{host}");
        }
        let scheme = (AUTHORIZATION, "bearer  0123456789abcdef");
        assert_eq!(check(&[(HOST, "localhost"), scheme]), Ok(()));
    }

    #[test]
    fn another_name_for_this_host_is_refused() {
        for host in
            ["evil.example", "localhost.evil.example", "127.0.0.1.evil.example", "[::1]", ""]
        {
            assert_eq!(check(&[(HOST, host), AUTHORIZED]), Err(Refusal::Host), "{host}");
        }
        assert_eq!(check(&[AUTHORIZED]), Err(Refusal::Host));
        let twice = [(HOST, "localhost"), (HOST, "evil.example"), AUTHORIZED];
        assert_eq!(check(&twice), Err(Refusal::Host));
    }

    #[test]
    fn on_all_addresses_any_address_is_known_but_no_other_name() {
        for address in ["0.0.0.0", "::"] {
            let on = |host| check_on(address, &[(HOST, host), AUTHORIZED]);
            for host in ["192.0.2.7:8765", "[2001:db8::7]", "[::1]:1", "localhost", "box.example"] {
                assert_eq!(on(host), Ok(()), "{host}");
            }
            for host in ["evil.example", "192.0.2.7.evil.example", "1", "0x7f.1", "::1", "[x]"] {
                assert_eq!(on(host), Err(Refusal::Host), "{host}");
            }
        }
    }

    #[test]
    fn only_listed_pages_are_served_with_exactly_their_port() {
        let from = |origin| check(&[(HOST, "localhost"), (ORIGIN, origin), AUTHORIZED]);
        assert_eq!(from("https://app.example:8443"), Ok(()));
        for origin in
            ["https://app.example", "http://app.example:8443", "null", "http://localhost", ""]
        {
            assert_eq!(from(origin), Err(Refusal::Origin), "{origin}");
        }
    }

    #[test]
    fn a_wrong_token_is_as_bad_as_none() {
        for value in
            ["", "Bearer", "Bearer ", "Bearer 0123456789abcdeF", "Basic 0123456789abcdef", TOKEN]
        {
            let headers = [(HOST, "localhost"), (AUTHORIZATION, value)];
            assert_eq!(check(&headers), Err(Refusal::Token), "{value}");
        }
        assert_eq!(check(&[(HOST, "localhost")]), Err(Refusal::Token));
    }
}
