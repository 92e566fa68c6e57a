//! The store: images and kernels on disk, addressed by digest.
//!
//! ```text
//! <root>/environments/<slug>.json       which image and kernel an environment is
//!        images/sha256-<hex>/           rootfs.squashfs, manifest.json
//!        kernels/sha256-<hex>/          vmlinux, modules/NN-name.ko, manifest.json
//!        kernels/<suite>.json           the kernel that new environments get
//!        partial/<random>/              builds in progress
//!        locks/<name>.lock              one puller at a time
//! ```
//!
//! Directories appear by rename, complete and flushed; references are written
//! last. So whatever is visible is whole, and whatever a dead process leaves
//! lies in `partial`, recognisable by a lock that nobody holds (see `lock`).

#[cfg(test)]
mod fixture;
mod lock;
mod manifest;
pub(crate) mod partial;
pub(crate) mod prune;
mod publish;
mod remove;
mod verify;

use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use self::lock::DirectoryLock;
pub(crate) use self::lock::PullLock;
pub use self::manifest::Package;
use self::manifest::{
    EnvironmentReference, FORMAT, ImageManifest, KernelManifest, MANIFEST_FILE, ReadFailure,
    read_json, write_json,
};
pub(crate) use self::publish::HeldKernel;
pub use self::verify::Damage;
pub(crate) use self::verify::Verification;
use self::verify::{Verified, VerifyFailure, verify_file};
use crate::catalog::{EnvironmentDefinition, EnvironmentName};
use crate::digest::Digest;

/// The images and kernels below one directory. Making this value touches
/// nothing: directories are made by the first pull.
#[derive(Clone, Debug)]
pub struct Store {
    root: PathBuf,
}

/// An environment that is ready to be booted.
#[derive(Clone, Debug)]
pub struct InstalledEnvironment {
    pub name: EnvironmentName,
    pub image_digest: Digest,
    pub rootfs_image: PathBuf,
    pub rootfs_bytes: u64,
    /// Every package in it, ordered by name.
    pub packages: Vec<Package>,
    pub kernel: InstalledKernel,
    pub created_at: SystemTime,
    /// The directory that holds image and manifest.
    pub install_dir: PathBuf,
    pub manifest: PathBuf,
}

/// A guest kernel, shared by all environments of a distribution release.
#[derive(Clone, Debug)]
pub struct InstalledKernel {
    pub digest: Digest,
    /// What `uname -r` says in the guest.
    pub release: String,
    /// An uncompressed ELF image with a PVH entry point.
    pub vmlinux: PathBuf,
    /// In the order in which they are to be inserted.
    pub modules: Vec<PathBuf>,
    /// Of the kernel and its modules together.
    pub bytes: u64,
    pub install_dir: PathBuf,
}

impl InstalledEnvironment {
    pub fn definition(&self) -> &'static EnvironmentDefinition {
        self.name.definition()
    }
}

/// What the store holds under the name of an environment.
#[derive(Debug)]
pub enum EnvironmentState {
    /// Nothing, or what another version of the catalog describes.
    Missing,
    Installed(Box<InstalledEnvironment>),
    Damaged(Damage),
}

/// The store could not be looked at.
#[derive(Debug, thiserror::Error)]
#[error("cannot read the environment store at `{}`", root.display())]
pub struct InspectError {
    pub root: PathBuf,
    pub source: io::Error,
}

/// Keeps an environment from being deleted. Hold it from before its files
/// are opened until they are.
#[derive(Debug)]
#[must_use = "the environment may be deleted as soon as the lease is dropped"]
pub struct EnvironmentLease {
    _image: DirectoryLock,
    _kernel: DirectoryLock,
}

/// An environment could not be leased.
#[derive(Debug, thiserror::Error)]
pub enum LeaseError {
    #[error("environment `{environment}` has just been deleted or replaced")]
    Gone { environment: EnvironmentName },

    #[error("cannot lock environment `{environment}`")]
    Lock { environment: EnvironmentName, source: io::Error },
}

impl Store {
    /// The store below `root`, which need not exist.
    pub fn at(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    pub fn root(&self) -> &Path {
        &self.root
    }

    /// What is installed under `name`; damage counts as nothing.
    pub fn find(
        &self,
        name: EnvironmentName,
    ) -> Result<Option<InstalledEnvironment>, InspectError> {
        match self.inspect(name)? {
            EnvironmentState::Installed(environment) => Ok(Some(*environment)),
            EnvironmentState::Missing | EnvironmentState::Damaged(_) => Ok(None),
        }
    }

    /// What is installed under `name`, at the price of a few `stat` calls. A
    /// file that was touched since it was published is read in full.
    pub fn inspect(&self, name: EnvironmentName) -> Result<EnvironmentState, InspectError> {
        self.inspect_with(name, Verification::Stamp)
    }

    /// Locks what `environment` is made of against deletion.
    pub fn lease(
        &self,
        environment: &InstalledEnvironment,
    ) -> Result<EnvironmentLease, LeaseError> {
        let lock = |directory: &Path| {
            DirectoryLock::shared(directory)
                .map_err(|source| LeaseError::Lock { environment: environment.name, source })?
                .ok_or(LeaseError::Gone { environment: environment.name })
        };
        Ok(EnvironmentLease {
            _image: lock(&environment.install_dir)?,
            _kernel: lock(&environment.kernel.install_dir)?,
        })
    }

    pub(crate) fn inspect_with(
        &self,
        name: EnvironmentName,
        verification: Verification,
    ) -> Result<EnvironmentState, InspectError> {
        match self.load(name, verification) {
            Ok(environment) => Ok(EnvironmentState::Installed(Box::new(environment))),
            Err(LoadFailure::Absent) => Ok(EnvironmentState::Missing),
            Err(LoadFailure::Damaged(damage)) => Ok(EnvironmentState::Damaged(damage)),
            Err(LoadFailure::Unreadable(source)) => {
                Err(InspectError { root: self.root.clone(), source })
            }
        }
    }

    fn load(
        &self,
        name: EnvironmentName,
        verification: Verification,
    ) -> Result<InstalledEnvironment, LoadFailure> {
        let reference_path = self.reference_path(name);
        let reference: EnvironmentReference = read_optional(&reference_path)?;
        if !reference.is_current(name) {
            return Err(LoadFailure::Absent);
        }
        let install_dir = self.image_directory(reference.image);
        let manifest_path = install_dir.join(MANIFEST_FILE);
        let mut manifest: ImageManifest = read_required(&manifest_path)?;
        if manifest.rootfs.sha256 != reference.image {
            return Err(LoadFailure::Damaged(Damage::Altered { path: manifest_path }));
        }
        let verified = verify_file(&install_dir, &mut manifest.rootfs, verification)?;
        refresh_manifest(&manifest_path, &manifest, verified);
        Ok(InstalledEnvironment {
            name,
            image_digest: reference.image,
            rootfs_image: install_dir.join(&manifest.rootfs.path),
            rootfs_bytes: manifest.rootfs.bytes,
            packages: manifest.packages,
            kernel: self.load_kernel(reference.kernel, verification)?,
            created_at: reference.created_at.to_system_time(),
            install_dir,
            manifest: manifest_path,
        })
    }

    fn load_kernel(
        &self,
        digest: Digest,
        verification: Verification,
    ) -> Result<InstalledKernel, LoadFailure> {
        let install_dir = self.kernel_directory(digest);
        let manifest_path = install_dir.join(MANIFEST_FILE);
        let mut manifest: KernelManifest = read_required(&manifest_path)?;
        if manifest.digest() != digest {
            return Err(LoadFailure::Damaged(Damage::Altered { path: manifest_path }));
        }
        let mut all_verified = Verified::AsRecorded;
        for file in manifest.files_mut() {
            if verify_file(&install_dir, file, verification)? == Verified::StampRefreshed {
                all_verified = Verified::StampRefreshed;
            }
        }
        refresh_manifest(&manifest_path, &manifest, all_verified);
        Ok(InstalledKernel {
            digest,
            vmlinux: install_dir.join(&manifest.vmlinux.path),
            modules: manifest.modules.iter().map(|module| install_dir.join(&module.path)).collect(),
            bytes: manifest.files().map(|file| file.bytes).sum(),
            release: manifest.release,
            install_dir,
        })
    }

    fn reference_path(&self, name: EnvironmentName) -> PathBuf {
        self.references_directory().join(format!("{}.json", name.slug()))
    }

    fn kernel_reference_path(&self, definition: &EnvironmentDefinition) -> PathBuf {
        self.kernels_directory().join(format!("{}.json", definition.suite))
    }

    fn references_directory(&self) -> PathBuf {
        self.root.join("environments")
    }

    fn images_directory(&self) -> PathBuf {
        self.root.join("images")
    }

    fn kernels_directory(&self) -> PathBuf {
        self.root.join("kernels")
    }

    fn partial_directory(&self) -> PathBuf {
        self.root.join("partial")
    }

    fn locks_directory(&self) -> PathBuf {
        self.root.join("locks")
    }

    fn image_directory(&self, digest: Digest) -> PathBuf {
        self.images_directory().join(digest.directory_name())
    }

    fn kernel_directory(&self, digest: Digest) -> PathBuf {
        self.kernels_directory().join(digest.directory_name())
    }
}

impl EnvironmentReference {
    /// Whether this is what the catalog of this program means by `name`.
    fn is_current(&self, name: EnvironmentName) -> bool {
        self.format == FORMAT
            && self.environment == name.as_str()
            && self.version == name.definition().version
    }
}

/// Why an environment or a kernel could not be loaded.
#[derive(Debug)]
enum LoadFailure {
    Absent,
    Damaged(Damage),
    Unreadable(io::Error),
}

impl From<VerifyFailure> for LoadFailure {
    fn from(failure: VerifyFailure) -> Self {
        match failure {
            VerifyFailure::Damaged(damage) => Self::Damaged(damage),
            VerifyFailure::Unreadable(source) => Self::Unreadable(source),
        }
    }
}

fn read_optional<T: serde::de::DeserializeOwned>(path: &Path) -> Result<T, LoadFailure> {
    read_json(path).map_err(|failure| match failure {
        ReadFailure::Absent => LoadFailure::Absent,
        ReadFailure::Malformed(source) => {
            LoadFailure::Damaged(Damage::Malformed { path: path.to_owned(), source })
        }
        ReadFailure::Unreadable(source) => LoadFailure::Unreadable(source),
    })
}

fn read_required<T: serde::de::DeserializeOwned>(path: &Path) -> Result<T, LoadFailure> {
    read_optional(path).map_err(|failure| match failure {
        LoadFailure::Absent => LoadFailure::Damaged(Damage::Missing { path: path.to_owned() }),
        other => other,
    })
}

/// Spares the next look the reading of every byte. The environment is good
/// whether or not that can be noted: the store may be read-only.
fn refresh_manifest<T: serde::Serialize>(path: &Path, manifest: &T, verified: Verified) {
    if verified == Verified::StampRefreshed {
        drop(write_json(path, manifest));
    }
}
