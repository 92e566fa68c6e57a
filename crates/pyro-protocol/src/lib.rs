//! Every byte that crosses a process boundary of pyro.
//!
//! There are two links, and both speak the same frames ([`frame`]):
//!
//! ```text
//!   client (surface + core) ◄──[client]──► supervisor ◄──[guest]──► agent (PID 1 in the VM)
//!          trusted                           trusted                  hostile
//! ```
//!
//! Each link starts with a fixed-size [`handshake`]. After it come frames: control messages
//! ([`client`], [`guest`]) and raw bytes of standard streams, which flow under [`credit`].
//! This crate does no I/O and knows no async runtime: bytes in, values out, and back.

pub mod frame;

pub mod handshake;

pub mod credit;

pub mod run;

pub mod guest;

pub mod layout;

pub mod client;

pub mod record;

pub mod network;

pub mod failure;

#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzzing;
