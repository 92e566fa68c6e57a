//! A command on the host itself, where the caller allowed it and no VM can be had.
//!
//! There is no boundary here. The outcome says so (`execution_mode`), and nothing enters this module
//! but by the caller's explicit word.

use std::ops::Range;
use std::process::Stdio;
use std::time::{Duration, Instant};

use pyro_environments::EnvironmentName;
use pyro_protocol::run::Stream;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, ChildStderr, ChildStdin, ChildStdout, Command};

use crate::exec::{Ending, ExecOutcome, ExecRequest, ExecutionMode, Place};
use crate::streams::{Outputs, Streams};
use crate::{ErrorKind, PyroError};

/// Bytes read from a pipe at once.
const READ_BYTES: usize = 32 * 1024;

/// From SIGKILL to the end of whoever got it.
const KILLED_DEADLINE: Duration = Duration::from_secs(2);

/// Runs the command as this user, in this directory, in a process group of its own.
pub(crate) async fn run(
    environment: EnvironmentName,
    request: ExecRequest,
    streams: Streams<'_>,
) -> Result<ExecOutcome, PyroError> {
    if streams.terminal.is_some() {
        let text = "a command on the host itself gets no terminal";
        return Err(PyroError::new(ErrorKind::NotAvailable, text).hint("leave out `--tty`"));
    }
    let started = Instant::now();
    let mut command = Command::new("/bin/sh");
    command.args(["-lc", request.command.as_str()]).envs(request.variables.into_entries());
    if let Some(directory) = request.working_directory {
        command.current_dir(directory.into_string());
    }
    let child = command
        .process_group(0)
        .kill_on_drop(true)
        .stdin(if streams.stdin.is_some() { Stdio::piped() } else { Stdio::null() })
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| failed("start the command on the host", &error))?;
    let mut group = ProcessGroup::of(child);
    let mut outputs = Outputs::new(streams.stdout, streams.stderr, request.capture);
    let mut pipes = Pipes::of(&mut group.child);
    let exit = tokio::time::timeout(
        request.timeout.get(),
        converse(&mut group.child, &mut pipes, streams.stdin, &mut outputs),
    );
    let ending = if let Ok(exit_code) = exit.await {
        Ending {
            exit_code: exit_code?,
            duration: started.elapsed(),
            timed_out: false,
            out_of_memory: false,
        }
    } else {
        group.kill();
        pipes.take_the_rest(&mut outputs).await;
        Ending::timed_out(started.elapsed())
    };
    drop(group);
    outputs.flush().await?;
    let place = Place {
        vm_id: &crate::vm::new_id()?,
        environment: environment.as_str(),
        environment_version: environment.definition().version,
        mode: ExecutionMode::HostCompat,
        accelerator: None,
        policies: &[],
    };
    Ok(ExecOutcome::new(&place, request.command, &ending, outputs))
}

/// A child and all it started in its group, killed when this is dropped.
struct ProcessGroup {
    child: Child,
    leader: Option<rustix::process::Pid>,
}

impl ProcessGroup {
    fn of(child: Child) -> Self {
        let leader = child
            .id()
            .and_then(|id| i32::try_from(id).ok())
            .and_then(rustix::process::Pid::from_raw);
        Self { child, leader }
    }

    fn kill(&self) {
        if let Some(leader) = self.leader {
            // Fails where the whole group has ended already.
            rustix::process::kill_process_group(leader, rustix::process::Signal::KILL).ok();
        }
    }
}

impl Drop for ProcessGroup {
    fn drop(&mut self) {
        self.kill();
    }
}

/// The host's ends of the command's streams.
struct Pipes {
    stdin: Option<ChildStdin>,
    stdout: Option<ChildStdout>,
    stderr: Option<ChildStderr>,
}

impl Pipes {
    fn of(child: &mut Child) -> Self {
        Self { stdin: child.stdin.take(), stdout: child.stdout.take(), stderr: child.stderr.take() }
    }

    /// Takes what is left in the pipes until the killed processes are gone. One that left the group is
    /// not killed, and not waited for beyond the deadline.
    async fn take_the_rest(mut self, outputs: &mut Outputs<'_>) {
        let mut buffer = vec![0; READ_BYTES];
        let ended = async {
            while let count @ 1.. = read(&mut self.stdout, &mut buffer).await {
                outputs.stdout.take(&buffer[..count]);
            }
            while let count @ 1.. = read(&mut self.stderr, &mut buffer).await {
                outputs.stderr.take(&buffer[..count]);
            }
        };
        tokio::time::timeout(KILLED_DEADLINE, ended).await.ok();
    }
}

/// Carries bytes until the command's own process ends; then takes what is left in its pipes.
async fn converse(
    child: &mut Child,
    pipes: &mut Pipes,
    stdin: Option<Box<dyn AsyncRead + Send + Unpin + '_>>,
    outputs: &mut Outputs<'_>,
) -> Result<i32, PyroError> {
    let Pipes { stdin: sink, stdout, stderr } = pipes;
    let mut feed =
        Feed { source: stdin, sink: sink.take(), buffer: vec![0; READ_BYTES], unfed: 0..0 };
    let mut out = vec![0; READ_BYTES];
    let mut err = vec![0; READ_BYTES];
    let mut exit = None;
    loop {
        tokio::select! {
            // Output first: when the exit is seen with nothing to read, nothing was left.
            biased;
            count = read(stdout, &mut out), if stdout.is_some() => {
                pass(Stream::Stdout, count, &out, stdout, outputs).await?;
            }
            count = read(stderr, &mut err), if stderr.is_some() => {
                pass(Stream::Stderr, count, &err, stderr, outputs).await?;
            }
            status = child.wait(), if exit.is_none() => {
                let status = status.map_err(|error| failed("wait for the command", &error))?;
                exit = Some(exit_code(status));
            }
            // Once the process has ended and its pipes are empty: a background child may hold them
            // open for ever.
            () = std::future::ready(()), if exit.is_some() => break,
            () = feed.step(), if feed.sink.is_some() => {}
        }
    }
    Ok(exit.expect("the loop ends with an exit code"))
}

async fn read<R: AsyncRead + Unpin>(source: &mut Option<R>, buffer: &mut [u8]) -> usize {
    match source {
        // A pipe that cannot be read has ended.
        Some(source) => source.read(buffer).await.unwrap_or(0),
        None => std::future::pending().await,
    }
}

async fn pass<R>(
    stream: Stream,
    count: usize,
    buffer: &[u8],
    source: &mut Option<R>,
    outputs: &mut Outputs<'_>,
) -> Result<(), PyroError> {
    if count == 0 {
        *source = None;
    }
    let output = outputs.of(stream);
    output.take(&buffer[..count]);
    // The pipe is all the room that the command has, so it waits while whoever watches does not read.
    output.flush().await
}

/// The command's input on its way.
struct Feed<'a> {
    source: Option<Box<dyn AsyncRead + Send + Unpin + 'a>>,
    sink: Option<ChildStdin>,
    buffer: Vec<u8>,
    /// What of the buffer is still to be written.
    unfed: Range<usize>,
}

impl Feed<'_> {
    /// Reads some input, or writes some of what was read. Cancel-safe: output is taken meanwhile,
    /// because the command may wait for that.
    async fn step(&mut self) {
        if self.unfed.is_empty() {
            let count = read(&mut self.source, &mut self.buffer).await;
            self.unfed = 0..count;
            if count == 0 {
                self.sink = None;
            }
        } else if let Some(sink) = &mut self.sink {
            match sink.write(&self.buffer[self.unfed.clone()]).await {
                Ok(count) => self.unfed.start += count,
                // A command that reads no more.
                Err(_) => self.sink = None,
            }
        }
    }
}

fn exit_code(status: std::process::ExitStatus) -> i32 {
    use std::os::unix::process::ExitStatusExt;
    status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0))
}

fn failed(what: &str, error: &std::io::Error) -> PyroError {
    PyroError::from_error(ErrorKind::Internal, error).context(format!("cannot {what}"))
}
