//! The scratch disk: everything a VM writes, in a file without a name.
//!
//! The file is unlinked from the start, so the kernel frees it when the last process that holds it
//! dies, in whatever order they are killed. It is sparse: 8 GiB for the guest, some hundred
//! kilobytes on the host until the guest writes.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use command_fds::{CommandFdExt, FdMapping};
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process, waitid};
use tokio::io::AsyncReadExt;
use tokio::process::{Child, Command};

/// What the guest sees. Not reserved on the host.
const DISK_BYTES: u64 = 8 << 30;

/// A VM does not start with less free space than this on the host: its first writes would fail.
pub const FREE_BYTES_MIN: u64 = 256 << 20;

/// For `mke2fs` to write some hundred kilobytes.
const FORMAT_DEADLINE: Duration = Duration::from_secs(30);

/// What is kept of the complaints of `mke2fs`.
const COMPLAINT_BYTES_MAX: u64 = 4096;

/// A scratch disk, through two descriptors.
#[derive(Debug)]
pub(crate) struct ScratchDisk {
    pub(crate) read_write: OwnedFd,
    pub(crate) read_only: OwnedFd,
}

impl ScratchDisk {
    /// The same disk through further descriptors.
    pub(crate) fn try_clone(&self) -> io::Result<Self> {
        Ok(Self {
            read_write: self.read_write.try_clone()?,
            read_only: self.read_only.try_clone()?,
        })
    }
}

/// Why there is no scratch disk.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ScratchError {
    #[error("cannot tell the free space of `{}`", directory.display())]
    NoStatistics { directory: PathBuf, source: io::Error },
    #[error(
        "only {} MiB are free in `{}`, a VM needs at least {} MiB",
        available_bytes >> 20, directory.display(), FREE_BYTES_MIN >> 20
    )]
    NoSpace { directory: PathBuf, available_bytes: u64 },
    #[error("cannot make a file in `{}`", directory.display())]
    CannotCreate { directory: PathBuf, source: io::Error },
    #[error("cannot run `{}`", program.display())]
    CannotFormat { program: PathBuf, source: io::Error },
    #[error("`{}` failed: {complaint}", program.display())]
    FormatFailed { program: PathBuf, complaint: String },
    #[error("`{}` did not end within {} seconds", program.display(), deadline.as_secs())]
    FormatTooLate { program: PathBuf, deadline: Duration },
}

/// What helps against [`ScratchError::NoSpace`].
pub(crate) fn free_some_space(directory: &Path) -> String {
    format!("free some space on the file system of `{}`", directory.display())
}

/// Makes a scratch disk on the file system of `directory`, with an empty ext4 file system made by the
/// given `mke2fs`.
pub(crate) async fn create(directory: &Path, mke2fs: &Path) -> Result<ScratchDisk, ScratchError> {
    let disk = unformatted(directory)?;
    format(&disk.read_write, mke2fs, FORMAT_DEADLINE).await?;
    Ok(disk)
}

/// Makes a scratch disk that is all zeros.
pub(crate) fn unformatted(directory: &Path) -> Result<ScratchDisk, ScratchError> {
    let available_bytes = free_bytes(directory)
        .map_err(|source| ScratchError::NoStatistics { directory: directory.to_owned(), source })?;
    if available_bytes < FREE_BYTES_MIN {
        let directory = directory.to_owned();
        return Err(ScratchError::NoSpace { directory, available_bytes });
    }
    let (read_write, read_only) = unnamed_file(directory)
        .map_err(|source| ScratchError::CannotCreate { directory: directory.to_owned(), source })?;
    Ok(ScratchDisk { read_write: read_write.into(), read_only: read_only.into() })
}

fn free_bytes(directory: &Path) -> io::Result<u64> {
    let statistics = rustix::fs::statvfs(directory)?;
    Ok(statistics.f_bavail * statistics.f_frsize)
}

fn unnamed_file(directory: &Path) -> io::Result<(File, File)> {
    let read_write = tempfile::tempfile_in(directory)?;
    read_write.set_len(DISK_BYTES)?;
    let path = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&read_write));
    let read_only = rustix::fs::open(
        path,
        rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::CLOEXEC,
        rustix::fs::Mode::empty(),
    )?;
    Ok((read_write, read_only.into()))
}

/// Writes the file system: no journal, since the disk never outlives a crash, and no zeroing by
/// either side, since a fresh sparse file is all zeros.
async fn format(disk: &OwnedFd, mke2fs: &Path, deadline: Duration) -> Result<(), ScratchError> {
    const DISK_FD: i32 = 3;
    let cannot_format = |source| ScratchError::CannotFormat { program: mke2fs.to_owned(), source };
    let parent_fd = disk.try_clone().map_err(cannot_format)?;
    let mut command = std::process::Command::new(mke2fs);
    command
        .args(["-q", "-F", "-t", "ext4", "-O", "^has_journal", "-m", "0"])
        .args(["-E", "nodiscard,lazy_itable_init=1,assume_storage_prezeroed=1"])
        .arg(format!("/proc/self/fd/{DISK_FD}"))
        .env_clear()
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    command
        .fd_mappings(vec![FdMapping { parent_fd, child_fd: DISK_FD }])
        .expect("a single mapping cannot collide");
    let child = Command::from(command).spawn().map_err(cannot_format)?;
    let (status, complaint) = tokio::time::timeout(deadline, Formatter { child }.end())
        .await
        .map_err(|_| ScratchError::FormatTooLate { program: mke2fs.to_owned(), deadline })?
        .map_err(cannot_format)?;
    if status.success() {
        return Ok(());
    }
    Err(ScratchError::FormatFailed { program: mke2fs.to_owned(), complaint })
}

/// A running `mke2fs`, gone when this is dropped.
struct Formatter {
    child: Child,
}

impl Formatter {
    /// Waits until it ends by itself; returns what it complained of, too.
    async fn end(mut self) -> io::Result<(ExitStatus, String)> {
        let mut complaint = Vec::new();
        if let Some(stderr) = self.child.stderr.take() {
            stderr.take(COMPLAINT_BYTES_MAX).read_to_end(&mut complaint).await?;
        }
        let status = self.child.wait().await?;
        Ok((status, String::from_utf8_lossy(&complaint).trim().to_owned()))
    }
}

impl Drop for Formatter {
    /// Kills the process and waits for its end: who sees that the supervisor is gone may rely on it.
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
    use std::os::unix::fs::MetadataExt;

    use super::*;

    fn mke2fs() -> PathBuf {
        pyro_qemu::executable::find("mke2fs", "/usr/bin".as_ref()).expect("the tests need mke2fs")
    }

    #[tokio::test]
    async fn a_scratch_disk_is_sparse_and_has_no_name() {
        let directory = tempfile::tempdir().unwrap();
        let disk = create(directory.path(), &mke2fs()).await.unwrap();
        let metadata = File::from(disk.read_only).metadata().unwrap();
        assert_eq!(metadata.len(), DISK_BYTES);
        assert!(metadata.blocks() * 512 < 8 << 20, "{} blocks", metadata.blocks());
        assert_eq!(fs_err::read_dir(directory.path()).unwrap().count(), 0);
    }

    #[tokio::test]
    async fn a_missing_directory_is_named() {
        let error = create(Path::new("/nonexistent"), &mke2fs()).await.unwrap_err();
        assert!(error.to_string().contains("/nonexistent"), "{error}");
    }

    #[tokio::test]
    async fn a_failing_format_is_told_in_its_own_words() {
        let directory = tempfile::tempdir().unwrap();
        let error = create(directory.path(), Path::new("/bin/false")).await.unwrap_err();
        assert!(matches!(error, ScratchError::FormatFailed { .. }), "{error}");
    }

    #[tokio::test]
    async fn a_format_that_does_not_end_is_given_up() {
        let directory = tempfile::tempdir().unwrap();
        let disk = unformatted(directory.path()).unwrap().read_write;
        let error = format(&disk, &mke2fs(), Duration::ZERO).await.unwrap_err();
        assert!(matches!(error, ScratchError::FormatTooLate { .. }), "{error}");
    }
}
