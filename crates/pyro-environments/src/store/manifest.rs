//! The JSON files of the store: what was published, and how to tell that it
//! is still what it was.

use std::io::{self, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::digest::Digest;

/// Raised when the meaning of a file changes: other versions are stale.
pub(crate) const FORMAT: u32 = 1;

pub(crate) const MANIFEST_FILE: &str = "manifest.json";
pub(crate) const ROOTFS_FILE: &str = "rootfs.squashfs";
pub(crate) const VMLINUX_FILE: &str = "vmlinux";
pub(crate) const MODULES_DIRECTORY: &str = "modules";

/// `environments/<slug>.json`: which image and kernel an environment is.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct EnvironmentReference {
    pub format: u32,
    pub environment: String,
    pub version: String,
    pub image: Digest,
    pub kernel: Digest,
    pub created_at: EpochSeconds,
}

/// `kernels/<suite>.json`: the kernel that new environments get.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct KernelReference {
    pub format: u32,
    pub kernel: Digest,
}

/// `images/<digest>/manifest.json`. The digest is that of the root filesystem.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct ImageManifest {
    pub environment: String,
    pub version: String,
    pub rootfs: FileRecord,
    pub packages: Vec<Package>,
}

/// `kernels/<digest>/manifest.json`. The digest is that of the list of files
/// with their digests, see [`KernelManifest::digest`].
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct KernelManifest {
    pub release: String,
    pub vmlinux: FileRecord,
    /// In the order in which they are to be inserted.
    pub modules: Vec<FileRecord>,
}

impl KernelManifest {
    pub(crate) fn files(&self) -> impl Iterator<Item = &FileRecord> {
        std::iter::once(&self.vmlinux).chain(&self.modules)
    }

    pub(crate) fn files_mut(&mut self) -> impl Iterator<Item = &mut FileRecord> {
        std::iter::once(&mut self.vmlinux).chain(&mut self.modules)
    }

    /// The digest of what `sha256sum` would print for the files in order.
    pub(crate) fn digest(&self) -> Digest {
        use std::fmt::Write as _;
        let mut sums = String::new();
        for file in self.files() {
            writeln!(sums, "{}  {}", file.sha256.to_hex(), file.path.display())
                .expect("writing to a string cannot fail");
        }
        Digest::of_bytes(sums.as_bytes())
    }
}

/// A Debian package as it was installed.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Package {
    pub name: String,
    pub version: String,
}

/// One file of an image or a kernel.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct FileRecord {
    /// Relative to the directory that holds the manifest.
    pub path: PathBuf,
    pub bytes: u64,
    pub sha256: Digest,
    pub stamp: Stamp,
}

/// What changes when someone writes to or replaces a file: looked at on every
/// use, so that the digest need not be computed each time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Stamp {
    pub inode: u64,
    pub modified_seconds: i64,
    pub modified_nanoseconds: i64,
}

impl FileRecord {
    pub(crate) fn of(directory: &Path, relative: impl Into<PathBuf>) -> io::Result<Self> {
        let relative = relative.into();
        let path = directory.join(&relative);
        let metadata = fs_err::metadata(&path)?;
        Ok(Self {
            bytes: metadata.len(),
            sha256: Digest::of_file(&path)?,
            stamp: Stamp::of(&metadata),
            path: relative,
        })
    }
}

impl Stamp {
    pub(crate) fn of(metadata: &std::fs::Metadata) -> Self {
        Self {
            inode: metadata.ino(),
            modified_seconds: metadata.mtime(),
            modified_nanoseconds: metadata.mtime_nsec(),
        }
    }
}

/// A point in time as whole seconds since 1970.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct EpochSeconds(u64);

impl EpochSeconds {
    pub(crate) fn now() -> Self {
        let elapsed = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        Self(elapsed.unwrap_or_default().as_secs())
    }

    pub(crate) fn to_system_time(self) -> SystemTime {
        // A damaged file may hold any number; the addition must not overflow.
        SystemTime::UNIX_EPOCH
            .checked_add(Duration::from_secs(self.0))
            .unwrap_or(SystemTime::UNIX_EPOCH)
    }
}

/// Why a JSON file gave no value.
#[derive(Debug)]
pub(crate) enum ReadFailure {
    Absent,
    Malformed(serde_json::Error),
    Unreadable(io::Error),
}

pub(crate) fn read_json<T: DeserializeOwned>(path: &Path) -> Result<T, ReadFailure> {
    let bytes = fs_err::read(path).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => ReadFailure::Absent,
        _ => ReadFailure::Unreadable(error),
    })?;
    serde_json::from_slice(&bytes).map_err(ReadFailure::Malformed)
}

/// Writes `value` so that a reader sees the old file or the new one, whole,
/// and so does whoever looks after a power cut.
pub(crate) fn write_json<T: Serialize>(path: &Path, value: &T) -> io::Result<()> {
    let directory = path.parent().expect("files of the store lie in a directory of the store");
    let mut json = serde_json::to_vec_pretty(value).map_err(io::Error::from)?;
    json.push(b'\n');
    let mut file = tempfile::Builder::new().prefix(".new-").tempfile_in(directory)?;
    file.write_all(&json)?;
    file.as_file().sync_all()?;
    file.persist(path).map_err(|error| error.error)?;
    sync_directory(directory)
}

/// Makes the entries of `directory` survive a power cut.
pub(crate) fn sync_directory(directory: &Path) -> io::Result<()> {
    fs_err::File::open(directory)?.sync_all()
}
