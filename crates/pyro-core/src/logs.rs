//! What the commands of a VM with a life of its own wrote, kept until the VM is deleted.
//!
//! Of each stream the first 64 MiB are kept, of all commands of a VM 256 MiB and 200 commands; the oldest that
//! are over make room. Source of the numbers: `pyro-supervisor`'s `journal`.

use std::io::{ErrorKind as IoErrorKind, Read};

use pyro_protocol::record::RunFate;
use pyro_protocol::run::Stream;
use pyro_supervisor::journal::{self, KeptRun};
use serde::Serialize;

use crate::exec::Ending;
use crate::lifecycle;
use crate::limits::{VmId, invalid};
use crate::pyro::Pyro;
use crate::{ErrorKind, PyroError};

/// The commands of a VM of which something is kept, oldest first.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct RunList {
    pub vm_id: String,
    pub runs: Vec<RunInfo>,
}

/// A command of a VM, and what became of it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct RunInfo {
    /// Counted from 1 in each VM.
    pub run_id: u32,
    pub command: String,
    /// Seconds since the epoch.
    pub started_at: f64,
    pub state: RunState,
    /// As in the outcome; `None` where there is none, or none yet.
    pub exit_code: Option<i32>,
    pub timed_out: bool,
    pub duration_ms: Option<u64>,
    /// Why there is no outcome, where there will be none.
    pub failure: Option<String>,
    /// All bytes written, kept or not; `None` where that is not known, or not yet.
    pub stdout_bytes: Option<u64>,
    pub stderr_bytes: Option<u64>,
    /// Of which so many are kept, from the beginning.
    pub stdout_kept_bytes: u64,
    pub stderr_kept_bytes: u64,
}

/// Whether a command is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum RunState {
    Running,
    Ended,
    /// It has no exit code: it did not start, or its machine went first.
    Failed,
}

/// An output stream of a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum OutputStream {
    Stdout,
    Stderr,
}

/// A part of what a command wrote.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogRequest {
    pub run_id: u32,
    pub stream: OutputStream,
    /// In bytes, from the beginning of the stream.
    pub offset: u64,
    /// At most [`LogRequest::BYTES_MAX`].
    pub bytes_max: usize,
}

/// A part of what a command wrote, as text.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LogPart {
    pub vm_id: String,
    pub run_id: u32,
    pub stream: OutputStream,
    pub offset: u64,
    /// Bytes that are no UTF-8 are replaced.
    pub text: String,
    /// Where the next part begins; `None` where nothing more is kept, and nothing more will come.
    pub next_offset: Option<u64>,
    /// Of the whole stream, so far.
    pub kept_bytes: u64,
    /// All bytes written, kept or not; `None` where that is not known, or not yet.
    pub total_bytes: Option<u64>,
    pub state: RunState,
}

/// All that is kept of a command.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct RunLog {
    pub vm_id: String,
    #[serde(flatten)]
    pub run: RunInfo,
    pub stdout: String,
    pub stderr: String,
}

impl LogRequest {
    pub const BYTES_MAX: usize = 1 << 20;
}

impl From<KeptRun> for RunInfo {
    fn from(kept: KeptRun) -> Self {
        let KeptRun { record, stdout_kept_bytes, stderr_kept_bytes } = kept;
        let mut info = Self {
            run_id: record.number,
            command: record.command,
            started_at: record.started_at.as_secs_f64(),
            state: RunState::Running,
            exit_code: None,
            timed_out: false,
            duration_ms: None,
            failure: None,
            stdout_bytes: None,
            stderr_bytes: None,
            stdout_kept_bytes,
            stderr_kept_bytes,
        };
        match record.fate {
            RunFate::Running => {}
            RunFate::Failed { reason } => {
                (info.state, info.failure) = (RunState::Failed, Some(reason));
            }
            RunFate::Ended { end, stdout_bytes, stderr_bytes } => {
                let ending = Ending::of(&end);
                info.state = RunState::Ended;
                info.exit_code = Some(ending.exit_code);
                info.timed_out = ending.timed_out;
                info.duration_ms = Some(ending.duration_ms());
                (info.stdout_bytes, info.stderr_bytes) = (Some(stdout_bytes), Some(stderr_bytes));
            }
        }
        info
    }
}

impl OutputStream {
    fn of_protocol(self) -> Stream {
        match self {
            Self::Stdout => Stream::Stdout,
            Self::Stderr => Stream::Stderr,
        }
    }
}

pub(crate) fn list(pyro: &Pyro, id: &VmId) -> Result<RunList, PyroError> {
    let vms = lifecycle::directory(pyro);
    vms.find(id)?;
    let runs = journal::runs(&vms.directory(id)).map_err(|error| unreadable(pyro, id, &error))?;
    Ok(RunList {
        vm_id: id.as_str().to_owned(),
        runs: runs.into_iter().map(RunInfo::from).collect(),
    })
}

pub(crate) fn run(pyro: &Pyro, id: &VmId, run_id: u32) -> Result<RunInfo, PyroError> {
    let vms = lifecycle::directory(pyro);
    vms.find(id)?;
    match journal::run(&vms.directory(id), run_id) {
        Ok(run) => Ok(run.into()),
        Err(error) if error.kind() == IoErrorKind::NotFound => Err(invalid(format!(
            "run {run_id} of vm '{}' does not exist, or nothing of it is kept any more",
            id.as_str()
        ))
        .hint(
            "`pyro vm logs ID` shows those that are kept; `vm_exec` tells the number of each run",
        )),
        Err(error) => Err(unreadable(pyro, id, &error)),
    }
}

pub(crate) fn read(pyro: &Pyro, id: &VmId, request: &LogRequest) -> Result<LogPart, PyroError> {
    if !(1..=LogRequest::BYTES_MAX).contains(&request.bytes_max) {
        let (max, given) = (LogRequest::BYTES_MAX, request.bytes_max);
        return Err(invalid(format!("bytes_max must be between 1 and {max}, not {given}")));
    }
    // First, so that a run which is over is known to be read to its end.
    let info = run(pyro, id, request.run_id)?;
    let (kept_bytes, total_bytes) = match request.stream {
        OutputStream::Stdout => (info.stdout_kept_bytes, info.stdout_bytes),
        OutputStream::Stderr => (info.stderr_kept_bytes, info.stderr_bytes),
    };
    if request.offset > kept_bytes {
        let given = request.offset;
        return Err(invalid(format!("offset must be at most {kept_bytes}, not {given}")));
    }
    let mut bytes = Vec::new();
    let mut source = output(pyro, id, request.run_id, request.stream, request.offset)?;
    (&mut source)
        .take(request.bytes_max as u64)
        .read_to_end(&mut bytes)
        .map_err(|error| unreadable(pyro, id, &error))?;
    let end = request.offset + bytes.len() as u64;
    if end < kept_bytes || info.state == RunState::Running {
        bytes.truncate(without_cut_character(&bytes));
    }
    if bytes.is_empty() && end < kept_bytes {
        return Err(invalid(format!("bytes_max must be at least {CHARACTER_BYTES_MAX} here")));
    }
    let next_offset = request.offset + bytes.len() as u64;
    let is_all = next_offset >= kept_bytes && info.state != RunState::Running;
    Ok(LogPart {
        vm_id: id.as_str().to_owned(),
        run_id: request.run_id,
        stream: request.stream,
        offset: request.offset,
        text: String::from_utf8_lossy(&bytes).into_owned(),
        next_offset: (!is_all).then_some(next_offset),
        kept_bytes: kept_bytes.max(end),
        total_bytes,
        state: info.state,
    })
}

/// All that is kept of a run's stream, from byte `offset` on, as it is.
pub(crate) fn output(
    pyro: &Pyro,
    id: &VmId,
    run_id: u32,
    stream: OutputStream,
    offset: u64,
) -> Result<impl Read + use<>, PyroError> {
    let directory = lifecycle::directory(pyro).directory(id);
    journal::output(&directory, run_id, stream.of_protocol(), offset)
        .map_err(|error| unreadable(pyro, id, &error))
}

pub(crate) fn whole(pyro: &Pyro, id: &VmId, run_id: u32) -> Result<RunLog, PyroError> {
    let run = run(pyro, id, run_id)?;
    let text = |stream| {
        let mut bytes = Vec::new();
        output(pyro, id, run_id, stream, 0)?
            .read_to_end(&mut bytes)
            .map_err(|error| unreadable(pyro, id, &error))?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    };
    let (stdout, stderr) = (text(OutputStream::Stdout)?, text(OutputStream::Stderr)?);
    Ok(RunLog { vm_id: id.as_str().to_owned(), run, stdout, stderr })
}

/// The VM may have ended in the middle, which says more.
fn unreadable(pyro: &Pyro, id: &VmId, error: &std::io::Error) -> PyroError {
    match lifecycle::directory(pyro).find(id) {
        Err(gone) => gone,
        Ok(_) => PyroError::from_error(ErrorKind::Internal, error)
            .context(format!("cannot read what the commands of vm '{}' wrote", id.as_str())),
    }
}

/// The longest character of UTF-8.
const CHARACTER_BYTES_MAX: usize = 4;

/// The length of `bytes` without a character that is cut at their end.
fn without_cut_character(bytes: &[u8]) -> usize {
    let longest = bytes.len().saturating_sub(CHARACTER_BYTES_MAX - 1);
    let cut = (longest..bytes.len()).find(|&start| {
        let tail = std::str::from_utf8(&bytes[start..]);
        tail.is_err_and(|error| error.valid_up_to() == 0 && error.error_len().is_none())
    });
    cut.unwrap_or(bytes.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_character_that_is_cut_is_left_for_the_next_part() {
        let text = "aä€😀".as_bytes();
        for (length, expected) in
            [(1, 1), (2, 1), (3, 3), (4, 3), (5, 3), (6, 6), (7, 6), (8, 6), (9, 6), (10, 10)]
        {
            assert_eq!(without_cut_character(&text[..length]), expected, "{length}");
        }
        assert_eq!(without_cut_character(b"a\xff\xff\xff"), 4, "no text at all");
        assert_eq!(without_cut_character(b"\xf0\x9f"), 0, "it may still become one");
        assert_eq!(without_cut_character(b""), 0);
    }
}
