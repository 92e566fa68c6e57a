//! The directory of a VM with a life of its own: where others find it, and see whether it still lives.
//!
//! ```text
//!   <directory>/lock      held by the supervisor, from before it starts until it is gone
//!               record    what the VM is, and where it stands
//!               socket    where clients connect
//!               runs/     what its commands wrote
//! ```
//!
//! Whoever gets the lock knows that the supervisor is dead, and may remove the directory.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use pyro_protocol::network::PublishedPort;
use pyro_protocol::record::{VmRecord, VmState};
use rustix::net::sockopt::socket_peercred;
use tokio::net::{UnixListener, UnixStream};

use crate::journal::{self, Journal};

pub(crate) const LOCK: &str = "lock";
pub(crate) const RECORD: &str = "record";
pub(crate) const SOCKET: &str = "socket";

/// The directory of a VM, from its supervisor's side. It is removed when this is dropped.
#[derive(Debug)]
pub(crate) struct House {
    directory: PathBuf,
    record: VmRecord,
    pub(crate) journal: Journal,
    listener: UnixListener,
    /// Held until the directory is gone.
    _lock: OwnedFd,
    /// Directories that nobody may delete before.
    _needed: Vec<File>,
}

impl House {
    /// Opens the directory. Clients find the VM once there is a [`record`](Self::record).
    pub(crate) fn open(
        directory: &Path,
        record: VmRecord,
        needed: &[PathBuf],
        lock: OwnedFd,
    ) -> io::Result<Self> {
        // The creator holds these locks as well for now, so they are free to be shared.
        let needed = needed.iter().map(|path| {
            let directory = fs_err::File::open(path)?.into_parts().0;
            directory.try_lock_shared()?;
            Ok(directory)
        });
        let needed = needed.collect::<io::Result<Vec<_>>>()?;
        // Relative, because the kernel allows 107 bytes for the path of a socket.
        rustix::process::chdir(directory)?;
        let listener = UnixListener::bind(SOCKET)?;
        let journal = Journal::open(directory)?;
        let directory = directory.to_owned();
        Ok(Self { directory, record, journal, listener, _lock: lock, _needed: needed })
    }

    /// Writes down where the VM stands, and which ports it publishes there.
    pub(crate) fn record(&mut self, state: VmState, published: &[PublishedPort]) -> io::Result<()> {
        self.record.state = state;
        if let Some(network) = &mut self.record.network {
            network.published = published.to_vec();
        }
        journal::write_whole(&self.directory, RECORD, &self.record)
    }

    /// Waits for somebody of this user to connect. Cancel-safe.
    pub(crate) async fn next_client(&self) -> UnixStream {
        next_of_this_user(&self.listener).await
    }
}

impl Drop for House {
    fn drop(&mut self) {
        // What cannot be removed now is removed by whoever looks next.
        fs_err::remove_dir_all(&self.directory).ok();
    }
}

/// Waits for somebody of this user to connect. Cancel-safe.
pub(crate) async fn next_of_this_user(listener: &UnixListener) -> UnixStream {
    loop {
        match listener.accept().await {
            Ok((stream, _)) if is_of_this_user(&stream) => return stream,
            // Others cannot get here but where the directory's permissions were changed.
            Ok(_) => {}
            // Too many open files, for instance: there will be room when a client leaves.
            Err(_) => tokio::time::sleep(std::time::Duration::from_millis(100)).await,
        }
    }
}

fn is_of_this_user(stream: &UnixStream) -> bool {
    socket_peercred(stream).is_ok_and(|peer| peer.uid == rustix::process::geteuid())
}
