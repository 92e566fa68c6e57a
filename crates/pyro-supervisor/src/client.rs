//! A client's side of a supervisor: start it, have it launch a VM, run commands.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use command_fds::{CommandFdExt, FdMapping};
use pyro_protocol::client::{
    FromSupervisor, LaunchPhase, LaunchReport, LaunchSpec, RunEnd, ToSupervisor,
};
use pyro_protocol::credit::{Consumed, Credit};
use pyro_protocol::failure::Failure;
use pyro_protocol::frame::{CHUNK_BYTES_MAX, FrameKind, decode_message, encode_chunk};
use pyro_protocol::run::{Command, RunId, Stream, TerminalSize};
use tokio::net::UnixStream;
use tokio::process::Child;

pub use crate::departures::Departures;

use crate::boot::nonce;
use crate::departures::{END_DEADLINE, OwnedProcess, Pidfd, Process};
use crate::link::{Link, LinkError};
use crate::server::{CLIENT_FD, LOCK_FD};

/// From the start of the supervisor's executable to its greeting.
const GREETING_DEADLINE: Duration = Duration::from_secs(20);

/// A supervisor and the VM it owns. Both are gone soon after this is dropped, and certainly after
/// [`end`](Self::end).
#[derive(Debug)]
pub struct Supervisor {
    line: Line,
    process: OwnedProcess,
}

/// A conversation with a supervisor.
#[derive(Debug)]
pub(crate) struct Line {
    link: Link,
    last_run: u32,
}

/// How a supervisor's executable is started.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Executable {
    pub path: PathBuf,
    /// The words that make it call [`serve_inherited_socket`](crate::server::serve_inherited_socket) with [`CLIENT_FD`].
    pub arguments: Vec<String>,
}

/// Why a client got no VM, or lost it.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    #[error("cannot start the supervisor `{}`", path.display())]
    CannotStart { path: PathBuf, source: io::Error },
    #[error("cannot talk to the VM's supervisor")]
    NoConversation { source: LinkError },
    #[error("cannot reach the VM's supervisor in `{}`", directory.display())]
    Unreachable { directory: PathBuf, source: io::Error },
    #[error("the VM's supervisor did not answer within {} seconds", deadline.as_secs())]
    NoAnswer { deadline: Duration },
    #[error("the VM's supervisor sent an unexpected message")]
    UnexpectedMessage,
    /// What the supervisor itself reports.
    #[error(transparent)]
    Reported(Failure),
}

impl Supervisor {
    /// Starts a supervisor in a process group of its own, so that a Ctrl-C at the terminal reaches
    /// it only through its client. What is dropped early is waited for in `departures`.
    pub async fn start(
        executable: &Executable,
        departures: &Departures,
    ) -> Result<Self, ClientError> {
        Self::start_with(executable, Life::OfClient, departures).await
    }

    /// The same, for a VM with that life.
    pub(crate) async fn start_with(
        executable: &Executable,
        life: Life,
        departures: &Departures,
    ) -> Result<Self, ClientError> {
        let cannot_start =
            |source| ClientError::CannotStart { path: executable.path.clone(), source };
        let (ours, theirs) = std::os::unix::net::UnixStream::pair().map_err(cannot_start)?;
        ours.set_nonblocking(true).map_err(cannot_start)?;
        let process = match life {
            Life::Spare => Process::Spare,
            Life::OfClient | Life::Own(_) => Process::Child,
        };
        let process = process(spawn(executable, theirs, life).map_err(cannot_start)?);
        let process = OwnedProcess::new(process, departures);
        let line = Line::call(UnixStream::from_std(ours).map_err(cannot_start)?).await?;
        Ok(Self { line, process })
    }

    /// Launches the VM. The supervisor holds the deadlines.
    pub async fn launch(
        &mut self,
        spec: LaunchSpec,
        progress: impl FnMut(LaunchPhase),
    ) -> Result<LaunchReport, ClientError> {
        match self.line.ask(&ToSupervisor::Launch(Box::new(spec)), progress).await? {
            Answer::Ready(report) => Ok(report),
            Answer::Done => Err(ClientError::UnexpectedMessage),
        }
    }

    /// One that was somebody else's so far.
    pub(crate) fn taken_over(line: Line, process: Pidfd, departures: &Departures) -> Self {
        Self { line, process: OwnedProcess::new(Process::Other(process), departures) }
    }

    /// Starts a command in the VM. The supervisor ends it after `timeout`.
    pub fn run(&mut self, command: Command, timeout: Duration) -> Result<Run<'_>, ClientError> {
        self.line.run(command, timeout)
    }

    /// Ends the VM and waits until nothing of it is left. What was a spare is only waited for until nothing in it runs: who
    /// had it made waits for the rest, and its claimer goes on some ten milliseconds earlier.
    pub async fn end(self) -> io::Result<()> {
        let Self { mut line, mut process } = self;
        if process.is_waited_for_by_another() && line.let_go().await {
            process.process = None;
            return Ok(());
        }
        drop(line);
        // It stays where `drop` finds it until it is gone: this wait may be given up.
        let process = process.process.as_mut().expect("taken in `drop` only");
        process.wait_for_end().await
    }

    pub(crate) fn line(&mut self) -> &mut Line {
        &mut self.line
    }

    /// Lets it live on by itself.
    pub(crate) fn release(mut self) {
        // The runtime collects it if it ends before this process does.
        drop(self.process.process.take());
    }
}

/// What the life of a VM is tied to.
#[derive(Debug)]
pub(crate) enum Life {
    OfClient,
    /// Its own; with the lock of its directory.
    Own(OwnedFd),
    /// Its owner's, until somebody claims it.
    Spare,
}

/// What a supervisor answers when all went well.
pub(crate) enum Answer {
    Ready(LaunchReport),
    Done,
}

impl Line {
    pub(crate) async fn call(stream: UnixStream) -> Result<Self, ClientError> {
        let nonce = nonce().map_err(|error| {
            no_conversation(LinkError::Broken { source: io::Error::other(error) })
        })?;
        let link = tokio::time::timeout(GREETING_DEADLINE, Link::call(stream, nonce))
            .await
            .unwrap_or(Err(LinkError::TooLate { deadline: GREETING_DEADLINE }))
            .map_err(no_conversation)?;
        Ok(Self { link, last_run: 0 })
    }

    /// Asks for something, and waits for the answer.
    pub(crate) async fn ask(
        &mut self,
        message: &ToSupervisor,
        mut progress: impl FnMut(LaunchPhase),
    ) -> Result<Answer, ClientError> {
        self.link.send_message(message).map_err(no_conversation)?;
        loop {
            match self.next_message().await? {
                FromSupervisor::Progress(phase) => progress(phase),
                FromSupervisor::Ready(report) => return Ok(Answer::Ready(report)),
                FromSupervisor::Done => return Ok(Answer::Done),
                FromSupervisor::Failed(failure) => return Err(ClientError::Reported(failure)),
                FromSupervisor::GrantStdin { .. }
                | FromSupervisor::Ended { .. }
                | FromSupervisor::RunFailed { .. }
                | FromSupervisor::Claimed
                | FromSupervisor::Spare(_) => return Err(ClientError::UnexpectedMessage),
            }
        }
    }

    /// Says something that has no answer.
    pub(crate) async fn say(&mut self, message: &ToSupervisor) -> Result<(), ClientError> {
        self.link.send_message(message).map_err(no_conversation)?;
        self.link.flush().await.map_err(no_conversation)
    }

    pub(crate) fn run(
        &mut self,
        command: Command,
        timeout: Duration,
    ) -> Result<Run<'_>, ClientError> {
        self.last_run += 1;
        let id = RunId(self.last_run);
        self.link
            .send_message(&ToSupervisor::Start { run: id, command, timeout })
            .map_err(no_conversation)?;
        Ok(Run {
            link: &mut self.link,
            id,
            stdin: Credit::WINDOW,
            consumed: [Consumed::default(); 2],
        })
    }

    /// Has a VM end that ends with this conversation. Gives whether nothing in it runs any more.
    async fn let_go(&mut self) -> bool {
        let asked = self.ask(&ToSupervisor::DeleteVm, |_| {});
        let answer = tokio::time::timeout(END_DEADLINE, asked).await;
        // A command that was given up may still have something to say; then its end is waited for.
        matches!(answer, Ok(Ok(Answer::Done)))
    }

    pub(crate) async fn next_message(&mut self) -> Result<FromSupervisor, ClientError> {
        let frame = self.link.next_frame().await.map_err(no_conversation)?;
        match frame.kind {
            FrameKind::Message => decode_message(&frame.payload)
                .map_err(|source| no_conversation(LinkError::NoFrame { source })),
            FrameKind::Stdin | FrameKind::Output(_) => Err(ClientError::UnexpectedMessage),
        }
    }
}

/// A command in a VM. Output is pulled: what is not asked for stays in the guest, and slows the
/// command down.
#[derive(Debug)]
pub struct Run<'supervisor> {
    link: &'supervisor mut Link,
    id: RunId,
    stdin: Credit,
    consumed: [Consumed; 2],
}

/// What happens next in a run.
#[derive(Debug)]
pub enum RunEvent {
    /// Bytes the command wrote. Once they are dealt with, say so with [`Run::output_consumed`], or the
    /// command is stopped at its next write when the window is full.
    Output { stream: Stream, bytes: Vec<u8> },
    /// The command took some of its input, so [`Run::stdin_room`] has grown.
    StdinRoom,
    /// The command is over; no event follows.
    Ended(RunEnd),
}

impl Run<'_> {
    /// Waits for the next event. Cancel-safe.
    pub async fn next_event(&mut self) -> Result<RunEvent, ClientError> {
        let frame = self.link.next_frame().await.map_err(no_conversation)?;
        match frame.kind {
            FrameKind::Output(stream) => Ok(RunEvent::Output { stream, bytes: frame.payload }),
            FrameKind::Message => {
                let message = decode_message(&frame.payload)
                    .map_err(|source| no_conversation(LinkError::NoFrame { source }))?;
                self.told(message)
            }
            FrameKind::Stdin => Err(ClientError::UnexpectedMessage),
        }
    }

    /// Says that `bytes` of the output were dealt with, so that the command may write as many more.
    pub fn output_consumed(&mut self, stream: Stream, bytes: usize) -> Result<(), ClientError> {
        let Some(bytes) = self.consumed[index(stream)].record(bytes) else {
            return Ok(());
        };
        let grant = ToSupervisor::GrantOutput { run: self.id, stream, bytes };
        self.link.send_message(&grant).map_err(no_conversation)
    }

    /// How many bytes [`send_stdin`](Self::send_stdin) takes at once now.
    pub fn stdin_room(&self) -> usize {
        self.stdin.available_bytes().min(CHUNK_BYTES_MAX)
    }

    /// Sends bytes to the command's standard input.
    ///
    /// # Panics
    ///
    /// If there are more than [`stdin_room`](Self::stdin_room).
    pub fn send_stdin(&mut self, bytes: &[u8]) {
        self.stdin.spend(bytes.len()).expect("callers ask for the room first");
        // An empty chunk would be the end of the input.
        if !bytes.is_empty() {
            self.send_chunk(bytes);
        }
    }

    /// Ends the command's standard input.
    pub fn close_stdin(&mut self) {
        self.send_chunk(&[]);
    }

    /// Says that the command's terminal has another size now.
    pub fn resize(&mut self, size: TerminalSize) -> Result<(), ClientError> {
        let resize = ToSupervisor::Resize { run: self.id, size };
        self.link.send_message(&resize).map_err(no_conversation)
    }

    /// Asks for the command's end; [`RunEvent::Ended`] follows.
    pub fn cancel(&mut self) -> Result<(), ClientError> {
        self.link.send_message(&ToSupervisor::Cancel { run: self.id }).map_err(no_conversation)
    }

    fn send_chunk(&mut self, bytes: &[u8]) {
        let frame = encode_chunk(FrameKind::Stdin, self.id, bytes)
            .expect("the room is never more than one chunk");
        self.link.send(&frame);
    }

    fn told(&mut self, message: FromSupervisor) -> Result<RunEvent, ClientError> {
        match message {
            FromSupervisor::GrantStdin { bytes, .. } => {
                self.stdin.grant(bytes).map_err(|_| ClientError::UnexpectedMessage)?;
                Ok(RunEvent::StdinRoom)
            }
            FromSupervisor::Ended { end, .. } => Ok(RunEvent::Ended(end)),
            FromSupervisor::RunFailed { failure, .. } | FromSupervisor::Failed(failure) => {
                Err(ClientError::Reported(failure))
            }
            FromSupervisor::Progress(_)
            | FromSupervisor::Ready(_)
            | FromSupervisor::Done
            | FromSupervisor::Claimed
            | FromSupervisor::Spare(_) => Err(ClientError::UnexpectedMessage),
        }
    }
}

fn index(stream: Stream) -> usize {
    match stream {
        Stream::Stdout => 0,
        Stream::Stderr => 1,
    }
}

pub(crate) fn no_conversation(source: LinkError) -> ClientError {
    ClientError::NoConversation { source }
}

fn spawn(
    executable: &Executable,
    socket: std::os::unix::net::UnixStream,
    life: Life,
) -> io::Result<Child> {
    let mut command = std::process::Command::new(&executable.path);
    command
        .args(&executable.arguments)
        .env_clear()
        .current_dir(Path::new("/"))
        .stdin(Stdio::null())
        .stdout(Stdio::null());
    let mut mappings = vec![FdMapping { parent_fd: socket.into(), child_fd: CLIENT_FD }];
    match life {
        Life::OfClient => {
            command.process_group(0);
        }
        // These make a session of their own, which the leader of a process group cannot.
        Life::Own(lock) => {
            command.stderr(Stdio::null());
            mappings.push(FdMapping { parent_fd: lock, child_fd: LOCK_FD });
        }
        Life::Spare => {
            command.stderr(Stdio::null());
        }
    }
    command.fd_mappings(mappings).expect("the numbers differ");
    tokio::process::Command::from(command).spawn()
}

#[cfg(test)]
mod tests {
    use rustix::process::Pid;

    use super::*;

    /// The supervisor of a claimed spare, by a process that ends with its standard input, and the other end of the
    /// conversation with it.
    async fn claimed(departures: &Departures) -> (Supervisor, Link, std::process::Child) {
        let process = std::process::Command::new("/bin/cat").stdin(Stdio::piped()).spawn().unwrap();
        let (ours, theirs) = UnixStream::pair().unwrap();
        let (line, link) = tokio::join!(Line::call(ours), async {
            let mut link = Link::answer(theirs).await.unwrap();
            link.flush().await.unwrap();
            link
        });
        let pidfd = Pidfd::open(Pid::from_child(&process)).unwrap();
        (Supervisor::taken_over(line.unwrap(), pidfd, departures), link, process)
    }

    #[tokio::test]
    async fn a_claimer_does_not_wait_for_what_its_spares_owner_waits_for() {
        let departures = Departures::default();
        let (supervisor, mut link, mut process) = claimed(&departures).await;
        let serve = async {
            let frame = link.next_frame().await.unwrap();
            assert_eq!(decode_message(&frame.payload), Ok(ToSupervisor::DeleteVm));
            link.send_message(&FromSupervisor::Done).unwrap();
            link.flush().await.unwrap();
        };
        let (ended, ()) = tokio::join!(supervisor.end(), serve);
        ended.unwrap();
        assert!(process.try_wait().unwrap().is_none());
        assert_eq!(departures.settle().await, 0);
        drop(process.stdin.take());
        process.wait().unwrap();
    }

    #[tokio::test]
    async fn a_supervisor_that_does_not_say_that_its_machine_is_dead_is_waited_for() {
        let (supervisor, link, mut process) = claimed(&Departures::default()).await;
        drop(link);
        let end = supervisor.end();
        tokio::pin!(end);
        let early = tokio::time::timeout(Duration::from_millis(100), &mut end).await;
        assert!(early.is_err(), "the process is still there");
        drop(process.stdin.take());
        end.await.unwrap();
        assert!(process.try_wait().unwrap().is_some());
    }
}
