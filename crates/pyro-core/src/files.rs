//! Files of a VM that was started, read and written byte for byte.
//!
//! Commands of the guest do it, so they work in any environment with a shell, and what they may is what root may. The
//! path is handed over in a variable: nothing in it means anything to a shell.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use tokio::io::AsyncWrite;

use crate::capture::CaptureLimit;
use crate::command::{CommandText, GuestPath, Variables};
use crate::exec::ExecRequest;
use crate::limits::{FileBytesMax, Timeout, VmId, invalid};
use crate::pyro::Pyro;
use crate::streams::Streams;
use crate::{ErrorKind, PyroError, lifecycle};

/// The variable with the path.
const PATH: &str = "PYRO_FILE";

/// One byte more than wanted tells a file that is too large.
const READ: &str = r#"exec head -c "$PYRO_FILE_BYTES" < "$PYRO_FILE""#;

/// The variable with how much to read.
const BYTES: &str = "PYRO_FILE_BYTES";

const WRITE: &str = r#"mkdir -p -- "${PYRO_FILE%/*}/" && exec cat > "$PYRO_FILE""#;

/// Of what a failed command says; the rest is seldom more than a repetition.
const COMPLAINT_BYTES: CaptureLimit = CaptureLimit(1024);

/// A file of a VM.
#[derive(Debug, Clone)]
pub struct FileRequest {
    pub path: GuestPath,
    pub timeout: Timeout,
}

pub(crate) async fn read(
    pyro: &Pyro,
    id: &VmId,
    request: &FileRequest,
    bytes_max: FileBytesMax,
) -> Result<Vec<u8>, PyroError> {
    let content = Content::default();
    let streams = Streams { stdout: Some(Box::new(content.clone())), ..Streams::default() };
    let limit = bytes_max.get() + 1;
    carry_out(pyro, id, request, READ, &[(BYTES, limit.to_string())], streams, "read").await?;
    let bytes = std::mem::take(&mut *content.lock());
    if bytes.len() as u64 > bytes_max.get() {
        let (path, max) = (request.path.as_str(), bytes_max.get());
        return Err(invalid(format!("`{path}` is larger than {max} bytes")));
    }
    Ok(bytes)
}

pub(crate) async fn write(
    pyro: &Pyro,
    id: &VmId,
    request: &FileRequest,
    content: Vec<u8>,
) -> Result<(), PyroError> {
    let stdin = Box::new(io::Cursor::new(content));
    let streams = Streams { stdin: Some(stdin), ..Streams::default() };
    carry_out(pyro, id, request, WRITE, &[], streams, "write").await
}

async fn carry_out(
    pyro: &Pyro,
    id: &VmId,
    file: &FileRequest,
    command: &str,
    variables: &[(&str, String)],
    streams: Streams<'_>,
    verb: &str,
) -> Result<(), PyroError> {
    let path = file.path.as_str();
    let path_variable = (PATH, path.to_owned());
    let variables = variables.iter().chain(std::iter::once(&path_variable));
    let variables = variables.map(|(name, value)| ((*name).to_owned(), value.clone())).collect();
    let request = ExecRequest {
        timeout: file.timeout,
        capture: COMPLAINT_BYTES,
        variables: Variables::new(variables)?,
        ..ExecRequest::new(CommandText::new(command)?)
    };
    let outcome = lifecycle::exec(pyro, id, request, streams).await?.exec;
    let cannot = format!("cannot {verb} `{path}` in vm '{}'", id.as_str());
    if outcome.timed_out {
        let seconds = file.timeout.get().as_secs_f64();
        return Err(PyroError::new(ErrorKind::DeadlineReached, cannot)
            .cause(format!("its time of {seconds} seconds was over"))
            .hint("give it more time: `timeout_seconds`"));
    }
    if outcome.exit_code != 0 {
        return Err(
            PyroError::new(ErrorKind::InvalidInput, cannot).cause(complaint(&outcome.stderr))
        );
    }
    Ok(())
}

/// The last line that a shell or a program wrote, without what the guest may have put in to confuse a terminal.
fn complaint(stderr: &str) -> String {
    let line = stderr.trim().lines().last().unwrap_or("the command failed");
    line.chars().filter(|character| !character.is_control()).collect()
}

/// Takes what a file holds.
#[derive(Debug, Clone, Default)]
struct Content(Arc<Mutex<Vec<u8>>>);

impl Content {
    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<u8>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl AsyncWrite for Content {
    fn poll_write(
        self: Pin<&mut Self>,
        _context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let mut content = self.lock();
        // The command is the guest's, and so is how much it really writes.
        if (content.len() + bytes.len()) as u64 > FileBytesMax::MAX + 1 {
            return Poll::Ready(Err(io::ErrorKind::FileTooLarge.into()));
        }
        content.extend_from_slice(bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_complaint_is_one_line_that_leaves_the_terminal_alone() {
        assert_eq!(complaint("warning\n/bin/sh: \x1b[31mno\n\n"), "/bin/sh: [31mno");
        assert_eq!(complaint(" \n"), "the command failed");
    }
}
