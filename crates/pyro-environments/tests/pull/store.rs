//! Directories for stores, and one store that the tests share.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use pyro_environments::{EnvironmentName, InstalledEnvironment, Store};
use tempfile::TempDir;

use crate::puller::{BASE, PullRequest};

/// A directory on the disk of the build, which has room for an environment.
pub(crate) fn scratch_directory() -> TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap()
}

pub(crate) fn base() -> EnvironmentName {
    BASE.parse().unwrap()
}

/// A store with `debian:12-base`, pulled once in each run of the tests. Copy
/// it to change it.
pub(crate) fn shared_store() -> &'static Path {
    static STORE: OnceLock<PathBuf> = OnceLock::new();
    STORE.get_or_init(|| {
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join("pyro-environments-shared-store");
        if path.exists() {
            fs_err::remove_dir_all(&path).unwrap();
        }
        PullRequest::into(&path).start().end().installed();
        path
    })
}

pub(crate) fn copy_of_shared_store() -> (TempDir, PathBuf) {
    let scratch = scratch_directory();
    let copy = scratch.path().join("store");
    let status = Command::new("cp").arg("-a").arg(shared_store()).arg(&copy).status().unwrap();
    assert!(status.success());
    (scratch, copy)
}

/// A store in which only the environment is still to be built.
pub(crate) fn store_with_kernel() -> (TempDir, PathBuf) {
    let (scratch, store) = copy_of_shared_store();
    for directory in ["images", "environments"] {
        fs_err::remove_dir_all(store.join(directory)).unwrap();
    }
    (scratch, store)
}

pub(crate) fn installed(store: &Path) -> InstalledEnvironment {
    Store::at(store).find(base()).unwrap().unwrap()
}

pub(crate) fn entries(directory: &Path) -> Vec<PathBuf> {
    fs_err::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).collect()
}

/// Nothing that could be taken for an environment, and no build in progress.
pub(crate) fn assert_nothing_visible(store: &Path) {
    assert!(Store::at(store).find(base()).unwrap().is_none());
    for directory in ["images", "environments"] {
        assert_eq!(entries(&store.join(directory)), Vec::<PathBuf>::new());
    }
}
