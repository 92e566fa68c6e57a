//! The only `unsafe` code of this crate: taking over an inherited descriptor, and watching one.

#![allow(unsafe_code, reason = "this file is the place for it")]

use std::io;
use std::os::fd::{BorrowedFd, FromRawFd, OwnedFd, RawFd};

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Takes over descriptor `number`, if it is an open socket. Call it once per number.
pub(crate) fn inherited_socket(number: RawFd) -> Option<OwnedFd> {
    // SAFETY: the descriptor is only asked for its type, and an unused number makes that fail.
    let descriptor = unsafe { BorrowedFd::borrow_raw(number) };
    rustix::net::sockopt::socket_type(descriptor).ok()?;
    inherited_file(number)
}

/// Takes over descriptor `number`, if it is open. Call it once per number.
pub(crate) fn inherited_file(number: RawFd) -> Option<OwnedFd> {
    // SAFETY: the descriptor is only asked for its flags, and an unused number makes that fail.
    let descriptor = unsafe { BorrowedFd::borrow_raw(number) };
    rustix::io::fcntl_getfd(descriptor).ok()?;
    // SAFETY: the process was started with this descriptor for this purpose, so it has no other owner.
    let file = unsafe { OwnedFd::from_raw_fd(number) };
    // Or every program started later would hold it, too.
    rustix::io::fcntl_setfd(&file, rustix::io::FdFlags::CLOEXEC).ok()?;
    Some(file)
}

/// Has the runtime watch when a descriptor becomes readable.
pub(crate) fn watch(descriptor: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: it stays open, under the same number, for as long as it is owned.
    let watched = unsafe { AsyncFd::register_with_interest(descriptor, Interest::READABLE) };
    watched.map_err(io::Error::from)
}
