//! The only `unsafe` code of this program: taking over what QEMU would inherit.

#![allow(unsafe_code, reason = "this file is the place for it")]

use std::os::fd::{FromRawFd, RawFd};
use std::os::unix::net::UnixStream;

/// Takes over the socket with this number. Call it once per number.
pub(crate) fn inherited_socket(number: RawFd) -> UnixStream {
    // SAFETY: whoever starts QEMU passes a socket under this number, which has no other owner.
    unsafe { UnixStream::from_raw_fd(number) }
}
