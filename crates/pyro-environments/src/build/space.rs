//! Free disk space: checked before a build, and named when it ran out.

use std::io;
use std::path::Path;

use rustix::fs::statvfs;

use crate::pull::error::PullError;

/// Fails unless `needed_bytes` are free where `directory` is or will be.
pub(crate) fn require(directory: &Path, needed_bytes: u64) -> Result<(), PullError> {
    // Where it cannot be told, the build itself will say.
    let available_bytes = available_bytes(directory).unwrap_or(u64::MAX);
    if available_bytes >= needed_bytes {
        return Ok(());
    }
    Err(PullError::NoSpace { directory: directory.to_owned(), needed_bytes, available_bytes })
}

/// What a failed write below `directory` means to the user.
pub(crate) fn write_error(directory: &Path, needed_bytes: u64, source: io::Error) -> PullError {
    match source.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            no_space(directory, needed_bytes)
        }
        _ => PullError::StoreNotWritable { root: directory.to_owned(), source },
    }
}

pub(crate) fn no_space(directory: &Path, needed_bytes: u64) -> PullError {
    PullError::NoSpace {
        directory: directory.to_owned(),
        needed_bytes,
        available_bytes: available_bytes(directory).unwrap_or(0),
    }
}

/// For users without privileges, on the disk of `path` or of its nearest
/// ancestor that exists.
fn available_bytes(path: &Path) -> Option<u64> {
    let existing = path.ancestors().find(|ancestor| ancestor.exists())?;
    let disk = statvfs(existing).ok()?;
    Some(disk.f_bavail.saturating_mul(disk.f_frsize))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_that_does_not_exist_yet_is_on_the_disk_of_its_parent() {
        let directory = tempfile::tempdir().unwrap();
        let below = directory.path().join("not/yet/there");
        assert!(available_bytes(&below).is_some());
        require(&below, 1).unwrap();
        assert!(!below.exists());
    }

    #[test]
    fn too_little_space_is_refused_with_both_numbers() {
        let directory = tempfile::tempdir().unwrap();
        let error = require(directory.path(), u64::MAX).unwrap_err();
        assert!(matches!(error, PullError::NoSpace { needed_bytes: u64::MAX, .. }));
    }
}
