//! Spares: machines that were restored ahead, have run their first commands, and stand still until somebody claims
//! one. Two thirds of what a restored VM needs for its first command is the emulator's translation of code, and a spare
//! has that behind it.
//!
//! ```text
//!   make ──► wait ──claim──► resume ──► owner: a VM like any other
//!              │
//!              └─ its owner leaves, it was idle for too long, its machine ends ──► gone
//! ```
//!
//! Who gets a spare is decided by its supervisor alone: the first one that connects and asks. So there is no state in
//! between in which nobody has it, whoever is killed.

pub(crate) mod key;

pub(crate) mod make;

pub(crate) mod house;

pub(crate) mod wait;

pub mod client;
