//! Class `Stream`: a command that runs while its output is read.

use std::sync::Arc;

use pyo3::prelude::*;
use pyro_core::{ErrorKind, OutputStream, Pyro, PyroError};
use tokio::io::AsyncWrite;
use tokio::sync::{Mutex, mpsc, watch};
use tokio_util::sync::{CancellationToken, DropGuard, PollSender};

use crate::call::{Call, Work, until_cancelled};
use crate::payload::Payload;
use crate::{errors, runtime};

/// Pieces of output that were not asked for yet. When there are so many the command waits at its next write.
const PIECES_MAX: usize = 8;

type Piece = (OutputStream, Vec<u8>);

/// A command whose output is taken piece by piece. It ends when this is dropped.
#[pyclass(frozen, module = "pyro_mcp._native")]
pub(crate) struct Stream {
    pyro: Pyro,
    pieces: Arc<Mutex<mpsc::Receiver<Piece>>>,
    outcome: watch::Receiver<Option<Ended>>,
    cancelled: CancellationToken,
    _end: DropGuard,
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
        let runtime = runtime::runtime().map_err(|error| errors::exception(&error))?;
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
        Ok(Self {
            pyro,
            pieces: Arc::new(Mutex::new(receiver)),
            outcome,
            _end: cancelled.clone().drop_guard(),
            cancelled,
        })
    }
}

#[pymethods]
impl Stream {
    /// The next piece of output, as `(name of the stream, bytes)`; `None` when there is no more.
    fn next(&self) -> Call {
        let pieces = Arc::clone(&self.pieces);
        Call::new(self.pyro.clone(), async move {
            let piece = pieces.lock().await.recv().await;
            Ok(piece.map_or(Payload::Nothing, |(stream, bytes)| Payload::Output(stream, bytes)))
        })
    }

    /// What became of the command. Output that nobody takes holds it up.
    fn outcome(&self) -> Call {
        let mut outcome = self.outcome.clone();
        Call::new(self.pyro.clone(), async move {
            let ended =
                outcome.wait_for(Option::is_some).await.ok().and_then(|ended| ended.clone());
            match ended.flatten() {
                Some(Ok(text)) => Ok(Payload::Json(text.to_string())),
                Some(Err(error)) => Err(error),
                None => Err(PyroError::new(
                    ErrorKind::Interrupted,
                    "the command was ended before its outcome",
                )),
            }
        })
    }

    /// Ends the command, if it has not ended, and waits until nothing of it is left.
    fn close(&self) -> Call {
        self.cancelled.cancel();
        let mut outcome = self.outcome.clone();
        Call::new(self.pyro.clone(), async move {
            outcome.wait_for(Option::is_some).await.ok();
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
        let piece = (self.stream, bytes.to_vec());
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
