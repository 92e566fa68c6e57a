//! One command in one fresh VM, from request to outcome.

use std::time::Duration;

use pyro_environments::{EnvironmentName, InstalledEnvironment};
use pyro_protocol::client::{Accelerator, EndReason, RunEnd, StartKind};
use pyro_protocol::run::{Command, Stdin};
use serde::Serialize;

use crate::capture::CaptureLimit;
use crate::limits::{CommandText, MemoryMib, TimeToLive, Timeout, VcpuCount};
use crate::pyro::{Progress, Pyro};
use crate::streams::{self, Outputs, Streams};
use crate::vm::{self, Shape};
use crate::{ErrorKind, PyroError, host_compat};

/// The exit code of a command that was ended by its time-out, as coreutils' `timeout` has it.
const EXIT_CODE_TIMED_OUT: i32 = 124;

/// A command to be run in a VM of its own.
#[derive(Debug, Clone)]
pub struct RunRequest {
    pub environment: EnvironmentName,
    pub command: CommandText,
    pub vcpu_count: VcpuCount,
    pub memory: MemoryMib,
    pub timeout: Timeout,
    pub time_to_live: TimeToLive,
    pub network: Network,
    pub host_compat: HostCompat,
    /// How much of each output stream the outcome keeps.
    pub capture: CaptureLimit,
}

/// Whether the guest may reach anything outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Network {
    Off,
    On,
}

/// Whether the command may run on the host itself where no VM can be had.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HostCompat {
    Forbidden,
    Allowed,
}

/// Where a command was executed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ExecutionMode {
    /// Nothing was executed yet.
    Pending,
    Guest,
    HostCompat,
}

/// What became of a command.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RunOutcome {
    pub vm_id: String,
    pub environment: &'static str,
    pub environment_version: &'static str,
    pub command: String,
    /// Captured text; bytes that are no UTF-8 are replaced.
    pub stdout: String,
    pub stderr: String,
    /// 0 to 255; 124 on time-out, 128 plus the signal for a killed process.
    pub exit_code: i32,
    /// From the command's start to its end, without the VM's start.
    pub duration_ms: u64,
    pub execution_mode: ExecutionMode,
    pub cleanup: Cleanup,
    pub timed_out: bool,
    pub stdout_truncated: bool,
    pub stderr_truncated: bool,
    /// All bytes written, kept or not.
    pub stdout_bytes: u64,
    pub stderr_bytes: u64,
    /// `None` where no VM was involved.
    pub accelerator: Option<Accelerator>,
    /// How the VM came to life; `None` where no VM was involved.
    pub vm_start: Option<VmStart>,
    /// Why the VM was booted, where it was to be restored.
    pub restore_failure: Option<String>,
    /// The guest's kernel killed a process of this command because memory ran out.
    pub out_of_memory: bool,
}

/// How a VM came to life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum VmStart {
    /// From its template.
    Restored,
    Booted,
}

/// What was done with the VM afterwards.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Cleanup {
    pub vm_id: String,
    pub deleted: bool,
    pub reason: &'static str,
}

/// Runs `request` in a VM, or on the host where that is allowed and no VM can be had.
pub(crate) async fn run(
    pyro: &Pyro,
    request: RunRequest,
    streams: Streams<'_>,
    progress: &(dyn Fn(Progress) + Send + Sync),
) -> Result<RunOutcome, PyroError> {
    if request.network == Network::On {
        return Err(PyroError::new(
            ErrorKind::NotAvailable,
            "network access from a VM is not available yet",
        )
        .hint("run without `--network`: the command then has no network at all"));
    }
    match start(pyro, &request, progress).await {
        Ok((environment, vm)) => run_in(vm, &environment, request, streams).await,
        Err(failure) if request.host_compat == HostCompat::Allowed && means_no_vm(&failure) => {
            progress(Progress::HostCompat { reason: failure });
            host_compat::run(request, streams).await
        }
        Err(failure) => Err(failure),
    }
}

async fn start(
    pyro: &Pyro,
    request: &RunRequest,
    progress: &(dyn Fn(Progress) + Send + Sync),
) -> Result<(InstalledEnvironment, vm::Vm), PyroError> {
    let environment = pyro.ready_environment(request.environment, progress).await?;
    let shape = Shape {
        vcpu_count: request.vcpu_count,
        memory: request.memory,
        time_to_live: request.time_to_live,
    };
    let vm = pyro.launch(&environment, shape, progress).await?;
    Ok((environment, vm))
}

/// Whether `failure` says that this host cannot give a VM; a wrong value or a lost VM does not.
fn means_no_vm(failure: &PyroError) -> bool {
    match failure.kind {
        ErrorKind::EnvironmentUnavailable
        | ErrorKind::NoSpace
        | ErrorKind::HostUnsupported
        | ErrorKind::VmStartFailed => true,
        ErrorKind::InvalidInput
        | ErrorKind::UnknownEnvironment
        | ErrorKind::VmLost
        | ErrorKind::VmExpired
        | ErrorKind::NotAvailable
        | ErrorKind::Interrupted
        | ErrorKind::Internal => false,
    }
}

async fn run_in(
    mut vm: vm::Vm,
    environment: &InstalledEnvironment,
    request: RunRequest,
    streams: Streams<'_>,
) -> Result<RunOutcome, PyroError> {
    let text = request.command.clone().into_string();
    let command = Command {
        shell: text.clone(),
        environment: Vec::new(),
        working_directory: None,
        stdin: if streams.stdin.is_some() { Stdin::Piped } else { Stdin::Empty },
    };
    let mut outputs = Outputs::new(streams.stdout, streams.stderr, request.capture);
    let end = {
        let mut run =
            vm.supervisor.run(command, request.timeout.get()).map_err(vm::client_failure)?;
        streams::pump(&mut run, streams.stdin, &mut outputs).await
    };
    let ended = vm.supervisor.end().await;
    let end = end?;
    ended.map_err(|error| {
        PyroError::from_error(ErrorKind::Internal, &error).context("cannot end the VM")
    })?;
    let mode = ExecutionMode::Guest;
    let mut outcome =
        RunOutcome::new(&vm.id, request.environment, text, mode, &Ending::of(&end), outputs);
    outcome.environment_version = environment.definition().version;
    outcome.accelerator = Some(vm.accelerator);
    (outcome.vm_start, outcome.restore_failure) = match vm.start {
        StartKind::Restored => (Some(VmStart::Restored), None),
        StartKind::ColdBoot => (Some(VmStart::Booted), None),
        StartKind::ColdBootInstead { reason } => (Some(VmStart::Booted), Some(reason.one_line())),
    };
    Ok(outcome)
}

/// How a command ended, wherever it ran.
pub(crate) struct Ending {
    pub(crate) exit_code: i32,
    pub(crate) duration: Duration,
    pub(crate) timed_out: bool,
    pub(crate) out_of_memory: bool,
}

impl Ending {
    /// For a command that was ended by its time-out.
    pub(crate) fn timed_out(duration: Duration) -> Self {
        Self { exit_code: EXIT_CODE_TIMED_OUT, duration, timed_out: true, out_of_memory: false }
    }

    fn of(end: &RunEnd) -> Self {
        match end.reason {
            EndReason::TimedOut => Self::timed_out(end.duration),
            EndReason::Finished | EndReason::Cancelled => Self {
                exit_code: end.status.exit_code(),
                duration: end.duration,
                timed_out: false,
                out_of_memory: end.out_of_memory,
            },
        }
    }
}

impl RunOutcome {
    pub(crate) fn new(
        vm_id: &str,
        environment: EnvironmentName,
        command: String,
        execution_mode: ExecutionMode,
        ending: &Ending,
        outputs: Outputs<'_>,
    ) -> Self {
        let (stdout, stderr) = outputs.finish();
        Self {
            vm_id: vm_id.to_owned(),
            environment: environment.as_str(),
            environment_version: environment.definition().version,
            command,
            stdout: stdout.text,
            stderr: stderr.text,
            exit_code: ending.exit_code,
            duration_ms: u64::try_from(ending.duration.as_millis()).unwrap_or(u64::MAX),
            execution_mode,
            cleanup: Cleanup { vm_id: vm_id.to_owned(), deleted: true, reason: "run_complete" },
            timed_out: ending.timed_out,
            stdout_truncated: stdout.truncated,
            stderr_truncated: stderr.truncated,
            stdout_bytes: stdout.total_bytes,
            stderr_bytes: stderr.total_bytes,
            accelerator: None,
            vm_start: None,
            restore_failure: None,
            out_of_memory: ending.out_of_memory,
        }
    }
}
