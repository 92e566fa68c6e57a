//! `pyro` as a process: started, watched, ended.

use std::fmt;
use std::fs::File;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use command_fds::{CommandFdExt, FdMapping};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process_group, pidfd_open, pidfd_send_signal};
use serde_json::Value;

use crate::DEADLINE;
use crate::collector::Collector;
use crate::lifeline::{LIFELINE_FD, Lifeline, Process, Role, wait_for_event};

/// A `pyro` that is yet to be started.
#[derive(Debug)]
pub struct Pyro {
    command: Command,
    /// Of all that use the same VMs, if those are to outlive it.
    family: Option<(Arc<Lifeline>, OwnedFd)>,
}

/// A `pyro` that was started, in a process group of its own, like a job at a terminal.
#[derive(Debug)]
pub struct Running {
    child: Child,
    pidfd: OwnedFd,
    /// Ends the input when it is taken and dropped.
    pub stdin: Option<ChildStdin>,
    stdout: Collector,
    stderr: Collector,
    lifeline: Arc<Lifeline>,
    leaves_vms: bool,
}

/// A `pyro` that has ended, and left no process behind.
pub struct Outcome {
    status: ExitStatus,
    pub stdout: Vec<u8>,
    pub stderr: String,
}

impl Pyro {
    /// Takes a command whose program is, or becomes, `pyro`.
    pub fn from_command(command: Command) -> Self {
        Self { command, family: None }
    }

    /// Makes it one of those that hold `writer`, and may leave VMs behind.
    pub(crate) fn of_family(mut self, lifeline: Arc<Lifeline>, writer: OwnedFd) -> Self {
        self.family = Some((lifeline, writer));
        self
    }

    #[must_use]
    pub fn variable(mut self, name: &str, value: &str) -> Self {
        self.command.env(name, value);
        self
    }

    /// The same, started by another program, which gets its command line as last arguments.
    #[must_use]
    pub fn within(self, wrapper: &[&str]) -> Self {
        let mut command = Command::new(wrapper[0]);
        command.args(&wrapper[1..]).arg(self.command.get_program()).args(self.command.get_args());
        for (name, value) in self.command.get_envs() {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
        Self { command, family: self.family }
    }

    /// Starts it. Its output is read as it comes.
    pub fn start(self) -> Running {
        let (mut running, stdout) = self.start_unread();
        running.stdout = Collector::of(stdout);
        running
    }

    /// Starts it, and leaves it to the caller to read its standard output.
    pub fn start_unread(self) -> (Running, ChildStdout) {
        let mut running = self.spawn(Stdio::piped());
        let stdout = running.child.stdout.take().unwrap();
        (running, stdout)
    }

    /// Runs it to its end, with an empty input and its standard output in a file.
    pub fn outcome_into(self, stdout: File) -> Outcome {
        self.spawn(stdout.into()).outcome()
    }

    /// Runs it to its end, with an empty input.
    pub fn outcome(self) -> Outcome {
        self.outcome_with_input(Vec::new())
    }

    pub fn outcome_with_input(self, input: Vec<u8>) -> Outcome {
        let mut running = self.start();
        let mut stdin = running.stdin.take().unwrap();
        // It fails where the command does not read its input, which is the command's affair.
        std::thread::spawn(move || stdin.write_all(&input).ok());
        running.outcome()
    }

    /// Where it keeps what belongs to VMs.
    fn state(&self) -> PathBuf {
        let variable = |wanted: &str| {
            let found = self.command.get_envs().find(|(name, _)| *name == wanted);
            found.and_then(|(_, value)| value).map(PathBuf::from)
        };
        let default = || variable("HOME").map(|home| home.join(".local/state/pyro-mcp"));
        variable("PYRO_STATE_DIR").or_else(default).expect("a test knows where its state is")
    }

    fn spawn(mut self, stdout: Stdio) -> Running {
        let leaves_vms = self.family.is_some();
        let (lifeline, parent_fd) = self.family.take().unwrap_or_else(|| {
            let (lifeline, writer) = Lifeline::new(self.state());
            (Arc::new(lifeline), writer)
        });
        self.command
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(stdout)
            .stderr(Stdio::piped())
            .fd_mappings(vec![FdMapping { parent_fd, child_fd: LIFELINE_FD }])
            .unwrap();
        let mut child = self.command.spawn().unwrap();
        let pidfd = pidfd_open(pid(&child), PidfdFlags::empty()).unwrap();
        let stdin = child.stdin.take();
        let stderr = Collector::of(child.stderr.take().unwrap());
        let stdout = Collector::of(std::io::empty());
        Running { child, pidfd, stdin, stdout, stderr, lifeline, leaves_vms }
    }
}

impl Running {
    /// Waits until `text` is in the standard output.
    pub fn wait_for_stdout(&self, text: &str) {
        self.stdout.wait_for(text, DEADLINE);
    }

    /// Waits until `text` is in the standard error.
    pub fn wait_for_stderr(&self, text: &str) {
        self.stderr.wait_for(text, DEADLINE);
    }

    /// What came on standard output until now.
    pub fn stdout_so_far(&self) -> Vec<u8> {
        self.stdout.so_far()
    }

    /// What came on standard error until now.
    pub fn stderr_so_far(&self) -> Vec<u8> {
        self.stderr.so_far()
    }

    /// Writes to the input.
    pub fn send(&mut self, text: &str) {
        self.stdin.as_mut().unwrap().write_all(text.as_bytes()).unwrap();
    }

    /// Sends a signal to its process group, as a terminal does for Ctrl-C.
    pub fn signal(&self, signal: Signal) {
        kill_process_group(pid(&self.child), signal).unwrap();
    }

    /// The one process it starts for `role`, as soon as it is there.
    #[allow(clippy::disallowed_methods, reason = "nothing tells that another's child is there")]
    pub fn wait_for_process(&self, role: Role) -> Process {
        let until = Instant::now() + DEADLINE;
        while self.processes(role).is_empty() {
            assert!(Instant::now() < until, "no {role:?}");
            std::thread::sleep(Duration::from_millis(10));
        }
        self.process(role)
    }

    /// The one process it started for `role`.
    pub fn process(&self, role: Role) -> Process {
        let mut processes = self.processes(role);
        assert_eq!(processes.len(), 1, "{role:?}: {processes:#?}");
        processes.remove(0)
    }

    fn processes(&self, role: Role) -> Vec<Process> {
        let mut processes = self.lifeline.family();
        // What a supervisor starts looks like itself until it becomes another program.
        let itself = pid(&self.child);
        processes.retain(|process| {
            process.has(role) && (role != Role::Supervisor || process.is_child_of(itself))
        });
        processes
    }

    /// The `pyro` that was started itself.
    pub fn itself(&self) -> Process {
        let mut processes = self.lifeline.family();
        processes.retain(|process| process.is(pid(&self.child)));
        processes.remove(0)
    }

    /// The supervisor it has started, if that lives.
    pub fn supervisor(&self) -> Option<Process> {
        let itself = pid(&self.child);
        self.lifeline.supervisor(|process| process.is_child_of(itself))
    }

    /// Sends SIGKILL to itself, if it has not ended. Its [`outcome`](Self::outcome) tells.
    pub fn kill_itself(&self) {
        pidfd_send_signal(&self.pidfd, Signal::KILL).ok();
    }

    /// Whether it ends within `deadline`.
    pub fn ends_within(&self, deadline: Duration) -> bool {
        wait_for_event(&self.pidfd, deadline)
    }

    /// Closes the input and waits for the end, at which nothing may be left.
    pub fn outcome(self) -> Outcome {
        self.outcome_with_leftovers_for(Duration::ZERO)
    }

    /// The same for a `pyro` of which something was killed: what depended on that has to notice.
    pub fn outcome_after_a_kill(self) -> Outcome {
        self.outcome_with_leftovers_for(DEADLINE)
    }

    /// Kills it, and waits until nothing that it started is left, either.
    pub fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        self.assert_nothing_left_after(DEADLINE);
    }

    fn outcome_with_leftovers_for(mut self, deadline: Duration) -> Outcome {
        drop(self.stdin.take());
        let said = || String::from_utf8_lossy(&self.stderr.so_far()).into_owned();
        assert!(self.ends_within(DEADLINE), "it does not end, and says: {}", said());
        let status = self.child.wait().unwrap();
        self.assert_nothing_left_after(deadline);
        let [stdout, stderr] = [&self.stdout, &self.stderr].map(|stream| stream.all(DEADLINE));
        Outcome { status, stdout, stderr: String::from_utf8_lossy(&stderr).into_owned() }
    }

    fn assert_nothing_left_after(&self, deadline: Duration) {
        if self.leaves_vms {
            return;
        }
        let is_over = self.lifeline.is_over_within(deadline);
        assert!(is_over, "still there: {:#?}", self.lifeline.family());
    }
}

/// With its output as text.
impl fmt::Debug for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let stdout = String::from_utf8_lossy(&self.stdout);
        write!(f, "{}\nstdout: {stdout}\nstderr: {}", self.status, self.stderr)
    }
}

impl Drop for Running {
    /// For a test that has failed.
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

impl Outcome {
    /// Whether it ended by SIGKILL.
    pub fn was_killed(&self) -> bool {
        self.ended_by(Signal::KILL)
    }

    /// Whether it ended by this signal, for which it did not listen yet.
    pub fn ended_by(&self, signal: Signal) -> bool {
        self.status.signal() == Some(signal.as_raw())
    }

    pub fn exit_code(&self) -> i32 {
        self.status.code().unwrap_or_else(|| panic!("signal {:?}: {self:?}", self.status.signal()))
    }

    /// The standard output as text.
    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.stdout).unwrap()
    }

    /// The standard output as text, of a `pyro` that succeeded.
    pub fn success(&self) -> &str {
        assert_eq!(self.exit_code(), 0, "{self:#?}");
        self.text()
    }

    /// The one JSON document on standard output.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.stdout).unwrap_or_else(|error| panic!("{error}: {self:#?}"))
    }

    /// The error in the JSON document of a `pyro` that failed by itself.
    pub fn json_error(&self) -> Value {
        assert_eq!(self.exit_code(), 125, "{self:#?}");
        let document = self.json();
        assert_eq!(document["ok"], false, "{document:#}");
        document["error"].clone()
    }
}

fn pid(child: &Child) -> Pid {
    Pid::from_child(child)
}
