//! The command line of `pyro mcp`.

use std::net::IpAddr;
use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};

use crate::arguments::{ArchiveArguments, number, whole_number};
use crate::clients::Client;
use crate::network_arguments::NetworkPinArguments;

#[derive(Debug, Subcommand)]
pub(crate) enum McpCommand {
    /// Serve until standard input ends or a signal comes
    #[command(after_help = "\
What the operator pins no call can widen. VMs that calls create outlive the server, until their time is over.

Examples:
  pyro mcp serve
  pyro mcp serve --profile run --allow-environment debian:12 --max-mem-mib 2048
  pyro mcp serve --transport http --token-file ~/.config/pyro-token")]
    Serve(Box<ServeArguments>),
    /// Print the configuration with which a client uses the server, or install it
    #[command(after_help = "\
What follows `--` are options of `pyro mcp serve`, with which the client then starts it. With `--url` the client looks \
for the token in the environment variable PYRO_MCP_TOKEN; no secret is written.

Examples:
  pyro mcp config --client claude-code
  pyro mcp config --client codex --install -- --profile run --max-mem-mib 2048
  pyro mcp config --client vscode --url http://127.0.0.1:8765/mcp")]
    Config(ConfigArguments),
}

#[derive(Debug, Args)]
pub(crate) struct ConfigArguments {
    /// The client that is to use the server
    #[arg(long, value_enum)]
    pub(crate) client: Client,
    /// Write it into the client's configuration file, beside what is there
    #[arg(long)]
    pub(crate) install: bool,
    /// A server over HTTP that runs already, instead of one that the client starts
    #[arg(long, value_name = "URL", conflicts_with = "serve_options")]
    pub(crate) url: Option<String>,
    /// Options of `pyro mcp serve`, after `--`
    #[arg(last = true, value_name = "OPTIONS")]
    pub(crate) serve_options: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct ServeArguments {
    /// How clients reach the server
    #[arg(long, value_enum, default_value_t = TransportChoice::Stdio)]
    pub(crate) transport: TransportChoice,
    /// The tools that are offered
    #[arg(long, value_enum, default_value_t = ProfileChoice::Full)]
    pub(crate) profile: ProfileChoice,
    /// Keep this many VMs ready, of the kind that the last run had (1 to 16); see `pyro warm --help`
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = whole_number)]
    pub(crate) spares: Option<i64>,
    // Before those whose headings hold for whatever follows.
    #[command(flatten)]
    pub(crate) archive: ArchiveArguments,
    #[command(flatten)]
    pub(crate) pins: PinArguments,
    #[command(flatten)]
    pub(crate) network: NetworkPinArguments,
    #[command(flatten)]
    pub(crate) http: HttpArguments,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum TransportChoice {
    /// Over standard input and output: the client starts the server
    Stdio,
    /// Over HTTP, for clients that show a token
    Http,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum ProfileChoice {
    /// One-shot runs only
    Run,
    /// VMs that several commands share as well
    Full,
}

/// What calls may ask for at most.
#[derive(Debug, Args)]
#[command(next_help_heading = "What calls may ask for")]
pub(crate) struct PinArguments {
    /// An environment that calls may use; may be given several times [default: all]
    #[arg(long, value_name = "NAME")]
    pub(crate) allow_environment: Vec<String>,
    /// Virtual CPUs of a VM at most
    #[arg(long, value_name = "N", default_value_t = 8, allow_negative_numbers = true, value_parser = whole_number)]
    pub(crate) max_vcpu_count: i64,
    /// Memory of a VM at most, in MiB
    #[arg(long, value_name = "MIB", default_value_t = 32768, allow_negative_numbers = true, value_parser = whole_number)]
    pub(crate) max_mem_mib: i64,
    /// Seconds that a VM lives at most
    #[arg(long, value_name = "SECONDS", default_value_t = 3600, allow_negative_numbers = true, value_parser = whole_number)]
    pub(crate) max_ttl_seconds: i64,
    /// Seconds that a command runs at most
    #[arg(long, value_name = "SECONDS", default_value_t = 3600.0, allow_negative_numbers = true, value_parser = number)]
    pub(crate) max_timeout_seconds: f64,
    /// VMs at most, and one-shot runs at once [default: 4, or `PYRO_MAX_ACTIVE_VMS`]
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = whole_number)]
    pub(crate) max_active_vms: Option<i64>,
    /// Let calls have a command run on this host, WITHOUT any boundary, where no VM can be had
    #[arg(long)]
    pub(crate) allow_host_compat: bool,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "HTTP")]
pub(crate) struct HttpArguments {
    /// The address to listen on [default: 127.0.0.1]
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) host: Option<IpAddr>,
    /// The port to listen on; 0 for any that is free [default: 8765]
    #[arg(long, value_name = "PORT")]
    pub(crate) port: Option<u16>,
    /// A file with the bearer token, which only you can read [default: a fresh token, printed once]
    #[arg(long, value_name = "PATH")]
    pub(crate) token_file: Option<PathBuf>,
    /// A web page whose requests are served, for instance `https://app.example`; may be given several times
    #[arg(long, value_name = "ORIGIN")]
    pub(crate) allow_origin: Vec<String>,
    /// A name by which clients call this host, beside its address; may be given several times
    #[arg(long, value_name = "NAME")]
    pub(crate) allow_http_host: Vec<String>,
}

#[cfg(test)]
mod tests {
    use clap::Parser;
    use pyro_mcp_server::Pins;

    use super::*;
    use crate::arguments::{Arguments, Command};

    #[test]
    fn the_pins_defaults_are_those_of_the_server() {
        let arguments = Arguments::parse_from(["pyro", "mcp", "serve"]);
        let Command::Mcp(McpCommand::Serve(serve)) = arguments.command else { panic!("not serve") };
        let pins = Pins::default();
        assert_eq!(serve.pins.max_vcpu_count, i64::from(pins.vcpu_count_max.get()));
        assert_eq!(serve.pins.max_mem_mib, i64::from(pins.memory_max.get()));
        let seconds = pyro_core::TimeToLive::from_seconds(serve.pins.max_ttl_seconds).unwrap();
        assert_eq!(seconds, pins.time_to_live_max);
        let seconds = pyro_core::Timeout::from_seconds(serve.pins.max_timeout_seconds).unwrap();
        assert_eq!(seconds, pins.timeout_max);
    }
}
