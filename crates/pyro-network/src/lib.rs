//! A VM's network: TCP, UDP and names of the guest, carried by ordinary sockets of this process, as far as the
//! VM's policies allow.
//!
//! No privilege and no network device is needed. The guest's packets come over a socket from QEMU and are
//! hostile.

mod network;

mod driver;
mod failure;
mod means;
mod sources;
mod timers;

mod line;
mod link;
mod packet;
mod stack;

mod dns;
mod icmp;
mod tcp;
mod udp;

mod address;
mod gate;
mod names;
mod policy;
mod refusals;

#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzzing;

pub use self::network::{PreparedNetwork, PublishError, RunningNetwork};
pub use self::refusals::{RefusalLog, RefusalWatch};
