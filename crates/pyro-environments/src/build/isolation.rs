//! How a build is kept apart from the host, with and without root.
//!
//! Namespaces come first: mounts in them never reach the host, and killing
//! their first process kills everything in them. Root needs no user namespace;
//! everyone else is root in their own, with the ids of `/etc/subuid`. The
//! user's own id is root's there, so the tree can lie in a private home.
//! mmdebstrap's `unshare` mode could not do that.
//!
//! Where the host allows no namespaces, `fakechroot` pretends.

use std::io::{self, Read as _, Seek as _};
use std::os::unix::process::CommandExt as _;
use std::process::{Command, Stdio};

use rustix::process::{Pid, Signal, geteuid, kill_process_group};

use super::clean_command;
use super::process::Ending;
use super::tools::Tools;
use crate::pull::error::PullError;
use crate::sys::signal_on_parent_death;

/// One way to run a build.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Isolation {
    /// The namespaces of root.
    Namespaces,
    /// The same in a user namespace.
    UserNamespace,
    /// No isolation: a library makes the tools believe they are root.
    Fakechroot,
}

/// `unshare` passes our death on: it dies by its parent-death signal, and
/// `--kill-child` has the same effect one process further down, on the
/// first process of the new pid namespace.
const NAMESPACES: [&str; 6] = ["--mount", "--pid", "--ipc", "--uts", "--fork", "--kill-child"];

/// Without a pid namespace, a shell is told of our death and kills the rest.
const FAKECHROOT_SCRIPT: &str = include_str!("../../recipes/fakechroot.sh");

impl Isolation {
    /// The best way that works here: found out by trying, because the kernel,
    /// its settings, containers and security modules all have a say.
    pub(crate) fn detect(tools: &Tools<'_>) -> Result<Self, PullError> {
        let wanted = if geteuid().is_root() { Self::Namespaces } else { Self::UserNamespace };
        let reason = match wanted.try_out(tools) {
            Ok(()) => return Ok(wanted),
            Err(reason) => reason,
        };
        let can_pretend = tools.find("fakechroot").is_some() && tools.find("fakeroot").is_some();
        if can_pretend {
            Ok(Self::Fakechroot)
        } else {
            Err(PullError::IsolationUnavailable { reason })
        }
    }

    /// Why it does not work, as `unshare` puts it.
    fn try_out(self, tools: &Tools<'_>) -> Result<(), String> {
        if self == Self::UserNamespace {
            for tool in ["newuidmap", "newgidmap"] {
                tools.require(tool).map_err(|error| error.to_string())?;
            }
        }
        let mut command = self.command(tools, "true").map_err(|error| error.to_string())?;
        succeeds(&mut command).map_err(|error| error.to_string())?
    }

    /// A command line that runs `tool` this way, with arguments to follow. It
    /// dies with the thread that spawns it.
    pub(crate) fn command(
        self,
        tools: &Tools<'_>,
        tool: &'static str,
    ) -> Result<Command, PullError> {
        let tool = tools.require(tool)?;
        let program = match self {
            Self::Namespaces | Self::UserNamespace => "unshare",
            Self::Fakechroot => "sh",
        };
        let mut command = clean_command(&tools.require(program)?, tools.search_path());
        match self {
            Self::Namespaces => command.args(NAMESPACES).arg("--"),
            Self::UserNamespace => {
                command.args(["--user", "--map-root-user", "--map-auto"]).args(NAMESPACES).arg("--")
            }
            Self::Fakechroot => command.args(["-c", FAKECHROOT_SCRIPT, "sh"]),
        };
        command.arg(tool);
        signal_on_parent_death(&mut command, self.ending().signal());
        Ok(command)
    }

    /// How a command that runs this way is ended before its time.
    pub(crate) fn ending(self) -> Ending {
        match self {
            Self::Namespaces | Self::UserNamespace => Ending::KillGroup,
            Self::Fakechroot => Ending::TellLeader,
        }
    }

    pub(crate) fn mmdebstrap_mode(self) -> &'static str {
        match self {
            Self::Namespaces | Self::UserNamespace => "--mode=root",
            Self::Fakechroot => "--mode=fakechroot",
        }
    }
}

/// Whether `command` succeeds, or the first line of what it complains of.
///
/// An `unshare --map-auto` that the kernel refuses leaves a helper behind, which sleeps for ever on
/// whatever it inherited: so nothing is read from a pipe, and its whole process group is killed.
fn succeeds(command: &mut Command) -> io::Result<Result<(), String>> {
    let mut complaint = tempfile::tempfile()?;
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(complaint.try_clone()?)
        .process_group(0)
        .spawn()?;
    let group = Pid::from_child(&child);
    let status = child.wait()?;
    // The number stays the group's for as long as anyone is in it; nobody may be.
    kill_process_group(group, Signal::KILL).unwrap_or_default();
    if status.success() {
        return Ok(Ok(()));
    }
    let mut text = String::new();
    complaint.rewind()?;
    complaint.read_to_string(&mut text)?;
    Ok(Err(text.lines().next().unwrap_or("`unshare` failed").to_owned()))
}

#[cfg(test)]
mod tests {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    use rustix::process::{PidfdFlags, pidfd_open};

    use super::*;

    #[test]
    fn a_helper_that_a_refused_command_leaves_is_neither_waited_for_nor_left() {
        let directory = tempfile::tempdir().unwrap();
        let pid_file = directory.path().join("pid");
        let script = "sleep 1000 & echo $! >\"$0\"; echo refused >&2; exit 1";
        let mut command = Command::new("sh");
        command.args(["-c", script]).arg(&pid_file);

        let outcome = succeeds(&mut command).unwrap();

        assert_eq!(outcome, Err("refused".to_owned()));
        let helper = fs_err::read_to_string(pid_file).unwrap();
        let helper = Pid::from_raw(helper.trim().parse().unwrap()).unwrap();
        // One that is gone and collected already has no descriptor any more.
        if let Ok(helper) = pidfd_open(helper, PidfdFlags::empty()) {
            let mut exit = [PollFd::new(&helper, PollFlags::IN)];
            let deadline = Timespec { tv_sec: 60, tv_nsec: 0 };
            assert_eq!(poll(&mut exit, Some(&deadline)), Ok(1), "the helper lives on");
        }
    }
}
