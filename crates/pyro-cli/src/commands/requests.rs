//! From words of the command line to what the core is asked for.

use std::collections::BTreeMap;

use pyro_core::{
    CAPTURE_BYTES_DEFAULT, CaptureLimit, CommandText, Config, ErrorKind, ExecRequest, MemoryMib,
    Network, PyroError, TimeToLive, Timeout, Variables, VcpuCount, VmRequest, WorkingDirectory,
    parse_environment,
};

use crate::arguments::{CommandArguments, OutputArguments, VmArguments};
use crate::network_arguments::NetworkArguments;

pub(super) fn vm(
    environment: &str,
    arguments: &VmArguments,
    network: &NetworkArguments,
) -> Result<VmRequest, PyroError> {
    Ok(VmRequest {
        environment: parse_environment(environment)?,
        vcpu_count: VcpuCount::new(arguments.vcpu_count)?,
        memory: MemoryMib::new(arguments.mem_mib)?,
        time_to_live: TimeToLive::from_seconds(arguments.ttl_seconds)?,
        network: Network::new(&network.options())?,
    })
}

/// A command, from its words; `example` is what a whole command line looks like.
pub(super) fn exec(
    words: &[String],
    arguments: &CommandArguments,
    output: OutputArguments,
    config: &Config,
    example: &str,
) -> Result<ExecRequest, PyroError> {
    if words.is_empty() {
        return Err(PyroError::new(ErrorKind::InvalidInput, "command is required after --")
            .hint(format!("for instance: `{example}`")));
    }
    let command = shlex::try_join(words.iter().map(String::as_str)).map_err(|error| {
        PyroError::from_error(ErrorKind::InvalidInput, &error)
            .context("command cannot be quoted for a shell")
    })?;
    // In the shell's place: at a terminal a Ctrl-C goes to all that are in front, and a shell that waits in
    // front of its command would end by it, whatever the command makes of it.
    let command = if arguments.tty { format!("exec {command}") } else { command };
    let mut variables: BTreeMap<_, _> = arguments.env.iter().cloned().collect();
    if let (true, Some(kind)) = (arguments.tty, &config.terminal_type) {
        variables.entry("TERM".to_owned()).or_insert_with(|| kind.clone());
    }
    let cwd = arguments.cwd.as_ref().map(WorkingDirectory::new);
    Ok(ExecRequest {
        timeout: timeout(arguments)?,
        // What is streamed need not be kept.
        capture: if output.json { CAPTURE_BYTES_DEFAULT } else { CaptureLimit(0) },
        variables: Variables::new(variables)?,
        working_directory: cwd.transpose()?,
        ..ExecRequest::new(CommandText::new(command)?)
    })
}

fn timeout(arguments: &CommandArguments) -> Result<Timeout, PyroError> {
    match arguments.timeout_seconds {
        Some(seconds) => Timeout::from_seconds(seconds),
        // People think for as long as they like; the VM's time to live is the limit.
        None if arguments.tty => Ok(Timeout::MAX),
        None => Ok(Timeout::DEFAULT),
    }
}
