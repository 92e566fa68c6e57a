//! A QEMU process, from start to certain end.

use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;

use pyro_protocol::client::Confinement;
use tokio::io::AsyncReadExt;
use tokio::io::unix::AsyncFd;
use tokio::net::unix::pipe;

use crate::child::Child;
use crate::confinement::{ControlGroup, Controller};
use crate::machine::CommandLine;
use crate::spawn::{self, NotStarted};
use crate::{sys, untrusted};

/// What is kept of QEMU's own complaints, in bytes.
const COMPLAINT_BYTES_MAX: usize = 4096;

/// A running QEMU. It dies with the thread that started it, and when this is dropped.
#[derive(Debug)]
pub struct QemuProcess {
    child: AsyncFd<Child>,
    /// After the child, which must be gone first.
    group: ControlGroup,
    stderr: Option<pipe::Receiver>,
    complaint: Vec<u8>,
}

/// Why QEMU did not start.
#[derive(Debug, thiserror::Error)]
#[error("cannot start `{}`", path.display())]
pub struct SpawnError {
    path: PathBuf,
    source: NotStarted,
}

/// How a QEMU process ended, and what it said last.
#[derive(Debug)]
pub struct QemuEnd {
    pub status: ExitStatus,
    /// The first lines QEMU wrote to its standard error, free of control characters; empty in the usual
    /// case.
    pub complaint: String,
}

impl SpawnError {
    /// Whether the same would be refused again.
    pub(crate) fn is_lasting(&self) -> bool {
        self.source.is_lasting()
    }
}

impl QemuProcess {
    /// Starts the program at `path`. Must be called on the thread that lives as long as the process,
    /// because QEMU is killed with it.
    pub fn spawn(
        path: &Path,
        line: CommandLine,
        confinement: Confinement,
    ) -> Result<Self, SpawnError> {
        let failed = |source| SpawnError { path: path.to_owned(), source };
        let cannot_prepare = |source| failed(NotStarted::CannotPrepare { source });
        // Links may lead through places that it does not see.
        let program = fs_err::canonicalize(path).map_err(cannot_prepare)?;
        let memory_mib = line.memory_mib;
        let (child, stderr) = spawn::spawn(&program, line, confinement).map_err(failed)?;
        let group = ControlGroup::enclose(child.pid(), memory_mib);
        let child = sys::watch(child).map_err(cannot_prepare)?;
        let stderr = pipe::Receiver::from_owned_fd(stderr).map_err(cannot_prepare)?;
        Ok(Self { child, group, stderr: Some(stderr), complaint: Vec::new() })
    }

    /// The memory that the process has for itself: what it maps from files and shares is not in it. Zero once it is
    /// gone.
    pub fn private_bytes(&self) -> u64 {
        let statm = format!("/proc/{}/statm", self.child.get_ref().pid());
        let statm = fs_err::read_to_string(statm).unwrap_or_default();
        let mut pages = statm.split(' ').skip(1).map(|pages| pages.parse::<u64>().unwrap_or(0));
        let (resident, shared) = (pages.next().unwrap_or(0), pages.next().unwrap_or(0));
        resident.saturating_sub(shared) * rustix::param::page_size() as u64
    }

    /// What control groups limit.
    pub(crate) fn control_group(&self) -> &[Controller] {
        self.group.limited()
    }

    /// Whether the process filters its system calls, as the kernel sees it.
    pub(crate) fn has_filter(&self) -> bool {
        let status = format!("/proc/{}/status", self.child.get_ref().pid());
        // SECCOMP_MODE_FILTER
        fs_err::read_to_string(status).is_ok_and(|status| status.contains("\nSeccomp:\t2\n"))
    }

    /// Waits until the process ends by itself. Cancel-safe.
    pub async fn wait(&mut self) -> io::Result<QemuEnd> {
        let mut buffer = [0; 512];
        // QEMU's end closes the pipe. Until then it is read, however much QEMU complains.
        while let Some(stderr) = &mut self.stderr {
            match stderr.read(&mut buffer).await {
                Ok(count @ 1..) => {
                    let room = COMPLAINT_BYTES_MAX - self.complaint.len();
                    self.complaint.extend_from_slice(&buffer[..count.min(room)]);
                }
                Ok(0) | Err(_) => self.stderr = None,
            }
        }
        drop(self.child.readable().await?);
        let status = self.child.get_mut().collect()?;
        let complaint = untrusted::lines(&String::from_utf8_lossy(&self.complaint));
        Ok(QemuEnd { status, complaint })
    }

    /// Kills the process. From then on none of its threads gets back from the kernel (`signal(7)`).
    pub fn order_end(&self) -> io::Result<()> {
        Ok(self.child.get_ref().kill()?)
    }

    /// Kills the process and waits until it is gone, and with it every page and file it held.
    pub async fn kill(mut self) -> io::Result<()> {
        self.end().await
    }

    pub(crate) async fn end(&mut self) -> io::Result<()> {
        self.order_end()?;
        drop(self.child.readable().await?);
        self.child.get_mut().collect()?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use pyro_protocol::client::{Namespaces, QemuIdentity};

    use super::*;

    const LEAST: Confinement =
        Confinement { identity: QemuIdentity::Caller, namespaces: Namespaces::None };

    #[tokio::test]
    async fn a_bad_argument_is_reported_in_qemus_own_words() {
        let path =
            crate::executable::find(crate::executable::PROGRAM, "/usr/bin".as_ref()).unwrap();
        let line = CommandLine::for_test(&["-M", "no-such-machine"]);
        let mut process = QemuProcess::spawn(&path, line, LEAST).unwrap();
        let end = process.wait().await.unwrap();
        assert!(!end.status.success());
        assert!(end.complaint.contains("unsupported machine type"), "{}", end.complaint);
    }

    #[tokio::test]
    async fn a_missing_program_is_named() {
        let line = CommandLine::for_test(&[]);
        let error = QemuProcess::spawn(Path::new("/nonexistent/qemu"), line, LEAST).unwrap_err();
        assert_eq!(error.to_string(), "cannot start `/nonexistent/qemu`");
    }
}
