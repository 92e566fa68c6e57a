//! Builds in progress: directories that nobody else looks into, held by a lock
//! of their maker, so that those of dead makers can be told from live ones.

use std::io;
use std::path::{Path, PathBuf};

use super::Store;
use super::lock::DirectoryLock;
use super::remove::remove_tree;

/// A directory for one build. Deleted when dropped; if its maker is killed
/// first, by the next pull or prune.
#[derive(Debug)]
pub(crate) struct PartialDirectory {
    path: PathBuf,
    _lock: DirectoryLock,
}

/// Whoever lists the directory between its creation and its locking may hold
/// its lock at that moment, or delete it: that can happen, but not often in a row.
const CREATE_ATTEMPTS_MAX: usize = 16;

impl PartialDirectory {
    pub(crate) fn create(store: &Store) -> io::Result<Self> {
        let parent = store.partial_directory();
        fs_err::create_dir_all(&parent)?;
        for _ in 0..CREATE_ATTEMPTS_MAX {
            let path =
                tempfile::Builder::new().prefix("").rand_bytes(12).tempdir_in(&parent)?.keep();
            if let Some(lock) = DirectoryLock::try_exclusive(&path)? {
                return Ok(Self { path, _lock: lock });
            }
            // Who held the lock may only have looked.
            fs_err::remove_dir(&path).ok();
        }
        Err(io::Error::new(
            io::ErrorKind::ResourceBusy,
            format!("`{}` is deleted as fast as it is filled", parent.display()),
        ))
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// A new directory in it.
    pub(crate) fn subdirectory(&self, name: &str) -> io::Result<PathBuf> {
        let path = self.path.join(name);
        fs_err::create_dir(&path)?;
        Ok(path)
    }
}

impl Drop for PartialDirectory {
    fn drop(&mut self) {
        // What cannot be deleted now is found unlocked, and deleted, later.
        drop(remove_tree(&self.path));
    }
}

impl Store {
    /// The builds that were left by processes that were killed. A pull deletes
    /// them, and a prune does.
    pub fn abandoned_builds(&self) -> io::Result<Vec<PathBuf>> {
        let mut abandoned = Vec::new();
        for path in list_directory(&self.partial_directory())? {
            if DirectoryLock::try_shared(&path)?.is_some() {
                abandoned.push(path);
            }
        }
        Ok(abandoned)
    }

    /// The builds whose makers are dead, each locked against anyone else.
    pub(super) fn dead_partials(&self) -> io::Result<Vec<(PathBuf, DirectoryLock)>> {
        let mut dead = Vec::new();
        for path in list_directory(&self.partial_directory())? {
            if let Some(lock) = DirectoryLock::try_exclusive(&path)? {
                dead.push((path, lock));
            }
        }
        Ok(dead)
    }

    /// Deletes what dead builds left, and gives what that was.
    pub fn remove_abandoned_builds(&self) -> io::Result<Vec<PathBuf>> {
        let mut removed = Vec::new();
        for (path, _lock) in self.dead_partials()? {
            remove_tree(&path)?;
            removed.push(path);
        }
        Ok(removed)
    }
}

/// The entries of a directory in order; none where it does not exist.
pub(super) fn list_directory(path: &Path) -> io::Result<Vec<PathBuf>> {
    let entries = match fs_err::read_dir(path) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut paths =
        entries.map(|entry| entry.map(|entry| entry.path())).collect::<Result<Vec<_>, _>>()?;
    paths.sort();
    Ok(paths)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_live_build_is_left_alone_and_a_dead_one_removed() {
        let root = tempfile::tempdir().unwrap();
        let store = Store::at(root.path());
        let live = PartialDirectory::create(&store).unwrap();
        let dead = store.partial_directory().join("dead");
        fs_err::create_dir_all(dead.join("tree")).unwrap();

        assert_eq!(store.abandoned_builds().unwrap(), [dead.as_path()]);
        assert!(dead.exists(), "looking deletes nothing");
        assert_eq!(store.remove_abandoned_builds().unwrap(), [dead.as_path()]);

        assert!(live.path().exists());
        assert!(!dead.exists());
        assert_eq!(store.abandoned_builds().unwrap(), Vec::<PathBuf>::new());
    }

    #[test]
    fn a_build_that_ends_leaves_nothing() {
        let root = tempfile::tempdir().unwrap();
        let store = Store::at(root.path());
        let partial = PartialDirectory::create(&store).unwrap();
        partial.subdirectory("image").unwrap();
        drop(partial);
        assert_eq!(list_directory(&store.partial_directory()).unwrap(), Vec::<PathBuf>::new());
    }
}
