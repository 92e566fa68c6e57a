//! Signals that ask pyro to stop.

use std::future::Future;

use tokio::signal::unix::{SignalKind, signal};

/// Waits for SIGINT, SIGTERM, SIGHUP or SIGQUIT; gives its number.
///
/// From the first call on these signals do not end the process by themselves.
pub(crate) fn interrupted() -> impl Future<Output = i32> {
    let kinds = [
        SignalKind::interrupt(),
        SignalKind::terminate(),
        SignalKind::hangup(),
        SignalKind::quit(),
    ];
    let [interrupt, terminate, hangup, quit] = kinds.map(signal);
    async move {
        tokio::select! {
            () = received(interrupt) => SignalKind::interrupt().as_raw_value(),
            () = received(terminate) => SignalKind::terminate().as_raw_value(),
            () = received(hangup) => SignalKind::hangup().as_raw_value(),
            () = received(quit) => SignalKind::quit().as_raw_value(),
        }
    }
}

async fn received(signal: std::io::Result<tokio::signal::unix::Signal>) {
    match signal {
        Ok(mut signal) => {
            signal.recv().await;
        }
        // It keeps its default effect then, which is the end of this process.
        Err(_) => std::future::pending().await,
    }
}
