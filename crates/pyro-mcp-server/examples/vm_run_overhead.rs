//! Runs a shell command in VMs of its own, by turns through the core in this process and as `vm_run` through
//! a real `pyro mcp serve` on standard input and output. Prints the milliseconds of each as JSON, in order.
//!
//! ```sh
//! cargo run --package pyro-mcp-server --example vm_run_overhead -- target/debug/pyro debian:12 5 'sh -c true'
//! ```
//!
//! With `spares` as a last word each run waits, before its time begins, until somebody keeps a spare for it, and must get that.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "an example shows what it does")]

use std::error::Error;
use std::path::PathBuf;
use std::process::{ExitCode, Stdio};
use std::time::{Duration, Instant};

use pyro_core::{
    CommandText, Config, ExecRequest, HostCompat, MemoryMib, Network, Pyro, RunRequest, Streams,
    TimeToLive, VcpuCount, VmRequest, VmStart, parse_environment,
};
use rmcp::model::CallToolRequestParams;
use rmcp::service::{RoleClient, RunningService, ServiceExt};

const USAGE: &str = "usage: vm_run_overhead PYRO ENVIRONMENT TIMES COMMAND [spares]";

/// Between two looks for a spare.
const PAUSE: Duration = Duration::from_millis(50);

/// To make one takes some seconds of a CPU.
const SPARE_DEADLINE: Duration = Duration::from_mins(2);

struct Arguments {
    /// The `pyro` executable: the server, and the supervisor of the VMs.
    pyro: PathBuf,
    environment: String,
    times: usize,
    command: String,
    in_spares: bool,
}

type Failure = Box<dyn Error>;

fn main() -> ExitCode {
    let Some(arguments) = arguments() else {
        eprintln!("{USAGE}");
        return ExitCode::FAILURE;
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    match runtime.map_err(Failure::from).and_then(|runtime| runtime.block_on(measure(&arguments))) {
        Ok(milliseconds) => {
            println!("{milliseconds}");
            ExitCode::SUCCESS
        }
        Err(failure) => {
            eprintln!("error: {failure}");
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
    let command = words.next()?;
    let in_spares = match words.next() {
        None => false,
        Some(word) => (word == "spares").then_some(true)?,
    };
    words.next().is_none().then_some(Arguments { pyro, environment, times, command, in_spares })
}

async fn measure(arguments: &Arguments) -> Result<serde_json::Value, Failure> {
    let core = Pyro::new(Config::from_environment(arguments.pyro.clone())?);
    let mut server = tokio::process::Command::new(&arguments.pyro)
        .args(["mcp", "serve"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()?;
    let streams =
        (server.stdout.take().ok_or("no output")?, server.stdin.take().ok_or("no input")?);
    let client = ().serve(streams).await?;
    let (mut core_ms, mut mcp_ms) = (Vec::new(), Vec::new());
    // The first of each finds cold caches, and perhaps no template, and is not counted.
    through_core(&core, arguments).await?;
    through_mcp(&core, &client, arguments).await?;
    for round in 0..arguments.times {
        // Each begins every other round, so that neither profits from always following the other.
        if round % 2 == 0 {
            core_ms.push(through_core(&core, arguments).await?);
            mcp_ms.push(through_mcp(&core, &client, arguments).await?);
        } else {
            mcp_ms.push(through_mcp(&core, &client, arguments).await?);
            core_ms.push(through_core(&core, arguments).await?);
        }
    }
    client.cancel().await?;
    // It ends with its input.
    server.wait().await?;
    Ok(serde_json::json!({ "core": core_ms, "mcp": mcp_ms }))
}

/// Waits for a spare, where runs are to be in spares.
async fn ready(core: &Pyro, arguments: &Arguments) -> Result<(), Failure> {
    let deadline = Instant::now() + SPARE_DEADLINE;
    while arguments.in_spares && core.warm_status().await.spares.is_empty() {
        if Instant::now() > deadline {
            return Err("there is no spare".into());
        }
        tokio::time::sleep(PAUSE).await;
    }
    Ok(())
}

async fn through_core(core: &Pyro, arguments: &Arguments) -> Result<f64, Failure> {
    ready(core, arguments).await?;
    let started = Instant::now();
    let request = RunRequest {
        vm: VmRequest {
            environment: parse_environment(&arguments.environment)?,
            vcpu_count: VcpuCount::DEFAULT,
            memory: MemoryMib::DEFAULT,
            time_to_live: TimeToLive::DEFAULT,
            network: Network::Off,
        },
        exec: ExecRequest::new(CommandText::new(&arguments.command)?),
        host_compat: HostCompat::Forbidden,
    };
    let outcome = core.run_in_vm(request, Streams::default(), &|_| {}).await?;
    let elapsed_ms = started.elapsed().as_secs_f64() * 1e3;
    if outcome.exec.exit_code != 0 {
        return Err(format!("the command fails: {}", outcome.exec.stderr).into());
    }
    if arguments.in_spares && outcome.vm_start != Some(VmStart::Spare) {
        return Err("a run took no spare".into());
    }
    Ok(elapsed_ms)
}

async fn through_mcp(
    core: &Pyro,
    client: &RunningService<RoleClient, ()>,
    arguments: &Arguments,
) -> Result<f64, Failure> {
    let values = serde_json::json!({
        "environment": arguments.environment,
        "command": arguments.command,
    });
    let mut request = CallToolRequestParams::new("vm_run");
    request.arguments = values.as_object().cloned();
    ready(core, arguments).await?;
    let started = Instant::now();
    let result = client.call_tool(request).await?;
    let elapsed_ms = started.elapsed().as_secs_f64() * 1e3;
    let outcome = result.structured_content.clone().unwrap_or_default();
    if outcome["exit_code"] != 0 {
        return Err(format!("the command fails: {result:?}").into());
    }
    if arguments.in_spares && outcome["vm_start"] != "spare" {
        return Err("a call took no spare".into());
    }
    Ok(elapsed_ms)
}
