//! Deleting what is no longer needed, without disturbing anyone who is
//! pulling or opening an environment.

use std::collections::HashSet;
use std::io;
use std::path::{Path, PathBuf};

use super::lock::DirectoryLock;
use super::manifest::{FORMAT, KernelReference, read_json};
use super::partial::list_directory;
use super::remove::{disk_bytes, remove_tree};
use super::{EnvironmentState, InspectError, InstalledEnvironment, Store};
use crate::catalog::EnvironmentName;

/// What to delete.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PruneScope {
    /// What the current catalog does not use, was replaced by a newer build,
    /// is damaged, or was left by an interrupted pull.
    Stale,
    /// Everything that nobody is using at the moment.
    All,
}

/// What was deleted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pruned {
    /// Images, kernels and interrupted builds.
    pub deleted_dirs: Vec<PathBuf>,
    pub freed_bytes: u64,
}

/// The store could not be pruned.
#[derive(Debug, thiserror::Error)]
pub enum PruneError {
    #[error(transparent)]
    Inspect(#[from] InspectError),

    #[error("cannot delete from the environment store at `{}`", root.display())]
    Delete { root: PathBuf, source: io::Error },
}

impl Store {
    /// Deletes what `scope` says. Directories that are being pulled or opened
    /// right now are left for the next time.
    pub fn prune(&self, scope: PruneScope) -> Result<Pruned, PruneError> {
        self.remove_references(scope)?;
        let mut pruned = Pruned::default();
        self.remove_unreferenced(&mut pruned)?;
        self.remove_dead_builds(&mut pruned)?;
        Ok(pruned)
    }

    fn remove_references(&self, scope: PruneScope) -> Result<(), PruneError> {
        let mut kept = HashSet::new();
        if scope == PruneScope::Stale {
            for environment in self.installed()? {
                kept.insert(self.reference_path(environment.name));
                kept.insert(self.kernel_reference_path(environment.definition()));
            }
        }
        let delete = || -> io::Result<()> {
            let references = list_directory(&self.references_directory())?;
            let kernels = list_directory(&self.kernels_directory())?;
            let kernel_references = kernels.into_iter().filter(|path| !path.is_dir());
            for path in references.into_iter().chain(kernel_references) {
                if !kept.contains(&path) {
                    remove_file(&path)?;
                }
            }
            Ok(())
        };
        delete().map_err(|source| self.delete_error(source))
    }

    fn remove_unreferenced(&self, pruned: &mut Pruned) -> Result<(), PruneError> {
        for parent in [self.images_directory(), self.kernels_directory()] {
            let paths = list_directory(&parent).map_err(|source| self.delete_error(source))?;
            for path in paths.into_iter().filter(|path| path.is_dir()) {
                let lock = DirectoryLock::try_exclusive(&path)
                    .map_err(|source| self.delete_error(source))?;
                // The references are read again under each lock: a pull locks
                // the directory first, refers to it, and then unlocks it.
                if lock.is_some() && !self.referenced_directories()?.contains(&path) {
                    self.delete(&path, pruned)?;
                }
            }
        }
        Ok(())
    }

    fn remove_dead_builds(&self, pruned: &mut Pruned) -> Result<(), PruneError> {
        for (path, _lock) in self.dead_partials().map_err(|source| self.delete_error(source))? {
            pruned.freed_bytes += disk_bytes(&path);
            remove_tree(&path).map_err(|source| self.delete_error(source))?;
            pruned.deleted_dirs.push(path);
        }
        Ok(())
    }

    /// Moves the directory out of sight before its files go one by one.
    fn delete(&self, path: &Path, pruned: &mut Pruned) -> Result<(), PruneError> {
        let freed_bytes = disk_bytes(path);
        let delete = || -> io::Result<()> {
            let parent = self.partial_directory();
            fs_err::create_dir_all(&parent)?;
            let aside = tempfile::Builder::new().prefix("pruned-").tempdir_in(&parent)?.keep();
            fs_err::rename(path, &aside)?;
            remove_tree(&aside)
        };
        delete().map_err(|source| self.delete_error(source))?;
        pruned.freed_bytes += freed_bytes;
        pruned.deleted_dirs.push(path.to_owned());
        Ok(())
    }

    fn installed(&self) -> Result<Vec<InstalledEnvironment>, InspectError> {
        let mut installed = Vec::new();
        for name in EnvironmentName::all() {
            match self.inspect(name)? {
                EnvironmentState::Installed(environment) => installed.push(*environment),
                EnvironmentState::Missing | EnvironmentState::Damaged(_) => {}
            }
        }
        Ok(installed)
    }

    fn referenced_directories(&self) -> Result<HashSet<PathBuf>, InspectError> {
        let mut directories = HashSet::new();
        for environment in self.installed()? {
            directories.insert(environment.install_dir);
            directories.insert(environment.kernel.install_dir);
        }
        for name in EnvironmentName::all() {
            let path = self.kernel_reference_path(name.definition());
            if let Ok(KernelReference { format: FORMAT, kernel }) = read_json(&path) {
                directories.insert(self.kernel_directory(kernel));
            }
        }
        Ok(directories)
    }

    fn delete_error(&self, source: io::Error) -> PruneError {
        PruneError::Delete { root: self.root.clone(), source }
    }
}

fn remove_file(path: &Path) -> io::Result<()> {
    match fs_err::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        Ok(()) | Err(_) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::super::fixture::{damage, empty_store, install, name};
    use super::super::partial::PartialDirectory;
    use super::*;

    #[test]
    fn what_is_in_use_by_the_catalog_is_kept() {
        let (_root, store) = empty_store();
        install(&store, "debian:12", b"rootfs", b"vmlinux");
        assert_eq!(store.prune(PruneScope::Stale).unwrap(), Pruned::default());
        assert!(store.find(name("debian:12")).unwrap().is_some());
    }

    #[test]
    fn a_store_that_does_not_exist_holds_nothing_to_prune() {
        let store = Store::at("/nonexistent/pyro");
        assert_eq!(store.prune(PruneScope::All).unwrap(), Pruned::default());
    }

    #[test]
    fn what_a_newer_build_has_replaced_is_deleted() {
        let (_root, store) = empty_store();
        let old = install(&store, "debian:12", b"old", b"old kernel");
        let new = install(&store, "debian:12", b"new", b"new kernel");

        let pruned = store.prune(PruneScope::Stale).unwrap();

        assert_eq!(pruned.deleted_dirs, [old.install_dir, old.kernel.install_dir]);
        assert!(pruned.freed_bytes > 0);
        assert!(store.find(new.name).unwrap().is_some());
    }

    #[test]
    fn a_kernel_that_any_environment_boots_is_kept() {
        let (_root, store) = empty_store();
        let old = install(&store, "debian:12", b"rootfs", b"old kernel");
        install(&store, "debian:12-base", b"base", b"new kernel");
        store.prune(PruneScope::Stale).unwrap();
        assert!(old.kernel.vmlinux.exists());
        assert!(store.find(old.name).unwrap().is_some());
    }

    #[test]
    fn what_is_damaged_is_deleted() {
        let (_root, store) = empty_store();
        let environment = install(&store, "debian:12", b"rootfs", b"vmlinux");
        damage(&environment.rootfs_image);
        store.prune(PruneScope::Stale).unwrap();
        assert!(!environment.install_dir.exists());
        assert!(!store.reference_path(environment.name).exists());
    }

    #[test]
    fn a_name_that_the_catalog_no_longer_has_is_deleted() {
        let (_root, store) = empty_store();
        let environment = install(&store, "debian:12", b"rootfs", b"vmlinux");
        let path = store.reference_path(environment.name);
        fs_err::rename(&path, path.with_file_name("debian-11.json")).unwrap();
        store.prune(PruneScope::Stale).unwrap();
        assert!(!environment.install_dir.exists());
        assert_eq!(list_directory(&store.references_directory()).unwrap(), Vec::<PathBuf>::new());
    }

    #[test]
    fn everything_goes_but_what_is_leased() {
        let (_root, store) = empty_store();
        let leased = install(&store, "debian:12", b"rootfs", b"vmlinux");
        let other = install(&store, "debian:12-base", b"base", b"vmlinux");
        let lease = store.lease(&leased).unwrap();

        let pruned = store.prune(PruneScope::All).unwrap();
        assert_eq!(pruned.deleted_dirs, [other.install_dir]);
        assert!(leased.rootfs_image.exists());
        assert!(leased.kernel.vmlinux.exists());

        drop(lease);
        store.prune(PruneScope::All).unwrap();
        assert!(!leased.install_dir.exists());
        assert!(!leased.kernel.install_dir.exists());
    }

    #[test]
    fn what_was_pruned_cannot_be_leased() {
        let (_root, store) = empty_store();
        let environment = install(&store, "debian:12", b"rootfs", b"vmlinux");
        store.prune(PruneScope::All).unwrap();
        store.lease(&environment).unwrap_err();
    }

    #[test]
    fn a_build_in_progress_is_left_alone_and_a_dead_one_deleted() {
        let (_root, store) = empty_store();
        let live = PartialDirectory::create(&store).unwrap();
        let dead = store.partial_directory().join("dead");
        fs_err::create_dir(&dead).unwrap();
        assert_eq!(store.prune(PruneScope::All).unwrap().deleted_dirs, [dead]);
        assert!(live.path().exists());
    }

    #[test]
    fn a_kernel_that_is_waiting_for_its_environment_is_left_alone() {
        let (_root, store) = empty_store();
        let environment = install(&store, "debian:12", b"rootfs", b"vmlinux");
        let held = store.hold_current_kernel(environment.definition()).unwrap().unwrap();
        store.prune(PruneScope::All).unwrap();
        assert!(held.kernel.vmlinux.exists());
    }
}
