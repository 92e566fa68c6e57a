//! Names: the guest's name server is the gateway, which looks up what may be looked up, and remembers what it found.

pub(crate) mod conversation;
pub(crate) mod lookups;
pub(crate) mod message;
mod upstream;
