//! Which kernel a VM boots: the small one that is shipped with pyro, or Debian's, which comes with the environment.
//! What each of them is good for: `guest/kernel/README.md`.

use std::io;
use std::path::{Path, PathBuf};

use pyro_environments::InstalledEnvironment;
use pyro_protocol::client::Accelerator;
use serde::{Deserialize, Serialize};

use crate::config::GuestKernelChoice;
use crate::limits::VcpuCount;
use crate::{ErrorKind, PyroError};

/// Where the shipped kernels are, relative to the directory above that of the `pyro` executable: in a Python
/// environment, below `/usr/local`, and in cargo's target directory.
const DIRECTORY: &str = "share/pyro-mcp/guest-kernel";

/// What `cargo xtask guest-kernel` writes down of what it built.
const MANIFEST: &str = "manifest.json";

/// The kernel of one VM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct GuestKernel {
    pub image: PathBuf,
    /// In the order in which they must be loaded. The shipped kernels have none.
    pub modules: Vec<PathBuf>,
    /// Identifies the content of both.
    pub digest: String,
}

/// Which kernel VMs get on this host, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct GuestKernelReport {
    pub kernel: GuestKernelKind,
    /// What `uname -r` says in the guest; `None` for Debian's, of which each environment may have another one.
    pub release: Option<String>,
    pub reason: String,
    /// What helps where a better one is there, and cannot be used.
    #[serde(skip)]
    pub(crate) remedy: Option<&'static str>,
}

impl GuestKernelReport {
    /// Whose kernel VMs boot, and why, for people.
    pub fn summary(&self) -> String {
        let kernel = match (self.kernel, &self.release) {
            (GuestKernelKind::Pyro, Some(release)) => format!("pyro's own, {release}"),
            (GuestKernelKind::Pyro, None) => "pyro's own".to_owned(),
            (GuestKernelKind::Debian, _) => "Debian's, of the environment".to_owned(),
        };
        format!("{kernel}: {}", self.reason)
    }
}

/// Whose kernel it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum GuestKernelKind {
    /// Built for VMs like these, and shipped with pyro.
    Pyro,
    /// That of Debian's cloud images, with modules.
    Debian,
}

/// The kernels that are shipped with this pyro.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ShippedKernels {
    directory: PathBuf,
    manifest: Manifest,
}

/// Why there are none.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ShippedError {
    #[error("none is shipped with this pyro: there is no `{}`", directory.display())]
    Absent { directory: PathBuf },
    #[error("cannot read `{}`", path.display())]
    Unreadable { path: PathBuf, source: io::Error },
    #[error("`{}` is no description of kernels", path.display())]
    Malformed { path: PathBuf, source: serde_json::Error },
    #[error("`{}` has {found} bytes, not {expected}", path.display())]
    Damaged { path: PathBuf, found: u64, expected: u64 },
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
struct Manifest {
    /// As `uname -r` says it.
    release: String,
    one_cpu: Image,
    several_cpus: Image,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
struct Image {
    file: String,
    bytes: u64,
    sha256: String,
}

impl ShippedKernels {
    /// Those that were installed together with the executable `pyro`.
    pub(crate) fn of(pyro: &Path) -> Result<Self, ShippedError> {
        let prefix = pyro.parent().and_then(Path::parent).unwrap_or(Path::new("/"));
        let directory = prefix.join(DIRECTORY);
        let path = directory.join(MANIFEST);
        let text = match fs_err::read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(ShippedError::Absent { directory });
            }
            Err(source) => return Err(ShippedError::Unreadable { path, source }),
        };
        let manifest: Manifest = serde_json::from_slice(&text)
            .map_err(|source| ShippedError::Malformed { path, source })?;
        let shipped = Self { directory, manifest };
        shipped.check(&shipped.manifest.one_cpu)?;
        shipped.check(&shipped.manifest.several_cpus)?;
        Ok(shipped)
    }

    /// Only the length: a kernel is as trustworthy as the executable beside it, but an installation may have been
    /// interrupted.
    fn check(&self, image: &Image) -> Result<(), ShippedError> {
        let path = self.directory.join(&image.file);
        match fs_err::metadata(&path) {
            Ok(file) if file.len() == image.bytes => Ok(()),
            Ok(file) => {
                Err(ShippedError::Damaged { path, found: file.len(), expected: image.bytes })
            }
            Err(source) => Err(ShippedError::Unreadable { path, source }),
        }
    }

    fn image(&self, vcpu_count: VcpuCount) -> &Image {
        if vcpu_count.get() == 1 { &self.manifest.one_cpu } else { &self.manifest.several_cpus }
    }

    fn kernel(&self, image: &Image) -> GuestKernel {
        GuestKernel {
            image: self.directory.join(&image.file),
            modules: Vec::new(),
            digest: image.digest(),
        }
    }

    /// Of all of them.
    pub(crate) fn digests(&self) -> [String; 2] {
        [self.manifest.one_cpu.digest(), self.manifest.several_cpus.digest()]
    }
}

impl Image {
    fn digest(&self) -> String {
        format!("sha256:{}", self.sha256)
    }
}

/// The kernel for a VM of `environment`. Fails where the user wants a kernel that there is not.
pub(crate) fn choose(
    choice: GuestKernelChoice,
    accelerator: Accelerator,
    vcpu_count: VcpuCount,
    pyro: &Path,
    environment: &InstalledEnvironment,
) -> Result<GuestKernel, PyroError> {
    let shipped = ShippedKernels::of(pyro);
    Ok(match decide(choice, accelerator, &shipped)? {
        Decision { shipped: Some(shipped), .. } => shipped.kernel(shipped.image(vcpu_count)),
        Decision { shipped: None, .. } => GuestKernel {
            image: environment.kernel.vmlinux.clone(),
            modules: environment.kernel.modules.clone(),
            digest: environment.kernel.digest.to_string(),
        },
    })
}

/// Which kernel VMs get, and why. Fails like [`choose`].
pub(crate) fn examine(
    choice: GuestKernelChoice,
    accelerator: Accelerator,
    pyro: &Path,
) -> Result<GuestKernelReport, PyroError> {
    let shipped = ShippedKernels::of(pyro);
    let decision = decide(choice, accelerator, &shipped)?;
    Ok(match decision.shipped {
        Some(shipped) => GuestKernelReport {
            kernel: GuestKernelKind::Pyro,
            release: Some(shipped.manifest.release.clone()),
            reason: decision.reason,
            remedy: decision.remedy,
        },
        None => GuestKernelReport {
            kernel: GuestKernelKind::Debian,
            release: None,
            reason: decision.reason,
            remedy: decision.remedy,
        },
    })
}

/// What was decided, and why.
#[derive(Debug)]
struct Decision<'a> {
    /// `None` for Debian's kernel.
    shipped: Option<&'a ShippedKernels>,
    reason: String,
    /// See [`GuestKernelReport`].
    remedy: Option<&'static str>,
}

const INSTALL_AGAIN: &str =
    "install pyro's wheel again, or build the kernel: `cargo xtask guest-kernel`";

/// Under emulation every instruction of the kernel costs ten, so the small one is what makes a run fast. Hardware does
/// not care, and there Debian's kernel is the one that most programs were tried with.
fn decide(
    choice: GuestKernelChoice,
    accelerator: Accelerator,
    shipped: &Result<ShippedKernels, ShippedError>,
) -> Result<Decision<'_>, PyroError> {
    let debian = |reason: String| Decision { shipped: None, reason, remedy: None };
    match (choice, accelerator, shipped) {
        (GuestKernelChoice::Debian, _, _) => Ok(debian("PYRO_GUEST_KERNEL asks for it".to_owned())),
        (GuestKernelChoice::Pyro, _, Ok(shipped)) => Ok(Decision {
            shipped: Some(shipped),
            reason: "PYRO_GUEST_KERNEL asks for it".to_owned(),
            remedy: None,
        }),
        (GuestKernelChoice::Pyro, _, Err(error)) => Err(PyroError::from_error(
            ErrorKind::HostUnsupported,
            error,
        )
        .context("there is no guest kernel of pyro's own, which PYRO_GUEST_KERNEL asks for")
        .hint("unset `PYRO_GUEST_KERNEL`: VMs then boot Debian's kernel where there is no other")
        .hint(INSTALL_AGAIN)),
        (GuestKernelChoice::Auto, Accelerator::Kvm, _) => {
            Ok(debian("with KVM the small kernel gains nothing".to_owned()))
        }
        (GuestKernelChoice::Auto, Accelerator::Tcg, Ok(shipped)) => Ok(Decision {
            shipped: Some(shipped),
            reason: "under emulation the small kernel is faster".to_owned(),
            remedy: None,
        }),
        (GuestKernelChoice::Auto, Accelerator::Tcg, Err(error)) => {
            let told = PyroError::from_error(ErrorKind::HostUnsupported, error).one_line();
            let debian = debian(format!("of the small kernels, {told}"));
            let is_absent = matches!(error, ShippedError::Absent { .. });
            Ok(Decision { remedy: (!is_absent).then_some(INSTALL_AGAIN), ..debian })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL_ACCELERATORS: [Accelerator; 2] = [Accelerator::Kvm, Accelerator::Tcg];

    /// An installation with two kernels, and the path of its executable.
    fn installation() -> (tempfile::TempDir, PathBuf) {
        let prefix = tempfile::tempdir().unwrap();
        let directory = prefix.path().join(DIRECTORY);
        fs_err::create_dir_all(&directory).unwrap();
        fs_err::write(directory.join("one.vmlinux"), "one").unwrap();
        fs_err::write(directory.join("several.vmlinux"), "several").unwrap();
        let manifest = r#"{
            "release": "6.1.0-pyro", "source": "a package", "unknown": 1,
            "one_cpu": {"file": "one.vmlinux", "bytes": 3, "sha256": "aa"},
            "several_cpus": {"file": "several.vmlinux", "bytes": 7, "sha256": "bb"}
        }"#;
        fs_err::write(directory.join(MANIFEST), manifest).unwrap();
        let pyro = prefix.path().join("bin/pyro");
        (prefix, pyro)
    }

    fn absent() -> Result<ShippedKernels, ShippedError> {
        Err(ShippedError::Absent { directory: "/usr/share".into() })
    }

    #[test]
    fn the_small_kernel_is_the_default_under_emulation_only() {
        let (_prefix, pyro) = installation();
        let shipped = ShippedKernels::of(&pyro);
        let kernel = |accelerator| {
            let decision = decide(GuestKernelChoice::Auto, accelerator, &shipped).unwrap();
            decision.shipped.is_some()
        };
        assert!(kernel(Accelerator::Tcg));
        assert!(!kernel(Accelerator::Kvm));
    }

    #[test]
    fn who_asks_for_a_kernel_gets_it_or_an_error() {
        let (_prefix, pyro) = installation();
        let shipped = ShippedKernels::of(&pyro);
        for accelerator in ALL_ACCELERATORS {
            let own = decide(GuestKernelChoice::Pyro, accelerator, &shipped).unwrap();
            assert!(own.shipped.is_some());
            let debian = decide(GuestKernelChoice::Debian, accelerator, &shipped).unwrap();
            assert!(debian.shipped.is_none());
            let absent = absent();
            let error = decide(GuestKernelChoice::Pyro, accelerator, &absent).unwrap_err();
            assert_eq!(error.kind, ErrorKind::HostUnsupported);
            assert!(error.hints[0].contains("PYRO_GUEST_KERNEL"), "{error}");
        }
    }

    #[test]
    fn where_none_is_shipped_debians_is_taken_and_the_reason_told() {
        let absent = absent();
        let decision = decide(GuestKernelChoice::Auto, Accelerator::Tcg, &absent).unwrap();
        assert!(decision.shipped.is_none());
        assert!(decision.reason.contains("`/usr/share`"), "{}", decision.reason);
        assert_eq!(decision.remedy, None, "it is slower, but whole");
        let damaged = Err(ShippedError::Damaged { path: "/k".into(), found: 1, expected: 2 });
        let decision = decide(GuestKernelChoice::Auto, Accelerator::Tcg, &damaged).unwrap();
        assert!(decision.shipped.is_none() && decision.reason.ends_with("has 1 bytes, not 2"));
        assert_eq!(decision.remedy, Some(INSTALL_AGAIN));
    }

    #[test]
    fn one_vcpu_gets_the_kernel_for_one_and_more_get_the_other() {
        let (prefix, pyro) = installation();
        let shipped = ShippedKernels::of(&pyro).unwrap();
        let kernel = |vcpu_count| {
            let kernel = shipped.kernel(shipped.image(VcpuCount::new(vcpu_count).unwrap()));
            assert_eq!(kernel.modules, [] as [PathBuf; 0]);
            (kernel.image, kernel.digest)
        };
        let directory = prefix.path().join(DIRECTORY);
        assert_eq!(kernel(1), (directory.join("one.vmlinux"), "sha256:aa".to_owned()));
        for vcpu_count in 2..=VcpuCount::MAX {
            let (image, digest) = kernel(vcpu_count.into());
            assert_eq!((image, digest.as_str()), (directory.join("several.vmlinux"), "sha256:bb"));
        }
        assert_eq!(shipped.digests(), ["sha256:aa", "sha256:bb"]);
    }

    #[test]
    fn an_installation_that_is_not_whole_has_no_kernels() {
        let (prefix, pyro) = installation();
        let directory = prefix.path().join(DIRECTORY);
        fs_err::write(directory.join("several.vmlinux"), "seve").unwrap();
        let error = ShippedKernels::of(&pyro).unwrap_err();
        assert!(error.to_string().ends_with("has 4 bytes, not 7"), "{error}");
        fs_err::remove_file(directory.join("several.vmlinux")).unwrap();
        assert!(matches!(ShippedKernels::of(&pyro), Err(ShippedError::Unreadable { .. })));
        fs_err::write(directory.join(MANIFEST), "{}").unwrap();
        assert!(matches!(ShippedKernels::of(&pyro), Err(ShippedError::Malformed { .. })));
        fs_err::remove_dir_all(&directory).unwrap();
        assert!(matches!(ShippedKernels::of(&pyro), Err(ShippedError::Absent { .. })));
    }
}
