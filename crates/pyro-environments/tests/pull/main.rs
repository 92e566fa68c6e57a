//! Pulls that really happen: from the Debian archive, with the real tools,
//! and with what goes wrong with them in the field.
//!
//! They need what `cargo xtask demo` installs, and fail where it is missing.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails, here as in unit tests")]

mod damage;
mod disk_space;
mod image;
mod interruption;
mod mirrors;
mod puller;
mod store;
mod traces;
mod users;
