//! What the agent waits for: computed anew from its state each turn, so that there is no second
//! record of it that could disagree.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;

use crate::input::Input;
use crate::leftover::Leftover;
use crate::output::Output;
use crate::port::Port;
use crate::run::Run;

/// What a ready descriptor belongs to, by place in the agent's lists.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Source {
    Children,
    Output { run: usize, output: usize },
    Input { run: usize },
    RunProcesses { run: usize },
    LeftoverPipes { leftover: usize },
    LeftoverProcesses { leftover: usize },
    Port,
}

/// The descriptors to wait for, with what each belongs to.
#[derive(Debug, Default)]
pub(crate) struct Interests<'a> {
    sources: Vec<Source>,
    descriptors: Vec<PollFd<'a>>,
}

impl<'a> Interests<'a> {
    pub(crate) fn add_children(&mut self, signals: &'a OwnedFd) {
        self.add(Source::Children, signals.as_fd(), PollFlags::IN);
    }

    /// Output is waited for only while the port has room for it: this is what slows a command.
    pub(crate) fn add_run(&mut self, run: usize, state: &'a Run, port: &Port) {
        if port.has_room() {
            for (output, pipe) in state.outputs.iter().map(Output::readable_pipe).enumerate() {
                self.add_some(Source::Output { run, output }, pipe, PollFlags::IN);
            }
        }
        let stdin = state.stdin.as_ref().and_then(Input::writable_pipe);
        self.add_some(Source::Input { run }, stdin, PollFlags::OUT);
        let change = state.processes.change().filter(|_| state.awaits_processes());
        self.add_some(Source::RunProcesses { run }, change, PollFlags::PRI);
    }

    pub(crate) fn add_leftover(&mut self, leftover: usize, state: &'a Leftover) {
        for pipe in &state.pipes {
            let source = Source::LeftoverPipes { leftover };
            self.add(source, pipe.as_fd(), PollFlags::IN);
        }
        let source = Source::LeftoverProcesses { leftover };
        self.add_some(source, state.processes.change(), PollFlags::PRI);
    }

    pub(crate) fn add_port(&mut self, port: &'a Port) {
        let (descriptor, flags) = port.interest();
        self.add(Source::Port, descriptor, flags);
    }

    /// Waits until something is ready, and returns what, in the order of addition.
    pub(crate) fn wait(mut self) -> Result<Vec<Source>, Errno> {
        match poll(&mut self.descriptors, None) {
            Ok(_) => {}
            Err(Errno::INTR) => return Ok(Vec::new()),
            Err(error) => return Err(error),
        }
        let all = self.sources.into_iter().zip(&self.descriptors);
        let ready = all.filter(|(_, descriptor)| !descriptor.revents().is_empty());
        Ok(ready.map(|(source, _)| source).collect())
    }

    fn add_some(&mut self, source: Source, descriptor: Option<BorrowedFd<'a>>, flags: PollFlags) {
        if let Some(descriptor) = descriptor {
            self.add(source, descriptor, flags);
        }
    }

    fn add(&mut self, source: Source, descriptor: BorrowedFd<'a>, flags: PollFlags) {
        self.sources.push(source);
        self.descriptors.push(PollFd::from_borrowed_fd(descriptor, flags));
    }
}
