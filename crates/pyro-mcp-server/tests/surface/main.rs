//! The server as clients see it, without a VM: over an in-memory duplex, and over HTTP.
//!
//! Where a command has to run, it runs on the host: the server allows that, and lacks what VMs need.

#![allow(clippy::unwrap_used, reason = "these are tests")]

mod answers;
mod client;
mod direct;
mod http;
mod lines;
mod refusals;
mod running;
mod tools;
