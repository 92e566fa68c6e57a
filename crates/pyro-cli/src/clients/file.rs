//! Changes a client's configuration file so that no moment sees half of it, and nothing that was in it is lost.

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use super::merge::{Change, MergeError, Merged};

/// What was done.
#[derive(Debug)]
pub(crate) struct Installed {
    pub(crate) file: PathBuf,
    pub(crate) change: Change,
    /// A copy of what was there before.
    pub(crate) backup: Option<PathBuf>,
}

/// Why nothing was done.
#[derive(Debug, thiserror::Error)]
pub(crate) enum InstallError {
    #[error("cannot read the configuration")]
    Unreadable { source: io::Error },
    #[error("`{file}` is left as it is")]
    NotMerged { file: PathBuf, source: MergeError },
    #[error("`{file}` was changed by somebody else at this moment")]
    ChangedMeanwhile { file: PathBuf },
    #[error("cannot write the configuration")]
    Unwritable { source: io::Error },
}

/// Replaces a file's text by what `merge` makes of it. A file that is not there is made.
pub(super) fn install(
    file: &Path,
    merge: impl FnOnce(&str) -> Result<Merged, MergeError>,
) -> Result<Installed, InstallError> {
    // Where the file is a link, it is what the link leads to that is replaced.
    let file = fs_err::canonicalize(file).unwrap_or_else(|_| file.to_owned());
    let before = read(&file)?;
    let merged = merge(before.as_deref().unwrap_or_default())
        .map_err(|source| InstallError::NotMerged { file: file.clone(), source })?;
    let change = merged.change;
    if change == Change::None {
        return Ok(Installed { file, change, backup: None });
    }
    let unwritable = |source| InstallError::Unwritable { source };
    let directory = file.parent().unwrap_or(Path::new("/"));
    fs_err::create_dir_all(directory).map_err(unwritable)?;
    let backup = match &before {
        Some(text) => Some(back_up(&file, text).map_err(unwritable)?),
        None => None,
    };
    let fresh = written_beside(&file, &merged.text).map_err(unwritable)?;
    if before.is_some() {
        let mode = fs_err::metadata(&file).map_err(unwritable)?.permissions();
        fresh.as_file().set_permissions(mode).map_err(unwritable)?;
    }
    // Clients write their files, too, and some do it often.
    if read(&file)? != before {
        return Err(InstallError::ChangedMeanwhile { file });
    }
    fresh.persist(&file).map_err(|error| unwritable(error.error))?;
    Ok(Installed { file, change, backup })
}

fn read(file: &Path) -> Result<Option<String>, InstallError> {
    match fs_err::read_to_string(file) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(InstallError::Unreadable { source }),
    }
}

fn back_up(file: &Path, text: &str) -> io::Result<PathBuf> {
    let mut name = file.file_name().unwrap_or_default().to_owned();
    name.push(".before-pyro");
    let backup = file.with_file_name(name);
    let copy = written_beside(&backup, text)?;
    // It may hold secrets, so it is as private as a new file is: for its owner only.
    copy.persist(&backup).map_err(|error| error.error)?;
    Ok(backup)
}

/// A file without its final name yet, whose content is on the disk.
fn written_beside(file: &Path, text: &str) -> io::Result<tempfile::NamedTempFile> {
    let directory = file.parent().unwrap_or(Path::new("/"));
    let mut fresh = tempfile::NamedTempFile::new_in(directory)?;
    fresh.write_all(text.as_bytes())?;
    fresh.as_file().sync_all()?;
    Ok(fresh)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn with_new(text: &str) -> Merged {
        Merged { text: format!("{text}new"), change: Change::Added }
    }

    #[test]
    fn a_file_that_is_not_there_is_made_with_its_directory() {
        let home = tempfile::tempdir().unwrap();
        let file = home.path().join("a/b.json");
        let installed = install(&file, |text| Ok(with_new(text))).unwrap();
        assert_eq!(installed.backup, None);
        assert_eq!(fs_err::read_to_string(&file).unwrap(), "new");
    }

    #[test]
    fn links_and_modes_stay_and_the_old_text_is_kept() {
        let home = tempfile::tempdir().unwrap();
        let (real, link) = (home.path().join("real"), home.path().join("link"));
        fs_err::write(&real, "old ").unwrap();
        fs_err::set_permissions(&real, std::fs::Permissions::from_mode(0o640)).unwrap();
        fs_err::os::unix::fs::symlink(&real, &link).unwrap();
        let installed = install(&link, |text| Ok(with_new(text))).unwrap();
        assert!(fs_err::symlink_metadata(&link).unwrap().is_symlink());
        assert_eq!(fs_err::read_to_string(&link).unwrap(), "old new");
        assert_eq!(fs_err::metadata(&real).unwrap().permissions().mode() & 0o777, 0o640);
        assert_eq!(fs_err::read_to_string(installed.backup.unwrap()).unwrap(), "old ");
    }

    #[test]
    fn what_cannot_be_merged_is_left_alone() {
        let home = tempfile::tempdir().unwrap();
        let file = home.path().join("file");
        fs_err::write(&file, "{").unwrap();
        let error = install(&file, |_| Err(MergeError::NoJson("x".to_owned()))).unwrap_err();
        assert!(matches!(error, InstallError::NotMerged { .. }));
        assert_eq!(fs_err::read_dir(home.path()).unwrap().count(), 1, "no backup either");
    }

    #[test]
    fn a_change_of_somebody_else_is_not_overwritten() {
        let home = tempfile::tempdir().unwrap();
        let file = home.path().join("file");
        fs_err::write(&file, "old").unwrap();
        let error = install(&file, |text| {
            fs_err::write(&file, "theirs").unwrap();
            Ok(with_new(text))
        });
        assert!(matches!(error.unwrap_err(), InstallError::ChangedMeanwhile { .. }));
        assert_eq!(fs_err::read_to_string(&file).unwrap(), "theirs");
    }
}
