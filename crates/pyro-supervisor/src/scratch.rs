//! The scratch disk: everything a VM writes, in a file without a name.
//!
//! The file is unlinked from the start, so the kernel frees it when the last process that holds it
//! dies, in whatever order they are killed. It is sparse: 8 GiB for the guest, some hundred
//! kilobytes on the host until the guest writes.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use command_fds::{CommandFdExt, FdMapping};

/// What the guest sees. Not reserved on the host.
const DISK_BYTES: u64 = 8 << 30;

/// A VM does not start with less free space than this on the host: its first writes would fail.
const FREE_BYTES_MIN: u64 = 256 << 20;

/// A scratch disk, through two descriptors.
#[derive(Debug)]
pub(crate) struct ScratchDisk {
    pub(crate) read_write: OwnedFd,
    pub(crate) read_only: OwnedFd,
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
}

/// Makes a scratch disk on the file system of `directory`, with an empty ext4 file system made by the
/// given `mke2fs`.
pub(crate) fn create(directory: &Path, mke2fs: &Path) -> Result<ScratchDisk, ScratchError> {
    let disk = unformatted(directory)?;
    format(&disk.read_write, mke2fs)?;
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
fn format(disk: &OwnedFd, mke2fs: &Path) -> Result<(), ScratchError> {
    const DISK_FD: i32 = 3;
    let cannot_format = |source| ScratchError::CannotFormat { program: mke2fs.to_owned(), source };
    let parent_fd = disk.try_clone().map_err(cannot_format)?;
    let mut command = Command::new(mke2fs);
    command
        .args(["-q", "-F", "-t", "ext4", "-O", "^has_journal", "-m", "0"])
        .args(["-E", "nodiscard,lazy_itable_init=1,assume_storage_prezeroed=1"])
        .arg(format!("/proc/self/fd/{DISK_FD}"))
        .env_clear()
        .stdin(Stdio::null());
    command
        .fd_mappings(vec![FdMapping { parent_fd, child_fd: DISK_FD }])
        .expect("a single mapping cannot collide");
    let output = command.output().map_err(cannot_format)?;
    if output.status.success() {
        return Ok(());
    }
    let complaint = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Err(ScratchError::FormatFailed { program: mke2fs.to_owned(), complaint })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    fn mke2fs() -> PathBuf {
        pyro_qemu::executable::find("mke2fs", "/usr/bin".as_ref()).expect("the tests need mke2fs")
    }

    #[test]
    fn a_scratch_disk_is_sparse_and_has_no_name() {
        let directory = tempfile::tempdir().unwrap();
        let disk = create(directory.path(), &mke2fs()).unwrap();
        let metadata = File::from(disk.read_only).metadata().unwrap();
        assert_eq!(metadata.len(), DISK_BYTES);
        assert!(metadata.blocks() * 512 < 8 << 20, "{} blocks", metadata.blocks());
        assert_eq!(fs_err::read_dir(directory.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_missing_directory_is_named() {
        let error = create(Path::new("/nonexistent"), &mke2fs()).unwrap_err();
        assert!(error.to_string().contains("/nonexistent"), "{error}");
    }

    #[test]
    fn a_failing_format_is_told_in_its_own_words() {
        let directory = tempfile::tempdir().unwrap();
        let error = create(directory.path(), Path::new("/bin/false")).unwrap_err();
        assert!(matches!(error, ScratchError::FormatFailed { .. }), "{error}");
    }
}
