//! Class `Call`: work that was asked for, to be waited for by a thread or by an event loop.
//!
//! ```text
//!            wait(): this thread waits, looks for signals ──┐
//!   Call ────┤                                              ├──► outcome, or nothing is left
//!            begin(done): the runtime works, tells `done` ──┘
//!                 cancel(), or the call is dropped
//! ```

use std::pin::Pin;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;
use pyro_core::{Pyro, PyroError};
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::errors;
use crate::interpreter::{self, Thread};
use crate::payload::Payload;
use crate::runtime::runtime;

/// How often a wait looks for signals. A person who presses Ctrl-C does not notice it, nor does the host.
const SIGNALS_INTERVAL: Duration = Duration::from_millis(50);

pub(crate) type Outcome = Result<Payload, PyroError>;

/// What the core does for a call.
pub(crate) type Work = Pin<Box<dyn Future<Output = Outcome> + Send>>;

/// Waits until nothing is left of work that was given up, or failed.
pub(crate) type Settling = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Work of the core. It does not begin before it is waited for, and is done once.
#[pyclass(frozen, module = "pyro_mcp._native")]
pub(crate) struct Call {
    state: Mutex<State>,
}

enum State {
    Asked(Work, Settling),
    /// It ends when the guard is dropped.
    Begun {
        _end: DropGuard,
    },
    Over,
}

impl Call {
    pub(crate) fn new(pyro: Pyro, work: impl Future<Output = Outcome> + Send + 'static) -> Self {
        Self::with_settling(work, async move { pyro.settle().await })
    }

    /// For work that leaves more to be waited for than VMs.
    pub(crate) fn with_settling(
        work: impl Future<Output = Outcome> + Send + 'static,
        settling: impl Future<Output = ()> + Send + 'static,
    ) -> Self {
        Self { state: Mutex::new(State::Asked(Box::pin(work), Box::pin(settling))) }
    }

    fn take(&self, next: State) -> PyResult<(Work, Settling)> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        match std::mem::replace(&mut *state, next) {
            State::Asked(work, settling) => Ok((work, settling)),
            begun => {
                *state = begun;
                Err(PyRuntimeError::new_err("a call can be waited for once"))
            }
        }
    }
}

#[pymethods]
impl Call {
    /// Does the work, without the interpreter's lock, and gives its result.
    ///
    /// A signal whose handler raises ends it at once; nothing of it is left then.
    fn wait<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let (work, settling) = self.take(State::Over)?;
        let thread = Thread::current(py)?;
        let outcome = py.detach(|| {
            let runtime = runtime().map_err(|error| errors::exception(&error))?;
            runtime.block_on(until_signalled(work, settling, thread))
        });
        outcome?.map_err(|error| errors::exception(&error))?.into_python(py)
    }

    /// Begins the work, and calls `done(result, exception)` in another thread when it is over: one of the two is
    /// `None`, or both after `cancel`. Nothing is left of cancelled work by then.
    fn begin(&self, done: Py<PyAny>) -> PyResult<()> {
        interpreter::check()?;
        let runtime = runtime().map_err(|error| errors::exception(&error))?;
        let token = CancellationToken::new();
        let (work, settling) = self.take(State::Begun { _end: token.clone().drop_guard() })?;
        runtime.spawn(async move {
            let outcome = until_cancelled(work, settling, &token).await;
            tell(&done, outcome);
        });
        Ok(())
    }

    /// Ends work that was begun.
    fn cancel(&self) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if let State::Begun { .. } = &*state {
            *state = State::Over;
        }
    }
}

/// Drives `work` to its end, or to the first signal whose handler raises.
async fn until_signalled(mut work: Work, settling: Settling, thread: Thread) -> PyResult<Outcome> {
    let outcome = tokio::select! {
        biased;
        outcome = &mut work => Ok(outcome),
        raised = signal(thread) => Err(raised),
    };
    drop(work);
    if !matches!(outcome, Ok(Ok(_))) {
        settling.await;
    }
    outcome
}

/// Waits until a signal's handler raises. Handlers run in the main thread; other threads wait for ever.
#[allow(
    clippy::redundant_closure_for_method_calls,
    reason = "the method by itself is not general enough in its lifetimes"
)]
async fn signal(thread: Thread) -> PyErr {
    match thread {
        Thread::Main => {}
        Thread::Other => return std::future::pending().await,
    }
    loop {
        tokio::time::sleep(SIGNALS_INTERVAL).await;
        if let Err(raised) = Python::attach(|py| py.check_signals()) {
            return raised;
        }
    }
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
