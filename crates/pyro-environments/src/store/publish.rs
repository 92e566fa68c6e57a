//! Making what was built visible: flushed to disk, renamed into place, and
//! only then referred to.

use std::io;
use std::path::{Path, PathBuf};

use super::lock::DirectoryLock;
use super::manifest::{
    EnvironmentReference, EpochSeconds, FORMAT, FileRecord, ImageManifest, KernelManifest,
    KernelReference, MANIFEST_FILE, MODULES_DIRECTORY, Package, ROOTFS_FILE, VMLINUX_FILE,
    read_json, sync_directory, write_json,
};
use super::partial::PartialDirectory;
use super::remove::remove_tree;
use super::{InstalledKernel, LoadFailure, Store, Verification};
use crate::catalog::{EnvironmentDefinition, EnvironmentName};
use crate::digest::Digest;

/// A kernel in the store, kept from being deleted until an environment refers
/// to it.
#[derive(Debug)]
pub(crate) struct HeldKernel {
    pub kernel: InstalledKernel,
    _lock: DirectoryLock,
}

impl Store {
    /// Makes the directories that pulls lock and rename in.
    pub(crate) fn create_directories(&self) -> io::Result<()> {
        for directory in [
            self.references_directory(),
            self.images_directory(),
            self.kernels_directory(),
            self.partial_directory(),
            self.locks_directory(),
        ] {
            fs_err::create_dir_all(directory)?;
        }
        Ok(())
    }

    pub(crate) fn environment_lock_path(&self, name: EnvironmentName) -> PathBuf {
        self.locks_directory().join(format!("{}.lock", name.slug()))
    }

    pub(crate) fn kernel_lock_path(&self, definition: &EnvironmentDefinition) -> PathBuf {
        self.locks_directory().join(format!("kernel-{}.lock", definition.suite))
    }

    /// The kernel that new environments of this suite get, if it is whole.
    pub(crate) fn hold_current_kernel(
        &self,
        definition: &EnvironmentDefinition,
    ) -> io::Result<Option<HeldKernel>> {
        let path = self.kernel_reference_path(definition);
        match read_json::<KernelReference>(&path) {
            Ok(reference) if reference.format == FORMAT => self.hold_kernel(reference.kernel),
            // Whatever is wrong with the reference, the next build replaces it.
            Ok(_) | Err(_) => Ok(None),
        }
    }

    fn hold_kernel(&self, digest: Digest) -> io::Result<Option<HeldKernel>> {
        let Some(lock) = DirectoryLock::shared(&self.kernel_directory(digest))? else {
            return Ok(None);
        };
        match self.load_kernel(digest, Verification::Content) {
            Ok(kernel) => Ok(Some(HeldKernel { kernel, _lock: lock })),
            Err(LoadFailure::Absent | LoadFailure::Damaged(_)) => Ok(None),
            Err(LoadFailure::Unreadable(source)) => Err(source),
        }
    }

    /// Publishes the kernel in `built`: `vmlinux`, and `modules/` with files
    /// whose names are ordered as they are to be inserted.
    pub(crate) fn publish_kernel(
        &self,
        partial: &PartialDirectory,
        built: &Path,
        release: String,
        definition: &EnvironmentDefinition,
    ) -> io::Result<HeldKernel> {
        let modules_directory = built.join(MODULES_DIRECTORY);
        let modules = super::partial::list_directory(&modules_directory)?
            .iter()
            .map(|path| FileRecord::of(built, path.strip_prefix(built).unwrap_or(path)))
            .collect::<io::Result<Vec<_>>>()?;
        let manifest =
            KernelManifest { release, vmlinux: FileRecord::of(built, VMLINUX_FILE)?, modules };
        for file in manifest.files() {
            sync_file(&built.join(&file.path))?;
        }
        sync_directory(&modules_directory)?;
        let digest = manifest.digest();
        let lock = publish_directory(partial, built, &manifest, &self.kernel_directory(digest))?;
        write_json(
            &self.kernel_reference_path(definition),
            &KernelReference { format: FORMAT, kernel: digest },
        )?;
        let kernel = self.load_kernel(digest, Verification::Stamp).map_err(vanished)?;
        Ok(HeldKernel { kernel, _lock: lock })
    }

    /// Publishes the root filesystem in `built` as the environment `name`.
    pub(crate) fn publish_environment(
        &self,
        partial: &PartialDirectory,
        built: &Path,
        name: EnvironmentName,
        packages: Vec<Package>,
        kernel: &HeldKernel,
    ) -> io::Result<super::InstalledEnvironment> {
        let definition = name.definition();
        let rootfs = FileRecord::of(built, ROOTFS_FILE)?;
        sync_file(&built.join(&rootfs.path))?;
        let image = rootfs.sha256;
        let manifest = ImageManifest {
            environment: definition.name.to_owned(),
            version: definition.version.to_owned(),
            rootfs,
            packages,
        };
        let _lock = publish_directory(partial, built, &manifest, &self.image_directory(image))?;
        write_json(
            &self.reference_path(name),
            &EnvironmentReference {
                format: FORMAT,
                environment: definition.name.to_owned(),
                version: definition.version.to_owned(),
                image,
                kernel: kernel.kernel.digest,
                created_at: EpochSeconds::now(),
            },
        )?;
        self.load(name, Verification::Stamp).map_err(vanished)
    }
}

/// Moves `built` to `destination` and returns with it locked. An older build
/// of the same content is replaced: it may be damaged, and whoever has its
/// files open keeps them.
fn publish_directory<T: serde::Serialize>(
    partial: &PartialDirectory,
    built: &Path,
    manifest: &T,
    destination: &Path,
) -> io::Result<DirectoryLock> {
    write_json(&built.join(MANIFEST_FILE), manifest)?;
    let lock = DirectoryLock::shared(built)?.ok_or(io::ErrorKind::NotFound)?;
    // A prune that has locked the old directory is about to delete whatever
    // has its name: wait for it.
    let _replaced_lock = DirectoryLock::shared(destination)?;
    let replaced = partial.path().join("replaced");
    match fs_err::rename(destination, &replaced) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    fs_err::rename(built, destination)?;
    sync_directory(destination.parent().expect("the store is not the root directory"))?;
    remove_tree(&replaced)?;
    Ok(lock)
}

fn sync_file(path: &Path) -> io::Result<()> {
    fs_err::File::open(path)?.sync_all()
}

/// What was published a moment ago, and is locked, cannot be loaded: someone
/// deletes files without asking for the lock.
fn vanished(failure: LoadFailure) -> io::Error {
    match failure {
        LoadFailure::Unreadable(source) => source,
        LoadFailure::Absent => io::ErrorKind::NotFound.into(),
        LoadFailure::Damaged(damage) => io::Error::new(io::ErrorKind::NotFound, damage),
    }
}

#[cfg(test)]
mod tests {
    use super::super::EnvironmentState;
    use super::super::fixture::{damage, empty_store, install, name};
    use super::super::partial::list_directory;
    use super::*;

    #[test]
    fn what_was_published_is_found_with_everything_that_is_needed_to_boot_it() {
        let (_root, store) = empty_store();
        let published = install(&store, "debian:12", b"rootfs", b"vmlinux");
        let found = store.find(name("debian:12")).unwrap().unwrap();

        assert_eq!(found.image_digest, published.image_digest);
        assert_eq!(fs_err::read(&found.rootfs_image).unwrap(), b"rootfs");
        assert_eq!(fs_err::read(&found.kernel.vmlinux).unwrap(), b"vmlinux");
        assert_eq!(found.kernel.release, "6.1.0-test");
        assert_eq!(found.kernel.bytes, 13);
        assert!(found.kernel.modules[0].ends_with("modules/00-virtio.ko"));
        assert_eq!(found.packages[0].name, "bash");
        assert!(found.manifest.is_file());
    }

    #[test]
    fn nothing_is_found_where_nothing_was_published() {
        let (_root, store) = empty_store();
        install(&store, "debian:12", b"rootfs", b"vmlinux");
        assert!(matches!(
            store.inspect(name("debian:12-base")).unwrap(),
            EnvironmentState::Missing
        ));
        let absent = Store::at(store.root().join("absent"));
        assert!(matches!(absent.inspect(name("debian:12")).unwrap(), EnvironmentState::Missing));
    }

    #[test]
    fn the_same_content_published_again_replaces_what_was_damaged() {
        let (_root, store) = empty_store();
        let first = install(&store, "debian:12", b"rootfs", b"vmlinux");
        damage(&first.rootfs_image);
        damage(&first.kernel.modules[0]);
        assert!(store.find(name("debian:12")).unwrap().is_none());

        install(&store, "debian:12", b"rootfs", b"vmlinux");
        assert!(store.find(name("debian:12")).unwrap().is_some());
    }

    #[test]
    fn each_file_of_an_environment_is_watched() {
        let (_root, store) = empty_store();
        let files = |environment: &super::super::InstalledEnvironment| {
            [
                environment.rootfs_image.clone(),
                environment.kernel.vmlinux.clone(),
                environment.kernel.modules[0].clone(),
                environment.manifest.clone(),
                environment.kernel.install_dir.join(MANIFEST_FILE),
                store.reference_path(environment.name),
            ]
        };
        let count = files(&install(&store, "debian:12", b"rootfs", b"vmlinux")).len();
        for index in 0..count {
            let environment = install(&store, "debian:12", b"rootfs", b"vmlinux");
            damage(&files(&environment)[index]);
            let state = store.inspect(environment.name).unwrap();
            assert!(matches!(state, EnvironmentState::Damaged(_)), "file {index}: {state:?}");
        }
    }

    #[test]
    fn another_version_of_the_catalog_makes_an_environment_missing() {
        let (_root, store) = empty_store();
        let environment = install(&store, "debian:12", b"rootfs", b"vmlinux");
        let path = store.reference_path(environment.name);
        let mut reference: EnvironmentReference = read_json(&path).unwrap();
        reference.version = "0.9.0".to_owned();
        write_json(&path, &reference).unwrap();
        assert!(store.find(environment.name).unwrap().is_none());
    }

    #[test]
    fn a_store_that_was_copied_is_still_good() {
        let (root, store) = empty_store();
        let environment = install(&store, "debian:12", b"rootfs", b"vmlinux");
        let copy = root.path().join("copy");
        let status = std::process::Command::new("cp")
            .args(["-r".as_ref(), store.root().as_os_str(), copy.as_os_str()])
            .status()
            .unwrap();
        assert!(status.success());
        assert!(Store::at(copy).find(environment.name).unwrap().is_some());
    }

    #[test]
    fn publishing_leaves_nothing_behind() {
        let (_root, store) = empty_store();
        install(&store, "debian:12", b"rootfs", b"vmlinux");
        install(&store, "debian:12", b"rootfs", b"vmlinux");
        assert_eq!(list_directory(&store.partial_directory()).unwrap(), Vec::<PathBuf>::new());
        assert_eq!(list_directory(&store.references_directory()).unwrap().len(), 1);
        assert_eq!(list_directory(&store.images_directory()).unwrap().len(), 1);
    }
}
