//! A run's streams on the caller's side, and the loop that carries bytes between them and the run.

use std::collections::VecDeque;
use std::io;

use pyro_protocol::client::RunEnd;
use pyro_protocol::run::{Stream, TerminalSize};
use pyro_supervisor::client::{Run, RunEvent};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::watch;

use crate::capture::{Capture, CaptureLimit, Captured};
use crate::{ErrorKind, PyroError};

/// Where a command's input comes from and where its output goes while it runs. Output is captured
/// in any case, within the request's limit.
#[derive(Default)]
pub struct Streams<'a> {
    /// Sent to the command as it can be read; `None` for an empty input.
    pub stdin: Option<Box<dyn AsyncRead + Send + Unpin + 'a>>,
    pub stdout: Option<Box<dyn AsyncWrite + Send + Unpin + 'a>>,
    pub stderr: Option<Box<dyn AsyncWrite + Send + Unpin + 'a>>,
    /// Gives the command a terminal of this size, which follows when the value changes. All that it writes
    /// comes as standard output then; the input is what is typed.
    pub terminal: Option<watch::Receiver<TerminalSize>>,
}

impl std::fmt::Debug for Streams<'_> {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Streams")
            .field("stdin", &self.stdin.is_some())
            .field("stdout", &self.stdout.is_some())
            .field("stderr", &self.stderr.is_some())
            .field("terminal", &self.terminal.is_some())
            .finish()
    }
}

/// What goes to a command while it runs.
pub(crate) struct Inputs<'a> {
    pub(crate) stdin: Option<Box<dyn AsyncRead + Send + Unpin + 'a>>,
    pub(crate) terminal: Option<watch::Receiver<TerminalSize>>,
}

/// One output stream: captured, and passed on where somebody watches.
pub(crate) struct Output<'a> {
    capture: Capture,
    live: Option<Box<dyn AsyncWrite + Send + Unpin + 'a>>,
    /// What whoever watches has not taken yet. The command's credit bounds it.
    pending: VecDeque<u8>,
    /// Whether what was passed on may still be held back, as standard output holds back what is no whole line.
    unflushed: bool,
    name: &'static str,
}

/// Both output streams of a run.
pub(crate) struct Outputs<'a> {
    pub(crate) stdout: Output<'a>,
    pub(crate) stderr: Output<'a>,
}

impl<'a> Outputs<'a> {
    pub(crate) fn new(
        stdout: Option<Box<dyn AsyncWrite + Send + Unpin + 'a>>,
        stderr: Option<Box<dyn AsyncWrite + Send + Unpin + 'a>>,
        limit: CaptureLimit,
    ) -> Self {
        let output = |live, name| {
            let pending = VecDeque::new();
            Output { capture: Capture::new(limit), live, pending, unflushed: false, name }
        };
        Self { stdout: output(stdout, "standard output"), stderr: output(stderr, "standard error") }
    }

    pub(crate) fn of(&mut self, stream: Stream) -> &mut Output<'a> {
        match stream {
            Stream::Stdout => &mut self.stdout,
            Stream::Stderr => &mut self.stderr,
        }
    }

    /// Waits until whoever watches has taken everything.
    pub(crate) async fn flush(&mut self) -> Result<(), PyroError> {
        self.stdout.flush().await?;
        self.stderr.flush().await
    }

    /// The captured texts of standard output and standard error.
    pub(crate) fn finish(self) -> (Captured, Captured) {
        (self.stdout.capture.finish(), self.stderr.capture.finish())
    }
}

impl Output<'_> {
    /// Takes a piece of output; returns how much of it is dealt with at once.
    pub(crate) fn take(&mut self, bytes: &[u8]) -> usize {
        self.capture.push(bytes);
        if self.live.is_none() {
            return bytes.len();
        }
        self.pending.extend(bytes);
        0
    }

    /// Passes on some of what is pending, and returns how much; waits for ever where nothing is.
    /// Cancel-safe.
    pub(crate) async fn pass_on(&mut self) -> Result<usize, PyroError> {
        let Some(live) = self.live.as_mut().filter(|_| self.unflushed || !self.pending.is_empty())
        else {
            return std::future::pending().await;
        };
        // Only when there is no more at the moment: a prompt is seen, and a flood is not slowed down.
        let count = if self.pending.is_empty() {
            live.flush().await.map(|()| 0)
        } else {
            live.write(self.pending.as_slices().0).await
        };
        let count = count.map_err(|error| not_passed_on(self.name, &error))?;
        self.pending.drain(..count);
        self.unflushed = count > 0;
        Ok(count)
    }

    /// Waits until whoever watches has taken everything.
    pub(crate) async fn flush(&mut self) -> Result<(), PyroError> {
        let Some(live) = &mut self.live else {
            return Ok(());
        };
        let written = async {
            // Piece by piece, so that nothing is written twice if this is given up and begun again.
            while !self.pending.is_empty() {
                let count = live.write(self.pending.as_slices().0).await?;
                self.pending.drain(..count);
            }
            live.flush().await
        };
        written.await.map_err(|error| not_passed_on(self.name, &error))
    }
}

fn not_passed_on(name: &str, error: &io::Error) -> PyroError {
    let kind = match error.kind() {
        // Whoever watched has gone, and wants no more.
        io::ErrorKind::BrokenPipe => ErrorKind::Interrupted,
        io::ErrorKind::StorageFull => ErrorKind::NoSpace,
        _ => ErrorKind::Internal,
    };
    PyroError::from_error(kind, error).context(format!("cannot pass on the command's {name}"))
}

/// Carries bytes until the run ends. Neither output stream waits for the other.
pub(crate) async fn pump(
    run: &mut Run<'_>,
    inputs: &mut Inputs<'_>,
    outputs: &mut Outputs<'_>,
) -> Result<RunEnd, PyroError> {
    let end = carry(run, inputs, outputs).await;
    // What the command wrote is shown, whatever became of it.
    outputs.flush().await?;
    end
}

async fn carry(
    run: &mut Run<'_>,
    inputs: &mut Inputs<'_>,
    outputs: &mut Outputs<'_>,
) -> Result<RunEnd, PyroError> {
    let mut buffer = vec![0; pyro_protocol::frame::CHUNK_BYTES_MAX];
    loop {
        let room = run.stdin_room();
        let (stream, consumed) = tokio::select! {
            event = run.next_event() => match event.map_err(crate::vm::client_failure)? {
                RunEvent::Output { stream, bytes } => (stream, outputs.of(stream).take(&bytes)),
                RunEvent::StdinRoom => continue,
                RunEvent::Ended(end) => return Ok(end),
            },
            count = outputs.stdout.pass_on() => (Stream::Stdout, count?),
            count = outputs.stderr.pass_on() => (Stream::Stderr, count?),
            size = new_size(&mut inputs.terminal) => {
                run.resize(size).map_err(crate::vm::client_failure)?;
                continue;
            }
            count = read_some(&mut inputs.stdin, &mut buffer[..room]), if room > 0 => {
                // Input that cannot be read has ended: the command shall not wait for more.
                let count = count.unwrap_or(0);
                if count == 0 {
                    run.close_stdin();
                    inputs.stdin = None;
                } else {
                    run.send_stdin(&buffer[..count]);
                }
                continue;
            }
        };
        run.output_consumed(stream, consumed).map_err(crate::vm::client_failure)?;
    }
}

/// Reads from `stdin`; waits for ever once there is none.
async fn read_some(
    stdin: &mut Option<Box<dyn AsyncRead + Send + Unpin + '_>>,
    buffer: &mut [u8],
) -> io::Result<usize> {
    match stdin {
        Some(stdin) => stdin.read(buffer).await,
        None => std::future::pending().await,
    }
}

/// Waits for the terminal to change its size; for ever once nobody can tell.
async fn new_size(terminal: &mut Option<watch::Receiver<TerminalSize>>) -> TerminalSize {
    if let Some(terminal) = terminal
        && terminal.changed().await.is_ok()
    {
        return *terminal.borrow_and_update();
    }
    std::future::pending().await
}
