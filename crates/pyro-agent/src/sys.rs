//! What neither std nor rustix offers safely: starting a process in a cgroup without copying this
//! one, signals as a file descriptor, and a few ioctls.

#![allow(unsafe_code, reason = "the one file of this crate that talks to the kernel directly")]

use std::arch::asm;
use std::ffi::{CStr, CString, c_char, c_int};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::{mem, ptr};

use rustix::process::Pid;

/// Stack of a child between its creation and its `execve`: a dozen system calls deep.
const CHILD_STACK_BYTES: usize = 64 * 1024;

/// Exit code of a child whose work returned, that is, which could not execute its program.
const NOT_EXECUTED: c_int = 127;

/// Blocks every signal, for this process and, until they undo it, its children.
///
/// Also takes back that std ignores `SIGPIPE`: a child would inherit that across `execve`, while a
/// blocked signal it unblocks itself.
pub(crate) fn block_signals() -> io::Result<()> {
    // SAFETY: a disposition other than a handler has no code that could run.
    let previous = unsafe { libc::signal(libc::SIGPIPE, libc::SIG_DFL) };
    if previous == libc::SIG_ERR {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: `all_signals` returns an initialised set, and no old one is asked for.
    check(unsafe { libc::sigprocmask(libc::SIG_SETMASK, &all_signals(), ptr::null_mut()) })
}

/// Lets every signal through again: the counterpart of [`block_signals`] in a child.
pub(crate) fn unblock_signals() -> io::Result<()> {
    // SAFETY: `all_signals` returns an initialised set, and no old one is asked for.
    check(unsafe { libc::sigprocmask(libc::SIG_UNBLOCK, &all_signals(), ptr::null_mut()) })
}

fn all_signals() -> libc::sigset_t {
    // SAFETY: the type is an array of integers, for which zero is a value.
    let mut set = unsafe { mem::zeroed() };
    // SAFETY: `set` is a live, writable signal set.
    unsafe { libc::sigfillset(&raw mut set) };
    set
}

/// A descriptor that is readable while the exit of a child waits to be noticed.
/// `SIGCHLD` must be blocked.
pub(crate) fn child_exit_signals() -> io::Result<OwnedFd> {
    // SAFETY: the type is an array of integers, for which zero is a value.
    let mut set = unsafe { mem::zeroed() };
    // SAFETY: `set` is a live, writable signal set.
    unsafe { libc::sigemptyset(&raw mut set) };
    // SAFETY: `set` was initialised by `sigemptyset`.
    unsafe { libc::sigaddset(&raw mut set, libc::SIGCHLD) };
    // SAFETY: `set` is initialised, and -1 asks for a new descriptor.
    let fd = unsafe { libc::signalfd(-1, &raw const set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK) };
    check(fd)?;
    // SAFETY: the kernel just returned this descriptor, and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Sends `SIGKILL` to every process but this one.
pub(crate) fn kill_all_processes() -> io::Result<()> {
    // SAFETY: the call takes two integers.
    check(unsafe { libc::kill(-1, libc::SIGKILL) })
}

/// Makes this process run before every ordinary one; its children start as ordinary ones.
pub(crate) fn take_precedence() -> io::Result<()> {
    let parameters = libc::sched_param { sched_priority: 1 };
    let policy = libc::SCHED_RR | libc::SCHED_RESET_ON_FORK;
    // SAFETY: `parameters` outlives the call, which only reads it.
    check(unsafe { libc::sched_setscheduler(0, policy, &raw const parameters) })
}

/// Gives `entropy` to the kernel's random number generator, all of it counted as random, and makes
/// the generator use it at once.
///
/// `device` is `/dev/random` or `/dev/urandom`, see random(4).
pub(crate) fn reseed_random<const BYTES: usize>(
    device: impl AsFd,
    entropy: [u8; BYTES],
) -> io::Result<()> {
    /// `struct rand_pool_info` of linux/random.h with a pool of a fixed size.
    #[repr(C)]
    struct PoolInfo<const BYTES: usize> {
        entropy_bits: c_int,
        pool_bytes: c_int,
        pool: [u8; BYTES],
    }
    // libc has neither: linux/random.h, _IOW('R', 0x03, int[2]) and _IO('R', 0x07).
    const RNDADDENTROPY: libc::Ioctl = 0x4008_5203;
    const RNDRESEEDCRNG: libc::Ioctl = 0x5207;

    let pool_bytes = c_int::try_from(BYTES).map_err(io::Error::other)?;
    let pool = PoolInfo { entropy_bits: pool_bytes * 8, pool_bytes, pool: entropy };
    let device = device.as_fd().as_raw_fd();
    // SAFETY: `pool` has the layout the request expects and says its own length.
    check(unsafe { libc::ioctl(device, RNDADDENTROPY, &raw const pool) })?;
    // SAFETY: the request takes no argument.
    check(unsafe { libc::ioctl(device, RNDRESEEDCRNG) })
}

/// Brings the loopback interface up; the kernel gives it its addresses. `socket` is any
/// `AF_INET` socket.
pub(crate) fn bring_up_loopback(socket: impl AsFd) -> io::Result<()> {
    // The kernel's own interface has 16 bits for flags, libc's constants have 32.
    const UP: libc::c_short = 0x1;
    const _: () = assert!(UP as c_int == libc::IFF_UP);

    // SAFETY: the type consists of integers and raw pointers, for which zero is a value.
    let mut request: libc::ifreq = unsafe { mem::zeroed() };
    for (slot, byte) in request.ifr_name.iter_mut().zip(*b"lo") {
        *slot = c_char::from_ne_bytes([byte]);
    }
    request.ifr_ifru.ifru_flags = UP;
    // SAFETY: `request` is a whole `ifreq` with a terminated name.
    check(unsafe {
        libc::ioctl(socket.as_fd().as_raw_fd(), libc::SIOCSIFFLAGS, &raw const request)
    })
}

/// Replaces this process by `program`; returns only if that fails.
///
/// `arguments` and `environment` are the texts behind the two lists of pointers.
pub(crate) fn execute(
    program: &CStr,
    arguments: &CStringList,
    environment: &CStringList,
) -> io::Error {
    // SAFETY: the program is terminated, and so are both lists and every string in them.
    unsafe { libc::execve(program.as_ptr(), arguments.as_ptr(), environment.as_ptr()) };
    io::Error::last_os_error()
}

/// Texts in the form `execve` wants: a list of pointers that ends with a null.
#[derive(Debug)]
pub(crate) struct CStringList {
    pointers: Vec<*const c_char>,
    /// Owns what `pointers` point at.
    _texts: Vec<CString>,
}

impl CStringList {
    pub(crate) fn new(texts: Vec<CString>) -> Self {
        let pointers = texts.iter().map(|text| text.as_ptr()).chain([ptr::null()]).collect();
        Self { pointers, _texts: texts }
    }

    fn as_ptr(&self) -> *const *const c_char {
        self.pointers.as_ptr()
    }
}

/// Does `work` in a new process, born in `cgroup`, and returns once that process has executed a
/// program or ended; it ends if `work` returns.
///
/// The child borrows this process's memory instead of copying it (as vfork(2) does, which saves
/// the emulated guest a copy of the page tables and the page faults that follow), so what `work`
/// writes through `shared` is seen here afterwards. The caller must be single-threaded or `work`
/// limited to system calls.
///
/// glibc wraps `clone3` nowhere, and only `clone3` can start a process inside a cgroup: moving it
/// there afterwards waits for an RCU grace period.
pub(crate) fn run_in_child<T>(
    cgroup: Option<BorrowedFd<'_>>,
    shared: &mut T,
    work: fn(&mut T),
) -> io::Result<Pid> {
    // linux/sched.h; libc's constant is too narrow for its value.
    const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

    struct Context<'a, T> {
        shared: &'a mut T,
        work: fn(&mut T),
    }

    extern "C" fn enter<T>(context: &mut Context<'_, T>) -> ! {
        (context.work)(context.shared);
        // SAFETY: `_exit` ends this process and touches none of the memory it borrows.
        unsafe { libc::_exit(NOT_EXECUTED) }
    }

    let mut context = Context { shared, work };
    // In units that give the stack the alignment the ABI asks for.
    let mut stack = vec![0_u128; CHILD_STACK_BYTES / size_of::<u128>()];

    // SAFETY: the type consists of integers, for which zero is a value (and means "not used").
    let mut arguments: libc::clone_args = unsafe { mem::zeroed() };
    arguments.flags = (libc::CLONE_VM | libc::CLONE_VFORK).cast_unsigned().into();
    arguments.exit_signal = libc::SIGCHLD.cast_unsigned().into();
    arguments.stack = stack.as_mut_ptr() as u64;
    arguments.stack_size = CHILD_STACK_BYTES as u64;
    if let Some(cgroup) = cgroup {
        arguments.flags |= CLONE_INTO_CGROUP;
        arguments.cgroup = u64::from(cgroup.as_raw_fd().cast_unsigned());
    }

    let result: isize;
    // SAFETY: the child starts behind `syscall` with the parent's registers but on its own stack,
    // so it calls `enter`, which never returns, without touching the parent's frames. Until it is
    // gone or has executed another program the parent is suspended (CLONE_VFORK), so `context`,
    // `stack` and everything behind them stay alive and unshared. The parent itself sees a plain
    // system call, which changes rax, rcx and r11.
    unsafe {
        asm!(
            "syscall",
            "test rax, rax",
            "jnz 2f",
            "xor ebp, ebp", // where stack traces end
            "mov rdi, r12",
            "call r13",
            "ud2",
            "2:",
            inlateout("rax") libc::SYS_clone3 => result,
            in("rdi") &raw const arguments,
            in("rsi") size_of::<libc::clone_args>(),
            in("r12") &raw mut context,
            in("r13") enter::<T> as extern "C" fn(&mut Context<'_, T>) -> !,
            out("rcx") _,
            out("r11") _,
        );
    }
    let result = i32::try_from(result).map_err(io::Error::other)?;
    match result {
        1.. => Ok(Pid::from_raw(result).expect("a process id is not zero")),
        _ => Err(io::Error::from_raw_os_error(-result)),
    }
}

fn check(result: c_int) -> io::Result<()> {
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}
