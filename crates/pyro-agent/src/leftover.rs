//! What a run left behind when its end was reported: background processes that go on living.
//!
//! Their output is nobody's, but it is read all the same, because a full or broken pipe would stop
//! or kill them.

use std::os::fd::OwnedFd;

use pyro_protocol::run::RunId;
use rustix::io::Errno;

use crate::processes::Processes;

/// Reads per pipe and turn, so that a background process that floods does not delay the others.
const READS_PER_TURN: usize = 4;

/// The processes and pipes of a run that is over.
#[derive(Debug)]
pub(crate) struct Leftover {
    /// How the host can still name it; `None` once its conversation is over.
    id: Option<RunId>,
    pub(crate) processes: Processes,
    pub(crate) pipes: Vec<OwnedFd>,
}

impl Leftover {
    pub(crate) fn new(id: Option<RunId>, processes: Processes, pipes: Vec<OwnedFd>) -> Self {
        Self { id, processes, pipes }
    }

    pub(crate) fn is(&self, run: RunId) -> bool {
        self.id == Some(run)
    }

    /// Kills the processes and makes them unknown to the next conversation.
    pub(crate) fn disown(&mut self) {
        self.id = None;
        self.processes.kill();
    }

    /// Reads the pipes and forgets what they held, and those that have ended.
    pub(crate) fn drain(&mut self, buffer: &mut [u8]) {
        self.pipes.retain(|pipe| {
            for _ in 0..READS_PER_TURN {
                match rustix::io::read(pipe, &mut *buffer) {
                    Ok(0) => return false,
                    Ok(_) | Err(Errno::INTR) => {}
                    Err(Errno::AGAIN) => return true,
                    // A terminal that nobody holds any more.
                    Err(_) => return false,
                }
            }
            true
        });
    }

    /// Whether nothing is left of the run.
    pub(crate) fn is_gone(&self) -> bool {
        self.pipes.is_empty() && !self.processes.are_alive()
    }
}
