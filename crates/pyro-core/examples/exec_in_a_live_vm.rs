//! Starts one VM and executes shell commands in it, each several times, taking turns. Prints the
//! milliseconds of every execution as JSON, in order: a list for each command.
//!
//! ```sh
//! cargo run --package pyro-core --example exec_in_a_live_vm -- \
//!     target/debug/pyro debian:12 5 'sh -c true' 'git --version'
//! ```
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "an example shows what it does")]

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use pyro_core::{
    CaptureLimit, CommandText, Config, ErrorKind, ExecRequest, MemoryMib, Network, Pyro, PyroError,
    Streams, TimeToLive, VcpuCount, Vm, VmRequest, parse_environment,
};

const USAGE: &str = "usage: exec_in_a_live_vm PYRO ENVIRONMENT TIMES COMMAND...";

struct Arguments {
    /// The `pyro` executable, which is also the supervisor of the VM.
    pyro: PathBuf,
    environment: String,
    times: usize,
    commands: Vec<String>,
}

fn main() -> ExitCode {
    let Some(arguments) = arguments() else {
        eprintln!("{USAGE}");
        return ExitCode::FAILURE;
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let timed = runtime
        .map_err(|error| PyroError::from_error(ErrorKind::Internal, &error))
        .and_then(|runtime| runtime.block_on(time_commands(&arguments)));
    match timed {
        Ok(milliseconds) => {
            println!("{}", serde_json::json!(milliseconds));
            ExitCode::SUCCESS
        }
        Err(failure) => {
            eprintln!("error: {failure:#?}");
            ExitCode::FAILURE
        }
    }
}

fn arguments() -> Option<Arguments> {
    let mut words = std::env::args().skip(1);
    // Absolute, because a supervisor works in a directory of its own.
    let pyro = std::path::absolute(words.next()?).ok()?;
    let environment = words.next()?;
    let times = words.next()?.parse().ok()?;
    let commands: Vec<_> = words.collect();
    (!commands.is_empty()).then_some(Arguments { pyro, environment, times, commands })
}

async fn time_commands(arguments: &Arguments) -> Result<Vec<Vec<f64>>, PyroError> {
    let pyro = Pyro::new(Config::from_environment(arguments.pyro.clone())?);
    let request = VmRequest {
        environment: parse_environment(&arguments.environment)?,
        vcpu_count: VcpuCount::DEFAULT,
        memory: MemoryMib::DEFAULT,
        time_to_live: TimeToLive::DEFAULT,
        network: Network::Off,
    };
    let mut vm = pyro.launch_vm(&request, &|_| {}).await?;
    let mut milliseconds = vec![Vec::new(); arguments.commands.len()];
    for _ in 0..arguments.times {
        for (command, samples) in arguments.commands.iter().zip(&mut milliseconds) {
            samples.push(time_command(&mut vm, command).await?);
        }
    }
    vm.end().await?;
    Ok(milliseconds)
}

async fn time_command(vm: &mut Vm, command: &str) -> Result<f64, PyroError> {
    let request =
        ExecRequest { capture: CaptureLimit(4096), ..ExecRequest::new(CommandText::new(command)?) };
    let started = Instant::now();
    let outcome = vm.exec(request, Streams::default()).await?;
    let elapsed = started.elapsed();
    if outcome.exit_code != 0 {
        let problem = format!("`{command}` fails: {}", outcome.stderr);
        return Err(PyroError::new(ErrorKind::InvalidInput, problem));
    }
    Ok(elapsed.as_secs_f64() * 1e3)
}
