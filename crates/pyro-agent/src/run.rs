//! One run, from its start to the moment its end is reported.
//!
//! ```text
//!              the command exits                 its output is sent
//!   running ─────────────────────────► flushing ────────────────────► ended (a leftover remains)
//!      │ kill                             ▲
//!      ▼     the command exits and        │
//!   killed ───────────────────────────────┘
//!           no process is left
//! ```

use std::os::fd::OwnedFd;

use pyro_protocol::run::{ExitStatus, RunId, Stream, TerminalSize};

use crate::input::{EndOfInput, Input};
use crate::leftover::Leftover;
use crate::output::Output;
use crate::processes::Processes;
use crate::streams::{self, AgentEnds};

/// A run whose end was not reported yet.
#[derive(Debug)]
pub(crate) struct Run {
    pub(crate) id: RunId,
    pub(crate) stdin: Option<Input>,
    pub(crate) outputs: [Output; 2],
    pub(crate) processes: Processes,
    terminal: Option<OwnedFd>,
    status: Option<ExitStatus>,
    fate: Fate,
}

/// Whether the run was killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    ItsOwn,
    Killed,
}

impl Run {
    pub(crate) fn new(id: RunId, streams: AgentEnds, processes: Processes) -> Self {
        let (stdin, stdout, stderr, terminal) = match streams {
            AgentEnds::Pipes { stdin, stdout, stderr } => {
                let stdin = stdin.map(|pipe| Input::new(pipe, EndOfInput::Closed));
                (stdin, Output::new(Stream::Stdout, stdout), Some(stderr), None)
            }
            AgentEnds::Terminal { input, output, control } => {
                let stdin = Some(Input::new(input, EndOfInput::Typed));
                (stdin, Output::of_terminal(output), None, Some(control))
            }
        };
        let stderr = stderr.map_or_else(Output::none, |pipe| Output::new(Stream::Stderr, pipe));
        Self {
            id,
            stdin,
            outputs: [stdout, stderr],
            processes,
            terminal,
            status: None,
            fate: Fate::ItsOwn,
        }
    }

    /// Tells its terminal, if it has one, that it has another size.
    pub(crate) fn resize(&self, size: TerminalSize) {
        if let Some(terminal) = &self.terminal {
            // It fails for no size that exists, and a command can do without.
            let _ = streams::resize(terminal, size);
        }
    }

    pub(crate) fn output(&mut self, stream: Stream) -> &mut Output {
        match stream {
            Stream::Stdout => &mut self.outputs[0],
            Stream::Stderr => &mut self.outputs[1],
        }
    }

    /// Ends every process of the run. Its end is then reported only once none is left.
    pub(crate) fn kill(&mut self) {
        self.fate = Fate::Killed;
        self.processes.kill();
    }

    /// Records how the command's own process ended.
    pub(crate) fn note_exit(&mut self, status: ExitStatus) {
        self.status = Some(status);
        self.stdin = None;
        self.processes.notice_change();
    }

    /// Whether the run's end waits for its last process.
    pub(crate) fn awaits_processes(&self) -> bool {
        self.status.is_some() && self.fate == Fate::Killed && self.processes.are_alive()
    }

    /// The exit status, once nothing more is to be sent before it.
    pub(crate) fn end(&mut self) -> Option<ExitStatus> {
        let status = self.status?;
        if self.awaits_processes() {
            return None;
        }
        for output in &mut self.outputs {
            output.seal();
        }
        self.outputs.iter().all(Output::is_spent).then_some(status)
    }

    /// What remains to be looked after when the host needs to hear no more of the run.
    pub(crate) fn into_leftover(self) -> Leftover {
        let pipes = self.outputs.into_iter().filter_map(Output::into_pipe);
        Leftover::new(Some(self.id), self.processes, pipes.collect())
    }
}
