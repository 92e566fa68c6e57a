//! What guests and clients can do wrong.

use pyro_protocol::credit::CreditExceeded;
use pyro_protocol::frame::FrameError;

use crate::conversation::KILL_GRACE;

/// The guest did what an honest agent never does, or nothing at all. The VM must be destroyed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum GuestFault {
    #[error("the guest's agent broke the protocol")]
    Malformed { source: FrameError },
    #[error("the guest's agent sent more than it may")]
    BeyondCredit { source: CreditExceeded },
    #[error("the guest's agent spoke of a run that does not exist")]
    UnknownRun,
    #[error("the guest's agent sent a message out of turn")]
    OutOfTurn,
    #[error("the guest's agent told of an end by signal {signal}, which Linux does not have")]
    NoSignal { signal: u8 },
    #[error("the guest's agent gave up: {reason}")]
    GaveUp { reason: String },
    #[error("the guest's agent does not read what it is sent")]
    Deaf,
    #[error("the guest did not end a command within {} seconds", KILL_GRACE.as_secs())]
    Unresponsive,
    #[error("the VM's network broke down over what the guest had sent")]
    NetworkFailed,
}

/// The client did what an honest client never does.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ClientFault {
    #[error("the client broke the protocol")]
    Malformed { source: FrameError },
    #[error("the client sent or granted more than it may")]
    BeyondCredit { source: CreditExceeded },
    #[error("the client sent a message out of turn")]
    OutOfTurn,
}
