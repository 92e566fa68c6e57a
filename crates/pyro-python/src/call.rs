//! Class `Call`: work that was asked for, to be waited for by a thread or by an event loop.
//!
//! ```text
//!            wait(): this thread waits, looks for signals ──┐
//!   Call ────┤                                              ├──► outcome, or nothing is left
//!            begin(done): an event loop is told by `done` ──┘
//!                 cancel(), or the call is dropped
//! ```
//!
//! The work itself is always the runtime's. Whoever waits has not entered the runtime, so what a signal's handler
//! does may wait for calls of its own.

use std::pin::Pin;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;
use pyro_core::{ErrorKind, Pyro, PyroError};
use tokio::runtime::Handle;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::errors;
use crate::interpreter::{self, Thread};
use crate::payload::Payload;
use crate::runtime::{Owned, runtime};

/// How often a wait looks for signals. A person who presses Ctrl-C does not notice it, nor does the host.
const SIGNALS_INTERVAL: Duration = Duration::from_millis(50);

pub(crate) type Outcome = Result<Payload, PyroError>;

/// What the core does for a call.
pub(crate) type Work = Pin<Box<dyn Future<Output = Outcome> + Send>>;

/// Waits until nothing is left of work that was given up, or failed; or of what it gave.
pub(crate) type Settling = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Takes back what the work gave.
type Undo = Box<dyn FnOnce(&Payload) -> Settling + Send>;

/// Work of the core. It does not begin before it is waited for, and is done once.
#[pyclass(frozen, module = "pyro_mcp._native")]
pub(crate) struct Call {
    state: Owned<State>,
}

struct State {
    phase: Mutex<Phase>,
    /// Of work that was done and can be undone.
    undoing: Arc<Mutex<Option<Settling>>>,
}

enum Phase {
    Asked(Job),
    /// It ends when the guard is dropped.
    Begun {
        _end: DropGuard,
    },
    Over,
}

struct Job {
    work: Work,
    settling: Settling,
    undo: Option<Undo>,
}

impl Call {
    pub(crate) fn new(pyro: Pyro, work: impl Future<Output = Outcome> + Send + 'static) -> Self {
        Self::with_settling(work, async move { pyro.settle().await })
    }

    /// For work that leaves something else to be waited for than VMs.
    pub(crate) fn with_settling(
        work: impl Future<Output = Outcome> + Send + 'static,
        settling: impl Future<Output = ()> + Send + 'static,
    ) -> Self {
        Self::of(Job { work: Box::pin(work), settling: Box::pin(settling), undo: None })
    }

    /// For work whose result must not be lost: `undo` takes it back where nobody gets it.
    pub(crate) fn with_undo<U>(
        pyro: Pyro,
        work: impl Future<Output = Outcome> + Send + 'static,
        undo: impl FnOnce(&Payload) -> U + Send + 'static,
    ) -> Self
    where
        U: Future<Output = ()> + Send + 'static,
    {
        Self::of(Job {
            work: Box::pin(work),
            settling: Box::pin(async move { pyro.settle().await }),
            undo: Some(Box::new(|given| Box::pin(undo(given)))),
        })
    }

    /// For what needs no work.
    pub(crate) fn nothing() -> Self {
        Self::with_settling(std::future::ready(Ok(Payload::Nothing)), std::future::ready(()))
    }

    fn of(job: Job) -> Self {
        let (phase, undoing) = (Mutex::new(Phase::Asked(job)), Arc::default());
        Self { state: Owned::new(State { phase, undoing }) }
    }

    fn state(&self) -> PyResult<&State> {
        self.state.get().ok_or_else(|| {
            PyRuntimeError::new_err("this call belongs to the process that started it")
        })
    }

    /// Waits in this thread. Only the main thread looks for signals.
    fn wait_in<'py>(&self, py: Python<'py>, thread: Thread) -> PyResult<Bound<'py, PyAny>> {
        if Handle::try_current().is_ok() {
            let text = "a call cannot be waited for in a thread of pyro's own: use another thread";
            return Err(PyRuntimeError::new_err(text));
        }
        let state = self.state()?;
        let runtime = runtime().map_err(|error| errors::exception(&error))?;
        let job = state.take(Phase::Over)?;
        let token = CancellationToken::new();
        let _end = token.clone().drop_guard();
        let (tell, mut told) = mpsc::channel();
        let (undoing, ending) = (Arc::clone(&state.undoing), token.clone());
        runtime.spawn(async move {
            tell.send(drive(job, &undoing, &ending).await).ok();
        });
        let raised = loop {
            let received;
            (told, received) = py.detach(move || {
                let received = match thread {
                    Thread::Main => told.recv_timeout(SIGNALS_INTERVAL),
                    Thread::Other => told.recv().map_err(|_| RecvTimeoutError::Disconnected),
                };
                (told, received)
            });
            let signals = match thread {
                Thread::Main => py.check_signals(),
                Thread::Other => Ok(()),
            };
            match (signals, received) {
                (Err(raised), _) => break raised,
                (Ok(()), Err(RecvTimeoutError::Timeout)) => {}
                (Ok(()), Ok(Some(Ok(payload)))) => match payload.into_python(py) {
                    Ok(value) => return Ok(value),
                    Err(raised) => break raised,
                },
                (Ok(()), Ok(Some(Err(error)))) => return Err(errors::exception(&error)),
                (Ok(()), Ok(None) | Err(RecvTimeoutError::Disconnected)) => {
                    let error = PyroError::new(ErrorKind::Internal, "the call came to no end");
                    return Err(errors::exception(&error));
                }
            }
        };
        token.cancel();
        py.detach(move || {
            // Fails where the outcome was received already.
            told.recv().ok();
            if let Some(undoing) = state.undoing() {
                let (tell, told) = mpsc::channel();
                runtime.spawn(async move {
                    undoing.await;
                    tell.send(()).ok();
                });
                told.recv().ok();
            }
        });
        Err(raised)
    }
}

impl State {
    fn take(&self, next: Phase) -> PyResult<Job> {
        let mut phase = lock(&self.phase);
        match std::mem::replace(&mut *phase, next) {
            Phase::Asked(job) => Ok(job),
            begun => {
                *phase = begun;
                Err(PyRuntimeError::new_err("a call can be waited for once"))
            }
        }
    }

    fn undoing(&self) -> Option<Settling> {
        lock(&self.undoing).take()
    }
}

#[pymethods]
impl Call {
    /// Does the work, without the interpreter's lock, and gives its result.
    ///
    /// A signal whose handler raises ends it at once; nothing of it is left then.
    fn wait<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let thread = Thread::current(py)?;
        self.wait_in(py, thread)
    }

    /// The same for work that must not be given up: signals are looked at when it is over.
    fn finish<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        self.wait_in(py, Thread::Other)
    }

    /// Begins the work, and calls `done(result, exception)` in another thread when it is over: one of the two is
    /// `None`, or both after `cancel`. Nothing is left of cancelled work by then.
    fn begin(&self, done: Py<PyAny>) -> PyResult<()> {
        interpreter::check()?;
        let state = self.state()?;
        let runtime = runtime().map_err(|error| errors::exception(&error))?;
        let token = CancellationToken::new();
        let job = state.take(Phase::Begun { _end: token.clone().drop_guard() })?;
        let undoing = Arc::clone(&state.undoing);
        runtime.spawn(async move {
            let outcome = drive(job, &undoing, &token).await;
            tell(&done, outcome);
        });
        Ok(())
    }

    /// Ends work that was begun.
    fn cancel(&self) {
        let Some(state) = self.state.get() else { return };
        let mut phase = lock(&state.phase);
        if let Phase::Begun { .. } = &*phase {
            *phase = Phase::Over;
        }
    }

    /// A call that takes back what this one gave, where that can be done and was not: for a result that nobody got.
    fn undo(&self) -> Self {
        match self.state.get().and_then(State::undoing) {
            Some(undoing) => Self::with_settling(
                async move {
                    undoing.await;
                    Ok(Payload::Nothing)
                },
                std::future::ready(()),
            ),
            None => Self::nothing(),
        }
    }
}

/// Drives work to its end, or until it is not wanted any more, and notes how it is undone.
async fn drive(
    job: Job,
    undoing: &Mutex<Option<Settling>>,
    token: &CancellationToken,
) -> Option<Outcome> {
    let outcome = until_cancelled(job.work, job.settling, token).await;
    if let (Some(Ok(given)), Some(undo)) = (&outcome, job.undo) {
        *lock(undoing) = Some(undo(given));
    }
    outcome
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Drives `work` to its end, or until it is not wanted any more.
pub(crate) async fn until_cancelled(
    mut work: Work,
    settling: Settling,
    token: &CancellationToken,
) -> Option<Outcome> {
    let outcome = tokio::select! {
        biased;
        outcome = &mut work => Some(outcome),
        () = token.cancelled() => None,
    };
    drop(work);
    if !matches!(outcome, Some(Ok(_))) {
        settling.await;
    }
    outcome
}

/// Tells whoever waits, if there is still an interpreter.
fn tell(done: &Py<PyAny>, outcome: Option<Outcome>) {
    interpreter::enter(|py| {
        let result = match outcome {
            Some(Ok(payload)) => payload.into_python(py).map(|result| (result, py.None())),
            Some(Err(error)) => errors::instance(py, &error)
                .map(|exception| (py.None().into_bound(py), exception.unbind())),
            None => Ok((py.None().into_bound(py), py.None())),
        };
        let told = result.and_then(|arguments| done.call1(py, arguments));
        if let Err(error) = told {
            error.write_unraisable(py, None);
        }
    });
}
