//! Starts a command: its environment, its process.

use std::collections::BTreeMap;
use std::ffi::{CStr, CString, NulError};
use std::io;

use pyro_protocol::run::Command;
use rustix::io::Errno;
use rustix::process::{Pid, WaitOptions, chdir, ioctl_tiocsctty, setsid, waitpid};
use rustix::stdio::{dup2_stderr, dup2_stdin, dup2_stdout};

use crate::cgroup::RunCgroup;
use crate::streams::{self, AgentEnds, CommandEnds, Control};
use crate::sys::{self, CStringList};

const SHELL: &CStr = c"/bin/sh";

/// Root's home, and where commands start unless they say otherwise.
const HOME: &str = "/root";

/// What a command finds in its environment; `/etc/profile` may change it, as `sh` is a login shell.
const DEFAULT_ENVIRONMENT: [(&str, &str); 5] = [
    ("HOME", HOME),
    ("USER", "root"),
    ("LOGNAME", "root"),
    ("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"),
    ("LANG", "C.UTF-8"),
];

/// What `SHELL` says if the environment has it; otherwise [`SHELL`].
const LOGIN_SHELL: &str = "/bin/bash";

/// A started command, and this side of its streams.
#[derive(Debug)]
pub(crate) struct Started {
    pub(crate) pid: Pid,
    pub(crate) streams: AgentEnds,
}

/// Why a command could not be started.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StartError {
    #[error("the {what} contains a NUL byte")]
    Nul { what: &'static str, source: NulError },
    #[error("`{name}` cannot be the name of an environment variable")]
    VariableName { name: String },
    #[error("cannot make the command's streams")]
    Streams { source: Errno },
    #[error("cannot make a process")]
    Process { source: io::Error },
    #[error("cannot enter the working directory `{directory}`")]
    WorkingDirectory { directory: String, source: io::Error },
    #[error("cannot connect the command to its streams")]
    Connect { source: io::Error },
    #[error("cannot execute `/bin/sh`")]
    Execute { source: io::Error },
}

/// Starts `command` in `cgroup`.
pub(crate) fn start(command: &Command, cgroup: Option<&RunCgroup>) -> Result<Started, StartError> {
    let directory = command.working_directory.as_deref().unwrap_or(HOME);
    let (streams, streams_here) =
        streams::make(command.stdin).map_err(|source| StartError::Streams { source })?;
    let mut child = Child {
        arguments: arguments(&command.shell)?,
        environment: environment(&command.environment)?,
        directory: nul_terminated("working directory", directory)?,
        streams,
        failure: None,
    };
    let cgroup = cgroup.map(RunCgroup::directory);
    let pid = sys::run_in_child(cgroup, &mut child, Child::become_command)
        .map_err(|source| StartError::Process { source })?;
    if let Some((step, source)) = child.failure {
        // Reaped here, so that its cgroup is empty and can be removed. It is exiting already.
        let _ = waitpid(Some(pid), WaitOptions::empty());
        return Err(match step {
            Step::EnterDirectory => {
                StartError::WorkingDirectory { directory: directory.to_owned(), source }
            }
            Step::Connect => StartError::Connect { source },
            Step::Execute => StartError::Execute { source },
        });
    }
    Ok(Started { pid, streams: streams_here })
}

/// What the new process needs, and what it leaves behind if it fails. It runs in the agent's
/// memory, so everything is made beforehand and nothing but `failure` is changed.
#[derive(Debug)]
struct Child {
    arguments: CStringList,
    environment: CStringList,
    directory: CString,
    streams: CommandEnds,
    failure: Option<(Step, io::Error)>,
}

#[derive(Debug, Clone, Copy)]
enum Step {
    Connect,
    EnterDirectory,
    Execute,
}

impl Child {
    /// Runs in the new process. All other descriptors close as they are: `CLOEXEC`.
    fn become_command(&mut self) {
        let result = self
            .connect()
            .map_err(|error| (Step::Connect, error.into()))
            .and_then(|()| {
                chdir(&*self.directory).map_err(|error| (Step::EnterDirectory, error.into()))
            })
            .and_then(|()| sys::unblock_signals().map_err(|error| (Step::Execute, error)));
        self.failure = Some(match result {
            Ok(()) => (Step::Execute, sys::execute(SHELL, &self.arguments, &self.environment)),
            Err(failure) => failure,
        });
    }

    fn connect(&self) -> rustix::io::Result<()> {
        let CommandEnds { stdin, stdout, stderr, control } = &self.streams;
        setsid()?;
        match control {
            Control::ByNothing => {}
            Control::ByTerminal => ioctl_tiocsctty(stdin)?,
        }
        dup2_stdin(stdin)?;
        dup2_stdout(stdout)?;
        dup2_stderr(stderr)
    }
}

fn arguments(command: &str) -> Result<CStringList, StartError> {
    Ok(CStringList::new(vec![
        SHELL.to_owned(),
        c"-lc".to_owned(),
        nul_terminated("command", command)?,
    ]))
}

fn environment(added: &[(String, String)]) -> Result<CStringList, StartError> {
    let shell = if fs_err::exists(LOGIN_SHELL).unwrap_or(false) { LOGIN_SHELL } else { "/bin/sh" };
    Ok(CStringList::new(merged_environment(shell, added)?))
}

/// The default environment with `added` on top: the last value of a name counts.
fn merged_environment(shell: &str, added: &[(String, String)]) -> Result<Vec<CString>, StartError> {
    let mut merged = BTreeMap::from(DEFAULT_ENVIRONMENT);
    merged.insert("SHELL", shell);
    for (name, value) in added {
        if name.is_empty() || name.contains('=') {
            return Err(StartError::VariableName { name: name.clone() });
        }
        merged.insert(name, value);
    }
    merged
        .into_iter()
        .map(|(name, value)| nul_terminated("environment", format!("{name}={value}")))
        .collect()
}

fn nul_terminated(what: &'static str, text: impl Into<Vec<u8>>) -> Result<CString, StartError> {
    CString::new(text).map_err(|source| StartError::Nul { what, source })
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use pyro_protocol::run::{Stdin, TerminalSize};
    use rustix::io::ioctl_fionbio;

    use super::*;

    fn command(shell: &str) -> Command {
        Command {
            shell: shell.to_owned(),
            environment: Vec::new(),
            working_directory: Some("/".to_owned()),
            stdin: Stdin::Empty,
        }
    }

    fn added(name: &str, value: &str) -> (String, String) {
        (name.to_owned(), value.to_owned())
    }

    #[test]
    fn the_command_runs_in_its_directory_and_session_with_its_own_streams() {
        let started =
            start(&command("pwd; ps -o sid= -p $$; echo $$; readlink /proc/$$/fd/0"), None)
                .unwrap();
        let AgentEnds::Pipes { stdout, .. } = started.streams else { panic!("no pipes") };
        ioctl_fionbio(&stdout, false).unwrap();
        let mut output = String::new();
        std::fs::File::from(stdout).read_to_string(&mut output).unwrap();
        let (_, status) = waitpid(Some(started.pid), WaitOptions::empty()).unwrap().unwrap();
        assert_eq!(status.exit_status(), Some(0));
        let pid = started.pid.as_raw_pid().to_string();
        let lines: Vec<&str> = output.lines().map(str::trim).collect();
        assert_eq!(lines, ["/", &pid, &pid, "/dev/null"]);
    }

    #[test]
    fn a_command_with_a_terminal_is_controlled_by_it() {
        let size = TerminalSize { columns: 91, rows: 17 };
        let script = "stty size; echo to stderr >&2; ps -o tpgid= -p $$; echo $$; tty";
        let command = Command { stdin: Stdin::Terminal(size), ..command(script) };
        let started = start(&command, None).unwrap();
        let AgentEnds::Terminal { output, .. } = started.streams else { panic!("no terminal") };
        ioctl_fionbio(&output, false).unwrap();
        let (_, status) = waitpid(Some(started.pid), WaitOptions::empty()).unwrap().unwrap();
        assert_eq!(status.exit_status(), Some(0));
        let mut text = Vec::new();
        // Reading from a terminal that nobody holds any more fails when everything was read.
        std::fs::File::from(output).read_to_end(&mut text).unwrap_err();
        let text = String::from_utf8(text).unwrap();
        let pid = started.pid.as_raw_pid().to_string();
        let lines: Vec<&str> = text.lines().map(str::trim).collect();
        assert_eq!(lines[..4], ["17 91", "to stderr", &pid, &pid], "{text}");
        assert!(lines[4].starts_with("/dev/pts/"), "{text}");
    }

    #[test]
    fn a_directory_that_does_not_exist_is_named() {
        let mut command = command("true");
        command.working_directory = Some("/does/not/exist".to_owned());
        let error = start(&command, None).unwrap_err();
        assert_eq!(
            crate::console::chain(&error),
            "cannot enter the working directory `/does/not/exist`: No such file or directory (os error 2)"
        );
    }

    #[test]
    fn a_command_that_is_too_long_is_refused_by_the_kernel_and_reported() {
        let error = start(&command(&"x".repeat(200_000)), None).unwrap_err();
        assert!(matches!(error, StartError::Execute { .. }));
    }

    #[test]
    fn the_longest_allowed_command_runs() {
        let script = ":".to_owned() + &" ".repeat(pyro_protocol::run::COMMAND_BYTES_MAX - 1);
        let started = start(&command(&script), None).unwrap();
        let (_, status) = waitpid(Some(started.pid), WaitOptions::empty()).unwrap().unwrap();
        assert_eq!(status.exit_status(), Some(0));
    }

    #[test]
    fn a_nul_byte_is_refused() {
        let error = start(&command("echo \0"), None).unwrap_err();
        assert!(matches!(error, StartError::Nul { what: "command", .. }));
    }

    #[test]
    fn added_variables_replace_the_default_ones() {
        let merged = merged_environment(
            "/bin/sh",
            &[added("HOME", "/a"), added("HOME", "/b"), added("X", "")],
        )
        .unwrap();
        let homes: Vec<_> =
            merged.iter().filter(|entry| entry.as_bytes().starts_with(b"HOME=")).collect();
        assert_eq!(homes, [c"HOME=/b"]);
        assert!(merged.contains(&c"X=".to_owned()));
        assert!(merged.contains(&c"USER=root".to_owned()));
    }

    #[test]
    fn a_variable_without_a_proper_name_is_refused() {
        for name in ["", "A=B"] {
            assert!(matches!(
                merged_environment("/bin/sh", &[added(name, "x")]),
                Err(StartError::VariableName { .. })
            ));
        }
    }
}
