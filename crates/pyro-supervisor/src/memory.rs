//! Guest memory as memfds: fresh for a machine that boots, or frozen, for all that are restored
//! from it.
//!
//! Frozen memory is sealed: QEMU insists on opening its memory for writing, and a machine whose QEMU
//! was taken over must not be able to change what others start from (`F_SEAL_WRITE`,
//! `memfd_create(2)`).

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
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

/// Who has frozen memory, and under which number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Holder {
    pub(crate) pid: u32,
    /// In the kernel's ticks since the host's start: no two processes have number and start in common.
    pub(crate) started: u64,
    pub(crate) fd: i32,
}

impl Holder {
    /// This process, which has it as `memory`.
    pub(crate) fn this_process(memory: BorrowedFd<'_>) -> io::Result<Self> {
        let started = started(&fs_err::read_to_string("/proc/self/stat")?);
        let started = started.ok_or(io::ErrorKind::InvalidData)?;
        Ok(Self { pid: std::process::id(), started, fd: memory.as_raw_fd() })
    }

    /// Opens the frozen memory that this process has, if it still lives and has it.
    ///
    /// The kernel lets a process do that with those of its own user (`proc_pid_fd(5)`). But a QEMU that was
    /// taken over is one of them, too, where it runs as the same user, and may pass off memory of its own. So
    /// the process must be the very one that was written down, and not lie in a namespace as every QEMU
    /// does. Name, size and seals tell this memory from whatever else the number stands for by now.
    pub(crate) fn borrow(self, name: &str, mib: u32) -> Option<OwnedFd> {
        use rustix::fs::{Mode, OFlags, fstat, openat, readlinkat};
        // Held open, it stands for one process: whatever gets the same number is not found through it.
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let process = rustix::fs::open(format!("/proc/{}", self.pid), flags, Mode::empty()).ok()?;
        let read = |name: &str| {
            let file = openat(&process, name, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty());
            io::read_to_string(File::from(file.ok()?)).ok()
        };
        // A thread has a directory there as well, under a number of its own.
        let is_process = read("status")?.contains(&format!("\nTgid:\t{}\n", self.pid));
        let is_the_one = started(&read("stat")?) == Some(self.started);
        let theirs = readlinkat(&process, "ns/pid", Vec::new()).ok()?;
        let is_outside = theirs == rustix::fs::readlink("/proc/self/ns/pid", Vec::new()).ok()?;
        if !(is_process && is_the_one && is_outside) {
            return None;
        }
        let flags = OFlags::RDWR | OFlags::CLOEXEC;
        let memory = openat(&process, format!("fd/{}", self.fd), flags, Mode::empty()).ok()?;
        let link = fs_err::read_link(format!("/proc/self/fd/{}", memory.as_raw_fd())).ok()?;
        let is_it = link == Path::new(&format!("/memfd:{name} (deleted)"));
        let is_frozen = rustix::fs::fcntl_get_seals(&memory).ok()? == FROZEN;
        let is_whole = fstat(&memory).ok()?.st_size == i64::from(mib) << 20;
        (is_it && is_frozen && is_whole).then_some(memory)
    }
}

/// When a process started, from its `stat` (`proc_pid_stat(5)`, field 22). Its name may hold anything.
fn started(stat: &str) -> Option<u64> {
    stat.rsplit_once(')')?.1.split_whitespace().nth(19)?.parse().ok()
}

fn memfd(name: &str) -> io::Result<OwnedFd> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    Ok(rustix::fs::memfd_create(name, flags)?)
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;
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
        let holder = Holder::this_process(memory.as_fd()).unwrap();
        assert!(holder.borrow("pyro-test", 1).is_some());
        assert!(holder.borrow("another", 1).is_none());
        assert!(holder.borrow("pyro-test", 2).is_none());
        let unsealed = fresh(1).unwrap();
        let holder = Holder::this_process(unsealed.as_fd()).unwrap();
        assert!(holder.borrow("pyro-memory", 1).is_none());
    }

    #[test]
    fn frozen_memory_is_borrowed_from_the_process_that_was_written_down() {
        let memory = frozen(b"frozen");
        let holder = Holder::this_process(memory.as_fd()).unwrap();
        let earlier = Holder { started: holder.started - 1, ..holder };
        assert!(earlier.borrow("pyro-test", 1).is_none(), "another had the number before");
        let thread = std::thread::spawn(|| rustix::thread::gettid().as_raw_nonzero().get());
        let thread = u32::try_from(thread.join().unwrap()).unwrap();
        assert!(Holder { pid: thread, ..holder }.borrow("pyro-test", 1).is_none());
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
