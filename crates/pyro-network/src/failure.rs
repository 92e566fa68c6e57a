//! How the owner of a network learns that it carries nothing any more, though nobody has ended it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

/// Raised when it is dropped, as a thread that panics does, unless it was disarmed before.
#[derive(Debug)]
pub(crate) struct Alarm(Arc<Mutex<State>>);

/// Hears the alarm.
#[derive(Debug)]
pub(crate) struct Watch(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    is_raised: bool,
    waiting: Option<Waker>,
}

pub(crate) fn alarm() -> (Alarm, Watch) {
    let state = Arc::default();
    (Alarm(Arc::clone(&state)), Watch(state))
}

impl Alarm {
    /// All has gone as it should.
    pub(crate) fn disarm(mut self) {
        self.0 = Arc::default();
    }
}

impl Drop for Alarm {
    fn drop(&mut self) {
        let mut state = lock(&self.0);
        state.is_raised = true;
        if let Some(waiting) = state.waiting.take() {
            waiting.wake();
        }
    }
}

impl Watch {
    /// Of several that wait the last one is woken.
    pub(crate) fn poll(&self, context: &Context<'_>) -> Poll<()> {
        let mut state = lock(&self.0);
        if state.is_raised {
            return Poll::Ready(());
        }
        state.waiting = Some(context.waker().clone());
        Poll::Pending
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_raised(watch: &Watch) -> bool {
        watch.poll(&Context::from_waker(Waker::noop())).is_ready()
    }

    #[test]
    fn a_thread_that_panics_raises_the_alarm() {
        let (alarm, watch) = alarm();
        assert!(!is_raised(&watch));
        let thread = std::thread::spawn(move || {
            let _alarm = alarm;
            std::panic::resume_unwind(Box::new("a defect"));
        });
        thread.join().unwrap_err();
        assert!(is_raised(&watch));
    }

    #[test]
    fn what_ends_as_it_should_raises_none() {
        let (alarm, watch) = alarm();
        alarm.disarm();
        assert!(!is_raised(&watch));
    }
}
