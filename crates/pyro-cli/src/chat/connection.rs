//! One request and its answer: over TCP, through a proxy where this host has one, encrypted where the URL says so.

use std::fmt::Debug;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HOST, HeaderValue, PROXY_AUTHORIZATION};
use hyper::{Method, Request, StatusCode, Uri};
use hyper_util::client::proxy::matcher::{Intercept, Matcher};
use hyper_util::rt::TokioIo;
use pyro_core::EndpointSettings;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore, crypto::ring};

/// For a connection to come about; a machine that is off answers nothing at all.
const CONNECT_DEADLINE: Duration = Duration::from_secs(10);

/// What an answer may have; that of a model has some kilobytes. As values in memory, documents that are made for it take
/// a hundred times as much.
const ANSWER_BYTES_MAX: usize = 1 << 20;

/// All that is read of one, with what stands between the pieces of a body. An endpoint may announce its answer as often as
/// it likes (`100 Continue`), and what was read at once is looked at at once, whatever deadline passes meanwhile.
const CONNECTION_BYTES_MAX: u64 = 4 << 20;
const _: () = assert!(CONNECTION_BYTES_MAX > ANSWER_BYTES_MAX as u64);

/// What the last event of a stream has, with any white space that follows it.
const LAST_EVENT_BYTES_MAX: usize = 64;

/// How to get to where an endpoint is.
pub(super) struct Route {
    base: Uri,
    proxies: Matcher,
    ca_bundle: Option<PathBuf>,
    /// Shown to an encrypted endpoint, or one on this host, and nobody else.
    authorization: Option<HeaderValue>,
}

/// What came back.
pub(super) struct Answer {
    pub(super) status: StatusCode,
    /// Where it says that something else is to be asked.
    pub(super) location: Option<String>,
    pub(super) body: Vec<u8>,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum ExchangeError {
    #[error("cannot connect to {address}")]
    Unreachable {
        address: String,
        #[source]
        source: io::Error,
    },
    #[error("the proxy speaks {scheme}, and only http is known here")]
    UnknownProxy { scheme: String },
    #[error("the proxy refuses the connection: {status}")]
    ProxyRefuses { status: StatusCode },
    #[error("cannot read the authorities in `{}`", path.display())]
    NoAuthorities {
        path: PathBuf,
        #[source]
        source: tokio_rustls::rustls::pki_types::pem::Error,
    },
    #[error("this host has no authorities to tell whether {host} is who it says")]
    NoBundle { host: String },
    #[error("cannot encrypt the connection to {host}")]
    NotEncrypted {
        host: String,
        #[source]
        source: io::Error,
    },
    #[error("the conversation broke off")]
    Broken {
        #[source]
        source: hyper::Error,
    },
    #[error("the answer has more than {ANSWER_BYTES_MAX} bytes")]
    TooLong,
}

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

impl Route {
    pub(super) fn new(base: Uri, settings: &EndpointSettings) -> Self {
        let proxies = Matcher::builder()
            .http(settings.http_proxy.clone().unwrap_or_default())
            .https(settings.https_proxy.clone().unwrap_or_default())
            .no(settings.no_proxy.clone().unwrap_or_default())
            .build();
        let mut route =
            Self { base, proxies, ca_bundle: settings.ca_bundle.clone(), authorization: None };
        if route.keeps_secrets() {
            let key = settings.api_key.as_ref();
            let value = key.and_then(|key| HeaderValue::try_from(format!("Bearer {key}")).ok());
            route.authorization = value.map(|mut value| {
                value.set_sensitive(true);
                value
            });
        }
        route
    }

    /// Whether nobody on the way can read what is sent.
    pub(super) fn keeps_secrets(&self) -> bool {
        self.is_encrypted() || is_loopback(self.host())
    }

    pub(super) fn shows_key(&self) -> bool {
        self.authorization.is_some()
    }

    /// Sends `body` to `path` below the base, or asks for what is there. When the future is dropped the connection goes.
    pub(super) async fn exchange(
        &self,
        path: &str,
        body: Option<Vec<u8>>,
    ) -> Result<Answer, ExchangeError> {
        // A model on this host is reached directly, whatever the environment says of proxies.
        let proxy =
            if is_loopback(self.host()) { None } else { self.proxies.intercept(&self.base) };
        let (stream, is_relayed) = self.connect(proxy.as_ref()).await?;
        let request = self.request(path, body, proxy.as_ref().filter(|_| is_relayed));
        send(stream, request).await
    }

    fn request(
        &self,
        path: &str,
        body: Option<Vec<u8>>,
        relay: Option<&Intercept>,
    ) -> Request<Full<Bytes>> {
        let path = format!("{}{path}", self.base.path().trim_end_matches('/'));
        // A proxy that passes requests on has to be told the whole address.
        let target =
            if relay.is_some() { format!("http://{}{path}", self.authority()) } else { path };
        let mut request = Request::builder()
            .method(if body.is_some() { Method::POST } else { Method::GET })
            .uri(target)
            .header(HOST, self.authority())
            .header(CONTENT_TYPE, "application/json");
        if let Some(authorization) = &self.authorization {
            request = request.header(AUTHORIZATION, authorization);
        }
        if let Some(authorization) = relay.and_then(Intercept::basic_auth) {
            request = request.header(PROXY_AUTHORIZATION, authorization);
        }
        let body = Full::new(Bytes::from(body.unwrap_or_default()));
        request.body(body).expect("its parts were parts of a URL")
    }

    /// The stream, and whether a proxy passes requests on at its other end.
    async fn connect(
        &self,
        proxy: Option<&Intercept>,
    ) -> Result<(Box<dyn Stream>, bool), ExchangeError> {
        let own = (self.host(), self.port());
        let Some(proxy) = proxy else {
            let stream = connect(own.0, own.1).await?;
            return Ok((self.encrypted(stream).await?, false));
        };
        let uri = proxy.uri();
        if uri.scheme_str() != Some("http") {
            let scheme = uri.scheme_str().unwrap_or_default().to_owned();
            return Err(ExchangeError::UnknownProxy { scheme });
        }
        let stream = connect(uri.host().unwrap_or_default(), uri.port_u16().unwrap_or(80)).await?;
        if !self.is_encrypted() {
            return Ok((Box::new(stream), true));
        }
        let tunnel = tunnel(stream, &format!("{}:{}", own.0, own.1), proxy.basic_auth()).await?;
        Ok((self.encrypted(tunnel).await?, false))
    }

    async fn encrypted(
        &self,
        stream: impl Stream + 'static,
    ) -> Result<Box<dyn Stream>, ExchangeError> {
        if !self.is_encrypted() {
            return Ok(Box::new(stream));
        }
        let host = self.host().trim_matches(['[', ']']).to_owned();
        let failed = |source| ExchangeError::NotEncrypted { host: host.clone(), source };
        let Some(path) = &self.ca_bundle else {
            return Err(ExchangeError::NoBundle { host });
        };
        let unreadable = |source| ExchangeError::NoAuthorities { path: path.clone(), source };
        let mut authorities = RootCertStore::empty();
        for certificate in CertificateDer::pem_file_iter(path).map_err(unreadable)? {
            // Bundles hold old ones that are no longer understood, which is the affair of whoever relies on them.
            authorities.add(certificate.map_err(unreadable)?).ok();
        }
        let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("the provider knows them")
            .with_root_certificates(authorities)
            .with_no_client_auth();
        let name = ServerName::try_from(host.clone())
            .map_err(|error| failed(io::Error::new(io::ErrorKind::InvalidInput, error)))?;
        let connecting = TlsConnector::from(Arc::new(config)).connect(name, stream);
        Ok(Box::new(connecting.await.map_err(failed)?))
    }

    fn is_encrypted(&self) -> bool {
        self.base.scheme_str() == Some("https")
    }

    fn host(&self) -> &str {
        self.base.host().unwrap_or_default()
    }

    fn port(&self) -> u16 {
        self.base.port_u16().unwrap_or(if self.is_encrypted() { 443 } else { 80 })
    }

    fn authority(&self) -> &str {
        self.base.authority().map(hyper::http::uri::Authority::as_str).unwrap_or_default()
    }
}

/// Whether only this host is meant.
pub(super) fn is_loopback(host: &str) -> bool {
    let host = host.trim_matches(['[', ']']).trim_end_matches('.').to_ascii_lowercase();
    let address = host.parse::<IpAddr>();
    host == "localhost"
        || host.ends_with(".localhost")
        || address.is_ok_and(|address| address.is_loopback() || address.is_unspecified())
}

async fn connect(host: &str, port: u16) -> Result<TcpStream, ExchangeError> {
    let connecting = async {
        let found = tokio::net::lookup_host((host.trim_matches(['[', ']']), port)).await?;
        TcpStream::connect(&*believable(host, found)?).await
    };
    let connected = tokio::time::timeout(CONNECT_DEADLINE, connecting).await;
    let connected = connected.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
    connected
        .map_err(|source| ExchangeError::Unreachable { address: format!("{host}:{port}"), source })
}

/// The addresses of a host. What a name server says of names that mean this host is not believed: what is sent there is
/// sent without encryption, and the key with it.
fn believable(host: &str, found: impl Iterator<Item = SocketAddr>) -> io::Result<Vec<SocketAddr>> {
    let is_own = |address: IpAddr| address.is_loopback() || address.is_unspecified();
    let is_believable = |address: &SocketAddr| !is_loopback(host) || is_own(address.ip());
    let addresses: Vec<_> = found.filter(is_believable).collect();
    if addresses.is_empty() {
        return Err(io::Error::new(
            io::ErrorKind::AddrNotAvailable,
            "its name has no address that could be this host's",
        ));
    }
    Ok(addresses)
}

/// Has a proxy connect to `target`, and carry bytes from then on.
async fn tunnel(
    stream: TcpStream,
    target: &str,
    authorization: Option<&HeaderValue>,
) -> Result<impl Stream + use<>, ExchangeError> {
    let broken = |source| ExchangeError::Broken { source };
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(broken)?;
    let mut request = Request::connect(target).header(HOST, target);
    if let Some(authorization) = authorization {
        request = request.header(PROXY_AUTHORIZATION, authorization);
    }
    let request = request.body(Full::<Bytes>::default()).expect("a host and a port are a target");
    let asked = async {
        let answer = sender.send_request(request).await.map_err(broken)?;
        if !answer.status().is_success() {
            return Err(ExchangeError::ProxyRefuses { status: answer.status() });
        }
        hyper::upgrade::on(answer).await.map_err(broken)
    };
    let carried = accompanied(connection.with_upgrades(), asked).await?;
    Ok(TokioIo::new(carried))
}

async fn send(
    stream: Box<dyn Stream>,
    request: Request<Full<Bytes>>,
) -> Result<Answer, ExchangeError> {
    let broken = |source| ExchangeError::Broken { source };
    let (reader, writer) = tokio::io::split(stream);
    let stream = tokio::io::join(reader.take(CONNECTION_BYTES_MAX), writer);
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(broken)?;
    let answered = async {
        let answer = sender.send_request(request).await.map_err(broken)?;
        let status = answer.status();
        let location = answer.headers().get(hyper::header::LOCATION);
        let location = location.and_then(|value| value.to_str().ok()).map(str::to_owned);
        let mut frames = answer.into_body();
        let mut body = Vec::new();
        while let Some(frame) = frames.frame().await {
            let Ok(data) = frame.map_err(broken)?.into_data() else { continue };
            if body.len() + data.len() > ANSWER_BYTES_MAX {
                return Err(ExchangeError::TooLong);
            }
            body.extend_from_slice(&data);
            // The end of a stream of events, after which some servers keep the connection.
            if is_last_event(&body) {
                break;
            }
        }
        Ok(Answer { status, location, body })
    };
    accompanied(connection, answered).await
}

fn is_last_event(body: &[u8]) -> bool {
    // Only the end is looked at, because this is asked for each piece, and pieces may be single bytes.
    let end = &body[body.len().saturating_sub(LAST_EVENT_BYTES_MAX)..];
    let mut lines = end.trim_ascii_end().rsplit(|byte| *byte == b'\n');
    // No document ends so: in a text of JSON there are no line ends.
    let last = lines.next().unwrap_or_default();
    let is_whole = lines.next().is_some() || end.len() == body.len();
    is_whole && last.strip_prefix(b"data:").is_some_and(|data| data.trim_ascii() == b"[DONE]")
}

/// Drives `connection` for as long as `work` needs it.
async fn accompanied<T>(connection: impl Future, work: impl Future<Output = T>) -> T {
    let mut work = pin!(work);
    tokio::select! {
        biased;
        outcome = &mut work => return outcome,
        _ended = connection => {}
    }
    // What has come before the end is still to be read.
    work.await
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::process::Command;

    use tokio::io::AsyncWriteExt;
    use tokio::net::TcpListener;
    use tokio::task::JoinSet;
    use tokio_rustls::TlsAcceptor;
    use tokio_rustls::rustls::ServerConfig;
    use tokio_rustls::rustls::pki_types::PrivateKeyDer;

    use super::*;

    fn route(base: &str) -> Route {
        let settings = EndpointSettings {
            api_key: Some("key".to_owned()),
            http_proxy: Some("http://me:pw@proxy.example:3128".to_owned()),
            https_proxy: Some("http://proxy.example:3129".to_owned()),
            no_proxy: Some(".direct.example".to_owned()),
            ca_bundle: None,
        };
        Route::new(base.parse().unwrap(), &settings)
    }

    #[test]
    fn a_name_or_an_address_of_this_host_is_loopback() {
        for host in
            ["localhost", "LOCALHOST.", "a.localhost", "127.0.0.1", "127.9.9.9", "[::1]", "0.0.0.0"]
        {
            assert!(is_loopback(host), "{host}");
        }
        for host in ["localhost.example", "10.0.0.1", "[fd00::1]", "notlocalhost", ""] {
            assert!(!is_loopback(host), "{host}");
        }
    }

    #[test]
    fn names_of_this_host_that_lead_elsewhere_are_not_followed() {
        let here = SocketAddr::from(([127, 0, 0, 1], 80));
        let elsewhere = SocketAddr::from(([198, 51, 100, 1], 80));
        let found = |host| believable(host, [elsewhere, here].into_iter());
        assert_eq!(found("a.localhost").unwrap(), [here]);
        assert_eq!(found("a.example").unwrap(), [elsewhere, here]);
        let error = believable("a.localhost", [elsewhere].into_iter()).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AddrNotAvailable);
    }

    #[test]
    fn the_last_event_is_told_from_a_text_that_names_it() {
        for body in ["data: [DONE]", "data: {}\r\n\r\ndata:[DONE]\r\n\r\n"] {
            assert!(is_last_event(body.as_bytes()), "{body:?}");
        }
        for body in ["", "[DONE]", "{\"content\":\"data: [DONE]", "data: {\"content\":\"[DONE]"] {
            assert!(!is_last_event(body.as_bytes()), "{body:?}");
        }
        // Where what is looked at begins in the midst of a line.
        let last = "data: [DONE]";
        for blanks in 0..LAST_EVENT_BYTES_MAX {
            let blanks = " ".repeat(blanks);
            assert!(!is_last_event(format!("{{\"content\":\"{last}{blanks}").as_bytes()));
        }
        assert!(is_last_event(format!("{}\n\n{last}\n\n", "x".repeat(100)).as_bytes()));
    }

    #[test]
    fn a_key_is_shown_only_where_nobody_can_read_it_on_the_way() {
        for base in ["https://api.example/v1", "http://localhost:11434/v1", "http://[::1]:1/v1"] {
            assert!(route(base).shows_key(), "{base}");
        }
        assert!(!route("http://10.0.0.1:11434/v1").shows_key());
    }

    /// A server of `model.example` that answers every request alike, and its authority's certificate.
    fn servers_keys(directory: &Path) -> (PathBuf, ServerConfig) {
        let openssl = |arguments: &str| {
            let mut openssl = Command::new("openssl");
            let output =
                openssl.args(arguments.split(' ')).current_dir(directory).output().unwrap();
            assert!(output.status.success(), "{output:?}");
        };
        let key = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes";
        openssl(&format!("req -x509 -days 2 -subj /CN=authority {key} -keyout a.key -out a.pem"));
        let name = "-subj /CN=model -addext subjectAltName=DNS:model.example";
        openssl(&format!("req -new {name} {key} -keyout s.key -out s.csr"));
        openssl(
            "x509 -req -in s.csr -days 2 -copy_extensions copy -CA a.pem -CAkey a.key -CAcreateserial -out s.pem",
        );
        let certificate = CertificateDer::from_pem_file(directory.join("s.pem")).unwrap();
        let key = PrivateKeyDer::from_pem_file(directory.join("s.key")).unwrap();
        let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate], key)
            .unwrap();
        (directory.join("a.pem"), config)
    }

    /// Reads the head of a request.
    async fn head(stream: &mut (impl AsyncRead + Unpin)) -> String {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await.unwrap());
        }
        String::from_utf8(head).unwrap()
    }

    #[tokio::test]
    async fn an_encrypted_endpoint_is_reached_through_a_proxy_and_only_if_it_is_who_it_says() {
        let directory = tempfile::tempdir().unwrap();
        let (authority, config) = servers_keys(directory.path());
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let proxy = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let proxy_url = format!("http://me:pw@{}", proxy.local_addr().unwrap());
        let mut serving = JoinSet::new();
        serving.spawn(async move {
            loop {
                let (mut stream, _) = proxy.accept().await.unwrap();
                let connect = head(&mut stream).await;
                assert!(connect.starts_with("CONNECT model.example:443 HTTP/1.1\r\n"), "{connect}");
                assert!(connect.contains("proxy-authorization: Basic bWU6cHc="), "{connect}");
                stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.unwrap();
                // Who does not trust it hangs up.
                let Ok(mut stream) = acceptor.accept(stream).await else { continue };
                let request = head(&mut stream).await;
                assert!(request.starts_with("GET /v1/models HTTP/1.1\r\n"), "{request}");
                assert!(request.contains("authorization: Bearer key\r\n"), "{request}");
                assert!(!request.contains("proxy-authorization"), "{request}");
                stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi").await.unwrap();
                stream.shutdown().await.ok();
            }
        });
        let exchange = async |host: &str, ca_bundle: Option<PathBuf>| {
            let settings = EndpointSettings {
                api_key: Some("key".to_owned()),
                https_proxy: Some(proxy_url.clone()),
                ca_bundle,
                ..EndpointSettings::default()
            };
            let base = format!("https://{host}/v1").parse().unwrap();
            let exchange = Route::new(base, &settings);
            let exchange = exchange.exchange("/models", None);
            tokio::time::timeout(Duration::from_secs(20), exchange).await.expect("in time")
        };
        let answer = exchange("model.example", Some(authority.clone())).await.unwrap();
        assert_eq!((answer.status, answer.body.as_slice()), (StatusCode::OK, &b"hi"[..]));
        // An authority that did not sign it.
        let other = tempfile::tempdir().unwrap();
        let (other, _) = servers_keys(other.path());
        let error = exchange("model.example", Some(other)).await.err().unwrap();
        assert!(matches!(error, ExchangeError::NotEncrypted { .. }), "{error:?}");
        let error = exchange("model.example", None).await.err().unwrap();
        assert!(matches!(error, ExchangeError::NoBundle { .. }), "{error:?}");
        let missing = Some(directory.path().join("missing.pem"));
        let error = exchange("model.example", missing).await.err().unwrap();
        assert!(matches!(error, ExchangeError::NoAuthorities { .. }), "{error:?}");
    }

    #[tokio::test]
    async fn an_endpoint_that_announces_its_answer_without_end_is_given_up() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let base = format!("http://{}/v1", listener.local_addr().unwrap()).parse().unwrap();
        let mut serving = JoinSet::new();
        serving.spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            head(&mut stream).await;
            let announcements = "HTTP/1.1 100 Continue\r\n\r\n".repeat(1000);
            while stream.write_all(announcements.as_bytes()).await.is_ok() {}
        });
        let route = Route::new(base, &EndpointSettings::default());
        let exchange =
            tokio::time::timeout(Duration::from_mins(1), route.exchange("/models", None));
        let error = exchange.await.expect("not for ever").err().unwrap();
        assert!(matches!(error, ExchangeError::Broken { .. }), "{error:?}");
    }

    #[test]
    fn a_proxy_that_passes_requests_on_is_told_the_whole_address() {
        let route = route("http://model.example:8000/v1/");
        let proxy = route.proxies.intercept(&route.base).unwrap();
        let request = route.request("/models", None, Some(&proxy));
        assert_eq!(request.uri(), "http://model.example:8000/v1/models");
        assert_eq!(request.headers()[PROXY_AUTHORIZATION], "Basic bWU6cHc=");
        assert_eq!(request.headers()[HOST], "model.example:8000");
        let request = route.request("/models", None, None);
        assert_eq!(request.uri(), "/v1/models");
        let direct = super::tests::route("http://a.direct.example/v1");
        assert!(direct.proxies.intercept(&direct.base).is_none());
    }
}
