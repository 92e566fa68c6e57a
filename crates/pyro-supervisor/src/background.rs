//! Work that would hold up the supervisor's one thread, on another one: the supervisor must notice at
//! any moment that its client is gone.

/// Does `work` on a thread of its own, from this moment on.
///
/// When the future is dropped the work goes on, with nobody to see its end, until it is done or the
/// process ends. So it may write only to what has no name or is thrown away, and starts no process,
/// which would die with the thread.
pub(crate) fn run<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> impl Future<Output = T> {
    let done = tokio::task::spawn_blocking(work);
    async {
        done.await
            .expect("the work does not panic, and is not cancelled while someone waits for it")
    }
}
