//! A client's side of a VM with a life of its own: make it, find it, ask something of it.

use std::fs::TryLockError;
use std::io::{self, ErrorKind};
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use pyro_protocol::client::{LaunchPhase, LaunchReport, LaunchSpec, ToSupervisor};
use pyro_protocol::record::VmRecord;
use pyro_protocol::run::Command;
use rustix::fs::{Mode, OFlags};
use tokio::net::UnixStream;

use crate::client::{Answer, ClientError, Departures, Executable, Life, Line, Run, Supervisor};
use crate::house::{LOCK, RECORD, SOCKET};

/// For a guest to end its processes and write its disk, or to be destroyed after
/// [`POWER_OFF_GRACE`](crate::owner::POWER_OFF_GRACE).
const STOP_DEADLINE: Duration = Duration::from_mins(1);
const _: () = assert!(STOP_DEADLINE.as_secs() > crate::owner::POWER_OFF_GRACE.as_secs());

/// For a supervisor to kill QEMU and to remove its directory.
const DELETE_DEADLINE: Duration = Duration::from_secs(30);

/// Makes a VM with a life of its own, as specified, and returns when others find it. `lock` is that of its
/// directory, and held. When the future is dropped before, nothing is left, a few milliseconds later.
pub async fn create(
    executable: &Executable,
    lock: OwnedFd,
    spec: LaunchSpec,
    departures: &Departures,
    progress: impl FnMut(LaunchPhase),
) -> Result<(), ClientError> {
    let mut supervisor = Supervisor::start_with(executable, Life::Own(lock), departures).await?;
    let line = supervisor.line();
    done(&line.ask(&ToSupervisor::Launch(Box::new(spec)), progress).await?)?;
    done(&line.ask(&ToSupervisor::Keep, |_| {}).await?)?;
    // Until this is said, whoever gives up takes the VM along; and after it there is nothing to wait for.
    line.say(&ToSupervisor::Known).await?;
    supervisor.release();
    Ok(())
}

/// A connection to the supervisor of a VM with a life of its own.
#[derive(Debug)]
pub struct Remote {
    line: Line,
}

impl Remote {
    /// Connects to the VM that lives in `directory`.
    pub async fn connect(directory: &Path) -> Result<Self, ClientError> {
        let unreachable =
            |source| ClientError::Unreachable { directory: directory.to_owned(), source };
        let stream = connect(directory, SOCKET).await.map_err(unreachable)?;
        Ok(Self { line: Line::call(stream).await? })
    }

    /// Starts its machine. The supervisor holds the deadlines.
    pub async fn start(
        &mut self,
        progress: impl FnMut(LaunchPhase),
    ) -> Result<LaunchReport, ClientError> {
        match self.line.ask(&ToSupervisor::StartVm, progress).await? {
            Answer::Ready(report) => Ok(report),
            Answer::Done => Err(ClientError::UnexpectedMessage),
        }
    }

    /// Ends its machine, and keeps its disk.
    pub async fn stop(&mut self) -> Result<(), ClientError> {
        self.have_done(&ToSupervisor::StopVm, STOP_DEADLINE).await
    }

    /// Ends it for good. Nothing but its supervisor is left when this returns, and that is about to end.
    pub async fn delete(mut self) -> Result<(), ClientError> {
        self.have_done(&ToSupervisor::DeleteVm, DELETE_DEADLINE).await
    }

    /// Starts a command in the VM, which ends after `timeout`, or when this connection is dropped.
    pub fn run(&mut self, command: Command, timeout: Duration) -> Result<Run<'_>, ClientError> {
        self.line.run(command, timeout)
    }

    async fn have_done(
        &mut self,
        message: &ToSupervisor,
        deadline: Duration,
    ) -> Result<(), ClientError> {
        let answered = tokio::time::timeout(deadline, self.line.ask(message, |_| {})).await;
        done(&answered.unwrap_or(Err(ClientError::NoAnswer { deadline }))?)
    }
}

/// Connects to the socket of that name in `directory`.
pub(crate) async fn connect(directory: &Path, name: &str) -> io::Result<UnixStream> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let opened = rustix::fs::open(directory, flags, Mode::empty())?;
    // The kernel allows 107 bytes for the path of a socket, and this one is always shorter.
    UnixStream::connect(format!("/proc/self/fd/{}/{name}", opened.as_raw_fd())).await
}

pub(crate) fn done(answer: &Answer) -> Result<(), ClientError> {
    match answer {
        Answer::Done => Ok(()),
        Answer::Ready(_) => Err(ClientError::UnexpectedMessage),
    }
}

/// Opens the lock of a VM's new directory, and takes it.
pub fn take_lock(directory: &Path) -> io::Result<OwnedFd> {
    let lock = fs_err::File::create_new(directory.join(LOCK))?;
    lock.file().lock()?;
    Ok(lock.into_parts().0.into())
}

/// Who is in a VM's directory.
#[derive(Debug)]
pub enum Presence {
    /// There is no such directory, or it is being made, or removed.
    Nobody,
    /// A supervisor whose VM is not there for others yet.
    Beginning,
    Living(Box<VmRecord>),
    /// A supervisor that was killed. Its VM is gone, its directory is not.
    Dead(Remains),
}

/// What a supervisor has left that was killed.
#[derive(Debug)]
pub struct Remains {
    directory: PathBuf,
    /// `None` if it was killed early.
    pub record: Option<Box<VmRecord>>,
}

impl Remains {
    /// Removes them. It is no error if somebody else did.
    pub fn remove(&self) -> io::Result<()> {
        match fs_err::remove_dir_all(&self.directory) {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
            removed => removed,
        }
    }
}

/// Looks who is in the directory of a VM.
pub fn look(directory: &Path) -> io::Result<Presence> {
    let lock = match fs_err::File::open(directory.join(LOCK)) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Presence::Nobody),
        opened => opened?,
    };
    // Shared, so that two who look do not take each other for a supervisor.
    let is_dead = match lock.file().try_lock_shared() {
        Ok(()) => true,
        Err(TryLockError::WouldBlock) => false,
        Err(TryLockError::Error(error)) => return Err(error),
    };
    let record = read_record(directory)?;
    if is_dead {
        // A supervisor that has ended in order removes its directory before it lets the lock go.
        if !directory.join(LOCK).try_exists()? {
            return Ok(Presence::Nobody);
        }
        return Ok(Presence::Dead(Remains { directory: directory.to_owned(), record }));
    }
    Ok(record.map_or(Presence::Beginning, Presence::Living))
}

fn read_record(directory: &Path) -> io::Result<Option<Box<VmRecord>>> {
    let json = match fs_err::read(directory.join(RECORD)) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        read => read?,
    };
    Ok(Some(Box::new(serde_json::from_slice(&json)?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_held_lock_is_a_supervisor_and_a_free_one_its_remains() {
        let parent = tempfile::tempdir().unwrap();
        let directory = parent.path().join("vm");
        assert!(matches!(look(&directory).unwrap(), Presence::Nobody));
        fs_err::create_dir(&directory).unwrap();
        assert!(matches!(look(&directory).unwrap(), Presence::Nobody));
        let lock = take_lock(&directory).unwrap();
        assert!(matches!(look(&directory).unwrap(), Presence::Beginning));
        drop(lock);
        let (one, other) = (look(&directory).unwrap(), look(&directory).unwrap());
        let (Presence::Dead(one), Presence::Dead(other)) = (one, other) else { panic!("not dead") };
        one.remove().unwrap();
        other.remove().unwrap();
        assert!(!directory.exists());
    }

    #[tokio::test]
    async fn a_directory_without_a_socket_is_unreachable() {
        let parent = tempfile::tempdir().unwrap();
        let error = Remote::connect(parent.path()).await.unwrap_err();
        assert!(matches!(error, ClientError::Unreachable { .. }), "{error}");
    }
}
