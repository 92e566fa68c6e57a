//! The server over HTTP: who is let in, and what becomes of the calls of a client that goes.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use pyro_mcp_server::http::{BearerToken, HttpServer, HttpSettings};
use pyro_mcp_server::{Profile, Server};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::unix::pipe;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::client::{DEADLINE, host_pins, server};

const TOKEN: &str = "secret";

struct Listening {
    server: Server,
    address: SocketAddr,
    serving: JoinSet<()>,
    _directory: TempDir,
}

impl Listening {
    async fn new() -> Self {
        Self::on("127.0.0.1:0").await
    }

    async fn on(address: &str) -> Self {
        let (server, directory) = server(host_pins(), Profile::Full);
        let settings = HttpSettings {
            address: address.parse().unwrap(),
            token: BearerToken::new(TOKEN).unwrap(),
            allowed_origins: vec!["https://app.example".to_owned()],
            allowed_hosts: Vec::new(),
        };
        let listening = HttpServer::listen(server.clone(), settings).await.unwrap();
        let url = listening.url();
        let address = url.strip_prefix("http://").and_then(|rest| rest.strip_suffix("/mcp"));
        let address = address.unwrap().parse().unwrap();
        let mut serving = JoinSet::new();
        serving.spawn(listening.serve());
        Self { server, address, serving, _directory: directory }
    }

    /// Sends a request, with `headers` instead of or besides the usual ones.
    async fn send(&self, method: &str, body: &str, headers: &[(&str, &str)]) -> TcpStream {
        let mut all = vec![
            ("host", self.address.to_string()),
            ("authorization", format!("Bearer {TOKEN}")),
            ("content-type", "application/json".to_owned()),
            ("accept", "application/json, text/event-stream".to_owned()),
            ("connection", "close".to_owned()),
            ("content-length", body.len().to_string()),
        ];
        all.retain(|(name, _)| headers.iter().all(|(other, _)| name != other));
        let mut request = format!("{method} /mcp HTTP/1.1\r\n");
        let given = headers.iter().map(|(name, value)| (*name, (*value).to_owned()));
        for (name, value) in all.into_iter().chain(given).filter(|(_, value)| !value.is_empty()) {
            request += &format!("{name}: {value}\r\n");
        }
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        stream.write_all(format!("{request}\r\n{body}").as_bytes()).await.unwrap();
        stream
    }

    /// The whole response.
    async fn exchange(&self, method: &str, body: &str, headers: &[(&str, &str)]) -> String {
        let mut stream = self.send(method, body, headers).await;
        let mut response = Vec::new();
        let read = stream.read_to_end(&mut response);
        tokio::time::timeout(DEADLINE, read).await.expect("in time").unwrap();
        String::from_utf8(response).unwrap()
    }

    async fn post(&self, body: &str, headers: &[(&str, &str)]) -> String {
        self.exchange("POST", body, headers).await
    }

    /// Asks as a browser does before it lets the page at `origin` ask.
    async fn preflight(&self, origin: &str, headers: &[(&str, &str)]) -> String {
        let asked = [
            ("origin", origin),
            ("access-control-request-method", "POST"),
            ("access-control-request-headers", "authorization,content-type"),
            ("authorization", ""),
            ("content-type", ""),
        ];
        self.exchange("OPTIONS", "", &[&asked, headers].concat()).await
    }

    async fn status(&self, headers: &[(&str, &str)]) -> u16 {
        let response = self.post(&initialize().to_string(), headers).await;
        response.split(' ').nth(1).unwrap().parse().unwrap()
    }

    /// Begins a conversation; gives its name.
    async fn begin(&self) -> String {
        let response = self.post(&initialize().to_string(), &[]).await;
        let name = response.lines().find_map(|line| line.strip_prefix("mcp-session-id: "));
        name.unwrap_or_else(|| panic!("no name in {response}")).trim().to_owned()
    }
}

/// A header of a response.
fn header<'a>(response: &'a str, name: &str) -> Option<&'a str> {
    let (head, _) = response.split_once("\r\n\r\n")?;
    let mut fields = head.lines().filter_map(|line| line.split_once(": "));
    fields.find(|(field, _)| field.eq_ignore_ascii_case(name)).map(|(_, value)| value)
}

/// Waits until the file is there, or is not.
async fn until_exists(path: &Path, exists: bool) {
    let until = Instant::now() + DEADLINE;
    while path.exists() != exists {
        assert!(Instant::now() < until, "in time");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

fn initialize() -> Value {
    json!({
        "jsonrpc": "2.0", "id": 1, "method": "initialize",
        "params": {
            "protocolVersion": "2025-11-25",
            "capabilities": {},
            "clientInfo": { "name": "test", "version": "1" },
        },
    })
}

fn call(command: &str) -> String {
    let arguments =
        json!({ "environment": "debian:12", "command": command, "allow_host_compat": true });
    json!({
        "jsonrpc": "2.0", "id": 2, "method": "tools/call",
        "params": { "name": "vm_run", "arguments": arguments },
    })
    .to_string()
}

#[tokio::test]
async fn only_who_has_the_token_is_served() {
    let listening = Listening::new().await;
    assert_eq!(listening.status(&[]).await, 200);
    assert_eq!(listening.status(&[("authorization", "")]).await, 401);
    assert_eq!(listening.status(&[("authorization", "Bearer wrong")]).await, 401);
    let response = listening.post("{}", &[("authorization", "")]).await;
    assert!(response.to_lowercase().contains("www-authenticate: bearer"), "{response}");
}

#[tokio::test]
async fn other_pages_and_other_names_are_refused_even_with_the_token() {
    let listening = Listening::new().await;
    assert_eq!(listening.status(&[("origin", "https://evil.example")]).await, 403);
    assert_eq!(listening.status(&[("origin", "null")]).await, 403);
    assert_eq!(listening.status(&[("origin", "https://app.example")]).await, 200);
    assert_eq!(listening.status(&[("host", "evil.example")]).await, 403);
    assert_eq!(listening.status(&[("host", "localhost:1")]).await, 200);
}

#[tokio::test]
async fn a_listed_page_can_use_the_server_from_a_browser() {
    let listening = Listening::new().await;
    let response = listening.preflight("https://app.example", &[]).await;
    assert!(response.starts_with("HTTP/1.1 204 "), "{response}");
    assert_eq!(header(&response, "access-control-allow-origin"), Some("https://app.example"));
    assert_eq!(header(&response, "access-control-allow-methods"), Some("GET, POST, DELETE"));
    let allowed = header(&response, "access-control-allow-headers").unwrap();
    for name in ["authorization", "content-type", "mcp-session-id", "mcp-method", "mcp-name"] {
        assert!(allowed.split(", ").any(|allowed| allowed == name), "{name} in {allowed}");
    }
    assert!(header(&response, "access-control-max-age").is_some(), "{response}");
    assert_eq!(header(&response, "vary"), Some("origin"));

    let page = ("origin", "https://app.example");
    let answered = listening.post(&initialize().to_string(), &[page]).await;
    let refused = listening.post("{}", &[page, ("authorization", "")]).await;
    for (response, status) in [(answered, "200"), (refused, "401")] {
        assert!(response.starts_with(&format!("HTTP/1.1 {status} ")), "{response}");
        assert_eq!(header(&response, "access-control-allow-origin"), Some("https://app.example"));
        let exposed = header(&response, "access-control-expose-headers");
        assert_eq!(exposed, Some("mcp-session-id, mcp-protocol-version, www-authenticate"));
        assert_eq!(header(&response, "vary"), Some("origin"));
    }
}

#[tokio::test]
async fn no_other_page_is_told_that_it_may_ask() {
    let listening = Listening::new().await;
    for response in [
        listening.preflight("https://evil.example", &[]).await,
        listening.preflight("https://app.example", &[("host", "evil.example")]).await,
    ] {
        assert!(response.starts_with("HTTP/1.1 403 "), "{response}");
        assert_eq!(header(&response, "access-control-allow-origin"), None);
    }
    // Without a page it is a request like any other.
    let response = listening.preflight("", &[]).await;
    assert!(response.starts_with("HTTP/1.1 401 "), "{response}");
}

#[tokio::test]
async fn who_has_shown_no_token_does_not_keep_its_connection() {
    let listening = Listening::new().await;
    for headers in [
        [("connection", ""), ("authorization", "Bearer wrong")],
        [("connection", ""), ("host", "evil.example")],
    ] {
        let response = listening.post("{}", &headers).await;
        assert_eq!(header(&response, "connection"), Some("close"), "{response}");
    }
}

#[tokio::test]
async fn on_all_addresses_clients_may_use_any_of_them_but_no_name() {
    let listening = Listening::on("0.0.0.0:0").await;
    assert_eq!(listening.address.ip().to_string(), "127.0.0.1", "one that clients can use");
    for host in ["192.0.2.7:8765", "[2001:db8::7]:8765", "127.0.0.1", "localhost"] {
        assert_eq!(listening.status(&[("host", host)]).await, 200, "{host}");
    }
    for host in ["evil.example", "192.0.2.7.evil.example", "2130706433"] {
        assert_eq!(listening.status(&[("host", host)]).await, 403, "{host}");
    }
}

#[tokio::test]
async fn a_body_that_is_too_long_is_refused() {
    let listening = Listening::new().await;
    let body = format!("\"{}\"", "x".repeat(5 << 20));
    assert!(listening.post(&body, &[]).await.starts_with("HTTP/1.1 413 "));
}

#[tokio::test]
async fn a_conversation_has_a_name_and_calls_are_answered_in_it() {
    let listening = Listening::new().await;
    let session = listening.begin().await;
    let headers = [("mcp-session-id", &*session), ("mcp-protocol-version", "2025-11-25")];
    let response = listening.post(&call("echo hello"), &headers).await;
    assert!(response.contains("\"stdout\":\"hello\\n\""), "{response}");
    let unknown = [("mcp-session-id", "nobody"), ("mcp-protocol-version", "2025-11-25")];
    assert!(listening.post(&call("true"), &unknown).await.starts_with("HTTP/1.1 404 "));
}

#[tokio::test]
async fn the_end_of_a_conversation_is_confirmed() {
    let listening = Listening::new().await;
    let session = listening.begin().await;
    let headers = [("mcp-session-id", &*session), ("mcp-protocol-version", "2025-11-25")];
    let request = |method: &'static str| listening.exchange(method, "", &headers);
    assert!(request("DELETE").await.starts_with("HTTP/1.1 204 "));
    assert!(listening.post(&call("true"), &headers).await.starts_with("HTTP/1.1 404 "));
}

#[tokio::test]
async fn many_conversations_make_room_for_new_ones() {
    let listening = Listening::new().await;
    let oldest = listening.begin().await;
    let second = listening.begin().await;
    let status = async |session: &str| {
        let headers = [("mcp-session-id", session), ("mcp-protocol-version", "2025-11-25")];
        let list = r#"{"jsonrpc":"2.0","id":2,"method":"tools/list"}"#;
        listening.post(list, &headers).await.split(' ').nth(1).unwrap().to_owned()
    };
    // Whoever speaks is kept.
    assert_eq!(status(&second).await, "200");
    assert_eq!(status(&oldest).await, "200");
    for _ in 0..127 {
        listening.begin().await;
    }
    assert_eq!(status(&second).await, "404");
    assert_eq!(status(&oldest).await, "200");
}

#[tokio::test]
async fn a_conversation_whose_call_runs_makes_no_room() {
    let listening = Listening::new().await;
    let session = listening.begin().await;
    let directory = tempfile::tempdir().unwrap();
    let (runs, fifo) = (directory.path().join("runs"), directory.path().join("fifo"));
    let command = format!(
        "mkfifo {fifo}; exec 9<>{fifo}; touch {runs}; head -c 5 <&9",
        fifo = fifo.display(),
        runs = runs.display()
    );
    let headers = [("mcp-session-id", &*session), ("mcp-protocol-version", "2025-11-25")];
    let mut stream = listening.send("POST", &call(&command), &headers).await;
    until_exists(&runs, true).await;
    for _ in 0..130 {
        listening.begin().await;
    }
    let mut writer = pipe::OpenOptions::new().open_sender(&fifo).expect("the command runs");
    writer.write_all(b"hello").await.unwrap();
    let mut response = String::new();
    let read = stream.read_to_string(&mut response);
    tokio::time::timeout(DEADLINE, read).await.expect("in time").unwrap();
    assert!(response.contains("\"stdout\":\"hello\""), "{response}");
}

#[tokio::test]
async fn a_client_that_goes_ends_its_call() {
    let listening = Listening::new().await;
    let session = listening.begin().await;
    let directory = tempfile::tempdir().unwrap();
    let (runs, fifo) = (directory.path().join("runs"), directory.path().join("fifo"));
    let command = format!(
        "mkfifo {fifo}; (setsid sh -c 'cat {fifo}; rm {runs}' >/dev/null 2>&1 &); exec 9>{fifo}; touch {runs}; \
         sleep 600",
        fifo = fifo.display(),
        runs = runs.display()
    );
    let headers = [("mcp-session-id", &*session), ("mcp-protocol-version", "2025-11-25")];
    let stream = listening.send("POST", &call(&command), &headers).await;
    until_exists(&runs, true).await;
    drop(stream);
    until_exists(&runs, false).await;
}

#[tokio::test]
async fn a_server_that_is_closed_ends() {
    let mut listening = Listening::new().await;
    let _session = listening.begin().await;
    let _silent = TcpStream::connect(listening.address).await.unwrap();
    listening.server.settle().await;
    let ended = tokio::time::timeout(DEADLINE, listening.serving.join_next()).await;
    ended.expect("in time").unwrap().unwrap();
}
