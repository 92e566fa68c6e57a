//! A whole network, with a guest at its line and servers on the host's loopback.

#![allow(clippy::unwrap_used, reason = "these are tests")]

mod guest;

mod datagrams;

mod end;

mod names;

mod published;

mod tcp;
