//! Changes a client's configuration file so that no moment sees half of it, and nothing that was in it is lost.

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use super::merge::{Change, MergeError, Merged};

/// How many different texts of one file are kept at most, so that no loop fills the disk.
const BACKUPS_MAX: usize = 100;

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
    #[error("`{link}` is a link to `{target}`, and nothing is there")]
    DanglingLink { link: PathBuf, target: PathBuf },
    #[error("`{file}` is left as it is")]
    NotMerged { file: PathBuf, source: MergeError },
    #[error("`{file}` was changed by somebody else at this moment")]
    ChangedMeanwhile { file: PathBuf },
    #[error("there are {BACKUPS_MAX} files `{first}…` already")]
    TooManyBackups { first: PathBuf },
    #[error("cannot write the configuration")]
    Unwritable { source: io::Error },
}

/// Replaces a file's text by what `merge` makes of it. A file that is not there is made.
pub(super) fn install(
    file: &Path,
    merge: impl FnOnce(&str) -> Result<Merged, MergeError>,
) -> Result<Installed, InstallError> {
    let file = follow(file)?;
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
        Some(text) => Some(back_up(&file, text)?),
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

/// Where a file is a link, it is what the link leads to that is replaced.
fn follow(file: &Path) -> Result<PathBuf, InstallError> {
    let unreadable = |source| InstallError::Unreadable { source };
    match fs_err::canonicalize(file) {
        Ok(real) => return Ok(real),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(source) => return Err(unreadable(source)),
    }
    // Either nothing is there yet, or a link leads nowhere, as to a home or a disk that is not there right now. A file
    // of ours in the link's place would cut it off from what it led to.
    for place in file.ancestors().filter(|place| place.is_symlink()) {
        if fs_err::canonicalize(place).is_err() {
            let target = fs_err::read_link(place).map_err(unreadable)?;
            let target = place.parent().unwrap_or(Path::new("/")).join(target);
            return Err(InstallError::DanglingLink { link: place.to_owned(), target });
        }
    }
    Ok(file.to_owned())
}

/// Keeps a text beside its file, under a name that was free. What an earlier change has kept is never replaced: the
/// first one is the file as it was before pyro.
fn back_up(file: &Path, text: &str) -> Result<PathBuf, InstallError> {
    let unwritable = |source| InstallError::Unwritable { source };
    // It may hold secrets, so it is as private as a new file is: for its owner only.
    let mut copy = written_beside(file, text).map_err(unwritable)?;
    for number in 1..=BACKUPS_MAX {
        let backup = backup_path(file, number);
        match copy.persist_noclobber(&backup) {
            Ok(_) => return Ok(backup),
            Err(taken) if taken.error.kind() == io::ErrorKind::AlreadyExists => {
                // Going back and forth between two servers needs no more than two.
                if fs_err::read(&backup).is_ok_and(|known| known == text.as_bytes()) {
                    return Ok(backup);
                }
                copy = taken.file;
            }
            Err(failed) => return Err(unwritable(failed.error)),
        }
    }
    Err(InstallError::TooManyBackups { first: backup_path(file, 1) })
}

/// `….before-pyro`, `….before-pyro.2`, and so on.
fn backup_path(file: &Path, number: usize) -> PathBuf {
    let mut name = file.file_name().unwrap_or_default().to_owned();
    name.push(".before-pyro");
    if number > 1 {
        name.push(format!(".{number}"));
    }
    file.with_file_name(name)
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
    fn no_backup_is_overwritten() {
        let home = tempfile::tempdir().unwrap();
        let file = home.path().join("file");
        let backup = |text: &str| {
            fs_err::write(&file, text).unwrap();
            install(&file, |text| Ok(with_new(text))).unwrap().backup.unwrap()
        };
        let kept = [("a ", "before-pyro"), ("b ", "before-pyro.2"), ("c ", "before-pyro.3")];
        // The second time each of them is known already.
        for (text, name) in kept.into_iter().chain(kept) {
            assert_eq!(backup(text), home.path().join(format!("file.{name}")));
        }
        for (text, name) in kept {
            let backup = home.path().join(format!("file.{name}"));
            assert_eq!(fs_err::read_to_string(backup).unwrap(), text);
        }
    }

    #[test]
    fn without_a_place_for_a_backup_nothing_is_changed() {
        let home = tempfile::tempdir().unwrap();
        let file = home.path().join("file");
        fs_err::write(&file, "old").unwrap();
        for number in 1..=BACKUPS_MAX {
            fs_err::write(backup_path(&file, number), "another").unwrap();
        }
        let error = install(&file, |text| Ok(with_new(text))).unwrap_err();
        assert!(matches!(error, InstallError::TooManyBackups { .. }));
        assert_eq!(fs_err::read_to_string(&file).unwrap(), "old");
        assert_eq!(fs_err::read_dir(home.path()).unwrap().count(), BACKUPS_MAX + 1);
    }

    #[test]
    fn a_link_that_leads_nowhere_stays_one() {
        let home = tempfile::tempdir().unwrap();
        let (link, target) = (home.path().join("link"), home.path().join("dotfiles"));
        fs_err::os::unix::fs::symlink("dotfiles", &link).unwrap();
        // The file itself, or a directory above it.
        for file in [link.clone(), link.join("a/b.json")] {
            let error = install(&file, |text| Ok(with_new(text))).unwrap_err();
            let text = format!(
                "`{}` is a link to `{}`, and nothing is there",
                link.display(),
                target.display()
            );
            assert_eq!(error.to_string(), text);
        }
        assert!(link.is_symlink() && !target.exists());
        fs_err::create_dir(&target).unwrap();
        install(&link.join("a/b.json"), |text| Ok(with_new(text))).unwrap();
        assert_eq!(fs_err::read_to_string(target.join("a/b.json")).unwrap(), "new");
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
