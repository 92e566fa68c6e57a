//! A process of a contender: timed from its start to its exit, and never left behind.

use std::io::{self, Read};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{
    Pid, PidfdFlags, WaitOptions, getpid, pidfd_open, set_child_subreaper, wait,
};

use crate::workspace;

/// How long anything may take that is measured. The longest is an emulated boot, 3 to 6 seconds on an
/// idle host.
const DEADLINE: Duration = Duration::from_mins(2);

/// How long others may stay that a process started: podman's monitor outlives `podman run` by a moment,
/// and holds its output.
const STRAGGLER_DEADLINE: Duration = Duration::from_secs(10);

/// A process and what it prints. Killed when it is dropped.
#[derive(Debug)]
pub(super) struct Running {
    name: String,
    child: Child,
    stdin: Option<ChildStdin>,
    output: Receiver<Chunk>,
    started: Instant,
    first_byte: Option<Instant>,
    text: Vec<u8>,
}

/// Bytes that a process printed, and when they came.
type Chunk = (Instant, Vec<u8>);

/// A process that ended well.
#[derive(Debug)]
pub(super) struct Ended {
    pub(super) wall_ms: f64,
    /// From the start to the first byte of output, if there was any.
    pub(super) first_byte_ms: Option<f64>,
    /// Standard output and standard error as they came.
    pub(super) output: String,
}

/// What a process gets to read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Input {
    Nothing,
    /// Nothing either, but its end comes only when the process is let go, or when this one dies. So
    /// whatever waits for its input is gone then.
    OpenUntilReleased,
}

/// Runs `command` to its end. Fails if it does.
pub(super) fn time(command: &mut Command) -> Result<Ended, String> {
    Running::start(command, Input::Nothing)?.finish()
}

/// Has processes whose parent is gone become children of this one, so that they can be waited for.
pub(super) fn adopt_orphans() -> Result<(), String> {
    set_child_subreaper(Some(getpid())).map_err(|error| format!("cannot adopt orphans: {error}"))
}

/// Waits for every child there is, and fails if one does not end. Only where nothing is running that
/// somebody else waits for.
pub(super) fn wait_for_orphans() -> Result<(), String> {
    let (sender, ended) = channel::<()>();
    std::thread::spawn(move || {
        while wait(WaitOptions::empty()).is_ok() {}
        drop(sender);
    });
    match ended.recv_timeout(STRAGGLER_DEADLINE) {
        Err(RecvTimeoutError::Timeout) => {
            Err(format!("processes are left over: children of {}", std::process::id()))
        }
        Ok(()) | Err(RecvTimeoutError::Disconnected) => Ok(()),
    }
}

/// The processes that this one has started and not waited for.
pub(super) fn children(parent: u32) -> io::Result<Vec<u32>> {
    let mut children = Vec::new();
    // Each thread has its own list.
    for thread in fs_err::read_dir(format!("/proc/{parent}/task"))? {
        let list = fs_err::read_to_string(thread?.path().join("children"))?;
        children.extend(list.split_whitespace().filter_map(|word| word.parse::<u32>().ok()));
    }
    Ok(children)
}

/// This process, its children, theirs, and so on. Who ends meanwhile may be missing.
pub(super) fn family() -> Vec<u32> {
    let mut family = vec![std::process::id()];
    let mut seen = 0;
    while let Some(&parent) = family.get(seen) {
        family.extend(children(parent).unwrap_or_default());
        seen += 1;
    }
    family
}

impl Running {
    pub(super) fn start(command: &mut Command, input: Input) -> Result<Self, String> {
        let name = workspace::name(command);
        let failed = |error| format!("cannot start {name}: {error}");
        let (mut reader, writer) = std::io::pipe().map_err(failed)?;
        command.stdout(writer.try_clone().map_err(failed)?).stderr(writer);
        command.stdin(match input {
            Input::Nothing => Stdio::null(),
            Input::OpenUntilReleased => Stdio::piped(),
        });
        let started = Instant::now();
        let spawned = command.spawn();
        // The command holds the writing ends, without which the reader sees no end.
        command.stdout(Stdio::null()).stderr(Stdio::null());
        let mut child = spawned.map_err(failed)?;
        let (sender, output) = channel();
        std::thread::spawn(move || {
            let mut buffer = vec![0; 64 * 1024];
            while let Ok(count @ 1..) = reader.read(&mut buffer) {
                if sender.send((Instant::now(), buffer[..count].to_vec())).is_err() {
                    break;
                }
            }
        });
        let stdin = child.stdin.take();
        Ok(Self { name, child, stdin, output, started, first_byte: None, text: Vec::new() })
    }

    pub(super) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Waits until `text` is in the output.
    pub(super) fn wait_for(&mut self, text: &str) -> Result<(), String> {
        let deadline = Instant::now() + DEADLINE;
        while !self.shown().contains(text) {
            if self.receive(deadline).is_err() {
                let name = &self.name;
                return Err(format!("{name} does not print `{text}`, but:\n{}", self.shown()));
            }
        }
        Ok(())
    }

    /// Lets the process end, if it waits for its input, and waits for it. Fails if it fails.
    pub(super) fn finish(mut self) -> Result<Ended, String> {
        drop(self.stdin.take());
        self.wait_for_exit()?;
        let wall_ms = milliseconds(self.started.elapsed());
        let status = self.child.wait().map_err(|error| format!("{}: {error}", self.name))?;
        let deadline = Instant::now() + STRAGGLER_DEADLINE;
        while self.receive(deadline).is_ok() {}
        if !status.success() {
            return Err(format!("{} failed ({status}):\n{}", self.name, self.shown()));
        }
        let first_byte_ms = self.first_byte.map(|at| milliseconds(at - self.started));
        Ok(Ended { wall_ms, first_byte_ms, output: self.shown() })
    }

    fn wait_for_exit(&self) -> Result<(), String> {
        let failed = |error| format!("cannot wait for {}: {error}", self.name);
        let process = pidfd_open(Pid::from_child(&self.child), PidfdFlags::empty())
            .map_err(|error| failed(error.to_string()))?;
        let timeout = Timespec { tv_sec: DEADLINE.as_secs().cast_signed(), tv_nsec: 0 };
        let ready = poll(&mut [PollFd::new(&process, PollFlags::IN)], Some(&timeout));
        match ready.map_err(|error| failed(error.to_string()))? {
            0 => Err(format!("{} has not ended after {} s", self.name, DEADLINE.as_secs())),
            _ => Ok(()),
        }
    }

    fn receive(&mut self, deadline: Instant) -> Result<(), RecvTimeoutError> {
        let left = deadline.saturating_duration_since(Instant::now());
        let (at, bytes) = self.output.recv_timeout(left)?;
        self.first_byte.get_or_insert(at);
        self.text.extend(bytes);
        Ok(())
    }

    fn shown(&self) -> String {
        String::from_utf8_lossy(&self.text).into_owned()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Both fail where it has ended and was waited for.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    #[test]
    fn output_and_errors_are_kept_and_the_first_byte_is_timed() {
        let ended = time(&mut shell("echo out; echo err >&2")).unwrap();
        assert_eq!(ended.output, "out\nerr\n");
        assert!(ended.first_byte_ms.is_some_and(|first_byte_ms| first_byte_ms > 0.0));
        assert!(time(&mut shell("true")).unwrap().first_byte_ms.is_none());
    }

    #[test]
    fn a_failure_comes_with_what_was_printed() {
        let failure = time(&mut shell("echo why; exit 3")).unwrap_err();
        assert!(failure.contains("why") && failure.contains('3'), "{failure}");
    }

    #[test]
    fn a_process_that_waits_for_input_ends_when_it_is_released() {
        let mut command = shell("echo ready; read x; echo end");
        let mut running = Running::start(&mut command, Input::OpenUntilReleased).unwrap();
        running.wait_for("ready\n").unwrap();
        assert_eq!(running.finish().unwrap().output, "ready\nend\n");
    }
}
