//! A QEMU process, from start to certain end.

use std::io;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};

use command_fds::{CommandFdExt, FdMapping, FdMappingCollision};
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process, waitid};
use tokio::io::AsyncReadExt;
use tokio::process::{Child, ChildStderr, Command};

use crate::machine::CommandLine;
use crate::sys;

/// What is kept of QEMU's own complaints, in bytes.
const COMPLAINT_BYTES_MAX: usize = 4096;

/// A running QEMU. It dies with the thread that started it, and when this is dropped.
#[derive(Debug)]
pub struct QemuProcess {
    child: Child,
    stderr: Option<ChildStderr>,
    complaint: Vec<u8>,
}

/// Why QEMU did not start.
#[derive(Debug, thiserror::Error)]
pub enum SpawnError {
    #[error("two files are to have the same number in QEMU")]
    Collision { source: FdMappingCollision },
    #[error("cannot start `{}`", path.display())]
    CannotStart { path: PathBuf, source: io::Error },
}

/// How a QEMU process ended, and what it said last.
#[derive(Debug)]
pub struct QemuEnd {
    pub status: ExitStatus,
    /// The first lines QEMU wrote to its standard error; empty in the usual case.
    pub complaint: String,
}

impl QemuProcess {
    /// Starts the program at `path`. Must be called on the thread that lives as long as the process,
    /// because QEMU is killed with it.
    pub fn spawn(path: &Path, line: CommandLine) -> Result<Self, SpawnError> {
        let mut command = std::process::Command::new(path);
        command
            .args(&line.arguments)
            .env_clear()
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        sys::die_with_parent(&mut command, rustix::process::getpid());
        let mappings = line
            .files
            .into_iter()
            .map(|(parent_fd, child_fd)| FdMapping { parent_fd, child_fd })
            .collect();
        command.fd_mappings(mappings).map_err(|source| SpawnError::Collision { source })?;
        let mut child = Command::from(command)
            .spawn()
            .map_err(|source| SpawnError::CannotStart { path: path.to_owned(), source })?;
        let stderr = child.stderr.take();
        Ok(Self { child, stderr, complaint: Vec::new() })
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
        let status = self.child.wait().await?;
        let complaint = String::from_utf8_lossy(&self.complaint).trim().to_owned();
        Ok(QemuEnd { status, complaint })
    }

    /// Kills the process and waits until it is gone, and with it every page and file it held.
    pub async fn kill(mut self) -> io::Result<()> {
        self.child.kill().await
    }
}

impl Drop for QemuProcess {
    /// Kills the process and waits for its end, which takes milliseconds: who sees that its owner is
    /// gone may rely on it.
    fn drop(&mut self) {
        let id = self.child.id().and_then(|id| i32::try_from(id).ok());
        // A process that was waited for has no number any more.
        let Some(pid) = id.and_then(Pid::from_raw) else {
            return;
        };
        // Neither can fail for a child that is not yet collected, which the runtime does later.
        kill_process(pid, Signal::KILL).ok();
        waitid(WaitId::Pid(pid), WaitIdOptions::EXITED | WaitIdOptions::NOWAIT).ok();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_bad_argument_is_reported_in_qemus_own_words() {
        let path =
            crate::executable::find(crate::executable::PROGRAM, "/usr/bin".as_ref()).unwrap();
        let arguments = vec!["-M".to_owned(), "no-such-machine".to_owned()];
        let line = CommandLine { arguments, files: Vec::new() };
        let mut process = QemuProcess::spawn(&path, line).unwrap();
        let end = process.wait().await.unwrap();
        assert!(!end.status.success());
        assert!(end.complaint.contains("unsupported machine type"), "{}", end.complaint);
    }

    #[tokio::test]
    async fn a_missing_program_is_named() {
        let line = CommandLine { arguments: Vec::new(), files: Vec::new() };
        let error = QemuProcess::spawn(Path::new("/nonexistent/qemu"), line).unwrap_err();
        assert_eq!(error.to_string(), "cannot start `/nonexistent/qemu`");
    }
}
