//! The only `unsafe` code of this crate: what the kernel and the CPU offer without a safe wrapper.

#![allow(unsafe_code, reason = "this file is the place for it")]

use std::ffi::{CStr, CString, c_char, c_int};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::ptr;

use kvm_bindings::kvm_userspace_memory_region;
use kvm_ioctls::VmFd;
use rustix::io::Errno;
use rustix::process::Pid;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::child::Child;

/// Makes a process that is a copy of this one, in new namespaces (`CLONE_NEW…`), and has it run
/// `in_child` and exit with what that returns. Gives its number and a descriptor of it.
///
/// `in_child` may do nothing but system calls: not allocate, not free, not panic. Any lock may be held
/// by a thread that the new process does not have.
pub(crate) fn clone(
    namespaces: c_int,
    in_child: impl FnOnce() -> c_int,
) -> io::Result<(Pid, OwnedFd)> {
    let mut pidfd: c_int = -1;
    let flags = namespaces | libc::CLONE_PIDFD | libc::SIGCHLD;
    // SAFETY: without CLONE_VM this is fork(2): the child has its own copy of all memory and goes on
    // on its copy of this stack. The pointer is valid for the one integer that is written.
    let pid = unsafe {
        libc::syscall(libc::SYS_clone, flags, ptr::null_mut::<u8>(), &raw mut pidfd, 0, 0)
    };
    match pid {
        -1 => Err(io::Error::last_os_error()),
        0 => {
            let code = in_child();
            // SAFETY: ends this process at once, and runs nothing of what was registered for its end.
            unsafe { libc::_exit(code) }
        }
        pid => {
            let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
            // SAFETY: the kernel has just opened it, so nobody else owns it.
            let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
            Ok((pid.expect("the kernel numbers processes from 1"), pidfd))
        }
    }
}

/// Has the runtime watch for a child's end. On failure the child is killed.
pub(crate) fn watch(child: Child) -> io::Result<AsyncFd<Child>> {
    // SAFETY: a child keeps one descriptor open for as long as it lives, and shows no other.
    let watched = unsafe { AsyncFd::register_with_interest(child, Interest::READABLE) };
    watched.map_err(io::Error::from)
}

/// The words of a command line, as the kernel takes them.
#[derive(Debug)]
pub(crate) struct Arguments {
    _words: Vec<CString>,
    pointers: Vec<*const c_char>,
}

impl Arguments {
    pub(crate) fn new(words: Vec<CString>) -> Self {
        let pointers = words.iter().map(|word| word.as_ptr()).chain([ptr::null()]).collect();
        Self { _words: words, pointers }
    }
}

/// Becomes `program`. Returns only if that fails.
pub(crate) fn execute(program: &CStr, arguments: &Arguments, environment: &Arguments) -> Errno {
    let (arguments, environment) = (arguments.pointers.as_ptr(), environment.pointers.as_ptr());
    // SAFETY: both lists end with a null pointer, and their strings live as long as the borrows.
    unsafe { libc::execve(program.as_ptr(), arguments, environment) };
    last_errno()
}

/// Leaves the session's keyring, with whatever its user keeps there, for a new one. Kernels without
/// keyrings have nothing to leave.
pub(crate) fn leave_keyring() {
    const JOIN_SESSION_KEYRING: c_int = 1;
    // SAFETY: the null pointer asks for a keyring without a name.
    unsafe { libc::syscall(libc::SYS_keyctl, JOIN_SESSION_KEYRING, ptr::null::<c_char>()) };
}

/// Gives the file of `descriptor` the number `number` as well, whatever had it before, and leaves it
/// open when a program is executed. To be used for numbers that nothing in this process owns.
pub(crate) fn duplicate(descriptor: BorrowedFd<'_>, number: RawFd) -> Result<(), Errno> {
    // SAFETY: the caller sees to it that nobody owns the number.
    let duplicated = unsafe { libc::dup2(descriptor.as_raw_fd(), number) };
    if duplicated < 0 { Err(last_errno()) } else { Ok(()) }
}

/// Has every descriptor from `first` on closed when a program is executed.
pub(crate) fn close_on_execute(first: RawFd) {
    // SAFETY: this changes a flag of descriptors, and closes none.
    let changed = unsafe {
        libc::syscall(libc::SYS_close_range, first, RawFd::MAX, libc::CLOSE_RANGE_CLOEXEC)
    };
    if changed >= 0 {
        return;
    }
    // Linux before 5.11 cannot do it in one go, and some containers do not let it.
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
    let last = limit.and_then(|limit| RawFd::try_from(limit).ok()).unwrap_or(RawFd::MAX);
    for number in first..last.min(DESCRIPTORS_MAX) {
        // SAFETY: this changes a flag of a descriptor, if there is one.
        unsafe { libc::fcntl(number, libc::F_SETFD, libc::FD_CLOEXEC) };
    }
}

/// The kernel's own limit of open files of a process (`fs.nr_open`), unless it was changed.
const DESCRIPTORS_MAX: RawFd = 1 << 20;

/// Makes the mount at `path` and all below it read-only, and without effect of set-user-ID bits.
pub(crate) fn mount_read_only(path: &CStr) -> Result<(), Errno> {
    let attributes = libc::mount_attr {
        attr_set: libc::MOUNT_ATTR_RDONLY | libc::MOUNT_ATTR_NOSUID,
        attr_clr: 0,
        propagation: 0,
        userns_fd: 0,
    };
    // SAFETY: path and attributes are valid for the call, and the size is that of the attributes.
    let changed = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            libc::AT_FDCWD,
            path.as_ptr(),
            libc::AT_RECURSIVE,
            &raw const attributes,
            size_of_val(&attributes),
        )
    };
    if changed < 0 { Err(last_errno()) } else { Ok(()) }
}

/// The version of the kernel's Landlock interface; 0 where it has none, or has it disabled.
pub(crate) fn landlock_abi() -> i32 {
    const CREATE_RULESET_VERSION: u32 = 1;
    // SAFETY: with this flag the call only tells a number.
    let abi = unsafe {
        libc::syscall(
            libc::SYS_landlock_create_ruleset,
            ptr::null::<u8>(),
            0_usize,
            CREATE_RULESET_VERSION,
        )
    };
    i32::try_from(abi).unwrap_or_default().max(0)
}

/// Adds a rule: `access` (`LANDLOCK_ACCESS_FS_…`) to everything beneath `directory`.
pub(crate) fn landlock_allow(
    rules: BorrowedFd<'_>,
    directory: BorrowedFd<'_>,
    access: u64,
) -> Result<(), Errno> {
    /// `struct landlock_path_beneath_attr`
    #[repr(C, packed)]
    struct PathBeneath {
        allowed_access: u64,
        parent_fd: i32,
    }
    const RULE_PATH_BENEATH: u32 = 1;
    let rule = PathBeneath { allowed_access: access, parent_fd: directory.as_raw_fd() };
    // SAFETY: the rule has the layout that its type asks for, and lives during the call.
    let added = unsafe {
        libc::syscall(
            libc::SYS_landlock_add_rule,
            rules.as_raw_fd(),
            RULE_PATH_BENEATH,
            &raw const rule,
            0_u32,
        )
    };
    if added < 0 { Err(last_errno()) } else { Ok(()) }
}

/// Lays `rules` upon this thread, and whatever it starts or becomes.
pub(crate) fn landlock_enforce(rules: BorrowedFd<'_>) -> Result<(), Errno> {
    // SAFETY: the call has no pointers.
    let enforced =
        unsafe { libc::syscall(libc::SYS_landlock_restrict_self, rules.as_raw_fd(), 0_u32) };
    if enforced < 0 { Err(last_errno()) } else { Ok(()) }
}

fn last_errno() -> Errno {
    Errno::from_io_error(&io::Error::last_os_error()).unwrap_or(Errno::IO)
}

/// One page of memory that a virtual machine executes from.
pub(crate) struct GuestPage {
    address: *mut std::ffi::c_void,
}

/// The size of a page on x86-64.
pub(crate) const PAGE_BYTES: usize = 4096;

impl GuestPage {
    /// A page that starts with `code`, which must fit.
    pub(crate) fn with_code(code: &[u8]) -> io::Result<Self> {
        assert!(code.len() <= PAGE_BYTES, "the code must fit into one page");
        let protection = rustix::mm::ProtFlags::READ | rustix::mm::ProtFlags::WRITE;
        // SAFETY: a fresh private mapping at an address of the kernel's choice aliases nothing.
        let address = unsafe {
            rustix::mm::mmap_anonymous(
                std::ptr::null_mut(),
                PAGE_BYTES,
                protection,
                rustix::mm::MapFlags::PRIVATE,
            )
        }?;
        // SAFETY: the mapping is writable and at least as long as the code.
        unsafe { std::ptr::copy_nonoverlapping(code.as_ptr(), address.cast(), code.len()) };
        Ok(Self { address })
    }

    /// Gives this page to `vm` at guest physical address `at`.
    pub(crate) fn map_into(&self, vm: &VmFd, at: u64) -> Result<(), kvm_ioctls::Error> {
        let region = kvm_userspace_memory_region {
            slot: 0,
            guest_phys_addr: at,
            memory_size: PAGE_BYTES as u64,
            userspace_addr: self.address as u64,
            flags: 0,
        };
        // SAFETY: the region is this page, which the caller keeps until the VM is gone.
        unsafe { vm.set_user_memory_region(region) }
    }
}

impl Drop for GuestPage {
    fn drop(&mut self) {
        // SAFETY: the mapping was made by `with_code`, has this size, and has no other owner.
        let unmapped = unsafe { rustix::mm::munmap(self.address, PAGE_BYTES) };
        debug_assert!(unmapped.is_ok(), "munmap of an own mapping cannot fail");
    }
}

/// The CPU's time-stamp counter.
pub(crate) fn time_stamp_counter() -> u64 {
    // SAFETY: every x86-64 CPU has RDTSC, and Linux lets user space execute it.
    unsafe { core::arch::x86_64::_rdtsc() }
}
