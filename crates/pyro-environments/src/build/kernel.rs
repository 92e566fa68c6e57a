//! The guest kernel: Debian's cloud kernel package, reduced to what a VM
//! needs to reach its root filesystem.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};

use super::Build;
use super::bzimage::{BzImageError, extract_vmlinux};
use super::modules::{
    Module, ModuleError, WANTED, builtin_names, dependencies, insertion_order, module_name,
};
use super::process::run_build;
use crate::pull::error::PullError;
use crate::pull::progress::{Artefact, PullProgress};

/// Debian's compressed kernels have less than 10 MB.
const VMLINUZ_BYTES_MAX: u64 = 128 << 20;

/// A kernel package that does not hold what is expected.
#[derive(Debug, thiserror::Error)]
pub enum KernelError {
    #[error("cannot read `{what}` from the kernel package")]
    Read { what: String, source: io::Error },

    #[error("the kernel package holds no `{what}`")]
    Absent { what: &'static str },

    #[error("the kernel image has {bytes} bytes, more than {VMLINUZ_BYTES_MAX}")]
    TooLarge { bytes: u64 },

    #[error("the kernel image cannot be unpacked")]
    Image(#[source] BzImageError),

    #[error("the kernel package's modules cannot be used")]
    Modules(#[source] ModuleError),
}

/// Fetches the newest kernel and leaves `vmlinux` and `modules/NN-name.ko` in
/// `destination`. Returns its release.
pub(crate) fn build_kernel(build: &Build<'_>, destination: &Path) -> Result<String, PullError> {
    let unpacked = build.directory.join("kernel-package");
    fs_err::create_dir(&unpacked).map_err(|source| build.write_error(source))?;
    fetch(build, &unpacked)?;
    (build.report)(PullProgress::UnpackingKernel);
    let package = KernelPackage::open(&unpacked).map_err(PullError::KernelUnusable)?;
    let vmlinux = package.vmlinux().map_err(PullError::KernelUnusable)?;
    let modules = package.modules().map_err(PullError::KernelUnusable)?;
    assemble(destination, &vmlinux, &modules).map_err(|source| build.write_error(source))?;
    fs_err::remove_dir_all(&unpacked).map_err(|source| build.write_error(source))?;
    Ok(package.release)
}

/// Has mmdebstrap set up apt for the archive, with its keys and without the
/// host's configuration, and install nothing; the hook does the rest.
fn fetch(build: &Build<'_>, unpacked: &Path) -> Result<(), PullError> {
    let mut mmdebstrap = build.mmdebstrap()?;
    mmdebstrap
        .env("PYRO_KERNEL_DIRECTORY", unpacked)
        .env("PYRO_KERNEL_PACKAGE", build.definition.kernel_package)
        .args(["--variant=custom", "--format=null", "--aptopt=Acquire::Languages \"none\""])
        .arg("--skip=download,extract,essential,cleanup")
        .arg(Build::hook("customize", "kernel"));
    build.finish_mmdebstrap(&mut mmdebstrap);
    run_build(build, mmdebstrap, Artefact::Kernel, None).map(drop)
}

/// The unpacked files of `linux-image-…`.
struct KernelPackage {
    release: String,
    vmlinuz: PathBuf,
    modules_directory: PathBuf,
}

impl KernelPackage {
    fn open(unpacked: &Path) -> Result<Self, KernelError> {
        const PREFIX: &str = "vmlinuz-";
        let boot = unpacked.join("boot");
        let entries = fs_err::read_dir(&boot).map_err(|source| read_error(&boot, source))?;
        let release = entries
            .flatten()
            .find_map(|entry| entry.file_name().to_str()?.strip_prefix(PREFIX).map(str::to_owned))
            .ok_or(KernelError::Absent { what: "boot/vmlinuz-*" })?;
        Ok(Self {
            vmlinuz: boot.join(format!("{PREFIX}{release}")),
            modules_directory: unpacked.join("lib/modules").join(&release),
            release,
        })
    }

    fn vmlinux(&self) -> Result<Vec<u8>, KernelError> {
        let bytes = fs_err::metadata(&self.vmlinuz)
            .map_err(|source| read_error(&self.vmlinuz, source))?
            .len();
        if bytes > VMLINUZ_BYTES_MAX {
            return Err(KernelError::TooLarge { bytes });
        }
        extract_vmlinux(&read(&self.vmlinuz)?).map_err(KernelError::Image)
    }

    /// Each with its content, in the order in which they are to be inserted.
    fn modules(&self) -> Result<Vec<(Module, Vec<u8>)>, KernelError> {
        let mut available = BTreeMap::new();
        find_modules(&self.modules_directory, &mut available)
            .map_err(|source| read_error(&self.modules_directory, source))?;
        let builtin = self.builtin()?;
        let order = insertion_order(&WANTED, &available, &builtin, &mut |module| {
            let content = fs_err::read(&module.path).ok();
            content
                .and_then(|content| dependencies(&content))
                .ok_or_else(|| ModuleError::NoModinfo { name: module.name.clone() })
        })
        .map_err(KernelError::Modules)?;
        order.into_iter().map(|module| Ok((module.clone(), read(&module.path)?))).collect()
    }

    fn builtin(&self) -> Result<BTreeSet<String>, KernelError> {
        let listing = read(&self.modules_directory.join("modules.builtin"))?;
        Ok(builtin_names(&String::from_utf8_lossy(&listing)))
    }
}

fn read(path: &Path) -> Result<Vec<u8>, KernelError> {
    fs_err::read(path).map_err(|source| read_error(path, source))
}

fn read_error(path: &Path, source: io::Error) -> KernelError {
    KernelError::Read { what: path.display().to_string(), source }
}

fn find_modules(directory: &Path, found: &mut BTreeMap<String, PathBuf>) -> io::Result<()> {
    for entry in fs_err::read_dir(directory)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            find_modules(&entry.path(), found)?;
        } else if let Some(name) = module_name(&entry.path()) {
            found.insert(name, entry.path());
        }
    }
    Ok(())
}

fn assemble(destination: &Path, vmlinux: &[u8], modules: &[(Module, Vec<u8>)]) -> io::Result<()> {
    let directory = destination.join("modules");
    fs_err::create_dir(&directory)?;
    for (index, (module, content)) in modules.iter().enumerate() {
        fs_err::write(directory.join(format!("{index:02}-{}.ko", module.name)), content)?;
    }
    fs_err::write(destination.join("vmlinux"), vmlinux)
}
