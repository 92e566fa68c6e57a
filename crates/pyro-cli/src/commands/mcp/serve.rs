//! `pyro mcp serve`.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::process::ExitCode;

use pyro_core::{
    ActiveVmsMax, ErrorKind, HostCompat, MemoryMib, PinOptions, PyroError, SpareCount, TimeToLive,
    Timeout, VcpuCount, parse_environment,
};
use pyro_mcp_server::http::{BearerToken, HttpServer, HttpSettings, TokenError};
use pyro_mcp_server::{Pins, Profile, Server};

use crate::mcp_arguments::{
    HttpArguments, PinArguments, ProfileChoice, ServeArguments, TransportChoice,
};
use crate::network_arguments::NetworkPinArguments;
use crate::{interrupt, terminal};

/// Where the server listens unless it is told otherwise.
const PORT_DEFAULT: u16 = 8765;

pub(super) fn serve(arguments: &ServeArguments) -> Result<ExitCode, PyroError> {
    let pins = check(arguments)?;
    let spares = arguments.spares.map(SpareCount::new).transpose()?;
    let mut pyro = super::super::pyro(Some(&arguments.archive))?;
    if let Some(count) = spares {
        pyro = pyro.with_spares(count);
    }
    let profile = match arguments.profile {
        ProfileChoice::Run => Profile::Run,
        ProfileChoice::Full => Profile::Full,
    };
    let server = Server::new(pyro, pins, profile);
    let ended = super::super::block_on(async {
        let serving = async {
            let served = async {
                match arguments.transport {
                    TransportChoice::Stdio => over_stdio(&server).await,
                    TransportChoice::Http => over_http(&server, &arguments.http).await,
                }
            };
            tokio::select! {
                outcome = served => outcome,
                never = server.keep_spares() => match never {},
            }
        };
        let ended = until_signal(&server, serving).await;
        server.settle().await;
        ended
    })?;
    match ended {
        (outcome, None) => outcome.map(|()| ExitCode::SUCCESS),
        (_, Some(signal)) => Ok(super::super::ended_by_signal(signal, false)),
    }
}

/// All that can be said about the options before anything is begun.
pub(super) fn check(arguments: &ServeArguments) -> Result<Pins, PyroError> {
    check_transport(arguments)?;
    pins(&arguments.pins, &arguments.network)
}

/// Serves to the end, which a signal brings about sooner.
async fn until_signal(
    server: &Server,
    serving: impl Future<Output = Result<(), PyroError>>,
) -> (Result<(), PyroError>, Option<i32>) {
    let mut serving = std::pin::pin!(serving);
    tokio::select! {
        outcome = &mut serving => (outcome, None),
        signal = interrupt::interrupted() => {
            server.close();
            (serving.await, Some(signal))
        }
    }
}

async fn over_stdio(server: &Server) -> Result<(), PyroError> {
    server.serve(tokio::io::stdin(), tokio::io::stdout()).await.map_err(|error| {
        PyroError::from_error(ErrorKind::Internal, &error)
            .hint("the server is started by a client, see `pyro mcp config --help`")
    })
}

async fn over_http(server: &Server, arguments: &HttpArguments) -> Result<(), PyroError> {
    let (token, is_fresh) = match &arguments.token_file {
        Some(path) => (BearerToken::from_file(path).map_err(|error| no_token(&error))?, false),
        None => (BearerToken::random().map_err(|error| no_token(&error))?, true),
    };
    let fresh_token = is_fresh.then(|| token.reveal().to_owned());
    let host = arguments.host.unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST));
    let settings = HttpSettings {
        address: SocketAddr::new(host, arguments.port.unwrap_or(PORT_DEFAULT)),
        token,
        allowed_origins: arguments.allow_origin.clone(),
        allowed_hosts: arguments.allow_http_host.clone(),
    };
    let listening = HttpServer::listen(server.clone(), settings).await.map_err(|error| {
        PyroError::from_error(ErrorKind::InvalidInput, &error)
            .hint("choose another address or port: `--host`, `--port` (0 for any that is free)")
    })?;
    terminal::say(&format!("pyro: listening on {}\n", listening.url()));
    if listening.is_on_all_addresses() {
        terminal::say("pyro: every address of this host leads to it, without encryption\n");
    }
    if let Some(token) = fresh_token {
        terminal::say(&format!("pyro: bearer token: {token}\n"));
    }
    listening.serve().await;
    Ok(())
}

fn no_token(error: &TokenError) -> PyroError {
    let failure = PyroError::from_error(ErrorKind::InvalidInput, error);
    match error {
        TokenError::NotPrivate { path, .. } => {
            failure.hint(format!("make it yours alone: `chmod 600 {}`", path.display()))
        }
        // Not the file's own path: what is at fault may be a file that must not be overwritten.
        TokenError::Unreadable { .. } | TokenError::BadFile { .. } | TokenError::Malformed => {
            failure.hint(
                "make a file with a token: `(umask 077; openssl rand -hex 32 > FILE)`, or leave out \
                 `--token-file` for one that holds until the server ends",
            )
        }
        TokenError::NoRandomness { .. } => failure,
    }
}

/// Refuses what would have no effect, and be missed.
fn check_transport(arguments: &ServeArguments) -> Result<(), PyroError> {
    let HttpArguments { host, port, token_file, allow_origin, allow_http_host } = &arguments.http;
    let given = [
        ("--host", host.is_some()),
        ("--port", port.is_some()),
        ("--token-file", token_file.is_some()),
        ("--allow-origin", !allow_origin.is_empty()),
        ("--allow-http-host", !allow_http_host.is_empty()),
    ];
    match given.iter().find(|(_, given)| *given) {
        Some((option, _)) if arguments.transport == TransportChoice::Stdio => {
            let message = format!("`{option}` has no effect over standard input and output");
            Err(PyroError::new(ErrorKind::InvalidInput, message).hint("add `--transport http`"))
        }
        Some(_) | None => Ok(()),
    }
}

fn pins(arguments: &PinArguments, network: &NetworkPinArguments) -> Result<Pins, PyroError> {
    let environments = arguments.allow_environment.iter().map(|name| parse_environment(name));
    let environments = environments.collect::<Result<Vec<_>, _>>()?;
    let of = |option| move |error: PyroError| error.context(format!("`{option}` makes no sense"));
    let vcpu_count_max = VcpuCount::new(arguments.max_vcpu_count);
    let memory_max = MemoryMib::new(arguments.max_mem_mib);
    let time_to_live_max = TimeToLive::from_seconds(arguments.max_ttl_seconds);
    let timeout_max = Timeout::from_seconds(arguments.max_timeout_seconds);
    let active_vms_max = arguments.max_active_vms.map(ActiveVmsMax::new).transpose();
    let network = PinOptions {
        network: !network.no_network,
        policy: network.policy.options(),
        publish: !network.no_publish,
    };
    Ok(Pins {
        environments: (!environments.is_empty()).then_some(environments),
        vcpu_count_max: vcpu_count_max.map_err(of("--max-vcpu-count"))?,
        memory_max: memory_max.map_err(of("--max-mem-mib"))?,
        time_to_live_max: time_to_live_max.map_err(of("--max-ttl-seconds"))?,
        timeout_max: timeout_max.map_err(of("--max-timeout-seconds"))?,
        active_vms_max: active_vms_max.map_err(of("--max-active-vms"))?,
        network: Pins::network(&network)?,
        host_compat: if arguments.allow_host_compat {
            HostCompat::Allowed
        } else {
            HostCompat::Forbidden
        },
    })
}
