//! Guest memory as memfds: fresh for a machine that boots, or frozen, for all that are restored
//! from it.
//!
//! Frozen memory is sealed: QEMU insists on opening its memory for writing, and a machine whose QEMU
//! was taken over must not be able to change what others start from (`F_SEAL_WRITE`,
//! `memfd_create(2)`).

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;

use rustix::fs::{MemfdFlags, SealFlags};

use crate::packed::{self, UnpackError};

/// After this the memory can neither be written, nor change its size, nor be unsealed.
const FROZEN: SealFlags =
    SealFlags::WRITE.union(SealFlags::GROW).union(SealFlags::SHRINK).union(SealFlags::SEAL);

/// Memory of `mib` MiB, all zeros, none of it allocated.
pub(crate) fn fresh(mib: u32) -> io::Result<OwnedFd> {
    unfilled("pyro-memory", mib)
}

/// The same, under a name that `/proc` shows, to be filled by [`freeze`].
pub(crate) fn unfilled(name: &str, mib: u32) -> io::Result<OwnedFd> {
    let memory = memfd(name)?;
    rustix::fs::ftruncate(&memory, u64::from(mib) << 20)?;
    Ok(memory)
}

/// Fills memory with the content of a packed image, and seals it. Private mappings of it may exist
/// already, if nothing was written to them yet.
pub(crate) fn freeze(memory: &File, image: &File) -> Result<(), UnpackError> {
    packed::unpack(image, memory)?;
    rustix::fs::fcntl_add_seals(memory, FROZEN)
        .map_err(|errno| UnpackError::Io { source: errno.into() })
}

/// A copy of a file, which a confined QEMU can open by its number whoever owns the file.
pub(crate) fn copy_of(path: &Path) -> io::Result<OwnedFd> {
    let memory = File::from(memfd("pyro-kernel")?);
    io::copy(&mut fs_err::File::open(path)?, &mut &memory)?;
    Ok(memory.into())
}

/// Opens the frozen memory that is descriptor `fd` of process `pid`, if that is what it still is.
///
/// The kernel lets a process do that with those of its own user (`proc_pid_fd(5)`). Name, size and
/// seals tell this memory from whatever else the number may stand for by now.
pub(crate) fn borrowed(pid: u32, fd: i32, name: &str, mib: u32) -> Option<OwnedFd> {
    let path = format!("/proc/{pid}/fd/{fd}");
    let is_it = |link: &Path| link == Path::new(&format!("/memfd:{name} (deleted)"));
    fs_err::read_link(&path).ok().filter(|link| is_it(link))?;
    let flags = rustix::fs::OFlags::RDWR | rustix::fs::OFlags::CLOEXEC;
    let memory = rustix::fs::open(&path, flags, rustix::fs::Mode::empty()).ok()?;
    // The process may have been replaced by another between the two.
    let own_path = format!("/proc/self/fd/{}", memory.as_raw_fd());
    fs_err::read_link(own_path).ok().filter(|link| is_it(link))?;
    let is_frozen = rustix::fs::fcntl_get_seals(&memory).ok()? == FROZEN;
    let is_whole = rustix::fs::fstat(&memory).ok()?.st_size == i64::from(mib) << 20;
    (is_frozen && is_whole).then_some(memory)
}

fn memfd(name: &str) -> io::Result<OwnedFd> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    Ok(rustix::fs::memfd_create(name, flags)?)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt;

    use super::*;

    fn image_with(content: &[u8]) -> File {
        let source = File::from(fresh(1).unwrap());
        source.write_all_at(content, 4096).unwrap();
        let image = tempfile::tempfile().unwrap();
        packed::pack(&source, &image).unwrap();
        image
    }

    fn frozen(content: &[u8]) -> OwnedFd {
        let memory = File::from(unfilled("pyro-test", 1).unwrap());
        freeze(&memory, &image_with(content)).unwrap();
        memory.into()
    }

    #[test]
    fn frozen_memory_is_borrowed_by_name_only() {
        let memory = frozen(b"frozen");
        let borrow = |name, mib| borrowed(std::process::id(), memory.as_raw_fd(), name, mib);
        assert!(borrow("pyro-test", 1).is_some());
        assert!(borrow("another", 1).is_none());
        assert!(borrow("pyro-test", 2).is_none());
        let unsealed = fresh(1).unwrap();
        assert!(borrowed(std::process::id(), unsealed.as_raw_fd(), "pyro-memory", 1).is_none());
    }

    #[test]
    fn frozen_memory_cannot_be_written_by_anyone() {
        let frozen = File::from(frozen(b"frozen"));

        let mut content = [0; 6];
        frozen.read_exact_at(&mut content, 4096).unwrap();
        assert_eq!(&content, b"frozen");
        assert!(frozen.write_all_at(b"thawed", 4096).is_err());
        assert!(frozen.set_len(0).is_err());
        assert!(rustix::fs::fcntl_add_seals(&frozen, SealFlags::empty()).is_err());
    }
}
