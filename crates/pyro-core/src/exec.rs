//! A command and what became of it, wherever it was executed.

use std::time::Duration;

use pyro_protocol::client::{Accelerator, EndReason, RunEnd};
use pyro_protocol::network::{AuthoredPolicy, Refusals};
use pyro_protocol::run::{Command, RunId, Stdin};
use pyro_supervisor::client::{ClientError, Run};
use serde::Serialize;

use crate::PyroError;
use crate::capture::{CAPTURE_BYTES_DEFAULT, CaptureLimit};
use crate::command::{CommandText, Variables, WorkingDirectory};
use crate::limits::Timeout;
use crate::network::refusals::{self, NetworkRefusal};
use crate::streams::{self, Inputs, Outputs, Streams};
use crate::vm::client_failure;

/// The exit code of a command that was ended by its time-out, as coreutils' `timeout` has it.
const EXIT_CODE_TIMED_OUT: i32 = 124;

/// A command to be executed.
#[derive(Debug, Clone)]
pub struct ExecRequest {
    pub command: CommandText,
    pub timeout: Timeout,
    /// How much of each output stream the outcome keeps.
    pub capture: CaptureLimit,
    pub variables: Variables,
    /// `None` for root's home.
    pub working_directory: Option<WorkingDirectory>,
}

impl ExecRequest {
    /// A command with the default time-out, in the default environment.
    pub fn new(command: CommandText) -> Self {
        Self {
            command,
            timeout: Timeout::DEFAULT,
            capture: CAPTURE_BYTES_DEFAULT,
            variables: Variables::default(),
            working_directory: None,
        }
    }
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
pub struct ExecOutcome {
    pub vm_id: String,
    pub environment: String,
    pub environment_version: String,
    pub command: String,
    /// Captured text; bytes that are no UTF-8 are replaced.
    pub stdout: String,
    pub stderr: String,
    /// 0 to 255; 124 on time-out, 128 plus the signal for a killed process.
    pub exit_code: i32,
    /// From the command's start to its end, without the VM's start.
    pub duration_ms: u64,
    pub execution_mode: ExecutionMode,
    pub timed_out: bool,
    pub stdout_truncated: bool,
    pub stderr_truncated: bool,
    /// All bytes written, kept or not.
    pub stdout_bytes: u64,
    pub stderr_bytes: u64,
    /// `None` where no VM was involved.
    pub accelerator: Option<Accelerator>,
    /// The guest's kernel killed a process of this command because memory ran out.
    pub out_of_memory: bool,
    /// What the VM's network refused meanwhile, to this command or another that was on.
    pub network_refusals: Vec<NetworkRefusal>,
    /// How many more, beyond the list.
    pub network_refusals_left_out: u32,
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

    pub(crate) fn duration_ms(&self) -> u64 {
        u64::try_from(self.duration.as_millis()).unwrap_or(u64::MAX)
    }

    pub(crate) fn of(end: &RunEnd) -> Self {
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

/// Where a command was executed, for its outcome.
pub(crate) struct Place<'a> {
    pub(crate) vm_id: &'a str,
    pub(crate) environment: &'a str,
    pub(crate) environment_version: &'a str,
    pub(crate) mode: ExecutionMode,
    pub(crate) accelerator: Option<Accelerator>,
    /// Of the network there, if there is one.
    pub(crate) policies: &'a [AuthoredPolicy],
}

/// Executes a command at `place`, carries its streams, and tells what became of it, and the VM's number for it.
/// `begin` has it begin.
pub(crate) async fn carry_out<'vm>(
    begin: impl FnOnce(Command, Duration) -> Result<Run<'vm>, ClientError>,
    request: ExecRequest,
    mut streams: Streams<'_>,
    place: &Place<'_>,
) -> Result<(ExecOutcome, RunId), PyroError> {
    let command = Command {
        shell: request.command.clone().into_string(),
        environment: request.variables.into_entries().collect(),
        working_directory: request.working_directory.map(WorkingDirectory::into_string),
        stdin: match (&mut streams.terminal, &streams.stdin) {
            (Some(terminal), _) => Stdin::Terminal(*terminal.borrow_and_update()),
            (None, Some(_)) => Stdin::Piped,
            (None, None) => Stdin::Empty,
        },
    };
    let mut outputs = Outputs::new(streams.stdout, streams.stderr, request.capture);
    let mut inputs = Inputs { stdin: streams.stdin, terminal: streams.terminal };
    let mut run = begin(command, request.timeout.get()).map_err(client_failure)?;
    let end = streams::pump(&mut run, &mut inputs, &mut outputs).await?;
    let outcome = ExecOutcome::new(place, request.command, &Ending::of(&end), outputs);
    Ok((outcome.with_refusals(&end.refusals, place.policies), end.number))
}

impl ExecOutcome {
    pub(crate) fn new(
        place: &Place<'_>,
        command: CommandText,
        ending: &Ending,
        outputs: Outputs<'_>,
    ) -> Self {
        let (stdout, stderr) = outputs.finish();
        Self {
            vm_id: place.vm_id.to_owned(),
            environment: place.environment.to_owned(),
            environment_version: place.environment_version.to_owned(),
            command: command.into_string(),
            stdout: stdout.text,
            stderr: stderr.text,
            exit_code: ending.exit_code,
            duration_ms: ending.duration_ms(),
            execution_mode: place.mode,
            timed_out: ending.timed_out,
            stdout_truncated: stdout.truncated,
            stderr_truncated: stderr.truncated,
            stdout_bytes: stdout.total_bytes,
            stderr_bytes: stderr.total_bytes,
            accelerator: place.accelerator,
            out_of_memory: ending.out_of_memory,
            network_refusals: Vec::new(),
            network_refusals_left_out: 0,
        }
    }

    fn with_refusals(self, refusals: &Refusals, policies: &[AuthoredPolicy]) -> Self {
        Self {
            network_refusals: refusals::explain(refusals, policies),
            network_refusals_left_out: refusals.left_out,
            ..self
        }
    }
}
