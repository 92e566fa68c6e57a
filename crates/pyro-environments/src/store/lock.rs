//! The locks of the store, all of them `flock`: the kernel drops them when
//! their holder dies, however it dies.
//!
//! * A directory of the store is deleted only by someone who holds its
//!   [`DirectoryLock`] exclusively. Whoever fills it, publishes it or opens
//!   files in it holds the lock as well, so nothing vanishes under anybody.
//! * A [`PullLock`] makes one process build and the others wait for it.

use std::fs::TryLockError;
use std::io::{self, Read as _, Seek as _, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use fs_err::File;

/// A lock on a directory itself. It follows the directory when it is renamed.
#[derive(Debug)]
pub(crate) struct DirectoryLock {
    directory: File,
}

impl DirectoryLock {
    /// Waits for whoever is deleting the directory. `None`: it is gone.
    pub(crate) fn shared(path: &Path) -> io::Result<Option<Self>> {
        let Some(directory) = open_if_present(path)? else { return Ok(None) };
        directory.file().lock_shared()?;
        Self { directory }.if_still_at(path)
    }

    /// `None`: it is gone, or someone holds its lock exclusively.
    pub(crate) fn try_shared(path: &Path) -> io::Result<Option<Self>> {
        let Some(directory) = open_if_present(path)? else { return Ok(None) };
        match directory.file().try_lock_shared() {
            Ok(()) => Self { directory }.if_still_at(path),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(error)) => Err(error),
        }
    }

    /// `None`: it is gone, or someone else holds its lock.
    pub(crate) fn try_exclusive(path: &Path) -> io::Result<Option<Self>> {
        let Some(directory) = open_if_present(path)? else { return Ok(None) };
        match directory.file().try_lock() {
            Ok(()) => Self { directory }.if_still_at(path),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(error)) => Err(error),
        }
    }

    /// Between opening and locking, the directory may have been moved away to
    /// be deleted: a lock on that protects nothing.
    fn if_still_at(self, path: &Path) -> io::Result<Option<Self>> {
        let locked = self.directory.metadata()?;
        match fs_err::metadata(path) {
            Ok(present) if present.ino() == locked.ino() && present.dev() == locked.dev() => {
                Ok(Some(self))
            }
            Ok(_) => Ok(None),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }
}

fn open_if_present(path: &Path) -> io::Result<Option<File>> {
    match File::open(path) {
        Ok(file) => Ok(Some(file)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// The right to build one thing, held by one process at a time.
#[derive(Debug)]
pub(crate) struct PullLock {
    _file: File,
}

impl PullLock {
    /// Waits until the lock is free. `on_wait` is called once if it is not,
    /// with the process that holds it, as far as that can be told; an error
    /// from it ends the attempt.
    pub(crate) fn acquire(
        path: &Path,
        on_wait: impl FnOnce(Option<u32>) -> io::Result<()>,
    ) -> io::Result<Self> {
        let mut file = File::options().read(true).write(true).create(true).open(path)?;
        match file.file().try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                on_wait(read_holder(&mut file))?;
                file.file().lock()?;
            }
            Err(TryLockError::Error(error)) => return Err(error),
        }
        write_holder(&mut file)?;
        Ok(Self { _file: file })
    }
}

/// The holder writes its pid after it has got the lock, so for a moment the
/// file is empty or names the holder before it: good enough for a message.
fn read_holder(file: &mut File) -> Option<u32> {
    let mut text = String::new();
    file.take(PID_TEXT_BYTES_MAX).read_to_string(&mut text).ok()?;
    text.trim().parse().ok()
}

fn write_holder(file: &mut File) -> io::Result<()> {
    file.rewind()?;
    file.set_len(0)?;
    writeln!(file, "{}", std::process::id())
}

const PID_TEXT_BYTES_MAX: u64 = 16;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shared_lock_keeps_the_directory_from_being_taken_for_deletion() {
        let directory = tempfile::tempdir().unwrap();
        let shared = DirectoryLock::shared(directory.path()).unwrap().unwrap();
        assert!(DirectoryLock::try_exclusive(directory.path()).unwrap().is_none());
        drop(shared);
        assert!(DirectoryLock::try_exclusive(directory.path()).unwrap().is_some());
    }

    #[test]
    fn a_lock_follows_its_directory_when_it_is_renamed() {
        let parent = tempfile::tempdir().unwrap();
        let (before, after) = (parent.path().join("a"), parent.path().join("b"));
        fs_err::create_dir(&before).unwrap();
        let _lock = DirectoryLock::try_exclusive(&before).unwrap().unwrap();
        fs_err::rename(&before, &after).unwrap();
        assert!(DirectoryLock::try_exclusive(&after).unwrap().is_none());
    }

    #[test]
    fn a_directory_that_is_gone_cannot_be_locked() {
        let parent = tempfile::tempdir().unwrap();
        assert!(DirectoryLock::shared(&parent.path().join("gone")).unwrap().is_none());
    }

    #[test]
    fn a_lock_on_a_directory_that_was_replaced_does_not_count() {
        let parent = tempfile::tempdir().unwrap();
        let (path, aside) = (parent.path().join("a"), parent.path().join("b"));
        fs_err::create_dir(&path).unwrap();
        let lock = DirectoryLock { directory: File::open(&path).unwrap() };
        fs_err::rename(&path, aside).unwrap();
        fs_err::create_dir(&path).unwrap();
        assert!(lock.if_still_at(&path).unwrap().is_none());
    }

    #[test]
    fn a_second_puller_waits_and_is_told_for_whom() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("lock");
        let first = PullLock::acquire(&path, |_| panic!("nobody holds it")).unwrap();
        let (sender, receiver) = std::sync::mpsc::channel();
        std::thread::scope(|scope| {
            let second = scope.spawn(|| {
                PullLock::acquire(&path, |pid| {
                    sender.send(pid).unwrap();
                    Ok(())
                })
            });
            assert_eq!(receiver.recv().unwrap(), Some(std::process::id()));
            drop(first);
            second.join().unwrap().unwrap();
        });
    }
}
