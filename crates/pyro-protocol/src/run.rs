//! What a run is, on every link: its identity, its streams, how it ends.

use serde::{Deserialize, Serialize};

/// The longest command accepted, in bytes. Linux caps a single argument at 128 KiB
/// (`MAX_ARG_STRLEN`, execve(2)), and a command is one argument of `sh -lc`.
pub const COMMAND_BYTES_MAX: usize = 128 * 1024 - 1;

/// All environment variables of a command together, in bytes.
pub const ENVIRONMENT_BYTES_MAX: usize = 128 * 1024;

/// The longest working directory, in bytes (`PATH_MAX`).
pub const WORKING_DIRECTORY_BYTES_MAX: usize = 4096;

const _: () = assert!(
    COMMAND_BYTES_MAX + ENVIRONMENT_BYTES_MAX + WORKING_DIRECTORY_BYTES_MAX + 4096
        <= crate::frame::PAYLOAD_BYTES_MAX
);

/// Names one run on one link. The side that starts the run chooses it, and never uses it twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct RunId(pub u32);

impl RunId {
    /// Stands in frames that belong to no run.
    pub const NONE: Self = Self(0);
}

/// An output stream of a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Stream {
    Stdout,
    Stderr,
}

/// Where a command's standard input comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Stdin {
    /// `/dev/null`.
    Empty,
    /// Stdin frames, until an empty one.
    Piped,
    /// A terminal of this size, which is its standard output and its standard error as well: what is written to
    /// either comes as standard output. Stdin frames are what is typed, and an empty one is the end-of-file
    /// character.
    Terminal(TerminalSize),
}

/// The size of a terminal, in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct TerminalSize {
    pub columns: u16,
    pub rows: u16,
}

/// How a command's process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum ExitStatus {
    /// It returned this exit code (0 to 255).
    Exited { code: u8 },
    /// This signal killed it.
    Signaled { signal: u8 },
}

impl ExitStatus {
    /// The exit code a shell would report: 128 plus the signal for a killed process.
    pub fn exit_code(self) -> i32 {
        match self {
            Self::Exited { code } => i32::from(code),
            Self::Signaled { signal } => 128 + i32::from(signal),
        }
    }
}

/// One command to be run in a guest as root, in its own process group and cgroup.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Command {
    /// Given to `/bin/sh -lc`; at most [`COMMAND_BYTES_MAX`].
    pub shell: String,
    /// Added to the guest's default environment, `NAME` and value.
    pub environment: Vec<(String, String)>,
    /// `None` for root's home.
    pub working_directory: Option<String>,
    pub stdin: Stdin,
}
