//! From words of the command line to what the core is asked for.

use pyro_core::{
    CAPTURE_BYTES_DEFAULT, CaptureLimit, CommandText, ErrorKind, ExecRequest, MemoryMib, Network,
    PyroError, TimeToLive, Timeout, VcpuCount, VmRequest, parse_environment,
};

use crate::arguments::{OutputArguments, TimeoutArguments, VmArguments};

pub(super) fn vm(environment: &str, arguments: &VmArguments) -> Result<VmRequest, PyroError> {
    Ok(VmRequest {
        environment: parse_environment(environment)?,
        vcpu_count: VcpuCount::new(arguments.vcpu_count)?,
        memory: MemoryMib::new(arguments.mem_mib)?,
        time_to_live: TimeToLive::from_seconds(arguments.ttl_seconds)?,
        network: if arguments.network { Network::On } else { Network::Off },
    })
}

/// A command, from its words; `example` is what a whole command line looks like.
pub(super) fn exec(
    words: &[String],
    timeout: TimeoutArguments,
    output: OutputArguments,
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
    Ok(ExecRequest {
        command: CommandText::new(command)?,
        timeout: Timeout::from_seconds(timeout.timeout_seconds)?,
        // What is streamed need not be kept.
        capture: if output.json { CAPTURE_BYTES_DEFAULT } else { CaptureLimit(0) },
    })
}
