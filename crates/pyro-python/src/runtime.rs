//! The threads that wait for supervisors: one runtime for each process, made when it is needed.
//!
//! A forked child has its parent's memory but none of its threads. It gets a runtime of its own, and the parent's is
//! left alone: its sockets and its epoll instance are still the parent's.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use pyro_core::{ErrorKind, PyroError};
use rustix::process::{Pid, getpid};
use tokio::runtime::{Builder, Runtime};

/// They only carry bytes: what takes time, the guests do.
const THREADS: usize = 2;

/// How long a thread for work on files waits for more of it.
const IDLE_THREAD_LIFETIME: Duration = Duration::from_secs(1);

static RUNTIME: Mutex<Option<(Pid, &'static Runtime)>> = Mutex::new(None);

/// A value that belongs to the process that made it; in a forked child another one takes its place.
#[derive(Debug)]
pub(crate) struct PerProcess<T> {
    state: Mutex<Option<(Pid, T)>>,
}

/// A value that is of no use in a forked child, and is left alone there: dropping it would wake tasks of the parent.
#[derive(Debug)]
pub(crate) struct Owned<T> {
    owner: Pid,
    /// Always there until it is dropped.
    value: Option<T>,
}

/// This process's runtime.
pub(crate) fn runtime() -> Result<&'static Runtime, PyroError> {
    let mut state = RUNTIME.lock().unwrap_or_else(PoisonError::into_inner);
    let pid = getpid();
    if let Some((owner, runtime)) = *state
        && owner == pid
    {
        return Ok(runtime);
    }
    let runtime = Builder::new_multi_thread()
        .worker_threads(THREADS)
        .thread_name("pyro")
        .thread_keep_alive(IDLE_THREAD_LIFETIME)
        .enable_all()
        .build()
        .map_err(|error| {
            PyroError::from_error(ErrorKind::Internal, &error).context("cannot start the runtime")
        })?;
    // It lasts as long as the process: calls may be under way when the interpreter ends.
    let runtime = Box::leak(Box::new(runtime));
    *state = Some((pid, runtime));
    Ok(runtime)
}

impl<T: Clone> PerProcess<T> {
    pub(crate) fn new() -> Self {
        Self { state: Mutex::new(None) }
    }

    /// This process's value, which `make` makes where there is none.
    pub(crate) fn get(&self, make: impl FnOnce() -> T) -> T {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let pid = getpid();
        match &*state {
            Some((owner, value)) if *owner == pid => value.clone(),
            Some(_) | None => {
                let value = make();
                let parents = state.replace((pid, value.clone()));
                // What it holds may wait for the parent's children, in the parent's epoll instance.
                std::mem::forget(parents);
                value
            }
        }
    }
}

impl<T> Drop for PerProcess<T> {
    fn drop(&mut self) {
        let state = self.state.get_mut().unwrap_or_else(PoisonError::into_inner);
        if state.as_ref().is_some_and(|(owner, _)| *owner != getpid()) {
            std::mem::forget(state.take());
        }
    }
}

impl<T> Owned<T> {
    pub(crate) fn new(value: T) -> Self {
        Self { owner: getpid(), value: Some(value) }
    }

    /// The value, in the process that made it.
    pub(crate) fn get(&self) -> Option<&T> {
        self.value.as_ref().filter(|_| self.owner == getpid())
    }
}

impl<T> Drop for Owned<T> {
    fn drop(&mut self) {
        if self.owner != getpid() {
            std::mem::forget(self.value.take());
        }
    }
}
