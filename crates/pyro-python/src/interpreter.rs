//! The interpreter as threads of the runtime see it: open until the program ends.
//!
//! A thread that is inside while the interpreter takes itself apart brings the process down. So the door is shut
//! before, and whoever is inside is waited for.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;

/// For threads inside to come out. After a fork some of them may not exist.
const LEAVING_DEADLINE: Duration = Duration::from_secs(2);

static DOOR: Mutex<Door> = Mutex::new(Door { state: DoorState::Open, inside: 0 });

static LEFT: Condvar = Condvar::new();

struct Door {
    state: DoorState,
    inside: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum DoorState {
    Open,
    Shut,
}

/// Which thread of the interpreter is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Thread {
    /// The one whose code signals interrupt.
    Main,
    Other,
}

impl Thread {
    pub(crate) fn current(py: Python<'_>) -> PyResult<Self> {
        let threading = py.import("threading")?;
        let current = threading.call_method0("get_ident")?;
        let main = threading.call_method0("main_thread")?.getattr("ident")?;
        Ok(if current.eq(main)? { Self::Main } else { Self::Other })
    }
}

/// Has a thread of the runtime do something in Python, unless the program is ending.
pub(crate) fn enter(work: impl FnOnce(Python<'_>)) {
    {
        let mut door = lock();
        if door.state == DoorState::Shut {
            return;
        }
        door.inside += 1;
    }
    Python::try_attach(work);
    lock().inside -= 1;
    LEFT.notify_all();
}

/// Refuses what would never be answered.
pub(crate) fn check() -> PyResult<()> {
    match lock().state {
        DoorState::Open => Ok(()),
        DoorState::Shut => Err(PyRuntimeError::new_err("the program is ending")),
    }
}

pub(crate) fn close_at_exit(module: &Bound<'_, PyModule>) -> PyResult<()> {
    let close = wrap_pyfunction!(close, module)?;
    module.py().import("atexit")?.call_method1("register", (close,))?;
    Ok(())
}

/// Shuts the door, and waits for whoever is inside.
#[pyfunction]
fn close(py: Python<'_>) {
    py.detach(|| {
        let mut door = lock();
        door.state = DoorState::Shut;
        // Who does not come out by then never will.
        drop(LEFT.wait_timeout_while(door, LEAVING_DEADLINE, |door| door.inside > 0));
    });
}

fn lock() -> MutexGuard<'static, Door> {
    DOOR.lock().unwrap_or_else(PoisonError::into_inner)
}
