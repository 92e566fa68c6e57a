//! The supervisor process: starts one VM for one client, serves it, and is gone with it.

use std::os::fd::OwnedFd;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use pyro_protocol::client::{FromSupervisor, LaunchSpec, ToSupervisor};
use pyro_protocol::frame::{FrameKind, decode_message};
use tokio::net::UnixStream;
use tokio::sync::mpsc;

use crate::boot::Vm;
use crate::conversation::WAIT_MAX;
use crate::driver;
use crate::launch::{self, LaunchError};
use crate::link::{Link, LinkError};
use crate::sys;

/// The number under which a supervisor inherits its client's socket.
pub const CLIENT_FD: i32 = 3;

/// From the supervisor's start to its client's launch message.
const LAUNCH_MESSAGE_DEADLINE: Duration = Duration::from_secs(10);

/// Serves the client at the other end of the inherited socket [`CLIENT_FD`]. Returns when nothing of
/// the VM is left.
///
/// Must be called once, on the main thread of a process that was started for it: QEMU dies with the
/// thread that starts it.
pub fn serve_inherited_socket() -> ExitCode {
    let Some(socket) = sys::inherited_socket(CLIENT_FD) else {
        return ExitCode::FAILURE;
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let Ok(runtime) = runtime else {
        return ExitCode::FAILURE;
    };
    let served = runtime.block_on(serve_client(socket));
    // A thread may be waiting for another maker's template, which nobody wants any more.
    runtime.shutdown_background();
    match served {
        Ok(()) => ExitCode::SUCCESS,
        // The client sees the closed socket; there is nobody else to tell.
        Err(_) => ExitCode::FAILURE,
    }
}

async fn serve_client(socket: OwnedFd) -> Result<(), LinkError> {
    let broken = |source| LinkError::Broken { source };
    let socket = std::os::unix::net::UnixStream::from(socket);
    socket.set_nonblocking(true).map_err(broken)?;
    let stream = UnixStream::from_std(socket).map_err(broken)?;
    let (mut client, spec) =
        tokio::time::timeout(LAUNCH_MESSAGE_DEADLINE, greet(stream))
            .await
            .map_err(|_| LinkError::TooLate { deadline: LAUNCH_MESSAGE_DEADLINE })??;
    match Box::pin(launch_for(&mut client, &spec)).await? {
        Ok(vm) => {
            let expires_at = Instant::now() + spec.time_to_live.min(WAIT_MAX);
            driver::drive(vm, client, &spec.vm_id, expires_at).await;
            Ok(())
        }
        Err(error) => {
            client.send_message(&FromSupervisor::Failed(error.into_failure()))?;
            client.flush().await
        }
    }
}

async fn greet(stream: UnixStream) -> Result<(Link, LaunchSpec), LinkError> {
    let mut client = Link::answer(stream).await?;
    let frame = client.next_frame().await?;
    let message = match frame.kind {
        FrameKind::Message => decode_message(&frame.payload).ok(),
        FrameKind::Stdin | FrameKind::Output(_) => None,
    };
    match message {
        Some(ToSupervisor::Launch(spec)) => Ok((client, *spec)),
        _ => Err(LinkError::Closed),
    }
}

/// Launches while the client watches. The outer error says that it watches no more, and then nothing
/// is left of the launch.
async fn launch_for(
    client: &mut Link,
    spec: &LaunchSpec,
) -> Result<Result<Vm, LaunchError>, LinkError> {
    // Phases are few, so the channel cannot grow.
    let (phases, mut phase_reached) = mpsc::unbounded_channel();
    let launch = launch::launch(spec, |phase| {
        // The receiver lives as long as this function.
        let _: Result<_, _> = phases.send(phase);
    });
    tokio::pin!(launch);
    loop {
        tokio::select! {
            // In this order, so that no phase is reported after the outcome.
            biased;
            Some(phase) = phase_reached.recv() => {
                client.send_message(&FromSupervisor::Progress(phase))?;
            }
            outcome = &mut launch => {
                return Ok(match outcome {
                    Ok((vm, report)) => {
                        client.send_message(&FromSupervisor::Ready(report))?;
                        Ok(vm)
                    }
                    Err(error) => Err(error),
                });
            }
            // A client has nothing to say before the VM is ready: it leaves, or it is broken.
            frame = client.next_frame() => {
                frame?;
                return Err(LinkError::Closed);
            }
        }
    }
}
