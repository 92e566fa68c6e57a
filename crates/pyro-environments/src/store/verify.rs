//! Telling whether what lies in the store is still what was published.

use std::io;
use std::path::{Path, PathBuf};

use super::manifest::{FileRecord, Stamp};
use crate::digest::Digest;

/// How closely to look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verification {
    /// At size, time and inode; at the content only where these differ.
    Stamp,
    /// At every byte.
    Content,
}

/// What is wrong with an installed environment. Pulling it again heals it.
#[derive(Debug, thiserror::Error)]
pub enum Damage {
    #[error("`{}` is missing", path.display())]
    Missing { path: PathBuf },

    #[error("`{}` is not a manifest of this version of pyro", path.display())]
    Malformed { path: PathBuf, source: serde_json::Error },

    #[error("`{}` has changed since it was published", path.display())]
    Altered { path: PathBuf },
}

/// Why a file did not pass.
#[derive(Debug)]
pub(crate) enum VerifyFailure {
    Damaged(Damage),
    Unreadable(io::Error),
}

/// Whether the stamp in the record was still the right one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verified {
    AsRecorded,
    /// The content is right, but the file was copied or touched.
    StampRefreshed,
}

/// Checks one file against its record, and brings the record's stamp up to
/// date where only that differs.
pub(crate) fn verify_file(
    directory: &Path,
    record: &mut FileRecord,
    verification: Verification,
) -> Result<Verified, VerifyFailure> {
    let path = directory.join(&record.path);
    let metadata = fs_err::metadata(&path).map_err(|error| missing_or_unreadable(&path, error))?;
    if metadata.len() != record.bytes {
        return Err(VerifyFailure::Damaged(Damage::Altered { path }));
    }
    let stamp = Stamp::of(&metadata);
    let is_stamped = stamp == record.stamp;
    if is_stamped && verification == Verification::Stamp {
        return Ok(Verified::AsRecorded);
    }
    let sha256 = Digest::of_file(&path).map_err(|error| missing_or_unreadable(&path, error))?;
    if sha256 != record.sha256 {
        return Err(VerifyFailure::Damaged(Damage::Altered { path }));
    }
    record.stamp = stamp;
    Ok(if is_stamped { Verified::AsRecorded } else { Verified::StampRefreshed })
}

fn missing_or_unreadable(path: &Path, error: io::Error) -> VerifyFailure {
    match error.kind() {
        io::ErrorKind::NotFound => {
            VerifyFailure::Damaged(Damage::Missing { path: path.to_owned() })
        }
        _ => VerifyFailure::Unreadable(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(content: &[u8]) -> (tempfile::TempDir, FileRecord) {
        let directory = tempfile::tempdir().unwrap();
        fs_err::write(directory.path().join("file"), content).unwrap();
        let record = FileRecord::of(directory.path(), "file").unwrap();
        (directory, record)
    }

    #[test]
    fn an_untouched_file_passes_both_ways() {
        let (directory, mut record) = file(b"content");
        for verification in [Verification::Stamp, Verification::Content] {
            let verified = verify_file(directory.path(), &mut record, verification).unwrap();
            assert_eq!(verified, Verified::AsRecorded);
        }
    }

    #[test]
    fn a_flipped_byte_is_found_although_the_size_is_the_same() {
        let (directory, mut record) = file(b"content");
        fs_err::write(directory.path().join("file"), b"cOntent").unwrap();
        let failure = verify_file(directory.path(), &mut record, Verification::Stamp).unwrap_err();
        assert!(matches!(failure, VerifyFailure::Damaged(Damage::Altered { .. })));
    }

    #[test]
    fn a_byte_flipped_behind_the_stamp_is_found_by_content() {
        let (directory, mut record) = file(b"content");
        let path = directory.path().join("file");
        let modified = fs_err::metadata(&path).unwrap().modified().unwrap();
        fs_err::write(&path, b"cOntent").unwrap();
        fs_err::File::options()
            .write(true)
            .open(&path)
            .unwrap()
            .file()
            .set_modified(modified)
            .unwrap();
        verify_file(directory.path(), &mut record, Verification::Stamp).unwrap();
        verify_file(directory.path(), &mut record, Verification::Content).unwrap_err();
    }

    #[test]
    fn a_copied_file_passes_and_is_stamped_anew() {
        let (directory, mut record) = file(b"content");
        let path = directory.path().join("file");
        let copy = directory.path().join("copy");
        fs_err::copy(&path, &copy).unwrap();
        fs_err::rename(&copy, &path).unwrap();
        let mut verify = || verify_file(directory.path(), &mut record, Verification::Stamp);
        assert_eq!(verify().unwrap(), Verified::StampRefreshed);
        assert_eq!(verify().unwrap(), Verified::AsRecorded);
    }

    #[test]
    fn a_missing_and_a_truncated_file_are_damage() {
        let (directory, mut record) = file(b"content");
        let path = directory.path().join("file");
        fs_err::write(&path, b"cont").unwrap();
        let mut verify = || verify_file(directory.path(), &mut record, Verification::Stamp);
        assert!(matches!(verify(), Err(VerifyFailure::Damaged(Damage::Altered { .. }))));
        fs_err::remove_file(&path).unwrap();
        assert!(matches!(verify(), Err(VerifyFailure::Damaged(Damage::Missing { .. }))));
    }
}
