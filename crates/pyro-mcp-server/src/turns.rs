//! Turns of one-shot runs: so many at once, the rest in the order in which they came.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use pyro_core::{ActiveVmsMax, ErrorKind, PyroError};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// How many runs may wait; a client that sends more has lost its way.
const WAITING_MAX: usize = 64;

/// How long a run waits. Clients give up not much later.
pub(crate) const WAIT_MAX: Duration = Duration::from_mins(2);

/// Who may run now.
#[derive(Debug, Clone)]
pub(crate) struct Turns {
    at_once: ActiveVmsMax,
    /// Hands out its permits first come, first served.
    free: Arc<Semaphore>,
    waiting: Arc<AtomicUsize>,
}

/// The right to run, until it is dropped.
#[derive(Debug)]
pub(crate) struct Turn {
    _permit: OwnedSemaphorePermit,
}

impl Turns {
    pub(crate) fn new(at_once: ActiveVmsMax) -> Self {
        let free = Arc::new(Semaphore::new(at_once.get().into()));
        Self { at_once, free, waiting: Arc::default() }
    }

    /// Takes a turn, or waits for one; calls `wait` if so. Who gives up loses its place.
    ///
    /// Fails with `too_many_vms` where too many wait already, or the wait takes too long.
    pub(crate) async fn take(&self, wait: impl FnOnce(&str)) -> Result<Turn, PyroError> {
        // Fails as well while others wait: nobody overtakes.
        if let Ok(permit) = self.free.clone().try_acquire_owned() {
            return Ok(Turn { _permit: permit });
        }
        let _place = self.queue()?;
        wait(&format!("waiting for a turn: at most {} runs at once", self.at_once.get()));
        match tokio::time::timeout(WAIT_MAX, self.free.clone().acquire_owned()).await {
            Ok(permit) => Ok(Turn { _permit: permit.expect("the semaphore is never closed") }),
            Err(_) => Err(self.refused(&format!("no turn within {} s", WAIT_MAX.as_secs()))),
        }
    }

    fn queue(&self) -> Result<Place, PyroError> {
        let place = Place(self.waiting.clone());
        if self.waiting.fetch_add(1, Ordering::Relaxed) < WAITING_MAX {
            return Ok(place);
        }
        Err(self.refused(&format!("{WAITING_MAX} runs are waiting already")))
    }

    fn refused(&self, cause: &str) -> PyroError {
        let message = format!("max active VMs reached ({}); try again later", self.at_once.get());
        PyroError::new(ErrorKind::TooManyVms, message)
            .cause(cause)
            .hint("wait for the runs that are going on, or give them a shorter timeout_seconds")
    }
}

/// A place among those who wait.
struct Place(Arc<AtomicUsize>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::task::Poll;

    use super::*;

    fn one_at_once() -> Turns {
        Turns::new(ActiveVmsMax::new(1).unwrap())
    }

    fn poll<F: Future>(future: std::pin::Pin<&mut F>) -> Poll<F::Output> {
        future.poll(&mut std::task::Context::from_waker(std::task::Waker::noop()))
    }

    #[tokio::test]
    async fn turns_come_in_the_order_of_asking() {
        let turns = one_at_once();
        let first = turns.take(|_| panic!("nothing to wait for")).await.unwrap();
        let mut second = Box::pin(turns.take(|_| {}));
        let mut third = Box::pin(turns.take(|_| {}));
        assert!(poll(second.as_mut()).is_pending());
        assert!(poll(third.as_mut()).is_pending());
        drop(first);
        assert!(poll(third.as_mut()).is_pending(), "not before the second");
        let Poll::Ready(Ok(turn)) = poll(second.as_mut()) else { panic!("it is its turn") };
        drop(turn);
        assert!(matches!(poll(third.as_mut()), Poll::Ready(Ok(_))));
    }

    #[tokio::test]
    async fn who_gives_up_is_passed_over() {
        let turns = one_at_once();
        let first = turns.take(|_| {}).await.unwrap();
        let mut second = Box::pin(turns.take(|_| {}));
        let mut third = Box::pin(turns.take(|_| {}));
        assert!(poll(second.as_mut()).is_pending());
        assert!(poll(third.as_mut()).is_pending());
        drop((first, second));
        assert!(matches!(poll(third.as_mut()), Poll::Ready(Ok(_))));
    }

    #[tokio::test]
    async fn the_queue_is_limited() {
        let turns = one_at_once();
        let _turn = turns.take(|_| {}).await.unwrap();
        let mut waiting: Vec<_> = (0..WAITING_MAX).map(|_| Box::pin(turns.take(|_| {}))).collect();
        assert!(waiting.iter_mut().all(|one| poll(one.as_mut()).is_pending()));
        let error = turns.take(|_| {}).await.unwrap_err();
        assert_eq!(error.kind, ErrorKind::TooManyVms);
        assert_eq!(error.causes, ["64 runs are waiting already"]);
        waiting.pop();
        assert!(poll(Box::pin(turns.take(|_| {})).as_mut()).is_pending(), "there is room again");
    }

    #[tokio::test(start_paused = true)]
    async fn the_wait_is_limited() {
        let turns = one_at_once();
        let _turn = turns.take(|_| {}).await.unwrap();
        let mut told = String::new();
        let error = turns.take(|text| text.clone_into(&mut told)).await.unwrap_err();
        assert_eq!(told, "waiting for a turn: at most 1 runs at once");
        assert_eq!(error.kind, ErrorKind::TooManyVms);
        assert_eq!(error.causes, ["no turn within 120 s"]);
    }
}
