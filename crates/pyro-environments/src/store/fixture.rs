//! Small environments for the tests of the store.

use std::path::Path;

use super::manifest::Package;
use super::partial::PartialDirectory;
use super::{InstalledEnvironment, Store};
use crate::catalog::EnvironmentName;

pub(super) fn name(text: &str) -> EnvironmentName {
    text.parse().unwrap()
}

/// A store below a directory of its own.
pub(super) fn empty_store() -> (tempfile::TempDir, Store) {
    let root = tempfile::tempdir().unwrap();
    let store = Store::at(root.path().join("store"));
    store.create_directories().unwrap();
    (root, store)
}

/// Publishes `environment` as if a pull had built it.
pub(super) fn install(
    store: &Store,
    environment: &str,
    rootfs: &[u8],
    vmlinux: &[u8],
) -> InstalledEnvironment {
    let name = name(environment);
    let partial = PartialDirectory::create(store).unwrap();

    let kernel = partial.subdirectory("kernel").unwrap();
    fs_err::create_dir(kernel.join("modules")).unwrap();
    fs_err::write(kernel.join("modules/00-virtio.ko"), b"module").unwrap();
    fs_err::write(kernel.join("vmlinux"), vmlinux).unwrap();
    let release = "6.1.0-test".to_owned();
    let held = store.publish_kernel(&partial, &kernel, release, name.definition()).unwrap();

    let image = partial.subdirectory("image").unwrap();
    fs_err::write(image.join("rootfs.squashfs"), rootfs).unwrap();
    let packages = vec![Package { name: "bash".to_owned(), version: "5.2".to_owned() }];
    store.publish_environment(&partial, &image, name, packages, &held).unwrap()
}

/// Overwrites the file with as many other bytes.
pub(super) fn damage(path: &Path) {
    let length = fs_err::metadata(path).unwrap().len();
    fs_err::write(path, vec![0xff; usize::try_from(length).unwrap()]).unwrap();
}
