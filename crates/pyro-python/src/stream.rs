//! Class `Stream`: a command that runs while its output is read.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;
use pyro_core::{ErrorKind, OutputStream, Pyro, PyroError};
use tokio::io::AsyncWrite;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::{CancellationToken, DropGuard, PollSender};

use crate::call::{Call, Work, until_cancelled};
use crate::errors;
use crate::payload::Payload;
use crate::runtime::{Owned, runtime};

/// Pieces of output that were not asked for yet. When there are so many the command waits at its next write.
const PIECES_MAX: usize = 8;

type Piece = (OutputStream, Arc<[u8]>);

/// A command whose output is taken piece by piece. It ends when this is dropped.
#[pyclass(frozen, module = "pyro_mcp._native")]
pub(crate) struct Stream {
    command: Owned<Command>,
}

struct Command {
    pyro: Pyro,
    output: Arc<Output>,
    outcome: watch::Receiver<Option<Ended>>,
    cancelled: CancellationToken,
    _end: DropGuard,
}

/// What the command wrote and nobody has yet.
struct Output {
    pieces: tokio::sync::Mutex<mpsc::Receiver<Piece>>,
    /// What was taken and did not reach who asked for it: the next in turn.
    returned: Mutex<VecDeque<Piece>>,
}

/// How the command ended: with the JSON of its outcome, or not by itself (`None`).
type Ended = Option<Result<Arc<str>, PyroError>>;

/// Where the core puts a stream's output.
pub(crate) struct PieceWriter {
    stream: OutputStream,
    pieces: PollSender<Piece>,
}

impl Stream {
    /// Starts what `begin` makes of the two output streams.
    pub(crate) fn start(
        pyro: Pyro,
        begin: impl FnOnce(PieceWriter, PieceWriter) -> Work,
    ) -> PyResult<Self> {
        let runtime = runtime().map_err(|error| errors::exception(&error))?;
        let (sender, receiver) = mpsc::channel(PIECES_MAX);
        let writer = |stream| PieceWriter { stream, pieces: PollSender::new(sender.clone()) };
        let work = begin(writer(OutputStream::Stdout), writer(OutputStream::Stderr));
        drop(sender);
        let (tell, outcome) = watch::channel(None);
        let cancelled = CancellationToken::new();
        let (owner, token) = (pyro.clone(), cancelled.clone());
        let settling = Box::pin(async move { owner.settle().await });
        runtime.spawn(async move {
            let ended = until_cancelled(work, settling, &token).await;
            let ended = ended.map(|outcome| {
                outcome.map(|payload| match payload {
                    Payload::Json(text) => Arc::from(text),
                    Payload::Bytes(_) | Payload::Output(..) | Payload::Nothing => Arc::from("null"),
                })
            });
            tell.send(Some(ended)).ok();
        });
        let pieces = tokio::sync::Mutex::new(receiver);
        let output = Arc::new(Output { pieces, returned: Mutex::default() });
        let end = cancelled.clone().drop_guard();
        Ok(Self { command: Owned::new(Command { pyro, output, outcome, cancelled, _end: end }) })
    }

    fn command(&self) -> PyResult<&Command> {
        self.command.get().ok_or_else(|| {
            PyRuntimeError::new_err("this stream belongs to the process that started it")
        })
    }
}

impl Output {
    /// The next piece. Nothing is lost where this is dropped.
    async fn take(&self) -> Option<Piece> {
        let mut pieces = self.pieces.lock().await;
        let first = self.returned().pop_front();
        if first.is_some() {
            return first;
        }
        let piece = pieces.recv().await;
        piece.or_else(|| self.returned().pop_front())
    }

    fn returned(&self) -> MutexGuard<'_, VecDeque<Piece>> {
        self.returned.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Waits for the end, and gives the JSON of the outcome.
async fn outcome(mut ended: watch::Receiver<Option<Ended>>) -> Result<Arc<str>, PyroError> {
    let ended = ended.wait_for(Option::is_some).await.ok().and_then(|ended| ended.clone());
    ended.flatten().unwrap_or_else(|| {
        let text = "the command was ended before its outcome";
        Err(PyroError::new(ErrorKind::Interrupted, text))
    })
}

#[pymethods]
impl Stream {
    /// The next piece of output, as `(name of the stream, bytes)`; `None` when there is no more and the command has
    /// ended. Fails with what kept the command from ending by itself.
    fn next(&self) -> PyResult<Call> {
        let command = self.command()?;
        let (output, giver) = (Arc::clone(&command.output), Arc::clone(&command.output));
        let ended = command.outcome.clone();
        let work = async move {
            match output.take().await {
                Some((stream, bytes)) => Ok(Payload::Output(stream, bytes)),
                None => outcome(ended).await.map(|_| Payload::Nothing),
            }
        };
        Ok(Call::with_undo(command.pyro.clone(), work, move |given| {
            let piece = match given {
                Payload::Output(stream, bytes) => Some((*stream, Arc::clone(bytes))),
                Payload::Json(_) | Payload::Bytes(_) | Payload::Nothing => None,
            };
            async move {
                if let Some(piece) = piece {
                    giver.returned().push_front(piece);
                }
            }
        }))
    }

    /// What became of the command. Output that nobody takes holds it up.
    fn outcome(&self) -> PyResult<Call> {
        let command = self.command()?;
        let ended = command.outcome.clone();
        Ok(Call::new(command.pyro.clone(), async move {
            Ok(Payload::Json(outcome(ended).await?.to_string()))
        }))
    }

    /// Ends the command, if it has not ended, and waits until nothing of it is left. A forked child leaves it alone.
    fn close(&self) -> Call {
        let Some(command) = self.command.get() else { return Call::nothing() };
        command.cancelled.cancel();
        let mut ended = command.outcome.clone();
        Call::new(command.pyro.clone(), async move {
            ended.wait_for(Option::is_some).await.ok();
            Ok(Payload::Nothing)
        })
    }
}

impl AsyncWrite for PieceWriter {
    fn poll_write(
        mut self: std::pin::Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
        bytes: &[u8],
    ) -> std::task::Poll<std::io::Result<usize>> {
        let gone = |_| std::io::Error::from(std::io::ErrorKind::BrokenPipe);
        std::task::ready!(self.pieces.poll_reserve(context)).map_err(gone)?;
        let piece = (self.stream, Arc::from(bytes));
        self.pieces.send_item(piece).map_err(gone)?;
        std::task::Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(
        self: std::pin::Pin<&mut Self>,
        _context: &mut std::task::Context<'_>,
    ) -> std::task::Poll<std::io::Result<()>> {
        std::task::Poll::Ready(Ok(()))
    }

    fn poll_shutdown(
        self: std::pin::Pin<&mut Self>,
        _context: &mut std::task::Context<'_>,
    ) -> std::task::Poll<std::io::Result<()>> {
        std::task::Poll::Ready(Ok(()))
    }
}
