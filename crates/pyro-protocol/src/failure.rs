//! A failure, as it crosses process boundaries and as every surface shows it.

use std::error::Error;
use std::fmt;

use serde::{Deserialize, Serialize};

/// Hints and causes kept of one failure; a chain is never this long in practice.
const LINES_MAX: usize = 16;

/// What went wrong, by what the caller can do about it. Stable: the code is public.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FailureKind {
    /// A value is outside its limits or malformed; nothing was done.
    InvalidInput,
    /// The catalog has no environment of this name.
    UnknownEnvironment,
    /// The environment could not be fetched, built or verified.
    EnvironmentUnavailable,
    /// A disk is too full.
    NoSpace,
    /// The host lacks something that VMs need.
    HostUnsupported,
    /// The VM did not start.
    VmStartFailed,
    /// The VM died, or broke the protocol, in the middle of its work.
    VmLost,
    /// The VM's time to live is over.
    VmExpired,
    /// The caller asked for something that this version cannot do yet.
    NotAvailable,
    /// The caller ended the work before it was done.
    Interrupted,
    /// A defect in pyro.
    Internal,
    /// There is no VM of this name, or no longer.
    UnknownVm,
    /// The VM cannot do this in the state that it is in.
    WrongVmState,
    /// There are as many VMs as there may be.
    TooManyVms,
    /// A call took longer than whoever serves it allows.
    DeadlineReached,
}

impl FailureKind {
    pub const ALL: [Self; 15] = [
        Self::InvalidInput,
        Self::UnknownEnvironment,
        Self::EnvironmentUnavailable,
        Self::NoSpace,
        Self::HostUnsupported,
        Self::VmStartFailed,
        Self::VmLost,
        Self::VmExpired,
        Self::NotAvailable,
        Self::Interrupted,
        Self::Internal,
        Self::UnknownVm,
        Self::WrongVmState,
        Self::TooManyVms,
        Self::DeadlineReached,
    ];

    /// The stable name, as in `{"error": {"code": …}}`.
    pub fn code(self) -> &'static str {
        match self {
            Self::InvalidInput => "invalid_input",
            Self::UnknownEnvironment => "unknown_environment",
            Self::EnvironmentUnavailable => "environment_unavailable",
            Self::NoSpace => "no_space",
            Self::HostUnsupported => "host_unsupported",
            Self::VmStartFailed => "vm_start_failed",
            Self::VmLost => "vm_lost",
            Self::VmExpired => "vm_expired",
            Self::NotAvailable => "not_available",
            Self::Interrupted => "interrupted",
            Self::Internal => "internal",
            Self::UnknownVm => "unknown_vm",
            Self::WrongVmState => "wrong_vm_state",
            Self::TooManyVms => "too_many_vms",
            Self::DeadlineReached => "deadline_reached",
        }
    }
}

/// An error that survives a process boundary: the chain of causes as text, and what to do about it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    pub kind: FailureKind,
    pub message: String,
    /// From the nearest cause to the root.
    pub causes: Vec<String>,
    /// What the user can do, each a whole sentence without a full stop.
    pub hints: Vec<String>,
}

impl Failure {
    /// A failure without causes or hints.
    pub fn new(kind: FailureKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), causes: Vec::new(), hints: Vec::new() }
    }

    /// Takes the message and the chain of causes from `error`, and what helps where that can happen anywhere.
    pub fn from_error(kind: FailureKind, error: &(dyn Error + 'static)) -> Self {
        let mut failure = Self::new(kind, error.to_string());
        failure.causes = chain(error);
        if is_short_of_descriptors(error) {
            return failure.hint("allow more open files, for instance with `ulimit -n 4096`");
        }
        failure
    }

    /// The message and its causes in one line.
    pub fn one_line(&self) -> String {
        let texts: Vec<_> =
            std::iter::once(&self.message).chain(&self.causes).map(String::as_str).collect();
        texts.join(": ")
    }

    /// Puts `message` in front: what was there becomes its cause.
    #[must_use]
    pub fn context(mut self, message: impl Into<String>) -> Self {
        let cause = std::mem::replace(&mut self.message, message.into());
        self.causes.insert(0, cause);
        self.causes.truncate(LINES_MAX);
        self
    }

    /// Adds `cause` behind the causes that are known.
    #[must_use]
    pub fn cause(mut self, cause: impl Into<String>) -> Self {
        if self.causes.len() < LINES_MAX {
            self.causes.push(cause.into());
        }
        self
    }

    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        if self.hints.len() < LINES_MAX {
            self.hints.push(hint.into());
        }
        self
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.message)
    }
}

impl Error for Failure {}

/// An error whose type can be asked for.
type Cause = dyn Error + 'static;

/// The texts of an error's causes, nearest first.
fn chain(error: &Cause) -> Vec<String> {
    with_causes(error).skip(1).map(ToString::to_string).collect()
}

fn with_causes(error: &Cause) -> impl Iterator<Item = &Cause> {
    std::iter::successors(Some(error), |&error| error.source()).take(LINES_MAX + 1)
}

/// Whether this process has as many open files as it may have.
fn is_short_of_descriptors(error: &Cause) -> bool {
    /// In the words of Linux.
    const EMFILE: i32 = 24;
    let of_system = |error: &Cause| {
        error.downcast_ref::<std::io::Error>().and_then(std::io::Error::raw_os_error)
    };
    with_causes(error).any(|error| of_system(error) == Some(EMFILE))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("cannot start the VM")]
    struct Outer {
        source: std::io::Error,
    }

    #[test]
    fn the_chain_of_causes_is_kept_in_order() {
        let error = Outer { source: std::io::Error::other("no such device") };
        let failure = Failure::from_error(FailureKind::VmStartFailed, &error)
            .context("cannot run the command");
        assert_eq!(failure.message, "cannot run the command");
        assert_eq!(failure.causes, ["cannot start the VM", "no such device"]);
        let line = "cannot run the command: cannot start the VM: no such device";
        assert_eq!(failure.one_line(), line);
    }

    #[test]
    fn what_helps_where_no_file_can_be_opened_is_said_wherever_that_is() {
        let hints = |number| {
            let source = std::io::Error::from_raw_os_error(number);
            Failure::from_error(FailureKind::VmStartFailed, &Outer { source }).hints
        };
        assert_eq!(hints(24), ["allow more open files, for instance with `ulimit -n 4096`"]);
        assert_eq!(hints(2), [""; 0]);
        let itself = std::io::Error::from_raw_os_error(24);
        assert_eq!(Failure::from_error(FailureKind::Internal, &itself).hints, hints(24));
    }

    #[test]
    fn every_code_is_unique() {
        let mut codes: Vec<_> = FailureKind::ALL.iter().map(|kind| kind.code()).collect();
        codes.sort_unstable();
        codes.dedup();
        assert_eq!(codes.len(), FailureKind::ALL.len());
    }
}
