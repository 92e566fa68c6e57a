//! One run, as a conversation sees it: whose it is, how far it has come, what its streams may still carry.

use std::time::{Duration, Instant};

use pyro_protocol::client::{EndReason, FromSupervisor, RunEnd};
use pyro_protocol::credit::Credit;
use pyro_protocol::frame::encode_message;
use pyro_protocol::guest::ToGuest;
use pyro_protocol::run::{RunId, Stream};

use super::{ClientId, KILL_GRACE, Outgoing, WAIT_MAX, to_guest};

/// A run that is not over.
#[derive(Debug)]
pub(super) struct Run {
    pub(super) client: ClientId,
    /// The number that its client knows.
    pub(super) number: RunId,
    /// Whether the agent says that the command is being executed.
    pub(super) progress: Progress,
    pub(super) state: RunState,
    pub(super) started: Instant,
    /// When the present state has lasted too long.
    pub(super) deadline: Instant,
    pub(super) stdin: Credit,
    stdout: Credit,
    stderr: Credit,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Progress {
    Requested,
    Started,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum RunState {
    Running,
    Ending(EndReason),
}

impl Run {
    pub(super) fn new(client: ClientId, number: RunId, now: Instant, timeout: Duration) -> Self {
        Self {
            client,
            number,
            progress: Progress::Requested,
            state: RunState::Running,
            started: now,
            deadline: now + timeout.min(WAIT_MAX),
            stdin: Credit::WINDOW,
            stdout: Credit::WINDOW,
            stderr: Credit::WINDOW,
        }
    }

    pub(super) fn end(&mut self, id: RunId, reason: EndReason, now: Instant) -> Outgoing {
        self.state = RunState::Ending(reason);
        self.deadline = now + KILL_GRACE;
        to_guest(&ToGuest::Kill { run: id })
    }

    /// Tells its client something about it, by the number that the client knows.
    pub(super) fn tell(&self, message: impl FnOnce(RunId) -> FromSupervisor) -> Outgoing {
        let frame = encode_message(&message(self.number));
        Outgoing::ToClient(self.client, frame.expect("what the guest adds to it is cut short"))
    }

    pub(super) fn ended(&self, end: RunEnd) -> Outgoing {
        Outgoing::Ended { client: self.client, run: self.number, end }
    }

    pub(super) fn output_credit(&mut self, stream: Stream) -> &mut Credit {
        match stream {
            Stream::Stdout => &mut self.stdout,
            Stream::Stderr => &mut self.stderr,
        }
    }
}
