//! Running the tools of a build: their output is followed line by line, they
//! end when the pull is cancelled or takes too long, and they are gone when
//! this returns.

use std::io::{self, BufRead as _, BufReader, Read, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::mpsc::{RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use std::os::unix::process::CommandExt as _;

use rustix::process::{
    Pid, Signal, WaitId, WaitIdOptions, kill_process, kill_process_group, waitid,
};

use super::diagnosis::{Cause, cause_of, details_of};
use super::transcript::Transcript;
use super::{Build, space};
use crate::pull::error::PullError;
use crate::pull::progress::{Artefact, PullProgress};

/// The largest environment over a slow line; a build that takes longer hangs.
const BUILD_DURATION_MAX: Duration = Duration::from_hours(2);

/// A tool that writes faster than its lines are read waits.
const LINES_QUEUED_MAX: usize = 64;

/// Longer lines are cut in pieces.
const LINE_BYTES_MAX: u64 = 16 << 10;

/// How often writing the image is reported.
const IMAGE_REPORT_BYTES: u64 = 4 << 20;

/// How to end a child and everything that it has started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    /// SIGKILL to its process group. A pid namespace goes with its first
    /// process.
    KillGroup,
    /// SIGTERM to the child, which ends the rest by itself.
    TellLeader,
}

impl Ending {
    /// What the child gets, be it from us or from the kernel when we die.
    pub(crate) fn signal(self) -> Signal {
        match self {
            Self::KillGroup => Signal::KILL,
            Self::TellLeader => Signal::TERM,
        }
    }

    fn end(self, leader: Pid) {
        let outcome = match self {
            Self::KillGroup => kill_process_group(leader, self.signal()),
            Self::TellLeader => kill_process(leader, self.signal()),
        };
        // It fails where the child has ended by itself a moment ago.
        outcome.unwrap_or_default();
    }
}

/// The children of one pull, each the leader of a process group of its own,
/// so that whoever cancels the pull can end them.
#[derive(Debug, Default)]
pub(crate) struct Children {
    state: Mutex<ChildrenState>,
}

#[derive(Debug, Default)]
struct ChildrenState {
    is_cancelled: bool,
    running: Vec<(Pid, Ending)>,
}

impl Children {
    /// Kills what runs, and lets nothing more be started.
    pub(crate) fn cancel(&self) {
        let mut state = self.lock();
        state.is_cancelled = true;
        state.kill();
    }

    pub(crate) fn is_cancelled(&self) -> bool {
        self.lock().is_cancelled
    }

    fn kill(&self) {
        self.lock().kill();
    }

    /// Spawns `command` as the leader of a process group of its own.
    fn spawn(&self, command: &mut Command, ending: Ending) -> io::Result<Child> {
        let mut state = self.lock();
        if state.is_cancelled {
            return Err(io::ErrorKind::Interrupted.into());
        }
        let child = command.process_group(0).spawn()?;
        state.running.push((Pid::from_child(&child), ending));
        Ok(child)
    }

    /// Waits for the child. Its id is forgotten before it can be another's.
    fn wait(&self, child: &mut Child) -> io::Result<ExitStatus> {
        let pid = Pid::from_child(child);
        while let Err(rustix::io::Errno::INTR) =
            waitid(WaitId::Pid(pid), WaitIdOptions::EXITED | WaitIdOptions::NOWAIT)
        {}
        self.lock().running.retain(|&(running, _)| running != pid);
        child.wait()
    }

    fn lock(&self) -> MutexGuard<'_, ChildrenState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ChildrenState {
    fn kill(&self) {
        for &(leader, ending) in &self.running {
            ending.end(leader);
        }
    }
}

/// Runs mmdebstrap, and feeds what it writes to `packer` if there is one.
pub(super) fn run_build(
    build: &Build<'_>,
    mut mmdebstrap: Command,
    artefact: Artefact,
    packer: Option<Command>,
) -> Result<Transcript, PullError> {
    let deadline = Instant::now() + BUILD_DURATION_MAX;
    let output = if packer.is_some() { Stdio::piped() } else { Stdio::null() };
    mmdebstrap.stdin(Stdio::null()).stdout(output).stderr(Stdio::piped());
    let mut producer = spawn(build, &mut mmdebstrap, "mmdebstrap", build.isolation.ending())?;
    let mut consumer = match packer.map(|packer| spawn_packer(build, packer)).transpose() {
        Ok(consumer) => consumer,
        Err(error) => {
            build.children.kill();
            drop(build.children.wait(&mut producer));
            return Err(error);
        }
    };

    let mut transcript = Transcript::new(artefact);
    let in_time = thread::scope(|scope| {
        let (sender, lines) = sync_channel(LINES_QUEUED_MAX);
        for child in std::iter::once(&mut producer).chain(&mut consumer) {
            let stderr = child.stderr.take().expect("the child was spawned with a pipe");
            let sender = sender.clone();
            scope.spawn(move || forward_lines(stderr, &sender));
        }
        drop(sender);
        let archive = producer.stdout.take().zip(consumer.as_mut().and_then(|it| it.stdin.take()));
        if let Some((from, into)) = archive {
            scope.spawn(move || pump(from, into, build.report));
        }
        follow(build, &lines, deadline, &mut transcript)
    });

    let produced = build.children.wait(&mut producer);
    let consumed = consumer.as_mut().map(|consumer| build.children.wait(consumer)).transpose();
    if !in_time {
        let minutes = BUILD_DURATION_MAX.as_secs() / 60;
        return Err(PullError::DeadlineReached { minutes, details: details_of(&transcript) });
    }
    // A packer that failed made mmdebstrap fail too, so its status goes first.
    let statuses = [("tar2sqfs", consumed), ("mmdebstrap", produced.map(Some))];
    for (tool, status) in statuses {
        let status = status.map_err(|source| build.write_error(source))?;
        if let Some(status) = status.filter(|status| !status.success()) {
            return Err(failure(build, tool, status, &transcript));
        }
    }
    Ok(transcript)
}

fn spawn(
    build: &Build<'_>,
    command: &mut Command,
    tool: &'static str,
    ending: Ending,
) -> Result<Child, PullError> {
    build.children.spawn(command, ending).map_err(|error| PullError::BuildFailed {
        tool,
        outcome: "it cannot be started".to_owned(),
        details: vec![error.to_string()],
    })
}

fn spawn_packer(build: &Build<'_>, mut packer: Command) -> Result<Child, PullError> {
    packer.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
    spawn(build, &mut packer, "tar2sqfs", Ending::KillGroup)
}

/// Reads lines until every process that could write one is gone. Returns
/// whether that was in time; when it is not, the processes are killed.
fn follow(
    build: &Build<'_>,
    lines: &std::sync::mpsc::Receiver<String>,
    deadline: Instant,
    transcript: &mut Transcript,
) -> bool {
    let mut in_time = true;
    loop {
        let timeout = if in_time {
            deadline.saturating_duration_since(Instant::now())
        } else {
            // Killed processes close their pipes without further ado.
            BUILD_DURATION_MAX
        };
        match lines.recv_timeout(timeout) {
            Ok(line) => {
                if let Some(progress) = transcript.observe(&line) {
                    (build.report)(progress);
                }
            }
            Err(RecvTimeoutError::Disconnected) => return in_time,
            Err(RecvTimeoutError::Timeout) => {
                in_time = false;
                build.children.kill();
            }
        }
    }
}

fn forward_lines(stream: impl Read, lines: &SyncSender<String>) {
    let mut stream = BufReader::new(stream);
    let mut line = Vec::new();
    loop {
        line.clear();
        match stream.by_ref().take(LINE_BYTES_MAX).read_until(b'\n', &mut line) {
            Ok(0) | Err(_) => return,
            Ok(_) => {
                let text = String::from_utf8_lossy(&line).trim_end().to_owned();
                if lines.send(text).is_err() {
                    return;
                }
            }
        }
    }
}

/// Moves the archive from one child to the other. Either end may close early:
/// its exit status tells why.
fn pump(mut from: ChildStdout, into: ChildStdin, report: &(dyn Fn(PullProgress) + Sync)) {
    let mut counting = CountingWriter { into, bytes: 0, reported_bytes: 0, report };
    drop(io::copy(&mut from, &mut counting));
}

struct CountingWriter<'a> {
    into: ChildStdin,
    bytes: u64,
    reported_bytes: u64,
    report: &'a (dyn Fn(PullProgress) + Sync),
}

impl Write for CountingWriter<'_> {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        let count = self.into.write(buffer)?;
        self.bytes += count as u64;
        if self.bytes - self.reported_bytes >= IMAGE_REPORT_BYTES {
            self.reported_bytes = self.bytes;
            (self.report)(PullProgress::WritingImage { bytes: self.bytes });
        }
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.into.flush()
    }
}

fn failure(
    build: &Build<'_>,
    tool: &'static str,
    status: ExitStatus,
    transcript: &Transcript,
) -> PullError {
    let details = details_of(transcript);
    match cause_of(transcript) {
        Cause::NoSpace => space::no_space(build.store_root, build.definition.build_bytes),
        Cause::BadSignature => PullError::BadSignature { mirrors: build.mirror_names(), details },
        Cause::MirrorUnreachable => {
            PullError::MirrorUnreachable { mirrors: build.mirror_names(), details }
        }
        Cause::Other => PullError::BuildFailed { tool, outcome: status.to_string(), details },
    }
}
