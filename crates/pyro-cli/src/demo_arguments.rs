//! The command line of `pyro demo`.

use clap::{Args, Subcommand};

use crate::arguments::{ArchiveArguments, OutputArguments, number};
use crate::commands::demo::ProbeTarget;
use crate::network_arguments::NetworkArguments;

#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
#[command(after_help = "\
The VM is deleted at the end, whatever happens before. What a probe finds is told and no error.

Examples:
  pyro demo
  pyro demo --json
  pyro demo --network --probe example.com:80
  pyro demo --network --allow-cidr 127.0.0.1:80 --probe host.pyro.internal:80
  pyro demo ollama --model qwen3:4b")]
pub(crate) struct DemoArguments {
    #[command(subcommand)]
    pub(crate) command: Option<DemoCommand>,
    #[command(flatten)]
    pub(crate) walk: WalkArguments,
}

#[derive(Debug, Args)]
pub(crate) struct WalkArguments {
    /// The environment of the VM; see `pyro env list`
    #[arg(long, value_name = "NAME", default_value = "debian:12")]
    pub(crate) environment: String,
    /// With --network, what to look for from inside: whether a TCP connection to it comes about
    #[arg(
        long,
        value_name = "HOST[:PORT]",
        default_value = "example.com:443",
        requires = "network"
    )]
    pub(crate) probe: ProbeTarget,
    #[command(flatten)]
    pub(crate) archive: ArchiveArguments,
    #[command(flatten)]
    pub(crate) output: OutputArguments,
    #[command(flatten)]
    pub(crate) network: NetworkArguments,
}

#[derive(Debug, Subcommand)]
pub(crate) enum DemoCommand {
    /// Have a model call the tools of the MCP server, through Ollama or another endpoint of its kind
    #[command(after_help = "\
The model gets the tools that `pyro mcp serve --profile run --no-network` offers, and is asked for \
something that it can only know by running a command. What happens is printed line by line, the \
last one begins with [summary]. A key in OPENAI_API_KEY is sent to https URLs and to this host only.

Examples:
  ollama pull llama3.2:3b && pyro demo ollama
  pyro demo ollama --model qwen3:4b -v
  pyro demo ollama --base-url https://llm.example/v1 --model some-model")]
    Ollama(OllamaArguments),
}

#[derive(Debug, Args)]
pub(crate) struct OllamaArguments {
    /// Where the endpoint is: what stands before `/chat/completions`
    #[arg(long, value_name = "URL", default_value = "http://localhost:11434/v1")]
    pub(crate) base_url: String,
    /// The model, which must be able to call tools
    #[arg(long, value_name = "NAME", default_value = "llama3.2:3b")]
    pub(crate) model: String,
    /// Give up after this many seconds without a reply of the model
    #[arg(long, value_name = "SECONDS", default_value_t = 300.0, allow_negative_numbers = true, value_parser = number)]
    pub(crate) timeout_seconds: f64,
    /// Print every message as it is sent and received
    #[arg(long, short)]
    pub(crate) verbose: bool,
}
