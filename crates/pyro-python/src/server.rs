//! Class `Server`: the core as MCP tools, for clients elsewhere and for this process itself.

use std::net::{IpAddr, SocketAddr};

use pyo3::prelude::*;
use pyro_core::{ErrorKind, HostCompat, PinOptions, Pyro, PyroError};
use pyro_mcp_server::http::{BearerToken, HttpServer, HttpSettings};
use pyro_mcp_server::{Pins, Profile};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, DuplexStream};

use crate::arguments;
use crate::call::{Call, Outcome};
use crate::errors;
use crate::interpreter;
use crate::payload::Payload;

/// The revision that the conversation within this process has.
const PROTOCOL: &str = "2025-06-18";

/// Between the two ends of the conversation within this process.
const BUFFER_BYTES: usize = 64 << 10;

/// A server that is not closed by its clients, nor by the end of `run_…`.
#[pyclass(frozen, module = "pyro_mcp._native")]
pub(crate) struct Server {
    /// Never closed: each conversation has a sibling of it.
    server: pyro_mcp_server::Server,
}

impl Server {
    pub(crate) fn new(
        pyro: Pyro,
        profile: &str,
        allow_host_compat: bool,
        network_pin: &PinOptions,
    ) -> PyResult<Self> {
        let profile = match profile {
            "full" => Profile::Full,
            "run" => Profile::Run,
            other => {
                let text = format!("profile must be full or run, not '{other}'");
                return Err(errors::exception(&PyroError::new(ErrorKind::InvalidInput, text)));
            }
        };
        let host_compat =
            if allow_host_compat { HostCompat::Allowed } else { HostCompat::Forbidden };
        let network = Pins::network(network_pin).map_err(|error| errors::exception(&error))?;
        let pins = Pins { host_compat, network, ..Pins::default() };
        Ok(Self { server: pyro_mcp_server::Server::new(pyro, pins, profile) })
    }

    /// A call that serves until `serve` ends, and leaves nothing of what was asked for.
    fn serving<W>(&self, serve: impl FnOnce(pyro_mcp_server::Server) -> W) -> Call
    where
        W: Future<Output = Outcome> + Send + 'static,
    {
        let server = self.server.sibling();
        let (serving, settling) = (serve(server.clone()), server.clone());
        Call::with_settling(
            async move {
                let outcome = serving.await;
                server.settle().await;
                outcome
            },
            async move { settling.settle().await },
        )
    }

    /// A call of one request within this process.
    fn asking(&self, method: &'static str, parameters: Value) -> Call {
        self.serving(|server| async move { ask(&server, method, &parameters).await })
    }
}

#[pymethods]
impl Server {
    /// Serves the client at standard input and output, until that ends.
    fn run_stdio(&self) -> Call {
        self.serving(|server| async move {
            server.serve(tokio::io::stdin(), tokio::io::stdout()).await.map_err(|error| {
                PyroError::from_error(ErrorKind::Internal, &error)
                    .hint("the server is started by a client, see `pyro mcp config --help`")
            })?;
            Ok(Payload::Nothing)
        })
    }

    /// Serves clients over HTTP that show `token`. Calls `announce(url, token)` when it listens.
    #[pyo3(signature = (*, host, port, token, announce))]
    fn run_http(
        &self,
        host: &str,
        port: &Bound<'_, PyAny>,
        token: Option<&str>,
        announce: Py<PyAny>,
    ) -> PyResult<Call> {
        let port = arguments::small_number(port, "port")?;
        let settings = || {
            let invalid = |text| PyroError::new(ErrorKind::InvalidInput, text);
            let host: IpAddr = host
                .parse()
                .map_err(|_| invalid(format!("host must be an address, not '{host}'")))?;
            let token = match token {
                Some(token) => BearerToken::new(token),
                None => BearerToken::random(),
            };
            let token =
                token.map_err(|error| PyroError::from_error(ErrorKind::InvalidInput, &error))?;
            Ok((SocketAddr::new(host, port), token))
        };
        let (address, token) = settings().map_err(|error: PyroError| errors::exception(&error))?;
        Ok(self.serving(|server| async move {
            let revealed = token.reveal().to_owned();
            let settings = HttpSettings {
                address,
                token,
                allowed_origins: Vec::new(),
                allowed_hosts: Vec::new(),
            };
            let listening = HttpServer::listen(server, settings).await.map_err(|error| {
                PyroError::from_error(ErrorKind::InvalidInput, &error)
                    .hint("choose another host or port; port 0 is any that is free")
            })?;
            let url = listening.url();
            interpreter::enter(|py| {
                if let Err(error) = announce.call1(py, (url, revealed)) {
                    error.write_unraisable(py, None);
                }
            });
            listening.serve().await;
            Ok(Payload::Nothing)
        }))
    }

    /// The tools there are, as a client sees them.
    fn list_tools(&self) -> Call {
        self.asking("tools/list", json!({}))
    }

    /// What a tool answers a client. `arguments` is a JSON document.
    fn call_tool(&self, name: &str, arguments: &str) -> PyResult<Call> {
        let arguments: Value = serde_json::from_str(arguments).map_err(|error| {
            errors::exception(&PyroError::from_error(ErrorKind::InvalidInput, &error))
        })?;
        Ok(self.asking("tools/call", json!({ "name": name, "arguments": arguments })))
    }
}

/// A whole conversation with one request in it. When it is dropped, so is what was asked for.
async fn ask(server: &pyro_mcp_server::Server, method: &str, parameters: &Value) -> Outcome {
    let (ours, theirs) = tokio::io::duplex(BUFFER_BYTES);
    let (reader, writer) = tokio::io::split(theirs);
    tokio::select! {
        answer = converse(ours, method, parameters) => answer,
        ended = server.serve(reader, writer) => {
            let error = PyroError::new(ErrorKind::Internal, "the server ended the conversation");
            Err(match ended {
                Ok(()) => error,
                Err(reason) => error.cause(reason.to_string()),
            })
        }
    }
}

async fn converse(line: DuplexStream, method: &str, parameters: &Value) -> Outcome {
    let mut line = BufReader::new(line);
    let client = json!({ "name": "pyro_mcp", "version": env!("CARGO_PKG_VERSION") });
    let hello = json!({ "protocolVersion": PROTOCOL, "capabilities": {}, "clientInfo": client });
    request(&mut line, 1, "initialize", &hello).await?;
    let ready = json!({ "jsonrpc": "2.0", "method": "notifications/initialized" });
    send(&mut line, &ready).await?;
    let result = request(&mut line, 2, method, parameters).await?;
    Payload::of(&result)
}

/// Sends a request, and waits for its answer.
async fn request(
    line: &mut BufReader<DuplexStream>,
    id: u32,
    method: &str,
    parameters: &Value,
) -> Result<Value, PyroError> {
    let message = json!({ "jsonrpc": "2.0", "id": id, "method": method, "params": parameters });
    send(line, &message).await?;
    let mut text = String::new();
    loop {
        text.clear();
        let read = line.read_line(&mut text).await.map_err(|error| broken(&error))?;
        if read == 0 {
            return Err(PyroError::new(ErrorKind::Internal, "the server gave no answer"));
        }
        let mut message: Value = serde_json::from_str(&text).map_err(|error| broken(&error))?;
        if message["id"] != id {
            continue;
        }
        if let Some(reason) = message["error"]["message"].as_str() {
            return Err(PyroError::new(ErrorKind::InvalidInput, reason));
        }
        return Ok(message["result"].take());
    }
}

async fn send(line: &mut BufReader<DuplexStream>, message: &Value) -> Result<(), PyroError> {
    let text = format!("{message}\n");
    line.get_mut().write_all(text.as_bytes()).await.map_err(|error| broken(&error))
}

fn broken(error: &(dyn std::error::Error + 'static)) -> PyroError {
    PyroError::from_error(ErrorKind::Internal, error).context("cannot talk to the server")
}
