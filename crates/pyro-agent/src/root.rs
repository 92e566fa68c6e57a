//! The root file system: the environment's read-only image with the VM's own disk on top.
//!
//! ```text
//!   before                              after
//!   /           initial file system     /       overlay of the two disks
//!   /rootfs     squashfs, read-only
//!   /scratch    ext4
//!   /new        overlay of the two
//! ```

use std::ffi::CStr;
use std::fs::Permissions;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use pyro_protocol::layout::MODULES_DIRECTORY;
use rustix::fs::{Mode, OFlags, open};
use rustix::io::Errno;
use rustix::mount::{
    FsPickFlags, MountFlags, UnmountFlags, fsconfig_reconfigure, fsconfig_set_flag, fspick, mount,
    mount_move, unmount,
};
use rustix::process::{chdir, chroot};

use crate::cgroup;

const ROOTFS: &str = "/rootfs";
const SCRATCH: &str = "/scratch";
const NEW_ROOT: &str = "/new";

/// Why the root file system could not be put together.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RootError {
    #[error("cannot mount {kind} on `{target}`")]
    Mount { kind: &'static str, target: &'static str, source: Errno },
    #[error("cannot prepare the root file system")]
    File { source: io::Error },
    #[error("cannot open the scratch disk")]
    Scratch { source: Errno },
    #[error("cannot make the environment the root")]
    Switch { source: Errno },
}

/// The mounted scratch disk. It has no path any more; the overlay and this hold it.
#[derive(Debug)]
pub(crate) struct Scratch {
    root: OwnedFd,
}

impl Scratch {
    /// Writes everything out and marks the file system clean. No file may be open for writing.
    pub(crate) fn make_read_only(&self) -> Result<(), Errno> {
        let flags = FsPickFlags::FSPICK_CLOEXEC | FsPickFlags::FSPICK_EMPTY_PATH;
        let file_system = fspick(&self.root, "", flags)?;
        fsconfig_set_flag(&file_system, "ro")?;
        fsconfig_reconfigure(&file_system)
    }
}

/// Mounts what the agent itself needs to find devices.
pub(crate) fn mount_kernel_file_systems() -> Result<(), RootError> {
    let no_files = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    mount_new("devtmpfs", "/dev", MountFlags::NOSUID, Some(c"mode=0755"))?;
    mount_new("proc", "/proc", no_files, None)?;
    mount_new("sysfs", "/sys", no_files, None)
}

/// Mounts the environment with the scratch disk on top, and makes that the root.
pub(crate) fn enter(rootfs: &Path, scratch: &Path) -> Result<Scratch, RootError> {
    let no_time = MountFlags::NOATIME;
    mount_disk(rootfs, "squashfs", ROOTFS, MountFlags::RDONLY | no_time, None)?;
    // The disk is of zeros: no thread of the kernel need write them again, in every VM.
    mount_disk(scratch, "ext4", SCRATCH, no_time, Some(c"noinit_itable"))?;
    for layer in ["/scratch/upper", "/scratch/work"] {
        create_directory(layer)?;
    }
    let layers = c"lowerdir=/rootfs,upperdir=/scratch/upper,workdir=/scratch/work";
    mount_new("overlay", NEW_ROOT, no_time, Some(layers))?;
    let directory = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root =
        open(SCRATCH, directory, Mode::empty()).map_err(|source| RootError::Scratch { source })?;
    switch()?;
    Ok(Scratch { root })
}

/// Moves the new root over `/`, as `switch_root` does, so that the kernel does not take the agent's
/// children for chrooted, which would keep them from making user namespaces.
fn switch() -> Result<(), RootError> {
    // They hold memory that nothing refers to afterwards.
    for leftover in [MODULES_DIRECTORY, "/init"] {
        let removed = if Path::new(leftover).is_dir() {
            fs_err::remove_dir_all(leftover)
        } else {
            fs_err::remove_file(leftover)
        };
        removed.map_err(file)?;
    }
    let switched = |source| RootError::Switch { source };
    // The overlay keeps its layers; nobody needs paths to them.
    for layer in [ROOTFS, SCRATCH] {
        unmount(layer, UnmountFlags::DETACH).map_err(switched)?;
    }
    for moved in ["/dev", "/proc", "/sys"] {
        let target = format!("{NEW_ROOT}{moved}");
        create_directory(&target)?;
        mount_move(moved, target).map_err(switched)?;
    }
    chdir(NEW_ROOT).map_err(switched)?;
    mount_move(".", "/").map_err(switched)?;
    chroot(".").map_err(switched)?;
    chdir("/").map_err(switched)
}

/// Mounts what programs expect below the root.
pub(crate) fn mount_for_programs() -> Result<(), RootError> {
    let no_files = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    let volatile = MountFlags::NOSUID | MountFlags::NODEV;
    let terminals = c"mode=0620,gid=5,ptmxmode=0666";
    mount_new("devpts", "/dev/pts", MountFlags::NOSUID | MountFlags::NOEXEC, Some(terminals))?;
    mount_new("tmpfs", "/dev/shm", volatile, Some(c"mode=1777"))?;
    mount_new("tmpfs", "/run", volatile, Some(c"mode=0755,size=25%"))?;
    // Kernels can be built without these two, and few programs mind.
    for (kind, target) in [("mqueue", "/dev/mqueue"), ("cgroup2", cgroup::MOUNT_POINT)] {
        match mount_new(kind, target, no_files, None) {
            Ok(())
            | Err(RootError::File { .. } | RootError::Mount { source: Errno::NODEV, .. }) => {}
            Err(error) => return Err(error),
        }
    }
    for (link, target) in [
        ("/dev/fd", "/proc/self/fd"),
        ("/dev/stdin", "/proc/self/fd/0"),
        ("/dev/stdout", "/proc/self/fd/1"),
        ("/dev/stderr", "/proc/self/fd/2"),
    ] {
        fs_err::os::unix::fs::symlink(target, link).map_err(file)?;
    }
    create_directory("/run/lock")?;
    for shared in ["/run/lock", "/tmp", "/var/tmp"] {
        create_directory(shared)?;
        fs_err::set_permissions(shared, Permissions::from_mode(0o1777)).map_err(file)?;
    }
    Ok(())
}

fn mount_disk(
    device: &Path,
    kind: &'static str,
    target: &'static str,
    flags: MountFlags,
    data: Option<&CStr>,
) -> Result<(), RootError> {
    create_directory(target)?;
    mount(device, target, kind, flags, data).map_err(|source| RootError::Mount {
        kind,
        target,
        source,
    })
}

fn mount_new(
    kind: &'static str,
    target: &'static str,
    flags: MountFlags,
    data: Option<&CStr>,
) -> Result<(), RootError> {
    create_directory(target)?;
    mount(kind, target, kind, flags, data).map_err(|source| RootError::Mount {
        kind,
        target,
        source,
    })
}

fn create_directory(path: &str) -> Result<(), RootError> {
    match fs_err::create_dir(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(file(error)),
        Ok(()) | Err(_) => Ok(()),
    }
}

fn file(source: io::Error) -> RootError {
    RootError::File { source }
}
