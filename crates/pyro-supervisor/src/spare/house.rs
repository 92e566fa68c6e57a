//! Where a spare can be claimed: a socket that has its id for a name, in a directory that has its key for a name.
//!
//! A socket refuses connections from when its supervisor is gone, however that ended. So it needs no lock beside it,
//! and whoever finds one that refuses may remove it.

use std::io::{self, ErrorKind};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use tokio::net::{UnixListener, UnixStream};

use super::key::SpareKey;
use crate::house::next_of_this_user;

/// How often the directory is made: somebody may remove an empty one at this moment.
const ATTEMPTS_MAX: u32 = 5;

/// The socket of a spare, which is removed when this is dropped.
#[derive(Debug)]
pub(crate) struct SpareHouse {
    socket: PathBuf,
    listener: UnixListener,
}

impl SpareHouse {
    /// Makes the socket; from then on the spare can be claimed.
    pub(crate) fn open(spares: &Path, key: &SpareKey, id: &str) -> io::Result<Self> {
        let directory = spares.join(key.as_str());
        let unfinished = format!(".{id}");
        let mut attempts = 1;
        let listener = loop {
            match bind(&directory, &unfinished) {
                Ok(listener) => break listener,
                // The last spare of this key has just removed the directory.
                Err(error) if error.kind() == ErrorKind::NotFound && attempts < ATTEMPTS_MAX => {
                    attempts += 1;
                }
                Err(error) => return Err(error),
            }
        };
        let socket = directory.join(id);
        // Under its name only when it listens: one that refuses is taken for a dead one's.
        if let Err(error) = fs_err::rename(&unfinished, id) {
            fs_err::remove_file(&unfinished).ok();
            return Err(error);
        }
        Ok(Self { socket, listener })
    }

    /// Waits for somebody of this user to connect. Cancel-safe.
    pub(crate) async fn next_client(&self) -> UnixStream {
        next_of_this_user(&self.listener).await
    }
}

fn bind(directory: &Path, name: &str) -> io::Result<UnixListener> {
    // For this user only.
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
    // Relative, because the kernel allows 107 bytes for the path of a socket.
    rustix::process::chdir(directory)?;
    UnixListener::bind(name)
}

impl Drop for SpareHouse {
    fn drop(&mut self) {
        // What cannot be removed now is removed by whoever looks next.
        fs_err::remove_file(&self.socket).ok();
        if let Some(directory) = self.socket.parent() {
            // It fails while there are other spares of this key.
            rustix::fs::rmdir(directory).ok();
        }
    }
}
