//! The only `unsafe` code of this crate: what the kernel and the CPU offer without a safe wrapper.

#![allow(unsafe_code, reason = "this file is the place for it")]

use std::io;
use std::os::unix::process::CommandExt;
use std::process::Command;

use kvm_bindings::kvm_userspace_memory_region;
use kvm_ioctls::VmFd;
use rustix::process::{Pid, Signal, getppid, set_parent_process_death_signal};

/// Makes the child of `command` die with the thread that starts it, and never gain a privilege.
///
/// The kernel ties the parent-death signal to the starting *thread* (`PR_SET_PDEATHSIG`, prctl(2)):
/// start children from the thread that lives as long as the process.
pub(crate) fn die_with_parent(command: &mut Command, parent: Pid) {
    let in_child = move || -> io::Result<()> {
        set_parent_process_death_signal(Some(Signal::KILL))?;
        // A parent that died before the line above would never be noticed.
        if getppid() != Some(parent) {
            return Err(io::Error::from(rustix::io::Errno::SRCH));
        }
        rustix::thread::set_no_new_privs(true)?;
        Ok(())
    };
    // SAFETY: the closure makes three system calls and allocates nothing, so it may run between
    // fork and exec.
    unsafe {
        command.pre_exec(in_child);
    }
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
