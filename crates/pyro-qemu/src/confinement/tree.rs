//! The file system as a confined QEMU sees it: the host's programs and libraries, read-only, three
//! devices, and its own `/proc`. No home, no configuration, no socket, no other process.

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Dev, FileType, Gid, Mode, OFlags, Uid};
use rustix::io::Errno;
use rustix::mount::{MountFlags, MountPropagationFlags, UnmountFlags};

use super::NOBODY;
use crate::sys;

/// Where programs and libraries are, on distributions that keep to the Filesystem Hierarchy Standard.
const SYSTEM_DIRECTORIES: [&str; 7] =
    ["/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32"];

/// Stores in which programs have their libraries beside them, whole trees away.
const PACKAGE_STORES: [&str; 2] = ["/nix/store", "/gnu/store"];

/// What an installation of QEMU has beside its `bin`: libraries and firmware.
const BESIDE_BIN: [&str; 5] = ["lib", "lib64", "libexec", "share/qemu", "share/seabios"];

/// How the loader finds libraries faster.
const LOADER_CACHE: &str = "/etc/ld.so.cache";

const DEVICES: [&str; 2] = ["/dev/null", "/dev/urandom"];
const KVM_DEVICE: &str = "/dev/kvm";

/// The new root is put together here, over the mount of `/proc`: a directory that is always there, and
/// of which nothing is wanted.
const WORKSHOP: &CStr = c"/proc";

/// Room for some twenty directories and links.
const ROOT_OPTIONS: &CStr = c"mode=0755,size=64k,nr_inodes=256";

/// A file tree that is yet to be made.
#[derive(Debug)]
pub(crate) struct Tree {
    steps: Vec<Step>,
}

/// Paths in the new tree are relative to its root.
#[derive(Debug)]
enum Step {
    Directory(CString),
    Link {
        path: CString,
        target: CString,
    },
    /// A file to mount something over.
    File(CString),
    Mount {
        from: CString,
        over: CString,
    },
    /// The device itself, which this user may open whoever else may.
    OwnDevice {
        path: CString,
        device: Dev,
    },
}

impl Tree {
    /// A tree in which the program at this absolute path, without symbolic links, runs.
    pub(crate) fn for_program(program: &Path, needs_kvm: bool, as_root: bool) -> io::Result<Self> {
        let mut tree = Self { steps: Vec::new() };
        for directory in readable_directories(program) {
            tree.add(&directory)?;
        }
        if Path::new(LOADER_CACHE).exists() {
            tree.add(Path::new(LOADER_CACHE))?;
        }
        for device in DEVICES {
            tree.add(Path::new(device))?;
        }
        if needs_kvm && as_root {
            let device = rustix::fs::stat(KVM_DEVICE)?.st_rdev;
            tree.steps.push(Step::OwnDevice { path: relative(Path::new(KVM_DEVICE))?, device });
        } else if needs_kvm {
            tree.add(Path::new(KVM_DEVICE))?;
        }
        tree.steps.push(Step::Directory(c"proc".to_owned()));
        Ok(tree)
    }

    /// Adds what is at `path` on the host, and the directories it is in.
    fn add(&mut self, path: &Path) -> io::Result<()> {
        for parent in path.ancestors().skip(1).collect::<Vec<_>>().into_iter().rev().skip(1) {
            let directory = relative(parent)?;
            let is_there = self.steps.iter().any(|step| match step {
                Step::Directory(path) => *path == directory,
                _ => false,
            });
            if !is_there {
                self.steps.push(Step::Directory(directory));
            }
        }
        let metadata = fs_err::symlink_metadata(path)?;
        let over = relative(path)?;
        if metadata.is_symlink() {
            let target = c_string(&fs_err::read_link(path)?)?;
            self.steps.push(Step::Link { path: over, target });
            return Ok(());
        }
        let place = if metadata.is_dir() { Step::Directory } else { Step::File };
        self.steps.push(place(over.clone()));
        self.steps.push(Step::Mount { from: c_string(path)?, over });
        Ok(())
    }

    /// Adds a file that is open, and gives its path in the tree. A descriptor of it that is opened there can
    /// be turned into nothing else: the tree is read-only, whoever owns the file.
    pub(crate) fn add_file(&mut self, file: &OwnedFd, number: RawFd) -> io::Result<CString> {
        let path = fs_err::read_link(format!("/proc/self/fd/{}", file.as_raw_fd()))?;
        let (open, named) = (rustix::fs::fstat(file)?, rustix::fs::stat(&path)?);
        if (open.st_dev, open.st_ino) != (named.st_dev, named.st_ino) {
            return Err(io::Error::other(format!("`{}` was replaced", path.display())));
        }
        let over = CString::new(format!("file-{number}")).map_err(io::Error::other)?;
        self.steps.push(Step::File(over.clone()));
        self.steps.push(Step::Mount { from: c_string(&path)?, over });
        CString::new(format!("/file-{number}")).map_err(io::Error::other)
    }

    /// Makes the tree and moves this process into it, for ever. Makes system calls only; needs a mount
    /// namespace of its own and the right to mount there.
    pub(crate) fn enter(&self) -> Result<(), Errno> {
        let none = c"none";
        let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
        rustix::mount::mount_change(c"/", private)?;
        let flags = MountFlags::NOSUID | MountFlags::NOEXEC;
        rustix::mount::mount(none, WORKSHOP, c"tmpfs", flags, ROOT_OPTIONS)?;
        rustix::process::chdir(WORKSHOP)?;
        for step in &self.steps {
            step.take()?;
        }
        mount_proc()?;
        sys::mount_read_only(c".")?;
        rustix::process::pivot_root(c".", c".")?;
        // Both roots are here now, the host's on top.
        rustix::mount::unmount(c".", UnmountFlags::DETACH)?;
        rustix::process::chdir(c"/")
    }
}

impl Step {
    fn take(&self) -> Result<(), Errno> {
        match self {
            Self::Directory(path) => rustix::fs::mkdir(path, Mode::from_raw_mode(0o755)),
            Self::Link { path, target } => rustix::fs::symlink(target, path),
            Self::File(path) => {
                let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
                rustix::fs::open(path, flags, Mode::from_raw_mode(0o444)).map(drop)
            }
            Self::Mount { from, over } => rustix::mount::mount_bind_recursive(from, over),
            Self::OwnDevice { path, device } => {
                let mode = Mode::from_raw_mode(0o600);
                rustix::fs::mknodat(CWD, path, FileType::CharacterDevice, mode, *device)?;
                let (user, group) = (Uid::from_raw(NOBODY), Gid::from_raw(NOBODY));
                rustix::fs::chownat(CWD, path, Some(user), Some(group), AtFlags::empty())
            }
        }
    }
}

/// Only processes, which are those of the process's own namespace: itself.
fn mount_proc() -> Result<(), Errno> {
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    match rustix::mount::mount(c"proc", c"proc", c"proc", flags, c"subset=pid") {
        // Linux before 5.8 does not know the option.
        Err(Errno::INVAL) => rustix::mount::mount(c"proc", c"proc", c"proc", flags, None::<&CStr>),
        mounted => mounted,
    }
}

/// Every directory of the host that `program` may read.
pub(super) fn readable_directories(program: &Path) -> Vec<PathBuf> {
    let system = SYSTEM_DIRECTORIES.map(PathBuf::from).into_iter().filter(|path| path.exists());
    let mut directories: Vec<PathBuf> = system.collect();
    let is_new = |path: &PathBuf| !directories.iter().any(|directory| path.starts_with(directory));
    let elsewhere: Vec<_> = own_directories(program).into_iter().filter(is_new).collect();
    directories.extend(elsewhere);
    directories
}

/// Where a program has its own files, if it is not a part of the system: the directory it lies in, and
/// what QEMU installs beside a `bin`.
fn own_directories(program: &Path) -> Vec<PathBuf> {
    if let Some(store) = PACKAGE_STORES.iter().find(|store| program.starts_with(store)) {
        return vec![PathBuf::from(store)];
    }
    let Some(directory) = program.parent() else { return Vec::new() };
    let mut directories = vec![directory.to_owned()];
    if directory.ends_with("bin")
        && let Some(prefix) = directory.parent()
    {
        let beside = BESIDE_BIN.map(|name| prefix.join(name));
        directories.extend(beside.into_iter().filter(|path| path.exists()));
    }
    directories
}

/// The loader's cache, which [`Landlock`](super::Landlock) must allow as well.
pub(super) fn readable_files() -> impl Iterator<Item = &'static str> {
    std::iter::once(LOADER_CACHE).filter(|path| Path::new(path).exists())
}

/// Every device that QEMU may use.
pub(super) fn devices(needs_kvm: bool) -> impl Iterator<Item = &'static str> {
    DEVICES.into_iter().chain(needs_kvm.then_some(KVM_DEVICE))
}

fn relative(path: &Path) -> io::Result<CString> {
    c_string(path.strip_prefix("/").map_err(io::Error::other)?)
}

fn c_string(path: &Path) -> io::Result<CString> {
    CString::new(path.as_os_str().as_bytes()).map_err(io::Error::other)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn beyond_the_system(program: &Path) -> Vec<PathBuf> {
        let system = SYSTEM_DIRECTORIES.map(PathBuf::from);
        let mut directories = readable_directories(program);
        directories.retain(|directory| !system.contains(directory));
        directories
    }

    #[test]
    fn a_program_of_the_system_needs_nothing_beside_the_system() {
        for program in ["/usr/bin/qemu", "/usr/local/bin/qemu", "/usr/libexec/qemu"] {
            assert_eq!(beyond_the_system(Path::new(program)), [] as [&Path; 0], "{program}");
        }
    }

    #[test]
    fn a_program_elsewhere_sees_its_own_installation_and_nothing_else() {
        let home = tempfile::tempdir().unwrap();
        for directory in ["bin", "lib", "share/qemu", "share/secrets", "Documents"] {
            fs_err::create_dir_all(home.path().join(directory)).unwrap();
        }
        let seen = beyond_the_system(&home.path().join("bin/qemu"));
        assert_eq!(seen, ["bin", "lib", "share/qemu"].map(|name| home.path().join(name)));
        let seen = beyond_the_system(&home.path().join("Documents/qemu"));
        assert_eq!(seen, [home.path().join("Documents")]);
        let store = Path::new("/nix/store");
        assert_eq!(beyond_the_system(&store.join("abc-qemu/bin/qemu")), [store]);
    }
}
