//! The agent at work: one thread, one loop, nothing that blocks.
//!
//! Every turn waits for the descriptors that matter in the present state, moves a bounded amount
//! of bytes for each that is ready, reports runs that are over, sends, and last does what nobody
//! waits for.

use std::io;
use std::os::fd::OwnedFd;

use pyro_protocol::credit::CreditExceeded;
use pyro_protocol::frame::{CHUNK_BYTES_MAX, FrameError, FrameKind, encode_chunk, encode_message};
use pyro_protocol::guest::{BootReport, FromGuest, Identity, ToGuest};
use pyro_protocol::handshake::Hello;
use pyro_protocol::run::{Command, ExitStatus, RunId};
use rustix::io::Errno;
use rustix::process::{Signal, WaitOptions, WaitStatus, getpid, kill_process, wait};

use crate::boot::Booted;
use crate::cgroup::RunsCgroup;
use crate::conversation::{Conversation, Heard};
use crate::files::Files;
use crate::identity::IdentityError;
use crate::input::Input;
use crate::leftover::Leftover;
use crate::network::Network;
use crate::port::{Port, Received};
use crate::processes::Processes;
use crate::readiness::{Interests, Source};
use crate::root::Scratch;
use crate::run::Run;
use crate::{command, console, identity};

/// Runs that may have processes at the same time, those that are over but left some included.
const RUNS_MAX: usize = 128;

/// Descriptors a run can hold: three pipes or three of a terminal, its cgroup's directory and events.
const RUN_DESCRIPTORS_MAX: usize = 5;

/// The soft limit of open files that Linux starts PID 1 with.
const OPEN_FILES_MAX: usize = 1024;

const _: () = assert!(RUNS_MAX * RUN_DESCRIPTORS_MAX + 64 <= OPEN_FILES_MAX);

/// Reads from the port per turn; each brings 4 KiB at most.
const PORT_READS_PER_TURN: usize = 32;

/// Children reaped per turn, so that a fork bomb cannot keep the agent from its other work.
const CHILDREN_PER_TURN: usize = 256;

/// The agent of a guest that has booted.
#[derive(Debug)]
pub(crate) struct Agent {
    port: Port,
    conversation: Conversation,
    configuration: Configuration,
    child_exits: OwnedFd,
    cgroups: Option<RunsCgroup>,
    runs: Vec<Run>,
    leftovers: Vec<Leftover>,
    files: Files,
    network: Network,
    boot: BootReport,
    /// Of [`CHUNK_BYTES_MAX`] bytes: whatever is read passes through it.
    buffer: Box<[u8]>,
}

/// Why the agent cannot go on.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ServeError {
    #[error("the host does not speak the protocol")]
    Protocol { source: FrameError },
    #[error("the host breaks the credit of run {}", run.0)]
    Credit { run: RunId, source: CreditExceeded },
    #[error("the VM cannot take its identity")]
    Identity { source: IdentityError },
    #[error("the port to the host failed")]
    Port { source: io::Error },
    #[error("cannot wait for events")]
    Wait { source: Errno },
}

/// Whether the present conversation has given the VM its identity.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Configuration {
    Missing,
    Done,
}

/// What follows a turn of the loop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Next {
    Turn,
    PowerOff,
}

impl Agent {
    /// Also gives back what the agent's last words need.
    pub(crate) fn new(port: Port, booted: Booted) -> (Self, Scratch) {
        let Booted { scratch, cgroups, network, child_exits, report: boot } = booted;
        let agent = Self {
            port,
            conversation: Conversation::default(),
            configuration: Configuration::Missing,
            child_exits,
            cgroups,
            runs: Vec::new(),
            leftovers: Vec::new(),
            files: Files::default(),
            network,
            boot,
            buffer: vec![0; CHUNK_BYTES_MAX].into_boxed_slice(),
        };
        (agent, scratch)
    }

    /// Serves one conversation after the other, until one asks to power off.
    pub(crate) fn serve(&mut self) -> Result<(), ServeError> {
        while self.turn()? == Next::Turn {}
        Ok(())
    }

    /// Gives the port back for the last words.
    pub(crate) fn into_port(self) -> Port {
        self.port
    }

    fn turn(&mut self) -> Result<Next, ServeError> {
        let ready = self.interests().wait();
        let ready = ready.map_err(|source| ServeError::Wait { source })?;
        let mut next = Next::Turn;
        for source in ready {
            match source {
                Source::Children => self.reap(),
                Source::Output { run, output } => self.forward_output(run, output)?,
                Source::Input { run } => self.feed_input(run)?,
                Source::RunProcesses { run } => self.runs[run].processes.notice_change(),
                Source::LeftoverPipes { leftover } => {
                    self.leftovers[leftover].drain(&mut self.buffer);
                }
                Source::LeftoverProcesses { leftover } => {
                    self.leftovers[leftover].processes.notice_change();
                }
                Source::Port => next = self.listen()?,
            }
        }
        self.report()?;
        self.port.flush().map_err(|source| ServeError::Port { source })?;
        self.tidy_up();
        Ok(next)
    }

    fn interests(&self) -> Interests<'_> {
        let mut interests = Interests::default();
        interests.add_children(&self.child_exits);
        for (index, run) in self.runs.iter().enumerate() {
            interests.add_run(index, run, &self.port);
        }
        for (index, leftover) in self.leftovers.iter().enumerate() {
            interests.add_leftover(index, leftover);
        }
        // Last, because what the host says changes the lists that the other sources index.
        interests.add_port(&self.port);
        interests
    }

    /// Reports the runs that are over.
    fn report(&mut self) -> Result<(), ServeError> {
        let mut index = 0;
        while let Some(run) = self.runs.get_mut(index) {
            let Some(status) = run.end() else {
                index += 1;
                continue;
            };
            let run = self.runs.remove(index);
            self.say(&FromGuest::Exited {
                run: run.id,
                status,
                out_of_memory: run.processes.ran_out_of_memory(),
            })?;
            let mut leftover = run.into_leftover();
            // The last of them may have ended just now, and then the next run can have its number.
            leftover.processes.notice_change();
            self.leftovers.push(leftover);
        }
        // So that everyone is the first to use the port's room in turn.
        if self.runs.len() > 1 {
            self.runs.rotate_left(1);
        }
        Ok(())
    }

    /// Does what nobody waits for: forgets the leftovers that are gone, and prepares for the next run.
    fn tidy_up(&mut self) {
        self.leftovers.retain(|leftover| !leftover.is_gone());
        if let Some(cgroups) = self.cgroups.as_mut().filter(|_| self.runs.is_empty()) {
            cgroups.prepare();
        }
    }

    /// Collects the children that have ended: commands, and every orphan of the guest.
    fn reap(&mut self) {
        // The signal says "some", however many they are. It is taken before they are collected, so
        // that one which ends meanwhile raises it again.
        let mut signal = [0; 128];
        let _ = rustix::io::read(&self.child_exits, &mut signal[..]);
        for _ in 0..CHILDREN_PER_TURN {
            let Ok(Some((pid, status))) = wait(WaitOptions::NOHANG) else {
                return;
            };
            let command = |run: &&mut Run| run.processes.command() == pid;
            if let Some(run) = self.runs.iter_mut().find(command) {
                run.note_exit(exit_status(status));
            }
        }
        // There may be more: they get their next turn.
        let _ = kill_process(getpid(), Signal::CHILD);
    }

    fn forward_output(&mut self, run: usize, output: usize) -> Result<(), ServeError> {
        if !self.port.has_room() {
            return Ok(());
        }
        let run = &mut self.runs[run];
        let output = &mut run.outputs[output];
        if let Some(chunk) = output.read_chunk(&mut self.buffer) {
            let kind = FrameKind::Output(output.stream());
            let frame = encode_chunk(kind, run.id, chunk)
                .map_err(|source| ServeError::Protocol { source })?;
            self.port.send(&frame);
        }
        Ok(())
    }

    fn feed_input(&mut self, run: usize) -> Result<(), ServeError> {
        let run = &mut self.runs[run];
        let grant = run.stdin.as_mut().and_then(Input::write);
        let run = run.id;
        match grant {
            Some(bytes) => self.say(&FromGuest::GrantStdin { run, bytes }),
            None => Ok(()),
        }
    }

    fn listen(&mut self) -> Result<Next, ServeError> {
        for _ in 0..PORT_READS_PER_TURN {
            let received = self.port.receive(&mut self.buffer);
            match received.map_err(|source| ServeError::Port { source })? {
                Received::Nothing => break,
                Received::HangUp => {
                    self.end_conversation();
                    self.conversation = Conversation::default();
                    break;
                }
                Received::Bytes(length) => {
                    if let Some(hello) = self.conversation.push(&self.buffer[..length]) {
                        self.welcome(hello);
                    }
                    if self.obey()? == Next::PowerOff {
                        return Ok(Next::PowerOff);
                    }
                }
            }
        }
        Ok(Next::Turn)
    }

    /// Does what the host has said so far.
    fn obey(&mut self) -> Result<Next, ServeError> {
        loop {
            let heard = self.conversation.next_heard();
            match heard.map_err(|source| ServeError::Protocol { source })? {
                None => return Ok(Next::Turn),
                Some(Heard::Greeting(hello)) => self.welcome(hello),
                Some(Heard::Stdin { run, bytes }) => self.take_stdin(run, &bytes)?,
                Some(Heard::Message(ToGuest::Configure(identity))) => self.configure(identity)?,
                Some(Heard::Message(ToGuest::Start { run, command })) => {
                    self.start(run, &command)?;
                }
                Some(Heard::Message(ToGuest::GrantOutput { run, stream, bytes })) => {
                    // A grant for a run that has just ended comes too late, and that is fine.
                    if let Some(state) = self.runs.iter_mut().find(|state| state.id == run) {
                        let granted = state.output(stream).grant(bytes);
                        granted.map_err(|source| ServeError::Credit { run, source })?;
                    }
                }
                Some(Heard::Message(ToGuest::Resize { run, size })) => {
                    // One that has just ended has no use for it.
                    if let Some(state) = self.runs.iter().find(|state| state.id == run) {
                        state.resize(size);
                    }
                }
                Some(Heard::Message(ToGuest::WriteFile { path, bytes, part })) => {
                    match self.files.take(path, &bytes, part) {
                        None => {}
                        Some(Ok(())) => self.say(&FromGuest::FileWritten)?,
                        Some(Err(reason)) => self.say(&FromGuest::FileNotWritten { reason })?,
                    }
                }
                Some(Heard::Message(ToGuest::Kill { run })) => self.kill(run),
                Some(Heard::Message(ToGuest::Ping)) => self.say(&FromGuest::Pong)?,
                Some(Heard::Message(ToGuest::PowerOff)) => return Ok(Next::PowerOff),
            }
        }
    }

    fn welcome(&mut self, hello: Hello) {
        self.end_conversation();
        self.port.send(&hello.welcome().to_bytes());
    }

    /// Kills what the conversation started, and forgets what was to be said in it.
    fn end_conversation(&mut self) {
        self.configuration = Configuration::Missing;
        self.files.give_up();
        self.port.drop_backlog();
        self.leftovers.extend(self.runs.drain(..).map(Run::into_leftover));
        for leftover in &mut self.leftovers {
            leftover.disown();
        }
    }

    fn configure(&mut self, identity: Identity) -> Result<(), ServeError> {
        identity::take(identity, self.network).map_err(|source| ServeError::Identity { source })?;
        self.configuration = Configuration::Done;
        let ready = FromGuest::Ready(self.boot.clone());
        self.say(&ready)
    }

    fn start(&mut self, run: RunId, command: &Command) -> Result<(), ServeError> {
        match self.try_start(run, command) {
            Ok(()) => self.say(&FromGuest::Started { run }),
            Err(reason) => {
                self.say(&FromGuest::StartFailed { run, reason: console::truncated(reason) })
            }
        }
    }

    fn try_start(&mut self, id: RunId, command: &Command) -> Result<(), String> {
        if self.configuration == Configuration::Missing {
            return Err("the VM has no identity yet".to_owned());
        }
        if self.runs.iter().any(|run| run.id == id) {
            return Err("a run of this number is going on".to_owned());
        }
        if self.runs.len() + self.leftovers.len() >= RUNS_MAX {
            return Err(format!("{RUNS_MAX} commands still have processes in the VM"));
        }
        let cgroup = match &mut self.cgroups {
            None => None,
            Some(cgroups) => {
                Some(cgroups.take_run().map_err(|error| format!("cannot make a cgroup: {error}"))?)
            }
        };
        let started =
            command::start(command, cgroup.as_ref()).map_err(|error| console::chain(&error))?;
        let processes = Processes::new(started.pid, cgroup);
        self.runs.push(Run::new(id, started.streams, processes));
        Ok(())
    }

    fn kill(&mut self, run: RunId) {
        if let Some(run) = self.runs.iter_mut().find(|state| state.id == run) {
            run.kill();
        } else if let Some(leftover) = self.leftovers.iter().find(|leftover| leftover.is(run)) {
            leftover.processes.kill();
        }
    }

    fn take_stdin(&mut self, run: RunId, bytes: &[u8]) -> Result<(), ServeError> {
        let state = self.runs.iter_mut().find(|state| state.id == run);
        // Input for a run that has just ended, or reads nothing, is nobody's.
        let Some(input) = state.and_then(|state| state.stdin.as_mut()) else {
            return Ok(());
        };
        let grant = input.receive(bytes);
        match grant.map_err(|source| ServeError::Credit { run, source })? {
            Some(bytes) => self.say(&FromGuest::GrantStdin { run, bytes }),
            None => Ok(()),
        }
    }

    fn say(&mut self, message: &FromGuest) -> Result<(), ServeError> {
        let frame = encode_message(message).map_err(|source| ServeError::Protocol { source })?;
        self.port.send(&frame);
        Ok(())
    }
}

fn exit_status(status: WaitStatus) -> ExitStatus {
    let small = |number: i32| u8::try_from(number).unwrap_or(u8::MAX);
    match status.terminating_signal() {
        Some(signal) => ExitStatus::Signaled { signal: small(signal) },
        None => ExitStatus::Exited { code: status.exit_status().map_or(u8::MAX, small) },
    }
}
