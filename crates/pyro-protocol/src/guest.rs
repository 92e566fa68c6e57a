//! Messages between the supervisor and the agent in the guest.
//!
//! ```text
//!   supervisor                          agent
//!     Hello (nonce) ───────────────────►
//!                 ◄─────────────────── Welcome (nonce)
//!     Configure ───────────────────────►
//!                 ◄─────────────────── Ready
//!     WriteFile, in parts ─────────────►
//!                 ◄─────────────────── FileWritten | FileNotWritten
//!     Start 1 ─────────────────────────►
//!                 ◄─────────────────── Started 1, output frames, GrantStdin
//!     stdin frames, GrantOutput ───────►
//!                 ◄─────────────────── Exited 1
//!     PowerOff ────────────────────────►
//!                 ◄─────────────────── Goodbye
//! ```
//!
//! The agent's side is untrusted: the supervisor checks every number against what it asked for.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::run::{Command, ExitStatus, RunId, Stream, TerminalSize};

/// Random bytes given to the guest's kernel at every start: 512 bits, all counted as entropy.
pub const ENTROPY_BYTES: usize = 64;

/// The longest text an agent may send (an error, a kernel release), in bytes.
pub const TEXT_BYTES_MAX: usize = 1024;

/// The longest part of a file in one message, in bytes: with the longest path it fits into a frame.
pub const FILE_PART_BYTES_MAX: usize = 128 * 1024;

/// From the supervisor to the agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ToGuest {
    /// Gives the VM what must differ from every other: first message of every conversation.
    Configure(Identity),
    Start {
        run: RunId,
        command: Command,
    },
    /// More bytes of one output stream may be sent. Each stream starts with
    /// [`Credit::WINDOW`](crate::credit::Credit::WINDOW).
    GrantOutput {
        run: RunId,
        stream: Stream,
        bytes: u32,
    },
    /// Ends every process the run started, at once. Its `Exited` follows.
    Kill {
        run: RunId,
    },
    /// Asks for a sign of life.
    Ping,
    /// Writes everything to the scratch disk, says goodbye and powers off.
    PowerOff,
    /// A run's terminal has another size now.
    Resize {
        run: RunId,
        size: TerminalSize,
    },
    /// The next bytes of a file that this VM has and others made from its template have not. The parts of
    /// one file follow each other; with the last one it takes the place of what was there.
    WriteFile {
        /// Absolute. Its directories are made where they are missing.
        path: String,
        /// At most [`FILE_PART_BYTES_MAX`].
        bytes: Vec<u8>,
        part: FilePart,
    },
}

/// Whether more of a file follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum FilePart {
    More,
    Last,
}

/// What makes one VM different from all others made from the same template.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// The host's clock, since the Unix epoch.
    pub time: Duration,
    /// [`ENTROPY_BYTES`] random bytes.
    pub entropy: Vec<u8>,
    /// 32 lower-case hex digits, see machine-id(5).
    pub machine_id: String,
    /// A valid host name, at most 64 bytes.
    pub hostname: String,
}

/// From the agent to the supervisor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum FromGuest {
    /// The identity is in place; commands can start.
    Ready(BootReport),
    Started {
        run: RunId,
    },
    /// The command could not be executed at all. Nothing follows for this run.
    StartFailed {
        run: RunId,
        reason: String,
    },
    /// More bytes of standard input may be sent; the window starts at
    /// [`Credit::WINDOW`](crate::credit::Credit::WINDOW).
    GrantStdin {
        run: RunId,
        bytes: u32,
    },
    /// The command's own process ended and all output it left in its pipes was sent before this.
    Exited {
        run: RunId,
        status: ExitStatus,
        /// The guest's kernel killed some process of this run because memory ran out.
        out_of_memory: bool,
    },
    Pong,
    /// The scratch disk is clean; power goes off next.
    Goodbye,
    /// The agent cannot go on, and why. The VM is useless.
    Fatal {
        reason: String,
    },
    /// The file whose last part came is in its place.
    FileWritten,
    /// The file that was begun is not written, and no part of it is left. Comes once, after its last part.
    FileNotWritten {
        reason: String,
    },
}

/// What the agent saw of its own boot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BootReport {
    /// As `uname -r` prints it.
    pub kernel_release: String,
    /// Time since the guest's kernel started, at the end of each phase, in order.
    pub phases: Vec<BootPhase>,
}

/// One step of the guest's boot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BootPhase {
    pub name: String,
    pub since_kernel_start: Duration,
}
