//! The supervisor process: greets the client that started it, owns one VM, and is gone with it.

use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use pyro_protocol::client::{FromSupervisor, LaunchSpec, Lifetime, ToSupervisor};
use pyro_protocol::failure::{Failure, FailureKind};
use pyro_protocol::frame::{FrameKind, decode_message};
use pyro_protocol::record::VmRecord;
use tokio::net::UnixStream;

use crate::house::House;
use crate::link::{Link, LinkError};
use crate::spare::wait::{self, Claimed, Terms};
use crate::{owner, sys};

/// The number under which a supervisor inherits its client's socket.
pub const CLIENT_FD: i32 = 3;

/// The number under which the supervisor of a VM with a life of its own inherits the lock of its directory.
pub const LOCK_FD: i32 = 4;

/// What a supervisor has open with some clients and ports, and what it moves out of the way before it starts QEMU.
const DESCRIPTORS_MIN: i32 = 255;

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
    make_room_for_descriptors();
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

/// Has the kernel enlarge this process's table of descriptors while there is one thread. It starts with room for 64;
/// later the kernel would wait until no CPU reads the old one any more (`expand_fdtable` in Linux), which was seen to hold
/// up the start of QEMU for 14 ms.
fn make_room_for_descriptors() {
    // Where it cannot be had, it is only slower.
    rustix::io::fcntl_dupfd_cloexec(std::io::stdin(), DESCRIPTORS_MIN).ok();
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
    let house = match &spec.lifetime {
        Lifetime::Client => None,
        Lifetime::Spare { directory, environment, warm_up, idle_max } => {
            let terms = Terms {
                directory: directory.clone(),
                environment: environment.clone(),
                warm_up: warm_up.clone(),
                idle_max: *idle_max,
            };
            return serve_spare(spec, terms, client).await;
        }
        Lifetime::Own { directory, record, needed } => {
            match open_house(directory, record, needed) {
                Ok(house) => Some(house),
                Err(error) => {
                    let failure = Failure::from_error(FailureKind::VmStartFailed, &error)
                        .context(format!("cannot use `{}`", directory.display()));
                    client.send_message(&FromSupervisor::Failed(failure))?;
                    return client.flush().await;
                }
            }
        }
    };
    // The owner's state is large, and moves once only.
    Box::pin(owner::own(spec, client, house, None)).await;
    Ok(())
}

async fn serve_spare(spec: LaunchSpec, terms: Terms, owner: Link) -> Result<(), LinkError> {
    // Away from its owner's terminal, whose end is none of its claimer's.
    rustix::process::setsid().map_err(|errno| LinkError::Broken { source: errno.into() })?;
    let claimed = Box::pin(wait::serve(spec, terms, owner)).await;
    if let Some(Claimed { spec, claimer, resume, owner }) = claimed {
        Box::pin(owner::own(spec, claimer, None, Some(resume))).await;
        // Only now: its owner makes the next one when this is closed.
        drop(owner);
    }
    Ok(())
}

fn open_house(directory: &Path, record: &VmRecord, needed: &[PathBuf]) -> io::Result<House> {
    let lock = sys::inherited_file(LOCK_FD).ok_or(io::ErrorKind::NotFound)?;
    // Away from its creator's terminal, whose end is none of the VM's.
    rustix::process::setsid()?;
    House::open(directory, record.clone(), needed, lock)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_of_descriptors_is_enlarged_ahead() {
        make_room_for_descriptors();
        let status = fs_err::read_to_string("/proc/self/status").unwrap();
        let size = status.lines().find_map(|line| line.strip_prefix("FDSize:")).unwrap();
        assert!(size.trim().parse::<i32>().unwrap() > DESCRIPTORS_MIN, "{size}");
    }
}
